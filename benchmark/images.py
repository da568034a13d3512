"""Images as arrays: decoding, resizing, hashing and shades-of-gray colour constancy."""

import hashlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError, DataMissing, private

if TYPE_CHECKING:
    from PIL.Image import Image

#: Larger pictures are refused before their pixels are decoded: a small file can claim any size.
MAX_PIXELS = 80_000_000

#: How the files are called that `decode` reads.
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".ppm", ".pgm")

# Named ones only: PIL's full list starts other programs (EPS), and its JPEG 2000 takes cut files.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")

# What PIL's parsers raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    struct.error,
)


#: The largest value of 16 bits.
WHITE = 65535


def decode(
    source: Path | str | bytes | ArrayLike, *, what: str = "", white: int = WHITE
) -> NDArray[np.uint8]:
    """Return an image file, its bytes or an array as uint8 (H, W, 3), turned as its EXIF says.

    Transparency is dropped; 16 bits map to 8 from 0 to `white`. `what` names the image in
    errors, for instance a record's id.
    """
    if not isinstance(source, (str, Path, bytes, bytearray, memoryview)):
        return normalised_array(source, what=what)
    from PIL import Image

    is_file = isinstance(source, (str, Path))
    Image.init()  # PIL knows only its five commonest formats until told; free the second time
    what = what or (str(source) if is_file else f"of {len(source)} bytes")
    try:
        if is_file and not Path(source).is_file():  # a pipe would be waited for
            raise FileNotFoundError
        with Image.open(source if is_file else io.BytesIO(source), formats=_FORMATS) as image:
            _refuse_size(image, what)
            return _pixels(image, what, white)
    except FileNotFoundError as error:
        raise DataMissing(
            f"There is no image {private(what)}.", "Look at the folder's path."
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BenchError(
            f"The image {private(what)} is too large ({private(error)}).", _SMALLER
        ) from error
    except Image.UnidentifiedImageError as error:
        raise BenchError(
            f"The file {private(what)} is not an image of a known kind.",
            "Give JPEG, PNG, TIFF, BMP, GIF, WebP or PPM, or take the file out.",
        ) from error
    except _DAMAGE as error:
        raise BenchError(
            f"The image {private(what)} is damaged or cut short ({private(error)}).",
            "Fetch the file again or take it out.",
        ) from error


def brightest(path: Path) -> int:
    """The largest value of a grey image of 16 bits; 0 of any other file."""
    from PIL import Image

    if path.suffix.lower() not in (".png", ".tif", ".tiff", ".pgm") or not path.is_file():
        return 0
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.mode.startswith("I") and image.width * image.height <= MAX_PIXELS:
                return int(np.asarray(image).max())
    except (*_DAMAGE, Image.DecompressionBombError, Image.DecompressionBombWarning):
        pass  # whoever decodes it says what is wrong
    return 0


def white_of(highest: int) -> int:
    """What images of 16 bits count as white: the end of 8, 10, 12, 14 or 16 bits that hold it."""
    return next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if highest < 2**bits or bits == 16)


_SMALLER = f"Give images of at most {MAX_PIXELS // 10**6} megapixels."


def normalised_array(array: ArrayLike, *, what: str = "") -> NDArray[np.uint8]:
    """Return an array as uint8 (H, W, 3); what has no single meaning is refused.

    Shapes: (H, W), 1, 3 or 4 channels in the last place, or 1 or 3 in the first. Values: 8 and 16
    bits unsigned over their full range, booleans, floats in 0 to 1, whole numbers in 0 to 255.
    """
    x = np.asarray(array)
    name = f"The image {private(what)}" if what else "The image array"
    if x.ndim == 2:
        x = x[..., None]
    is_last = x.ndim == 3 and x.shape[-1] in (1, 3, 4)
    is_first = x.ndim == 3 and x.shape[0] in (1, 3) and not is_last
    if x.size == 0 or not (is_last or is_first):
        raise BenchError(
            f"{name} has the shape {x.shape}, which is not one flat picture.",
            "Give (H, W), (H, W, 3) or (3, H, W); cut a volume into slices first.",
        )
    x = _eight_bits(x.transpose(1, 2, 0) if is_first else x, name)
    return np.ascontiguousarray(np.broadcast_to(x[..., :3], (*x.shape[:2], 3)))


def resize(image: NDArray[np.uint8], size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to size × size or to (height, width), bilinear with antialias."""
    from PIL import Image

    height, width = (size, size) if isinstance(size, int) else size
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(picture)


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """Hash the shape and the decoded pixels: 16 hex digits, equal for the same picture."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def shades_of_gray(image: ArrayLike, power: float = 6) -> NDArray[np.uint8]:
    """Divide (H, W, 3) by its estimated illuminant: the Minkowski mean of each channel."""
    x = normalised_array(image)
    values = np.arange(256.0)
    counts = np.stack([np.bincount(x[..., c].ravel(), minlength=256) for c in range(3)])
    # Powers of values over 255 stay within floating point for any order.
    light = (counts @ (values / 255) ** power / counts[0].sum()) ** (1 / power)
    if not light.any():
        return x
    gain = np.linalg.norm(light) / (np.sqrt(3) * np.where(light > 0, light, 1))
    # The widely copied code does not clip and wraps modulo 256.
    table = np.rint(np.clip(gain[:, None] * values, 0, 255)).astype(np.uint8)
    return np.stack([table[c][x[..., c]] for c in range(3)], axis=-1)


def to_png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Encode uint8 (H, W, 3) or (H, W) as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _refuse_size(image: "Image", what: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BenchError(
            f"The image {private(what)} has {image.width} × {image.height} pixels, "
            "which is too large.",
            _SMALLER,
        )


def _pixels(image: "Image", what: str, white: int) -> NDArray[np.uint8]:
    from PIL import ImageOps

    # An MPO is a photograph with a preview behind it; other files of several pictures are volumes.
    if image.format not in ("JPEG", "MPO") and (frames := getattr(image, "n_frames", 1)) > 1:
        raise BenchError(
            f"The image {private(what)} holds {frames} pictures.", "Save each as a file of its own."
        )
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        x = _sixteen_bits(np.asarray(image))
        if x.dtype == np.uint16 and white != WHITE:
            x = np.rint(np.minimum(x / white, 1) * 255).astype(np.uint8)
        return normalised_array(x, what=what)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _sixteen_bits(x: NDArray[Any]) -> NDArray[Any]:
    """PIL holds 16-bit greys as 32-bit integers in some formats; give them their own type back."""
    if x.dtype.kind == "i" and x.size and x.min() >= 0 and x.max() <= 65535:
        return x.astype(np.uint16)
    return x


def _eight_bits(x: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Map the values to 0–255 by the type alone, so that one image is not scaled as its peers."""
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind == "u" and x.dtype.itemsize == 2:  # of either byte order
        return ((x.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if x.dtype == bool:
        return x.astype(np.uint8) * np.uint8(255)
    low, high = (x.min(), x.max()) if x.dtype.kind in "iuf" else (np.nan, np.nan)
    if x.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(x * 255).astype(np.uint8)
    if low >= 0 and high <= 255 and (x.dtype.kind in "iu" or (x == np.rint(x)).all()):
        return x.astype(np.uint8)
    raise BenchError(
        f"{name} holds {x.dtype} values from {low} to {high}, which could mean anything.",
        "Scale floats to 0 to 1, or give whole numbers from 0 to 255 or 16 bits unsigned.",
    )
