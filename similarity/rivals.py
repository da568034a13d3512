"""Plain rivals that any distance has to beat: lower is nearer, all arithmetic in float64."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmark.api import BenchError, Distance, DistanceCard, Input, Measured, Side
from benchmark.spec import Scalar
from similarity._floor import against_halves, labelled


def log_size(images: int) -> float:
    """Minus the natural logarithm of the source's number of images: the larger, the nearer."""
    return -math.log(_positive(images, "images"))


def class_count(source_classes: int, target_classes: int) -> int:
    """Absolute difference of the numbers of classes."""
    return abs(_positive(source_classes, "classes") - _positive(target_classes, "classes"))


def channels(source_channels: int, target_channels: int) -> int:
    """Absolute difference of the numbers of colour channels (grey 1, colour 3)."""
    return abs(_positive(source_channels, "channels") - _positive(target_channels, "channels"))


def frechet(x1: Any, x2: Any) -> float:
    """Fréchet distance (FID) of pooled features (n, d): squared W₂ of Gaussians, ddof 1.

    Exact for n < d and without a d × d matrix there; one sample has no spread.
    """
    import torch

    from similarity.otdd import between_gaussians, moments

    a, b = (moments(torch.from_numpy(x)) for x in _pair(x1, x2))
    return float(between_gaussians(a, b))


def mmd(x1: Any, x2: Any, *, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy (biased, so never negative) with a Gaussian kernel.

    The kernel is exp(−‖x − x'‖² / (2 h²)), h by default the median distance between different
    samples of the two sets together. Takes (n1 + n2)² memory.
    """
    from scipy.spatial.distance import pdist, squareform

    a, b = _pair(x1, x2)
    apart = pdist(np.vstack([a, b]))
    if bandwidth is not None and bandwidth <= 0:
        raise BenchError(f"A bandwidth of {bandwidth} is no width.", "Give a positive one.")
    if not apart.any():
        return 0.0
    width = float(np.median(apart[apart > 0])) if bandwidth is None else bandwidth
    kernel = squareform(np.exp(-((apart / width) ** 2) / 2))
    np.fill_diagonal(kernel, 1.0)
    weights = np.repeat([1 / len(a), -1 / len(b)], [len(a), len(b)])
    value = float(weights @ kernel @ weights)
    return value if value > 1e-12 else 0.0  # of equal sets only rounding is left


def _pair(x1: Any, x2: Any) -> tuple[np.ndarray, np.ndarray]:
    a, b = _features(x1), _features(x2)
    if a.shape[1] != b.shape[1]:
        what = f"One set has {a.shape[1]} features, the other {b.shape[1]}."
        raise BenchError(what, "Take the features of both sets from the same network.")
    return a, b


def _features(values: Any) -> np.ndarray:
    x = np.array(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)
    if x.ndim != 2 or not len(x):
        raise BenchError(f"Features of shape {x.shape} are no table.", "Give features (n, d).")
    if not np.isfinite(x).all():
        raise BenchError("The features are not all finite.", "Leave out NaN and infinite rows.")
    return x


def _positive(number: int, name: str) -> int:
    if number < 1:
        raise BenchError(f"{number} {name} is no count.", f"Give the number of {name}.")
    return number


class Rival(Distance):
    """What a distance has to beat; the variant names it."""

    card = DistanceCard(
        title="Plain rivals", version=2, by_excess=True, options={"size": 500, "draws": 5}
    )
    variants = ("size", "classes", "channels", "frechet", "mmd")

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant, given)
        if self.variant in ("size", "classes", "channels"):
            self.card = DistanceCard(title=self.card.title, needs="card")

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        if self.variant == "size":
            return Measured(log_size(source.card.images))
        if self.variant == "classes":
            return Measured(class_count(source.card.classes, target.card.classes))
        if self.variant == "channels":
            return Measured(channels(source.card.channels, target.card.channels))
        compared = frechet if self.variant == "frechet" else mmd
        raw, facts = against_halves(
            source, target, labelled, lambda a, b: compared(a[0], b[0]), name=self.variant,
            size=int(options["size"]), draws=int(options["draws"]), seed=seed,
        )  # fmt: skip
        return Measured(*raw[:3], facts)
