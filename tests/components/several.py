"""A tiny multi-label target for tests: a square in each corner is a label, any number of them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import Recipe, Sample, Target, TargetCard

LABELS = ("north", "east", "south", "rare")


class Several(Target):
    card = TargetCard(
        title="Several",
        license="none needed: made by this file",
        reference="tests/components/several.py",
        origin="synthetic",
        classes=4,
        images=96,
        labels=LABELS,
        multilabel=True,
        group="patient",
        pretrain=Recipe(size=32, epochs=1, batch=16, threads=1, select="last"),
        columns={"age": "numeric", "site": "categorical"},
        subgroups=("site",),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """Two images a patient; the record tells of the last label alone."""
        rng = np.random.default_rng(11)
        for i in range(96):
            has = rng.random(4) < (0.5, 0.4, 0.3, 0.15)
            image = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            for k in np.flatnonzero(has):
                image[16 * (k // 2) :, 16 * (k % 2) :][:14, :14] += np.uint8(90)
            yield Sample(
                image=image,
                label=tuple(name for name, yes in zip(LABELS, has, strict=True) if yes),
                name=f"image-{i}",
                group=f"patient-{i // 2}",
                metadata={
                    "age": f"{rng.normal(50 + 12 * has[3], 10):.0f}",
                    "site": ("arm", "leg")[int(rng.random() < 0.5)],
                },
                part=("train", "train", "train", "val", "test")[i // 2 % 5],
            )

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """It makes its own images."""
