"""How far a number moves with another training run, or with another pretraining of its source.

Numbers of the same patients differ by the patients too: a network is right on others of them. The
draws hold that share already, so it is taken off here (the variance of the draws' differences), or
it would be counted twice.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np

from benchmark.stats.estimates import Array

#: An estimate of one degree of freedom would leave intervals without a bound.
FEWEST = 2


class Component(NamedTuple):
    """A standard deviation, and what it was estimated over."""

    deviation: float
    freedom: int  # degrees of freedom
    over: Literal["seeds", "folds", "pretrainings"]

    def drawn(self, draws: int, seed: int) -> Array:
        """Normal noise of this deviation."""
        return self.deviation * np.random.default_rng(seed).normal(size=draws)

    def doubt(self, draws: int, seed: int) -> Array:
        """What the noise is multiplied by where its deviation is uncertain: Student's t comes out.

        One factor a draw for all rows, for they share the estimate.
        """
        freedom = max(self.freedom, FEWEST)
        return np.sqrt(freedom / np.random.default_rng(seed).chisquare(freedom, draws))


def over_seeds(parts: Iterable[tuple[Array, Array]]) -> Component:
    """Of training, from cells that differ in the seed alone: values (S,) and draws (S, D) of each.

    Some part must have two seeds.
    """
    squares = [(_squares(*part), len(part[0]) - 1) for part in parts]
    freedom = sum(free for _, free in squares)
    excess = sum(values - patients for (values, patients), _ in squares) / freedom
    return _component(excess, freedom, "seeds")


def over_folds(values: Array, draws: Array) -> Component:
    """Of training, from one seed of two rows or more: values (R, K), draws (R, K, D).

    Half of what the difference of two rows varies by over folds, over all pairs of rows.
    """
    rows, folds = values.shape
    freedom = (rows - 1) * (folds - 1)
    own, _ = _squares(values - values.mean(axis=1, keepdims=True), draws)
    _, patients = _squares(values, draws)
    return _component(own / freedom - patients / ((rows - 1) * folds), freedom, "folds")


def over_pretrainings(
    parts: Iterable[tuple[Array, Array]], training: Iterable[float], freedom: int
) -> Component:
    """Of pretraining, from rows that differ in it alone: values (P,) and draws (P, D) of each part.

    `training` is the variance that training gives each part's values. Parts of the same weights
    (with and without the record) tell no more than one: `freedom` counts the weights.
    """
    squares = [(_squares(*part), len(part[0]) - 1) for part in parts]
    more = sum(
        values - patients - free * variance
        for ((values, patients), free), variance in zip(squares, training, strict=True)
    )
    return _component(more / sum(free for _, free in squares), freedom, "pretrainings")


def _squares(values: Array, draws: Array) -> tuple[float, float]:
    """Sums of squares about the mean of the first axis: of the values, and of a draw of theirs."""
    own = draws - np.nanmean(draws, axis=-1, keepdims=True)
    own -= own.mean(axis=0)
    return float(((values - values.mean(axis=0)) ** 2).sum()), float(
        np.nanmean((own**2).reshape(-1, draws.shape[-1]).sum(axis=0))
    )


def _component(
    variance: float, freedom: int, over: Literal["seeds", "folds", "pretrainings"]
) -> Component:
    return Component(float(np.sqrt(max(variance, 0.0))), freedom, over)
