"""Correlations of each distance, and of plain baselines, with what sources gained.

A negative ρ says that nearer sources gained more: a score, of which more is nearer, enters with
its sign turned.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmark import added, stats
from benchmark.stats import Array, Correlation, Pairs
from benchmark.store import Store
from reports.distances import Measure, measured
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import Baseline, Board
from reports.leaderboard.gains import OVER, Pair, Place, gather, told
from reports.recommend.matrix import images_of

SETS: dict[Pairs, str] = {
    "all": "all pairs",
    "without_self": "without self",
    "within_target": "within targets",
}


@dataclass(frozen=True)
class Line:
    """How one distance, or one plain baseline, goes with the gains."""

    name: str
    kind: Literal["distance", "baseline"]
    pairs: Pairs
    correlation: Correlation
    p_holm: float  # p as one of all distances over these pairs; NaN of a baseline
    by_target: float  # mean weighted tau of the targets, each by itself
    warning: str


@dataclass(frozen=True)
class Analysis:
    """The gains of one protocol, mode and network against every distance there is."""

    place: Place
    fusion: str
    baseline: Baseline
    pairs: tuple[Pair, ...]
    measures: tuple[Measure, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """`standard · finetune · resnet50 · image alone`."""
        protocol, mode, arch, _ = self.place
        fusion = "image alone" if self.fusion == "none" else self.fusion
        return " · ".join((protocol, mode, arch, fusion))

    @property
    def ceiling(self) -> float:
        """How large |ρ| within targets can be at most, for the gains are estimates themselves."""
        pairs = [pair for pair in self.pairs if pair.source != pair.target]
        errors = [(pair.gain.high - pair.gain.low) / (2 * stats.Z) for pair in pairs]
        targets = [pair.target for pair in pairs]
        return stats.ceiling([pair.gain.value for pair in pairs], errors, targets)

    @property
    def about(self) -> str:
        """What the gain is, for an axis or a caption."""
        metric = leaderboard.metric_title(self.place.metric)
        return f"gain T of {metric} over {OVER[self.baseline]}, per cent"


def analyse(
    store: Store,
    boards: Sequence[Board],
    *,
    distances: Sequence[str] = (),
    fusion: str = "none",
    baseline: Baseline = "scratch",
) -> list[Analysis]:
    """One analysis for each protocol, mode, network and metric in which a source has a gain."""
    outcomes = store.outcomes("distance")
    analyses = []
    for place, group in gather(boards, fusion, baseline).items():
        found = group.pairs
        if not found:
            continue
        measures, notes = measured(
            store, outcomes, place.arch, group.weights, distances, group.split
        )
        lines = tuple(_lines(found, measures, added.seen(store)))
        notes = [*_cautions(found, measures), *notes, *told(group.left)]
        analyses.append(
            Analysis(place, fusion, baseline, tuple(found), tuple(measures), lines, tuple(notes))
        )
    return sorted(analyses, key=lambda analysis: (-len(analysis.pairs), analysis.place))


def _lines(
    pairs: Sequence[Pair], measures: Sequence[Measure], images: Mapping[str, float]
) -> Iterator[Line]:
    near = dict[str, Array]()
    for measure in measures:
        values = [measure.values.get((pair.source, pair.target)) for pair in pairs]
        sign = -1 if measure.more_is_near else 1
        near[measure.label] = np.array([np.nan if v is None else sign * v.value for v in values])
    sources, targets = _names(pairs)
    gains = np.array([pair.gain.value for pair in pairs])
    every = near | plain(pairs, images)
    found: dict[tuple[str, Pairs], Correlation] = {
        (name, which): correlated(values, gains, targets, sources, pairs=which)
        for name, values in every.items()
        for which in SETS
    }
    holm = {
        which: dict(zip(near, stats.holm([found[name, which].p for name in near]), strict=True))
        for which in SETS
    }
    for (name, which), one in found.items():
        kind: Literal["distance", "baseline"] = "distance" if name in near else "baseline"
        adjusted = float(holm[which].get(name, math.nan))
        warning = stats.power_warning(one, adjusted if kind == "distance" else None)
        tau = _by_target(every[name], pairs, which)
        yield Line(name, kind, which, one, adjusted, tau, warning)


def plain(pairs: Sequence[Pair], images: Mapping[str, float] | None = None) -> dict[str, Array]:
    """What a distance has to beat, for each pair; less is better, as for a distance.

    `images` says how many weights saw that were added.
    """
    sources, targets = _names(pairs)
    gains = np.array([pair.gain.value for pair in pairs])
    known = images or {}
    sizes = {source: known.get(source) or images_of(source) for source in set(sources)}
    return {
        "log size": -np.log([sizes[source] for source in sources]),
        "static": -stats.static_baseline(gains, targets, sources),
        "imagenet first": np.array([float(source != "imagenet") for source in sources]),
    }


def _names(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [pair.source for pair in pairs], [pair.target for pair in pairs]


def _by_target(near: Array, pairs: Sequence[Pair], which: Pairs) -> float:
    """The mean over targets of their own weighted tau; less is nearer."""
    keep = [which == "all" or pair.source != pair.target for pair in pairs]
    gains = np.array([pair.gain.value for pair in pairs])
    targets = np.array(_names(pairs)[1])
    taus = stats.weighted_tau_by_target(-near[keep], gains[keep], targets[keep])
    known = [tau for tau in taus.values() if not math.isnan(tau)]
    return -float(np.mean(known)) if known else math.nan


def correlated(
    near: Array, gains: Array, targets: Sequence[str], sources: Sequence[str], *, pairs: Pairs
) -> Correlation:
    """The correlation of `near`, of which less is nearer, with the gains."""
    # Weighted tau weighs the large: hand in nearness, and turn the signs back.
    found = stats.correlate(-near, gains, targets, sources, pairs=pairs)
    return Correlation(
        -found.spearman, -found.pearson, -found.kendall, -found.weighted_tau,
        found.p, -found.high, -found.low, found.n,
    )  # fmt: skip


def _cautions(pairs: Sequence[Pair], measures: Sequence[Measure]) -> Iterator[str]:
    """What a reader has to know before believing a correlation of these pairs."""
    if len(pairs) < 3:
        yield (
            f"There {'is 1 pair' if len(pairs) == 1 else f'are {len(pairs)} pairs'} of source and "
            "target, and no correlation has fewer than 3: run more sources or targets."
        )
    if not measures:
        yield "The store has no distance for these pairs: measure some with `bench distance`."
    yield from (text for measure in measures if (text := _observers(pairs, measure)))
    for measure in measures:
        known = [measure.values.get((pair.source, pair.target)) for pair in pairs]
        count = sum(value is not None and math.isfinite(value.value) for value in known)
        if count < len(pairs):
            yield (
                f"{measure.label} is known for {count} of {len(pairs)} pairs: its line and the "
                "baselines' are not of the same pairs."
            )


def _observers(pairs: Sequence[Pair], measure: Measure) -> str:
    """The range of the correlation when each of the people asked is left out."""
    sources, targets = _names(pairs)
    gains = np.array([pair.gain.value for pair in pairs])
    found = []
    for left in measure.without.values():
        near = [left.get((pair.source, pair.target), math.nan) for pair in pairs]
        rho = stats.correlate(np.array(near), gains, targets, sources, pairs="within_target",
                              draws=0, permutations=0)  # fmt: skip
        found.append(rho.spearman)
    known = [rho for rho in found if not math.isnan(rho)]
    if not known:
        return ""
    return (
        f"{measure.label}: with each of {len(found)} observers left out, ρ within targets goes "
        f"from {min(known):+.2f} to {max(known):+.2f}."
    )
