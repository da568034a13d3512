"""Metrics against independent implementations, awkward folds by hand, and the bootstrap."""

import math
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import metrics
from benchmark.errors import BenchError, NotFinite
from benchmark.metrics import evaluate, one_vs_rest, subgroups
from benchmark.metrics.rates import ALL, metrics_of

GOLDEN = np.load(Path(__file__).parent / "data" / "metrics_golden.npz")
CASES = sorted({key.split("__")[0] for key in GOLDEN.files})
TEN = (
    *("accuracy", "sensitivity", "specificity", "precision", "npv"),
    *("f1", "informedness", "markedness", "mcc", "auroc"),
)


def golden(case):
    return GOLDEN[f"{case}__labels"], GOLDEN[f"{case}__scores"]


def quiet(function, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def simulated(n, classes, *, seed=0, skill=1.5, decimals=None):
    rng = np.random.default_rng(seed)
    prior = 1 / np.arange(1, classes + 1)
    labels = rng.choice(classes, n, p=prior / prior.sum())
    logits = rng.normal(size=(n, classes)) + skill * np.eye(classes)[labels]
    if decimals is not None:
        logits = logits.round(decimals)
    scores = np.exp(logits)
    return labels, scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    table = quiet(one_vs_rest, *golden(case))
    assert [tuple(row) for row in table["per_class"]] == [TEN] * len(table["per_class"])
    per_class = [[row[name] for name in TEN] for row in table["per_class"]]
    np.testing.assert_allclose(per_class, GOLDEN[f"{case}__per_class"], rtol=0, atol=1e-12)
    macro = [[table["macro"][name][k] for k in ("mean", "std", "n_defined")] for name in TEN]
    np.testing.assert_allclose(macro, GOLDEN[f"{case}__macro"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_golden_prior_weighted_auroc(case):
    labels, scores = golden(case)
    result = quiet(evaluate, labels, scores, np.arange(len(labels)), draws=0, seed=0)
    value = result.overall["auroc_weighted"].value
    np.testing.assert_allclose(value, GOLDEN[f"{case}__weighted"], rtol=0, atol=1e-12)


def one_hot(predictions, classes):
    return np.eye(classes)[predictions]


# label, prediction, class -> the rates the rule gives; what is not named is an ordinary number.
AWKWARD = {
    "absent, predicted": (
        [0, 0, 1, 1], [0, 2, 1, 1], 2,
        {"sensitivity": math.nan, "f1": math.nan, "informedness": math.nan, "mcc": math.nan,
         "auroc": math.nan, "precision": 0, "npv": 1, "markedness": 0, "accuracy": 0.75,
         "specificity": 0.75},
    ),
    "absent, never predicted": (
        [0, 0, 1, 1], [0, 1, 1, 1], 2,
        {"sensitivity": math.nan, "f1": math.nan, "informedness": math.nan, "mcc": math.nan,
         "auroc": math.nan, "precision": math.nan, "markedness": math.nan, "npv": 1,
         "specificity": 1, "accuracy": 1},
    ),
    "present, never predicted": (
        [0, 0, 1, 2], [0, 1, 1, 1], 2,
        {"sensitivity": 0, "precision": 0, "f1": 0, "markedness": 0, "mcc": 0, "npv": 0.75,
         "specificity": 1, "informedness": 0},
    ),
    "all labels": (
        [1, 1, 1, 1], [1, 1, 1, 0], 1,
        {"specificity": math.nan, "informedness": math.nan, "mcc": math.nan, "auroc": math.nan,
         "sensitivity": 0.75, "precision": 1, "npv": 0, "markedness": 0},
    ),
    "always predicted": (
        [0, 0, 1, 1], [0, 0, 0, 0], 0,
        {"npv": math.nan, "mcc": 0, "markedness": 0, "precision": 0.5, "sensitivity": 1,
         "specificity": 0, "informedness": 0},
    ),
    "all labels and always predicted": (
        [1, 1, 1], [1, 1, 1], 1,
        {"npv": math.nan, "specificity": math.nan, "mcc": math.nan, "auroc": math.nan,
         "markedness": 0, "precision": 1, "sensitivity": 1, "f1": 1, "accuracy": 1},
    ),
    "absent and always predicted": (
        [0, 1, 0], [2, 2, 2], 2,
        {"npv": math.nan, "mcc": math.nan, "sensitivity": math.nan, "precision": 0,
         "markedness": 0, "specificity": 0},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AWKWARD)
def test_awkward_folds(case):
    labels, predictions, which, expected = AWKWARD[case]
    row = quiet(one_vs_rest, labels, one_hot(predictions, 3))["per_class"][which]
    assert {k: row[k] for k in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_undefined_classes_are_counted_and_warned_about():
    with pytest.warns(UserWarning, match=r"sensitivity.*auroc of class 2"):
        table = one_vs_rest([0, 0, 1, 1], one_hot([0, 1, 1, 1], 3))
    assert table["macro"]["sensitivity"]["n_defined"] == 2
    assert table["macro"]["accuracy"]["n_defined"] == 3
    assert table["macro"]["sensitivity"]["mean"] == pytest.approx(0.75)
    assert table["macro"]["sensitivity"]["std"] == pytest.approx(np.std([0.5, 1], ddof=1))


def test_a_whole_fold_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one_vs_rest(*simulated(200, 3))
        evaluate(*simulated(40, 3), np.arange(40), draws=100, seed=0)


def test_ties_take_the_lowest_index():
    table = quiet(one_vs_rest, [0, 1, 2], [[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [1 / 3] * 3])
    assert [row["sensitivity"] for row in table["per_class"]] == [1, 1, 0]


def test_against_scikit_learn():
    from sklearn import metrics as sk

    labels, scores = simulated(500, 4, decimals=1)
    assert len(np.unique(scores[:, 0])) < 500  # ties are part of the test
    values = {
        k: e.value for k, e in evaluate(labels, scores, labels, draws=0, seed=0).overall.items()
    }
    hot = np.eye(4)[labels]
    top = scores.argmax(axis=1)
    expected = {
        "auroc": sk.roc_auc_score(labels, scores, multi_class="ovr", average="macro"),
        "auroc_weighted": sk.roc_auc_score(labels, scores, multi_class="ovr", average="weighted"),
        "accuracy": sk.accuracy_score(labels, top),
        "mcr": sk.balanced_accuracy_score(labels, top),
        "worst_class_recall": sk.recall_score(labels, top, average=None).min(),
        "precision": sk.precision_score(labels, top, average="macro"),
        "f1": sk.f1_score(labels, top, average="macro"),
        "mcc": np.mean([sk.matthews_corrcoef(labels == k, top == k) for k in range(4)]),
        "auprc": sk.average_precision_score(hot, scores, average="macro"),
        "brier": ((scores - hot) ** 2).sum(axis=1).mean(),
        "log_loss": sk.log_loss(labels, scores),
    }
    assert {k: values[k] for k in expected} == pytest.approx(expected, abs=1e-12)
    binary = {k for k in metrics.NAMES if k.startswith("positive_")}
    assert set(values) == set(metrics.NAMES) - binary - {metrics.KAPPA}


def test_binary_against_scikit_learn():
    from sklearn import metrics as sk

    labels, scores = simulated(300, 2)
    values = {
        k: e.value for k, e in evaluate(labels, scores, labels, draws=0, seed=0).overall.items()
    }
    top = scores.argmax(axis=1)
    expected = {
        "auroc": sk.roc_auc_score(labels, scores[:, 1]),
        "auroc_weighted": sk.roc_auc_score(labels, scores[:, 1]),
        "auprc": sk.average_precision_score(labels, scores[:, 1]),
        "brier": sk.brier_score_loss(labels, scores[:, 1]),
        "positive_sensitivity": sk.recall_score(labels, top),
        "positive_specificity": sk.recall_score(labels, top, pos_label=0),
        "positive_precision": sk.precision_score(labels, top),
        "positive_npv": sk.precision_score(labels, top, pos_label=0),
    }
    assert {k: values[k] for k in expected} == pytest.approx(expected, abs=1e-12)
    assert set(values) == set(metrics.NAMES) - {metrics.KAPPA}


def test_calibration_error_by_hand():
    # Bins (0.8, 0.867]: two cases of 0.85, one right; (0.933, 1]: one of 0.95, right.
    scores = [[0.85, 0.15], [0.15, 0.85], [0.05, 0.95]]
    value = evaluate([0, 0, 1], scores, [0, 1, 2], draws=0, seed=0).overall["ece"].value
    assert value == pytest.approx((abs(1 - 1.7) + abs(1 - 0.95)) / 3)


def test_log_loss_of_a_certain_mistake_is_finite():
    value = quiet(evaluate, [0, 1], [[0.0, 1.0], [0.0, 1.0]], [0, 1], draws=0, seed=0)
    assert value.overall["log_loss"].value == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_scores_need_not_be_probabilities():
    labels, scores = simulated(60, 3)
    logits = np.log(scores) * 3
    result = evaluate(labels, logits, np.arange(60), draws=20, seed=0).overall
    assert result["auroc"].value > 0.5
    assert all(math.isnan(result[name].value) for name in ("ece", "brier", "log_loss"))
    assert math.isnan(result["ece"].low)


def test_one_column_is_the_probability_of_class_1():
    labels, scores = simulated(50, 2)
    for column in (scores[:, 1], scores[:, 1:]):
        got = one_vs_rest(labels, column)["macro"]
        assert got["mcc"] == pytest.approx(one_vs_rest(labels, scores)["macro"]["mcc"])


def test_tensors_are_welcome():
    torch = pytest.importorskip("torch")
    labels, scores = simulated(50, 3)
    tensor = torch.tensor(scores, dtype=torch.bfloat16, requires_grad=True)
    expected = one_vs_rest(labels, tensor.detach().double().numpy())
    assert one_vs_rest(torch.tensor(labels), tensor) == expected


@pytest.mark.parametrize(
    ("labels", "scores", "error"),
    [
        ([0, 1], [[0.5, np.nan], [0.1, 0.9]], NotFinite),
        ([0, 1], [[0.5, np.inf], [0.1, 0.9]], NotFinite),
        ([0, 2], [[0.5, 0.5], [0.1, 0.9]], BenchError),
        ([0, -1], [[0.5, 0.5], [0.1, 0.9]], BenchError),
        ([0, 0.5], [[0.5, 0.5], [0.1, 0.9]], BenchError),
        ([0, 1, 1], [[0.5, 0.5], [0.1, 0.9]], BenchError),
        ([0, 1], [3.0, -2.0], BenchError),
        ([], np.empty((0, 2)), BenchError),
    ],
)
def test_what_cannot_be_scored_is_said(labels, scores, error):
    with pytest.raises(error) as caught:
        one_vs_rest(labels, scores)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, BenchError)
    assert caught.value.todo


def test_groups_must_match():
    with pytest.raises(metrics.BadScores, match="groups"):
        evaluate([0, 1], [[0.5, 0.5], [0.1, 0.9]], [1], seed=0)
    with pytest.raises(metrics.BadScores, match="values of sex"):
        subgroups([0, 1], [[0.5, 0.5], [0.1, 0.9]], [1, 2], {"sex": ["f"]}, seed=0)


# --- the bootstrap --------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(4, 60),
    classes=st.integers(2, 4),
    decimals=st.sampled_from([None, 0, 1]),
)
def test_a_draw_equals_the_metrics_of_the_repeated_samples(seed, n, classes, decimals):
    labels, scores = simulated(n, classes, seed=seed, decimals=decimals)
    groups = np.random.default_rng(seed).integers(0, n // 2, n)
    codes = np.unique(groups, return_inverse=True)[1]
    count = codes.max() + 1
    draws = quiet(evaluate, labels, scores, groups, draws=3, seed=seed).draws
    if count < 2:
        assert all(np.isnan(vector).all() and len(vector) == 3 for vector in draws.values())
        return
    weights = next(metrics._bootstrap(codes, count, 3, seed))
    for draw in range(3):
        times = weights[:, draw].astype(int)
        for group in range(count):
            assert len(set(times[codes == group])) == 1  # a group comes whole
        rows = np.repeat(np.arange(n), times)
        again = quiet(evaluate, labels[rows], scores[rows], rows, draws=0, seed=0).overall
        expected = {name: estimate.value for name, estimate in again.items()}
        got = {name: vector[draw] for name, vector in draws.items()}
        assert got == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_each_draw_takes_as_many_groups_as_there_are():
    codes = np.arange(37)
    weights = np.concatenate(list(metrics._bootstrap(codes, 37, 500, 3)), axis=1)
    assert weights.shape == (37, 500)
    assert (weights.sum(axis=0) == 37).all()
    assert weights.mean(axis=1) == pytest.approx(np.ones(37), abs=0.2)
    assert (weights == 0).mean() == pytest.approx(1 / np.e, abs=0.02)


def test_chunks_do_not_change_the_draws(monkeypatch):
    labels, scores = simulated(90, 3)
    whole = evaluate(labels, scores, np.arange(90), draws=64, seed=5)
    monkeypatch.setattr(metrics, "_CHUNK", 90 * 10)
    parts = evaluate(labels, scores, np.arange(90), draws=64, seed=5)
    for name, vector in whole.draws.items():
        np.testing.assert_allclose(parts.draws[name], vector, rtol=0, atol=1e-12)


def test_same_seed_same_draws_and_pairing_by_group_name():
    labels, scores = simulated(120, 3)
    groups = np.array([f"patient {i // 2}" for i in range(120)])
    first = evaluate(labels, scores, groups, draws=200, seed=1)
    shuffled = np.random.default_rng(0).permutation(120)
    again = evaluate(labels[shuffled], scores[shuffled], groups[shuffled], draws=200, seed=1)
    np.testing.assert_allclose(again.draws["auroc"], first.draws["auroc"], atol=1e-12)
    other = evaluate(labels, scores, groups, draws=200, seed=2)
    assert not np.array_equal(other.draws["auroc"], first.draws["auroc"])


def test_intervals_hold_their_value_and_know_their_counts():
    labels, scores = simulated(200, 3)
    groups = np.arange(200) // 4
    result = evaluate(labels, scores, groups, seed=0)
    assert (result.samples, result.groups) == (200, 50)
    for name, estimate in result.overall.items():
        # Calibration error is biased upwards by resampling; the others straddle the point.
        assert estimate.low <= estimate.high
        assert name == "ece" or estimate.low < estimate.value < estimate.high
        assert estimate.n == 200
        assert result.draws[name].shape == (2000,)
        assert result.defined(name) == 2000
    assert [row["recall"].n for row in result.per_class] == np.bincount(labels).tolist()
    for row, rates in zip(result.per_class, result.table["per_class"], strict=True):
        assert row["auroc"].value == rates["auroc"]
        assert row["recall"].value == rates["sensitivity"]
        assert row["auroc"].low < row["auroc"].value < row["auroc"].high


def test_groups_widen_the_interval():
    labels, scores = simulated(100, 2)
    repeated = np.repeat(np.arange(100), 8)
    by_image = evaluate(labels[repeated], scores[repeated], np.arange(800), seed=0)
    by_patient = evaluate(labels[repeated], scores[repeated], repeated, seed=0)
    alone = evaluate(labels, scores, np.arange(100), seed=0)

    def width(result):
        return result.overall["auroc"].high - result.overall["auroc"].low

    assert width(by_patient) == pytest.approx(width(alone), rel=0.01)
    assert width(by_patient) > 2 * width(by_image)


def test_one_group_has_no_interval():
    labels, scores = simulated(30, 2)
    result = evaluate(labels, scores, np.zeros(30), draws=50, seed=0)
    assert math.isnan(result.overall["auroc"].low)
    assert math.isnan(result.per_class[0]["recall"].high)
    assert result.draws["auroc"].shape == (50,)
    assert result.defined("auroc") == 0


def test_undefined_draws_are_left_out():
    labels = np.array([1, 0, 0, 0, 0, 0])  # every third draw lacks the only positive
    scores = np.array([0.9, 0.1, 0.2, 0.95, 0.3, 0.4])
    result = evaluate(labels, scores, np.arange(6), draws=600, seed=0)
    assert result.defined("auroc") == pytest.approx(600 * (1 - (5 / 6) ** 6), rel=0.1)
    assert result.defined("accuracy") == 600
    assert 0 < result.overall["auroc"].low <= result.overall["auroc"].high <= 1


@pytest.mark.parametrize(("seed", "skill"), [(0, 0.5), (1, 2.0)])
def test_the_interval_covers_the_truth(seed, skill):
    """The binary AUROC of two normals 'skill' apart in both logits is known."""
    from scipy.stats import norm

    truth = norm.cdf(skill)  # the difference of logits: ± skill, variance 2, so 2·skill / 2
    covered = 0
    for trial in range(100):
        labels, scores = simulated(200, 2, seed=1000 * seed + trial, skill=skill)
        estimate = evaluate(labels, scores, np.arange(200), draws=300, seed=trial).overall["auroc"]
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 88


def test_bootstrap_is_vectorised():
    """The draws cost far less than computing the metrics anew; a ratio, not seconds."""
    labels, scores = simulated(2000, 7)
    groups = np.arange(2000)
    evaluate(labels, scores, groups, draws=50, seed=0)
    start = time.process_time()
    evaluate(labels, scores, groups, draws=0, seed=0)
    once = time.process_time() - start
    start = time.process_time()
    evaluate(labels, scores, groups, draws=2000, seed=0)
    assert time.process_time() - start < max(300 * once, 2.5)


# --- subgroups ------------------------------------------------------------------------------


def test_subgroups():
    labels, scores = simulated(400, 3)
    groups = np.arange(400) // 2
    sex = np.where(np.arange(400) % 4 < 2, "female", "male")
    sex[:40] = ""
    columns = {
        "sex": sex,
        "site": np.where(np.arange(400) < 10, "rare", "common"),
        "everyone": np.full(400, "all"),
    }
    result = subgroups(labels, scores, groups, columns, draws=200, seed=0)
    assert set(result["sex"]) == {"female", "male"}
    assert set(result["site"]) == {"common"}  # five groups are fewer than ten
    rows = sex == "female"
    alone = evaluate(labels[rows], scores[rows], groups[rows], draws=200, seed=0).overall
    found = result["sex"]["female"]
    assert {name: found.overall[name].value for name in alone} == {
        name: estimate.value for name, estimate in alone.items()
    }
    assert (found.overall["auroc"].n, found.groups) == (rows.sum(), 90)
    # One resample for all: what holds everyone has the draws of the whole test.
    whole = evaluate(labels, scores, groups, draws=200, seed=0)
    assert (result["everyone"]["all"].draws["auroc"] == whole.draws["auroc"]).all()


def test_subgroups_lacking_a_class_do_not_warn():
    labels, scores = simulated(100, 3)
    column = np.where(labels == 2, "sick", "other")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = subgroups(labels, scores, np.arange(100), {"x": column}, draws=20, seed=0)
    assert 0.5 < result["x"]["other"].overall["auroc"].value <= 1
    assert math.isnan(result["x"]["sick"].overall["auroc"].value)


def test_a_draw_without_any_of_a_subgroup_says_nothing():
    labels, scores = simulated(300, 2)
    column = np.where(np.arange(300) < 2, "few", "most")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = subgroups(
            labels, scores, np.arange(300), {"x": column}, draws=100, seed=0, minimum=2
        )
    accuracy = result["x"]["few"].draws["accuracy"]
    assert 0 < np.isnan(accuracy).sum() < 100
    assert not np.isnan(result["x"]["most"].draws["accuracy"]).any()


def test_quadratic_kappa_is_scikit_learns_under_any_weights():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(5, size=60), rng.random((60, 5))
    weights = rng.integers(4, size=(60, 3)).astype(np.float32)
    found = metrics_of(labels, scores, weights, ordinal=True)["quadratic_kappa", ALL]
    guess = scores.argmax(1)
    want = [cohen_kappa_score(labels, guess, weights="quadratic", sample_weight=w)
            for w in weights.T]  # fmt: skip
    np.testing.assert_allclose(found, want)
    one = metrics_of(np.zeros(4, int), np.eye(5)[[0, 0, 0, 0]], np.ones((4, 1)), ordinal=True)
    assert np.isnan(one["quadratic_kappa", ALL]).all()  # one grade, and nothing else was said
    assert ("quadratic_kappa", ALL) not in metrics_of(labels, scores, weights)
