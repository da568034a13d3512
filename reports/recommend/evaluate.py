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
from reports.recommend.matrix import MEDMNIST, Matrix, of_files
from reports.recommend.prior import TooFew, learn, usable
from reports.render import Column, Table

STUDY = "MedMNIST study (arXiv:2412.20172)"
EVALUATION = (
    "One target left out at a time, nothing of it used but the runs chosen. Regret k: best minus "
    "best tried after k runs, in units of best minus median, 2 at most. inside: of the scores not "
    "run after 3, in their 95 % intervals. Intervals resample targets. known: what of the other "
    "targets was to learn from; short lists are the best quarter of a target's sources, as people "
    "publish."
)
RUNS = 6  # that an order is judged by
DRAWS = 2000  # of targets; of orders, where some are equal
REGRETS = {f"regret{k}": f"regret {k}" for k in range(1, RUNS + 1)}  # less is better
METRICS = {"tau": "weighted τ", **REGRETS, "inside": "inside"}
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
    near = zip(matrix.methods, matrix.near[:, :, target], strict=True)
    return {
        STATIC: stats.places_elsewhere(matrix.scores)[:, target],
        "imagenet first": np.array([float(source == "imagenet") for source in matrix.sources]),
        "log size": np.log(matrix.images),
        "random": np.zeros(len(matrix.sources)),
        **{f"distance {name}": values for name, values in near},
    }


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
    tried = np.fmax.accumulate(truth[orders[:, :RUNS]], axis=1).mean(axis=0)
    regrets = np.clip((best - tried) / (span or math.nan), 0.0, 2.0)
    regrets = np.pad(regrets, (0, RUNS - len(regrets)), mode="edge")
    # A random order agrees as often as not: its weighted tau is 0 on average.
    tau = stats.weighted_tau_by_target(score, truth, ["" for _ in truth])[""]
    return [float(np.nan_to_num(tau)), *regrets.tolist(), math.nan]


def mean(values: Array) -> Estimate:
    """The mean of what is defined, with an interval that resamples targets; one tells of none."""
    known = values[np.isfinite(values)]
    count = len(known)
    picks = np.random.default_rng(0).integers(max(count, 1), size=(DRAWS, count))
    low, high = stats.interval(known[picks].mean(axis=1)) if count > 1 else (math.nan, math.nan)
    return Estimate(float(known.mean()) if count else math.nan, low, high, count)


def summary(numbers: Array) -> dict[str, Estimate]:
    """The mean of each metric."""
    return dict(zip(METRICS, map(mean, numbers.T), strict=True))


def verdict(found: Trials) -> list[str]:
    """The recommendation against the best other rule of each number, on the targets that all rules
    have, else the one that is judged on the easy ones wins; and how often its intervals were right.
    """
    words = []
    for name, *columns in zip(METRICS, *(part.T for part in found.values()), strict=True):
        turn = -1 if name in REGRETS else 1
        numbers = {r: turn * n for r, n in zip(found, columns, strict=True) if np.isfinite(n).any()}
        both = np.isfinite([*numbers.values()]).all(axis=0)
        if len(numbers) < 2 or both.sum() < 2:  # one target says nothing of the next
            continue
        mine = numbers.pop(OURS)
        best = max(numbers, key=lambda rule: numbers[rule][both].mean())
        gap = mean(np.round(turn * (mine - numbers[best])[both], 9) + 0.0)  # no −0
        ahead = "better" if min(turn * gap.low, turn * gap.high) > 0 else "worse"
        told = f"{ahead} than" if gap.low > 0 or gap.high < 0 else "not told from"
        words.append(f"{METRICS[name]} {render.interval(gap, sign=True)} ({told} {best})")
    inside = render.said(mean(found[OURS][:, -1]), ".0%")
    held = f"After 3 runs, its 95 % intervals held {inside} of the scores that were not run."
    against = f"The recommendation against the best other rule: {'; '.join(words)}."
    return [against] * bool(words) + [held] * (inside != "–")


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
    known = of_files(results or MEDMNIST, distances)
    name = results.name if results else STUDY
    found = trials(known)
    lines = verdict(found)
    if known.methods:
        bare = trials(replace(known, near=known.near[:0], methods=()))[OURS]
        found = {OURS: found.pop(OURS), BARE: bare, **found}
    settings = {"all": found}
    for setting, share in SETTINGS.items():
        little = trials(known, share, repeats=REPEATS)
        settings[setting] = {rule: little[rule] for rule in (OURS, STATIC) if little}
    rows = [
        {"known": setting, "rule": rule, **summary(numbers)}
        for setting, rules in settings.items()
        for rule, numbers in rules.items()
    ]
    columns = [
        Column("known", "known", field="known", words=True),
        Column("rule", "rule", field="rule", words=True),
        Column("targets", "tau.n", field="targets"),
        *(Column(title, metric, ".2f", f"{metric}_*") for metric, title in METRICS.items()),
    ]
    title = f"Leave one target out · {name} · {len(known.sources)} sources"
    table = Table(title, columns, rows, lambda row: "bold" * row["rule"].startswith(OURS), lines)
    return render.write(
        format, [table], EVALUATION,
        json=lambda rows: {"results": name, "rules": rows, "verdict": lines},
    )  # fmt: skip
