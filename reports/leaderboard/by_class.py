"""Two arms class by class: DeLong's test with patients as its units (Obuchowski 1997).

The bootstrap's draws are stored for the headline alone; the scores are stored, and this needs
no draws: each patient's influence on the difference of two AUROCs gives its variance.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark import stats
from benchmark.errors import Damaged
from benchmark.metrics.rates import telling, truth_of
from benchmark.stats import Estimate, Z
from benchmark.stats.delong import clustered, normal_p
from benchmark.store import Store
from reports.leaderboard.arms import Run


@dataclass(frozen=True)
class ClassPair:
    """The difference in AUROC of one class against the rest; `n` counts its test images."""

    name: str
    difference: Estimate
    p: float
    holm: float  # adjusted for the number of classes


def class_pairs(store: Store, first: Sequence[Run], second: Sequence[Run]) -> Iterator[ClassPair]:
    """Each class of the same cells of two arms, the second class alone where there are two.

    Nothing where the stored predictions are gone, or not of the same images.
    """
    found, counts = [], []
    for one, other in zip(first, second, strict=True):
        try:
            a, b = (store.predictions(run.outcome.key) for run in (one, other))
        except Damaged as error:
            warnings.warn(f"{error} Its classes are not compared.", stacklevel=2)
            return
        if any(not np.array_equal(a[name], b[name]) for name in ("labels", "groups")):
            return
        width = a["scores"].shape[1]
        many = a["labels"].ndim == 2
        truth = truth_of(a["labels"], width).T[telling(width, multilabel=many).start :]
        sides = zip(a["scores"].T[-len(truth) :], b["scores"].T[-len(truth) :], strict=True)
        cell = [clustered(t, x, y, a["groups"]) for t, (x, y) in zip(truth, sides, strict=True)]
        found.append(cell)
        counts.append([int(t.sum()) for t in truth])
    seeds = np.array([run.spec.seed for run in first])
    parts = [np.array(found)[seeds == seed] for seed in np.unique(seeds)]  # (folds, classes, 2)
    difference = np.mean([part[..., 0].mean(0) for part in parts], axis=0)
    # Folds are of other patients, seeds of the same: more seeds make no interval narrower.
    error = np.sqrt(np.mean([part[..., 1].sum(0) / len(part) ** 2 for part in parts], axis=0))
    p = [normal_p(d, e) for d, e in zip(difference.tolist(), error.tolist(), strict=True)]
    low, high = (difference - Z * error).tolist(), (difference + Z * error).tolist()
    sizes = (np.sum(counts, axis=0) // len(parts)).tolist()
    estimates = map(Estimate, difference.tolist(), low, high, sizes)
    names = first[0].outcome.classes[-len(sizes) :]
    yield from map(ClassPair, names, estimates, p, stats.holm(p).tolist())


def recalls_apart(first: Sequence[Run], second: Sequence[Run]) -> NDArray[np.float64]:
    """First minus second in each class's recall, by fold and class; seeds are averaged first."""
    by_fold: dict[int, list[list[float]]] = defaultdict(list)
    for one, other in zip(first, second, strict=True):
        both = zip(one.outcome.per_class, other.outcome.per_class, strict=True)
        apart = [
            a["recall"].value - b["recall"].value
            for a, b in both
            if "recall" in a and "recall" in b
        ]
        by_fold[one.spec.fold].append(apart)
    return np.concatenate([np.mean(seeds, axis=0) for seeds in by_fold.values()])
