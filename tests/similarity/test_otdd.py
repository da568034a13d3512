"""OTDD against known answers, dense formulas, POT's Sinkhorn and its own properties."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import BenchError
from similarity.otdd import label_distances, otdd

PAIR_A = Path(__file__).parents[1] / "data" / "otdd_pair_a.npz"

# (inner, epsilon, debiased, half_cost); made by an independent implementation
SLOW = pytest.mark.slow  # exact label distances are another table under the same transport
VALUES_A = [
    ("gaussian", 0.0, False, 5.225027167794349),
    ("gaussian", 1.0, False, 7.118810918644491),
    ("gaussian", 1.0, True, 3.413294837242865),
    ("gaussian", 0.1, False, 5.732664781793879),
    ("gaussian", 0.1, True, 5.096003166454229),
    ("gaussian", 0.01, False, 5.285955788266231),
    ("gaussian", 0.01, True, 5.221986491728034),
    ("exact", 0.0, False, 5.999437447426166),
    pytest.param("exact", 1.0, False, 7.888744926767689, marks=SLOW),
    pytest.param("exact", 1.0, True, 4.15859791259914, marks=SLOW),
    ("exact", 0.1, False, 6.507111825186605),
    ("exact", 0.1, True, 5.870450209846954),
    pytest.param("exact", 0.01, False, 6.060375623477386, marks=SLOW),
    pytest.param("exact", 0.01, True, 5.996406326939188, marks=SLOW),
]


@pytest.fixture(scope="module")
def pair_a():
    data = np.load(PAIR_A)
    return (data["x1"] / 16, data["y1"], data["x2"] / 16, data["y2"]), data


def labelled(seed: int, *, n: int, d: int, classes: int, shift: float = 0.0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes).repeat(2), rng.integers(classes, size=n - 2 * classes)])
    centres = rng.normal(size=(classes, d))
    return centres[y] + shift + rng.normal(size=(n, d)) * rng.uniform(0.5, 2, size=d), y


def dense_gaussian(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.linalg import sqrtm

    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca)
    cross = sqrtm(root @ cb @ root)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * np.real(cross)))


@pytest.mark.parametrize(("inner", "tolerance"), [("gaussian", 1e-8), ("exact", 1e-10)])
def test_label_distances_have_the_known_values(pair_a, inner, tolerance):
    (x1, y1, x2, y2), data = pair_a
    for name, sets in {
        "D11": (x1, y1, x1, y1),
        "D12": (x1, y1, x2, y2),
        "D22": (x2, y2, x2, y2),
    }.items():
        found = label_distances(*sets, inner=inner)
        np.testing.assert_allclose(found, data[f"{inner}_{name}"], atol=tolerance)


@pytest.mark.parametrize(("inner", "epsilon", "debiased", "half_cost"), VALUES_A)
def test_otdd_has_the_known_values(pair_a, inner, epsilon, debiased, half_cost):
    found = otdd(*pair_a[0], inner=inner, epsilon=epsilon, debiased=debiased)
    assert found.half_cost == pytest.approx(half_cost, rel=1e-6 if epsilon else 1e-9)
    assert found.squared == pytest.approx(2 * half_cost, rel=1e-6)
    assert found.distance == pytest.approx((2 * half_cost) ** 0.5, rel=1e-6)
    assert found.gap <= 1e-6
    assert found.marginal_error < 1e-4


@pytest.mark.parametrize(("n", "d"), [(60, 4), (60, 60), (20, 90)])
def test_gaussian_label_distances_equal_the_dense_form(n, d):
    x1, y1 = labelled(1, n=n, d=d, classes=3)
    x2, y2 = labelled(2, n=n + 11, d=d, classes=4, shift=0.5)
    found = label_distances(x1, y1, x2, y2)
    assert found.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            dense = dense_gaussian(x1[y1 == i], x2[y2 == j])
            assert found[i, j] == pytest.approx(dense, rel=2e-6 if n < d else 1e-8)


def test_a_class_of_one_sample_is_a_point():
    x1 = np.array([[1.0, 2.0], [0.0, 0.0], [2.0, 0.0]])
    x2 = np.array([[4.0, 6.0]])
    found = label_distances(x1, ["one", "two", "two"], x2, ["other"])
    spread = 2.0  # trace of the covariance of (0, 0) and (2, 0)
    np.testing.assert_allclose(found, [[3**2 + 4**2], [3**2 + 6**2 + spread]])


@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_the_entropic_value_equals_sinkhorn_run_to_the_end(epsilon):
    import ot

    x1, y1 = labelled(3, n=40, d=3, classes=2)
    x2, y2 = labelled(4, n=55, d=3, classes=3, shift=1.0)
    table = label_distances(x1, y1, x2, y2)
    cost = (((x1[:, None] - x2) ** 2).sum(-1) + table[y1][:, y2]) / 2
    a, b = np.full(40, 1 / 40), np.full(55, 1 / 55)
    options: dict[str, Any] = {"method": "sinkhorn_log", "stopThr": 1e-13, "numItermax": 100_000}
    plan: Any = ot.sinkhorn(a, b, cost, epsilon, **options)
    value = (plan * cost).sum() + epsilon * (plan * np.log(plan * 40 * 55)).sum()
    found = otdd(x1, y1, x2, y2, epsilon=epsilon, debiased=False)
    assert found.half_cost == pytest.approx(value, rel=1e-7)


@pytest.mark.slow
def test_it_converges_for_tiny_epsilon_too(pair_a):
    exact = otdd(*pair_a[0]).half_cost
    before = exact
    for epsilon in (1e-4, 1e-3, 1e-2):
        found = otdd(*pair_a[0], epsilon=epsilon, debiased=False)
        assert found.gap <= 1e-6
        assert before < found.half_cost < exact + epsilon * np.log(600)
        before = found.half_cost


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5]), st.sampled_from(["gaussian", "exact"]))
def test_it_is_symmetric_and_blind_to_order_and_names(seed, epsilon, inner):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 12))
    x1, y1 = labelled(seed, n=int(rng.integers(6, 30)), d=d, classes=2)
    x2, y2 = labelled(seed + 1, n=int(rng.integers(6, 30)), d=d, classes=3, shift=1.0)
    found = otdd(x1, y1, x2, y2, inner=inner, epsilon=epsilon)
    back = otdd(x2, y2, x1, y1, inner=inner, epsilon=epsilon)
    order = rng.permutation(len(x1))
    names = np.array(["zebra", "ant", "cow"])
    other = otdd(x1[order], names[y1][order], x2, names[y2], inner=inner, epsilon=epsilon)
    assert back.half_cost == pytest.approx(found.half_cost, rel=3e-6, abs=1e-9)
    assert other.half_cost == pytest.approx(found.half_cost, rel=3e-6, abs=1e-9)


@pytest.mark.parametrize("inner", ["gaussian", "exact"])
@pytest.mark.parametrize("epsilon", [0.0, 0.05, 5.0])
@pytest.mark.parametrize("d", [3, 200])
def test_it_is_zero_for_equal_sets(inner, epsilon, d):
    x, y = labelled(5, n=40, d=d, classes=4)
    order = np.random.default_rng(0).permutation(40)
    found = otdd(x, y, x.copy(), y.copy(), inner=inner, epsilon=epsilon)
    mixed = otdd(x, y, x[order], y[order], inner=inner, epsilon=epsilon)
    assert found.distance == pytest.approx(0, abs=1e-6)
    assert mixed.half_cost == pytest.approx(0, abs=1e-6 * max(d, 10))
    if epsilon == 0:
        assert mixed.distance == pytest.approx(0, abs=1e-6)


def test_rounding_leaves_no_distance_between_equal_sets_of_any_scale():
    x, y = labelled(12, n=80, d=300, classes=4)
    for scale in (1e-3, 1.0, 1e4):
        a, b = scale * x + 7 * scale, scale * x + 7 * scale
        table = label_distances(a, y, b, y)
        assert (table >= 0).all()
        assert (table.diagonal() == 0).all()
        assert otdd(a, y, b, y).distance == 0


@pytest.mark.parametrize("inner", ["gaussian", "exact"])
def test_a_shifted_copy_lies_at_twice_the_squared_shift(inner):
    x, y = labelled(6, n=30, d=5, classes=3)
    shift = np.array([3.0, 0, 4.0, 0, 0])
    assert otdd(x, y, x + shift, y, inner=inner).squared == pytest.approx(2 * 25, rel=1e-9)


def test_float32_torch_and_read_only_arrays_give_the_same_number():
    import torch

    x1, y1 = labelled(7, n=30, d=40, classes=3)
    x2, y2 = labelled(8, n=44, d=40, classes=2)
    found = otdd(x1, y1, x2, y2)
    single = otdd(x1.astype(np.float32), y1, x2.astype(np.float32), y2)
    assert single.half_cost == pytest.approx(found.half_cost, rel=1e-6)
    a, b, c, e = (torch.from_numpy(part) for part in (x1, y1, x2, y2))
    assert otdd(a.requires_grad_(), b, c, e) == pytest.approx(found, rel=1e-12)
    x1.flags.writeable = False
    assert otdd(x1, y1, x2, y2) == found


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_constant_features_and_single_samples_are_no_trouble(epsilon):
    ones = np.ones((6, 4))
    y = [0, 0, 0, 1, 1, 1]
    assert otdd(ones, y, ones, y, epsilon=epsilon).distance == pytest.approx(0, abs=1e-6)
    far = otdd(ones, y, ones[:1] + 2, [9], epsilon=epsilon)  # every shift is (2, 2, 2, 2)
    assert far.squared == pytest.approx(32)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x1": np.ones((6, 3))}, "3 features"),
        ({"x1": np.ones(6)}, "do not go together"),
        ({"y1": [0, 1]}, "do not go together"),
        ({"x1": np.full((6, 4), np.nan)}, "not all finite"),
        ({"inner": "sinkhorn"}, "No inner distance"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"x1": np.zeros((0, 4)), "y1": []}, "do not go together"),
    ],
)
def test_bad_input_is_refused_in_plain_words(change, says):
    call = {"x1": np.ones((6, 4)), "y1": [0] * 6, "x2": np.ones((5, 4)), "y2": [0] * 5} | change
    with pytest.raises(BenchError, match=says):
        otdd(**call)


def test_exact_transport_has_a_limit_and_names_the_way_out(monkeypatch):
    monkeypatch.setattr("similarity.otdd.EXACT_LIMIT", 20)
    x, y = labelled(9, n=21, d=2, classes=2)
    with pytest.raises(BenchError, match=r"too many.*epsilon > 0"):
        otdd(x, y, x, y)
    assert otdd(x, y, x, y, epsilon=1.0).distance == pytest.approx(0, abs=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("epsilon", [0.0, 0.01])
def test_the_gpu_gives_the_same_number(pair_a, epsilon):
    import torch

    a, b, c, e = (torch.as_tensor(part, device="cuda") for part in pair_a[0])
    found = otdd(a, b, c, e, epsilon=epsilon)
    assert found.half_cost == pytest.approx(otdd(*pair_a[0], epsilon=epsilon).half_cost, rel=1e-6)
