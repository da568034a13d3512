"""`bench recommend --evaluate`: the recommendation held against plain rules, target by target."""

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmark import stats
from benchmark.errors import BenchError
from benchmark.stats import Array, Estimate
from reports import render
from reports.recommend.belief import Belief
from reports.recommend.matrix import Matrix, of_files, published
from reports.recommend.prior import TooFew, learn, usable
from reports.render import Column, Table

STUDY = "MedMNIST study (arXiv:2412.20172)"
EVALUATION = (
    "One target left out at a time, nothing of it used but the runs chosen. hit@k: the best source "
    "is among the first k. Regret k: best minus best tried after k runs, in units of best minus "
    "median, 2 at most. inside: of the scores not run after 3, in their 95 % intervals. Intervals "
    "resample targets. known: what of the other targets was to learn from; short lists are the "
    "best quarter of a target's sources, as people publish."
)
RUNS = 6  # that an order is judged by
DRAWS = 2000  # of targets; of orders, where some are equal
METRICS = {
    "tau": "weighted τ", "hit1": "hit@1", "hit3": "hit@3",
    **{f"regret{k}": f"regret {k}" for k in range(1, RUNS + 1)}, "inside": "inside",
}  # fmt: skip
OURS, BARE, STATIC = "recommend", "recommend without distances", "static"
BLOCKS = 20  # of targets that are left out together, where there are more
#: How little may be known: a share of the pairs, a few targets, or short lists, as people publish,
#: of the best quarter on some targets.
SETTINGS = {
    "30 % of the pairs": 0.3, "15 % of the pairs": 0.15, "three targets": 3, "five targets": 5,
    "half short lists": -0.5, "80 % short lists": -0.8,
}  # fmt: skip
REPEATS = 3  # of each, drawn anew
Trials = dict[str, Array]  # of each rule its numbers (targets, metrics), NaN where not defined


def trials(matrix: Matrix, share: float = 1.0, *, repeats: int = 1) -> Trials:
    """Leave each target out, for the recommendation and every plain rule; `share` is a setting's.

    Nothing of a target that is left out is used but the runs chosen.
    """
    targets = usable(matrix.scores)
    if len(targets) < 3:
        raise BenchError(
            f"Targets with scores of three sources or more: {len(targets)}.",
            "At least three are needed to leave one out.",
        )
    rng, found = np.random.default_rng(0), defaultdict(list)
    for hidden in [targets[i::BLOCKS] for i in range(min(BLOCKS, len(targets)))]:
        for _ in range(repeats if share < len(targets) - len(hidden) else 0):
            little = replace(matrix, scores=thinned(matrix.scores, share, hidden, rng))
            try:
                beliefs = learn(little, hidden)
            except TooFew:
                continue
            for t, belief in zip(hidden, beliefs, strict=True):
                truth = matrix.scores[:, t]
                found[OURS].append(_learnt(truth, belief))
                for rule, score in _plain(little, t).items():
                    found[rule].append(_fixed(truth, score))
    return {rule: np.array(numbers) for rule, numbers in found.items()}


def thinned(scores: Array, share: float, hidden: list[int], rng: np.random.Generator) -> Array:
    """The scores as somebody has them who knows little of the rest: see SETTINGS."""
    scores = scores.copy()
    scores[:, hidden] = np.nan
    if share > 1:
        others = [t for t in usable(scores) if t not in hidden]
        scores[:, rng.permutation(others)[int(share) :]] = np.nan
    elif share > 0:
        scores[rng.random(scores.shape) >= share] = np.nan
    for t in np.flatnonzero(rng.random(scores.shape[1]) < -share):
        known = np.flatnonzero(np.isfinite(scores[:, t]))
        best = known[np.argsort(-scores[known, t], kind="stable")]
        scores[best[max(3, len(best) // 4) :], t] = np.nan
    return scores


def _plain(matrix: Matrix, target: int) -> dict[str, Array]:
    """What the plain rules go by (S,), more being better."""
    return {
        STATIC: stats.places_elsewhere(matrix.scores)[:, target],
        "imagenet first": np.array([float(source == "imagenet") for source in matrix.sources]),
        "log size": np.log(matrix.images),
        "random": np.zeros(len(matrix.sources)),
        **{f"distance {name}": near[:, target]
           for name, near in zip(matrix.methods, matrix.near, strict=True)},
    }  # fmt: skip


def _learnt(truth: Array, belief: Belief) -> list[float]:
    """The recommendation's numbers, each run chosen by those before."""
    then = list(belief.replay(np.flatnonzero(np.isfinite(truth)).tolist(), RUNS, truth))
    numbers = _numbers(truth, belief.mean, np.array([then[-1].seen]))
    if len(off := then[2].off(truth)):
        low, high = then[2].reach()
        numbers[-1] = float(((off > -low) & (off < high)).mean())
    return numbers


def _fixed(truth: Array, score: Array) -> list[float]:
    """A rule that ranks once and runs in that order; of equals each is as likely to come first."""
    if np.isnan(score[np.isfinite(truth)]).all():
        return [math.nan] * len(METRICS)
    last = np.where(np.isnan(score), np.nanmin(score) - 1, score)
    rank = np.where(np.isfinite(truth), last, -np.inf)
    ties = len(np.unique(rank)) < len(rank)
    lots = np.random.default_rng(0).random((DRAWS if ties else 1, len(score)))
    return _numbers(truth, last, np.lexsort((lots, np.broadcast_to(-rank, lots.shape))))


def _numbers(truth: Array, score: Array, orders: NDArray[np.intp]) -> list[float]:
    """What METRICS names, of a ranking and the orders in which sources would be run, on average."""
    best, span = np.nanmax(truth), np.nanmax(truth) - np.nanmedian(truth)
    tried = np.fmax.accumulate(truth[orders[:, :RUNS]], axis=1)
    tried = np.pad(tried, ((0, 0), (0, RUNS - tried.shape[1])), mode="edge")
    hits = (tried == best).mean(axis=0)
    regrets = np.clip((best - tried.mean(axis=0)) / (span or math.nan), 0.0, 2.0)
    # A random order agrees as often as not: its weighted tau is 0 on average.
    tau = stats.weighted_tau_by_target(score, truth, ["" for _ in truth])[""]
    return [float(np.nan_to_num(tau)), hits[0], hits[2], *regrets.tolist(), math.nan]


def mean(values: Array) -> Estimate:
    """The mean of what is defined, with an interval that resamples targets."""
    known = values[np.isfinite(values)]
    if len(known) < 2:  # nothing is known of the next
        value = float(known[0]) if len(known) else math.nan
        return Estimate(value, math.nan, math.nan, len(known))
    picks = np.random.default_rng(0).integers(len(known), size=(DRAWS, len(known)))
    return Estimate(float(known.mean()), *stats.interval(known[picks].mean(axis=1)), len(known))


def summary(numbers: Array) -> dict[str, Estimate]:
    """The mean of each metric."""
    return {name: mean(column) for name, column in zip(METRICS, numbers.T, strict=True)}


def verdict(found: Trials) -> list[str]:
    """Where the recommendation beats the best other rule and where it does not, said by itself;
    and how often its intervals were right."""
    mine = found[OURS].T
    words: dict[str, list[str]] = {"worse than": [], "better than": [], "as good as": []}
    for at, (name, title) in enumerate(METRICS.items()):
        turn = -1 if name.startswith("regret") else 1
        others = {rule: numbers[:, at] for rule, numbers in found.items() if rule != OURS}
        others = {rule: one for rule, one in others.items() if np.isfinite(one).any()}
        # On the targets that all rules have, else the one that is judged on the easy ones wins.
        both = np.isfinite([mine[at], *others.values()]).all(axis=0)
        if not others or both.sum() < 2:  # one target says nothing of the next
            continue
        best = max(others, key=lambda rule: turn * others[rule][both].mean())
        gap = mean(mine[at, both] - others[best][both])
        if abs(gap.value) < 1e-12:
            words["as good as"].append(title)
            continue
        clear = "" if gap.low > 0 or gap.high < 0 else ", not told from 0"
        words["better than" if turn * gap.value > 0 else "worse than"].append(
            f"{title} {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]{clear} against {best}"
        )
    lines = [
        f"The recommendation is {place} the best other rule in: {'; '.join(said)}."
        for place, said in words.items()
        if said
    ]
    inside = render.said(mean(mine[-1]), ".0%")
    held = f"After 3 runs, its 95 % intervals held {inside} of the scores that were not run."
    return [*lines, held] if inside != "–" else lines


def trust(known: Matrix) -> list[str]:
    """How the recommendation does on the targets that are known, as far as they can tell."""
    if (count := len(usable(known.scores))) < 3:
        return [
            f"{count} targets are too few to test the recommendation on; "
            f"`bench recommend --evaluate` tests it on the {STUDY}."
        ]
    lines = verdict(trials(known))
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
    lines = verdict(found)
    if known.methods:
        bare = trials(replace(known, near=known.near[:0], methods=()))[OURS]
        found = {OURS: found.pop(OURS), BARE: bare, **found}
    rows = [("all", rule, summary(numbers)) for rule, numbers in found.items()]
    for setting, share in SETTINGS.items():
        little = trials(known, share, repeats=REPEATS)
        rows += [(setting, rule, summary(little[rule])) for rule in (OURS, STATIC) if little]
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
    table = Table(
        f"Leave one target out · {name} · {len(known.sources)} sources", columns, rows,
        lambda row: "bold" if row[1].startswith(OURS) else "", lines,
    )  # fmt: skip
    said = {"results": name, "rules": fields, "verdict": lines}
    return render.write(format, [table], EVALUATION, fields=fields, json=lambda _: said)
