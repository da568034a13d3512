"""OASIS-1 brain MRI slices with clinical columns: demented or not; the open stand-in for ADNI."""

from collections.abc import Iterator
from pathlib import Path

from benchmark.api import (
    FORBIDDEN,
    WARN,
    BenchError,
    Experts,
    Recipe,
    Sample,
    Target,
    TargetCard,
    check_pairs,
    locate,
    private,
    read_table,
    synthetic,
)

LABELS = ("nondemented", "demented")
COLUMNS = ("sex", "hand", "age", "educ", "ses", "mmse", "etiv", "nwbv", "asf")


class OASIS(Target):
    card = TargetCard(
        title="OASIS-1 slices",
        origin="medical",
        classes=2,
        images=588,
        channels=1,
        task="dementia (CDR above 0) from a slice of the brain",
        group="subject",
        labels=LABELS,
        license="OASIS-1 data use terms: acknowledge, do not identify, pass on the same terms",
        reference="https://doi.org/10.1162/jocn.2007.19.9.1498",
        experts=Experts("medical", "grey", "objects", "brain", "low", "binary"),
        pretrain=Recipe(size=176, batch=32, lr=1e-4, epochs=50),
        folders=("oasis1", "oasis"),
        steps="Ask for OASIS-1 on https://sites.wustl.edu/oasisbrains/ and cut its volumes by "
        "`bench data slices`. The folder has labels.csv with the columns filename, label "
        "(demented or nondemented), subject, plane, CDR, sex, hand, age, educ, ses, mmse, etiv, "
        "nwbv and asf, and the images that filename names.",
        columns={
            "sex": "categorical",
            "age": "numeric",
            "educ": "numeric",
            "ses": "numeric",
            "etiv": "numeric",
            "nwbv": "numeric",
            "asf": "numeric",
        },
        forbidden={"CDR": FORBIDDEN["cdr"]},
        warned={"mmse": WARN["mmse"], "plane": "it is chosen by who cut the slices"},
        subgroups=("sex",),
    )

    def records(self, root: Path) -> Iterator[Sample]:
        """Every slice that labels.csv names; all slices of a subject are one group."""
        base = locate(root, "labels.csv")
        need = ("filename", "label", "subject", "plane", "CDR", *COLUMNS)
        rows = {row["filename"]: row for row in read_table(base / "labels.csv", need=need)}
        files = {
            path.relative_to(base).as_posix(): path
            for path in sorted(base.rglob("*"))
            if path.suffix.lower() in (".jpg", ".jpeg", ".png")
        }
        check_pairs(rows, files, "labels.csv")
        for name, row in rows.items():
            if row["label"] not in LABELS or not row["subject"]:
                raise BenchError(
                    f"labels.csv has no usable label or subject for {private(name)}.",
                    "The label is demented or nondemented, the subject any name.",
                )
            metadata = {key: row[key] for key in ("plane", "CDR", *COLUMNS)}
            yield Sample(files[name], row["label"], name, row["subject"], metadata)

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        lines = [f"filename,label,subject,plane,CDR,{','.join(COLUMNS)}"]
        labels = [i // 3 % 2 for i in range(72)]  # three planes of 24 subjects
        for i, image in enumerate(synthetic.samples(labels, size=44, seed=seed)):
            label, subject = labels[i], f"OAS1_{i // 3 + 1:04d}_MR1"
            name = f"images/{subject}_{'acs'[i % 3]}.jpg"
            synthetic.save(image.mean(-1).astype("uint8"), root / name)
            age, ses = 60 + i // 3 % 20 + 6 * label, "" if i // 3 == 5 else "2.0"
            plane, sex = ("axial", "coronal", "sagittal")[i % 3], "FM"[i // 3 % 3 % 2]
            record = f"{sex},R,{age},3,{ses},{29 - 5 * label},1400,0.7{i // 3 % 9},1.2"
            lines.append(f"{name},{LABELS[label]},{subject},{plane},{label / 2},{record}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
