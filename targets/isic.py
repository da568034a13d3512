"""ISIC 2018 Task 3 (HAM10000): 10,015 dermoscopic images of 7,470 lesions, seven classes."""

import logging
from collections.abc import Iterator
from pathlib import Path

from benchmark.api import (
    FORBIDDEN,
    BenchError,
    Experts,
    File,
    Sample,
    Target,
    TargetCard,
    cats_recipe,
    check_pairs,
    locate,
    private,
    read_table,
    synthetic,
)

LABELS = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
IMAGES = "ISIC2018_Task3_Training_Input"
TRUTH = "ISIC2018_Task3_Training_GroundTruth"
LESIONS = "ISIC2018_Task3_Training_LesionGroupings.csv"  # the lesions, and nothing of the patient
METADATA = "HAM10000_metadata.csv"
SERVER = "https://isic-challenge-data.s3.amazonaws.com/2018/"


class ISIC(Target):
    card = TargetCard(
        title="ISIC 2018 Task 3 (HAM10000)",
        origin="medical",
        classes=7,
        images=10015,
        task="kind of pigmented skin lesion",
        group="lesion",
        labels=LABELS,
        license="CC BY-NC-SA 4.0",
        reference="https://doi.org/10.1038/sdata.2018.161",
        # As the published distances have it: nine images look like two classes to an observer.
        experts=Experts("medical", "colour", "both", "skin lesion", "low", "binary"),
        pretrain=cats_recipe(size=112, batch=128, lr=1e-5, epochs=70),
        folders=("isic2018", "isic", "HAM10000"),
        files=(
            File(f"{IMAGES}.zip", f"{SERVER}{IMAGES}.zip", unpack=True, note="no hash published"),
            File(f"{TRUTH}.zip", f"{SERVER}{TRUTH}.zip", unpack=True, note="no hash published"),
            File(LESIONS, SERVER + LESIONS, note="no hash published"),
            File(
                METADATA,
                "https://dataverse.harvard.edu/api/access/datafile/4338392?format=original",
                note="of doi:10.7910/DVN/DBW86T; no hash published",
            ),
        ),
        columns={"age": "numeric", "sex": "categorical", "localization": "categorical"},
        forbidden={name: FORBIDDEN[name] for name in ("dx", "dx_type")},
        warned={"dataset": "it names the clinic and how the diagnosis was found there"},
        missing=("unknown",),
        subgroups=("sex",),
        overlaps=("ham10000", "isic2019", "isic2020"),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """Every image; without HAM10000_metadata.csv the records have no metadata."""
        base = locate(root, IMAGES)
        inner = base / TRUTH / f"{TRUTH}.csv"
        table = inner if inner.is_file() else base / f"{TRUTH}.csv"
        truth = {row["image"]: row for row in read_table(table, need=("image", *LABELS))}
        files = {path.stem: path for path in sorted((base / IMAGES).glob("*.jpg"))}
        check_pairs(truth, files, table.name)
        known = self._known(base)
        if known:
            check_pairs(known, files, METADATA if (base / METADATA).is_file() else LESIONS)
        for name, path in files.items():
            row = dict(known.get(name, {}))
            lesion = row.pop("lesion_id", "")
            yield Sample(path, _label(name, truth[name]), name, lesion, row)

    def _known(self, base: Path) -> dict[str, dict[str, str]]:
        """What is known of each image besides its label, the lesion at least."""
        if (base / METADATA).is_file():
            rows = read_table(base / METADATA, need=("lesion_id", "image_id", *self.card.columns))
            return {row.pop("image_id"): row for row in rows}
        if (base / LESIONS).is_file():
            rows = read_table(base / LESIONS, need=("image", "lesion_id"))
            return {row["image"]: {"lesion_id": row["lesion_id"]} for row in rows}
        logging.getLogger(__name__).warning(
            "%s has neither %s nor %s: images of one lesion may part.", base, METADATA, LESIONS
        )
        return {}

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        lesions = [i // 2 if i % 3 else i for i in range(84)]  # some have two images
        labels = [lesion % 7 for lesion in lesions]
        truth = [f"image,{','.join(LABELS)}"]
        known = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
        for i, image in enumerate(synthetic.samples(labels, size=(45, 60), seed=seed)):
            name = f"ISIC_{24306 + i:07d}"
            synthetic.save(image, root / IMAGES / f"{name}.jpg")
            truth.append(",".join([name, *("1.0" if k == labels[i] else "0.0" for k in range(7))]))
            age = "" if i % 19 == 0 else f"{20 + 7 * labels[i] + i % 11}.0"
            sex, site = ("male", "female", "unknown")[lesions[i] % 3], ("back", "face")[i % 2]
            dx = LABELS[labels[i]].lower()
            known.append(f"HAM_{lesions[i]:07d},{name},{dx},histo,{age},{sex},{site}")
        (root / TRUTH).mkdir()
        (root / TRUTH / f"{TRUTH}.csv").write_text("\n".join(truth) + "\n")
        (root / METADATA).write_text("\n".join(known) + "\n")


def _label(name: str, row: dict[str, str]) -> str:
    found = [label for label in LABELS if row[label].strip() in ("1", "1.0")]
    if len(found) != 1:
        raise BenchError(
            f"The ground truth gives {private(name)} {len(found)} labels.",
            "Each image has exactly one.",
        )
    return found[0]
