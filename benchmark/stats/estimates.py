"""A number with its interval; the difference of two; p-values of many."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError
from benchmark.stats.delong import normal_p

Array = NDArray[np.float64]
#: Standard errors to either end of a 95 % interval.
Z = 1.959964


class Estimate(NamedTuple):
    """A number, its 95 % interval and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int


class Comparison(NamedTuple):
    """The first arm's value minus the second's, with the two-sided p of their being equal."""

    difference: Estimate
    p: float


def interval(draws: ArrayLike) -> tuple[float, float]:
    """The 95 % percentile interval of the defined (not NaN) draws; NaN where there are none."""
    values = np.asarray(draws, dtype=float)
    values = values[~np.isnan(values)]
    if not values.size:
        return np.nan, np.nan
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


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


def unpaired(first: Estimate, second: Estimate) -> Comparison:
    """The difference of two estimates from different patients: squared half-widths add up."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    p = normal_p(value, (high - low) / (2 * Z))
    return Comparison(Estimate(value, low, high, min(first.n, second.n)), p)


def not_worse(draws_a: ArrayLike, draws_b: ArrayLike, margin: float) -> float:
    """The one-sided p of the first being lower by the margin or more, from paired draws."""
    apart = np.asarray(draws_a, dtype=float) - np.asarray(draws_b, dtype=float)
    apart = apart[~np.isnan(apart)]
    if not apart.size:
        return np.nan
    return float((np.count_nonzero(apart <= -margin) + 1) / (apart.size + 1))


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
