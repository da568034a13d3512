"""The softmax classifier: known optima, its gradient, scikit-learn, and the paper's own way."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmark.train.softmax import PENALTIES, Softmax, softmax_optimum, softmax_path

GOLDEN = Path(__file__).parent / "data" / "softmax_optimum.npz"


def chances(found: Softmax, features: np.ndarray) -> np.ndarray:
    scores = torch.as_tensor(features @ found.weight.T + found.bias)
    return scores.softmax(1).numpy()


def problem(n: int = 300, d: int = 12, classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(n, d)) * rng.uniform(0.01, 50, d) + rng.normal(size=d) * 20
    x[:, :classes] += np.eye(classes)[y] * x.std(0)[:classes]
    return x, y


@pytest.mark.parametrize("arm", ["fused", "image"])
def test_it_finds_the_known_optimum(arm: str):
    known = np.load(GOLDEN)
    prefix = "softmax_optimum__"
    x, y = known[prefix + "F"], known[prefix + "y"]
    x = np.hstack([x, known[prefix + "G"]]) if arm == "fused" else x
    found = softmax_optimum(x, y, classes=5, l2=0.0, tolerance=1e-13)
    p = chances(found, x)
    np.testing.assert_allclose(p, known[f"{prefix}P_{arm}"], atol=1e-10)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    assert loss == pytest.approx(float(known[f"{prefix}loss_{arm}"]), abs=1e-10)
    assert found.gradient_norm < 1e-12
    assert found.iterations < 20


def test_the_gradient_is_the_one_of_autograd():
    x, y = problem()
    found = softmax_optimum(x, y, classes=4, l2=1e-3, tolerance=1e-9)
    deviation = x.std(0)
    weight = torch.tensor(found.weight * deviation, requires_grad=True)
    bias = torch.tensor(found.bias + found.weight @ x.mean(0), requires_grad=True)
    z = torch.tensor((x - x.mean(0)) / deviation)
    loss = torch.nn.functional.cross_entropy(z @ weight.T + bias, torch.tensor(y))
    (loss + 5e-4 * (weight**2).sum()).backward()
    assert weight.grad is not None and bias.grad is not None
    norm = float(torch.cat([weight.grad, bias.grad[:, None]], 1).norm())
    assert norm < 1e-9
    assert found.gradient_norm == pytest.approx(norm, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 5])
def test_it_agrees_with_scikit_learn(classes: int):
    x, y = problem(n=250, classes=classes, seed=classes)
    l2 = 1e-2
    found = softmax_optimum(x, y, classes=classes, l2=l2, tolerance=1e-10)
    z = StandardScaler().fit_transform(x)
    # Of two classes scikit-learn fits one difference of weights, whose penalty is then half.
    strength = 1 / (len(y) * l2) * (2 if classes == 2 else 1)
    theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(z, y)
    np.testing.assert_allclose(chances(found, x), theirs.predict_proba(z), atol=2e-6)


def test_weights_of_samples_are_counts():
    x, y = problem(n=80)
    counts = np.random.default_rng(1).integers(0, 4, 80)
    found = softmax_optimum(np.repeat(x, counts, 0), np.repeat(y, counts), classes=4, l2=0.0)
    weighted = softmax_optimum(x, y, classes=4, l2=0.0, sample_weight=counts)
    np.testing.assert_allclose(chances(found, x), chances(weighted, x), atol=1e-4)


def test_separable_classes_absent_ones_and_constant_columns_are_no_trouble():
    x, y = problem(n=60, d=200, classes=3)  # more columns than rows: separable
    x[:, 7] = 123.456
    found = softmax_optimum(x.astype(np.float32), y, classes=5)
    assert found.gradient_norm < 1e-6
    assert not found.weight[:, 7].any()
    assert np.isfinite(found.weight).all()
    p = chances(found, x)
    assert (p.argmax(1) == y).all()
    assert p[:, 3:].max() < 1e-3


@pytest.mark.parametrize("n", [25, 300])
def test_fewer_images_than_features_are_solved_where_the_images_span(n: int):
    """A path of penalties, each at the optimum it would have alone, also without its scale."""
    x, y = problem(n=n, d=120, classes=3)
    x[:, 50:] = x[:, :70] * 2  # columns that say the same
    path = softmax_path(x.astype(np.float32), y, classes=3)
    assert len(path) == len(PENALTIES) == 10
    assert all(one.converged for one in path)
    z = (x - x.mean(0)) / x.std(0)
    for one, l2 in list(zip(path, PENALTIES, strict=True))[3:7:3]:
        theirs = LogisticRegression(C=1 / (n * l2), tol=1e-9, max_iter=5000).fit(z, y)
        np.testing.assert_allclose(chances(one, x), theirs.predict_proba(z), atol=2e-3)


def test_few_images_of_a_wide_network_are_solved():
    """Features of an untrained ResNet50 are like this: wide, positive and nearly all alike."""
    rng = np.random.default_rng(0)
    y = np.arange(45) % 3
    hidden = rng.normal(size=(45, 4)) + np.eye(4)[y]
    x = np.abs(hidden @ rng.normal(size=(4, 1200)) + 0.01 * rng.normal(size=(45, 1200)))
    found = softmax_optimum(x.astype(np.float32), y, classes=3)
    assert found.converged
    assert found.iterations < 50
    assert (chances(found, x).argmax(1) == y).all()


def test_a_head_that_is_not_at_its_optimum_says_so_and_can_be_stopped():
    x, y = problem()
    assert not softmax_optimum(x, y, classes=4, max_iterations=1).converged
    assert softmax_optimum(x, y, classes=4).converged

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        softmax_path(x, y, classes=4, check=stop)


def test_the_papers_way_descends_on_raw_features():
    x, y = problem(n=120, d=5, classes=3)
    x /= 20
    found = softmax_optimum(x, y, classes=3, l2=0.0, faithful=True, max_iterations=50)
    assert found.iterations == 50
    weight, bias = np.zeros((3, 5)), np.zeros(3)
    rows = np.hstack([x, np.ones((120, 1))])
    rate = 1 / (0.5 * np.linalg.norm(rows, 2) ** 2 / 120)
    for _ in range(50):
        residual = (chances(Softmax(weight, bias, 0.0, 0, True), x) - np.eye(3)[y]) / 120
        weight, bias = weight - rate * residual.T @ x, bias - rate * residual.sum(0)
    np.testing.assert_allclose(found.weight, weight, atol=1e-8)
    np.testing.assert_allclose(found.bias, bias, atol=1e-8)
    best = softmax_optimum(x, y, classes=3, l2=0.0)
    assert best.gradient_norm < 1e-6 < found.gradient_norm
    enough = softmax_optimum(x, y, classes=3, faithful=True, tolerance=0.1)
    assert enough.iterations < 2000
    assert enough.gradient_norm < 0.1
