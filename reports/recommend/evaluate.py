"""`bench recommend --evaluate`: the recommendation held against plain rules, target by target."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark import stats
from benchmark.errors import BenchError
from benchmark.stats import Array, Estimate
from reports import render
from reports.recommend.belief import Prior, believe, next_run
from reports.recommend.matrix import Matrix, of_files, published
from reports.recommend.prior import TooFew, learn, usable
from reports.render import Column, Table

STUDY = "MedMNIST study (arXiv:2412.20172)"
EVALUATION = (
    "One target left out at a time, nothing of it used but the runs chosen. hit@k: the best source "
    "is among the first k. Regret k: best minus best tried after k runs, in units of best minus "
    "median, 2 at most. Intervals resample targets. known: what of the other targets was to learn "
    "from; short lists are the best quarter of a target's sources, as people publish."
)
RUNS = 6  # that an order is judged by
DRAWS = 2000  # of targets; of orders, where some are equal
METRICS = {
    "tau": "weighted τ", "hit1": "hit@1", "hit3": "hit@3",
    **{f"regret{k}": f"regret {k}" for k in range(1, RUNS + 1)},
}  # fmt: skip
OURS, BARE, STATIC = "recommend", "recommend without distances", "static"
# Targets are left out one by one, or in blocks where that would take minutes: S² · T² at most.
ALL, BLOCKS = 1e8, 5
#: How little may be known: a share of the pairs, a few targets, or short lists, as people publish,
#: of the best quarter on some targets.
SETTINGS = {
    "30 % of the pairs": 0.3, "15 % of the pairs": 0.15, "three targets": 3, "five targets": 5,
    "half short lists": -0.5, "80 % short lists": -0.8,
}  # fmt: skip
REPEATS = 3  # of each, drawn anew; a large matrix once


@dataclass(frozen=True)
class Trial:
    """One rule over all targets: its numbers (targets, metrics), NaN where one is not defined."""

    rule: str
    numbers: Array
    covered: Array | None = None  # share of each target's scores in their intervals, after 3 runs
    blocks: int = 0  # in which targets were left out; 0 for rules that learn nothing


def trials(matrix: Matrix) -> list[Trial]:
    """Leave one target out, for the recommendation and every plain rule."""
    matrix = matrix.without_self()
    elsewhere = stats.places_elsewhere(matrix.scores)
    rules: dict[str, Callable[[int], Array]] = {
        STATIC: lambda t: elsewhere[:, t],
        "imagenet first": lambda t: np.array([float(s == "imagenet") for s in matrix.sources]),
        "log size": lambda t: np.log(matrix.images),
        "random": lambda t: np.zeros(len(matrix.sources)),
    }
    for name, near in zip(matrix.methods, matrix.near, strict=True):
        rules[f"distance {name}"] = lambda t, near=near: near[:, t]
    judged = _judged(matrix)
    plain = {k: [_fixed(matrix.scores[:, t], rule(t)) for t in judged] for k, rule in rules.items()}
    return [ours(matrix), *(Trial(name, np.array(numbers)) for name, numbers in plain.items())]


def _judged(matrix: Matrix) -> list[int]:
    targets = usable(matrix.scores)
    if len(targets) < 3:
        raise BenchError(
            f"Targets with scores of three sources or more: {len(targets)}.",
            "At least three are needed to leave one out.",
        )
    return targets


def _blocks(matrix: Matrix, most: float) -> list[list[int]]:
    targets = usable(matrix.scores)
    large = len(matrix.sources) ** 2 * len(targets) ** 2 > most
    blocks = min(len(targets), BLOCKS) if large else len(targets)
    return [targets[i::blocks] for i in range(blocks)]


def ours(matrix: Matrix) -> Trial:
    """The recommendation; nothing of a target that is left out is used but the runs chosen."""
    matrix = matrix.without_self()
    targets, blocks = _judged(matrix), _blocks(matrix, ALL)
    found = {
        t: _learnt(matrix.scores[:, t], prior)
        for hidden in blocks
        for t, prior in zip(hidden, learn(matrix, hidden), strict=True)
    }
    numbers, covered = zip(*(found[t] for t in targets), strict=True)
    return Trial(OURS, np.array(numbers), np.array(covered), len(blocks))


def _learnt(truth: Array, prior: Prior) -> tuple[list[float], float]:
    """Its numbers, each run chosen by those before; how many scores its intervals held after 3."""
    seen: dict[int, float] = {}
    left = np.flatnonzero(np.isfinite(truth)).tolist()
    share = math.nan
    numbers = _fixed(truth, prior.mean)
    for _ in range(min(RUNS, len(left))):
        chosen = next_run(prior, seen, left)
        left.remove(chosen)
        seen[chosen] = float(truth[chosen])
        if len(seen) == 3 and left:
            below = believe(prior, seen).below(truth)[left]
            share = float(((below > 0.025) & (below < 0.975)).mean())
    numbers[-RUNS:] = _regrets(truth, np.array([list(seen)]))[0].tolist()
    return numbers, share


def _fixed(truth: Array, score: Array) -> list[float]:
    """A rule that ranks once and runs in that order; of equals each is as likely to come first."""
    known = np.isfinite(truth)
    truth, score = truth[known], np.where(np.isfinite(score), score, np.nan)[known]
    if np.isnan(score).all():
        return [math.nan] * len(METRICS)
    score = np.nan_to_num(score, nan=np.nanmin(score) - 1)
    ties = len(np.unique(score)) < len(score)
    lots = np.random.default_rng(0).random((DRAWS if ties else 1, len(score)))
    regret, hits = _regrets(truth, np.lexsort((lots, np.broadcast_to(-score, lots.shape))))
    # A random order agrees as often as not: its weighted tau is 0 on average.
    same = ["" for _ in truth]
    agreement = stats.weighted_tau_by_target(score, truth, same)[""] if np.ptp(score) > 0 else 0.0
    return [agreement, hits[0], hits[2], *regret.tolist()]


def _regrets(truth: Array, orders: NDArray[np.intp]) -> tuple[Array, Array]:
    """After 1, 2, … RUNS runs, means over orders: the regret, and whether the best was tried."""
    best, span = np.nanmax(truth), np.nanmax(truth) - np.nanmedian(truth)
    tried = np.maximum.accumulate(truth[orders[:, :RUNS]], axis=1)
    tried = np.pad(tried, ((0, 0), (0, RUNS - tried.shape[1])), mode="edge")
    hits = (tried == best).mean(axis=0)
    if span <= 0:
        return np.full(RUNS, np.nan), hits
    return np.minimum((best - tried.mean(axis=0)) / span, 2.0), hits


def summary(trial: Trial, *, less: Trial | None = None) -> dict[str, Estimate]:
    """Means over targets with intervals that resample targets; `less` gives paired differences."""
    numbers = trial.numbers - less.numbers if less else trial.numbers
    return {name: mean(column) for name, column in zip(METRICS, numbers.T, strict=True)}


def mean(values: Array) -> Estimate:
    """The mean of what is defined, with an interval that resamples targets."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Estimate(math.nan, math.nan, math.nan, 0)
    picks = np.random.default_rng(0).integers(len(known), size=(DRAWS, len(known)))
    return Estimate(float(known.mean()), *stats.interval(known[picks].mean(axis=1)), len(known))


def verdict(found: Sequence[Trial]) -> list[str]:
    """Where the recommendation beats the best other rule and where it does not, said by itself."""
    mine, others = found[0], [trial for trial in found if trial.rule not in (OURS, BARE)]
    words: dict[str, list[str]] = {"worse": [], "better": [], "same": []}
    for at, (name, title) in enumerate(METRICS.items()):
        turn = -1 if name.startswith("regret") else 1
        known = [trial for trial in others if np.isfinite(trial.numbers[:, at]).any()]
        # On the targets that all rules have, else the one that is judged on the easy ones wins.
        both = np.isfinite([mine.numbers[:, at], *(t.numbers[:, at] for t in known)]).all(axis=0)
        if not known or not both.any():
            continue
        best = max(known, key=lambda t: turn * t.numbers[both, at].mean())
        gap = mean(mine.numbers[both, at] - best.numbers[both, at])
        gain = turn * gap.value
        place = "same" if abs(gain) < 1e-12 else "better" if gain > 0 else "worse"
        clear = "" if gap.low > 0 or gap.high < 0 else ", not told from 0"
        said = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]{clear}"
        words[place].append(f"{title} {said} against {best.rule}")
    lines = [
        f"The recommendation is {place} than the best other rule in: {'; '.join(words[place])}."
        for place in ("worse", "better")
        if words[place]
    ]
    same = f"It equals the best other rule in {len(words['same'])} numbers."
    return [*lines, same] if words["same"] else lines


def thinned(matrix: Matrix, share: float, rng: np.random.Generator) -> Array:
    """The scores as somebody has them who knows little: see SETTINGS."""
    scores = matrix.scores.copy()
    if 0 < share < 1:
        scores[rng.random(scores.shape) >= share] = np.nan
    for t in np.flatnonzero(rng.random(len(matrix.targets)) < -share):
        known = np.flatnonzero(np.isfinite(scores[:, t]))
        best = known[np.argsort(-scores[known, t], kind="stable")]
        scores[best[max(3, len(best) // 4) :], t] = np.nan
    return scores


def settings(matrix: Matrix) -> Iterator[tuple[str, dict[str, Estimate], dict[str, Estimate]]]:
    """With less to learn from: the setting, and the means of the recommendation and of static."""
    matrix = matrix.without_self()
    targets, blocks = usable(matrix.scores), _blocks(matrix, ALL / 1000)
    repeats = REPEATS if len(blocks) == len(targets) else 1
    for name, share in SETTINGS.items():
        few = int(share) if share > 1 else len(targets)
        rng, numbers = np.random.default_rng(0), []
        # A few targets are drawn for each, and are quickly learnt from.
        for hidden in [[t] for t in targets] if share > 1 else blocks:
            for _ in range(repeats if few < len(targets) or share < 1 else 0):
                little = thinned(matrix, share, rng)
                others = [t for t in targets if t not in hidden]
                kept = rng.choice(others, min(few, len(others)), replace=False)
                little[:, np.setdiff1d(range(little.shape[1]), kept)] = np.nan
                try:
                    found = learn(replace(matrix, scores=little), hidden)
                except TooFew:
                    continue
                elsewhere = stats.places_elsewhere(little)
                for t, prior in zip(hidden, found, strict=True):
                    truth = matrix.scores[:, t]
                    numbers.append((_learnt(truth, prior)[0], _fixed(truth, elsewhere[:, t])))
        if numbers:
            mine, plain = (Trial("", np.array(part)) for part in zip(*numbers, strict=True))
            yield name, summary(mine), summary(plain)


def trust(known: Matrix) -> list[str]:
    """How the recommendation does on the targets that are known, as far as they can tell."""
    count = len(usable(known.scores))
    if count < 3:
        return [
            f"{count} targets are too few to test the recommendation on; "
            f"`bench recommend --evaluate` tests it on the {STUDY}."
        ]
    found = trials(known)
    lines = [*verdict(found), *_about(found[0])]
    return [f"Tested on {count} targets by leaving each out: {line}" for line in lines]


def show(
    *, results: Path | None = None, distances: Path | None = None, format: str = "table"
) -> str:
    """How the recommendation and plain rules do, target by target left out."""
    render.check(format)
    if results is None and distances is not None:
        raise BenchError("--distances needs the scores that go with them.", "Add --results FILE.")
    known = published() if results is None else of_files(results, distances)
    name = STUDY if results is None else results.name
    found = trials(known)
    lines = [*verdict(found), *_about(found[0])]
    if known.methods:
        bare = replace(known, near=known.near[:0], methods=())
        found.insert(1, replace(ours(bare), rule=BARE))
    rows = [("all", trial.rule, summary(trial)) for trial in found]
    for setting, mine, plain in settings(known):
        rows += [(setting, OURS, mine), (setting, STATIC, plain)]
    fields = [
        {"known": setting, "rule": rule, "metric": metric, **render.numbers(value),
         "targets": value.n}
        for setting, rule, numbers in rows
        for metric, value in numbers.items()
    ]  # fmt: skip
    columns = [
        Column("known", lambda row: row[0], words=True),
        Column("rule", lambda row: row[1], words=True),
        Column("targets", lambda row: row[2]["tau"].n),
        *(Column(t, lambda row, k=k: row[2][k], ".2f") for k, t in METRICS.items()),
    ]
    title = f"Leave one target out · {name} · {len(known.sources)} sources"
    table = Table(
        title, columns, rows, lambda row: "bold" if row[1].startswith(OURS) else "", lines
    )
    said = {"results": name, "rules": fields, "verdict": lines}
    return render.write(format, [table], EVALUATION, fields=fields, json=lambda _: said)


def _about(ours: Trial) -> list[str]:
    """What else a reader should know of how the recommendation did."""
    lines = []
    if ours.blocks < len(ours.numbers):
        lines.append(
            f"The matrix is large: the recommendation learns with {ours.blocks} blocks of targets "
            "left out at a time, the other rules with one target."
        )
    if ours.covered is not None and np.isfinite(ours.covered).any():
        share = mean(ours.covered)
        lines.append(
            f"After 3 runs, its 95 % intervals held {share.value:.0%} [{share.low:.0%}, "
            f"{share.high:.0%}] of the scores that were not run."
        )
    return lines
