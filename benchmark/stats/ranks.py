"""Which row of a board comes before which, as far as its draws can tell."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.stats.estimates import Array, paired_bootstrap


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
