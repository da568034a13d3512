"""ECG records and their scalograms: generalised Morse wavelets, a 3×4 montage in MATLAB's jet."""

import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import ceil, exp, lgamma, log, log2, pi, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError, DataMissing

#: The order of the montage, row by row; record headers may spell them in either case.
STANDARD_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

Boundary = Literal["reflection", "half", "periodic"]

# No volts: wfdb drops the µ of µV, so a V may be either.
_MILLIVOLTS = {"mv": 1.0, "uv": 1e-3}
_WAVELETS = {"cmor": "cmor1.5-1.0", "gaus": "gaus1"}  # pywt's own defaults are deprecated or none


def morse_cwt(
    signal: ArrayLike,
    fs: float,
    gamma: float = 3,
    time_bandwidth: float = 60,
    voices: int = 10,
    boundary: Boundary = "reflection",
    *,
    norm: Literal["L1", "L2"] = "L1",
) -> tuple[NDArray[np.complexfloating], NDArray[np.float64]]:
    """Return coefficients (…, rows, N) of signal (…, N) and the rows' frequencies in Hz, falling.

    A float32 signal is transformed at single precision, anything else at double. With the norm
    L1 a unit cosine peaks at 1; L2 multiplies each row by the root of its scale in samples.
    """
    x = np.asarray(signal)
    shape = x.shape
    x = x if x.dtype == np.float32 else x.astype(np.float64)
    n = shape[-1] if shape else 0
    if n < 4:
        raise BenchError(
            f"A signal of {n} samples is too short for a wavelet transform.",
            "Give at least 4 samples in the last axis.",
        )
    pad = _pad(n, boundary)
    bank, frequencies = _filter_bank(
        n, pad, float(gamma), float(time_bandwidth), voices, norm, x.dtype.str
    )
    out = np.empty((x.size // n, len(bank), n), dtype=np.result_type(x.dtype, np.complex64))
    for place, coefficients in zip(out, _transforms(x.reshape(-1, n), bank, pad), strict=True):
        place[:] = coefficients
    return out.reshape(*shape[:-1], len(bank), n), fs * frequencies


def montage(
    leads: ArrayLike,
    fs: float,
    size: int,
    *,
    scaling: Literal["lead", "joint"] = "lead",
    wavelet: str = "morse",
    boundary: Boundary = "reflection",
) -> NDArray[np.uint8]:
    """Draw the scalograms of twelve leads (12, N) as one picture, uint8 (size, size, 3).

    Rows of the picture: I II III aVR / aVL aVF V1 V2 / V3 V4 V5 V6, high frequencies on top.
    `wavelet` is `morse` or a name of pywt's; a flat lead is drawn in the colour of 0. The rows'
    scales follow from the number of samples: fs says what they are in Hz and changes no pixel.
    """
    from PIL import Image

    x = np.asarray(leads, dtype=np.float32)
    if x.ndim != 2 or len(x) != len(STANDARD_LEADS):
        raise BenchError(
            f"A montage shows twelve leads; this array has the shape {x.shape}.",
            "Give an array of 12 leads × samples in the order of benchmark.ecg.STANDARD_LEADS.",
        )
    if not np.isfinite(x).all():
        raise BenchError("The leads hold samples that are not finite.", "Fill the gaps first.")
    if scaling not in ("lead", "joint"):
        raise BenchError(f"There is no scaling '{scaling}'.", "Choose lead or joint.")
    strength = _strength(x, wavelet, boundary)
    low, high = strength.min(axis=(1, 2)), strength.max(axis=(1, 2))
    if scaling == "joint":
        low[:], high[:] = low.min(), high.max()
    _, rows, n = strength.shape
    tiles = np.empty((3, rows, 4, n), dtype=np.uint8)
    for i, lead in enumerate(strength):
        span = high[i] - low[i]
        tiles[i // 4, :, i % 4] = (lead - low[i]) * (255 / span if span > 1e-30 else 0) + 0.5
    picture = Image.fromarray(tiles.reshape(3 * rows, 4 * n))
    # As a palette image the colours are looked up in C; the resize then sees true colours.
    picture.putpalette(np.rint(255 * jet()).astype(np.uint8).tobytes())
    return np.array(picture.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))


def jet() -> NDArray[np.float64]:
    """MATLAB's jet(256), (256, 3) in 0 to 1; matplotlib's differs by up to 0.13."""
    ramp = np.arange(256)[:, None] - np.array([95, 31, -33])
    return np.clip(np.minimum(ramp, 192 - ramp) / 64, 0, 1)


def read_record(
    path: Path | str,
    *,
    leads: Sequence[str] = STANDARD_LEADS,
    expected_fs: float | None = None,
) -> tuple[NDArray[np.float32], float]:
    """Read a WFDB record as leads (leads, N) in millivolts and its sampling rate in Hz.

    The path may carry the header's ending or none. Missing samples are counted in a warning and
    bridged linearly; a lead of nothing else is flat.
    """
    path = Path(path)
    record = _wfdb_record(path.with_suffix("") if path.suffix in (".hea", ".dat", ".mat") else path)
    if expected_fs is not None and record.fs != expected_fs:
        raise BenchError(
            f"The record {path} has {record.fs:g} samples a second, not {expected_fs:g}.",
            "Give the folder of the other sampling rate or change the expected rate.",
        )
    places = {name.strip().casefold(): i for i, name in enumerate(record.sig_name or [])}
    absent = [lead for lead in leads if lead.casefold() not in places]
    if absent:
        raise BenchError(
            f"The record {path} has no lead {', '.join(absent)}.",
            f"It has {', '.join(record.sig_name or ['none'])}; leave the record out.",
        )
    columns = [places[lead.casefold()] for lead in leads]
    units = [record.units[i].strip().casefold() for i in columns]
    if foreign := set(units) - set(_MILLIVOLTS):
        raise BenchError(
            f"The record {path} gives leads in {', '.join(sorted(foreign))}, not in mV or uV.",
            "Leave the record out or mend the units in its header.",
        )
    signal = record.p_signal[:, columns].T * np.array([[_MILLIVOLTS[u]] for u in units])
    return _bridge_gaps(signal, path).astype(np.float32), float(record.fs)


def _pad(n: int, boundary: str) -> int:
    """Samples of reflection on each side; MATLAB's own length is undocumented."""
    if boundary == "periodic":
        return 0
    if boundary == "half":
        return n // 2
    if boundary == "reflection":
        return n // 2 if n <= 128 else ceil(log2(n))
    raise BenchError(f"There is no boundary '{boundary}'.", "Choose reflection, half or periodic.")


def _transforms(
    x: NDArray[Any], bank: NDArray[np.floating], pad: int
) -> Iterator[NDArray[np.complexfloating]]:
    """Yield (rows, N) for each signal of x (signals, N): one at a time, it stays in the cache."""
    import scipy.fft

    fft: Any = scipy.fft  # its annotations give a Dispatchable where arrays come back
    rows, bins = bank.shape
    n = x.shape[1]
    # The wavelet does not see the mean, and without it single precision keeps its digits.
    x = x - x.mean(axis=1, keepdims=True)
    # The padded length is never rounded up to a faster one: that would change the coefficients.
    x = np.pad(x, ((0, 0), (pad, pad)), mode="symmetric")
    for spectrum in fft.rfft(x, axis=1, workers=1):
        product = np.zeros((rows, n + 2 * pad), dtype=spectrum.dtype)
        np.multiply(bank, spectrum, out=product[:, :bins])
        yield fft.ifft(product, overwrite_x=True, workers=1)[:, pad : pad + n]


@lru_cache(maxsize=16)
def _filter_bank(
    n: int, pad: int, gamma: float, time_bandwidth: float, voices: int, norm: str, dtype: str
) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
    """Filters (rows, bins of the half spectrum) and peak frequencies in cycles per sample."""
    if not (gamma > 0 and time_bandwidth > gamma and voices >= 1 and norm in ("L1", "L2")):
        raise BenchError(
            "The wavelet's parameters are out of range.",
            "gamma > 0, time_bandwidth > gamma, at least one voice, norm L1 or L2.",
        )
    beta = time_bandwidth / gamma
    peak = (beta / gamma) ** (1 / gamma)
    scales = _scales(n, gamma, beta, voices)
    length = n + 2 * pad
    # u: frequency over the filter's peak. The last bin of an even length is Nyquist, kept whole.
    u = scales[:, None] * (2 * pi / length) * np.arange(length // 2 + 1) / peak
    with np.errstate(divide="ignore", over="ignore"):
        bank = 2 * np.exp(beta * np.log(u) - beta / gamma * (u**gamma - 1))
    bank[bank < 1e-20] = 0  # no digit of the result depends on these, but denormals are slow
    if norm == "L2":
        bank *= np.sqrt(scales)[:, None]
    bank = bank.astype(dtype)
    frequencies = peak / (2 * pi * scales)
    for array in (bank, frequencies):
        array.flags.writeable = False
    return bank, frequencies


def _scales(n: int, gamma: float, beta: float, voices: int) -> NDArray[np.float64]:
    """Scales in samples, from half the peak gain at Nyquist to two deviations in time within n."""
    from scipy.special import lambertw

    peak = (beta / gamma) ** (1 / gamma)
    # Ψ(ω) = 1 above the peak, with v = (ω/ω₀)^γ: ln v − v = −1 − γ ln 2 / β.
    v = -lambertw(-np.exp(-1 - gamma * log(2) / beta), k=-1).real
    smallest = peak * v ** (1 / gamma) / pi
    largest = n / (2 * peak * _time_deviation(gamma, beta))
    largest = max(largest, smallest * 2 ** (1 / voices))
    # The tiny term keeps a range of whole steps whole in floating point.
    steps = int(voices * log2(largest / smallest) + 1e-9)
    return smallest * 2 ** (np.arange(steps + 1) / voices)


def _time_deviation(gamma: float, beta: float) -> float:
    """Standard deviation in time of the wavelet at scale 1: √(∫|Ψ'|² / ∫|Ψ|²), in closed form."""
    a = (2 * beta - 1) / gamma
    ratio = exp(lgamma(a) - lgamma(a + 2 / gamma)) * 2 ** (2 / gamma)
    return sqrt(ratio * (1 + gamma * (2 * beta - 1)) / 4)


def _strength(x: NDArray[np.float32], wavelet: str, boundary: Boundary) -> NDArray[np.float32]:
    """|W| of the leads (12, rows, N) by the named wavelet, at the Morse wavelet's frequencies."""
    n = x.shape[-1]
    pad = _pad(n, boundary)
    bank, frequencies = _filter_bank(n, pad, 3.0, 60.0, 10, "L1", x.dtype.str)
    if wavelet == "morse":
        strength = np.empty((len(x), len(bank), n), dtype=np.float32)
        for lead, coefficients in zip(strength, _transforms(x, bank, pad), strict=True):
            np.abs(coefficients, out=lead)
    else:
        strength = _pywt_strength(x, frequencies, wavelet)
    strength[x.min(axis=1) == x.max(axis=1)] = 0  # else rounding noise is stretched to full scale
    return strength


def _pywt_strength(
    x: NDArray[np.float32], frequencies: NDArray[np.float64], name: str
) -> NDArray[np.float32]:
    import pywt as library

    pywt: Any = library  # half of its names come from a compiled module without annotations
    try:
        wavelet = pywt.ContinuousWavelet(_WAVELETS.get(name, name))
    except ValueError as error:
        raise BenchError(
            f"There is no continuous wavelet '{name}'.",
            f"Choose morse, cmor, gaus or one of {', '.join(pywt.wavelist(kind='continuous'))}.",
        ) from error
    scales = pywt.frequency2scale(wavelet, frequencies)
    coefficients, _ = pywt.cwt(x, scales, wavelet, method="fft", axis=-1)
    return np.abs(coefficients).swapaxes(0, 1).astype(np.float32)


def _wfdb_record(path: Path) -> Any:
    import wfdb

    try:
        record: Any = wfdb.rdrecord(str(path))
    except FileNotFoundError as error:
        raise DataMissing(
            f"The record {path} lacks the file {Path(error.filename or path).name}.",
            "Put the record's header and its signal files side by side.",
        ) from error
    except (ValueError, RuntimeError, OSError, EOFError, LookupError, TypeError) as error:
        raise BenchError(
            f"The record {path} cannot be read ({error}).",
            "Its header is damaged or a signal file is cut short: fetch the record again.",
        ) from error
    if record.sig_len not in (None, len(record.p_signal)):
        raise BenchError(
            f"The record {path} holds fewer samples than its header says.",
            "A signal file is cut short: fetch the record again.",
        )
    return record


def _bridge_gaps(signal: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    gaps = np.isnan(signal)
    if not gaps.any():
        return signal
    warnings.warn(
        f"{int(gaps.sum())} missing samples of {path} were bridged linearly.", stacklevel=3
    )
    places = np.arange(signal.shape[1])
    for lead, gap in zip(signal, gaps, strict=True):
        lead[gap] = 0 if gap.all() else np.interp(places[gap], places[~gap], lead[~gap])
    return signal
