"""A target in two copies that differ in their test part alone: what trains must not see it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import Sample, Target, TargetCard

CHANGED = False


class Blind(Target):
    card = TargetCard(
        title="Blind",
        license="none needed: made by this file",
        reference="tests/components/blind.py",
        origin="synthetic",
        classes=2,
        images=80,
        columns={"age": "numeric", "site": "categorical"},
    )

    def records(self, root: Path) -> Iterator[Sample]:
        rng = np.random.default_rng(3)
        for i in range(80):
            part, rare, age = (
                ("train", "train", "val", "test")[i % 4],
                i % 20 < 4,
                rng.normal(50, 9),
            )
            image = rng.integers(0, 120, (16, 16, 3), dtype=np.uint8) + np.uint8(5 * rare)
            site = "arm" if rng.random() < 0.5 else "leg"
            if CHANGED and part == "test":
                image, rare, age, site = 255 - image, not rare, 100 * age, "elsewhere"
            yield Sample(
                image=image,
                label="rare" if rare else "usual",
                name=f"image-{i}",
                group=f"patient-{i}",
                part=part,
                metadata={"age": f"{age:.0f}", "site": site},
            )

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """It makes its own images."""
