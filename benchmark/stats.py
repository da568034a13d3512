"""Intervals, paired comparisons, shared ranks and rank correlations; all randomness is seeded."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError

Array = NDArray[np.float64]
Pairs = Literal["all", "without_self", "within_target"]


class Estimate(NamedTuple):
    """A number, its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int


class Correlation(NamedTuple):
    """How well a distance foretells the gain; `p`, `low` and `high` belong to Spearman's rho."""

    spearman: float
    pearson: float
    kendall: float
    weighted_tau: float
    p: float
    low: float
    high: float
    n: int


class Comparison(NamedTuple):
    """The first arm's value minus the second's, with the two-sided p of their being equal."""

    difference: Estimate
    p: float


class DeLong(NamedTuple):
    """Two correlated AUROCs; `variance` is that of their difference."""

    auc_a: float
    auc_b: float
    variance: float
    z: float
    p: float


def interval(draws: ArrayLike) -> tuple[float, float]:
    """The 95 % percentile interval of the defined (not NaN) draws; NaN where there are none."""
    values = np.asarray(draws, dtype=float)
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan, np.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_over_folds(estimates: Sequence[Estimate], draws: Sequence[ArrayLike]) -> Estimate:
    """The mean over folds, its interval from the folds' draws averaged draw by draw.

    A fold without a value makes the mean NaN: a mean over whatever exists is not comparable.
    """
    lengths = [np.size(fold) for fold in draws]
    if not estimates or len(estimates) != len(draws) or len(set(lengths)) != 1:
        raise BenchError(
            f"There are {len(estimates)} folds, and their draws have the lengths {lengths}.",
            "Give every fold one vector of equally many draws, and at least one fold.",
        )
    value = float(np.mean([estimate.value for estimate in estimates]))
    averaged = np.mean([np.asarray(fold, dtype=float) for fold in draws], axis=0)
    return Estimate(value, *interval(averaged), sum(estimate.n for estimate in estimates))


# --- comparing arms -------------------------------------------------------------------------


def paired_bootstrap(
    draws_a: ArrayLike, draws_b: ArrayLike, value_a: float, value_b: float, *, n: int = 0
) -> Comparison:
    """The difference a - b from draws that resampled the same groups (made with one seed).

    p is twice the smaller share of draws on either side of zero, so it agrees with the interval.
    """
    a, b = np.asarray(draws_a, dtype=float), np.asarray(draws_b, dtype=float)
    if a.shape != b.shape:
        raise BenchError(
            f"The two arms have {a.size} and {b.size} bootstrap draws, so they are not paired.",
            "Evaluate both arms with the same number of draws, seed and groups.",
        )
    difference = a - b
    difference = difference[~np.isnan(difference)]
    estimate = Estimate(value_a - value_b, *interval(difference), n)
    if not difference.size:
        return Comparison(estimate, np.nan)
    smaller = min(np.count_nonzero(difference <= 0), np.count_nonzero(difference >= 0))
    return Comparison(estimate, min(1.0, 2 * (smaller + 1) / (difference.size + 1)))


def tied_ranks(
    values: ArrayLike,
    draws: Sequence[ArrayLike],
    higher_is_better: bool = True,
    *,
    alpha: float = 0.05,
) -> list[int | None]:
    """One rank per row, shared by rows that cannot be told apart; None for a row without a value.

    Sort the rows, best first. Rank 1 goes to the best row and to every row it does not beat
    (paired bootstrap of the stored draws, two-sided p < alpha). The first row that is beaten
    opens the next rank, which is its position in the sorted list, and shares it with every later
    unranked row that it does not beat; and so on. The tests are not corrected for their number.
    """
    numbers = np.asarray(values, dtype=float)
    defined = np.flatnonzero(~np.isnan(numbers))
    sign = -1.0 if higher_is_better else 1.0
    order = defined[np.argsort(sign * numbers[defined], kind="stable")]
    ranks: list[int | None] = [None] * len(numbers)
    for place, leader in enumerate(order, start=1):
        if ranks[leader] is not None:
            continue
        ranks[leader] = place
        for row in (row for row in order[place:] if ranks[row] is None):
            values_of_both = float(numbers[leader]), float(numbers[row])
            test = paired_bootstrap(draws[leader], draws[row], *values_of_both)
            if not test.p < alpha:
                ranks[row] = place
    return ranks


def wilcoxon(differences: ArrayLike) -> float:
    """The two-sided signed-rank p; zeros are dropped, 1 if all are zero, NaN if there are none."""
    values = np.asarray(differences, dtype=float)
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan
    values = values[values != 0]
    if not values.size:
        return 1.0
    from scipy import stats

    return float(np.asarray(stats.wilcoxon(values))[1])


def holm(p_values: ArrayLike) -> Array:
    """Holm's adjusted p-values in the order given; NaN stays NaN and is not counted."""
    p = np.asarray(p_values, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")[: np.count_nonzero(~np.isnan(p))]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def delong(labels: ArrayLike, scores_a: ArrayLike, scores_b: ArrayLike) -> DeLong:
    """DeLong's test of two AUROCs on the same cases; labels are 0 or 1 (or booleans).

    Without variance, equal AUROCs give p = 1 and different ones NaN: the test is not defined.
    """
    from scipy import stats

    y = np.asarray(labels)
    scores = np.stack([np.asarray(scores_a, dtype=float), np.asarray(scores_b, dtype=float)])
    if y.ndim != 1 or scores.shape != (2, len(y)) or not np.isin(y, (0, 1)).all():
        raise BenchError(
            f"DeLong's test got labels of shape {y.shape} and scores of shape {scores.shape[1:]}.",
            "Give one 0 or 1 and one score of each arm for every case.",
        )
    positive, negative = scores[:, y == 1], scores[:, y == 0]
    m, n = positive.shape[1], negative.shape[1]
    if m < 2 or n < 2:
        return DeLong(*[np.nan] * 5)
    everyone = stats.rankdata(np.concatenate([positive, negative], axis=1), axis=1)
    # Each case's placement among the other class: the share of it that it beats, ties half.
    of_positive = (everyone[:, :m] - stats.rankdata(positive, axis=1)) / n
    of_negative = 1 - (everyone[:, m:] - stats.rankdata(negative, axis=1)) / m
    auc_a, auc_b = of_positive.mean(axis=1)
    covariance = np.cov(of_positive) / m + np.cov(of_negative) / n
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance > 1e-15:
        z = float((auc_a - auc_b) / np.sqrt(variance))
        return DeLong(float(auc_a), float(auc_b), variance, z, float(2 * stats.norm.sf(abs(z))))
    same = bool(np.isclose(auc_a, auc_b, rtol=0, atol=1e-12))
    z, p = (0.0, 1.0) if same else (np.nan, np.nan)
    return DeLong(float(auc_a), float(auc_b), 0.0, z, p)


# --- distance and transfer ------------------------------------------------------------------


def correlate(
    distance: ArrayLike,
    gain: ArrayLike,
    target: ArrayLike,
    source: ArrayLike,
    *,
    pairs: Pairs = "all",
    draws: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Correlation:
    """Correlate distance and gain over (source, target) pairs; one entry per pair in each array.

    `pairs`: `all`; `without_self` drops source = target; `within_target` drops them too, takes
    the target's mean off both numbers and pools what is left. Pairs with a NaN are left out.
    p permutes the distances within each target, so that easy and hard targets do not count as
    evidence: it is two-sided about the permutations' own mean, and NaN if no target has two
    sources. The interval resamples sources and targets crossed. `weighted_tau` weighs agreement
    among large values (scipy's convention): hand in similarities or scores, or mind the sign.
    Fewer than three pairs, or a constant, give NaN.
    """
    x, y = np.asarray(distance, dtype=float), np.asarray(gain, dtype=float)
    targets, sources = np.asarray(target).astype(str), np.asarray(source).astype(str)
    if not (x.ndim == 1 and x.shape == y.shape == targets.shape == sources.shape):
        raise BenchError(
            f"Distance, gain, target and source have the shapes {x.shape}, {y.shape}, "
            f"{targets.shape} and {sources.shape}.",
            "Give one entry per (source, target) pair in each.",
        )
    keep = np.isfinite(x) & np.isfinite(y)
    if pairs != "all":
        keep &= targets != sources
    x, y = x[keep], y[keep]
    in_target, in_source = _one_hot(targets[keep]), _one_hot(sources[keep])
    blocks = in_target if pairs == "within_target" else None
    once = np.ones((1, len(x)))
    flat_x, flat_y = _centred(x, once, blocks)[0], _centred(y, once, blocks)[0]
    if len(x) < 3 or np.ptp(flat_x) == 0 or np.ptp(flat_y) == 0:
        return Correlation(*[np.nan] * 7, n=len(x))
    from scipy import stats

    rng = np.random.default_rng(seed)
    p = _permutation_p(flat_x, flat_y, in_target, permutations, rng)
    weights = _resampled(in_source, draws, rng) * _resampled(in_target, draws, rng)
    weights = weights[np.count_nonzero(weights, axis=1) >= 3]
    resampled = _spearman(_centred(x, weights, blocks), _centred(y, weights, blocks), weights)
    return Correlation(
        float(_spearman(flat_x[None], flat_y[None], once)[0]),
        float(_pearson(flat_x[None], flat_y[None], once)[0]),
        _statistic(stats.kendalltau(flat_x, flat_y)),
        _statistic(stats.weightedtau(flat_x, flat_y)),
        p,
        *interval(resampled),
        len(x),
    )


def power_warning(correlation: Correlation) -> str:
    """A plain sentence where the pairs cannot tell the correlation from 0, else an empty one."""
    rho, *_, p, low, high, n = correlation
    if np.isnan(rho):
        return f"The correlation is not defined: {n} pairs, or all values the same."
    if p < 0.05 and (low > 0 or high < 0):
        return ""
    needed = min(1.0, 1.96 / np.sqrt(n - 1))
    more = f"; even independent pairs would have to reach {needed:.2f}" if abs(rho) < needed else ""
    interval_and_p = f"[{low:+.2f}, {high:+.2f}] (p = {p:.2g} within targets)"
    return f"{n} pairs cannot tell a correlation of {rho:+.2f} {interval_and_p} from 0{more}."


def static_baseline(gain: ArrayLike, target: ArrayLike, source: ArrayLike) -> Array:
    """For each pair, the source's mean rank by gain on the other targets (higher is better).

    It knows nothing of the pair's own target: what a distance must beat. NaN for a source that
    has no other target.
    """
    from scipy import stats

    gains = np.asarray(gain, dtype=float)
    sources, row = np.unique(np.asarray(source).astype(str), return_inverse=True)
    targets, column = np.unique(np.asarray(target).astype(str), return_inverse=True)
    table = np.full((len(sources), len(targets)), np.nan)
    table[row, column] = gains
    if len(set(zip(row, column, strict=True))) < len(gains):
        raise BenchError(
            "A (source, target) pair occurs more than once.", "Average its gains before ranking."
        )
    ranks = stats.rankdata(table, axis=0, nan_policy="omit")
    known = ~np.isnan(ranks)
    others = known.sum(axis=1, keepdims=True) - known
    total = np.nansum(ranks, axis=1, keepdims=True) - np.nan_to_num(ranks)
    mean = np.divide(total, others, out=np.full(table.shape, np.nan), where=others > 0)
    return mean[row, column]


def weighted_tau_by_target(
    score: ArrayLike, gain: ArrayLike, target: ArrayLike
) -> dict[str, float]:
    """The weighted tau of a score (higher is better) with the gain, for each target by itself.

    NaN for a target with fewer than three pairs or a constant score.
    """
    from scipy import stats

    x, y = np.asarray(score, dtype=float), np.asarray(gain, dtype=float)
    targets = np.asarray(target).astype(str)
    known = np.isfinite(x) & np.isfinite(y)
    taus = {}
    for name in dict.fromkeys(targets.tolist()):
        rows = known & (targets == name)
        usable = rows.sum() >= 3 and np.ptp(x[rows]) > 0 and np.ptp(y[rows]) > 0
        taus[name] = _statistic(stats.weightedtau(x[rows], y[rows])) if usable else np.nan
    return taus


def _statistic(result: Any) -> float:
    return float(result.statistic)


def _one_hot(names: NDArray[np.str_]) -> Array:
    """(pairs, distinct names) of zeros and ones."""
    distinct, codes = np.unique(names, return_inverse=True)
    return np.eye(len(distinct))[codes]


def _resampled(members: Array, draws: int, rng: np.random.Generator) -> Array:
    """How often each pair's source (or target) was drawn: (draws, pairs)."""
    count = members.shape[1]
    return rng.multinomial(count, np.full(count, 1 / count), size=draws) @ members.T


def _centred(values: Array, weights: Array, blocks: Array | None) -> Array:
    """(draws, pairs): values less their block's weighted mean; as they are without blocks.

    Centred values are scaled and rounded, for ties must stay ties after the subtraction.
    """
    if blocks is None or not values.size:
        return np.broadcast_to(values, weights.shape)
    sums, counts = (weights * values) @ blocks, weights @ blocks
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0) @ blocks.T
    return np.round((values - means) / (np.abs(values).max() or 1.0), 12)


def _spearman(x: Array, y: Array, weights: Array) -> Array:
    return _pearson(_weighted_ranks(x, weights), _weighted_ranks(y, weights), weights)


def _weighted_ranks(values: Array, weights: Array) -> Array:
    """Mid-ranks, row by row, of values that occur as often as their integer weights say."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    heavy = np.take_along_axis(weights, order, axis=1)
    after = np.cumsum(heavy, axis=1)
    new = np.diff(ordered, axis=1) != 0
    edge = np.ones((len(values), 1), dtype=bool)
    first, last = np.concatenate([edge, new], axis=1), np.concatenate([new, edge], axis=1)
    # Where a tie begins and ends, carried over all its members: both run upwards.
    begin = np.maximum.accumulate(np.where(first, after - heavy, 0), axis=1)
    end = np.minimum.accumulate(np.where(last, after, np.inf)[:, ::-1], axis=1)[:, ::-1]
    ranks = np.empty_like(after)
    np.put_along_axis(ranks, order, (begin + end + 1) / 2, axis=1)
    return ranks


def _pearson(x: Array, y: Array, weights: Array) -> Array:
    """The weighted correlation of each row; NaN where one side is constant."""
    total = weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / total
    dy = y - (weights * y).sum(axis=1, keepdims=True) / total
    norm = np.sqrt((weights * dx**2).sum(axis=1) * (weights * dy**2).sum(axis=1))
    products = (weights * dx * dy).sum(axis=1)
    return np.divide(products, norm, out=np.full(len(x), np.nan), where=norm > 1e-12)


def _permutation_p(
    x: Array, y: Array, in_target: Array, permutations: int, rng: np.random.Generator
) -> float:
    """Two-sided p of Spearman's rho when x is shuffled within each target."""
    sizes = in_target.sum(axis=0)
    if sizes.max() < 2:
        return np.nan
    once = np.ones((1, len(x)))
    ranks_x = _weighted_ranks(x[None], once)[0]
    ranks_y = _weighted_ranks(y[None], once)[0] - (len(x) + 1) / 2
    products = np.zeros(permutations)
    for block in in_target.T.astype(bool):
        shuffled = rng.permuted(np.tile(ranks_x[block], (permutations, 1)), axis=1)
        products += shuffled @ ranks_y[block]
    # Shuffling within targets keeps what the targets' means share, so the null is not about 0.
    expected = ((ranks_x @ in_target) * (ranks_y @ in_target) / sizes).sum()
    extreme = np.abs(products - expected) >= abs(ranks_x @ ranks_y - expected) - 1e-9
    return float((np.count_nonzero(extreme) + 1) / (permutations + 1))


def defined(value: Any) -> Any:
    """Plain data without NaN; a named tuple becomes an object with its names."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    if isinstance(value, Estimate | Comparison):
        return dict(zip(value._fields, map(defined, value), strict=True))
    if isinstance(value, dict):
        return {name: defined(item) for name, item in value.items()}
    return [defined(item) for item in value]
