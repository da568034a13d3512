"""`bench recommend`: which source to run next on a target that has few runs, or none."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.spec import origin
from benchmark.stats import Array, Estimate, interval, places_elsewhere
from benchmark.store import Store
from reports import render
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place
from reports.recommend import evaluate, matrix
from reports.recommend.belief import Belief, Evidence, Prior, believe, next_run
from reports.recommend.matrix import Matrix
from reports.recommend.prior import TooFew, learn, unit
from reports.render import Column, Table, told

FOOTER = (
    "Expected scores come from how a source did on other targets, moved by distances as far as "
    "they foretold the others, and by the runs on this one, each with its noise. Regret is what is "
    "lost against the best source if this one were the only one run; best is the probability that "
    "it is the best."
)
NAN = math.nan
UNKNOWN = Estimate(NAN, NAN, NAN, 0)
Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class Advice:
    """What is believed of one source on the target."""

    source: str
    run: Estimate | None  # its score, where it was run, with the noise of training and patients
    expected: Estimate  # the score; relative to the target's mean source before any run
    regret: float
    best: float  # probability of being the best of all
    elsewhere: float  # mean place on the other targets, 0 the worst to 1 the best
    images: float
    seconds: float  # that a run would take, with its pretraining where no weights are ready


@dataclass(frozen=True)
class Recommendation:
    """The sources for one target, the best expected first."""

    target: str
    about: str
    relative: bool  # no run on the target: scores are differences to its mean source
    plan: tuple[str, ...]  # what to run, if every result is as expected
    sources: tuple[Advice, ...]
    notes: tuple[str, ...]
    evidence: Evidence
    gain: float = NAN  # of one more run over the best so far, as expected
    noise: float = NAN  # half the interval of the best so far
    place: Place | None = None

    @property
    def next(self) -> str | None:
        """The source to run next."""
        return self.plan[0] if self.plan else None

    @property
    def stop(self) -> bool:
        """Whether one more run can be expected to gain less than is known of the best so far."""
        return self.gain < self.noise

    @property
    def run(self) -> dict[str, float]:
        """The scores of the sources that were run."""
        return {one.source: one.run.value for one in self.sources if one.run is not None}


def recommend(
    known: Matrix,
    target: str,
    *,
    higher: bool = True,
    about: str = "",
    budget: int = 1,
    without: Collection[str] = (),
    seconds: Array | None = None,
    per_second: bool = False,
) -> Recommendation:
    """Rank the sources for a target of the matrix from the other targets and its own runs.

    `higher` says whether the metric is better where it is more; the matrix holds it turned.
    `without` are sources not to be run; `seconds` what each would take, which counts if it is
    `per_second`. Where other targets are too few to learn from, the order is that of nearness and
    size, and nothing is expected of any.
    """
    column = known.targets.index(target)
    scores, sign = known.scores[:, column], 1 if higher else -1
    half = Z * known.errors[:, column]
    candidates = [s for s, source in enumerate(known.sources) if source != target]
    seen = {s: float(scores[s]) for s in candidates if np.isfinite(scores[s])}
    left = [s for s in candidates if s not in seen and known.sources[s] not in without]
    if not candidates:
        raise BenchError(f"There is no source for {target}.", "Name some with --source.")
    placed = places_elsewhere(known.scores)[:, column]
    took = np.full(len(scores), NAN) if seconds is None else seconds
    counts = per_second and np.isfinite(took).all()
    blank = {
        s: Advice(
            known.sources[s],
            Estimate(sign * seen[s], sign * seen[s] - half[s], sign * seen[s] + half[s], 1)
            if s in seen else None,
            UNKNOWN, NAN, NAN, float(placed[s]), float(known.images[s]), float(took[s]),
        )
        for s in candidates
    }  # fmt: skip
    gain, noise = NAN, NAN
    try:
        (prior,) = learn(known, [column])
    except TooFew as error:
        hints, names = _hints(known, column, placed)
        plan = sorted(left, key=lambda s: (-hints[s], known.sources[s]))[:budget]
        order = sorted(blank, key=lambda s: (-seen.get(s, -math.inf), s not in left, -hints[s]))
        advice = [replace(blank[s], expected=blank[s].run or UNKNOWN) for s in order]
        evidence, note = Evidence(), _guess(error, names)
    else:
        found, evidence, note = believe(prior, seen), prior.evidence, _reason(prior)
        advice = _told(blank, found, sign)
        plan = _plan(prior, seen, left, budget, took if counts else None)
        if seen:
            gain = float(found.improvement()[left].max(initial=0.0))
            noise = float(half[max(seen, key=lambda s: found.mean[s])])
    chosen = tuple(known.sources[s] for s in plan)
    return Recommendation(
        target, about, not seen, chosen, tuple(advice), (note,), evidence, gain, noise
    )


def _told(blank: dict[int, Advice], found: Belief, sign: int) -> list[Advice]:
    """What is believed of each source, the best first; before any run over the mean source."""
    candidates = list(blank)
    samples, means = found.samples()[:, candidates], found.mean[candidates]
    regrets = (samples.max(axis=1, keepdims=True) - samples).mean(axis=0)
    best = np.bincount(samples.argmax(axis=1), minlength=len(candidates)) / len(samples)
    if not found.seen:
        samples, means = samples - samples.mean(axis=1, keepdims=True), means - means.mean()
    values = zip(sign * means, sign * samples.T, regrets, best, strict=True)
    advice = [
        replace(
            blank[s],
            expected=Estimate(float(mean), *interval(draws), len(found.seen)),
            regret=float(regret),
            best=float(chance),
        )
        for s, (mean, draws, regret, chance) in zip(candidates, values, strict=True)
    ]
    return sorted(advice, key=lambda one: (-sign * one.expected.value, one.source))


def _guess(why: BenchError, names: list[str]) -> str:
    how = f"the mean of {', '.join(names)}, each counting alike" if names else "by name"
    return (
        f"{why.what} Nothing tells how well anything foretells a score here, so there is no "
        f"interval: the order of what was not run is {how}."
    )


def _plan(
    prior: Prior, seen: dict[int, float], left: list[int], budget: int, seconds: Array | None
) -> list[int]:
    """What would be run, each result being as expected."""
    seen, before = dict(seen), len(seen)
    for _ in range(min(budget, len(left))):
        source = next_run(prior, seen, [s for s in left if s not in seen], seconds)
        seen[source] = float(believe(prior, seen).mean[source])
    return list(seen)[before:]


def _hints(known: Matrix, column: int, placed: Array) -> tuple[Array, list[str]]:
    """The mean of what there is on each source (S,), each over its spread; and what that was."""
    given = {
        **dict(zip(known.methods, known.near[:, :, column], strict=True)),
        "the place elsewhere": placed,
        "the logarithm of its images": np.log(known.images),
    }
    units = {name: unit(values[:, None])[:, 0] for name, values in given.items()}
    names = [name for name, values in units.items() if values.any()]
    if not names:
        return np.zeros(len(known.sources)), names
    count = np.isfinite([given[name] for name in names]).sum(axis=0)
    total = np.sum([units[name] for name in names], axis=0)
    # What nothing is known of comes last.
    return np.where(count > 0, total / np.maximum(count, 1), -np.inf), names


def _reason(prior: Prior) -> str:
    """What the expectation rests on, in words."""
    targets, weights = prior.evidence.targets, prior.evidence.weights
    shown = ", ".join(f"{name} {weight:+.2f}" for name, weight in weights.items())
    moved = f", moved by nearness (normal scores for a standard deviation): {shown}" * bool(shown)
    return f"Learnt from {targets} other targets: each source's level on them{moved}."


def advise(
    store: Store,
    target: str,
    *,
    budget: int = 1,
    without: Collection[str] = (),
    tested: bool = True,
    per_second: bool = False,
    **where: Any,
) -> Recommendation:
    """The recommendation from what a store holds; `where` as `matrix.of_store` takes it.

    `tested` adds how it does on the targets of the store, each left out.
    """
    place, known, left, seconds = matrix.of_store(store, target, **where)
    more = [leaderboard.metric_title(place.metric)] if place.metric else []
    found = recommend(
        known, target, higher=higher_is_better(place.metric), budget=budget, without=without,
        about=" · ".join([place.protocol, place.mode, place.arch, *more]),
        seconds=seconds, per_second=per_second,
    )  # fmt: skip
    trust = evaluate.trust(known) if tested and found.evidence.targets else []
    return replace(found, notes=(*found.notes, *trust, *left), place=place)


def text(found: Recommendation, *, format: str = "table") -> str:
    """A recommendation as table, md, csv or json."""
    render.check(format)
    said = {
        **vars(found), "next": found.next, "stop": found.stop, "evidence": vars(found.evidence),
        "place": found.place._asdict() if found.place else None,
        "sources": [vars(one) for one in found.sources],
    }  # fmt: skip
    return render.write(format, [_table(found)], FOOTER, json=lambda _: said)


def _table(found: Recommendation) -> Table:
    mode = found.place.mode if found.place else ""
    say = f"Run next: {found.next}." if found.next else "Every source has been run."
    if found.run:
        higher = found.place is None or higher_is_better(found.place.metric)
        top = (max if higher else min)(found.run, key=lambda name: found.run[name])
        say += f" The best of {len(found.run)} run is {origin(top, mode)}, {found.run[top]:.3f}."
    if found.stop:
        say = (
            f"Stop: one more run can be expected to gain {found.gain:.4f}, less than the noise of "
            f"the best so far, ± {found.noise:.4f}. {say}"
        )
    expected = "score over the mean source" if found.relative else "expected score"
    places = {one.source: i for i, one in enumerate(found.sources, start=1)}
    columns = [
        Column("", lambda one: places[one.source]),
        told("source"),
        Column("source", lambda one: origin(one.source, mode), field="origin", words=True),
        Column("run", "run", ".3f", "run_*"),
        told("relative", lambda one: found.relative),
        Column(expected, "expected", "+.3f" if found.relative else ".3f", "expected_*"),
        Column("regret", "regret", ".3f", "expected_regret"),
        Column("best", "best", ".0%", "probability_best"),
        Column("place elsewhere", "elsewhere", ".2f", "elsewhere"),
        Column("images", "images", ",.0f", "images"),
        Column("seconds", "seconds", ",.0f", "seconds"),
        told("next", lambda one: one.source == found.next),
    ]
    return Table(
        f"Sources for {found.target} · {found.about}",
        columns,
        found.sources,
        style=lambda one: "bold" if one.source == found.next else "",
        notes=[say, *found.notes],
        facts={"target": found.target, "stop": found.stop},
    )
