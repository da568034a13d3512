"""PatchCamelyon: 327,680 patches of lymph nodes; middle 100,000, small 10,000 of them, or full."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.api import (
    BenchError,
    Experts,
    File,
    Input,
    Sample,
    Size,
    Target,
    TargetCard,
    cats_recipe,
    images,
    locate,
    read_table,
    synthetic,
)

NAME = "camelyonpatch_level_2_split"
PARTS = ("train", "valid", "test")
LABELS = ("normal", "tumor")
#: variant -> images, seed of the sample (random_state in the study's code), epochs of pretraining
SAMPLES = {"middle": (100_000, 2, 50), "small": (10_000, 22, 70), "full": (327_680, 0, 50)}
# What the server lists; the first tables of the authors had test and valid exchanged.
HASHES = {
    "train_x.h5.gz": "1571f514728f59376b705fc836ff4b63",
    "train_y.h5.gz": "35c2d7259d906cfc8143347bb8e05be7",
    "train_meta.csv": "5a3dd671e465cfd74b5b822125e65b0a",
    "valid_x.h5.gz": "d5b63470df7cfa627aeec8b9dc0c066e",
    "valid_y.h5.gz": "2b85f58b927af9964a4c15b8f7e8f179",
    "valid_meta.csv": "67589e00a4a37ec317f2d1932c7502ca",
    "test_x.h5.gz": "d8c2d60d490dbd479f8199bdfa0cf6ec",
    "test_y.h5.gz": "60a7035772fbdb7f34eb86d4420cf66a",
    "test_meta.csv": "3455fd69135b66734e1008f3af684566",
}


class PCam(Target):
    variants = ("middle", "small", "full")
    card = TargetCard(
        title="PatchCamelyon",
        origin="medical",
        classes=2,
        images=100_000,
        task="metastasis in the centre of a lymph node patch",
        group="slide",
        labels=LABELS,
        license="CC0 1.0",
        reference="https://doi.org/10.5281/zenodo.2546921",
        experts=Experts("medical", "colour", "textures", "tissue", "high", "binary"),
        pretrain=cats_recipe(size=96, batch=128, lr=1e-6, epochs=50),
        folders=("pcam", "patchcamelyon"),
        files=tuple(
            File(
                f"{NAME}_{ending}",
                f"https://zenodo.org/record/2546921/files/{NAME}_{ending}",
                f"md5:{md5}",
                unpack=ending.endswith(".gz"),
            )
            for ending, md5 in HASHES.items()
        ),
        # Two samples of the same patches share about a third of the smaller one.
        overlaps=("pcam:small", "pcam:middle", "pcam:full"),
        show=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant or self.variants[0], given)
        count, _, epochs = SAMPLES[self.variant]
        self.card = replace(
            self.card,
            title=f"PatchCamelyon, {self.variant}",
            images=count,
            pretrain=self.card.pretrain.model_copy(update={"epochs": epochs}),
        )

    def records(self, root: Path) -> Iterator[Sample]:
        """A stratified, seeded sample of all three parts; pixels are read when decoded."""
        base = locate(root, *(f"{NAME}_{part}_{x}.h5" for part in PARTS for x in "xy"))
        labels, place = [], []
        for part in PARTS:
            found = np.asarray(_rows(base / f"{NAME}_{part}_y.h5", "y")[:]).ravel()
            if len(found) != len(_rows(base / f"{NAME}_{part}_x.h5", "x")):
                raise BenchError(f"The {part} files of {base} do not fit.", "Fetch them again.")
            labels.append(found)
            place += [(part, row) for row in range(len(found))]
        slides = {part: _slides(base, part) for part in PARTS}
        for part, found in zip(PARTS, labels, strict=True):
            if slides[part] and len(slides[part]) != len(found):
                raise BenchError(f"The {part} meta.csv of {base} does not fit.", "Fetch it again.")
        pixels = {part: base / f"{NAME}_{part}_x.h5" for part in PARTS}
        every = np.concatenate(labels)
        for i in self._sample(every):
            part, row = place[i]
            yield Sample(
                pixels[part],
                LABELS[int(every[i])],
                f"{part}-{row:06d}",
                slides[part][row] if slides[part] else "",
                part=part,
            )

    def _sample(self, labels: np.ndarray) -> np.ndarray:
        """Sorted rows of the sample, each class with its share of the whole."""
        count, seed, _ = SAMPLES[self.variant]
        if len(labels) <= count:
            return np.arange(len(labels))
        rng = np.random.default_rng(seed)
        positive = round(count * float(np.mean(labels == 1)))
        chosen = [
            rng.choice(np.flatnonzero(labels == label), size, replace=False)
            for label, size in ((0, count - positive), (1, positive))
        ]
        return np.sort(np.concatenate(chosen))

    def read(self, sample: Sample, size: Size) -> tuple[np.ndarray, str]:
        assert isinstance(sample.image, Path)
        row = int(sample.name.rpartition("-")[2])
        try:
            image = images.normalised_array(_rows(sample.image, "x")[row], what=sample.name)
        except OSError as error:
            raise BenchError(f"{sample.image} is damaged ({error}).", "Fetch it again.") from error
        return image, images.pixel_hash(image)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        import h5py

        for k, (part, n) in enumerate((("train", 48), ("valid", 16), ("test", 16))):
            labels = np.arange(n) % 2
            with h5py.File(root / f"{NAME}_{part}_x.h5", "w") as file:
                file["x"] = synthetic.samples(labels.tolist(), size=96, seed=seed + k)
            with h5py.File(root / f"{NAME}_{part}_y.h5", "w") as file:
                file["y"] = labels.astype(np.uint8).reshape(n, 1, 1, 1)
            lines = [f"{i},0,0,{y == 1},{y == 1},slide_{k}{i // 4}" for i, y in enumerate(labels)]
            header = ",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"
            (root / f"{NAME}_{part}_meta.csv").write_text("\n".join([header, *lines]) + "\n")


@lru_cache(maxsize=6)
def _rows(path: Path, key: str) -> Any:
    """A data set of a file that stays open: opening it anew for each patch is slow."""
    import h5py

    try:
        return h5py.File(path, "r")[key]
    except (OSError, KeyError) as error:
        raise BenchError(f"{path} is damaged ({error}).", "Fetch it again.") from error


def _slides(base: Path, part: str) -> list[str]:
    table = base / f"{NAME}_{part}_meta.csv"
    if table.is_file():
        return [row["wsi"] for row in read_table(table, need=("wsi",))]
    logging.getLogger(__name__).warning("%s is not there: patches of a slide may part.", table)
    return []
