"""Which row of a board comes before which, as far as its draws can tell."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.stats.estimates import Array


def simultaneous_ranks(
    values: ArrayLike, draws: Sequence[ArrayLike], higher: bool = True, *, alpha: float = 0.05
) -> tuple[list[int | None], list[int | None]]:
    """The lowest and the highest rank that each row may have; None for a row without a value.

    A row beats another if their difference, in standard errors, is larger than the largest of
    all pairs of rows is by chance alone (its bootstrap maximum, 95 %): with one critical value for
    the whole board, someone among equal rows loses rank 1 in one board of twenty. `draws` are
    paired, a vector for each row.
    """
    numbers = np.asarray(values, dtype=float)
    lowest: list[int | None] = [None] * len(numbers)
    highest = lowest.copy()
    rows = np.flatnonzero(~np.isnan(numbers))
    if not len(rows):
        return lowest, highest
    sign = 1.0 if higher else -1.0
    beats = _beats(
        sign * numbers[rows], sign * np.array([draws[row] for row in rows.tolist()]), alpha
    )
    for row, lost, won in zip(rows.tolist(), beats.sum(axis=0), beats.sum(axis=1), strict=True):
        lowest[row], highest[row] = 1 + int(lost), len(rows) - int(won)
    return lowest, highest


def chosen_excess(values: ArrayLike, draws: Sequence[ArrayLike], higher: bool = True) -> float:
    """By how much the best of these rows is expected to read too well, for having been chosen.

    The rows are taken for as different as their spread leaves after their errors, and chosen from
    in every draw: the mean lead that the noise gave to the chosen one.
    """
    sign = 1.0 if higher else -1.0
    numbers, drawn = sign * np.asarray(values, dtype=float), sign * np.array(draws)
    if len(numbers) < 2:
        return 0.0
    own = drawn - np.nanmean(drawn, axis=1, keepdims=True)
    own -= own.mean(axis=0)  # what moves all rows chooses none
    own = own[:, ~np.isnan(own).any(axis=0)]
    apart, error = numbers.var(ddof=1), own.var(axis=0, ddof=1).mean() if own.size else 0.0
    kept = max(0.0, 1 - error / apart) if apart > 0 else 0.0
    seen = kept * (numbers - numbers.mean())[:, None] + own
    return float(np.take_along_axis(own, seen.argmax(axis=0)[None], axis=0).mean())


def _beats(values: Array, draws: Array, alpha: float) -> NDArray[np.bool_]:
    """(rows, rows) of booleans: whether the first is better by more than chance gives any pair."""
    leads = np.zeros((len(values), len(values)))  # in standard errors
    largest = np.zeros(draws.shape[1])
    for i in range(len(values) - 1):
        apart = draws[i] - draws[i + 1 :]
        middle = np.nanmean(apart, axis=1, keepdims=True)
        error = np.nanstd(apart, axis=1, ddof=1)
        sure = error <= 1e-12  # rows that never vary: they are equal, or different for certain
        by = values[i] - values[i + 1 :]
        certain = np.where(np.abs(by) > 1e-12, np.copysign(np.inf, by), 0.0)
        leads[i, i + 1 :] = np.where(sure, certain, by / np.where(sure, 1.0, error))
        far = np.abs(apart - middle)[~sure] / error[~sure, None]
        largest = np.fmax(largest, far.max(axis=0, initial=0.0))
    leads -= leads.T
    return leads > np.quantile(largest, 1 - alpha)


class Extremes(NamedTuple):
    """Which number is the lowest, its bounds, the spread of them all, and its bounds."""

    lowest: int
    bounds: tuple[float, float]
    spread: float
    spread_bounds: tuple[float, float]


def extremes(values: ArrayLike, draws: Sequence[ArrayLike], *, alpha: float = 0.05) -> Extremes:
    """The lowest of some numbers and how far the highest is above it, with intervals that hold.

    The lowest of several estimates is too low, and their spread too wide, for having been chosen:
    so the intervals are made of bounds that hold for all numbers, and for all their pairs, at once
    (bootstrap maxima). That of the spread begins at 0 where no two can be told apart.
    """
    numbers, drawn = np.asarray(values, dtype=float), np.array(draws, dtype=float)
    first, second = np.triu_indices(len(numbers), 1)
    alone = _reach(drawn, alpha)
    pairs = _reach(drawn[first] - drawn[second], alpha)
    apart = np.abs(numbers[first] - numbers[second])
    low, high = (numbers - alone).min(), (numbers + alone).min()
    closest = max(0.0, float((apart - pairs).max()))
    return Extremes(
        int(numbers.argmin()),
        (float(low), float(high)),
        float(np.ptp(numbers)),
        (closest, float((apart + pairs).max())),
    )


def _reach(draws: Array, alpha: float) -> Array:
    """Half the width of each row's interval (rows,), such that all hold at once."""
    error = np.nanstd(draws, axis=1, ddof=1)
    middle = np.nanmean(draws, axis=1, keepdims=True)
    sure = np.where(error > 1e-12, error, 1.0)[:, None]
    largest = np.nanmax(np.abs(draws - middle) / sure, axis=0)
    return np.quantile(largest, 1 - alpha) * error
