"""MedMNIST v2, its twelve 2-D sets, 28 to 224 px: medmnist:derma, path-224; chest: multi-label."""

import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from benchmark.api import (
    BenchError,
    Experts,
    File,
    Input,
    Label,
    Recipe,
    Sample,
    Size,
    Target,
    TargetCard,
    did_you_mean,
    images,
    locate,
    synthetic,
)

PLACE = "https://zenodo.org/records/10519652/files"
SIZES = (28, 64, 128, 224)
PARTS = ("train", "val", "test")
COLON = (
    "adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle",
    "normal colon mucosa", "cancer-associated stroma", "colorectal adenocarcinoma epithelium",
)  # fmt: skip
SKIN = (
    "actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma",
    "benign keratosis-like lesions", "dermatofibroma", "melanoma", "melanocytic nevi",
    "vascular lesions",
)  # fmt: skip
RETINA = ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")
BLOOD = (
    "basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte",
    "neutrophil", "platelet",
)  # fmt: skip
KIDNEY = (
    "collecting duct, connecting tubule", "distal convoluted tubule",
    "glomerular endothelial cells", "interstitial endothelial cells", "leukocytes", "podocytes",
    "proximal tubule segments", "thick ascending limb",
)  # fmt: skip
ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver",
    "lung-left", "lung-right", "pancreas", "spleen",
)  # fmt: skip
CHEST = (
    "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia",
    "pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia",
)  # fmt: skip


class Set(NamedTuple):
    """What its makers say of a set."""

    what: str
    images: int
    labels: tuple[str, ...]
    colour: bool
    content: str
    type: str
    md5: tuple[str, str, str, str]  # of the file of each size
    license: str = "CC BY 4.0"
    overlaps: tuple[str, ...] = ()
    multilabel: bool = False


SETS = {
    "path": Set("colon tissue", 107180, COLON, True, "textures", "tissue", (
        "a8b06965200029087d5bd730944a56c1", "55aa9c1e0525abe5a6b9d8343a507616",
        "ac42d08fb904d92c244187169d1fd1d9", "2c51a510bcdc9cf8ddb2af93af1eadec")),
    "derma": Set("skin lesions", 10015, SKIN, True, "both", "skin lesion", (
        "0744692d530f8e62ec473284d019b0c7", "b70a2f5635c6199aeaa28c31d7202e1f",
        "2defd784463fa5243564e855ed717de1", "8974907d8e169bef5f5b96bc506ae45d"),
        "CC BY-NC 4.0", ("isic",)),
    "oct": Set("retinal layers", 109309, RETINA, False, "textures", "tissue", (
        "c68d92d5b585d8d81f7112f81e2d0842", "e229e9440236b774d9f0dfef9d07bdaf",
        "0a97e76651ace45c5d943ee3f65b63ae", "abc493b6d529d5de7569faaef2773ba3")),
    "pneumonia": Set("children's chests", 5856, ("normal", "pneumonia"), False, "objects",
        "chest", (
        "28209eda62fecd6e6a2d98b1501bb15f", "8f4eceb4ccffa70c672198ea285246c6",
        "05b46931834c231683c68f40c47b2971", "d6a3c71de1b945ea11211b03746c1fe1"),
        overlaps=("chest_xray",)),
    "retina": Set("grades of retinopathy", 1600, tuple("01234"), True, "both", "retina", (
        "bd4c0672f1bba3e3a89f0e4e876791e4", "afda852cc34dcda56f86ad2b2457dbcc",
        "e48e916a24454daf90583d4e6efb1a18", "eae7e3b6f3fcbda4ae613ebdcbe35348")),
    "breast": Set("breast ultrasound", 780, ("malignant", "normal or benign"), False, "both",
        "breast", (
        "750601b1f35ba3300ea97c75c52ff8f6", "742edef2a1fd1524b2efff4bd7ba9364",
        "363e4b3f8d712e9b5de15470a2aaadf1", "b56378a6eefa9fed602bb16d192d4c8b")),
    "blood": Set("blood cells", 17092, BLOOD, True, "objects", "cells", (
        "7053d0359d879ad8a5505303e11de1dc", "2b94928a2ae4916078ca51e05b6b800b",
        "adace1e0ed228fccda1f39692059dd4c", "b718ff6835fcbdb22ba9eacccd7b2601")),
    "tissue": Set("kidney cells", 236386, KIDNEY, False, "textures", "cells", (
        "ebe78ee8b05294063de985d821c1c34b", "123ece2eba09d0aa5d698fda57103344",
        "61b955355d7425a89687b06cca3ce0c2", "b077128c4a949f0a4eb01517f9037b9c")),
    "organa": Set("organs, axial CT", 58830, ORGANS, False, "objects", "organs", (
        "68e3f8846a6bd62f0c9bf841c0d9eacc", "2dcccc29b88e6da5a01161ef20cda288",
        "eeae80d0a227a8d099027e1b3cfd3b60", "50747347e05c87dd3aaf92c49f9f3170"),
        overlaps=("medmnist:organc", "medmnist:organs")),
    "organc": Set("organs, coronal CT", 23583, ORGANS, False, "objects", "organs", (
        "b9ceb9546e10131b32923c5bbeaea2b1", "3ce34a8724ea6f548e6db4744d03b6a9",
        "773c1f009daa3fe5d9a2a201b2a7ed94", "050f5e875dc056f6768abf94ec9995d1"),
        overlaps=("medmnist:organa", "medmnist:organs")),
    "organs": Set("organs, sagittal CT", 25211, ORGANS, False, "objects", "organs", (
        "9ab87b696fb54e2a387ebe992d6ed5f1", "53a6d115339d874c25e309a994ff46d3",
        "ded0c5fa01a95dc4978b956f613e9b8e", "b354719e553fbbb2513d5533f52a4cb1"),
        overlaps=("medmnist:organa", "medmnist:organc")),
    "chest": Set("chest radiographs", 112120, CHEST, False, "objects", "chest", (
        "02c8a6516a18b556561a56cbdd36c4a8", "9de6cd0b934ebb5b7426cfba5efbae16",
        "db107e5590b27930b62dbaf558aebee3", "45bd33e6f06c3e8cdb481c74a89152aa"),
        multilabel=True),
}  # fmt: skip


class MedMNIST(Target):
    """Nothing in its files names a patient: images are taken as independent, and boards say so."""

    variants = (*SETS, "*")
    card = TargetCard(
        title="MedMNIST v2",
        origin="medical",
        classes=0,
        images=0,
        reference="https://doi.org/10.1038/s41597-022-01721-8",
        # As its authors train.
        pretrain=Recipe(
            size=28,
            batch=128,
            lr=1e-3,
            epochs=100,
            schedule="step",
            milestones=(50, 75),
            factor=0.1,
            dropout=0.0,
        ),
        show=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant or next(iter(SETS)), given)
        name, _, pixels = self.variant.partition("-")
        sizes = [str(size) for size in SIZES]
        if name not in SETS or pixels not in ("", *sizes[1:]):
            known = [*SETS, *(f"{one}-{size}" for one in SETS for size in sizes[1:])]
            raise BenchError(
                f"MedMNIST has no flat set '{self.variant}'.",
                did_you_mean(self.variant, known),
            )
        found, at = SETS[name], sizes.index(pixels or sizes[0])
        self.file = f"{name}mnist{f'_{pixels}' if pixels else ''}.npz"
        kin = ("", *(f"-{size}" for size in sizes[1:]))
        self.card = replace(
            self.card,
            title=f"MedMNIST v2, {found.what}, {sizes[at]} pixels",
            task=found.what,
            classes=len(found.labels),
            labels=found.labels,
            ordinal=name == "retina",
            multilabel=found.multilabel,
            images=found.images,
            channels=3 if found.colour else 1,
            license=found.license,
            experts=Experts(
                "medical", "colour" if found.colour else "grey", found.content, found.type,
                "medium", "many" if len(found.labels) > 2 else "binary",
            ),
            folders=(f"medmnist-{self.variant}", "medmnist"),
            files=(File(self.file, f"{PLACE}/{self.file}?download=1", f"md5:{found.md5[at]}"),),
            overlaps=(
                *(one + end for one in found.overlaps for end in (kin if ":" in one else ("",))),
                *(f"medmnist:{name}{end}" for end in kin),
            ),
        )  # fmt: skip

    def records(self, root: Path) -> Iterator[Sample]:
        """Every image in its official part; pixels are read when decoded."""
        path = locate(root, self.file) / self.file
        for part in PARTS:
            labels = _array(path, f"{part}_labels")
            if not self._fits(labels):
                raise BenchError(f"{path} holds labels that it should not.", "Fetch it again.")
            for row, label in enumerate(self._named(labels)):
                yield Sample(path, label, f"{part}-{row:06d}", part=part)

    def _fits(self, labels: np.ndarray) -> bool:
        names, several = len(self.card.labels), self.card.multilabel
        shape, most = ((len(labels), names), 2) if several else ((len(labels), 1), names)
        return labels.shape == shape and labels.max(initial=0) < most

    def _named(self, labels: np.ndarray) -> list[Label]:
        names = self.card.labels
        if not self.card.multilabel:
            return [names[label] for label in labels.ravel().tolist()]
        return [tuple(names[k] for k in np.flatnonzero(row)) for row in labels]

    def read(self, sample: Sample, size: Size) -> tuple[np.ndarray, str]:
        assert isinstance(sample.image, Path)
        part, _, row = sample.name.rpartition("-")
        pixels = _array(sample.image, f"{part}_images")[int(row)]
        image = images.normalised_array(pixels, what=sample.name)
        return image, images.pixel_hash(image)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        for k, (name, found) in enumerate(SETS.items()):
            arrays = {}
            for i, (part, each) in enumerate(zip(PARTS, (6, 2, 3), strict=True)):
                n, names = each * max(len(found.labels), 5), len(found.labels)
                labels = np.arange(n) % names
                pixels = synthetic.samples(labels.tolist(), size=28, seed=seed + 10 * k + i)
                arrays[f"{part}_images"] = pixels if found.colour else pixels[..., 0]
                arrays[f"{part}_labels"] = labels.astype(np.uint8)[:, None]
                if found.multilabel:  # the image shows the first of three, and the last none
                    near = (labels[:, None] + np.arange(names)) % names < 3
                    arrays[f"{part}_labels"] = (near & (labels < names - 1)[:, None]).astype("u1")
            np.savez(root / f"{name}mnist.npz", **arrays)


@lru_cache(maxsize=2)
def _array(path: Path, name: str) -> np.ndarray:
    """An array of a file; parts are read one after the other, so few of them are kept."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file[name]
    except (OSError, KeyError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise BenchError(f"{path} is damaged ({error}).", "Fetch it again.") from error
