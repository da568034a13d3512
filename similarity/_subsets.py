"""The cats study's design: many small subsets of a set, and the mean over pairs of them."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from benchmark.api import BenchError, Estimate, Measured
from benchmark.data.label_sets import strata
from benchmark.spec import Scalar
from benchmark.stats import Z


def subset(labels: np.ndarray, share: float, seed: tuple[int, int]) -> np.ndarray:
    """Sorted rows of a part of the images: each class has its share, as far as whole images go."""
    rng, n = np.random.default_rng(seed), len(labels)
    order = rng.permutation(n)
    order = order[np.argsort(strata(labels)[order], kind="stable")]
    size = max(2, round(share * n))
    return np.sort(order[((rng.random() + np.arange(size)) * n / size).astype(int)])


def pairs_of(asked: Scalar, subsets: int, seed: int) -> list[tuple[int, int]]:
    """Which subset of the source meets which of the target.

    "": each its like; a number: so many drawn without repeats; "3-3,14-2": those.
    """
    text, rng = str(asked), np.random.default_rng(seed)
    if text.isdigit():
        one, other = (rng.permutation(subsets)[: int(text)].tolist() for _ in range(2))
        return list(zip(one, other, strict=True))
    if not text:
        return [(k, k) for k in range(subsets)]
    found = [tuple(part.strip().split("-")) for part in text.split(",")]
    if not all(len(p) == 2 and all(k.isdigit() and int(k) < subsets for k in p) for p in found):
        raise BenchError(
            f"'{text}' are no pairs of the subsets 0 to {subsets - 1}.",
            "Give how many to draw (5), or the pairs themselves (3-3,14-2).",
        )
    return [(int(one), int(other)) for one, other in found]


def of_pairs(
    pairs: Sequence[tuple[Any, Any]],
    sides: Sequence[Sequence[Any]],
    between: Callable[[Any, Any], float],
) -> Measured:
    """The mean over pairs of subsets and its interval; the floor is that of each side's subsets."""
    found = np.array([between(a, b) for a, b in pairs])
    if len(found) < 2:
        return Measured(float(found[0]))
    deviation = float(found.std(ddof=1))
    mean, half = float(found.mean()), Z * deviation / len(found) ** 0.5
    facts: dict[str, float | Estimate] = {"deviation": deviation}
    if min(map(len, sides)) > 1:
        each = [np.mean([between(a, b) for a, b in pairwise(side)]) for side in sides]
        floor = float(np.mean(each))
        excess = Estimate(mean - floor, mean - half - floor, mean + half - floor, len(found))
        facts |= {"floor": floor, "excess": excess}
    return Measured(mean, mean - half, mean + half, facts)
