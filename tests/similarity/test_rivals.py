"""The plain rivals against formulas written out and their own properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import BenchError
from similarity import rivals


def sets(seed: int, n: int, m: int, d: int):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 1 + rng.normal(size=(m, d)) * rng.uniform(0.5, 2, size=d)


def test_cards_alone_give_three_rivals():
    assert rivals.log_size(1_281_167) < rivals.log_size(5_640) == pytest.approx(-math.log(5640))
    assert rivals.class_count(1000, 7) == rivals.class_count(7, 1000) == 993
    assert rivals.channels(3, 1) == 2
    assert rivals.channels(3, 3) == 0
    with pytest.raises(BenchError, match="0 images"):
        rivals.log_size(0)


@pytest.mark.parametrize(("n", "m", "d"), [(60, 40, 5), (20, 30, 60), (20, 90, 30)])
def test_frechet_equals_the_dense_form(n, m, d):
    from scipy.linalg import sqrtm

    a, b = sets(1, n, m, d)
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca)
    cross = np.real(np.trace(sqrtm(root @ cb @ root)))
    dense = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * cross
    assert rivals.frechet(a, b) == pytest.approx(dense, rel=1e-8 if n > d and m > d else 2e-6)


def test_frechet_has_known_answers():
    a, _ = sets(2, 30, 1, 4)
    assert rivals.frechet(a, a + np.array([3, 0, 4, 0])) == pytest.approx(25)
    spread = np.trace(np.cov(a.T))
    assert rivals.frechet(a - a.mean(0), 3 * (a - a.mean(0))) == pytest.approx(4 * spread)
    assert rivals.frechet(a[:1], a[1:2]) == pytest.approx(((a[0] - a[1]) ** 2).sum())


def test_mmd_equals_its_formula():
    a, b = sets(3, 12, 17, 3)
    both = np.vstack([a, b])
    apart = [np.linalg.norm(p - q) for i, p in enumerate(both) for q in both[:i]]
    for width in (None, 0.7):
        h = float(np.median(apart)) if width is None else width

        def mean(one: np.ndarray, other: np.ndarray, h: float = h) -> float:
            return float(
                np.mean([[np.exp(-((p - q) ** 2).sum() / 2 / h**2) for q in other] for p in one])
            )

        direct = mean(a, a) + mean(b, b) - 2 * mean(a, b)
        assert rivals.mmd(a, b, bandwidth=width) == pytest.approx(direct, rel=1e-9)
    with pytest.raises(BenchError, match="bandwidth"):
        rivals.mmd(a, b, bandwidth=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 20), st.integers(1, 30))
def test_frechet_and_mmd_are_symmetric_zero_for_equal_sets_and_blind_to_order(seed, n, m, d):
    import torch

    a, b = sets(seed, n, m, d)
    order = np.random.default_rng(seed).permutation(n)
    for distance in (rivals.frechet, rivals.mmd):
        value = distance(a, b)
        assert value >= 0
        assert distance(b, a) == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert distance(a[order], b) == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert distance(a, a[order]) == pytest.approx(0, abs=1e-12)
        single = distance(a.astype(np.float32), torch.tensor(b, requires_grad=True))
        assert single == pytest.approx(value, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("distance", [rivals.frechet, rivals.mmd])
def test_bad_features_are_refused_and_constant_ones_are_fine(distance):
    assert distance(np.ones((4, 3)), np.ones((5, 3))) == 0
    assert distance(np.ones((4, 3)), np.zeros((5, 3))) > 0
    with pytest.raises(BenchError, match="same network"):
        distance(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(BenchError, match="no table"):
        distance(np.ones(4), np.ones((4, 2)))
    with pytest.raises(BenchError, match="not all finite"):
        distance(np.full((4, 3), np.inf), np.ones((4, 3)))
