"""Morse transforms against golden values and direct sums, the montage, and WFDB records."""

from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.signal import chirp

from benchmark import ecg
from benchmark.errors import BenchError, DataMissing

TIME = np.arange(1000) / 100
TONE = np.cos(2 * np.pi * 10 * TIME)
CHIRP = chirp(TIME, 1, TIME[-1], 40)

# Of the chirp's golden transform: coefficients at (row, sample) and the energy of all of them.
GOLDEN = {
    "periodic": (
        0.3156911585749582 - 0.4015395967465271j,
        0.010499306141627912 + 0.004423200584099772j,
        3304.407500879755,
    ),
    "reflection": (
        0.24941501856942494 - 0.771499820627377j,
        0.029767130344283355 + 0.006582438593108314j,
        3326.6125902403155,
    ),
    "half": (
        0.25446387939456844 - 0.7880194953635368j,
        0.02196514282872212 + 0.00023502931714446706j,
        3304.417684738953,
    ),
}


def leads(n: int = 1000) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((12, n)).cumsum(axis=1).astype(np.float32)


@pytest.mark.parametrize("boundary", ["periodic", "reflection", "half"])
def test_golden_chirp(boundary: ecg.Boundary) -> None:
    coefficients, frequencies = ecg.morse_cwt(CHIRP, 100, boundary=boundary)
    first, last, energy = GOLDEN[boundary]
    assert coefficients.shape == (71, 1000)
    assert coefficients.dtype == np.complex128
    assert_allclose(coefficients[0, 999], first, atol=1e-10)
    assert_allclose(coefficients[70, 0], last, atol=1e-10)
    assert_allclose(np.sum(np.abs(coefficients) ** 2), energy, rtol=1e-11)
    assert_allclose(frequencies[[0, 21, 70]], [43.41244679, 10.12631128, 0.33915974], rtol=1e-7)


def test_unit_tone_peaks_near_one() -> None:
    coefficients, frequencies = ecg.morse_cwt(TONE, 100)
    assert_allclose(coefficients[21, 500], 0.995343029499054 - 1.88e-14j, atol=1e-7)
    assert abs(frequencies[np.abs(coefficients[:, 500]).argmax()] - 10) < 0.4


def test_single_precision_follows_double() -> None:
    signal = leads()
    single, _ = ecg.morse_cwt(signal, 100)
    double, _ = ecg.morse_cwt(signal.astype(np.float64), 100)
    assert single.dtype == np.complex64
    assert single.shape == (12, 71, 1000)
    assert np.abs(single - double).max() < 2e-6 * np.abs(double).max()


def test_an_offset_costs_single_precision_nothing() -> None:
    plain, _ = ecg.morse_cwt(CHIRP.astype(np.float32), 100)
    offset, _ = ecg.morse_cwt((CHIRP + 1024).astype(np.float32), 100)
    assert np.abs(plain - offset).max() < 1e-3  # what rounding the input to float32 takes away


@pytest.mark.parametrize("n", [31, 32, 128, 129])
def test_against_the_sum_itself(n: int) -> None:
    """W by the definition, term by term: reflection, one-sided sum, the Nyquist bin kept whole."""
    x = np.random.default_rng(n).standard_normal(n)
    pad = n // 2 if n <= 128 else 8
    padded = np.concatenate([x[:pad][::-1], x, x[n - pad :][::-1]])
    length = len(padded)
    coefficients, frequencies = ecg.morse_cwt(x, 1)
    peak = (20 / 3) ** (1 / 3)
    scales = peak / (2 * np.pi * frequencies)
    omega = 2 * np.pi * np.arange(length // 2 + 1) / length
    filters = 2 * (scales[:, None] * omega / peak) ** 20
    filters = filters * np.exp(-((scales[:, None] * omega) ** 3) + 20 / 3)
    time = np.arange(length)
    spectrum = np.exp(-1j * np.outer(omega, time)) @ padded
    direct = (filters * spectrum) @ np.exp(1j * np.outer(omega, time)) / length
    assert_allclose(coefficients, direct[:, pad : pad + n], atol=1e-12)


@pytest.mark.parametrize(
    ("n", "time_bandwidth", "gamma", "low", "high", "rows"),
    [
        (1000, 60, 3, 0.0032954151958964695, 0.43412446792217896, 71),
        (1080, 60, 3, 0.003051310366570805, 0.43412446792217896, 72),
        (5000, 120, 3, 0.001171799751545617, 0.451513206842336, 86),
        (4001, 20, 3, 0.00033281503806495546, 0.3961843800040402, 103),
        (512, 60, 1, 0.205167792832107, 0.43110873236119296, 11),
        (100, 60, 1, 0.4022386702326048, 0.43110873236119296, 2),
    ],
)
def test_frequency_bounds(
    n: int, time_bandwidth: float, gamma: float, low: float, high: float, rows: int
) -> None:
    _, frequencies = ecg.morse_cwt(np.zeros(n), 1, gamma=gamma, time_bandwidth=time_bandwidth)
    assert len(frequencies) == rows
    assert_allclose(frequencies[0], high, rtol=1e-9)
    assert_allclose(frequencies[:-1] / frequencies[1:], 2**0.1)
    assert low <= frequencies[-1] * (1 + 1e-9) < low * 2**0.1


def test_l2_norm_multiplies_by_the_root_of_the_scale() -> None:
    one, frequencies = ecg.morse_cwt(CHIRP, 100)
    two, _ = ecg.morse_cwt(CHIRP, 100, norm="L2")
    scales = 1.8820720577620569 / (2 * np.pi * frequencies / 100)
    assert_allclose(two, one * np.sqrt(scales)[:, None], atol=1e-12)


@given(n=st.integers(4, 200), scale=st.floats(0.1, 1000), data=st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=30, deadline=None)
def test_linear_and_batched(n: int, scale: float, data) -> None:
    x = np.array([[data.uniform(-1, 1) for _ in range(n)] for _ in range(2)])
    both, _ = ecg.morse_cwt(x, 250)
    alone, _ = ecg.morse_cwt(x[0] * scale, 250)
    assert_allclose(alone, scale * both[0], atol=1e-11 * scale)
    assert both.shape == (2, both.shape[1], n)


@pytest.mark.parametrize(
    "options", [{"boundary": "zero"}, {"gamma": 0}, {"time_bandwidth": 2}, {"norm": "L3"}]
)
def test_bad_options(options: dict) -> None:
    with pytest.raises(BenchError):
        ecg.morse_cwt(TONE, 100, **options)


def test_too_short() -> None:
    with pytest.raises(BenchError, match="3 samples"):
        ecg.morse_cwt(np.zeros(3), 100)


def test_jet_is_matlabs() -> None:
    table = ecg.jet()
    assert_allclose(table[[0, 31, 32, 95, 96, 127]], [
        [0, 0, 33 / 64], [0, 0, 1], [0, 1 / 64, 1], [0, 1, 1], [1 / 64, 1, 63 / 64], [0.5, 1, 0.5],
    ])  # fmt: skip
    assert_allclose(table[[159, 160, 223, 224, 255]], [
        [1, 1, 0], [1, 63 / 64, 0], [1, 0, 0], [63 / 64, 0, 0], [0.5, 0, 0],
    ])  # fmt: skip


def test_montage_places_each_lead() -> None:
    """A lead that alone is not flat colours its own tile and no other."""
    for lead in range(12):
        x = np.zeros((12, 1000), dtype=np.float32)
        x[lead] = CHIRP
        picture = ecg.montage(x, 100, 240)
        assert picture.shape == (240, 240, 3)
        assert picture.dtype == np.uint8
        tiles = picture.reshape(3, 80, 4, 60, 3).transpose(0, 2, 1, 3, 4).reshape(12, 80, 60, 3)
        warm = np.flatnonzero((tiles[..., 0] > 100).any(axis=(1, 2)))
        assert warm.tolist() == [lead]


def test_montage_has_high_frequencies_on_top_and_time_to_the_right() -> None:
    x = np.tile(CHIRP, (12, 1))
    tile = ecg.montage(x, 100, 240)[:80, :60].astype(int)
    start = tile[:, 8, 0].argmax()
    end = tile[:, 50, 0].argmax()
    assert end < start


def test_montage_by_hand() -> None:
    """Jet first, the resize of the whole picture after it."""
    from PIL import Image

    x = leads()
    strength = np.abs(ecg.morse_cwt(x, 100)[0])
    low = strength.min(axis=(1, 2), keepdims=True)
    level = np.rint(255 * (strength - low) / (strength.max(axis=(1, 2), keepdims=True) - low))
    colour = np.rint(255 * ecg.jet()).astype(np.uint8)[level.astype(int)]
    whole = np.vstack([np.hstack(list(colour[row : row + 4])) for row in (0, 4, 8)])
    expected = Image.fromarray(whole).resize((96, 96), Image.Resampling.BILINEAR)
    difference = np.abs(ecg.montage(x, 100, 96).astype(int) - np.asarray(expected, dtype=int))
    assert difference.max() <= 1


def test_joint_scaling_keeps_the_leads_apart() -> None:
    x = np.tile(TONE.astype(np.float32), (12, 1))
    x[1:] *= 0.01
    joint = ecg.montage(x, 100, 240, scaling="joint")
    alone = ecg.montage(x, 100, 240)
    assert (joint[:80, 62:, 0] == 0).all()  # faint leads stay blue
    assert (alone[:80, 60:120, 0] > 100).any()


@pytest.mark.parametrize("scaling", ["lead", "joint"])
@pytest.mark.parametrize("level", [0.0, 0.1, -17.3])
def test_flat_leads_are_the_colour_of_zero(scaling, level: float) -> None:
    picture = ecg.montage(np.full((12, 1000), level), 100, 32, scaling=scaling)
    assert (picture == np.array([0, 0, 131], dtype=np.uint8)).all()


@pytest.mark.parametrize("wavelet", ["cmor1.5-1.0", "cmor", "morl", "gaus", "gaus4", "mexh"])
def test_other_wavelets(wavelet: str) -> None:
    picture = ecg.montage(np.tile(CHIRP, (12, 1)), 100, 64, wavelet=wavelet)
    assert picture.std() > 10
    assert not np.array_equal(picture, ecg.montage(np.tile(CHIRP, (12, 1)), 100, 64))


def test_montage_errors() -> None:
    with pytest.raises(BenchError, match="twelve leads"):
        ecg.montage(np.zeros((3, 1000)), 100, 64)
    with pytest.raises(BenchError, match="finite"):
        ecg.montage(np.full((12, 100), np.nan), 100, 64)
    with pytest.raises(BenchError, match="haar"):
        ecg.montage(leads(), 100, 64, wavelet="haar")
    with pytest.raises(BenchError, match="scaling"):
        ecg.montage(leads(), 100, 64, scaling="row")  # pyright: ignore[reportArgumentType]


def write(
    folder: Path, signal: np.ndarray, *, names: list[str], unit: str = "mV", fmt: str = "16"
) -> Path:
    wfdb.wrsamp(
        "rec", fs=100, units=[unit] * len(names), sig_name=names, write_dir=str(folder),
        p_signal=signal.T, fmt=[fmt] * len(names), adc_gain=[1000.0] * len(names),
        baseline=[0] * len(names),
    )  # fmt: skip
    return folder / "rec"


UPPER = [name.upper() for name in ecg.STANDARD_LEADS]


def test_read_record(tmp_path: Path) -> None:
    signal = np.round(np.random.default_rng(0).standard_normal((12, 500)), 3)
    path = write(tmp_path, signal[::-1], names=UPPER[::-1])
    for spelling in (path, str(path), path.with_suffix(".hea"), path.with_suffix(".dat")):
        got, fs = ecg.read_record(spelling)
        assert fs == 100.0
        assert got.dtype == np.float32
        assert_allclose(got, signal, atol=6e-4)
    two, _ = ecg.read_record(path, leads=["V2", "avf"], expected_fs=100)
    assert_allclose(two, signal[[7, 5]], atol=6e-4)


def test_microvolts_become_millivolts(tmp_path: Path) -> None:
    signal = np.tile(np.linspace(-1, 1, 50), (12, 1))
    path = write(tmp_path, signal, names=UPPER, unit="uV")
    assert_allclose(ecg.read_record(path)[0], signal / 1000, atol=6e-7)


def test_micro_sign_is_not_read_as_volts(tmp_path: Path) -> None:
    """wfdb reads headers as ASCII and drops the sign: a µV record must not come out as volts."""
    header = write(tmp_path, np.zeros((12, 50)), names=UPPER).with_suffix(".hea")
    header.write_text(header.read_text().replace("/mV", "/µV"), encoding="utf-8")
    with pytest.raises(BenchError, match="not in mV or uV"):
        ecg.read_record(header)


def test_gaps_are_bridged_and_counted(tmp_path: Path) -> None:
    signal = np.tile(np.linspace(-1, 1, 101), (12, 1))
    signal[0, 20:30] = np.nan
    signal[1, :5] = np.nan
    signal[2] = np.nan
    path = write(tmp_path, signal, names=UPPER)
    with pytest.warns(UserWarning, match="116 missing samples"):
        got, _ = ecg.read_record(path)
    assert_allclose(got[0], np.linspace(-1, 1, 101), atol=1e-3)
    assert_allclose(got[1, :5], got[1, 5])
    assert (got[2] == 0).all()


def test_record_errors(tmp_path: Path) -> None:
    path = write(tmp_path, np.zeros((12, 500)), names=[*UPPER[:11], "X"])
    with pytest.raises(BenchError, match="no lead V6"):
        ecg.read_record(path)
    with pytest.raises(BenchError, match="100 samples a second, not 500"):
        ecg.read_record(path, leads=["I"], expected_fs=500)
    with pytest.raises(DataMissing, match=r"nothing\.hea"):
        ecg.read_record(tmp_path / "nothing")
    signal = path.with_suffix(".dat")
    content = signal.read_bytes()
    for length in (0, 24, 1000, len(content) - 24, len(content) - 1):
        signal.write_bytes(content[:length])
        with pytest.raises(BenchError, match=r"cut short|fewer samples"):
            ecg.read_record(path, leads=["I"])
    signal.unlink()
    with pytest.raises(DataMissing, match=r"rec\.dat"):
        ecg.read_record(path, leads=["I"])
    path.with_suffix(".hea").write_text("not a header\n")
    with pytest.raises(BenchError, match="header"):
        ecg.read_record(path)


def test_a_lead_that_is_no_voltage(tmp_path: Path) -> None:
    path = write(tmp_path, np.zeros((12, 50)), names=UPPER, unit="mmHg")
    with pytest.raises(BenchError, match="mmhg"):
        ecg.read_record(path)


@pytest.mark.real
def test_real_records_of_every_format(real_data: Path) -> None:
    folder = real_data / "wfdb_samples"
    signal, fs = ecg.read_record(folder / "s0010_re")  # 16, lower-case names, 15 leads
    assert (signal.shape, fs) == ((12, 38400), 1000.0)
    assert_allclose(signal[:, 0], np.array(
        [-489, -458, 31, 474, -260, -214, -88, -241, -112, 212, 393, 390]) / 2000, atol=1e-6
    )  # fmt: skip
    signal, fs = ecg.read_record(folder / "100", leads=["MLII", "V5"])  # 212
    assert (signal.shape, fs) == ((2, 650000), 360.0)
    assert_allclose(signal[:, 0], [(995 - 1024) / 200, (1011 - 1024) / 200], atol=1e-6)
    signal, _ = ecg.read_record(folder / "a103l.mat", leads=["II"], expected_fs=250)  # mat
    assert_allclose(signal[0, 0], -171 / 7247, atol=1e-6)
    signal, _ = ecg.read_record(folder / "flacformats", leads=["sig 1, fmt 516"])  # flac
    assert_allclose(signal[0, 0], -32766 / 200, rtol=1e-6)
    with pytest.raises(BenchError, match="leads in nu"):
        ecg.read_record(folder / "a103l", leads=["PLETH"])


@pytest.mark.real
def test_real_ptbxl(real_data: Path) -> None:
    folder = real_data / "ptbxl"
    slow, fs = ecg.read_record(folder / "records100/00000/00001_lr", expected_fs=100)
    assert (slow.shape, fs) == ((12, 1000), 100.0)
    assert np.abs(slow).max() < 5
    picture = ecg.montage(slow, fs, 224)
    assert picture.shape == (224, 224, 3)
    assert picture.std() > 20
