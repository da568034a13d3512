"""Describable Textures: 47 texture classes, 5,640 images."""

from collections.abc import Iterator
from pathlib import Path

from benchmark.api import (
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


class DTD(Source):
    card = SourceCard(
        title="Describable Textures",
        origin="natural",
        classes=47,
        images=5640,
        license="for research",
        reference="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        experts=Experts("natural", "colour", "textures", "patterns", "high", "many"),
        pretrain=cats_recipe(size=(300, 300), batch=12, lr=1e-3, epochs=60),
        folders=("dtd",),
        files=(
            File(
                "dtd-r1.0.1.tar.gz",
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "md5:fff73e5086ae6bdbea199a49dfb8a4c1",
                unpack=True,
            ),
        ),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """Every image; the first of the ten official splits names its part, where it is there."""
        base = locate(root, "images/banded")
        parts = {}
        for part in ("train", "val", "test"):
            table = base / "labels" / f"{part}1.txt"
            if table.is_file():
                parts |= dict.fromkeys(table.read_text().split(), part)
        for path, label in class_folders(base / "images"):
            name = f"{label}/{path.name}"
            yield Sample(path, label, name, part=parts.get(name, ""))

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        labels = [i % 5 for i in range(60)]
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for i, image in enumerate(synthetic.samples(labels, size=48, seed=seed)):
            word = ("banded", "blotchy", "braided", "bubbly", "bumpy")[labels[i]]
            name = f"{word}/{word}_{i:04d}.jpg"
            synthetic.save(image, root / "images" / name)
            parts[("train", "val", "test")[i // 5 % 3]].append(name)
        (root / "labels").mkdir()
        for part, names in parts.items():
            (root / "labels" / f"{part}1.txt").write_text("\n".join(names) + "\n")
