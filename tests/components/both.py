"""A target whose label needs image and record: brightness and age each tell half of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import Sample, Target, TargetCard


class Both(Target):
    card = TargetCard(
        title="Both",
        license="none needed: made by this file",
        reference="tests/components/both.py",
        origin="synthetic",
        classes=2,
        images=900,
        columns={"age": "numeric", "sex": "categorical"},
    )

    def records(self, root: Path) -> Iterator[Sample]:
        rng = np.random.default_rng(11)
        for i in range(900):
            light, age = rng.normal(size=2)
            high = light + age + 0.3 * rng.normal() > 0
            image = rng.normal(120 + 35 * light, 12, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            yield Sample(
                image=image,
                label="high" if high else "low",
                name=f"image-{i}",
                group=f"patient-{i // 2}",
                metadata={"age": f"{50 + 12 * age:.1f}", "sex": "fm"[int(rng.integers(2))]},
            )

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """It makes its own images."""
