"""Flat DICOM images; needs the extra [dicom]."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmark import images
from benchmark.errors import BenchError, private

#: What a folder of images may hold.
ENDINGS = (*images.ENDINGS, ".dcm")


#: What pydicom raises on damaged files.
DAMAGE = (AttributeError, ValueError, TypeError, LookupError, OSError, EOFError, RuntimeError,
          NotImplementedError, OverflowError, struct.error)  # fmt: skip
#: Hounsfield units of a CT that names no window: twelve bits from −1024.
CT = (-1024.0, 3071.0)


def read(path: Path, white: int = images.WHITE) -> NDArray[np.uint8]:
    """One flat DICOM image as uint8 (H, W, 3): through its window, or over a range that all share.

    A CT without a window spans −1024 to 3071, another image 0 to `white`.
    """
    data = _open(path)
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise BenchError(
            f"{private(path)} holds several frames, and only flat images can be classified.",
            "Cut it into slices with `bench data slices`.",
        )
    with _told(path):
        if int(data.get("SamplesPerPixel", 1)) > 1:
            return images.normalised_array(data.pixel_array, what=path.name)
        x, low, high = _values(data, white)
        x = np.clip((x - low) / (high - low), 0, 1)
        if data.get("PhotometricInterpretation") == "MONOCHROME1":  # small values are white
            x = 1 - x
        return images.normalised_array(x, what=path.name)


def brightest(path: Path) -> int:
    """The largest value of an image that says no window; 0 of any other."""
    data = _open(path)
    with _told(path):
        if "WindowWidth" in data or "VOILUTSequence" in data or data.get("Modality") == "CT":
            return 0
        flat = int(data.get("NumberOfFrames", 1) or 1) == int(data.get("SamplesPerPixel", 1)) == 1
        return max(0, int(_modality(data).max())) if flat else 0


def _values(data: Any, white: int) -> tuple[NDArray[np.float64], float, float]:
    """The values with the ends of their range."""
    x = _modality(data)
    if "VOILUTSequence" in data:
        from pydicom.pixels.processing import apply_voi

        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(x.astype(np.int64), data), float), 0.0, 2.0**bits - 1
    if "WindowWidth" in data:
        first = lambda value: float(value[0] if hasattr(value, "__len__") else value)  # noqa: E731
        middle, width = first(data.WindowCenter), max(first(data.WindowWidth), 1.0)
        if data.get("VOILUTFunction", "LINEAR") == "SIGMOID":
            return 1 / (1 + np.exp(-4 * (x - middle) / width)), 0.0, 1.0
        return x, middle - width / 2, middle + width / 2
    return (x, *CT) if data.get("Modality") == "CT" else (x, 0.0, float(white))


def _modality(data: Any) -> NDArray[np.float64]:
    from pydicom.pixels.processing import apply_modality_lut

    return np.asarray(apply_modality_lut(data.pixel_array, data), float)


def _open(path: Path) -> Any:
    try:
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        raise BenchError(
            f"{private(path.name)} is a DICOM file, and pydicom is not installed.",
            "Install transfer-bench[dicom], or save the images as PNG.",
        ) from error
    with _told(path):
        try:
            if not path.is_file():  # a pipe would be waited for
                raise ValueError("it is no file")
            return pydicom.dcmread(path)
        except InvalidDicomError as error:
            raise ValueError("it is no DICOM file") from error


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        why = " ".join(str(error).split())[:200]
        raise BenchError(
            f"The image {private(path.name)} is damaged or cut short ({private(why)}).",
            "Fetch the file again or take it out.",
        ) from error
