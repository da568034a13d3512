"""A distance stands beside what halves of its own sides are apart."""

from collections import Counter

import numpy as np
import pytest

from benchmark import registry
from benchmark.api import BenchError, Distance
from similarity import _floor
from similarity.otdd import otdd
from similarity.rivals import frechet, mmd
from tests.calibrate_distances import METHODS, Given, excess, two_halves


def made(seed: int, n: int = 60, *, shift: float = 0.0, each: int = 2, name: str = "") -> Given:
    """Points of two classes, `each` of one group."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)) + shift + np.repeat(rng.normal(size=(n // each, 4)), each, axis=0)
    return Given(x, np.arange(n) // each % 2, np.arange(n) // each, name)


def measured(source: Given, target: Given, method: str, **options: float):
    found = registry.load("distance", method)
    assert isinstance(found, Distance)
    return found.measure(source, target, seed=3, options={**found.card.options, **options})


@pytest.mark.parametrize(
    "groups", [np.arange(50), np.arange(51) // 3, np.array([0] * 20 + [*range(1, 31)])]
)
def test_halves_have_one_size_and_no_common_group(groups: np.ndarray):
    side = Given(np.zeros((len(groups), 1)), groups, groups)
    size = _floor.half_size(side)
    drawn = list(_floor.halves(groups, size, 7, 0))
    assert len({one.tobytes() for one, _ in drawn}) == 7
    for one, other in drawn:
        assert len(set(one)) == len(set(other)) == size
        assert not set(groups[one]) & set(groups[other])
    assert size >= 15


@pytest.mark.parametrize("method", METHODS)
def test_the_excess_is_the_distance_less_that_of_the_halves_at_one_size(method: str):
    direct = {
        "otdd": lambda a, b: otdd(a.features, a.labels, b.features, b.labels).squared,
        "rivals:frechet": lambda a, b: frechet(a.features, b.features),
        "rivals:mmd": lambda a, b: mmd(a.features, b.features),
    }[method]
    a, b = made(1, 90), made(2, 60, shift=3.0)
    found = measured(a, b, method, draws=3)
    size = 29  # of the smaller side
    one, other = ([[side.part(rows) for rows in both] for both in
                   _floor.halves(side.groups, size, 3, 3)] for side in (a, b))  # fmt: skip
    apart = np.mean(
        [[direct(x[0], y[1]), direct(x[1], y[0])] for x, y in zip(one, other, strict=True)]
    )
    floor = np.mean([[direct(*x), direct(*y)] for x, y in zip(one, other, strict=True)])
    assert found.value == pytest.approx(apart)
    assert found.facts["floor"] == pytest.approx(floor)
    assert found.facts["excess"].value == pytest.approx(apart - floor)
    assert found.facts["excess"].n == size
    assert found.facts["excess"].low > 0, "such a shift is no noise"


@pytest.mark.parametrize("method", METHODS)
def test_a_set_stands_at_its_floor_from_itself(method: str):
    found = excess(made(1), made(1), method)
    assert found[:3] == pytest.approx((0, 0, 0), abs=1e-12)


def test_halves_of_a_side_are_measured_once_for_all_pairs(monkeypatch: pytest.MonkeyPatch):
    from similarity import rivals

    calls = Counter[str]()
    plain = rivals.frechet
    monkeypatch.setattr(rivals, "frechet", lambda a, b: calls.update(["transport"]) or plain(a, b))
    sides = [made(seed) for seed in range(4)]
    for source in sides:
        for target in sides:
            measured(source, target, "rivals:frechet", draws=5)
    assert calls["transport"] == 16 * 10 + 4 * 5


def test_the_interval_is_no_narrower_for_more_halvings():
    """They share their images: a hundred say no more of two sets than the sets do."""
    widths = []
    for draws in (5, 100):
        found = [excess(made(k), made(50 + k, shift=0.5), "rivals:frechet", draws=draws)
                 for k in range(10)]  # fmt: skip
        widths.append(np.mean([one.high - one.low for one in found]))
    assert widths[1] == pytest.approx(widths[0], rel=0.35)


@pytest.mark.parametrize("size", [40, 120])
def test_two_halves_of_one_set_hold_zero(size: int):
    whole = made(0, 480)
    held = 0
    for repeat in range(40):
        one, other = two_halves(whole, size, np.random.default_rng(repeat))
        found = excess(one, other, "rivals:frechet", seed=repeat)
        held += found.low <= 0 <= found.high
    assert held >= 36


def test_what_cannot_be_halved_is_refused_in_plain_words():
    one_patient = Given(np.zeros((40, 2)), np.arange(40) % 2, np.zeros(40))
    with pytest.raises(BenchError, match="share no group"):
        measured(made(1), one_patient, "rivals:frechet")
    with pytest.raises(BenchError, match="0 halvings"):
        measured(made(1), made(2), "rivals:frechet", draws=0)
