"""Multi-label sets, where an image has any number of labels, from the metrics to the reports."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn import metrics as sk

from benchmark import metrics
from benchmark.errors import BenchError
from benchmark.metrics.rates import roc_curve

RATES = ("sensitivity", "specificity", "precision", "npv", "f1", "mcc", "accuracy_ovr")


def answered(n=160, seed=0):
    """Labels (n, 4) of prevalences from a half to a twentieth, and probabilities that know some."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.15, 0.05]).astype(np.uint8)
    scores = 1 / (1 + np.exp(-rng.normal(size=labels.shape) - 2.0 * labels + 1))
    return labels, scores, rng.integers(0, n // 2, n)


def by_scikit(labels, scores):
    """The same metrics by another implementation: lists over labels, and the exact match."""
    found = {name: [] for name in ("auroc", "auprc", "brier", "log_loss", *RATES)}
    for y, p in zip(labels.T, scores.T, strict=True):
        said = p >= 0.5
        found["auroc"].append(sk.roc_auc_score(y, p))
        found["auprc"].append(sk.average_precision_score(y, p))
        found["brier"].append(sk.brier_score_loss(y, p))
        found["log_loss"].append(sk.log_loss(y, p))
        found["sensitivity"].append(sk.recall_score(y, said))
        found["specificity"].append(sk.recall_score(y, said, pos_label=0))
        found["precision"].append(sk.precision_score(y, said))
        found["npv"].append(sk.precision_score(y, said, pos_label=0))
        found["f1"].append(sk.f1_score(y, said))
        found["mcc"].append(sk.matthews_corrcoef(y, said))
        found["accuracy_ovr"].append(sk.accuracy_score(y, said))
    return found, sk.accuracy_score(labels, scores >= 0.5)


def test_every_metric_is_that_of_scikit_learn_label_by_label():
    labels, scores, groups = answered()
    found = metrics.evaluate(labels, scores, groups, draws=50, seed=1)
    theirs, exact = by_scikit(labels, scores)
    ours = {name: found.overall[name].value for name in theirs}
    assert ours == pytest.approx({name: np.mean(each) for name, each in theirs.items()})
    assert found.overall["accuracy"].value == pytest.approx(exact)
    weighted = sk.roc_auc_score(labels, scores, average="weighted")
    assert found.overall["auroc_weighted"].value == pytest.approx(weighted)
    assert found.overall["worst_class_recall"].value == pytest.approx(min(theirs["sensitivity"]))
    each = {name.replace("sensitivity", "recall"): row for name, row in theirs.items()}
    told = ("auroc", "recall", "specificity", "precision", "f1", "auprc")
    ours = [[row[name].value for name in told] for row in found.per_class]
    np.testing.assert_allclose(ours, np.transpose([each[name] for name in told]))
    assert [row["auroc"].n for row in found.per_class] == labels.sum(0).tolist()
    assert found.over_classes()["auroc"] == pytest.approx(np.std(theirs["auroc"], ddof=1))


def test_the_calibration_error_is_the_mean_over_labels_of_their_gap_from_the_frequency_of_yes():
    labels, scores, groups = answered()
    gaps = []
    for y, p in zip(labels.T, scores.T, strict=True):
        edges = np.linspace(0, 1, 16)
        inside = [(p > a) & (p <= b) for a, b in pairwise(edges)]
        gaps.append(sum(abs(y[rows].sum() - p[rows].sum()) for rows in inside) / len(y))
    found = metrics.evaluate(labels, scores, groups, draws=0, seed=0)
    assert found.overall["ece"].value == pytest.approx(np.mean(gaps))


def test_intervals_hold_the_value_and_come_from_whole_patients():
    labels, scores, groups = answered()
    found = metrics.evaluate(labels, scores, groups, draws=300, seed=1)
    for name in ("auroc", "accuracy", "brier", "mcr"):
        value, low, high, n = found.overall[name]
        assert low < value < high and n == len(labels), name
    # Every image twice in its patient says nothing new.
    twice = [np.concatenate([one, one]) for one in (labels, scores, groups)]
    again = metrics.evaluate(*twice, draws=300, seed=1)
    assert again.overall["auroc"][:3] == pytest.approx(found.overall["auroc"][:3])


def test_two_labels_are_two_yes_or_no_and_not_one_binary_task():
    labels, scores, groups = answered()
    found = metrics.evaluate(labels[:, :2], scores[:, :2], groups, draws=0, seed=0)
    alone = [sk.roc_auc_score(labels[:, k], scores[:, k]) for k in (0, 1)]
    assert found.overall["auroc"].value == pytest.approx(np.mean(alone))
    assert "positive_sensitivity" not in found.overall
    assert found.over_classes()["auroc"] == pytest.approx(np.std(alone, ddof=1))
    curve = roc_curve([(labels[:, :2], scores[:, :2])])
    np.testing.assert_allclose(
        curve, np.mean([roc_curve([(labels[:, k], scores[:, [k, k]])]) for k in (0, 1)], 0)
    )


def test_a_label_that_no_test_image_has_is_left_out_of_the_means():
    labels, scores, groups = answered()
    labels[:, 2] = 0
    with pytest.warns(UserWarning, match="class 2"):
        found = metrics.evaluate(labels, scores, groups, draws=20, seed=0)
    rest = [sk.roc_auc_score(labels[:, k], scores[:, k]) for k in (0, 1, 3)]
    assert found.overall["auroc"].value == pytest.approx(np.mean(rest))
    assert np.isnan(found.per_class[2]["auroc"].value) and found.per_class[2]["auroc"].n == 0


def test_subgroups_of_patients():
    labels, scores, groups = answered(seed=3)
    sex = np.where(groups % 2, "f", "m")
    found = metrics.subgroups(labels, scores, groups, {"sex": sex}, draws=20, seed=1)["sex"]
    for value, one in found.items():
        rows = sex == value
        alone = metrics.evaluate(labels[rows], scores[rows], groups[rows], draws=0, seed=1)
        assert one.overall["auroc"].value == pytest.approx(alone.overall["auroc"].value)
    assert set(found) == {"f", "m"}


@pytest.mark.parametrize(
    ("labels", "scores", "what"),
    [
        (np.eye(3), np.full((3, 2), 0.5), "do not go with"),
        (2 * np.eye(3), np.full((3, 3), 0.5), "not all 0 or 1"),
        (np.eye(3), np.full((3, 3), 1.5), "no probabilities"),
    ],
)
def test_what_does_not_fit_is_refused(labels, scores, what):
    with pytest.raises(BenchError, match=what):
        metrics.evaluate(labels, scores, np.arange(3), draws=0, seed=0)
