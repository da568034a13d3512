"""Which row of a table belongs to which image, however the table spells its name."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from benchmark.data.dicom import ENDINGS
from benchmark.errors import BenchError, private


def spellings(name: str) -> tuple[str, ...]:
    """How a table may spell an image: path or name, with or without ending."""
    path = PurePosixPath(name.strip().replace("\\", "/").removeprefix("./"))
    plain = path.with_suffix("") if path.suffix.lower() in ENDINGS else path
    return path.as_posix(), plain.as_posix(), path.name, plain.name


def _index(files: Mapping[str, Path]) -> dict[str, set[Path]]:
    index: dict[str, set[Path]] = {}
    for name, path in files.items():
        for key in spellings(name):
            index.setdefault(key, set()).add(path)
    return index


def _find(cell: str, index: Mapping[str, set[Path]]) -> set[Path]:
    path, plain = spellings(cell)[:2]
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


def image_column(rows: list[dict[str, str]], files: Mapping[str, Path]) -> str:
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


def pair(
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
                f"{private(cell)} in {table} fits {len(found)} images.",
                "Name them by their path below the folder, with the ending.",
            )
        place = next((names[path] for path in found), cell)
        if place in named:
            raise BenchError(
                f"{table} has two rows for {private(place)}: {private(named[place])} and "
                f"{private(cell)}.",
                "Keep one row for each image.",
            )
        named[place] = cell
        paths += found
    check_pairs(named, files, table)
    return paths


def check_pairs(rows: Iterable[str], files: Iterable[str], table: str) -> None:
    """Refuse a table with rows that have no image, or images that it has no row for."""
    named, there = dict.fromkeys(rows), dict.fromkeys(files)
    for kind, lost in (
        ("rows without an image", [name for name in named if name not in there]),
        ("images without a row", [name for name in there if name not in named]),
    ):
        if lost:
            raise BenchError(
                f"{table} does not fit its images: {len(lost)} {kind} "
                f"({', '.join(map(private, lost[:3]))}{', …' if len(lost) > 3 else ''}) "
                f"of {len(named)} rows and {len(there)} images.",
                "Complete the set, or take them out.",
            )
