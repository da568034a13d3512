"""Synthetic textures, made on the spot: near, middle or far from the target demo."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark.api import (
    Augment,
    Experts,
    Input,
    Recipe,
    Record,
    Source,
    SourceCard,
    synthetic,
)

WHAT = {
    "near": ("lines and dots", "three texture attributes that also tell demo's classes apart"),
    "middle": ("coloured lines", "one texture attribute of demo's and two of colour"),
    "far": ("colours", "brightness, hue and gradient alone, which tell demo nothing"),
}


class Patterns(Source):
    """Eight classes of 200 images; made for demonstration and tests, nothing in it is real."""

    variants = ("near", "middle", "far")
    card = SourceCard(
        title="Synthetic patterns",
        origin="synthetic",
        classes=8,
        images=1600,
        license="CC0 1.0",
        reference="made by benchmark/synthetic.py",
        pretrain=Recipe(
            size=32,
            batch=64,
            lr=1e-3,
            epochs=8,
            dropout=0.0,
            augment=Augment(horizontal=True, vertical=True),
            select="last",
        ),
        show=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant or self.variants[0], given)
        kind, meaning = WHAT[self.variant]
        diversity = {"near": "medium", "middle": "medium", "far": "low"}[self.variant]
        self.card = replace(
            self.card,
            title=f"Synthetic patterns, {self.variant}: {meaning}",
            experts=Experts("natural", "colour", "textures", kind, diversity, "many"),
        )

    def records(self, root: Path) -> Iterator[Record]:
        images, labels = synthetic.patterns(self.variant)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Record(image, f"pattern {label}", f"{self.variant}-{i:04d}")

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """Nothing to write: the set is made from a fixed seed and needs no folder."""
