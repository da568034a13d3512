"""DeLong's test with patients as its units (Obuchowski 1997): no draws are needed."""

import math

import numpy as np
from numpy.typing import NDArray


def clustered(
    positive: NDArray[np.bool_],
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    groups: NDArray[np.integer],
) -> tuple[float, float]:
    """The difference of two AUROCs on the same images, and its variance over groups.

    NaN where a side has no image, or where fewer than two groups were tested.
    """
    _, codes = np.unique(groups, return_inverse=True)
    count = int(codes.max(initial=-1)) + 1
    if not positive.any() or positive.all() or count < 2:
        return math.nan, math.nan
    apart = _placements(positive, first) - _placements(positive, second)
    difference = float(apart[positive].mean())
    share = np.where(positive, 1 / positive.sum(), 1 / (~positive).sum())
    influence = np.bincount(codes, weights=share * (apart - difference))
    return difference, float((influence**2).sum() * count / (count - 1))


def normal_p(value: float, error: float, *, one_sided: bool = False) -> float:
    """The p of a normal value being zero (`one_sided`: or less); undefined without an error."""
    if error > 0 and one_sided:
        return math.erfc(value / error / math.sqrt(2)) / 2
    if error > 0:
        return math.erfc(abs(value) / error / math.sqrt(2))
    return 1.0 if value == 0 and error == 0 else math.nan


def _placements(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """For each image the share of the other side that it is ordered right against, ties half."""
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    below = np.searchsorted(low, scores, "left") + np.searchsorted(low, scores, "right")
    above = np.searchsorted(high, scores, "left") + np.searchsorted(high, scores, "right")
    return np.where(positive, below / (2 * len(low)), 1 - above / (2 * len(high)))
