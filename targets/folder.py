"""Your own images (folder:PATH): a folder for each class, or a table that names image and label."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import numpy as np

from benchmark.api import (
    FORBIDDEN,
    WARN,
    BenchError,
    Input,
    Recipe,
    Record,
    Size,
    Target,
    TargetCard,
    check_pairs,
    class_folders,
    column_types,
    images,
    read_table,
    synthetic,
)

FLAT = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".dcm")
VOLUMES = (".nii", ".nii.gz", ".npy", ".npz", ".mha", ".mhd", ".nrrd", ".mgz")
PARTS = {"train", "val", "valid", "validation", "test"}
#: More numbers than this as labels are a measurement, not classes.
MOST = 30


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

    def records(self, root: Path) -> Iterator[Record]:
        """Every image below `root`, with its label and its row of the table."""
        given = self.given or Input(path=root)
        if given.metadata is None:
            if given.label or given.group or given.image:
                raise BenchError(
                    "A column was named, but no table.", "Name the table with --metadata FILE."
                )
            _files(root)
            for path, label, part in _by_folder(root):
                yield Record(path, label, path.relative_to(root).as_posix(), part=part)
            return
        for path, label, row, group in _by_table(given, root):
            if given.group and not group:
                raise BenchError(
                    f"The row of {path.name} has no {given.group}.",
                    "Fill it in: images of one group must not be on both sides of the split.",
                )
            yield Record(path, label, path.relative_to(root).as_posix(), group, row)

    def read(self, record: Record, size: Size) -> tuple[np.ndarray, str]:
        if isinstance(record.image, Path) and record.image.suffix.lower() == ".dcm":
            image = _dicom(record.image)
            return image, images.pixel_hash(image)
        return super().read(record, size)

    def columns(self) -> dict[str, str]:
        """The table's other columns, less those that leak, are doubtful, or only name the row."""
        if self.given is None or self.given.metadata is None:
            return {}
        _, labels, rows, _ = zip(*_by_table(self.given, self.given.path), strict=True)
        return {
            name: kind
            for name, kind in column_types(list(rows)).items()
            if _is_input(name, kind, [row[name] for row in rows], labels)
        }

    def fingerprint(self) -> str:
        """Names and sizes of the images, the table's bytes, and how both are read."""
        if self.given is None:
            return super().fingerprint()
        given, digest = self.given, hashlib.sha256()
        for path in sorted(set(_files(given.path).values())):
            line = f"{path.relative_to(given.path).as_posix()} {path.stat().st_size}\n"
            digest.update(line.encode())
        if given.metadata is not None:
            digest.update(given.metadata.read_bytes())
        digest.update(repr((given.label, given.group, given.image)).encode())
        return f"{self.card.version}-{digest.hexdigest()[:16]}"

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        labels = [i % 2 for i in range(60)]
        lines = ["image,kind,patient,age,smoker"]
        for i, image in enumerate(synthetic.samples(labels, size=40, seed=seed)):
            kind = ("benign", "malignant")[labels[i]]
            synthetic.save(image, root / kind / f"image_{i:02d}.png")
            smoker = ("yes", "no", "")[i % 3]
            lines.append(
                f"image_{i:02d},{kind},P{i // 4:02d},{40 + 9 * labels[i] + i % 8},{smoker}"
            )
        (root / "table.csv").write_text("\n".join(lines) + "\n")


def _files(root: Path) -> dict[str, Path]:
    """Every image by its path below `root`; volumes are refused."""
    if not root.is_dir():
        raise BenchError(f"{root} is not a folder.", "Give the folder that holds the images.")
    found = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.name.startswith(".") or "__MACOSX" in name:
            continue
        if path.name.lower().endswith(VOLUMES):
            raise BenchError(
                f"{path} is a volume or an array, and only flat images can be classified.",
                "Cut it into slices with `bench data slices`, or save it as PNG.",
            )
        if path.suffix.lower() in FLAT:
            found[name] = path
    if not found:
        raise BenchError(f"There are no images below {root}.", f"Known endings: {' '.join(FLAT)}.")
    return found


def _by_folder(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Image, class and official part: CLASS/… or, where the top folders are parts, PART/CLASS/…"""
    tops = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    named = {path.name.lower() for path in tops}
    parted = len(tops) > 1 and named <= PARTS
    for place in tops if parted else [root]:
        bare = [path for path in sorted(place.iterdir()) if path.suffix.lower() in FLAT]
        if bare:
            raise BenchError(
                f"{len(bare)} images lie in no class folder, {bare[0]} first.",
                "Put each into a folder named by its class, or give a table by --metadata.",
            )
        for path, label in class_folders(place, endings=FLAT):
            yield path, label, place.name.lower() if parted else ""


def _by_table(given: Input, root: Path) -> list[tuple[Path, str, dict[str, str], str]]:
    """Image, label, the other columns and group of each row."""
    assert given.metadata is not None
    files, columns = _files(root), _label_columns(given)
    named = [name for name in (given.image, given.group) if name]
    rows = read_table(given.metadata, need=(*named, *columns))
    if not rows:
        raise BenchError(f"{given.metadata.name} has no rows.", "Write one for each image.")
    column = given.image or _image_column(rows, files)
    paths = _pair(rows, column, files, given.metadata.name)
    labels = _labels(rows, columns, paths, root)
    groups = [row[given.group].strip() if given.group else "" for row in rows]
    left_out = {column, given.group, *columns}
    others = [{k: v for k, v in row.items() if k not in left_out} for row in rows]
    return list(zip(paths, labels, others, groups, strict=True))


def _labels(
    rows: list[dict[str, str]], columns: list[str], paths: list[Path], root: Path
) -> list[str]:
    """The label of each row: a column, several columns of 0 and 1, or the class folders."""
    if not columns:
        folders = {path: label for path, label, _ in _by_folder(root)}
        if len(set(folders.values())) < 2:
            raise BenchError(
                "No label was named, and the images do not lie in class folders.",
                f"Name its column with --label, one of: {', '.join(rows[0])}.",
            )
        return [folders[path] for path in paths]
    if len(columns) > 1:
        return [_hot(row, columns, path.name) for row, path in zip(rows, paths, strict=True)]
    labels = [row[columns[0]].strip() for row in rows]
    _check_labels(labels, columns[0], paths)
    return labels


def _keys(name: str) -> tuple[str, ...]:
    """How a table may spell an image: path or name, with or without ending."""
    path = PurePosixPath(name.strip().replace("\\", "/").removeprefix("./"))
    plain = path.with_suffix("") if path.suffix.lower() in FLAT else path
    return path.as_posix(), plain.as_posix(), path.name, plain.name


def _index(files: Mapping[str, Path]) -> dict[str, set[Path]]:
    index: dict[str, set[Path]] = {}
    for name, path in files.items():
        for key in _keys(name):
            index.setdefault(key, set()).add(path)
    return index


def _find(cell: str, index: Mapping[str, set[Path]]) -> set[Path]:
    path, plain = _keys(cell)[:2]
    return index.get(path) or index.get(plain) or set()


def _cells(rows: list[dict[str, str]], column: str, index: Mapping[str, set[Path]]) -> list[str]:
    """How the rows name their images, less the folders above ours that all of them begin with."""
    cells = [row[column] for row in rows]
    while not any(_find(cell, index) for cell in cells):
        tops = {cell.replace("\\", "/").partition("/")[:2] for cell in cells}
        if len(tops) != 1 or not next(iter(tops))[1]:
            return [row[column] for row in rows]
        cells = [cell.replace("\\", "/").partition("/")[2] for cell in cells]
    return cells


def _image_column(rows: list[dict[str, str]], files: Mapping[str, Path]) -> str:
    """The first column with the most cells that name an image."""
    index = _index(files)
    hits = {
        name: sum(bool(_find(cell, index)) for cell in _cells(rows, name, index))
        for name in rows[0]
    }
    best = max(hits, key=lambda name: hits[name])
    if not hits[best]:
        raise BenchError(
            f"No column of the table names the images (columns: {', '.join(hits)}).",
            "Name the column of the file names with --image.",
        )
    return best


def _pair(
    rows: list[dict[str, str]], column: str, files: Mapping[str, Path], table: str
) -> list[Path]:
    """The image of each row; every row has one image and every image one row."""
    index, names = _index(files), {path: name for name, path in files.items()}
    named: dict[str, str] = {}  # path below the root, or the cell where there is none -> cell
    paths = list[Path]()
    for cell in _cells(rows, column, index):
        found = _find(cell, index)
        if len(found) > 1:
            raise BenchError(
                f"'{cell}' in {table} fits {len(found)} images.",
                "Name them by their path below the folder, with the ending.",
            )
        place = next((names[path] for path in found), cell)
        if place in named:
            raise BenchError(
                f"{table} has two rows for {place} ('{named[place]}' and '{cell}').",
                "Keep one row for each image.",
            )
        named[place] = cell
        paths += found
    check_pairs(named, files, table)
    return paths


def _label_columns(given: Input) -> list[str]:
    return [name.strip() for name in given.label.split(",")] if given.label else []


def _hot(row: dict[str, str], columns: list[str], image: str) -> str:
    hot = [name for name in columns if row[name].strip().lower() in ("1", "1.0", "true")]
    if len(hot) == 1:
        return hot[0]
    if hot:
        raise _several(f"{image} has {len(hot)} labels ({', '.join(hot)})")
    raise BenchError(f"{image} has no label: no column of {', '.join(columns)} is 1.", "Label it.")


def _check_labels(labels: list[str], column: str, pairs: list[Path]) -> None:
    """Refuse what is no single class: nothing, several classes, or a measurement."""
    bare = [path for path, label in zip(pairs, labels, strict=True) if not label]
    if bare:
        raise BenchError(
            f"{len(bare)} rows have no {column}, that of {bare[0].name} first.",
            "Label them or take them out.",
        )
    for label in labels:
        if re.search(r"[|;]", label):
            raise _several(f"the {column} '{label}' names several classes")
    counts = Counter(labels)
    numbers = [float(x) for x in counts if re.fullmatch(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?", x)]
    measured = len(numbers) > MOST or any(x != int(x) for x in numbers)
    if numbers and len(numbers) == len(counts) and measured:
        raise BenchError(
            f"The column {column} holds {len(numbers)} different numbers: that is a measurement, "
            "and this benchmark classifies.",
            "Cut it into a few named classes, or name another column with --label.",
        )


def _several(what: str) -> BenchError:
    return BenchError(
        f"An image can have one label only, but {what}.",
        "Make one class of each combination, or a table for each label.",
    )


def _is_input(name: str, kind: str, cells: Sequence[str], labels: Sequence[str]) -> bool:
    if any(fnmatch(name.casefold(), pattern.casefold()) for pattern in (*FORBIDDEN, *WARN)):
        return False
    if [cell.strip() for cell in cells] == list(labels):  # the class folders once more
        return False
    return kind != "categorical" or len(set(cells)) < len(cells)  # else it only names the row


def _dicom(path: Path) -> np.ndarray:
    """One flat DICOM image as its viewer would show it; needs the extra [dicom]."""
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
    except ImportError as error:
        raise BenchError(
            f"{path.name} is a DICOM file, and pydicom is not installed.",
            "Install transfer-bench[dicom], or save the images as PNG.",
        ) from error
    data = pydicom.dcmread(path)
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise BenchError(
            f"{path} holds several frames, and only flat images can be classified.",
            "Cut it into slices with `bench data slices`.",
        )
    if int(data.get("SamplesPerPixel", 1)) > 1:
        return images.normalised_array(data.pixel_array, what=path.name)
    x = np.asarray(apply_voi_lut(apply_modality_lut(data.pixel_array, data), data), float)
    x = (x - x.min()) / max(float(x.max() - x.min()), 1e-12)
    if data.get("PhotometricInterpretation") == "MONOCHROME1":  # small values are white
        x = 1 - x
    return images.normalised_array(x, what=path.name)
