"""`bench data slices`: volumes (NIfTI, Analyze) cut into flat images, with a table beside them."""

import csv
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.api import read_table
from benchmark.errors import BenchError
from benchmark.files import write
from benchmark.images import to_png_bytes

ENDINGS = (".nii", ".nii.gz", ".img", ".img.gz")
AXES = ("sagittal", "coronal", "axial")  # of a volume whose axes run to the right, front and top
MOST = 2**27  # voxels; a brain of one millimetre has 2**24
WINDOW = (0.5, 99.5)  # per cent of a volume's grey values that black and white leave out
TABLE = "labels.csv"


class Classes(NamedTuple):
    """A table that says of each subject which class it has."""

    file: Path
    label: str  # its column of classes
    subject: str  # its column of names, which stand in the volumes' paths


def cut(
    place: Path,
    out: Path,
    *,
    axis: str = "coronal",
    span: tuple[int, int] = (130, 140),
    count: int = 10,
    classes: Classes | None = None,
) -> list[Path]:
    """Write `count` slices of every volume below `place`, evenly from first to before last.

    The voxels are turned so that their axes run to the right, front and top, and not resampled.
    Names hold the volume's; `labels.csv` names file, label, subject and plane, and what else the
    table of classes says. With one, the images lie in a folder for each class.
    """
    if axis not in AXES:
        raise BenchError(f"There is no axis '{axis}'.", f"Choose {', '.join(AXES)}.")
    first, last = span
    if not 0 <= first < last or not 1 <= count <= last - first:
        raise BenchError(
            f"{count} slices do not fit between {first} and {last}.",
            "Give --range FIRST-LAST with FIRST below LAST, and no more slices than it holds.",
        )
    positions = np.linspace(first, last, count, endpoint=False).astype(int).tolist()
    volumes, subjects = _named(place), _subjects(classes)
    lines, written = list[dict[str, str]](), list[Path]()
    for name, path in volumes.items():
        relative = path.relative_to(place).as_posix() if place.is_dir() else path.name
        row = _row_of(relative, subjects, classes) if classes else {}
        label = row.get(classes.label, "") if classes else ""
        subject = row.get(classes.subject, "") if classes else name
        images = _slices(path, AXES.index(axis), positions)
        for position, image in zip(positions, images, strict=True):
            file = Path(label) / f"{name}_{'xyz'[AXES.index(axis)]}{position:03d}.png"
            (out / file).parent.mkdir(parents=True, exist_ok=True)
            (out / file).write_bytes(to_png_bytes(image))
            written.append(out / file)
            facts = {"filename": file.as_posix(), "label": label, "subject": subject, "plane": axis}
            lines.append({**row, **facts})
    text = io.StringIO()
    table = csv.DictWriter(text, [*lines[0]], lineterminator="\n")
    table.writeheader()
    table.writerows(lines)
    write(out / TABLE, text.getvalue())
    return written


def _named(place: Path) -> dict[str, Path]:
    """Every volume by a name of its own: the file's, with its folders' where files share one."""
    found = {path: _stem(path) for path in sorted(place.rglob("*")) if _stem(path)}
    if place.is_file() and _stem(place):
        found = {place: _stem(place)}
    if not found:
        raise BenchError(f"There are no volumes in {place}.", f"Known: {', '.join(ENDINGS)}.")
    shared = {name for name, n in Counter(found.values()).items() if n > 1}

    def full(path: Path, name: str) -> str:
        folders = path.relative_to(place).parts[:-1] if name in shared else ()
        return "_".join((*folders, name))

    return {full(path, name): path for path, name in found.items()}


def _stem(path: Path) -> str:
    """A volume's name without its ending; empty for anything else."""
    ending = next((e for e in reversed(ENDINGS) if path.name.lower().endswith(e)), "")
    hidden = path.name.startswith(".")
    return path.name[: -len(ending)] if ending and not hidden and path.is_file() else ""


def _subjects(classes: Classes | None) -> dict[str, dict[str, str]]:
    if classes is None:
        return {}
    rows = read_table(classes.file, need=(classes.label, classes.subject))
    found = {row[classes.subject].strip(): row for row in rows}
    if len(found) < len(rows) or "" in found:
        raise BenchError(
            f"{classes.file.name} has a subject twice, or a row without one.",
            "Keep one row for each subject.",
        )
    return found


def _row_of(path: str, subjects: dict[str, dict[str, str]], classes: Classes) -> dict[str, str]:
    """The row of the one subject whose name stands in a volume's path, not as part of another."""
    within = [s for s in subjects if re.search(rf"(?<![^\W_]){re.escape(s)}(?![^\W_])", path)]
    if len(within) != 1:
        raise BenchError(
            f"The path {path} names {len(within)} subjects of {classes.file.name}.",
            f"Its file or a folder must hold the {classes.subject} of one row.",
        )
    row = subjects[within[0]]
    if not re.fullmatch(r"\w[\w .+-]*", row[classes.label]):
        raise BenchError(
            f"The {classes.label} '{row[classes.label]}' of a subject is no name of a folder.",
            "Name classes by letters, numbers, dots, blanks and dashes.",
        )
    return row


def _slices(path: Path, axis: int, positions: list[int]) -> Iterator[np.ndarray]:
    """Flat uint8 images (H, W), the head or the front at the top, one grey scale a volume."""
    volume = _volume(path)
    if positions[-1] >= volume.shape[axis]:
        raise BenchError(
            f"{path.name} has {volume.shape[axis]} {AXES[axis]} slices, none at {positions[-1]}.",
            "Give the slices to cut with --range FIRST-LAST.",
        )
    low, high = np.percentile(volume, WINDOW)
    for position in positions:
        flat = (volume.take(position, axis).T[::-1] - low) / max(float(high - low), 1e-12)
        yield np.round(255 * flat.clip(0, 1)).astype(np.uint8)


def _volume(path: Path) -> np.ndarray:
    """The voxels float32 (right, front, top) of a NIfTI or Analyze file; needs the extra [mri]."""
    try:
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError as error:
        raise BenchError(
            f"{path.name} is a volume, and nibabel is not installed.",
            "Install transfer-bench[mri].",
        ) from error
    broken = (OSError, EOFError, ValueError, TypeError, zlib.error, ImageFileError, HeaderDataError)
    try:
        image: Any = nibabel.load(path)
        shape, kind = image.shape, image.get_data_dtype().kind
        if len(shape) < 3 or any(side != 1 for side in shape[3:]) or kind not in "iuf":
            raise BenchError(
                f"{path.name} is not one volume of grey values.", "Give files of one volume each."
            )
        if math.prod(shape) > MOST:  # the header says so before anything is unpacked
            raise BenchError(
                f"{path.name} has {' × '.join(map(str, shape))} voxels, more than {MOST:,}.",
                "Take a part of it, or a coarser one.",
            )
        voxels = np.asarray(nibabel.as_closest_canonical(image).dataobj, np.float32)
    except broken as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BenchError(f"{path.name} cannot be read: {reason}.", "Fetch it again.") from error
    return np.nan_to_num(voxels.reshape(voxels.shape[:3]), posinf=0, neginf=0)
