"""Tables and folders of images as data sets have them: read once, for every component."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmark.errors import BenchError, DataMissing
from benchmark.metadata import is_missing, kind_of


def class_folders(
    root: Path, *, endings: tuple[str, ...] = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
) -> Iterator[tuple[Path, str]]:
    """Every image below `root` with the name of the folder it lies in, in a stable order."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in endings and not path.name.startswith("."):
                yield path, folder.name


#: Characters of a cell: a report may be longer than the csv module takes by itself.
LONGEST = 2**31 - 1


def read_table(path: Path, *, need: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of a CSV as text; commas, semicolons or tabs part its cells, whichever its head has.

    Where semicolons do, a comma in a column of numbers is the decimal point.
    """
    csv.field_size_limit(LONGEST)
    text = _text(path)
    head = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    comma = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=comma, restkey="\0")
    names = reader.fieldnames or ()
    if missing := [name for name in need if name not in names]:
        raise BenchError(
            f"{path.name} has no column '{missing[0]}'.", f"Its columns are: {', '.join(names)}."
        )
    rows = []
    for number, row in enumerate(reader, 1):
        if any(row.pop("\0", ())):
            raise BenchError(
                f"Row {number} of {path.name} has more cells than its {len(names)} columns.",
                "Quote the cells that hold a separator.",
            )
        rows.append({name: cell or "" for name, cell in row.items()})
    for name in names if comma == ";" else ():
        if all(_DECIMAL.fullmatch(row[name].strip()) or is_missing(row[name]) for row in rows):
            for row in rows:
                row[name] = row[name].replace(",", ".")
    return rows


_DECIMAL = re.compile(r"[+-]?\d*,?\d+")


def _text(path: Path) -> str:
    """What a table says; another kind of text than UTF-8 is told by its name."""
    if not path.is_file():
        raise DataMissing(f"The table {path} is not there.", "Put it there.")
    content, text, kind = path.read_bytes(), "", ""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content[:400]:
        kind = "UTF-16 text"
    if content.startswith(b"PK\x03\x04"):
        kind = "a spreadsheet"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        kind = kind or f"no UTF-8 but probably Latin-1 (Windows-1252) text, from line {line} on"
    if kind:
        raise BenchError(f"{path.name} is {kind}.", "Save it as a UTF-8 CSV.")
    return text


def column_types(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """How each column of a table is read: numeric, date, boolean or categorical."""
    return {name: kind_of(row[name] for row in rows) for name in rows[0]}
