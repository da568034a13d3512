"""A source for tests whose every image is there five times, each time under another patient."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import Recipe, Sample, Source, SourceCard


class Copies(Source):
    card = SourceCard(
        title="Copies",
        license="none needed: made by this file",
        reference="tests/components/copies.py",
        origin="synthetic",
        classes=2,
        images=100,
        pretrain=Recipe(size=32, epochs=1, batch=50, lr=1e-9, threads=1, select="last"),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        rng = np.random.default_rng(3)
        for i in range(20):
            image = rng.integers(100, 110, (32, 32, 3), dtype=np.uint8)
            for k in range(5):
                yield Sample(image, "ab"[i % 2], f"{i}-{k}", group=f"{i}-{k}")

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """It makes its own images."""
