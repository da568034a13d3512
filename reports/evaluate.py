"""`bench recommend --evaluate`: the recommendation held against plain rules, target by target."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from benchmark import stats
from benchmark.stats import Estimate
from reports import belief
from reports.board import Array
from reports.matrix import Matrix

RUNS = 6
ORDERS = 500  # random ways to break ties, averaged
DRAWS = 2000
METRICS = {
    "tau": "weighted τ", "hit1": "hit@1", "hit3": "hit@3",
    **{f"regret{k}": f"regret {k}" for k in range(1, RUNS + 1)},
}  # fmt: skip
OURS, STATIC = "recommend", "static"


@dataclass(frozen=True)
class Trial:
    """One rule over all targets: its numbers (targets, metrics), NaN where one is not defined."""

    rule: str
    numbers: Array


def trials(matrix: Matrix, *, seed: int = 0) -> list[Trial]:
    """Leave one target out, for the recommendation and every plain rule."""
    matrix = matrix.without_self()
    rules: dict[str, Callable[[int], Array]] = {
        STATIC: _static(matrix),
        "imagenet first": lambda t: np.array([float(s == "imagenet") for s in matrix.sources]),
        "log size": lambda t: np.nan_to_num(np.log(matrix.images), nan=0.0),
        "random": lambda t: np.zeros(len(matrix.sources)),
    }
    for name, near in zip(matrix.methods, matrix.near, strict=True):
        rules[f"distance {name}"] = lambda t, near=near: near[:, t]
    usable = [t for t in range(len(matrix.targets)) if np.isfinite(matrix.scores[:, t]).sum() >= 3]
    found = [Trial(OURS, np.array([_ours(matrix, t) for t in usable]))]
    for name, rule in rules.items():
        numbers = [_plain(matrix.scores[:, t], rule(t), seed) for t in usable]
        found.append(Trial(name, np.array(numbers)))
    return found


def _static(matrix: Matrix) -> Callable[[int], Array]:
    rows, columns = np.nonzero(np.isfinite(matrix.scores))
    names = np.array(matrix.targets)[columns], np.array(matrix.sources)[rows]
    ranks = np.full(matrix.scores.shape, np.nan)
    ranks[rows, columns] = stats.static_baseline(matrix.scores[rows, columns], *names)
    return lambda t: ranks[:, t]


def _ours(matrix: Matrix, target: int) -> list[float]:
    truth = matrix.scores[:, target]
    known = np.flatnonzero(np.isfinite(truth)).tolist()
    hidden = matrix.scores.copy()
    hidden[:, target] = np.nan  # nothing of the target may be used but the runs chosen
    prior = belief.learn(replace(matrix, scores=hidden), target)
    seen: dict[int, float] = {}
    for _ in range(min(RUNS, len(known))):
        left = [s for s in known if s not in seen]
        chosen = belief.next_run(belief.believe(prior, seen), seen, left)
        seen[chosen] = float(truth[chosen])
    ranking = sorted(known, key=lambda s: -prior.mean[s])
    return [
        _tau(prior.mean[known], truth[known]),
        *_hits(truth, ranking),
        *_regrets(truth, list(seen)),
    ]


def _plain(truth: Array, score: Array, seed: int) -> list[float]:
    """A rule that ranks once and runs in that order; ties are broken at random and averaged."""
    rng = np.random.default_rng(seed)
    known = np.flatnonzero(np.isfinite(truth))
    score = np.where(np.isfinite(score), score, -np.inf)[known]
    if not np.isfinite(score).any():
        return [np.nan] * len(METRICS)
    score = np.where(np.isfinite(score), score, score[np.isfinite(score)].min() - 1)
    tied = len(np.unique(score)) < len(score)
    runs = []
    for _ in range(ORDERS if tied else 1):
        order = np.lexsort((rng.random(len(known)), -score))
        ranking = known[order].tolist()
        runs.append([*_hits(truth, ranking), *_regrets(truth, ranking)])
    # A random order agrees as often as not: its weighted tau is 0 on average.
    tau = _tau(score, truth[known]) if np.ptp(score) > 0 else 0.0
    return [tau, *np.mean(runs, axis=0).tolist()]


def _tau(score: Array, truth: Array) -> float:
    return next(iter(stats.weighted_tau_by_target(score, truth, ["one"] * len(truth)).values()))


def _hits(truth: Array, ranking: list[int]) -> list[float]:
    best = np.nanmax(truth)
    return [float(max(truth[s] for s in ranking[:k]) == best) for k in (1, 3)]


def _regrets(truth: Array, order: list[int]) -> list[float]:
    """After each run: best minus best tried, in units of best minus median."""
    best, unit = np.nanmax(truth), np.nanmax(truth) - np.nanmedian(truth)
    tried = np.maximum.accumulate([truth[s] for s in order[:RUNS]])
    full = np.append(tried, np.full(RUNS - len(tried), tried[-1]))
    return ((best - full) / unit).tolist() if unit > 0 else [np.nan] * RUNS


def summary(trial: Trial, *, less: Trial | None = None, seed: int = 0) -> dict[str, Estimate]:
    """Means over targets with intervals that resample targets; `less` gives paired differences."""
    numbers = trial.numbers - less.numbers if less else trial.numbers
    picks = np.random.default_rng(seed).integers(len(numbers), size=(DRAWS, len(numbers)))
    found = {}
    for name, column in zip(METRICS, numbers.T, strict=True):
        known = int(np.isfinite(column).sum())
        if not known:
            found[name] = Estimate(np.nan, np.nan, np.nan, 0)
            continue
        drawn = column[picks]
        have = np.isfinite(drawn).sum(axis=1)
        sums = np.nansum(drawn, axis=1)
        means = np.divide(sums, have, out=np.full(DRAWS, np.nan), where=have > 0)
        found[name] = Estimate(float(np.nanmean(column)), *stats.interval(means), known)
    return found


def verdict(found: list[Trial]) -> list[str]:
    """Where the recommendation beats the static baseline and where it does not, said by itself."""
    by_name = {trial.rule: trial for trial in found}
    gaps = summary(by_name[OURS], less=by_name[STATIC])
    words: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for name, title in METRICS.items():
        gap = gaps[name]
        sign = -1 if name.startswith("regret") else 1
        if np.isnan(gap.value):
            continue
        place = "same" if abs(gap.value) < 1e-12 else "better" if sign * gap.value > 0 else "worse"
        clear = "" if gap.low > 0 or gap.high < 0 else ", not told from 0"
        words[place].append(f"{title} {gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]{clear}")
    lines = [
        f"The recommendation is {place} than the static baseline in: {'; '.join(words[place])}."
        for place in ("worse", "better")
        if words[place]
    ]
    lines += (
        [f"It equals the static baseline in: {len(words['same'])} numbers."]
        if words["same"]
        else []
    )
    return lines
