"""Decoding of many kinds of files, refusal of damaged and giant ones, colour constancy."""

import contextlib
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmark import images
from benchmark.errors import BenchError, DataMissing

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
SMOOTH = np.stack(np.broadcast_arrays(*np.ogrid[0:200:24j, 0:200:40j], 90), -1).astype(np.uint8)


def encode(picture: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_lossless_files(kind: str, tmp_path: Path) -> None:
    content = encode(PIXELS, kind)
    path = tmp_path / "image"
    path.write_bytes(content)
    for source in (content, path, str(path), bytearray(content)):
        decoded = images.decode(source)
        assert decoded.dtype == np.uint8
        assert decoded.flags.writeable
        assert (decoded == PIXELS).all()


def test_jpeg_keeps_its_full_size() -> None:
    decoded = images.decode(encode(SMOOTH, "JPEG", quality=95))
    assert decoded.shape == SMOOTH.shape
    assert np.abs(decoded.astype(int) - SMOOTH).max() < 12


def test_other_modes_become_rgb() -> None:
    grey = PIXELS[..., 0]
    three = np.stack([grey] * 3, axis=-1)
    assert (images.decode(encode(grey, "PNG")) == three).all()
    assert (images.decode(encode(grey > 99, "PNG")) == 255 * (three > 99)).all()
    rgba = np.dstack([PIXELS, np.full(grey.shape, 7, np.uint8)])
    assert (images.decode(encode(rgba, "PNG")) == PIXELS).all()
    palette = Image.fromarray(SMOOTH).quantize(16)
    colours = np.asarray(palette.convert("RGB"))
    assert (images.decode(encode(palette, "PNG")) == colours).all()
    assert (images.decode(encode(palette, "PNG", transparency=b"\0\1\2")) == colours).all()
    assert (images.decode(encode(palette, "GIF")) == colours).all()
    cmyk = Image.fromarray(SMOOTH).convert("CMYK")
    decoded = images.decode(encode(cmyk, "JPEG", quality=95)).astype(int)
    assert np.abs(decoded - SMOOTH).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_over_their_full_range(kind: str) -> None:
    deep = np.array([[0, 128, 129, 257], [32768, 65278, 65406, 65535]], dtype=np.uint16)
    decoded = images.decode(encode(Image.fromarray(deep), kind))
    assert decoded[..., 0].tolist() == [[0, 0, 1, 1], [128, 254, 254, 255]]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(kind: str) -> None:
    exif = Image.Exif()
    exif[274] = 6  # to be turned a quarter clockwise
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    decoded = images.decode(encode(SMOOTH, kind, exif=exif, **options)).astype(int)
    expected = np.rot90(SMOOTH, -1)
    assert decoded.shape == expected.shape
    assert np.abs(decoded - expected).max() < 12


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "PPM"])
def test_files_cut_short_are_refused(kind: str) -> None:
    """At every length; a PNG's last twelve bytes only say that it ends."""
    content = encode(SMOOTH, kind)
    whole = images.decode(content)
    for length in range(0, len(content), 1 if kind == "JPEG" else 7):
        try:
            decoded = images.decode(content[:length], what="of patient 7")
        except BenchError as error:
            assert "of patient 7" in error.what
        else:
            assert kind == "PNG" and length > len(content) - 21
            assert (decoded == whole).all()


@given(st.binary(max_size=200))
@hypothesis_settings(max_examples=60, deadline=None)
def test_noise_is_refused(content: bytes) -> None:
    with pytest.raises(BenchError):
        images.decode(content)


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_raise_nothing_else() -> None:
    rng = np.random.default_rng(1)
    for kind in ("JPEG", "PNG", "BMP", "GIF", "WEBP"):
        content = encode(SMOOTH, kind)
        for _ in range(60):
            damaged = bytearray(content)
            for place in rng.integers(0, min(len(damaged), 300), 4):
                damaged[place] = rng.integers(256)
            with contextlib.suppress(BenchError):
                assert images.decode(bytes(damaged)).dtype == np.uint8


def test_files_that_are_no_images(tmp_path: Path) -> None:
    pickled = tmp_path / "x.png"
    pickled.write_bytes(pickle.dumps(PIXELS))
    with pytest.raises(BenchError, match=r"x\.png› is not an image"):
        images.decode(pickled)
    np.save(tmp_path / "x.npy", PIXELS)
    with pytest.raises(BenchError, match="not an image"):
        images.decode(tmp_path / "x.npy")
    (tmp_path / "x.eps").write_bytes(encode(PIXELS, "EPS"))
    with pytest.raises(BenchError, match="not an image"):
        images.decode(tmp_path / "x.eps")
    with pytest.raises(DataMissing, match=r"gone\.png"):
        images.decode(tmp_path / "gone.png")
    with pytest.raises(BenchError, match="no image"):
        images.decode(tmp_path)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + body))
        return struct.pack(">I", len(body)) + name + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [8945, 10_000, 20_000])
def test_giants_are_refused_before_decoding(side: int) -> None:
    """The file holds no pixels at all: a decoder would call it damaged."""
    with pytest.raises(BenchError, match="too large"):
        images.decode(png_claiming(side, side))


def test_80_megapixels_are_not_too_many() -> None:
    with pytest.raises(BenchError, match="damaged"):
        images.decode(png_claiming(8000, 10_000))


def test_stacks_are_refused() -> None:
    pages = [Image.fromarray(PIXELS), Image.fromarray(SMOOTH)]
    for kind in ("TIFF", "GIF"):
        with pytest.raises(BenchError, match="holds 2 pictures"):
            images.decode(encode(pages[0], kind, save_all=True, append_images=pages[1:]))


def test_arrays() -> None:
    grey = PIXELS[..., 0]
    three = np.stack([grey] * 3, axis=-1)
    for same in (PIXELS, PIXELS.transpose(2, 0, 1), PIXELS.astype(np.int64), PIXELS.astype(float)):
        assert (images.decode(same) == PIXELS).all()
    for same in (grey, grey[..., None], grey[None], grey / 255, grey.astype(np.uint16) * 257):
        assert (images.normalised_array(same) == three).all()
    assert (images.normalised_array(grey > 9) == 255 * (three > 9)).all()
    assert (images.normalised_array(grey.astype(">u2") * 257) == three).all()
    assert (images.normalised_array(np.dstack([PIXELS, grey])) == PIXELS).all()
    assert (images.normalised_array((PIXELS / 255).astype(np.float32)) == PIXELS).all()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((64, 64, 64)), "flat picture"),
        (np.zeros((4, 64, 64)), "flat picture"),
        (np.zeros((1, 8, 8, 3)), "flat picture"),
        (np.zeros(12), "flat picture"),
        (np.zeros((0, 5)), "flat picture"),
        (np.array([[0.0, np.nan]]), "nan"),
        (np.array([[0.2, 3.7]]), "3.7"),
        (np.array([[-1, 3]]), "-1"),
        (np.array([[0, 4096]], dtype=np.int32), "4096"),
        (np.array([[object()]]), "object"),
    ],
)
def test_arrays_without_one_meaning(array: np.ndarray, reason: str) -> None:
    with pytest.raises(BenchError, match=f"slice-9.*{reason}"):
        images.decode(array, what="slice-9")


def test_resize() -> None:
    assert images.resize(SMOOTH, 12).shape == (12, 12, 3)
    assert images.resize(SMOOTH, (10, 30)).shape == (10, 30, 3)
    assert (images.resize(PIXELS, (24, 40)) == PIXELS).all()
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    assert np.abs(images.resize(stripes, 16).astype(int) - 100).max() <= 20  # antialiased


def test_pixel_hash() -> None:
    assert images.pixel_hash(np.zeros((2, 3, 3), np.uint8)) == "eba3176a9a9b36dc"
    assert images.pixel_hash(np.zeros((3, 2, 3), np.uint8)) != "eba3176a9a9b36dc"
    turned = np.ascontiguousarray(PIXELS[::-1])[::-1]
    assert images.pixel_hash(turned) == images.pixel_hash(PIXELS)
    one_off = PIXELS.copy()
    one_off[3, 4, 1] ^= 1
    assert images.pixel_hash(one_off) != images.pixel_hash(PIXELS)
    again = images.decode(encode(PIXELS, "BMP"))
    assert images.pixel_hash(again) == images.pixel_hash(images.decode(encode(PIXELS, "PNG")))


def test_png_round_trip() -> None:
    content = images.to_png_bytes(PIXELS)
    assert content.startswith(b"\x89PNG")
    assert (images.decode(content) == PIXELS).all()


def shades_by_hand(image: np.ndarray, power: float) -> np.ndarray:
    pixels = image.reshape(-1, 3).astype(np.float64)
    light = (pixels**power).mean(axis=0) ** (1 / power)
    direction = light / np.linalg.norm(light)
    return np.rint(np.clip(image / (np.sqrt(3) * direction), 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("power", [1, 6, 12])
def test_shades_of_gray(power: float) -> None:
    reddish = (PIXELS * np.array([1.0, 0.6, 0.4])).astype(np.uint8)
    balanced = images.shades_of_gray(reddish, power=power)
    assert (balanced == shades_by_hand(reddish, power)).all()
    means = balanced.reshape(-1, 3).mean(axis=0)
    assert np.ptp(means) < np.ptp(reddish.reshape(-1, 3).mean(axis=0)) / 4


def test_shades_of_gray_by_numbers() -> None:
    """Light (200, 100, 50) has the norm 229.13: gains 0.6614, 1.3229, 2.6458."""
    flat = np.full((4, 4, 3), (200, 100, 50), dtype=np.uint8)
    assert (images.shades_of_gray(flat) == 132).all()
    grey = np.full((4, 4, 3), 128, dtype=np.uint8)
    assert (images.shades_of_gray(grey) == 128).all()
    assert (images.shades_of_gray(np.zeros((4, 4, 3), np.uint8)) == 0).all()
    no_blue = flat * np.array([1, 1, 0], dtype=np.uint8)
    assert (images.shades_of_gray(no_blue) == [129, 129, 0]).all()


def test_shades_of_gray_clips_where_others_wrap() -> None:
    image = np.full((10, 10, 3), (200, 100, 50), dtype=np.uint8)
    image[0, 0] = 255
    balanced = images.shades_of_gray(image, power=1)
    assert balanced[0, 0].tolist()[1:] == [255, 255]


@given(arrays(np.uint8, (5, 6, 3)))
@hypothesis_settings(max_examples=50, deadline=None)
def test_shades_of_gray_of_any_image(image: np.ndarray) -> None:
    if not (image.max(axis=(0, 1)) > 0).all():
        assert images.shades_of_gray(image).shape == image.shape
        return
    difference = images.shades_of_gray(image).astype(int) - shades_by_hand(image, 6)
    assert np.abs(difference).max() <= 1


@pytest.mark.real
def test_real_images(real_data: Path) -> None:
    folder = real_data / "chest_xray" / "test" / "NORMAL"
    paths = sorted(folder.iterdir())[:10]
    hashes = {images.pixel_hash(images.resize(images.decode(path), 64)) for path in paths}
    assert len(hashes) == len(paths)
    assert images.decode(paths[0]).shape[2] == 3
