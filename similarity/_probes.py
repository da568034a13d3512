"""Scores that are fitted on a part of the samples and judged on the rest."""

from typing import Any, Literal

import numpy as np

from benchmark.api import BenchError
from similarity._labelled import array, in_order, yes_no

SEED = 0

Metric = Literal["auroc", "accuracy"]


def knn(
    features: Any, labels: Any, *, groups: Any = None, metric: Metric = "auroc", neighbours: int = 5
) -> float:
    """Cross-validated nearest neighbours (cosine): macro one-vs-rest AUROC, or accuracy."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    nearest = min(neighbours, max(len(array(labels)) // 2, 1))  # no more than a fold trains on
    model = make_pipeline(Normalizer(), KNeighborsClassifier(nearest, weights="distance"))
    return _cross_validated(model, features, labels, groups, metric)


def linear_probe(
    features: Any, labels: Any, *, groups: Any = None, metric: Metric = "auroc"
) -> float:
    """Cross-validated logistic regression: macro one-vs-rest AUROC, or accuracy."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000))
    return _cross_validated(model, features, labels, groups, metric)


def _cross_validated(model: Any, features: Any, labels: Any, groups: Any, metric: str) -> float:
    """The mean over labels, or over the classes, of what `_over_folds` finds."""
    from sklearn import config_context

    if metric not in ("auroc", "accuracy"):
        raise BenchError(f"No metric named '{metric}'.", "Use auroc or accuracy.")
    columns = yes_no(features, labels)[1] if array(labels).ndim == 2 else array(labels)[:, None]
    x, _, order = in_order(features, columns[:, 0])
    units = None if groups is None else array(groups)[order]
    every = [np.unique(column, return_inverse=True)[1] for column in columns[order].T]
    asked = [codes for codes in every if _fewest(codes, units) > 1]
    if not asked:
        todo = "Merge or leave out the classes with a single one."
        raise BenchError("Cross-validation needs two samples (or groups) of every class.", todo)
    # What is known of all features need not be checked in each fold of each label.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        found = [_over_folds(model, x, codes, units, metric) for codes in asked]
    return float(np.mean(found))


def _over_folds(
    model: Any, x: np.ndarray, codes: np.ndarray, units: np.ndarray | None, metric: str
) -> float:
    """Mean over up to five stratified folds, groups kept whole, and (AUROC) over the classes.

    Folds are not pooled: their intercepts differ, which puts noise below 0.5.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    splitter = StratifiedKFold if units is None else StratifiedGroupKFold
    folds = splitter(min(5, _fewest(codes, units)), shuffle=True, random_state=SEED)
    correct, aurocs = [], np.full((folds.get_n_splits(), codes.max() + 1), np.nan)
    for fold, (train, test) in enumerate(folds.split(x, codes, units)):
        model.fit(x[train], codes[train])
        told = model.predict_proba(x[test])
        correct.append(np.mean(model.classes_[told.argmax(axis=1)] == codes[test]))
        aurocs[fold, model.classes_] = _aurocs(told, codes[test][:, None] == model.classes_)
    return float(np.mean(correct) if metric == "accuracy" else np.nanmean(np.nanmean(aurocs, 0)))


def _aurocs(told: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The area under the curve of each column; NaN where all are true or none is."""
    from scipy.stats import rankdata

    yes = true.sum(axis=0)
    pairs = yes * (len(true) - yes)
    won = (rankdata(told, axis=0) * true).sum(axis=0) - yes * (yes + 1) / 2
    return np.divide(won, pairs, out=np.full(len(yes), np.nan), where=pairs > 0)


def _fewest(codes: np.ndarray, groups: Any) -> int:
    """Samples (or groups) of the rarest class."""
    each = np.arange(len(codes)) if groups is None else array(groups)
    return min(len(np.unique(each[codes == code])) for code in np.unique(codes))
