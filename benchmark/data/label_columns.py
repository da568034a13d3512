"""What the columns of a table say of each image's label: a class, or a set of names."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmark.data import label_sets
from benchmark.data.label_sets import Label
from benchmark.errors import BenchError, private
from benchmark.metadata import is_missing

#: More numbers than this as labels are a measurement, not classes.
MOST = 30
YES, NO = ("1", "1.0", "true"), ("0", "0.0", "false")


def named(label: str | None) -> list[str]:
    """The columns that `--label` names."""
    return [name.strip() for name in label.split(",")] if label else []


def read(
    rows: Sequence[dict[str, str]], columns: Sequence[str], separator: str, images: Sequence[str]
) -> list[Label]:
    """The label of each row, "" where it has none.

    A column names a class or, with a separator, any number of labels; several columns of 0 and 1
    name a class where every row has one 1, and the labels that are 1 where some have several.
    """
    if separator and len(columns) != 1:
        raise BenchError(
            "--separator parts the labels in the cells of one column.",
            "Name that column alone with --label, or leave --separator out.",
        )
    if len(columns) > 1:
        return _by_columns(rows, columns, images)
    (column,) = columns
    cells = ["" if is_missing(row[column]) else row[column].strip() for row in rows]
    if not separator:
        _need_single(filter(None, cells), column)
        _need_classes(filter(None, cells), column)
        return [*cells]
    sets = [tuple(filter(None, map(str.strip, cell.split(separator)))) for cell in cells]
    _need_classes((name for names in sets for name in names), column)
    return [names if cell else "" for cell, names in zip(cells, sets, strict=True)]


def told(labels: Sequence[Label]) -> list[str]:
    """A note on labels that are sets."""
    if not label_sets.several(labels):
        return []
    several, none = sum(len(one) > 1 for one in labels), sum(not one for one in labels)
    names = len(label_sets.names_of(labels))
    return [
        f"Images have any number of the {names} labels (multi-label): {several} have several and "
        f"{none} none."
    ]


def _by_columns(
    rows: Sequence[dict[str, str]], columns: Sequence[str], images: Sequence[str]
) -> list[Label]:
    cells = [[row[name].strip().lower() for name in columns] for row in rows]
    yes = [
        tuple(name for name, cell in zip(columns, line, strict=True) if cell in YES)
        for line in cells
    ]
    if all(len(names) == 1 for names in yes):
        return [names[0] for names in yes]
    for line, image in zip(cells, images, strict=True):
        if odd := [n for n, cell in zip(columns, line, strict=True) if cell not in YES + NO]:
            raise BenchError(
                f"The row of {private(image)} has neither 0 nor 1 in the column {odd[0]}.",
                "Several columns as --label say yes or no each: write 1 or 0, or leave the "
                "image and its row out where nobody knows.",
            )
    if empty := [name for name in columns if not any(name in names for names in yes)]:
        raise BenchError(f"No image has a 1 in the column {empty[0]}.", "Leave it out of --label.")
    if all(len(names) < 2 for names in yes):
        none = sum(not names for names in yes)
        raise BenchError(
            f"{none} images have no 1 in the columns {', '.join(columns)}, and none has several.",
            "Give them a column of their own or leave them and their rows out, as these are "
            "classes; labels of which an image may have none go into one column, with --separator.",
        )
    return [*yes]


def _need_single(labels: Iterable[str], column: str) -> None:
    if several := [label for label in labels if re.search(r"[|;]", label)]:
        sign = re.findall(r"[|;]", several[0])[0]
        raise BenchError(
            f"The {column} '{several[0]}' names several classes.",
            f"Say --separator '{sign}' where an image may have several labels.",
        )


def _need_classes(labels: Iterable[str], column: str) -> None:
    """Refuse a measurement."""
    counts = Counter(labels)
    numbers = [float(x) for x in counts if re.fullmatch(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?", x)]
    measured = len(numbers) > MOST or any(x != int(x) for x in numbers)
    if numbers and len(numbers) == len(counts) and measured:
        raise BenchError(
            f"The column {column} holds {len(numbers)} different numbers: that is a measurement, "
            "and this benchmark classifies.",
            "Cut it into a few named classes, or name another column with --label.",
        )
