"""Synthetic images for demonstration and tests: textures, colours, and lesions with a record.

Nothing here is medical. The sets exist so that a whole benchmark can be run in minutes without a
download, with an answer known beforehand: `near` shares its texture attributes with the target,
`middle` one of them, `far` none. A ResNet18 trained on them for eight epochs gave frozen features
that told the lesions apart with an AUROC of about 0.67, 0.61 and 0.47; the best possible is 0.79.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bits = Mapping[str, int]  # attribute -> 0 or 1

SIZE = 32  # pixels of a side
TEXTURE = ("frequency", "bend", "dots")
COLOUR = ("dark", "hue", "ramp")
#: What the classes of a kind of patterns differ in.
TOLD = {
    "near": TEXTURE,
    "middle": ("frequency", "hue", "ramp"),
    "far": COLOUR,
    "broad": (*TEXTURE, *COLOUR),
}
KINDS = tuple(TOLD)
SKIN = np.array([0.78, 0.66, 0.60])
MARK = np.array([0.15, 0.25, 0.75])
INK = np.array([0.36, 0.25, 0.20])


@dataclass(frozen=True)
class Texture:
    """What a surface looks like; its orientation is always random."""

    frequency: float  # lines across the image
    bend: float  # of the lines, in line widths; 0 is straight
    dots: float  # dark dots per image


class Lesions(NamedTuple):
    """A synthetic target: row i is one image."""

    images: NDArray[np.uint8]  # (N, size, size, 3)
    labels: NDArray[np.int64]  # (N,), 1 is malignant
    lesions: NDArray[np.int64]  # (N,), 1 to 3 images each
    image_evidence: Floats  # (N,), standard normal; decides what the surface looks like
    record_evidence: Floats  # (N,), about standard normal; made of age, sex and site
    rows: list[dict[str, str]]  # the record as a hospital would write it


def patterns(
    kind: str, *, count: int = 1600, size: int = SIZE, seed: int = 0
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, size, size, 3) and labels (N,): a class for every value of a kind's bits."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    told = TOLD[kind]
    labels = rng.permutation(np.arange(count) % 2 ** len(told))
    bits = labels[:, None] >> np.arange(len(told)) & 1
    draw = _SPOTS.get(kind, _field)
    images = np.stack([draw(rng, dict(zip(told, row, strict=True)), size) for row in bits])
    return images, labels.astype(np.int64)


def samples(
    labels: Sequence[int], *, size: int | tuple[int, int] = SIZE, seed: int = 0
) -> NDArray[np.uint8]:
    """Images (N, H, W, 3) whose texture tells the label, for a miniature of a real set."""
    rng = np.random.default_rng([seed, 11])
    height, width = (size, size) if isinstance(size, int) else size
    bits = np.asarray(labels)[:, None] >> np.arange(3) & 1
    made = (_field(rng, dict(zip(TEXTURE, row, strict=True)), max(height, width)) for row in bits)
    return np.stack([image[:height, :width] for image in made])


def save(image: NDArray[np.uint8], path: Path) -> None:
    """Write an image in the format of its path's ending."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def lesions(*, count: int = 900, size: int = SIZE, seed: int = 0, grey: bool = False) -> Lesions:
    """Lesions whose label depends on the image and, unless grey, as much on the record."""
    rng = np.random.default_rng([seed, 7, grey])
    lesion = np.repeat(np.arange(count), rng.choice([1, 2, 3], count, p=[0.55, 0.3, 0.15]))[:count]
    n = int(lesion[-1]) + 1
    surface, record = rng.standard_normal(n), np.zeros(n)
    rows = [{} for _ in range(n)]
    if not grey:
        rows, record = _records(rng, n)
    weight = (2.6, 0.0) if grey else (1.6, 1.3)
    chance = 1 / (1 + np.exp(-(weight[0] * surface + weight[1] * record)))
    label = (rng.random(n) < chance).astype(np.int64)
    images = np.stack([_lesion(rng, float(surface[i]), size, grey) for i in lesion])
    return Lesions(
        images, label[lesion], lesion, surface[lesion], record[lesion], [rows[i] for i in lesion]
    )


def marked(found: Lesions, *, agrees: float = 0.9, seed: int = 0) -> Lesions:
    """The lesions with a blue corner on images of malignant ones: so in 90 % of the images."""
    rng = np.random.default_rng([seed, 13])
    told = (found.labels == 1) == (rng.random(len(found.labels)) < agrees)
    images, side = found.images.copy(), found.images.shape[1] // 4
    images[told, :side, :side] = np.rint(255 * MARK).astype(np.uint8)
    return found._replace(images=images)


def _records(rng: np.random.Generator, n: int) -> tuple[list[dict[str, str]], Floats]:
    age = np.clip(rng.normal(52, 16, n).round(), 5, 90)
    male = rng.random(n) < 0.5
    sites = ("back", "face", "leg", "trunk")
    site = rng.integers(len(sites), size=n)
    evidence = 0.8 * (age - 52) / 16 + 0.4 * (2 * male - 1)
    evidence += 0.45 * np.array([1.3, 0.4, -0.4, -1.3])[site]
    no_age, no_site = rng.random(n) < 0.05, rng.random(n) < 0.08
    rows = [
        {
            "age": "" if no_age[i] else f"{age[i]:.0f}",
            "sex": "male" if male[i] else "female",
            "site": "unknown" if no_site[i] else sites[site[i]],
        }
        for i in range(n)
    ]
    return rows, evidence


def _lesion(rng: np.random.Generator, evidence: float, size: int, grey: bool) -> NDArray[np.uint8]:
    """Skin with a lesion on it; the more evidence, the coarser, more bent and dotted its lines."""
    lean = 1 / (1 + np.exp(-1.6 * evidence))
    frequency = 7 - 3 * lean + rng.uniform(-0.6, 0.6)
    texture = Texture(frequency, bend=lean, dots=1 + 8 * lean)
    y, x = np.mgrid[:size, :size] / size - rng.uniform(0.42, 0.58, (2, 1, 1))
    turn = rng.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    radius = np.hypot(u / rng.uniform(0.85, 1.15), v / rng.uniform(0.7, 1.0))
    ink = _inside(rng, radius, size) * (0.55 + 0.4 * _surface(rng, texture, size))
    tone = SKIN + rng.normal(0, 0.03, 3)
    image = tone + (INK - tone) * ink[..., None]
    if grey:
        image = np.broadcast_to(image.mean(-1, keepdims=True), image.shape)
    return _pixels(rng, image, noise=0.02)


def _field(rng: np.random.Generator, bits: Bits, size: int) -> NDArray[np.uint8]:
    """A whole image of one surface, or of colour alone where no bit is one of texture."""
    grain = np.zeros((size, size))
    if not bits.keys().isdisjoint(TEXTURE):
        grain = _surface(rng, _texture(rng, bits), size)
    return _pixels(rng, _ground(rng, bits, size) - 0.22 * grain[..., None], noise=0.04)


def _coloured_spot(rng: np.random.Generator, bits: Bits, size: int) -> NDArray[np.uint8]:
    """A round patch of one surface on a coloured ground."""
    ground = _ground(rng, bits, size)
    return _spot(rng, _texture(rng, bits), ground, 0.45 * ground)


def _skin_spot(rng: np.random.Generator, bits: Bits, size: int) -> NDArray[np.uint8]:
    """A round patch of one surface on skin."""
    ground = np.broadcast_to(SKIN + rng.normal(0, 0.03, 3), (size, size, 3))
    return _spot(rng, _texture(rng, bits), ground, INK + rng.normal(0, 0.03, 3))


_SPOTS = {"near": _skin_spot, "middle": _coloured_spot}


def _spot(
    rng: np.random.Generator, texture: Texture, ground: Floats, ink: Floats
) -> NDArray[np.uint8]:
    size = len(ground)
    y, x = np.mgrid[:size, :size] / size - rng.uniform(0.42, 0.58, (2, 1, 1))
    strength = _inside(rng, np.hypot(x, y), size) * (0.55 + 0.4 * _surface(rng, texture, size))
    return _pixels(rng, ground + (ink - ground) * strength[..., None], noise=0.03)


def _texture(rng: np.random.Generator, bits: Bits) -> Texture:
    """What no bit decides is the same for all."""
    return Texture(
        frequency=rng.uniform(6, 8) if bits.get("frequency") else rng.uniform(3, 4.5),
        bend=rng.uniform(0.6, 1.0) if bits.get("bend") else rng.uniform(0, 0.2),
        dots=rng.uniform(9, 13) if bits.get("dots") else rng.uniform(0, 1.5),
    )


def _ground(rng: np.random.Generator, bits: Bits, size: int) -> Floats:
    """Colour (size, size, 3); what no bit decides is left to chance."""
    colour = [bool(bits[name]) if name in bits else rng.random() < 0.5 for name in COLOUR]
    dark = 0.35 if colour[0] else 0.65
    hue = np.array([0.15, 0.0, -0.15] if colour[1] else [-0.15, 0.0, 0.15])
    ramp = (np.mgrid[:size, :size] / size - 0.5)[int(colour[2])] * rng.choice([-1, 1])
    return dark + hue * rng.uniform(0.5, 1.2) + 0.35 * ramp[..., None]


def _inside(rng: np.random.Generator, radius: Floats, size: int) -> Floats:
    """1 within a spot of random width, 0 outside, with a soft rim."""
    return 1 / (1 + np.exp((radius - rng.uniform(0.36, 0.46)) * size * 0.9))


def _surface(rng: np.random.Generator, texture: Texture, size: int) -> Floats:
    """Lines and dots, (size, size), about -1 to 1; darker is larger."""
    y, x = np.mgrid[:size, :size] / size
    turn, shift = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 4)
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    bend = texture.bend * (np.sin(2 * np.pi * 1.5 * along + shift[0]) + np.sin(9 * y + shift[1]))
    lines = np.sin(2 * np.pi * texture.frequency * across + shift[2] + np.pi * bend)
    dots = np.zeros((size, size))
    for cy, cx in rng.uniform(0.05, 0.95, (rng.poisson(texture.dots), 2)):
        dots += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) * 300)
    return np.clip(0.6 * lines + 1.2 * dots, -1, 1)


def _pixels(rng: np.random.Generator, image: Floats, *, noise: float) -> NDArray[np.uint8]:
    grainy = image + rng.normal(0, noise, image.shape)
    return np.rint(255 * np.clip(grainy, 0, 1)).astype(np.uint8)
