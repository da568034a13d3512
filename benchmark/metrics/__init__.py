"""What a set of predictions is worth: one-vs-rest rates, ranking, calibration, with intervals.

Labels are class indices 0…K-1, shape (n,). Scores have shape (n, K); the prediction is the
highest, the lowest index on ties. A binary task may hand in (n,) probabilities of class 1.
Multi-label are labels (n, K) of 0 and 1: scores are probabilities of yes, predicted from 0.5 on.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError, NotFinite
from benchmark.metrics.rates import ALL, Array, Rows, mean_of, metrics_of, rates_of, truth_of
from benchmark.stats import Estimate, interval

KAPPA = "quadratic_kappa"  # of ordinal labels
_CHUNK = 1_000_000  # weights held at a time; a dozen arrays of this size live at once


class Description(NamedTuple):
    title: str
    higher_is_better: bool = True


#: The metrics of a whole test set; a mean over classes leaves out those it is undefined for.
NAMES: dict[str, Description] = {
    "auroc": Description("AUROC (one-vs-rest, mean over classes; binary: class 1)"),
    "auroc_weighted": Description("AUROC (one-vs-rest, weighted by class priors)"),
    "mcr": Description("Mean class recall"),
    "accuracy": Description("Accuracy"),
    "accuracy_ovr": Description("Accuracy (one-vs-rest, mean over classes)"),
    "sensitivity": Description("Sensitivity (mean over classes)"),
    "specificity": Description("Specificity (mean over classes)"),
    "precision": Description("Precision (mean over classes)"),
    "npv": Description("Negative predictive value (mean over classes)"),
    "f1": Description("F1 (mean over classes)"),
    "informedness": Description("Informedness (mean over classes)"),
    "markedness": Description("Markedness (mean over classes)"),
    "mcc": Description("Matthews correlation (one-vs-rest, mean over classes)"),
    "auprc": Description("Average precision (mean over classes; binary: class 1)"),
    "worst_class_recall": Description("Recall of the worst class"),
    "ece": Description("Expected calibration error (top label, 15 equal bins)", False),
    "brier": Description("Brier score (sum over classes; binary: class 1)", False),
    "log_loss": Description("Log loss (nats)", False),
    KAPPA: Description("Quadratic weighted kappa (grades)"),
    "positive_sensitivity": Description("Sensitivity (class 1)"),
    "positive_specificity": Description("Specificity (class 1)"),
    "positive_precision": Description("Positive predictive value (class 1)"),
    "positive_npv": Description("Negative predictive value (class 1)"),
}


class Macro(TypedDict):  # over the classes for which the rate is defined; std: ddof 1
    mean: float
    std: float
    n_defined: int


class OneVsRest(TypedDict):  # ten rates per class, NaN where undefined
    per_class: list[dict[str, float]]
    macro: dict[str, Macro]


@dataclass(frozen=True)
class Evaluation:
    """All metrics of one test set with 95 % intervals from resampling its groups.

    `n` of an overall estimate is the number of samples, of a class's the number of its samples.
    `draws` holds each overall metric's bootstrap draws, NaN where a draw leaves it undefined;
    equal groups, draws and seed give paired draws.
    """

    overall: dict[str, Estimate]
    per_class: list[dict[str, Estimate]]
    draws: dict[str, Array]
    table: OneVsRest
    samples: int
    groups: int

    def over_classes(self) -> dict[str, float]:
        """The standard deviation over classes (ddof 1) of the metrics that are means over them."""
        macro, binary = self.table["macro"], "positive_npv" in self.overall
        titles = {"sensitivity": ("sensitivity", "mcr"), "accuracy": ("accuracy_ovr",)}
        return {
            title: macro[name]["std"]
            for name in macro
            for title in titles.get(name, (name,))
            # Of two classes the AUROC is that of the second, and no mean.
            if np.isfinite(macro[name]["std"]) and not (binary and name == "auroc")
        }

    def defined(self, name: str) -> int:
        """How many draws the interval of a metric rests on."""
        return int(np.count_nonzero(~np.isnan(self.draws[name])))


class BadScores(BenchError, ValueError):
    """Labels and scores do not fit together."""


class NotFiniteScores(NotFinite, ValueError):
    """A score is NaN or infinite."""


def one_vs_rest(labels: ArrayLike, scores: ArrayLike) -> OneVsRest:
    """Ten one-vs-rest rates per class and their mean, standard deviation (ddof 1) and count.

    What a fold leaves undefined is NaN, is left out of the mean, and is warned about.
    """
    table = _table(*_checked(labels, scores))
    _warn_undefined(table)
    return table


def evaluate(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    *,
    draws: int = 2000,
    seed: int,
    ordinal: bool = False,
) -> Evaluation:
    """Every metric with its 95 % percentile interval; `groups` (n,) are resampled, not samples.

    Intervals are NaN with fewer than two groups: one patient says nothing about the next.
    Calibration (ece, brier, log_loss) is NaN unless the scores are probabilities. Of `ordinal`
    labels, which are grades, the quadratic kappa is told too.
    """
    y, p = _checked(labels, scores)
    evaluation = _evaluate(y, p, groups, draws, seed, [np.arange(len(y))], ordinal)[0]
    _warn_undefined(evaluation.table)
    return evaluation


def subgroups(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    columns: Mapping[str, ArrayLike],
    *,
    draws: int = 2000,
    seed: int,
    minimum: int = 10,
    ordinal: bool = False,
) -> dict[str, dict[str, Evaluation]]:
    """The metrics of each value of each column of texts (n,), all from one resample of the groups.

    Values with fewer than `minimum` groups, and the empty text (missing), are left out; classes
    that a subgroup lacks are left out of its means without a warning. The draws of a value belong
    together with those of the others, and with those of `evaluate` with the same seed.
    """
    y, p = _checked(labels, scores)
    names = _one_per_sample(groups, len(y), "groups")
    parts: dict[tuple[str, str], Rows] = {}
    for column, texts in columns.items():
        values = _one_per_sample(texts, len(y), f"values of {column}").astype(str)
        for value in np.unique(values[values != ""]).tolist():
            rows = np.flatnonzero(values == value)
            if len(np.unique(names[rows])) >= minimum:
                parts[column, value] = rows
    made = _evaluate(y, p, names, draws, seed, list(parts.values()), ordinal)
    found = zip(parts, made, strict=True)
    result: dict[str, dict[str, Evaluation]] = {column: {} for column in columns}
    for (column, value), evaluation in found:
        result[column][value] = evaluation
    return result


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[Rows, Array]:
    y, p = _on_cpu(labels), np.asarray(_on_cpu(scores), dtype=float)
    if not np.isfinite(p).all():
        raise NotFiniteScores(
            f"{np.count_nonzero(~np.isfinite(p))} of {p.size} scores are NaN or infinite.",
            "Look at the loss of this run; a lower learning rate is the usual cure.",
        )
    if y.ndim == 2:
        return _checked_labels(y, p)
    p = p[:, 0] if p.ndim == 2 and p.shape[1] == 1 else p
    if p.ndim == 1 and p.size and p.min() >= 0 and p.max() <= 1:
        p = np.stack([1 - p, p], axis=1)
    if p.ndim != 2 or y.ndim != 1 or len(y) != len(p) or not len(y):
        raise BadScores(
            f"Labels of shape {y.shape} do not go with scores of shape {p.shape}.",
            "Give labels (n,) and scores (n, classes), or (n,) probabilities of class 1.",
        )
    codes = y.astype(np.intp)
    if (codes != y).any() or codes.min() < 0 or codes.max() >= p.shape[1]:
        what = f"The labels are not whole numbers from 0 to {p.shape[1] - 1}."
        raise BadScores(what, "Number the classes from 0 and give each a column of scores.")
    return codes, p


def _checked_labels(labels: NDArray[Any], scores: Array) -> tuple[Rows, Array]:
    if labels.shape != scores.shape or not labels.size:
        raise BadScores(
            f"Labels of shape {labels.shape} do not go with scores of shape {scores.shape}.",
            "Give multi-label labels and their scores as (n, labels).",
        )
    if not np.isin(labels, (0, 1)).all() or scores.min() < 0 or scores.max() > 1:
        raise BadScores(
            "Multi-label labels are not all 0 or 1, or their scores no probabilities.",
            "Give the probability of yes for each label.",
        )
    return labels.astype(np.intp), scores


def _on_cpu(values: Any) -> NDArray[Any]:
    if hasattr(values, "detach"):  # a torch tensor, without importing torch to ask
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)


def _one_per_sample(values: ArrayLike, samples: int, what: str) -> NDArray[Any]:
    array = _on_cpu(values)
    if array.shape == (samples,):
        return array
    raise BadScores(
        f"The {what} have shape {array.shape}.", f"Give one for each of {samples} samples."
    )


def _warn_undefined(table: OneVsRest) -> None:
    parts = []
    for index, rates in enumerate(table["per_class"]):
        undefined = [name for name, rate in rates.items() if np.isnan(rate)]
        parts += [f"{', '.join(undefined)} of class {index}"] if undefined else []
    if parts:
        message = f"Undefined on these labels and left out of the means: {'; '.join(parts)}."
        warnings.warn(message, stacklevel=3)


def _table(labels: Rows, scores: Array) -> OneVsRest:
    rates = rates_of(labels, scores, np.ones((len(labels), 1)))[0]
    del rates["auprc"]  # not one of the ten
    rows = zip(*(rate[:, 0].tolist() for rate in rates.values()), strict=True)
    return {
        "per_class": [dict(zip(rates, row, strict=True)) for row in rows],
        "macro": {name: _summary(rate[:, 0]) for name, rate in rates.items()},
    }


def _summary(column: Array) -> Macro:
    known = column[~np.isnan(column)]
    std = float(known.std(ddof=1)) if known.size > 1 else np.nan
    return {"mean": float(mean_of(column)), "std": std, "n_defined": known.size}


def _evaluate(
    labels: Rows,
    scores: Array,
    groups: ArrayLike,
    draws: int,
    seed: int,
    parts: Sequence[Rows],
    ordinal: bool,
) -> list[Evaluation]:
    """Each part's metrics; groups of all rows are drawn, once for all parts."""
    names = _one_per_sample(groups, len(labels), "groups")
    distinct, codes = np.unique(names, return_inverse=True)
    chunks: list[list[dict]] = [[] for _ in parts]
    for weights in _bootstrap(codes, len(distinct), draws, seed):
        for found, rows in zip(chunks, parts, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):  # a draw without any of the part
                drawn = labels[rows], scores[rows], weights[rows]
                found.append(metrics_of(*drawn, ordinal=ordinal))
    return [
        _evaluation(labels[rows], scores[rows], len(np.unique(codes[rows])), found, draws, ordinal)
        for rows, found in zip(parts, chunks, strict=True)
    ]


def _evaluation(
    labels: Rows, scores: Array, groups: int, chunks: list[dict], draws: int, ordinal: bool
) -> Evaluation:
    point = metrics_of(labels, scores, np.ones((len(labels), 1)), ordinal=ordinal)
    if groups < 2 or not chunks:  # nothing can be said of another patient
        chunks = [dict.fromkeys(point, np.full(draws, np.nan))]
    drawn = {k: np.concatenate([chunk[k] for chunk in chunks]) for k in point}
    sizes = [*truth_of(labels, scores.shape[1]).sum(axis=0).tolist(), len(labels)]  # ALL: last
    estimates = {
        (name, c): Estimate(float(v[0]), *interval(drawn[name, c]), sizes[c])
        for (name, c), v in point.items()
    }
    overall, *per_class = (
        {name: estimate for (name, c), estimate in estimates.items() if c == which}
        for which in (ALL, *range(scores.shape[1]))
    )
    kept = {name: values for (name, c), values in drawn.items() if c == ALL}
    return Evaluation(overall, per_class, kept, _table(labels, scores), len(labels), groups)


def _bootstrap(codes: Rows, count: int, draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Weights (n, draws of this chunk): each draw takes `count` groups with replacement."""
    if count < 2:
        return
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(codes))
    for start in range(0, draws, step):
        size = min(step, draws - start)
        picks = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(picks.ravel(), minlength=size * count).reshape(size, count)
        yield times.T.astype(np.float32)[codes]
