"""Arms on the record alone, which know classes: several labels are asked one by one as no and yes.

Labels (n,) are classes, labels (n, K) of 0 and 1 a yes or no each; probabilities are (n, K).
"""

import math
import warnings
from typing import Any

import numpy as np

from benchmark import metrics
from benchmark.data import split
from benchmark.data.prepare import Prepared
from benchmark.spec import Recipe
from benchmark.train.choose import Rows
from benchmark.train.objective import class_weights, quality

#: Folds inside the training part by which the arm on the record of a late fusion is chosen.
INNER = 3


def answered(
    arm: Any,
    record: np.ndarray,
    labels: np.ndarray,
    parts: split.Parts,
    rows: Rows | None,
    seed: int,
    *,
    classes: int,
    recipe: Recipe,
) -> tuple[np.ndarray, str]:
    """What an arm says of the test records, and how its settings came; `rows` may choose them."""
    test = record[parts.test]
    if rows is None:
        train = record[parts.train], labels[parts.train]
        return fitted(arm, *train, test, seed, classes=classes), "fixed settings"

    def chosen(label: np.ndarray, count: int) -> tuple[np.ndarray, str]:
        weight = class_weights(label[rows.train], count, recipe)
        return arm.choose(record, label, rows, test, seed, weight=weight, quality=quality)

    if labels.ndim == 1:
        scores, how = chosen(labels, classes)
        return scores, f"{how}, by {rows.judge}"
    each = [chosen(label, 2)[0][:, 1] for label in labels.T.astype(int)]
    return np.stack(each, axis=1), f"each label's settings by {rows.judge}"


def fitted(
    arm: Any, train: np.ndarray, labels: np.ndarray, test: np.ndarray, seed: int, *, classes: int
) -> np.ndarray:
    """What an arm on the record says of the test records."""
    if labels.ndim == 1:
        return arm.fit_predict(train, labels, test, seed, classes=classes)
    said = [
        arm.fit_predict(train, one, test, seed, classes=2)[:, 1] for one in labels.T.astype(int)
    ]
    return np.stack(said, axis=1)


def chooses(arm: Any) -> bool:
    """Whether an arm on the record chooses its settings by validation."""
    return getattr(arm, "chooses", False)


def combined(
    arm: Any, image: np.ndarray, record: np.ndarray, side: Any, labels: np.ndarray, recipe: Recipe
) -> np.ndarray:
    """What a late fusion makes of the image's and the record's; labels are the training part's."""

    def prior(label: np.ndarray, count: int) -> np.ndarray:
        asked = {"weight": class_weights(label, count, recipe)} if chooses(side) else {}
        return side.prior(label, count, **asked)

    if labels.ndim == 1:
        return arm.combine(image, record, prior(labels, image.shape[1]))
    both = [
        arm.combine(_no_and_yes(seen), _no_and_yes(read), prior(label, 2))[:, 1]
        for seen, read, label in zip(image.T, record.T, labels.T.astype(int), strict=True)
    ]
    return np.stack(both, axis=1)


def held_out(
    arm: Any, prepared: Prepared, rows: np.ndarray, record: np.ndarray, seed: int
) -> float:
    """The AUROC of an arm on groups of the training rows left out of its fitting."""
    labels, units = prepared.labels[rows], split.linked_groups(prepared)[rows]
    record, seed = record[rows], seed % 2**32
    if min(len(np.unique(units)), _rarest(labels)) < INNER:
        return math.nan
    classes = len(prepared.classes)
    scores = np.zeros((len(rows), classes))
    for rest, held in split.cut_folds(labels, units, INNER, seed, (prepared.name, prepared.unit)):
        scores[held] = fitted(arm, record[rest], labels[rest], record[held], seed, classes=classes)
    with warnings.catch_warnings(action="ignore"):
        return metrics.evaluate(labels, scores, units, draws=0, seed=0).overall["auroc"].value


def _rarest(labels: np.ndarray) -> int:
    """Images of the rarest class; of several labels, of the kind that is rarer in the most even."""
    if labels.ndim == 1:
        return int(np.bincount(labels)[np.unique(labels)].min())
    yes = labels.sum(axis=0, dtype=int)
    return int(np.minimum(yes, len(labels) - yes).max())


def _no_and_yes(p: np.ndarray) -> np.ndarray:
    return np.stack([1 - p, p], axis=1)
