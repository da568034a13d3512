"""Small versions of what `make calibrate` holds distances to."""

import pytest

from tests.calibrate_distances import METHODS, found_significant, halves_hold_zero, image_features


@pytest.mark.parametrize(("shape", "level"), [((8, 3), 0.5), ((8, 12), 0.8)])
def test_nulls_of_distance_and_gain_are_rarely_called_significant(shape, level: float):
    assert found_significant(*shape, level=level, repeats=40, permutations=99) <= 0.15


@pytest.mark.parametrize("level", [0.0, 0.5])
def test_a_distance_that_foretells_is_found(level: float):
    assert found_significant(8, 12, level=level, rho=-0.7, repeats=20, permutations=99) >= 0.7


@pytest.mark.parametrize("method", METHODS)
def test_two_halves_of_a_set_of_images_hold_zero(method: str):
    whole = image_features("demo:skin", size=32, images=180, arch="test_resnet")
    assert halves_hold_zero(whole, 60, method, repeats=8, draws=3) >= 0.75
