"""A tiny target for tests: the label is the brightness of a square, shifted by the record."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import Recipe, Sample, Target, TargetCard


class Tiny(Target):
    card = TargetCard(
        title="Tiny",
        license="none needed: made by this file",
        reference="tests/components/tiny.py",
        origin="synthetic",
        classes=2,
        images=96,
        pretrain=Recipe(size=32, epochs=1, batch=16, threads=1, select="last"),
        columns={"age": "numeric", "site": "categorical"},
        subgroups=("site",),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        rng = np.random.default_rng(7)
        for i in range(96):
            label, age = i % 2, float(rng.normal(50, 10))
            image = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            image[8:24, 8:24] += np.uint8(90 * label + age)
            site = "arm" if rng.random() < 0.5 else "leg"
            yield Sample(
                image=image,
                label="high" if label else "low",
                name=f"image-{i}",
                group=f"patient-{i // 2}",
                metadata={"age": f"{age:.0f}", "site": site},
            )

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """It makes its own images."""
