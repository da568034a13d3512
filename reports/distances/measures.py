"""The distances of a store that may be compared: what counts of each, and beside what floor."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from benchmark import registry
from benchmark.errors import BenchError, did_you_mean
from benchmark.spec import DistanceSpec, Outcome, PretrainSpec, Scalar, Size, Split
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import overlaps, own


class How(NamedTuple):
    """What must agree between distances that are compared with each other."""

    method: str
    arch: str
    probe: str
    size: Size
    limit: int | None
    options: tuple[tuple[str, Scalar], ...]
    split: Split | None
    version: str
    core: str


@dataclass(frozen=True)
class Measure:
    """One way to measure distance, by (source, target): the mean over its seeds."""

    label: str
    more_is_near: bool
    values: dict[tuple[str, str], Estimate] = field(repr=False)
    noise: float  # of the seeds, as a share of what pairs differ in; NaN with one seed
    about: str  # how it was measured
    raw: dict[tuple[str, str], Estimate] = field(default_factory=dict)  # where excesses count
    floors: dict[tuple[str, str], float] = field(default_factory=dict)
    under: frozenset[tuple[str, str]] = frozenset()  # pairs that are not told from their floor
    #: By observer left out (numbered): the distances that remain, where people were asked.
    without: dict[str, dict[tuple[str, str], float]] = field(default_factory=dict, repr=False)

    @property
    def direction(self) -> str:
        """Which way it points, in the one way in which that is said everywhere."""
        return "more is nearer" if self.more_is_near else "less is nearer"

    @property
    def title(self) -> str:
        """The label with the direction, for an axis or a heading."""
        return f"{self.label}{' excess' * bool(self.raw)} ({self.direction})"

    def mark(self, source: str, target: str) -> str:
        """What stands before a value that says nothing."""
        return "‡ " * ((source, target) in self.under)

    def facts(self, source: str, target: str) -> dict[str, Any]:
        """Beside a value: the distance before the floor was taken off, the floor, and the mark."""
        pair = source, target
        raw = self.raw.get(pair, self.values[pair]).value
        return {"raw": raw, "floor": self.floors.get(pair, math.nan),
                "under_floor": pair in self.under}  # fmt: skip

    @property
    def overlaps(self) -> list[str]:
        """Sets of its pairs that are known to share images."""
        return overlaps.among(name for pair in self.values for name in pair)


def measured(
    store: Store,
    outcomes: Sequence[Outcome],
    arch: str,
    weights: set[str],
    asked: Sequence[str],
    split: Split | None = None,
) -> tuple[list[Measure], list[str]]:
    """The distances that suit a network, and what was left out; `weights` are those of its runs.

    Distances of the same network are taken, of another only where a method has no other; so are
    scores on the training parts of the runs' `split`, where that is given.
    """
    fine = own.told_apart(store, [outcome for outcome in outcomes if outcome.status == "ok"])
    done = [(outcome.spec, outcome) for outcome in fine if isinstance(outcome.spec, DistanceSpec)]
    _known(asked, sorted({spec.method for spec, _ in done}))
    groups: dict[How, dict[tuple[str, str], dict[int, list[Outcome]]]] = {}
    for spec, outcome in done:
        if asked and not {spec.method, spec.method.partition(":")[0]} & set(asked):
            continue
        seeds = groups.setdefault(_how(store, spec, outcome), {})
        pair = seeds.setdefault((spec.source, spec.target), defaultdict(list))
        pair[spec.seed].append(outcome)
    measures, notes = [], []
    for method in sorted({how.method for how in groups}):
        hows = [how for how in groups if how.method == method]
        near = [how for how in hows if how.arch in (arch, "none")] or hows
        near = [how for how in near if split and how.split == split] or near
        newest = max(near, key=lambda how: (_number(how.version), _number(how.core)))
        fresh = [how for how in near if how[-2:] == newest[-2:]]
        if len(fresh) < len(near):
            notes.append(f"Left out: {method} of older versions; measure it again to compare.")
        usual = max(fresh, key=lambda how: (len(groups[how]), repr(how)))
        for how in sorted(fresh, key=lambda how: (how != usual, repr(how))):
            measures.append(_measure(how, usual, groups[how], weights, arch))
            if split and needs(method) == "weights" and how.split != split:
                notes.append(
                    f"{measures[-1].label} was not taken on the training parts of these runs, and "
                    "may have seen their test images: measure it with their --protocol."
                )
    return measures, notes


def _known(asked: Sequence[str], known: Sequence[str]) -> None:
    names = {*known, *(name.partition(":")[0] for name in known)}
    for name in asked:
        if name not in names:
            todo = did_you_mean(name, list(known)) if known else "It has none at all."
            raise BenchError(
                f"The store has no distance '{name}'.",
                f"{todo} Measure it with `bench distance --method {name}`.",
            )


def _how(store: Store, spec: DistanceSpec, outcome: Outcome) -> How:
    versions = outcome.versions
    return How(
        spec.method, spec.arch, _probe(store, spec), spec.size, spec.limit,
        tuple(sorted(spec.options.items())), spec.split,
        versions.get("method", ""), versions.get("core", ""),
    )  # fmt: skip


def _probe(store: Store, spec: DistanceSpec) -> str:
    """Whose weights looked at the images."""
    if spec.weights is None:
        return "none"
    if needs(spec.method) == "weights":
        return "the source's own"
    made = store.outcome("pretrain", spec.weights)
    if made is None or not isinstance(made.spec, PretrainSpec):
        return "unknown"
    return made.spec.source


def needs(method: str) -> str:
    """What a method looks with, by its card; empty for one that is no longer installed."""
    card = registry.card("distance", method)
    return card.needs if card else ""


def _number(version: str) -> int:
    return int(version) if version.isdigit() else -1


def _measure(
    how: How,
    usual: How,
    found: dict[tuple[str, str], dict[int, list[Outcome]]],
    weights: set[str],
    arch: str,
) -> Measure:
    card = registry.card("distance", how.method)
    values, raw, floors, variances = {}, {}, {}, []
    under = set[tuple[str, str]]()
    without: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for pair, by_seed in found.items():
        # A score may have been taken with several trainings of its source: those of the runs count.
        picked = [
            min(several, key=lambda o: (getattr(o.spec, "weights", None) not in weights, o.key))
            for several in by_seed.values()
        ]
        numbers = {
            name: np.array([outcome.metrics[name][:3] for outcome in picked], dtype=float)
            for name in ("distance", "excess", "floor")
            if all(name in outcome.metrics for outcome in picked)
        }
        counts = numbers["distance"]
        if card and card.by_excess and "excess" in numbers:
            raw[pair], counts = _mean(counts), numbers["excess"]
        values[pair] = _mean(counts)
        if "floor" in numbers:
            floors[pair] = float(numbers["floor"][:, 0].mean())
        if "excess" in numbers:
            excess = _mean(numbers["excess"])
            lowest = excess.value if math.isnan(excess.low) else excess.low
            under |= {pair} if lowest <= 0 else set()
        for name, number in picked[0].metrics.items():
            if name.startswith("without "):
                without[name][pair] = number.value
        if len(picked) > 1:
            variances.append(float(np.var(counts[:, 0], ddof=1)))
    spread = np.std([value.value for value in values.values()]) if len(values) > 1 else math.nan
    noise = float(np.sqrt(np.mean(variances)) / spread) if variances and spread > 0 else math.nan
    return Measure(
        label=_label(how, usual),
        more_is_near=card.more_is_near if card else False,
        values=values,
        noise=noise,
        about=_about(how, arch, Counter(len(seeds) for seeds in found.values()), noise, card),
        raw=raw,
        floors=floors,
        under=frozenset(under),
        without=dict(without),
    )


def _mean(estimates: np.ndarray) -> Estimate:
    """The mean over seeds (seeds, 3); the interval is the mean of theirs, else their range."""
    value, low, high = estimates.mean(axis=0).tolist()
    if math.isnan(low) and len(estimates) > 1:
        low, high = float(estimates[:, 0].min()), float(estimates[:, 0].max())
    return Estimate(value, low, high, len(estimates))


def _label(how: How, usual: How) -> str:
    """The method, with what sets it apart from the usual way of measuring it."""
    options = dict(usual.options)
    parts = [f"{name} {value}" for name, value in how.options if options.get(name) != value]
    parts += [how.arch] if how.arch != usual.arch else []
    parts += [f"probe {how.probe}"] if how.probe != usual.probe else []
    parts += [f"size {how.size}"] if how.size != usual.size else []
    parts += [f"limit {how.limit}"] if how.limit != usual.limit else []
    parts += [_cut(how.split)] if how.split != usual.split else []
    return f"{how.method} ({', '.join(parts)})" if parts else how.method


def _cut(split: Split | None) -> str:
    """`training parts of 5 grouped folds`."""
    if split is None:
        return "all images"
    return f"training parts of {split.folds} {split.kind} fold{'s' * (split.folds > 1)}"


def _about(how: How, arch: str, seeds: Counter[int], noise: float, card: object) -> str:
    """How it was measured, in one sentence."""
    with_ = "" if how.arch == "none" else f" with {how.arch}, weights {how.probe}"
    other = ", another network than the runs'" if how.arch not in (arch, "none") else ""
    low, high = min(seeds), max(seeds)
    count = f"{low}" if low == high else f"{low} to {high}"
    on = f", on the {_cut(how.split)}" if how.split else ""
    text = f"{how.method}{with_}{other}{on}: {count} seed{'s' if high > 1 else ''}"
    if not math.isnan(noise):
        text += f", whose noise is {noise:.0%} of the spread over pairs"
    if getattr(card, "by_excess", False):
        text += "; what counts is its excess over the floor"
    if card is None:
        text += "; its component is not installed, so it is taken for a distance"
    return text + "."
