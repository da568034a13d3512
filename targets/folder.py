"""Your own images (folder:PATH): a folder for each class, or a table that names image and label."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark.api import (
    FORBIDDEN,
    WARN,
    BenchError,
    Input,
    Label,
    Look,
    Recipe,
    Sample,
    Size,
    Target,
    TargetCard,
    dicom,
    digests,
    images,
    leaks,
    plain_file,
    private,
    read_table,
    synthetic,
)
from benchmark.data import label_columns, label_sets
from benchmark.data.matching import image_column, pair

FLAT = dicom.ENDINGS
VOLUMES = (".nii", ".nii.gz", ".npy", ".npz", ".mha", ".mhd", ".nrrd", ".mgz")
PARTS = {"train", "val", "valid", "validation", "test"}


class Rows(NamedTuple):
    """The images with a label, in the order of the table or of the files."""

    paths: list[Path]
    labels: list[Label]
    columns: list[dict[str, str]]  # the rows less image, label and group
    groups: list[str]
    parts: list[str]
    unlabelled: int = 0  # rows of the table that were left out


class Folder(Target):
    variants = ("*",)
    card = TargetCard(
        title="A folder of your own",
        origin="medical",
        classes=0,  # known when it is read
        images=0,
        task="as you labelled it",
        license="yours",
        reference="your own data",
        pretrain=Recipe(size=224, batch=32, lr=1e-4, epochs=50),
        forbidden=FORBIDDEN,
        warned=WARN,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        if given is None and variant:
            given = Input(path=Path(variant).expanduser())
        super().__init__(variant, given)
        if given is not None:
            group = given.group or ""
            self.card = replace(self.card, title=f"Your folder {given.path.name}", group=group)

    def records(self, root: Path) -> Iterator[Sample]:
        """Every image below `root`, with its label and its row of the table."""
        rows = _read(self.given or Input(path=root), root)
        for path, label, row, group, part in zip(*rows[:5], strict=True):
            yield Sample(path, label, path.relative_to(root).as_posix(), group, row, part)

    def read(self, sample: Sample, size: Size) -> tuple[np.ndarray, str]:
        if isinstance(sample.image, Path) and sample.image.suffix.lower() == ".dcm":
            image = dicom.read(sample.image, self.white)
            return image, images.pixel_hash(image)
        return super().read(sample, size)

    def brightest(self, sample: Sample) -> int:
        if isinstance(sample.image, Path) and sample.image.suffix.lower() == ".dcm":
            return dicom.brightest(sample.image)
        return super().brightest(sample)

    def columns(self) -> dict[str, str]:
        """The table's other columns, less those that leak by name, are doubtful, or say nothing."""
        left_out = self.look().left_out
        return {n: column.kind for n, column in self._columns.items() if n not in left_out}

    def look(self) -> Look:
        return self._look

    @cached_property
    def _rows(self) -> Rows:
        assert self.given is not None
        return _read(self.given, self.given.path)

    @cached_property
    def _columns(self) -> dict[str, leaks.Cells]:
        if self.given is None or self.given.metadata is None:
            return {}
        rows = self._rows.columns
        return {name: leaks.Cells(name, [row[name] for row in rows]) for name in rows[0]}

    @cached_property
    def _look(self) -> Look:
        if self.given is None:
            return Look()
        rows, notes = self._rows, _unread(self.given)
        if rows.unlabelled:
            notes.append(f"{rows.unlabelled} rows have no {self.given.label} and are left out.")
        notes += label_columns.told(rows.labels)
        groups = rows.groups if self.given.group else None
        found = leaks.judge(self._columns, rows.labels, groups)
        if not self.given.label:
            again = {
                name: "it is the class folder once more"
                for name in self._columns
                if [row[name].strip() for row in rows.columns] == rows.labels
            }
            refused = {name: why for name, why in found.refused.items() if name not in again}
            found = replace(found, left_out={**found.left_out, **again}, refused=refused)
        everyone = {"labels": tuple(rows.labels), "groups": tuple(rows.groups)}
        return replace(found, notes=(*notes, *found.notes), **everyone)

    def fingerprint(self) -> str:
        """Version, what the images hold, and the table with how it is read: `1-…-…`."""
        if self.given is None:
            return super().fingerprint()
        given, files = self.given, sorted(set(_files(self.given.path).values()))
        pixels, table = hashlib.sha256(), hashlib.sha256()
        for path, text in zip(files, digests(given.path, files), strict=True):
            pixels.update(f"{path.relative_to(given.path).as_posix()} {text}\n".encode())
        if given.metadata is not None:
            plain_file(given.metadata, given.metadata.parent)
            table.update(given.metadata.read_bytes())
        more = [one for one in (given.split, given.separator) if one]  # without, as it always was
        table.update(repr((given.label, given.group, given.image, *more)).encode())
        return f"{self.card.version}-{pixels.hexdigest()[:12]}-{table.hexdigest()[:8]}"

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        labels = [i % 2 for i in range(60)]
        lines = ["image,kind,patient,age,smoker"]
        for i, image in enumerate(synthetic.samples(labels, size=40, seed=seed)):
            kind = ("benign", "malignant")[labels[i]]
            synthetic.save(image, root / kind / f"image_{i:02d}.png")
            smoker = ("yes", "no", "")[i % 3]
            lines.append(
                f"image_{i:02d},{kind},P{i // 4:02d},{40 + 9 * labels[i] + 7 * i % 31},{smoker}"
            )
        (root / "table.csv").write_text("\n".join(lines) + "\n")


def _files(root: Path) -> dict[str, Path]:
    """Every image by its path below `root`; volumes and what is no plain file are refused."""
    found = {name: path for name, path in _all_files(root) if path.suffix.lower() in FLAT}
    for path in found.values():
        plain_file(path, root)
    if not found:
        raise BenchError(f"There are no images below {root}.", f"Known endings: {' '.join(FLAT)}.")
    return found


def _all_files(root: Path) -> Iterator[tuple[str, Path]]:
    if not root.is_dir():
        raise BenchError(f"{root} is not a folder.", "Give the folder that holds the images.")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.name.startswith(".") or "__MACOSX" in name or path.is_dir():
            continue
        if path.name.lower().endswith(VOLUMES):
            raise BenchError(
                f"{private(path)} is a volume or an array, and only flat images can be classified.",
                "Cut it into slices with `bench data slices`, or save it as PNG.",
            )
        yield name, path


def _unread(given: Input) -> list[str]:
    """A note on the files that are no images by their endings, the table aside."""
    table = given.metadata and given.metadata.resolve()
    others = [
        path.suffix.lower() or "no ending"
        for _, path in _all_files(given.path)
        if path.suffix.lower() not in FLAT and path.resolve() != table
    ]
    listed = ", ".join(f"{ending} ({n})" for ending, n in sorted(Counter(others).items()))
    files = "1 file is" if len(others) == 1 else f"{len(others)} files are"
    return [f"{files} not read, by their endings: {listed}."] if others else []


def _read(given: Input, root: Path) -> Rows:
    """The labelled images, by the table where there is one, else by the folders they lie in."""
    if given.metadata is not None:
        return _by_table(given, root)
    if given.label or given.group or given.image or given.split or given.separator:
        raise BenchError(
            "A column was named, but no table.", "Name the table with --metadata FILE."
        )
    paths, labels, parts = zip(*_by_folder(root), strict=True)
    nothing = [""] * len(paths)
    return Rows(list(paths), list(labels), [{} for _ in paths], nothing, list(parts))


def _by_folder(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Image, class and official part: CLASS/… or, where the top folders are parts, PART/CLASS/…"""
    files = _files(root)
    tops = [path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._"]
    parted = len(tops) > 1 and {path.name.lower() for path in tops} <= PARTS
    split = {name: name.split("/") for name in files}
    bare = [name for name, steps in split.items() if len(steps) < 2 + parted]
    if bare:
        raise BenchError(
            f"{len(bare)} images lie in no class folder, {private(bare[0])} first.",
            "Put each into a folder named by its class, or give a table by --metadata.",
        )
    labels = {steps[parted] for steps in split.values()}
    folders = [path for top in tops for path in (top.iterdir() if parted else [top])]
    for path in sorted(folders):
        if path.is_dir() and path.name[0] not in "._" and path.name not in labels:
            raise BenchError(
                f"The class folder {path.name} holds no image that can be read.",
                f"Known endings: {' '.join(FLAT)}; move the folder away if it is no class.",
            )
    for name, path in files.items():
        yield path, split[name][parted], split[name][0].lower() if parted else ""


def _by_table(given: Input, root: Path) -> Rows:
    """The rows of the table that have a label, each with its image."""
    assert given.metadata is not None
    files, columns = _files(root), label_columns.named(given.label)
    named = [name for name in (given.image, given.group, given.split) if name]
    rows = read_table(given.metadata, need=(*named, *columns))
    if not rows:
        raise BenchError(f"{given.metadata.name} has no rows.", "Write one for each image.")
    column = given.image or image_column(rows, files)
    paths = pair(rows, column, files, given.metadata.name)
    labels = _labels(rows, columns, given, paths, root)
    keep = [i for i, label in enumerate(labels) if label != ""]
    if not keep:
        raise BenchError(f"No row of {given.metadata.name} has a {given.label}.", "Label them.")
    groups = [rows[i][given.group].strip() if given.group else "" for i in keep]
    if given.group and not all(groups):
        name = paths[keep[groups.index("")]].name
        raise BenchError(
            f"The row of {private(name)} has no {given.group}.",
            "Fill it in: images of one group must not be on both sides of the split.",
        )
    left_out = {column, given.group, given.split, *columns}
    return Rows(
        [paths[i] for i in keep],
        [labels[i] for i in keep],
        [{k: v for k, v in rows[i].items() if k not in left_out} for i in keep],
        groups,
        _parts(rows, keep, given.split) if given.split else [""] * len(keep),
        len(rows) - len(keep),
    )


def _parts(rows: list[dict[str, str]], keep: list[int], column: str) -> list[str]:
    """The part that a table puts each image in, as `--protocol official` takes it."""
    parts = [rows[i][column].strip().lower() for i in keep]
    if unknown := sorted({*parts} - {*PARTS}):
        raise BenchError(
            f"The column {column} holds {len(unknown)} values that are no part of a split.",
            f"Write {', '.join(sorted(PARTS))} in each row.",
        )
    return parts


def _labels(
    rows: list[dict[str, str]], columns: list[str], given: Input, paths: list[Path], root: Path
) -> list[Label]:
    """The label of each row: by its columns, or the class folders."""
    if columns or given.separator:
        images = [path.name for path in paths]
        labels = label_columns.read(rows, columns, given.separator or "", images)
        if given.metadata and label_sets.several(known := [one for one in labels if one != ""]):
            label_sets.check(given.metadata.name, known, images)
        return labels
    folders = {path: label for path, label, _ in _by_folder(root)}
    if len(set(folders.values())) < 2:
        raise BenchError(
            "No label was named, and the images do not lie in class folders.",
            f"Name its column with --label, one of: {', '.join(rows[0])}.",
        )
    return [folders[path] for path in paths]
