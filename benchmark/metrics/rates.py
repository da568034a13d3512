"""Every metric of a test set under weights: all one for the point, times drawn for the bootstrap.

weights: (n, draws), how often each sample was drawn; rates: (classes, draws). Labels (n, classes)
of 0 and 1 are multi-label: each class a yes or no of its own, its score the probability of yes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Tested = tuple[NDArray[np.integer], Array]  # labels (n,) and scores (n, classes) of one fold
BINS = 15
YES = 0.5  # from this probability on a label is predicted: chosen by nobody, on no data
GRID = np.linspace(0, 1, 101)  # false positive rates
ALL = -1  # in the place of a class: the whole test set
OF_LABEL = ("specificity", "precision", "f1", "auprc")  # beside AUROC and recall


def roc_curve(tested: Sequence[Tested]) -> Array:
    """True positive rates on GRID, the mean over folds and classes (of two: the second)."""
    rates = []
    for labels, scores in tested:
        truth = truth_of(labels, scores.shape[1])
        for k in telling(scores.shape[1], multilabel=labels.ndim == 2):
            if truth[:, k].any() and not truth[:, k].all():
                rates.append(np.interp(GRID, *_stairs(truth[:, k], scores[:, k])))
    return np.mean(rates, axis=0) if rates else np.full(len(GRID), np.nan)


def _stairs(truth: NDArray[np.bool_], scores: Array) -> tuple[Array, Array]:
    """False and true positive rates as the threshold falls from one score to the next."""
    order = np.argsort(-scores, kind="stable")
    steps = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.cumsum(truth[order])[steps]
    false = steps + 1 - true
    return np.append(0.0, false / false[-1]), np.append(0.0, true / true[-1])


def truth_of(labels: NDArray[np.integer], classes: int) -> NDArray[np.bool_]:
    """Whether a sample has a class (n, classes)."""
    return labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(classes)


def guess_of(labels: NDArray[np.integer], scores: Array) -> NDArray[np.bool_]:
    """Whether a class is predicted (n, classes): the highest score, or each label by itself."""
    if labels.ndim == 2:
        return scores.astype(np.float32) >= YES  # as kept: a digit more would say otherwise
    return scores.argmax(axis=1)[:, None] == np.arange(scores.shape[1])


def telling(classes: int, *, multilabel: bool) -> range:
    """The classes that tell all there is: of two that exclude each other only the second."""
    return range(1 if classes == 2 and not multilabel else 0, classes)


def metrics_of(
    labels: Rows, scores: Array, weights: NDArray[Any], *, ordinal: bool = False
) -> dict[tuple[str, int], Array]:
    """Each metric's (draws,) by name and class, or name and ALL."""
    rates, tp, actual = rates_of(labels, scores, weights)
    multilabel = labels.ndim == 2
    total = weights.sum(axis=0, dtype=float)
    binary = len(actual) == 2 and not multilabel
    auroc = rates["auroc"][1] if binary else mean_of(rates["auroc"])
    recall = rates["sensitivity"]
    overall = {
        "auroc": auroc,
        "auroc_weighted": auroc if binary else mean_of(rates["auroc"], actual),
        "mcr": mean_of(recall),
        "accuracy": _all_right(labels, scores, weights) / total
        if multilabel
        else tp.sum(axis=0) / total,
        "accuracy_ovr": mean_of(rates["accuracy"]),
        **{name: mean_of(rates[name]) for name in list(rates)[1:9]},
        "auprc": rates["auprc"][1] if binary else mean_of(rates["auprc"]),
        "worst_class_recall": np.fmin.reduce(recall, axis=0),
        **(_label_calibration if multilabel else _calibration)(labels, scores, weights, total),
    }
    if binary:
        for name in ("sensitivity", "specificity", "precision", "npv"):
            overall[f"positive_{name}"] = rates[name][1]
    if ordinal:
        overall["quadratic_kappa"] = quadratic_kappa(labels, scores, weights, actual)
    by_class = {"auroc": rates["auroc"], "recall": recall}
    if multilabel:
        by_class |= {name: rates[name] for name in OF_LABEL}
    return {(name, ALL): values for name, values in overall.items()} | {
        (name, k): row for name, rows in by_class.items() for k, row in enumerate(rows)
    }


def quadratic_kappa(labels: Rows, scores: Array, weights: NDArray[Any], actual: Array) -> Array:
    """Cohen's kappa of grades, misses weighed by their square; NaN where chance cannot miss."""
    grades, guess = np.arange(scores.shape[1]), scores.argmax(axis=1)
    predicted = (guess[:, None] == grades).T.astype(float) @ weights
    missed = (labels - guess) ** 2.0 @ weights
    by_chance = (((grades[:, None] - grades) ** 2 @ actual) * predicted).sum(axis=0)
    by_chance = by_chance / actual.sum(axis=0)
    return 1 - np.divide(missed, by_chance, out=np.full(len(missed), np.nan), where=by_chance > 0)


def mean_of(rates: Array, weights: Array | float = 1.0) -> Array:
    """The mean over the classes (first axis) that are defined, NaN where none is."""
    counted = np.where(np.isnan(rates), 0.0, weights)
    sums, total = (np.nan_to_num(rates) * counted).sum(axis=0), counted.sum(axis=0)
    return np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)


def rates_of(
    labels: Rows, scores: Array, weights: NDArray[Any]
) -> tuple[dict[str, Array], Array, Array]:
    """All rates (classes, draws) by name, the true positives and the class sizes."""
    truth, guess = truth_of(labels, scores.shape[1]), guess_of(labels, scores)
    # Counts below 2^24 are exact in float32.
    indicators = np.concatenate([truth & guess, truth, guess], axis=1).astype(weights.dtype)
    counts = (indicators.T @ weights).astype(float)
    tp, actual, predicted = np.split(counts, 3)
    rates = _rates(tp, actual, predicted, weights.sum(axis=0, dtype=float))
    ranked = [ranking(truth[:, k], scores[:, k], weights) for k in range(scores.shape[1])]
    rates["auroc"], rates["auprc"] = (np.stack(column) for column in zip(*ranked, strict=True))
    return rates, tp, actual


def _rates(tp: Array, actual: Array, predicted: Array, total: Array) -> dict[str, Array]:
    """The rates of the predictions; undefined is NaN, never predicting a class there is 0."""
    fp, fn = predicted - tp, actual - tp
    tn = total - actual - fp
    absent, everyone = actual == 0, actual == total
    never, always = predicted == 0, predicted == total
    with np.errstate(divide="ignore", invalid="ignore"):
        sensitivity = tp / actual
        specificity = tn / (tn + fp)
        precision = np.where(never & ~absent, 0.0, tp / predicted)
        npv = tn / (tn + fn)
        markedness = np.where(never | always, 0.0, precision + npv - 1)
        spread = np.sqrt(actual * (total - actual)) * np.sqrt(predicted * (total - predicted))
        mcc = np.where(never | always, 0.0, (tp * tn - fp * fn) / spread)
        return {
            "accuracy": (tp + tn) / total,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "precision": precision,
            "npv": npv,
            "f1": np.where(absent, np.nan, 2 * tp / (actual + predicted)),
            "informedness": sensitivity + specificity - 1,
            "markedness": np.where(never & absent, np.nan, markedness),
            "mcc": np.where(absent | everyone, np.nan, mcc),
        }


def ranking(
    positive: NDArray[np.bool_], scores: Array, weights: NDArray[Any]
) -> tuple[Array, Array]:
    """AUROC (ties by mid-rank) and average precision (ties as one step) of each draw.

    One sort for all draws: going down the scores, only thresholds that catch a positive count.
    """
    nothing = np.full(weights.shape[1], np.nan)
    if not positive.any():
        return nothing, nothing
    order = np.argsort(-scores, kind="stable")
    hit = np.flatnonzero(positive[order])
    tie = np.cumsum(np.diff(scores[order], prepend=np.inf) != 0)  # 1, 1, 2, … from the top
    steps, first = np.unique(tie[hit], return_index=True)
    begin = np.searchsorted(tie, steps, side="left")
    end = np.searchsorted(tie, steps, side="right")
    heavy = weights[order]
    passed = np.cumsum(heavy, axis=0)
    above = np.where(begin[:, None] > 0, passed[begin - 1], 0).astype(float)
    until = passed[end - 1].astype(float)
    caught = np.add.reduceat(heavy[hit], first, axis=0).astype(float)
    true = np.cumsum(caught, axis=0)
    positives, negatives = true[-1], passed[-1] - true[-1]
    # Negatives passed so far, those tied with this step by half.
    false = (above + until + caught) / 2 - true
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.einsum("sd,sd->d", caught, false)
        auroc = 1 - lost / (positives * negatives)
        gained = caught * np.divide(true, until, out=np.zeros_like(true), where=until > 0)
        return np.where(negatives > 0, auroc, np.nan), gained.sum(axis=0) / positives


def _calibration(
    labels: Rows, scores: Array, weights: NDArray[Any], total: Array
) -> dict[str, Array]:
    """Top-label ECE over 15 equal-width bins (a, b], Brier and log loss of each draw.

    The Brier score of two classes is that of class 1 (0 to 1), of more the sum over classes
    (0 to 2). A probability of 0 counts as 2.2e-16 in the log loss.
    """
    if (scores < 0).any() or not np.allclose(scores.sum(axis=1), 1, rtol=0, atol=1e-3):
        return {name: np.full(weights.shape[1], np.nan) for name in ("ece", "brier", "log_loss")}
    rows = np.arange(len(labels))
    top = scores.max(axis=1)
    gap = (scores.argmax(axis=1) == labels) - top
    bins = np.clip(np.ceil(top * BINS).astype(int) - 1, 0, BINS - 1)
    squares = (scores - (labels[:, None] == np.arange(scores.shape[1]))) ** 2
    brier = squares[:, 1] if scores.shape[1] == 2 else squares.sum(axis=1)
    surprise = -np.log(np.clip(scores[rows, labels], np.finfo(float).eps, 1))
    columns = np.zeros((BINS + 2, len(labels)))
    columns[bins, rows], columns[BINS], columns[BINS + 1] = gap, brier, surprise
    sums = columns @ weights.astype(float)
    ece, brier, log_loss = np.abs(sums[:BINS]).sum(axis=0), *sums[BINS:]
    return {"ece": ece / total, "brier": brier / total, "log_loss": log_loss / total}


def _all_right(labels: Rows, scores: Array, weights: NDArray[Any]) -> Array:
    """How many samples have every label predicted right."""
    right = (truth_of(labels, scores.shape[1]) == guess_of(labels, scores)).all(axis=1)
    return right.astype(float) @ weights.astype(float)


def _label_calibration(
    labels: Rows, scores: Array, weights: NDArray[Any], total: Array
) -> dict[str, Array]:
    """ECE of each label's yes, binary Brier and log loss, means over labels, of each draw."""
    rows, classes, times = np.arange(len(labels)), scores.shape[1], weights.astype(float)
    bins = np.clip(np.ceil(scores * BINS).astype(int) - 1, 0, BINS - 1)
    gap, ece = labels - scores, np.zeros(times.shape[1])
    for k in range(classes):
        columns = np.zeros((BINS, len(labels)))
        columns[bins[:, k], rows] = gap[:, k]
        ece += np.abs(columns @ times).sum(axis=0)
    of_truth = np.where(labels == 1, scores, 1 - scores)
    surprise = -np.log(np.clip(of_truth, np.finfo(float).eps, 1))
    brier, log_loss = np.stack([(gap**2).mean(axis=1), surprise.mean(axis=1)]) @ times
    return {"ece": ece / classes / total, "brier": brier / total, "log_loss": log_loss / total}
