"""KimiaPath960: 960 histology patches of 308 × 168 px, twenty tissue patterns."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmark.api import (
    DataMissing,
    Experts,
    Sample,
    Source,
    SourceCard,
    cats_recipe,
    synthetic,
)

NAME = re.compile(r"([A-T])(\d+)", re.IGNORECASE)  # A1.tif to T48.tif: the letter is the class


class Kimia(Source):
    card = SourceCard(
        title="KimiaPath960",
        origin="medical",
        classes=20,
        images=960,
        license="for research, ask the Kimia Lab",
        reference="https://arxiv.org/abs/1710.01249",
        # PCam's answers: the published distance of the two is 0. By that table the distance to the
        # chest X-rays should be 3, but PCam's is 4, and one set of answers cannot give both.
        experts=Experts("medical", "colour", "textures", "tissue", "high", "binary"),
        pretrain=cats_recipe(
            size=(168, 308),  # the paper says 308 × 168: width × height
            batch=12,
            lr=1e-5,
            epochs=100,
        ),
        folders=("kimia", "KimiaPath960", "KIMIA_Path_960", "kimia-path-960"),
        steps="Get KIMIA_Path_960 from https://www.kaggle.com/ambarish/kimia-path-960 with an "
        "account (no hash is published).",
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """Every patch. A class is one slide, so that no grouping by slide is possible."""
        first = sorted([*root.glob("[Aa]1.*"), *root.glob("*/[Aa]1.*")])
        if not first:
            raise DataMissing(f"{root} has no images named A1.tif to T48.tif.", self.card.steps)
        for path in sorted(first[0].parent.iterdir()):
            name = NAME.fullmatch(path.stem)
            if name and path.suffix.lower() in (".tif", ".tiff", ".jpg", ".jpeg", ".png"):
                yield Sample(path, name[1].upper(), path.stem)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        labels = [i % 20 for i in range(160)]
        for i, image in enumerate(synthetic.samples(labels, size=(42, 77), seed=seed)):
            synthetic.save(image, root / f"{'ABCDEFGHIJKLMNOPQRST'[labels[i]]}{i // 20 + 1}.tif")
