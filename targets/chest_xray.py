"""Kermany's chest X-rays of children: 5,856 images, normal or pneumonia."""

import re
from collections.abc import Iterator
from pathlib import Path

from benchmark.api import (
    DataMissing,
    Experts,
    File,
    Sample,
    Target,
    TargetCard,
    cats_recipe,
    class_folders,
    locate,
    synthetic,
)

LABELS = ("NORMAL", "PNEUMONIA")
# person1949_bacteria_4880 (version 2), BACTERIA-1008087-0001 (version 3), NORMAL2-IM-1427-0001
PATIENT = re.compile(r"(person\d+)_|((?:BACTERIA|VIRUS|NORMAL)-\d+)-\d+|((?:NORMAL2-)?IM-\d+)-")


class ChestXray(Target):
    card = TargetCard(
        title="Chest X-rays (Kermany)",
        origin="medical",
        classes=2,
        images=5856,
        channels=1,
        task="pneumonia in children of one to five years",
        group="patient",
        labels=LABELS,
        license="CC BY 4.0",
        reference="https://doi.org/10.17632/rscbjbr9sj.2",
        experts=Experts("medical", "grey", "both", "chest", "low", "binary"),
        pretrain=cats_recipe(size=112, batch=128, lr=1e-6, epochs=70),
        folders=("chest_xray", "ChestXRay2017"),
        files=(
            File(
                "ChestXRay2017.zip",
                "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
                "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
                unpack=True,
                note="no hash published",
            ),
        ),
        show=True,
        cannot_bear=dict.fromkeys(
            ("horizontal", "vertical"), "the heart lies on the left and the diaphragm below"
        ),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """Every image of whichever of train, val and test are there.

        A number is one patient in all parts: if the numbering starts anew in each, two children
        are taken for one, which costs a little and leaks nothing.
        """
        found = False
        for part in ("train", "val", "test"):
            if not any((folder / part).is_dir() for folder in (root, root / "chest_xray")):
                continue
            base = locate(root, f"{part}/NORMAL", f"{part}/PNEUMONIA")
            for path, label in class_folders(base / part):
                found = True
                patient = PATIENT.match(path.name)
                group = next(filter(None, patient.groups())) if patient else ""
                yield Sample(path, label, f"{part}/{label}/{path.stem}", group, part=part)
        if not found:
            raise DataMissing(
                f"{root} has no train/NORMAL, train/PNEUMONIA and so on.",
                "Unpack ChestXRay2017.zip there, or the set of that name from Kaggle.",
            )

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        labels = [i % 2 for i in range(60)]
        for i, image in enumerate(synthetic.samples(labels, size=(40, 50), seed=seed)):
            part = ("train", "train", "train", "test", "val")[i // 4 % 5]
            normal = ("IM-{:04d}-0001", "NORMAL2-IM-{:04d}-0001")[i % 4 // 2].format(100 + i)
            sick = f"person{i // 4}_{('bacteria', 'virus')[i // 2 % 2]}_{i}"  # two images each
            name = (normal, sick)[labels[i]]
            grey = image.mean(-1).astype("uint8")
            synthetic.save(grey, root / part / LABELS[labels[i]] / f"{name}.jpeg")
