"""CIFAR-10: 60,000 natural images of 32 px, ten classes; reads the binary version or folders."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark.api import (
    BenchError,
    DataMissing,
    Experts,
    File,
    Sample,
    Source,
    SourceCard,
    cats_recipe,
    class_folders,
    locate,
    synthetic,
)

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
BYTES = 1 + 3 * 32 * 32  # label, then red, green and blue row by row


class CIFAR10(Source):
    card = SourceCard(
        title="CIFAR-10",
        origin="natural",
        classes=10,
        images=60000,
        license="none stated; for research",
        reference="https://www.cs.toronto.edu/~kriz/cifar.html",
        experts=Experts("natural", "colour", "objects", "animals and vehicles", "high", "many"),
        pretrain=cats_recipe(
            size=32, batch=128, lr=1e-3, epochs=50, schedule="step", milestones=(30,)
        ),
        folders=("cifar10", "cifar-10-batches-bin"),
        files=(
            # The hash is the one on the set's page. The Python version is a pickle, never read.
            File(
                "cifar-10-binary.tar.gz",
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
                unpack=True,
            ),
        ),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """The six binary batches, or a folder of images for each of the ten classes."""
        if all((root / name).is_dir() for name in CLASSES):
            for path, label in class_folders(root):
                if label in CLASSES:
                    yield Sample(path, label, f"{label}/{path.stem}")
            return
        if any((folder / BATCHES[0]).is_file() for folder in (root, root / "cifar-10-batches-py")):
            raise DataMissing(
                f"{root} holds CIFAR-10 as Python pickles, which can run any code: not read.",
                f"Put the binary version there: {self.card.files[0].url}.",
            )
        base = locate(root, *(f"{name}.bin" for name in BATCHES))
        for batch in BATCHES:
            path = base / f"{batch}.bin"
            count, rest = divmod(path.stat().st_size, BYTES)
            if rest or not count:
                raise BenchError(f"{path} is not a whole batch.", "Unpack the archive again.")
            rows = np.memmap(path, np.uint8, "r").reshape(count, BYTES)
            if rows[:, 0].max() > 9:
                raise BenchError(f"{path} holds labels beyond 9.", "Unpack the archive again.")
            images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            part = "test" if batch == "test_batch" else "train"
            for i, label in enumerate(rows[:, 0]):
                yield Sample(images[i], CLASSES[label], f"{batch}-{i:05d}", part=part)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        for i, batch in enumerate(BATCHES):
            labels = np.tile(np.arange(10, dtype=np.uint8), 2)
            images = synthetic.samples(labels.tolist(), seed=seed + i)
            planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
            np.hstack([labels[:, None], planes]).tofile(root / f"{batch}.bin")
