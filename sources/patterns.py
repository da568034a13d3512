"""Synthetic textures, made on the spot: near, middle or far from the target demo, or broad."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark.api import (
    Augment,
    Experts,
    Input,
    Recipe,
    Sample,
    Source,
    SourceCard,
    synthetic,
)

EXPERTS = {
    "near": ("both", "spots", "low"),
    "middle": ("both", "coloured spots", "medium"),
    "far": ("textures", "colours", "medium"),
    "broad": ("textures", "lines, dots and colours", "high"),
}
WHAT = {
    "near": "spots on skin, told by the texture attributes that tell demo's classes",
    "middle": "spots on coloured ground, told by one of those attributes and two of colour",
    "far": "fields of colour, told by brightness, hue and gradient, which tell demo nothing",
    "broad": "fields of lines, dots and colours, told by all six attributes",
}


class Patterns(Source):
    """Classes of synthetic images; made for demonstration and tests, nothing in it is real.

    `broad` has 64 classes where the others have 8: it is to them what ImageNet is to real sets, a
    probe that is itself none of the sources compared.
    """

    variants = ("near", "middle", "far", "broad")
    card = SourceCard(
        title="Synthetic patterns",
        version=2,
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
        self.card = replace(
            self.card,
            title=f"Synthetic patterns, {self.variant}: {WHAT[self.variant]}",
            classes=2 ** len(synthetic.TOLD[self.variant]),
            experts=Experts("natural", "colour", *EXPERTS[self.variant], "many"),
        )

    def records(self, root: Path) -> Iterator[Sample]:
        images, labels = synthetic.patterns(self.variant)
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Sample(image, f"pattern {label}", f"{self.variant}-{i:04d}")

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """Nothing to write: the set is made from a fixed seed and needs no folder."""
