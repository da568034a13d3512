"""Multi-label sets, where an image has any number of labels, from the metrics to the reports."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from benchmark import metrics, registry
from benchmark.errors import BenchError
from benchmark.metrics.rates import roc_curve
from benchmark.spec import Recipe
from benchmark.train import choose, heads, loop, objective, record_side
from benchmark.train.classifier import Head
from benchmark.train.heads import PENALTIES
from benchmark.train.softmax import softmax_optimum

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


def test_a_probability_of_a_half_says_the_same_before_and_after_it_was_kept():
    labels, scores, groups = answered()
    scores[:, 0] = 0.5 - 1e-12
    found = [
        metrics.evaluate(labels, one, groups, draws=0, seed=0).overall["accuracy"].value
        for one in (scores, scores.astype(np.float32))
    ]
    assert found[0] == found[1]


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


# --- training ---------------------------------------------------------------------------------

RECIPE = Recipe(epochs=20, batch=32, lr=1e-2, optimizer="adamw", dropout=0.0, threads=1)


@pytest.fixture(scope="module")
def problem():
    """Features (200, 6) of different scales, and three labels (200, 3) they tell something of."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=(200, 6))
    logits = values @ rng.normal(size=(6, 3)) + [0.0, -1.0, -2.0] + rng.logistic(size=(200, 3))
    return values * np.geomspace(0.01, 50, 6) + 3, (logits > 0).astype(np.uint8)


def by_label(values, labels, l2, seen, class_weight="balanced"):
    """Scikit-learn's regression for each label: weights (3, 6) in raw units and biases (3,)."""
    mean, deviation = values[seen].mean(0), values[seen].std(0)
    z, found = (values[seen] - mean) / deviation, []
    for y in labels[seen].T:
        model = LogisticRegression(
            C=1 / (l2 * len(seen)), class_weight=class_weight, tol=1e-10, max_iter=5000
        ).fit(z, y)
        found.append(model.predict_proba((values - mean) / deviation)[:, 1])
    return np.stack(found, 1)


@pytest.mark.parametrize("few", [False, True], ids=["more images", "fewer images than features"])
def test_a_solved_head_is_scikit_learns_regression_of_each_label(problem, few):
    values, labels = problem
    if few:
        rng = np.random.default_rng(0)
        values = np.concatenate([values, rng.normal(size=(200, 60))], 1)
    seen = np.arange(50 if few else 120)
    weights = objective.class_weights(labels[seen], 3, RECIPE)
    balance = np.take_along_axis(weights, labels[seen].astype(int), 0)
    for l2 in (1.0, 1e-2):
        found = softmax_optimum(
            values[seen], labels[seen], classes=3, l2=l2, sample_weight=balance, tolerance=1e-9
        )
        assert found.converged and found.iterations < 20
        ours = heads.probabilities(found, values, multilabel=True)
        np.testing.assert_allclose(ours, by_label(values, labels, l2, seen), atol=1e-6)


def test_the_descent_of_the_paper_comes_to_the_same_optimum(problem):
    values, labels = problem
    z = (values - values.mean(0)) / values.std(0)
    how = {"classes": 3, "l2": 1e-2}
    near = softmax_optimum(z, labels, faithful=True, max_iterations=3000, **how)
    far = softmax_optimum(z, labels, **how)
    assert near.converged
    np.testing.assert_allclose(near.weight, far.weight, atol=1e-4)


def test_one_penalty_serves_all_labels_and_validation_chooses_it(problem):
    values, labels = problem
    rows = choose.Rows(np.arange(100), np.arange(100), np.arange(100, 150))
    found, choice = heads.solved(values, labels, rows, RECIPE, classes=3, report=loop.Callbacks())
    told = float(choice.text.split()[1])
    said = {l2: by_label(values, labels, l2, rows.fit) for l2 in PENALTIES}
    judged = {l2: sk.roc_auc_score(labels[rows.val], p[rows.val]) for l2, p in said.items()}
    assert judged[told] == max(judged.values()) > min(judged.values())
    ours = heads.probabilities(found, values, multilabel=True)
    np.testing.assert_allclose(ours, said[told], atol=1e-4)


@pytest.mark.parametrize("kind", ["none", "balanced", "complement"])
def test_the_loss_is_each_labels_weighted_cross_entropy(problem, kind):
    _, labels = problem
    labels = labels.copy()
    labels[:, 2] = 0  # no training image has it: it still has its loss
    recipe = RECIPE.model_copy(update={"class_weights": kind})
    loss = objective.loss(torch.from_numpy(labels), np.arange(200), 3, recipe)
    p = np.random.default_rng(1).uniform(0.05, 0.95, labels.shape)
    given = float(loss(torch.from_numpy(np.log(p / (1 - p))), torch.from_numpy(labels)))
    each = []
    for y, q in zip(labels.T, p.T, strict=True):
        yes = max(int(y.sum()), 1)
        odds = {"none": (1, 1), "balanced": (1 / (200 - yes), 1 / yes)}
        odds["complement"] = (yes / (200 - yes), (200 - yes) / yes)
        weights = np.where(y, odds[kind][1], odds[kind][0])
        each.append(sk.log_loss(y, q, sample_weight=weights, labels=[0, 1]))
    assert given == pytest.approx(np.mean(each), rel=1e-5)


def test_a_network_learns_every_label_and_keeps_the_best_epoch(problem):
    values, labels = problem
    z = torch.from_numpy(((values - values.mean(0)) / values.std(0)).astype(np.float32))
    torch.manual_seed(0)
    model, val = Head(6, 3, dropout=0.0), np.arange(120, 200)
    how = {"classes": 3, "seed": 1}
    truth, inputs = torch.from_numpy(labels), loop.Features(z, None)
    fit = loop.fit(model, inputs, truth, np.arange(120), val, RECIPE, **how)
    scores = loop.predict(
        model, inputs, torch.from_numpy(val), RECIPE, torch.device("cpu"), multilabel=True
    )
    assert sk.roc_auc_score(labels[val], scores) == pytest.approx(
        max(row["val_auroc"] for row in fit.history)
    )
    assert sk.roc_auc_score(labels[val], scores) > 0.8
    assert not np.allclose(scores.sum(1), 1)


def test_the_record_alone_answers_label_by_label(problem):
    record, labels = problem
    arm = registry.load("fusion", "metadata:logistic")
    found = record_side.fitted(arm, record[:120], labels[:120], record[120:], 0, classes=3)
    alone = [arm.fit_predict(record[:120], y, record[120:], 0)[:, 1] for y in labels[:120].T]
    np.testing.assert_array_equal(found, np.stack(alone, 1))


def test_late_fusion_multiplies_the_odds_of_each_label(problem):
    _, labels = problem
    rng = np.random.default_rng(2)
    image, record = rng.uniform(0.1, 0.9, (2, 50, 3))
    side = registry.load("fusion", "metadata:logistic")
    found = {
        variant: record_side.combined(
            registry.load("fusion", f"late:{variant}"), image, record, side, labels, Recipe()
        )
        for variant in ("mean", "product")
    }
    np.testing.assert_allclose(found["mean"], (image + record) / 2)
    odds = image / (1 - image) * record / (1 - record)  # the record was fitted balanced: even odds
    np.testing.assert_allclose(found["product"], odds / (1 + odds))
