"""The small version of the record's calibration: the tools say what they should, on a few sets."""

from calibrate_record import shares


def test_a_telling_column_is_found_and_one_of_noise_seldom():
    assert shares(2, 1.0, ("concat",))["concat"] == 1.0
    assert shares(4, 0.0, ("concat",))["concat"] <= 0.25
