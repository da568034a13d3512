"""`bench recommend`: which source to run next on a target that has few runs, or none."""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.spec import origin
from benchmark.stats import Array, Estimate, interval
from benchmark.store import Store
from reports import render
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place
from reports.recommend import evaluate, matrix
from reports.recommend.belief import Belief, Evidence, Prior, believe, next_run
from reports.recommend.matrix import Matrix
from reports.recommend.prior import TooFew, learn
from reports.render import Column, Table, told

FOOTER = (
    "Expected scores come from how a source did on other targets, moved by distances as far as "
    "they foretold the others, and by the runs on this one. Regret is what is lost against the "
    "best source if this one were the only one run; best is the probability that it is the best."
)
NAN = math.nan
UNKNOWN = Estimate(NAN, NAN, NAN, 0)


@dataclass(frozen=True)
class Advice:
    """What is believed of one source on the target."""

    source: str
    run: float | None  # its score, where it was run
    expected: Estimate  # the score; relative to the target's mean source before any run
    regret: float
    best: float  # probability of being the best of all
    elsewhere: float  # mean place on the other targets, 0 the worst to 1 the best
    images: float


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
    place: Place | None = None

    @property
    def next(self) -> str | None:
        """The source to run next."""
        return self.plan[0] if self.plan else None

    @property
    def run(self) -> dict[str, float]:
        """The scores of the sources that were run."""
        return {one.source: one.run for one in self.sources if one.run is not None}


def recommend(
    known: Matrix,
    target: str,
    *,
    higher: bool = True,
    about: str = "",
    budget: int = 1,
    without: Collection[str] = (),
) -> Recommendation:
    """Rank the sources for a target of the matrix from the other targets and its own runs.

    `higher` says whether the metric is better where it is more; the matrix holds it turned.
    `without` are sources not to be run. Where other targets are too few to learn from, the order
    is that of nearness and size, and nothing is expected of any.
    """
    column = known.targets.index(target)
    scores, sign = known.scores[:, column], 1 if higher else -1
    candidates = [s for s, source in enumerate(known.sources) if source != target]
    seen = {s: float(scores[s]) for s in candidates if np.isfinite(scores[s])}
    left = [s for s in candidates if s not in seen and known.sources[s] not in without]
    if not candidates:
        raise BenchError(f"There is no source for {target}.", "Name some with --source.")
    places = _places(np.delete(known.scores, column, axis=1))
    blank = {
        s: Advice(known.sources[s], sign * seen[s] if s in seen else None, UNKNOWN, NAN, NAN,
                  float(places[s]), float(known.images[s]))
        for s in candidates
    }  # fmt: skip
    try:
        (prior,) = learn(known, [column])
    except TooFew as error:
        hints, names = _hints(known, column, places)
        left.sort(key=lambda s: (-hints[s], known.sources[s]))
        run = sorted(seen, key=lambda s: -seen[s])
        told = [replace(blank[s], expected=Estimate(sign * seen[s], NAN, NAN, 1)) for s in run]
        told += [blank[s] for s in (*left, *sorted(set(blank) - {*run, *left}))]
        plan, evidence = left[:budget], Evidence()
        notes = [_guess(error, names)]
    else:
        told = _told(blank, believe(prior, seen), sign)
        plan, evidence = _plan(prior, seen, left, budget), prior.evidence
        notes = [_reason(prior)]
    chosen = tuple(known.sources[s] for s in plan)
    return Recommendation(target, about, not seen, chosen, tuple(told), tuple(notes), evidence)


def _told(blank: dict[int, Advice], found: Belief, sign: int) -> list[Advice]:
    """What is believed of each source, the best first; before any run over the mean source."""
    candidates = list(blank)
    samples, means = found.samples()[:, candidates], found.mean[candidates]
    regrets = (samples.max(axis=1, keepdims=True) - samples).mean(axis=0)
    best = np.bincount(samples.argmax(axis=1), minlength=len(candidates)) / len(samples)
    if not found.seen:
        samples, means = samples - samples.mean(axis=1, keepdims=True), means - means.mean()
    advice = [
        replace(
            one,
            expected=Estimate(float(mean), *interval(sign * draws), len(found.seen)),
            regret=float(regret),
            best=float(chance),
        )
        for one, mean, draws, regret, chance in zip(
            blank.values(), sign * means, samples.T, regrets, best, strict=True
        )
    ]
    return sorted(advice, key=lambda one: (-sign * one.expected.value, one.source))


def _guess(why: BenchError, names: list[str]) -> str:
    how = f"the mean of {', '.join(names)}, each counting alike" if names else "by name"
    return (
        f"{why.what} Nothing tells how well anything foretells a score here, so there is no "
        f"interval: the order of what was not run is {how}."
    )


def _plan(prior: Prior, seen: dict[int, float], left: list[int], budget: int) -> list[int]:
    """What would be run, each result being as expected."""
    seen, chosen = dict(seen), []
    for _ in range(min(budget, len(left))):
        source = next_run(prior, seen, [s for s in left if s not in chosen])
        chosen.append(source)
        seen[source] = float(believe(prior, seen).mean[source])
    return chosen


def _places(scores: Array) -> Array:
    """The mean place of each source (S,) over targets, from 0 for the worst to 1 for the best."""
    from scipy.stats import rankdata

    if not scores.shape[1]:
        return np.full(len(scores), NAN)
    many = np.isfinite(scores).sum(axis=0)
    known = np.isfinite(scores) & (many > 1)
    places = (rankdata(scores, axis=0, nan_policy="omit") - 1) / np.maximum(many - 1, 1)
    count = known.sum(axis=1)
    total = np.where(known, places, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(scores), NAN), where=count > 0)


def _hints(known: Matrix, column: int, places: Array) -> tuple[Array, list[str]]:
    """The mean of what there is on each source (S,), each over its spread; and what that was."""
    with np.errstate(divide="ignore"):
        given = {
            **dict(zip(known.methods, known.near[:, :, column], strict=True)),
            "the place elsewhere": places,
            "the logarithm of its images": np.log(known.images),
        }
    told, names = [], []
    for name, values in given.items():
        finite = np.isfinite(values)
        if finite.sum() > 1 and np.ptp(values[finite]) > 0:
            told.append((values - values[finite].mean()) / values[finite].std())
            names.append(name)
    if not told:
        return np.zeros(len(known.sources)), names
    count = np.isfinite(told).sum(axis=0)
    # What nothing is known of comes last.
    return np.where(count > 0, np.nansum(told, axis=0) / np.maximum(count, 1), -np.inf), names


def _reason(prior: Prior) -> str:
    """What the expectation rests on, in words."""
    targets, weights = prior.evidence.targets, prior.evidence.weights
    shown = ", ".join(f"{name} {weight:+.2f}" for name, weight in weights.items())
    moved = (
        f", moved by nearness (normal scores for a standard deviation): {shown}" if shown else ""
    )
    return f"Learnt from {targets} other targets: each source's level on them{moved}."


def advise(
    store: Store,
    target: str,
    *,
    budget: int = 1,
    without: Collection[str] = (),
    tested: bool = True,
    **where: Any,
) -> Recommendation:
    """The recommendation from what a store holds; `where` as `matrix.of_store` takes it.

    `tested` adds how it does on the targets of the store, each left out.
    """
    place, known, left = matrix.of_store(store, target, **where)
    more = [leaderboard.metric_title(place.metric)] if place.metric else []
    about = " · ".join([place.protocol, place.mode, place.arch, *more])
    higher = higher_is_better(place.metric)
    found = recommend(known, target, higher=higher, about=about, budget=budget, without=without)
    trust = evaluate.trust(known) if tested and found.evidence.targets else []
    return replace(found, notes=(*found.notes, *trust, *left), place=place)


def text(found: Recommendation, *, format: str = "table") -> str:
    """A recommendation as table, md, csv or json."""
    render.check(format)
    place = found.place._asdict() if found.place else None
    more = {"next": found.next, "evidence": vars(found.evidence), "place": place}
    sources = [vars(one) for one in found.sources]
    return render.write(
        format, [_table(found)], FOOTER, json=lambda _: {**vars(found), **more, "sources": sources}
    )


def _table(found: Recommendation) -> Table:
    say = f"Run next: {found.next}." if found.next else "Every source has been run."
    if found.run:
        top = max(found.run, key=lambda name: found.run[name] * _sign(found))
        say += f" The best of {len(found.run)} run is {_called(found, top)}, {found.run[top]:.3f}."
    expected = "score over the mean source" if found.relative else "expected score"
    places = {one.source: i for i, one in enumerate(found.sources, start=1)}
    columns = [
        Column("", lambda one: places[one.source]),
        told("source"),
        Column("source", lambda one: _called(found, one.source), field="origin", words=True),
        Column("run", "run", ".3f", "run"),
        told("relative", lambda one: found.relative),
        Column(expected, "expected", "+.3f" if found.relative else ".3f", "expected_*"),
        Column("regret", "regret", ".3f", "expected_regret"),
        Column("best", "best", ".0%", "probability_best"),
        Column("place elsewhere", "elsewhere", ".2f", "elsewhere"),
        Column("images", "images", ",.0f", "images"),
        told("next", lambda one: one.source == found.next),
    ]
    return Table(
        f"Sources for {found.target} · {found.about}",
        columns,
        found.sources,
        style=lambda one: "bold" if one.source == found.next else "",
        notes=[say, *found.notes],
        facts={"target": found.target},
    )


def _called(found: Recommendation, source: str) -> str:
    return origin(source, found.place.mode if found.place else "")


def _sign(found: Recommendation) -> int:
    return 1 if found.place is None or higher_is_better(found.place.metric) else -1
