"""Whether a distance foretells the gain: rank correlations over pairs of source and target."""

import itertools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError
from benchmark.stats.estimates import Array, Z, interval

Pairs = Literal["all", "without_self", "within_target"]
#: With fewer sources there is neither an interval nor a p.
SOURCES = 5
#: So many orders of the sources are tried one by one, of seven; of more sources some are drawn.
ORDERS = 5040


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


def correlate(
    distance: ArrayLike,
    gain: ArrayLike,
    target: ArrayLike,
    source: ArrayLike,
    *,
    pairs: Pairs = "all",
    draws: int = 2000,
    permutations: int = 9_999,
    seed: int = 0,
) -> Correlation:
    """Correlate distance and gain over (source, target) pairs; one entry per pair in each array.

    `pairs`: `all`; `without_self` drops source = target; `within_target` drops them too, takes
    the target's mean off both numbers and pools what is left. Pairs with a NaN are left out.
    A source has a level of its own on every target, so p moves whole sources: one permutation of
    their distances for all targets, each of them up to seven sources, else `permutations` drawn;
    missing pairs stay missing. It is two-sided about the permutations' own mean, for targets share
    a level too. The interval resamples sources and targets crossed. With fewer than five sources
    p and interval are NaN. `weighted_tau` weighs agreement
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
    enough = in_source.shape[1] >= SOURCES
    p, low, high = np.nan, np.nan, np.nan
    if enough and permutations:
        pairs_of = sources[keep], targets[keep]
        p = _joint_p((x, y), (flat_x, flat_y), pairs_of, blocks, permutations, rng)
    if enough and draws:
        weights = _resampled(in_source, draws, rng) * _resampled(in_target, draws, rng)
        weights = weights[np.count_nonzero(weights, axis=1) >= 3]
        drawn = _spearman(_centred(x, weights, blocks), _centred(y, weights, blocks), weights)
        low, high = interval(drawn)
    return Correlation(
        float(_spearman(flat_x[None], flat_y[None], once)[0]),
        float(_pearson(flat_x[None], flat_y[None], once)[0]),
        _statistic(stats.kendalltau(flat_x, flat_y)),
        _statistic(stats.weightedtau(flat_x, flat_y)),
        p,
        low,
        high,
        len(x),
    )


def power_warning(correlation: Correlation, adjusted: float | None = None) -> str:
    """A plain sentence where the pairs cannot tell the correlation from 0, else an empty one.

    `adjusted`: its p where it is one of several.
    """
    rho, *_, p, low, high, n = correlation
    judged = p if adjusted is None else adjusted
    if np.isnan(rho):
        return f"The correlation is not defined: {n} pairs, or all values the same."
    if np.isnan(p):
        return (
            f"Too few sources: {n} pairs of fewer than {SOURCES} give no interval and no verdict."
        )
    if judged < 0.05 and (low > 0 or high < 0):
        return ""
    needed = min(1.0, Z / np.sqrt(n - 1))
    more = f"; even independent pairs would have to reach {needed:.2f}" if abs(rho) < needed else ""
    among = f"; {judged:.2g} by Holm, being one of several" if judged != p else ""
    interval_and_p = f"[{low:+.2f}, {high:+.2f}] (p = {p:.2g}, sources permuted{among})"
    return f"{n} pairs cannot tell a correlation of {rho:+.2f} {interval_and_p} from 0{more}."


def places(scores: ArrayLike) -> Array:
    """Each source's place on each target (S, T): its rank as a fraction of the runs there,
    (rank − ½) / runs, so that a long list counts no more than a short one; NaN where not run."""
    from scipy import stats

    table = np.asarray(scores, dtype=float)
    ranks = stats.rankdata(table, axis=0, nan_policy="omit") if table.size else table
    return (ranks - 0.5) / np.maximum((~np.isnan(table)).sum(axis=0), 1)


def places_elsewhere(scores: ArrayLike) -> Array:
    """Each source's mean place on the targets but this one (S, T); NaN where it has no other."""
    here = places(scores)
    known = ~np.isnan(here)
    others = known.sum(axis=1, keepdims=True) - known
    total = np.nansum(here, axis=1, keepdims=True) - np.nan_to_num(here)
    mean = np.divide(total, others, out=np.full(here.shape, np.nan), where=others > 0)
    return mean.round(12)  # equal places stay equal whatever was summed


def static_baseline(gain: ArrayLike, target: ArrayLike, source: ArrayLike) -> Array:
    """For each pair, the source's mean place by gain on the other targets (higher is better).

    It knows nothing of the pair's own target: what a distance must beat. NaN for a source that has
    no other target.
    """
    gains = np.asarray(gain, dtype=float)
    sources, row = np.unique(np.asarray(source).astype(str), return_inverse=True)
    targets, column = np.unique(np.asarray(target).astype(str), return_inverse=True)
    table = np.full((len(sources), len(targets)), np.nan)
    table[row, column] = gains
    if len(set(zip(row, column, strict=True))) < len(gains):
        raise BenchError(
            "A (source, target) pair occurs more than once.", "Average its gains before ranking."
        )
    return places_elsewhere(table)[row, column]


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


def _joint_p(
    given: tuple[Array, Array],
    flat: tuple[Array, Array],
    pairs: tuple[NDArray[np.str_], NDArray[np.str_]],
    blocks: Array | None,
    drawn: int,
    rng: np.random.Generator,
) -> float:
    """Two-sided p of Spearman's rho when the sources change places, on all targets at once.

    `flat` are the numbers given, centred as the pairs ask; `pairs` name source and target.
    """
    (x, y), (sources, targets) = given, pairs
    _, row = np.unique(sources, return_inverse=True)
    count, seen = int(row.max()) + 1, dict[tuple, int]()
    columns = []
    for pair in zip(sources.tolist(), targets.tolist(), strict=True):
        seen[pair] = seen.get(pair, -1) + 1  # a pair that was measured twice has two columns
        columns.append(f"{pair[1]}\0{seen[pair]}")
    _, column = np.unique(columns, return_inverse=True)
    table = np.full((count, int(column.max()) + 1), np.nan)
    table[row, column] = x
    every = math.factorial(count) <= ORDERS
    orders = (
        np.array(list(itertools.permutations(range(count))))
        if every
        else np.argsort(rng.random((drawn, count)), axis=1)
    )
    moved = table[orders[:, row], column]
    here = np.isfinite(moved)
    once = np.ones((1, len(x)))
    if here.all():  # ranks move with their sources, so they need not be taken again
        ranks, other = (_weighted_ranks(part[None], once)[0] for part in flat)
        table[row, column] = ranks - ranks.mean()
        norm = np.sqrt(ranks.var() * other.var()) * len(x)
        rho = table[orders[:, row], column] @ (other - other.mean()) / norm
    else:
        enough = here.sum(axis=1) >= 3
        weights, moved = here[enough].astype(float), np.nan_to_num(moved[enough])
        rho = _spearman(_centred(moved, weights, blocks), _centred(y, weights, blocks), weights)
        rho = rho[~np.isnan(rho)]
    found = _spearman(flat[0][None], flat[1][None], once)[0]
    extreme = np.abs(rho - rho.mean()) >= abs(found - rho.mean()) - 1e-9
    hits, tried = int(np.count_nonzero(extreme)), len(rho)
    return hits / tried if every else (hits + 1) / (tried + 1)


def ceiling(gains: ArrayLike, errors: ArrayLike, target: ArrayLike | None = None) -> float:
    """How large |rho| can be at most with gains that are estimates: √ of their reliability.

    `errors` are the gains' standard errors; with `target` the gains are centred in each first.
    """
    values, error = np.asarray(gains, dtype=float), np.asarray(errors, dtype=float)
    known = np.isfinite(values) & np.isfinite(error)
    values, error = values[known], error[known]
    names = np.zeros(len(values)) if target is None else np.asarray(target)[known]
    blocks = _one_hot(names.astype(str))
    apart = values - (values @ blocks / blocks.sum(axis=0)) @ blocks.T
    free = len(apart) - blocks.shape[1]
    spread = (apart**2).sum() / free if free > 0 else 0.0
    if not spread > 0:
        return np.nan
    return float(np.sqrt(max(0.0, 1 - np.mean(error**2) / spread)))
