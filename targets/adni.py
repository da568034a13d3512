"""ADNI brain MRI slices with a clinical table: adni:ad (AD or normal), adni:mci (converts or not).

ADNI's data use agreement forbids to pass its data on, so that you bring two things:

    adni/clinical.csv       one row per subject; columns subject (002_S_0295), diagnosis (CN, AD,
                            MCI or MCI-AD, a patient who converts), age, sex, education, apoe4,
                            and any more you like: each can be an input (--column)
    adni/slices/            images (JPEG or PNG) in any folders below, each with its subject's id
                            in its path, such as slices/002_S_0295/y130.png
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmark.api import (
    FORBIDDEN,
    WARN,
    BenchError,
    Experts,
    Input,
    Recipe,
    Sample,
    Target,
    TargetCard,
    check_pairs,
    column_types,
    locate,
    read_table,
    synthetic,
)

SUBJECT = re.compile(r"\d{3}_S_\d{4,5}")
TASKS = {"ad": ("CN", "AD"), "mci": ("MCI", "MCI-AD")}


class ADNI(Target):
    variants = ("ad", "mci")
    card = TargetCard(
        title="ADNI slices",
        origin="medical",
        classes=2,
        images=5640,  # yang's first task; the second has 800
        channels=1,
        group="subject",
        license="ADNI data use agreement; not to be passed on",
        reference="https://adni.loni.usc.edu/",
        experts=Experts("medical", "grey", "objects", "brain", "low", "binary"),
        pretrain=Recipe(size=256, batch=32, lr=1e-4, epochs=100),
        folders=("adni",),
        steps="Ask for ADNI on https://adni.loni.usc.edu/ with an account, cut the volumes by "
        "`bench data slices` into adni/slices, each image with its subject's id (002_S_0295) in "
        "its path, and write adni/clinical.csv with the columns subject, diagnosis (CN, AD, MCI "
        "or MCI-AD), age, sex, education and apoe4.",
        columns={
            "age": "numeric",
            "sex": "categorical",
            "education": "numeric",
            "apoe4": "categorical",
        },
        forbidden={"diagnosis": FORBIDDEN["diagnosis*"], "cdr": FORBIDDEN["cdr"]},
        warned={"mmse": WARN["mmse"]},
        subgroups=("sex",),
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant or self.variants[0], given)
        task = {"ad": "Alzheimer's disease or normal", "mci": "whether mild impairment converts"}
        self.card = replace(self.card, labels=TASKS[self.variant], task=task[self.variant])

    def further(self, root: Path) -> dict[str, str]:
        """Every column of the clinical table: the paper's inputs are 237 and 234 of them."""
        rows = read_table(locate(root, "clinical.csv") / "clinical.csv", need=("subject",))
        types = column_types(rows)
        return {name: kind for name, kind in types.items() if name not in ("subject", "diagnosis")}

    def records(self, root: Path) -> Iterator[Sample]:
        """The slices of the subjects whose diagnosis belongs to the task."""
        base = locate(root, "clinical.csv", "slices")
        table = read_table(base / "clinical.csv", need=("subject", "diagnosis", *self.card.columns))
        rows = {row.pop("subject").strip(): row for row in table}
        found: dict[str, list[Path]] = {}
        for path in sorted((base / "slices").rglob("*")):
            if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
                name = SUBJECT.search(path.relative_to(base).as_posix())
                if name is None:
                    raise BenchError(
                        f"The path of {path} has no subject's id such as 002_S_0295.",
                        "Name the image or its folder by the subject.",
                    )
                found.setdefault(name[0], []).append(path)
        check_pairs(rows, found, "clinical.csv")
        for subject, row in rows.items():
            if row["diagnosis"] in TASKS[self.variant]:
                for path in found[subject]:
                    name = path.relative_to(base).as_posix()
                    yield Sample(path, row["diagnosis"], name, subject, row)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        kinds = ("CN", "AD", "MCI", "MCI-AD")
        lines = ["subject,diagnosis,age,sex,education,apoe4,mmse"]
        labels = [i // 2 % 4 for i in range(96)]  # two slices of 48 subjects
        for i, image in enumerate(synthetic.samples(labels, size=40, seed=seed)):
            subject, k = f"{i // 8:03d}_S_{i // 2:04d}", labels[i]
            path = root / "slices" / subject / f"y{130 + i % 2}.png"
            synthetic.save(image.mean(-1).astype("uint8"), path)
            if i % 2 == 0:
                sex = "FM"[i // 2 % 3 % 2]
                lines.append(f"{subject},{kinds[k]},{65 + 3 * k + i % 7},{sex},12,{k % 2},{30 - k}")
        (root / "clinical.csv").write_text("\n".join(lines) + "\n")
