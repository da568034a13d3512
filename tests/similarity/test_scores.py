"""Transferability scores against known answers, plain formulas and their own properties."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import BenchError
from similarity import scores

DATA = Path(__file__).parents[1] / "data"
NAMES = ("logme", "h_score", "transrate", "gbc", "parc", "nleep", "sfda", "knn", "linear_probe")
CLOSED = NAMES[:7]  # those that a class of one sample does not stop


@pytest.fixture(scope="module")
def s1():
    first, second = np.load(DATA / "scores_s1_a.npz"), np.load(DATA / "scores_s1_b.npz")
    return np.vstack([first["x"], second["x"]]), second["y"], second["p"]


def problem(seed: int, *, n: int, d: int, classes: int, signal: float = 1.0):
    """Features of `classes` unequal Gaussian classes, of which each has six samples or more."""
    rng = np.random.default_rng(seed)
    y = np.arange(classes).repeat(6)
    y = np.concatenate([y, rng.choice(classes, n - len(y), p=_uneven(classes))])
    return signal * rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)), rng.permutation(y)


def _uneven(classes: int) -> np.ndarray:
    weights = 1.0 + np.arange(classes)
    return weights / weights.sum()


def clear(seed: int, **shape: int):
    """As `problem`, with features that do tell the classes."""
    rng = np.random.default_rng(seed)
    x, y = problem(seed, signal=0.0, **shape)
    return x + 1.5 * rng.normal(size=(y.max() + 1, x.shape[1]))[y], y


def hot(n: int, names: int, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((n, names)) < 0.4).astype(np.uint8)


@pytest.mark.parametrize("name", ["logme", "knn", "linear_probe"])
def test_a_score_of_label_sets_is_the_mean_over_labels(name: str):
    y = hot(80, 3, seed=1)
    x = np.random.default_rng(0).normal(size=(80, 6)) + np.pad(2 * y, ((0, 0), (0, 3)))
    found = getattr(scores, name)(x, np.column_stack([y, np.zeros(80, np.uint8)]))
    # Of classes LogME is the mean over the columns of no and of yes.
    columns = y.T[:, :, None] if name == "logme" else y.T
    each = [getattr(scores, name)(x, column) for column in columns]
    assert found == pytest.approx(np.mean(each))
    shuffled = np.random.default_rng(2).permutation(80)
    assert getattr(scores, name)(x, y[shuffled]) < found


def test_a_label_of_one_patient_is_left_out_of_a_cross_validated_score():
    y, groups = hot(80, 3, seed=1), np.arange(80) // 2
    y[:, 2] = groups == 5
    x = np.random.default_rng(0).normal(size=(80, 6))
    each = [scores.knn(x, column, groups=groups) for column in y.T[:2]]
    assert scores.knn(x, y, groups=groups) == pytest.approx(np.mean(each))


def test_known_values(s1):
    x, y, p = s1
    close = {"rel": 0, "abs": 1e-8}
    assert scores.leep(p, y) == pytest.approx(-1.4300555107755344, **close)
    assert scores.nce(p.argmax(axis=1), y) == pytest.approx(-1.3342231961623388, **close)
    assert scores.h_score(x, y, shrinkage=False) == pytest.approx(3.6309246949819483, **close)
    assert scores.logme(x, y) == pytest.approx(0.2755762157610309, abs=1e-8)
    assert scores.transrate(x, y) == pytest.approx(14.330757811696515, **close)
    assert scores.transrate(x, y, weighted=True) == pytest.approx(14.330757811696458, **close)
    assert scores.gbc(x, y) == pytest.approx(-0.00034096442486778464, **close)
    found = scores.gbc(x, y, covariance="spherical")
    assert found == pytest.approx(-0.39186305235485897, **close)


# LogME


def greatest_evidence(x: np.ndarray, target: np.ndarray) -> float:
    """log N(target; 0, I/β + xxᵀ/α) maximised over log α and log β from several starts."""
    from scipy.optimize import minimize

    n = len(x)
    gram = x @ x.T

    def negative(logs: np.ndarray) -> float:
        covariance = np.eye(n) * np.exp(-logs[1]) + gram * np.exp(-logs[0])
        logdet = np.linalg.slogdet(covariance)[1]
        return (n * np.log(2 * np.pi) + logdet + target @ np.linalg.solve(covariance, target)) / 2

    bounds = [(-12, 25), (-12, 18)]
    starts = itertools.product((-3, 2, 8), (-1, 3, 8))
    found = [minimize(negative, np.array(s, float), bounds=bounds, tol=1e-13) for s in starts]
    result = min(found, key=lambda one: one.fun)
    for _ in range(2):
        result = minimize(
            negative, result.x, method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12}
        )
    return -result.fun / n


@pytest.mark.parametrize(
    ("seed", "n", "d", "classes"),
    [(0, 30, 200, 2), (1, 40, 60, 3), (2, 30, 31, 2), (3, 50, 12, 3), (4, 26, 26, 2)],
)
@pytest.mark.parametrize("make", [problem, clear])
def test_logme_is_the_greatest_evidence(make, seed, n, d, classes):
    x, y = make(seed, n=n, d=d, classes=classes)
    direct = [greatest_evidence(x, (y == c).astype(float)) for c in range(classes)]
    assert scores.logme(x, y) == pytest.approx(np.mean(direct), abs=1e-6)


def test_logme_with_repeated_directions_is_the_greatest_evidence():
    x, y = clear(5, n=40, d=6, classes=2)
    x = np.hstack([x, x @ np.random.default_rng(0).normal(size=(6, 30))])  # rank 6 of 36
    direct = [greatest_evidence(x, (y == c).astype(float)) for c in range(2)]
    assert scores.logme(x, y) == pytest.approx(np.mean(direct), abs=1e-6)


def test_logme_of_a_small_set_and_a_wide_network_stays_small():
    x, y = problem(6, n=100, d=2048, classes=3)
    assert -1 < scores.logme(np.maximum(x, 0), y) < 0  # the popular code says about 80


def test_logme_at_its_edges():
    y = np.arange(3).repeat([5, 9, 16])
    one_hot = np.eye(3)[y]
    assert scores.logme(one_hot, y) == math.inf
    flat = -np.mean([np.log(2 * np.pi * np.e * (y == c).mean()) / 2 for c in range(3)])
    assert scores.logme(np.zeros((30, 4)), y) == pytest.approx(flat)


# formulas, written out


def test_leep_and_nce_equal_their_formulas():
    rng = np.random.default_rng(7)
    p, y = rng.dirichlet(np.full(6, 0.3), size=80), rng.integers(4, size=80)
    p[:, 5], p[:, 0] = 0, p[:, 0] + p[:, 5]  # a source class that nothing looks like
    n, total = len(y), 0.0
    for i in range(n):
        inner = 0.0
        for z in range(5):
            joint = sum(p[j, z] for j in range(n) if y[j] == y[i]) / n
            inner += joint / (p[:, z].sum() / n) * p[i, z]
        total += math.log(inner)
    assert scores.leep(p, y) == pytest.approx(total / n, abs=1e-8)
    z = p.argmax(axis=1)
    entropy = 0.0
    for i in range(n):
        entropy -= math.log(((z == z[i]) & (y == y[i])).sum() / (z == z[i]).sum()) / n
    assert scores.nce(z, y) == pytest.approx(-entropy, abs=1e-8)


def test_leep_of_hard_predictions_is_nce_and_both_have_their_limits():
    rng = np.random.default_rng(8)
    z, y = rng.integers(5, size=60), rng.integers(3, size=60)
    assert scores.leep(np.eye(5)[z], y) == pytest.approx(scores.nce(z, y), abs=1e-12)
    frequency = np.bincount(y) / 60
    entropy = -(frequency * np.log(frequency)).sum()
    assert scores.leep(np.full((60, 7), 1 / 7), y) == pytest.approx(-entropy)
    assert scores.nce(["same"] * 60, y) == pytest.approx(-entropy)
    assert scores.nce(y, y) == pytest.approx(0)


@pytest.mark.parametrize(("n", "d"), [(70, 9), (40, 90)])
def test_transrate_and_gbc_equal_their_formulas(n, d):
    x, y = clear(9, n=n, d=d, classes=3)
    x = x + 5

    def rate(z: np.ndarray) -> float:
        return np.linalg.slogdet(np.eye(d) + z.T @ z / (len(z) * 1e-4))[1] / 2

    z = x - x.mean(axis=0)
    rates = [rate(z[y == c]) for c in range(3)]
    assert scores.transrate(x, y) == pytest.approx(rate(z) - np.mean(rates), abs=1e-8)
    weighted = rate(z) - sum((y == c).mean() * rates[c] for c in range(3))
    assert scores.transrate(x, y, weighted=True) == pytest.approx(weighted, abs=1e-8)

    x = x / 5
    for covariance in ("diagonal", "spherical"):
        total = 0.0
        for i, j in itertools.permutations(range(3), 2):
            a, b = x[y == i], x[y == j]
            va, vb = a.var(axis=0), b.var(axis=0)
            if covariance == "spherical":
                va, vb = np.full(d, va.mean()), np.full(d, vb.mean())
            middle = np.diag((va + vb) / 2)
            m = a.mean(axis=0) - b.mean(axis=0)
            distance = m @ np.linalg.inv(middle) @ m / 8 + 0.5 * np.linalg.slogdet(middle)[1]
            distance -= 0.25 * (np.log(va).sum() + np.log(vb).sum())
            total -= math.exp(-distance)
        assert scores.gbc(x, y, covariance=covariance) == pytest.approx(total, abs=1e-8)


def test_parc_equals_its_formula():
    from scipy.stats import spearmanr

    x, y = clear(10, n=40, d=15, classes=3)
    x[7] = 2.0  # no variance: correlates with nothing
    pairs = list(itertools.combinations(range(40), 2))
    apart = [0 if 7 in (i, j) else np.corrcoef(x[i], x[j])[0, 1] for i, j in pairs]
    labels = [round(np.corrcoef(np.eye(3)[y[i]], np.eye(3)[y[j]])[0, 1], 9) for i, j in pairs]
    direct: Any = spearmanr(1 - np.array(apart), 1 - np.array(labels))[0]
    assert scores.parc(x, y) == pytest.approx(100 * direct, abs=1e-8)


@pytest.mark.parametrize(("n", "d"), [(80, 10), (30, 100)])
def test_h_score_equals_its_formula(n, d):
    from sklearn.covariance import ledoit_wolf

    x, y = clear(11, n=n, d=d, classes=3)
    means = np.array([x[y == c].mean(axis=0) for c in range(3)])[y]
    covariance, alpha = ledoit_wolf(x)
    direct = np.trace(np.linalg.pinv(covariance) @ np.cov(means.T, bias=True)) * (1 - alpha)
    assert scores.h_score(x, y) == pytest.approx(direct, rel=1e-8)
    plain = np.trace(np.linalg.pinv(np.cov(x.T)) @ np.cov(means.T))
    if n > d:
        assert scores.h_score(x, y, shrinkage=False) == pytest.approx(plain, rel=1e-8)
    else:
        assert plain == pytest.approx(2)  # C − 1, whatever the features
        assert math.isnan(scores.h_score(x, y, shrinkage=False))


def fisher(x: np.ndarray, y: np.ndarray, shrinkage: float | None):
    """Regularised discriminant analysis by the generalised eigenproblem, as its authors do it."""
    from scipy.linalg import eigh
    from scipy.special import log_softmax

    classes, d = y.max() + 1, x.shape[1]
    means = np.array([x[y == c].mean(axis=0) for c in range(classes)])
    prior = np.bincount(y) / len(y)
    within = sum((prior[c] * np.cov(x[y == c].T, bias=True) for c in range(classes)), np.zeros(()))
    if shrinkage is None:
        shrinkage = max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)

    def shrunk(matrix: np.ndarray) -> np.ndarray:
        return (1 - shrinkage) * matrix + shrinkage * np.trace(matrix) / d * np.eye(d)

    within, total = shrunk(within), shrunk(np.cov(x.T, bias=True))
    vectors = eigh(total - within, within)[1]
    weights = means @ vectors @ vectors.T
    bias = np.log(prior) - (means * weights).sum(axis=1) / 2
    return log_softmax(x @ weights.T + bias, axis=1), means, shrinkage


@pytest.mark.parametrize(("n", "d", "scale"), [(90, 12, 1.0), (90, 12, 0.3), (30, 60, 0.05)])
def test_sfda_equals_its_formula(n, d, scale):
    x, y = problem(12, n=n, d=d, classes=3)
    x = x * scale + 1
    logs, means, shrinkage = fisher(x, y, None)
    soft = np.exp(np.exp(logs))
    sure = (soft / soft.sum(axis=1, keepdims=True))[np.arange(n), y][:, None]
    others = np.array([np.delete(means, c, axis=0).mean(axis=0) for c in range(3)])[y]
    logs = fisher(sure * x + (1 - sure) * others, y, shrinkage)[0][np.arange(n), y]
    assert scores.sfda(x, y) == pytest.approx(logs.mean(), rel=1e-6)
    assert scores.sfda(x, y, log=False) == pytest.approx(np.exp(logs).mean(), rel=1e-6)


def test_nleep_knows_separate_clusters_from_noise():
    rng = np.random.default_rng(13)
    y = np.arange(3).repeat(60)
    apart = 50 * np.eye(3)[y] + rng.normal(size=(180, 3))
    assert scores.nleep(apart, y) == pytest.approx(0, abs=1e-6)
    assert scores.nleep(apart, y, log=False) == pytest.approx(1)
    noise = scores.nleep(rng.normal(size=(180, 3)), y)
    assert -1.0 > noise > -math.log(3) - 0.05
    with pytest.raises(BenchError, match="15 components and there are 14"):
        scores.nleep(rng.normal(size=(14, 3)), y[::13])


@pytest.mark.parametrize("score", [scores.knn, scores.linear_probe])
def test_probes_know_signal_from_noise(score):
    x, y = clear(14, n=150, d=30, classes=3)
    assert score(x, y) > 0.97
    assert score(x, y, metric="accuracy") > 0.8
    x, y = problem(15, n=300, d=10, classes=3, signal=0)
    assert score(x, y) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("score", [scores.knn, scores.linear_probe])
def test_probes_keep_a_group_on_one_side(score):
    rng = np.random.default_rng(16)
    group = np.arange(60).repeat(5)
    y = rng.integers(2, size=60)[group]  # chance labels, the same for a patient's five images
    x = rng.normal(size=(60, 80))[group] + 0.01 * rng.normal(size=(300, 80))
    assert score(x, y) > 0.95
    assert score(x, y, groups=group) < 0.7
    with pytest.raises(BenchError, match="two samples"):
        score(x, y, groups=y)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("score", [scores.knn, scores.linear_probe])
def test_probes_of_label_sets_equal_the_librarys_own(score, grouped: bool):
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler

    models = {
        scores.knn: (Normalizer(), KNeighborsClassifier(5, weights="distance")),
        scores.linear_probe: (StandardScaler(), LogisticRegression(max_iter=1_000)),
    }
    model, y = make_pipeline(*models[score]), hot(60, 2, seed=5)
    x = np.random.default_rng(6).normal(size=(60, 4)) + np.pad(y, ((0, 0), (0, 2)))
    order = sorted(range(60), key=lambda i: x[i].tobytes())
    x, y, groups = x[order], y[order], np.array(order) // 2 if grouped else None
    each = []
    for column in y.T:
        splitter = StratifiedGroupKFold if grouped else StratifiedKFold
        for train, test in splitter(5, shuffle=True, random_state=0).split(x, column, groups):
            told = model.fit(x[train], column[train]).predict_proba(x[test])
            each.append([roc_auc_score(column[test] == c, told[:, c]) for c in (0, 1)])
    assert score(x, y, groups=groups) == pytest.approx(np.mean(each), abs=1e-12)


# properties


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("d", [8, 90])
def test_no_score_looks_at_the_order_or_the_names(name, d):
    score = getattr(scores, name)
    x, y = clear(17, n=60, d=d, classes=3)
    order = np.random.default_rng(0).permutation(60)
    names = np.array(["zebra", "ant", "cow"])
    value = score(x, y)
    assert math.isfinite(value)
    assert score(x[order], y[order]) == pytest.approx(value, rel=1e-9)
    assert score(x, names[y]) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_float32_and_torch_give_the_same_number(name):
    import torch

    score = getattr(scores, name)
    x, y = clear(18, n=60, d=20, classes=3)
    value, before = score(x, y), x.copy()
    assert score(x.astype(np.float32), y) == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert score(torch.tensor(x, requires_grad=True), torch.tensor(y)) == pytest.approx(value)
    assert (x == before).all()


@pytest.mark.parametrize("name", NAMES)
def test_constant_features_say_nothing(name):
    y = np.arange(2).repeat([12, 20])
    value = getattr(scores, name)(np.full((32, 5), 3.0), y)
    entropy = -(12 / 32 * math.log(12 / 32) + 20 / 32 * math.log(20 / 32))
    expected = {"h_score": 0, "transrate": 0, "gbc": -2, "parc": math.nan}
    expected |= {"nleep": -entropy, "sfda": -entropy, "knn": 0.5, "linear_probe": 0.5}
    if name == "logme":
        assert value < scores.logme(clear(19, n=32, d=5, classes=2)[0], y) + 0.2
    else:
        assert value == pytest.approx(expected[name], nan_ok=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_class_of_one_sample(name):
    x, y = clear(20, n=40, d=6, classes=3)
    x, y = x[y < 2], y[y < 2]
    x, y = np.vstack([x, x[:1] + 3]), np.append(y, 2)
    if name in CLOSED:
        assert math.isfinite(getattr(scores, name)(x, y))
    else:
        with pytest.raises(BenchError, match="two samples"):
            getattr(scores, name)(x, y)


@pytest.mark.parametrize("name", [*NAMES, "leep", "nce"])
def test_bad_input_is_refused_in_plain_words(name):
    score = getattr(scores, name)
    with pytest.raises(BenchError, match="two classes"):
        score(["z"] * 6 if name == "nce" else np.ones((6, 1)), [1] * 6)
    with pytest.raises(BenchError, match="do not go together"):
        score(["z"] * 6 if name == "nce" else np.ones((6, 1)), [0, 1])
    if name != "nce":
        with pytest.raises(BenchError, match="not all finite"):
            score(np.full((6, 1), np.nan), [0, 1] * 3)


def test_leep_refuses_logits():
    with pytest.raises(BenchError, match="sum to one"):
        scores.leep(np.random.default_rng(0).normal(size=(6, 3)), [0, 1] * 3)


def test_unknown_options_are_refused():
    x, y = clear(21, n=30, d=4, classes=2)
    with pytest.raises(BenchError, match="No covariance"):
        scores.gbc(x, y, covariance="full")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BenchError, match="No metric"):
        scores.knn(x, y, metric="f1")  # pyright: ignore[reportArgumentType]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(1, 80))
def test_scores_stay_within_their_bounds(seed, classes, d):
    x, y = problem(seed, n=60, d=d, classes=classes)
    assert -1e-9 <= scores.h_score(x, y) <= classes - 1 + 1e-9
    assert -classes * (classes - 1) <= scores.gbc(x, y) <= 0
    assert -100 <= scores.parc(x, y) <= 100 or d == 1
    assert scores.sfda(x, y) <= 0
    assert scores.logme(x, y) == pytest.approx(scores.logme(7 * x, y), abs=1e-6)
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(3), size=60)
    assert scores.leep(p, y) <= 0
    assert scores.nce(p.argmax(axis=1), y) <= 1e-12


def test_logme_of_a_set_with_copies_is_that_of_its_images():
    from types import SimpleNamespace

    x, y = problem(3, n=60, d=200, classes=2)
    twice = np.vstack([x, x[:3] * (1 + 1e-8)]), np.append(y, y[:3])
    assert scores.logme(*twice) == math.inf  # the copies are reproduced whatever the others ask
    side = SimpleNamespace(features=twice[0], labels=twice[1])
    score = scores.Score("logme").measure(side, side, seed=0, options={})
    assert score.value == pytest.approx(scores.logme(x, y), abs=1e-9)
