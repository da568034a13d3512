"""STL-10: 13,000 labelled natural images of 96 px, ten classes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import (
    BenchError,
    Experts,
    File,
    Sample,
    Source,
    SourceCard,
    cats_recipe,
    locate,
    synthetic,
)

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
SIDE = 96


class STL10(Source):
    card = SourceCard(
        title="STL-10",
        origin="natural",
        classes=10,
        images=13000,
        license="none stated; images of ImageNet, for research",
        reference="https://cs.stanford.edu/~acoates/stl10/",
        experts=Experts("natural", "colour", "objects", "animals and vehicles", "high", "many"),
        pretrain=cats_recipe(
            size=96, batch=128, lr=1e-3, epochs=50, schedule="step", milestones=(30,)
        ),
        folders=("stl10", "stl10_binary"),
        files=(
            File(
                "stl10_binary.tar.gz",
                "https://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                "md5:91f7769df0f17e558f3565bffb0c7dfb",
                unpack=True,
            ),
        ),
        overlaps=("imagenet",),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """The 5,000 training and 8,000 test images; the unlabelled ones are left out."""
        base = locate(root, "train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")
        for part in ("train", "test"):
            labels = np.fromfile(base / f"{part}_y.bin", np.uint8)
            size = (base / f"{part}_X.bin").stat().st_size
            fits = size == labels.size * 3 * SIDE * SIDE > 0
            if not fits or not np.isin(labels, range(1, 11)).all():
                raise BenchError(
                    f"{part}_X.bin and {part}_y.bin in {base} do not fit each other.",
                    "One is cut short: unpack the archive again.",
                )
            pixels = np.memmap(base / f"{part}_X.bin", np.uint8, "r")
            # Each image lies channel by channel and column by column.
            images = pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 3, 2, 1)
            for i, label in enumerate(labels):
                yield Sample(images[i], CLASSES[label - 1], f"{part}-{i:05d}", part=part)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        for part, each in (("train", 5), ("test", 7)):
            labels = np.tile(np.arange(10, dtype=np.uint8), each)
            images = synthetic.samples(labels.tolist(), size=SIDE, seed=seed)
            images.transpose(0, 3, 2, 1).tofile(root / f"{part}_X.bin")
            (labels + 1).tofile(root / f"{part}_y.bin")
        (root / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
