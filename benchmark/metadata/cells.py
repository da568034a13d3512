"""The cells of a table as text, and what training rows teach about each of its columns."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["numeric", "date", "categorical", "boolean"]

#: Words for "no value", in any case; a schema adds its own by `missing_extra`.
MISSING = ("", "na", "n/a", "nan", "null", "none", "nat")

#: How a column can be read, by every word for it; the full word is a kind itself.
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("num", "numeric", "number"), "numeric"),
    **dict.fromkeys(("cat", "categorical", "category"), "categorical"),
    **dict.fromkeys(("dt", "date", "datetime"), "date"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
}
MEASURED = ("numeric", "date")  # the other kinds are looked up
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)
# Year first only: the order of day and month in other forms cannot be known.
_DATE = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?(?: ?Z| ?[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_DATE_PARTS = ("year", "month", "day", "hour", "minute", "second")
_TRUTH = {"false": (0.0,), "true": (1.0,), "0": (0.0,), "1": (1.0,)}


def kind_of(cells: Iterable[str]) -> Kind:
    """How a column with these cells would be read."""
    return infer(None if is_missing(cell) else cell.strip() for cell in set(cells))


@dataclass(frozen=True)
class Column:
    """What the training rows taught about one column; dates have six parts, the others one."""

    name: str
    kind: Kind
    categories: Sequence[str]  # sorted by code point
    common: int  # index of the most frequent category, the first of equals; −1: none was seen
    low: Sequence[float]  # of the parts, over the training rows
    high: Sequence[float]
    mean: Sequence[float]

    @property
    def parts(self) -> Sequence[str]:
        return [f"{self.name}__{p}" for p in _DATE_PARTS] if self.kind == "date" else [self.name]


@dataclass(frozen=True, slots=True)
class Read:
    """The cells of one column as numbers: values (rows, parts), NaN where there is none."""

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]  # (rows,) no value was given
    failed: NDArray[np.bool_]  # (rows,) a value that training did not know or that cannot be read


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().casefold() in MISSING


def missing_words(extra: Iterable[str]) -> frozenset[str]:
    extra = [extra] if isinstance(extra, str) else extra
    return frozenset((*MISSING, *(str(word).strip().casefold() for word in extra)))


def table_of(
    frame: "pd.DataFrame", missing: frozenset[str], names: Iterable[str]
) -> dict[str, list[str | None]]:
    """The named columns' cells as stripped text, None where there is no value."""
    present = [str(name) for name in frame.columns]
    if wrong := [name for name in names if present.count(name) != 1]:
        raise BenchError(
            f"The table must have the metadata column {wrong[0]} exactly once.",
            f"It has {', '.join(present) or 'no columns'}.",
        )
    table: dict[str, list[str | None]] = {}
    for name in dict.fromkeys(names):
        series = frame.iloc[:, present.index(name)]
        texts = (_text(value) for value in series.astype(object))
        table[name] = [
            None if gone or text.casefold() in missing else text
            for text, gone in zip(texts, series.isna(), strict=True)
        ]
    return table


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (float, np.floating)):
        # A whole column turns to floats when one cell is missing: 7.0 is the 7 of its peers.
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value).strip()


def infer(cells: Iterable[str | None]) -> Kind:
    """One cell out of line makes the whole column categorical; nothing at all is numeric."""
    present = {cell for cell in cells if cell is not None}
    if all(_NUMBER.fullmatch(cell) for cell in present):
        return "numeric"
    if all(cell.lower() in ("true", "false") for cell in present):
        return "boolean"
    return "date" if all(_date(cell) for cell in present) else "categorical"


def _number(cell: str) -> tuple[float] | None:
    value = float(cell) if _NUMBER.fullmatch(cell) else np.nan
    return (value,) if np.isfinite(value) else None


def _date(cell: str) -> tuple[float, ...] | None:
    """Year, month, day, hour, minute and second as written; a date alone is at midnight."""
    if (found := _DATE.fullmatch(cell)) is None:
        return None
    parts = tuple(float(part or 0) for part in found.groups())
    year, month, day, hour, minute, second = (int(part) for part in parts)
    try:
        datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
    return parts


def read_cells(cells: Sequence[str | None], column: Column) -> Read:
    index = {category: (float(i),) for i, category in enumerate(column.categories)}
    parsers: dict[Kind, Callable[[str], tuple[float, ...] | None]] = {
        "numeric": _number,
        "date": _date,
        "boolean": lambda cell: _TRUTH.get(cell.lower()),
        "categorical": index.get,
    }
    parse = parsers[column.kind]
    parsed = [None if cell is None else parse(cell) for cell in cells]
    missing = np.array([cell is None for cell in cells], dtype=bool)
    failed = np.array([value is None for value in parsed], dtype=bool) & ~missing
    nothing = (np.nan,) * len(column.parts)
    values = np.array([value or nothing for value in parsed], dtype=float)
    return Read(values.reshape(len(cells), len(nothing)), missing, failed)


def learn(name: str, kind: Kind, cells: Sequence[str | None]) -> Column:
    categories = ("False", "True") if kind == "boolean" else ()
    if kind == "categorical":
        categories = tuple(sorted({cell for cell in cells if cell is not None}))
    blank = Column(name, kind, categories, -1, (), (), ())
    values = read_cells(cells, blank).values
    values = values[~np.isnan(values[:, 0])]
    if kind in ("categorical", "boolean"):
        common = int(np.bincount(values[:, 0].astype(int)).argmax()) if len(values) else -1
        return replace(blank, common=common)
    if not len(values):
        values = np.zeros((1, len(blank.parts)))
    low, high, mean = (tuple(f(values, axis=0).tolist()) for f in (np.min, np.max, np.mean))
    return replace(blank, low=low, high=high, mean=mean)
