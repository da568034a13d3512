"""`bench recommend`: which source to run next on a target that has few runs, or none."""

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.spec import origin
from benchmark.stats import Array, Estimate, Z, interval, places_elsewhere
from benchmark.store import Store
from reports import render
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place
from reports.recommend import evaluate, matrix
from reports.recommend.belief import Belief, Evidence
from reports.recommend.matrix import Matrix
from reports.recommend.prior import TooFew, learn, unit
from reports.render import Column, Table, told

FOOTER = (
    "Expected scores come from how a source did on other targets, moved by distances as far as "
    "they foretold the others, and by the runs on this one, each with its noise; their intervals "
    "are as wide as the other targets asked for. Regret is what is lost against the best source if "
    "this one were the only one run; best is the probability that it is the best."
)
NAN = math.nan
UNKNOWN = Estimate(NAN, NAN, NAN, 0)


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
    relative: bool  # no run on the target: scores are differences to its mean source
    plan: tuple[str, ...]  # what to run, if every result is as expected
    sources: tuple[Advice, ...]
    notes: tuple[str, ...]
    evidence: Evidence
    gain: float = NAN  # of one more run over the best so far, as expected
    noise: float = NAN  # half the interval of the best so far
    about: str = ""
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
    budget: int = 1,
    without: Collection[str] = (),
    per_second: bool = False,
) -> Recommendation:
    """Rank the sources for a target of the matrix from the other targets and its own runs.

    `higher` says whether the metric is better where it is more; the matrix holds it turned.
    `without` are sources not to be run. Where other targets are too few to learn from, the order
    is that of nearness and size, and nothing is expected of any.
    """
    column = known.targets.index(target)
    scores, half = known.scores[:, column], Z * known.errors[:, column]
    placed, sign = places_elsewhere(known.scores)[:, column], 1 if higher else -1
    blank = {
        s: Advice(
            source, Estimate(value := sign * scores[s], value - half[s], value + half[s], 1)
            if np.isfinite(scores[s]) else None,
            UNKNOWN, NAN, NAN, float(placed[s]), float(known.images[s]), float(known.seconds[s]),
        )
        for s, source in enumerate(known.sources)
        if source != target
    }  # fmt: skip
    if not blank:
        raise BenchError(f"There is no source for {target}.", "Name some with --source.")
    seen = {s: float(scores[s]) for s in blank if blank[s].run}
    left = [s for s in blank if s not in seen and known.sources[s] not in without]
    try:
        (found,) = learn(known, [column])
    except TooFew as error:
        hints, how = _hints(known, column, placed)
        order = sorted(blank, key=lambda s: (-seen.get(s, -math.inf), s not in left, -hints[s]))
        note = (
            f"{error.what} Nothing tells how well anything foretells a score here, so there is no "
            f"interval: the order of what was not run is {how}."
        )
        advice = [replace(blank[s], expected=blank[s].run or UNKNOWN) for s in order]
        plan = [known.sources[s] for s in order if s in left][:budget]
        return Recommendation(target, not seen, tuple(plan), tuple(advice), (note,), Evidence())
    for source, score in seen.items():
        found = found.after(source, score)
    seconds = known.seconds if per_second and np.isfinite(known.seconds).all() else None
    runs = [then.seen[-1] for then in found.replay(left, budget, seconds=seconds)]
    shown = ", ".join(f"{name} {weight:+.2f}" for name, weight in found.evidence.weights.items())
    moved = f", moved by nearness (normal scores for a standard deviation): {shown}" * bool(shown)
    note = (
        f"Learnt from {found.evidence.targets} other targets: each source's level on them{moved}."
    )
    samples, gain, noise = found.samples(), NAN, NAN
    if seen:
        top = max(seen, key=lambda s: found.mean[s])
        more = np.maximum(samples[:, left] - found.mean[top], 0).mean(axis=0)
        gain, noise = float(more.max(initial=0.0)), float(half[top])
    return Recommendation(
        target, not seen, tuple(known.sources[s] for s in runs),
        _told(blank, found, samples, sign), (note,), found.evidence, gain, noise,
    )  # fmt: skip


def _told(blank: dict[int, Advice], found: Belief, samples: Array, sign: int) -> tuple[Advice, ...]:
    """What is believed of each source, the best first; before any run over the mean source."""
    candidates, count = list(blank), len(found.seen)
    samples, means = samples[:, candidates], found.mean[candidates]
    regrets = (samples.max(axis=1, keepdims=True) - samples).mean(axis=0)
    best = np.bincount(samples.argmax(axis=1), minlength=len(candidates)) / len(samples)
    if not count:
        samples, means = samples - samples.mean(axis=1, keepdims=True), means - means.mean()
    values = zip(candidates, sign * means, sign * samples.T, regrets, best, strict=True)
    advice = [
        replace(
            blank[s], expected=Estimate(float(mean), *interval(draws), count),
            regret=float(regret), best=float(chance),
        )
        for s, mean, draws, regret, chance in values
    ]  # fmt: skip
    return tuple(sorted(advice, key=lambda one: (-sign * one.expected.value, one.source)))


def _hints(known: Matrix, column: int, placed: Array) -> tuple[Array, str]:
    """The mean of what there is on each source (S,), each over its spread; and what that was."""
    given = {
        **dict(zip(known.methods, known.near[:, :, column], strict=True)),
        "the place elsewhere": placed,
        "the logarithm of its images": np.log(known.images),
    }
    given = {name: values for name, values in given.items() if unit(values).any()}
    if not given:
        return np.zeros(len(known.sources)), "by name"
    units = [np.ma.array(unit(part), mask=np.isnan(part)) for part in given.values()]
    hints = np.ma.stack(units).mean(axis=0).filled(-np.inf)  # last, what nothing is known of
    return hints, f"the mean of {', '.join(given)}, each counting alike"


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
    place, known, left = matrix.of_store(store, target, **where)
    found = recommend(
        known, target, higher=higher_is_better(place.metric), budget=budget, without=without,
        per_second=per_second,
    )  # fmt: skip
    trust = evaluate.trust(known) if tested and found.evidence.targets else []
    title = [leaderboard.metric_title(place.metric)] if place.metric else []
    about = " · ".join([place.protocol, place.mode, place.arch, *title])
    return replace(found, notes=(*found.notes, *trust, *left), about=about, place=place)


def text(found: Recommendation, *, format: str = "table") -> str:
    """A recommendation as table, md, csv or json."""
    render.check(format)
    place = found.place and found.place._asdict()
    said = {**asdict(found), "next": found.next, "stop": found.stop, "place": place}
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
