"""`bench recommend`: which source to run next on a target that has few runs, or none."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.spec import origin
from benchmark.stats import Array, Estimate, Z, interval, places_elsewhere
from benchmark.store import Store
from reports import render
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place
from reports.leaderboard.table import metric_title
from reports.recommend import evaluate, matrix
from reports.recommend.belief import Belief
from reports.recommend.matrix import Matrix
from reports.recommend.prior import TooFew, learn, unit
from reports.render import Column, Table, told

FOOTER = (
    "Expected scores come from how a source did on other targets, moved by distances as far as "
    "they foretold the others, and by the runs on this one, each with its noise; their intervals "
    "are as wide as the other targets asked for. Regret is what is lost against the best source if "
    "this one were the only one run; best is the probability that it is the best."
)
UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0)
Views = dict[int, tuple[Estimate, float, float]]  # of sources: expected, regret, best


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
    sources: tuple[Advice, ...]
    plan: tuple[str, ...]  # what to run, if every result is as expected
    notes: tuple[str, ...]
    targets: int = 0  # others, that it was learnt from
    weights: Mapping[str, float] = field(default_factory=dict)  # of each nearness
    gain: float = math.nan  # of one more run over the best so far, as expected
    noise: float = math.nan  # half the interval of the best so far
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
        """The scores of the sources that were run; without any, what is expected is relative."""
        return {one.source: one.run.value for one in self.sources if one.run is not None}


def recommend(
    known: Matrix,
    target: str,
    *,
    higher: bool = True,
    budget: int = 1,
    without: Collection[str] = (),
    per_second: bool = False,
) -> Recommendation:
    """Rank the sources for a target of the matrix from the other targets and its own runs.

    `higher` says whether the metric is better where it is more; the matrix holds it turned.
    `without` are sources not to be run. Where other targets are too few to learn from, the order
    is that of nearness and size, and nothing is expected of any.
    """
    column, sign = known.targets.index(target), 1 if higher else -1
    scores, half = known.scores[:, column], Z * known.errors[:, column]
    sources = [s for s, source in enumerate(known.sources) if source != target]
    if not sources:
        raise BenchError(f"There is no source for {target}.", "Name some with --source.")
    seen = {s: float(scores[s]) for s in sources if np.isfinite(scores[s])}
    runs = {s: Estimate(v := sign * seen[s], v - half[s], v + half[s], 1) for s in seen}
    left = [s for s in sources if s not in seen and known.sources[s] not in without]
    placed = places_elsewhere(known.scores)[:, column]
    more: dict[str, Any] = {}
    try:
        (found,) = learn(known, [column])
    except TooFew as error:
        hints = _hints(known, column)
        sources.sort(key=lambda s: (-seen.get(s, -math.inf), s not in left, -hints[s]))
        views: Views = {s: (runs.get(s, UNKNOWN), math.nan, math.nan) for s in sources}
        plan = [s for s in sources if s in left][:budget]
        note = (
            f"{error.what} Nothing tells how well anything foretells a score here, so there is no "
            "interval: what was not run is in the order of the mean of nearness, place elsewhere "
            "and images, as far as they are known, each counting alike."
        )
    else:
        for source, score in seen.items():
            found = found.after(source, score)
        timed = known.seconds[np.isfinite(known.seconds)]
        if per_second and len(timed):
            found = replace(found, seconds=np.nan_to_num(known.seconds, nan=np.median(timed)))
        views = _views(found, sources, sign)
        plan = [then.seen[-1] for then in found.replay(left, budget)]
        shown = ", ".join(f"{name} {weight:+.2f}" for name, weight in found.weights.items())
        moved = f", moved by nearness (normal scores for a standard deviation): {shown}"
        moved = f"each source's level on them{moved if shown else ''}"
        note = f"Learnt from {found.targets} other targets: {moved}."
        if per_second and not len(timed):
            note += " Nothing is known of the time of a run, so it does not count."
        more = {"targets": found.targets, "weights": found.weights}
        if seen:
            top = max(seen, key=lambda s: found.mean[s])
            gains = np.maximum(found.samples[:, left] - found.mean[top], 0).mean(axis=0)
            more |= {"gain": float(gains.max(initial=0.0)), "noise": float(half[top])}
    facts = np.stack([placed, known.images, known.seconds], axis=1).tolist()
    advice = [Advice(known.sources[s], runs.get(s), *views[s], *facts[s]) for s in views]
    names = tuple(known.sources[s] for s in plan)
    return Recommendation(target, tuple(advice), names, (note,), **more)


def _views(found: Belief, sources: list[int], sign: int) -> Views:
    """What is believed of each source, the best first; before any run over the mean source."""
    samples, means = found.samples[:, sources], found.mean[sources]
    regrets = (samples.max(axis=1, keepdims=True) - samples).mean(axis=0)
    best = np.bincount(samples.argmax(axis=1), minlength=len(sources)) / len(samples)
    if not found.seen:
        samples, means = samples - samples.mean(axis=1, keepdims=True), means - means.mean()
    expected = [
        Estimate(float(sign * mean), *interval(sign * drawn), len(found.seen))
        for mean, drawn in zip(means, samples.T, strict=True)
    ]
    return {
        sources[i]: (expected[i], float(regrets[i]), float(best[i]))
        for i in np.argsort(-means, kind="stable")
    }


def _hints(known: Matrix, column: int) -> Array:
    """The mean of nearness, place elsewhere and size (S,) as far as known, each over its spread."""
    elsewhere = places_elsewhere(known.scores)[:, column]
    given = np.array([*known.near[:, :, column], elsewhere, np.log(known.images)])
    units = np.array([unit(part) for part in given])
    silent = np.isnan(given) | ~units.any(axis=1, keepdims=True)  # also what is alike for all
    return np.ma.array(units, mask=silent).mean(axis=0).filled(-np.inf)


def advise(
    store: Store, target: str, where: Mapping[str, Any], *, tested: bool = True, **how: Any
) -> Recommendation:
    """The recommendation from what a store holds: `where` as `matrix.of_store` takes it, `how` as
    `recommend` does; `tested` adds how it does on the targets of the store, each left out."""
    place, known, left = matrix.of_store(store, target, **where)
    found = recommend(known, target, higher=higher_is_better(place.metric), **how)
    trust = evaluate.trust(known) if tested and found.targets else []
    return replace(found, notes=(*found.notes, *trust, *left), place=place)


def text(found: Recommendation, *, format: str = "table") -> str:
    """A recommendation as table, md, csv or json."""
    render.check(format)
    place = found.place and found.place._asdict()
    said = {**asdict(found), "relative": not found.run, "next": found.next, "stop": found.stop}
    return render.write(format, [_table(found)], FOOTER, json=lambda _: {**said, "place": place})


def _table(found: Recommendation) -> Table:
    title, mode, best = f"Sources for {found.target}", "", max
    if found.place:
        *words, metric = found.place
        title = " · ".join([title, *words, *([metric_title(metric)] if metric else [])])
        mode, best = found.place.mode, max if higher_is_better(metric) else min
    say = f"Run next: {found.next}." if found.next else "Every source has been run."
    if run := found.run:
        top = best(run, key=lambda name: run[name])
        say += f" The best of {len(run)} run is {origin(top, mode)}, {run[top]:.3f}."
    if found.stop:
        say = (
            f"Stop: one more run can be expected to gain {found.gain:.4f}, less than the noise of "
            f"the best so far, ± {found.noise:.4f}. {say}"
        )
    expected = ("expected score", ".3f") if run else ("score over the mean source", "+.3f")
    places = {one.source: i for i, one in enumerate(found.sources, start=1)}
    columns = [
        Column("", lambda one: places[one.source]),
        told("source"),
        Column("source", lambda one: origin(one.source, mode), field="origin", words=True),
        Column("run", "run", ".3f", "run_*"),
        told("relative", lambda one: not run),
        Column(expected[0], "expected", expected[1], "expected_*"),
        Column("regret", "regret", ".3f", "expected_regret"),
        Column("best", "best", ".0%", "probability_best"),
        Column("place elsewhere", "elsewhere", ".2f", "elsewhere"),
        Column("images", "images", ",.0f", "images"),
        Column("seconds", "seconds", ",.0f", "seconds"),
        told("next", lambda one: one.source == found.next),
    ]
    facts = {"target": found.target, "stop": found.stop}
    notes = [say, *found.notes]

    def style(one: Advice) -> str:
        return "bold" if one.source == found.next else ""

    return Table(title, columns, found.sources, style, notes, facts)
