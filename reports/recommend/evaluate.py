"""`bench recommend --evaluate`: the recommendation held against plain rules, target by target."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmark import stats
from benchmark.errors import BenchError
from benchmark.stats import Array, Estimate
from reports import render
from reports.recommend.belief import RUNS, Prior, believe, order, regrets, tau
from reports.recommend.learning import learn, usable
from reports.recommend.matrix import Matrix, of_files, published
from reports.render import Column, Table

STUDY = "MedMNIST study (arXiv:2412.20172)"
EVALUATION = (
    "One target left out at a time, nothing of it used but the runs chosen. hit@k: the best source "
    "is among the first k. Regret k: best minus best tried after k runs, in units of best minus "
    "median. Intervals resample targets. How every constant was chosen: reports/learning.py."
)
DRAWS = 2000
METRICS = {
    "tau": "weighted τ", "hit1": "hit@1", "hit3": "hit@3",
    **{f"regret{k}": f"regret {k}" for k in range(1, RUNS + 1)},
}  # fmt: skip
OURS, STATIC = "recommend", "static"
# Targets are left out one by one while learning so often takes half a minute or so, else in
# blocks, of a fifth at most: multiplications of learning once, a fixed part of it, and of all.
FIXED, ALL, BLOCKS = 5e6, 1e9, 5


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
    targets = usable(matrix.scores)
    rules: dict[str, Callable[[int], Array]] = {
        STATIC: _static(matrix),
        "imagenet first": lambda t: np.array([float(s == "imagenet") for s in matrix.sources]),
        "log size": lambda t: np.log(matrix.images),
        "random": lambda t: np.zeros(len(matrix.sources)),
    }
    for name, near in zip(matrix.methods, matrix.near, strict=True):
        rules[f"distance {name}"] = lambda t, near=near: near[:, t]
    return [
        ours(matrix),
        *(
            Trial(name, np.array([_fixed(matrix.scores[:, t], rule(t)) for t in targets]))
            for name, rule in rules.items()
        ),
    ]


def _static(matrix: Matrix) -> Callable[[int], Array]:
    rows, columns = np.nonzero(np.isfinite(matrix.scores))
    names = np.array(matrix.targets)[columns], np.array(matrix.sources)[rows]
    ranks = np.full(matrix.scores.shape, np.nan)
    ranks[rows, columns] = stats.static_baseline(matrix.scores[rows, columns], *names)
    return lambda t: ranks[:, t]


def ours(matrix: Matrix) -> Trial:
    """The recommendation; nothing of a target that is left out is used but the runs chosen."""
    matrix = matrix.without_self()
    targets = usable(matrix.scores)
    if len(targets) < 3:
        raise BenchError(
            f"Targets with scores of three sources or more: {len(targets)}.",
            "At least three are needed to leave one out.",
        )
    once = FIXED + len(matrix.sources) ** 2 * len(matrix.targets)
    blocks = min(len(targets), max(BLOCKS, int(ALL / once)))
    found = {
        t: _learnt(matrix.scores[:, t], prior)
        for hidden in (targets[i::blocks] for i in range(blocks))
        for t, prior in zip(hidden, learn(matrix, hidden), strict=True)
    }
    numbers, covered = zip(*(found[t] for t in targets), strict=True)
    return Trial(OURS, np.array(numbers), np.array(covered), blocks)


def _learnt(truth: Array, prior: Prior) -> tuple[list[float], float]:
    numbers = _fixed(truth, prior.mean)
    ordered = order(prior, truth)
    if prior.adaptive:
        numbers[-RUNS:] = regrets(truth, ordered).tolist()
    below = believe(prior, {s: float(truth[s]) for s in ordered[:3]}).below(truth)
    left = np.isfinite(truth)
    left[ordered[:3]] = False
    inside = (below[left] > 0.025) & (below[left] < 0.975)
    return numbers, float(inside.mean()) if left.any() else math.nan


def _fixed(truth: Array, score: Array) -> list[float]:
    """A rule that ranks once and runs in that order; of equals each is as likely to come first."""
    known = np.isfinite(truth)
    truth, score = truth[known], np.where(np.isfinite(score), score, np.nan)[known]
    if np.isnan(score).all():
        return [math.nan] * len(METRICS)
    score = np.nan_to_num(score, nan=np.nanmin(score) - 1)
    best, unit = truth.max(), truth.max() - np.median(truth)
    tried, hits = _expected(truth, score)
    # A random order agrees as often as not: its weighted tau is 0 on average.
    agreement = tau(score, truth) if np.ptp(score) > 0 else 0.0
    regret = (best - tried) / unit if unit > 0 else np.full(RUNS, np.nan)
    return [agreement, hits[0], hits[2], *regret.tolist()]


def _expected(truth: Array, score: Array) -> tuple[Array, Array]:
    """After each run: the best tried, and whether it is the best of all; means over ties."""
    from scipy.special import comb

    values, begin = truth[np.argsort(-score, kind="stable")], 0
    sizes = np.unique(-score, return_counts=True)[1]
    tried, hits = [], []
    for size in sizes:
        group, before = np.sort(values[begin : begin + size]), values[:begin].max(initial=-np.inf)
        reached = np.maximum(group, before)
        for drawn in range(1, min(size, RUNS - begin) + 1):
            # Of the ways to draw so many of the group, how many have this one as the best.
            chance = comb(np.arange(size), drawn - 1) / comb(size, drawn)
            tried.append(chance @ reached)
            hits.append(chance @ (reached == truth.max()))
        begin += size
        if begin >= RUNS:
            break
    rest = RUNS - len(tried)
    return np.array(tried + tried[-1:] * rest), np.array(hits + hits[-1:] * rest)


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


def verdict(found: list[Trial]) -> list[str]:
    """Where the recommendation beats the static baseline and where it does not, said by itself."""
    by_name = {trial.rule: trial for trial in found}
    static = by_name[STATIC]
    gaps, plain = summary(by_name[OURS], less=static), summary(static)
    words: dict[str, list[str]] = {"worse": [], "better": [], "same": []}
    for name, title in METRICS.items():
        gap, base = gaps[name], plain[name].value
        if math.isnan(gap.value):
            continue
        regret = name.startswith("regret")
        gain = -gap.value if regret else gap.value
        place = "same" if abs(gain) < 1e-12 else "better" if gain > 0 else "worse"
        share = f" ({gap.value / base:+.0%})" if regret and base > 0 else ""
        clear = "" if gap.low > 0 or gap.high < 0 else ", not told from 0"
        words[place].append(
            f"{title} {gap.value:+.3f}{share} [{gap.low:+.3f}, {gap.high:+.3f}]{clear}"
        )
    lines = [
        f"The recommendation is {place} than the static baseline in: {'; '.join(words[place])}."
        for place in ("worse", "better")
        if words[place]
    ]
    if words["same"]:
        lines.append(f"It equals the static baseline in {len(words['same'])} numbers.")
    return lines


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
    lines = verdict(found)
    if known.methods:
        bare = ours(replace(known, near=known.near[:0], methods=()))
        lines += [f"Without distances: {x}" for x in verdict([bare, *found[1:]])]
        found.insert(1, replace(bare, rule=f"{OURS} without distances"))
    lines += _about(found[0])
    rows = [(trial.rule, summary(trial)) for trial in found]
    fields = [
        {"rule": rule, "metric": metric, **render.numbers(value), "targets": value.n}
        for rule, numbers in rows
        for metric, value in numbers.items()
    ]
    columns = [
        Column("rule", lambda row: row[0], words=True),
        Column("targets", lambda row: row[1]["tau"].n),
        *(Column(t, lambda row, k=k: row[1][k], ".2f") for k, t in METRICS.items()),
    ]
    table = Table(
        f"Leave one target out · {name} · {len(known.sources)} sources",
        columns,
        rows,
        style=lambda row: "bold" if row[0].startswith(OURS) else "",
        notes=lines,
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
