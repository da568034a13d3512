"""Flat DICOM images; needs the extra [dicom]."""

from pathlib import Path

import numpy as np

from benchmark import images
from benchmark.errors import BenchError

#: What a folder of images may hold.
ENDINGS = (*images.ENDINGS, ".dcm")


def read(path: Path) -> np.ndarray:
    """One flat DICOM image as its viewer would show it; needs the extra [dicom]."""
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise BenchError(
            f"{path.name} is a DICOM file, and pydicom is not installed.",
            "Install transfer-bench[dicom], or save the images as PNG.",
        ) from error
    data = pydicom.dcmread(path)
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise BenchError(
            f"{path} holds several frames, and only flat images can be classified.",
            "Cut it into slices with `bench data slices`.",
        )
    if int(data.get("SamplesPerPixel", 1)) > 1:
        return images.normalised_array(data.pixel_array, what=path.name)
    x = np.asarray(apply_voi_lut(apply_modality_lut(data.pixel_array, data), data), float)
    x = (x - x.min()) / max(float(x.max() - x.min()), 1e-12)
    if data.get("PhotometricInterpretation") == "MONOCHROME1":  # small values are white
        x = 1 - x
    return images.normalised_array(x, what=path.name)
