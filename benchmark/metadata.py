"""The patient's record as numbers: thomas' G(M), metanet's one-hot map, columns that may not enter.

Cells are read as text, whatever type the table gives them: a file read with types and the same file
read as strings are encoded alike. Everything is learnt from the training rows.
"""

import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["numeric", "date", "categorical", "boolean"]

#: Words for "no value", in any case; a schema adds its own by `missing_extra`.
MISSING = ("", "na", "n/a", "nan", "null", "none", "nat")

#: Columns that tell the answer, in any case; `*` stands for any ending.
FORBIDDEN: Mapping[str, str] = {
    "dx": "it is the diagnosis itself",
    "dx_type": "mel, bcc and akiec are always confirmed by histology, so it tells the diagnosis "
    "(it lifts the AUROC of the record alone from 0.741 to 0.858)",
    "diagnosis*": "it tells the diagnosis",
    "benign_malignant": "it tells the diagnosis",
    "report": "the physician's report states the diagnosis",
    "scp_codes": "the labels are made from it",
    "heart_axis": "it was read from the very ECG, with the diagnosis",
    "infarction_stadium*": "it is filled in for infarctions only",
    "validated_by*": "it says who checked the diagnosis, not who the patient is",
    "strat_fold": "it is the fold of the official split",
    "cdr": "the Clinical Dementia Rating defines the label",
}

#: Columns that are off by default: they can be had, with a word of caution.
WARN: Mapping[str, str] = {
    **dict.fromkeys(
        ("device", "site", "nurse", "recording_date"),
        "it describes the acquisition, not the patient",
    ),
    "mmse": "this test of cognition is part of how dementia is diagnosed",
}

#: How a column can be read, by every word for it; the full word is a kind itself.
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("num", "numeric", "number"), "numeric"),
    **dict.fromkeys(("cat", "categorical", "category"), "categorical"),
    **dict.fromkeys(("dt", "date", "datetime"), "date"),
    **dict.fromkeys(("bool", "boolean"), "boolean"),
}
_MEASURED = ("numeric", "date")  # the other kinds are looked up
_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf(inity)?)", re.ASCII | re.IGNORECASE)
# Year first only: the order of day and month in other forms cannot be known.
_DATE = re.compile(
    r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})"
    r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2}(?:\.\d+)?))?(?: ?Z| ?[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_DATE_PARTS = ("year", "month", "day", "hour", "minute", "second")
_TRUTH = {"false": (0.0,), "true": (1.0,), "0": (0.0,), "1": (1.0,)}


def check_columns(
    columns: Iterable[str],
    forbidden: Mapping[str, str] = FORBIDDEN,
    warn: Mapping[str, str] = WARN,
) -> list[str]:
    """Refuse input columns that match a forbidden pattern; return warnings about the others."""
    columns = list(columns)
    if refused := matches(columns, forbidden):
        reasons = "; ".join(f"{name} may not be an input: {reason}" for name, reason in refused)
        raise BenchError(f"The column {reasons}.", "Leave it out of --column.")
    return [f"The column {name} is used: {reason}." for name, reason in matches(columns, warn)]


def kind_of(cells: Iterable[str]) -> Kind:
    """How a column with these cells would be read."""
    return _infer(None if is_missing(cell) else cell.strip() for cell in set(cells))


def words(name: str) -> set[str]:
    """The words of a column's name: `PatientAge_2` is patient and age, `stage` is no age."""
    return {word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


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
class _Read:
    """The cells of one column as numbers: values (rows, parts), NaN where there is none."""

    values: NDArray[np.float64]
    missing: NDArray[np.bool_]  # (rows,) no value was given
    failed: NDArray[np.bool_]  # (rows,) a value that training did not know or that cannot be read


class Encoder(ABC):
    """A map from a table to floats, fitted on training rows; `counts` tells of the last table."""

    name: ClassVar[str]

    @abstractmethod
    def _names(self, column: Column) -> Sequence[str]: ...

    @abstractmethod
    def _encode(self, column: Column, read: _Read) -> NDArray[np.float64]: ...

    def __init__(self, schema: Mapping[str, Any] | None = None, *, indicator: bool = False) -> None:
        """Take a schema of types, missing_extra, order, base, clip, unseen; what it lacks is found.

        With `indicator` each column is followed by name__missing: 1 where its value is made up.
        """
        self.schema = dict(schema or {})
        self.indicator = indicator
        self.columns: tuple[Column, ...] | None = None
        self.counts: dict[str, dict[str, int]] = {}  # unseen, unparsable, missing -> column -> n
        self._options = _Options.of(self.schema)

    def fit(self, frame: "pd.DataFrame") -> Self:
        """Learn types, categories, means and ranges from the training rows."""
        options = self._options
        names = options.selected or [str(name) for name in frame.columns]
        table = _table(frame, options.missing, (*names, *options.types))
        self.columns = tuple(
            _learn(name, options.types.get(name) or _infer(table[name]), table[name])
            for name in names
        )
        return self

    def transform(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Return floats of the frame's rows under `columns_out`; columns not fitted are ignored."""
        import pandas as pd

        blocks = [np.empty((len(frame), 0))]
        self.counts = {"unseen": {}, "unparsable": {}, "missing": {}}
        table = _table(frame, self._options.missing, [column.name for column in self._fitted()])
        for column in self._fitted():
            read = _read(table[column.name], column)
            self._count(column, read)
            blocks.append(self._encode(column, read))
            if self.indicator:
                made_up = read.missing | (read.failed & (column.kind in _MEASURED))
                blocks.append(made_up[:, None].astype(float))
        self._tell()
        return pd.DataFrame(np.hstack(blocks), index=frame.index, columns=list(self.columns_out))

    @property
    def columns_out(self) -> tuple[str, ...]:
        """Names of the encoded columns, in order."""
        return tuple(
            name
            for column in self._fitted()
            for name in (*self._names(column), *[f"{column.name}__missing"] * self.indicator)
        )

    def to_json(self) -> str:
        """Write the fitted encoder as plain JSON; `from_json` brings back the same numbers."""
        columns = [asdict(column) for column in self._fitted()]
        content = {"encoder": self.name, "schema": self.schema, "indicator": self.indicator}
        return json.dumps({**content, "columns": columns}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a fitted encoder; called on Encoder it takes either kind."""
        content = json.loads(text)
        kinds = {kind.name: kind for kind in (OrdinalEncoder, OneHotEncoder)}
        kind = kinds.get(content.get("encoder"))
        if kind is None or not issubclass(kind, cls):
            raise BenchError("This text is not an encoder of this kind.", "Fit the encoder again.")
        encoder = kind(content["schema"], indicator=content["indicator"])
        encoder.columns = tuple(Column(**column) for column in content["columns"])
        return encoder

    def _fitted(self) -> tuple[Column, ...]:
        if self.columns is None:
            raise BenchError("The encoder has seen no training rows yet.", "Call fit first.")
        return self.columns

    def _count(self, column: Column, read: _Read) -> None:
        how = "unparsable" if column.kind in _MEASURED else "unseen"
        for what, rows in ((how, read.failed), ("missing", read.missing)):
            if n := int(rows.sum()):
                self.counts[what][column.name] = n

    def _tell(self) -> None:
        for what, words in (("unseen", "not seen in training"), ("unparsable", "without meaning")):
            listed = ", ".join(f"{name} ({n})" for name, n in self.counts[what].items())
            text = f"Metadata values {words}, by column: {listed}."
            if listed and what == "unseen" and self._options.unseen == "error":
                raise BenchError(text, "Leave these rows out or change the schema's 'unseen'.")
            if listed:
                warnings.warn(text, stacklevel=3)


class OrdinalEncoder(Encoder):
    """Thomas' G(M): numbers as they are, dates in six parts, categories by index, else −1."""

    name = "ordinal"

    def _names(self, column: Column) -> Sequence[str]:
        return column.parts

    def _encode(self, column: Column, read: _Read) -> NDArray[np.float64]:
        base = self._options.base if column.kind == "categorical" else 0
        return np.where(np.isnan(read.values), -1.0, read.values + base)


class OneHotEncoder(Encoder):
    """Metanet's map: numbers to 0–1 over the training range, categories one-hot.

    A missing number becomes the mean, a missing category the most frequent one; a category that
    training did not know is all zeros (schema `unseen: mode` takes the most frequent one).
    """

    name = "onehot"

    def _names(self, column: Column) -> Sequence[str]:
        if column.kind in _MEASURED:
            return column.parts
        return tuple(f"{column.name}_{category}" for category in column.categories)

    def _encode(self, column: Column, read: _Read) -> NDArray[np.float64]:
        if column.kind in _MEASURED:
            low, span = np.array(column.low), np.array(column.high) - np.array(column.low)
            values = np.where(np.isnan(read.values), column.mean, read.values)
            scaled = np.where(span > 0, (values - low) / np.where(span > 0, span, 1), 0.0)
            return np.clip(scaled, *self._options.clip)
        filled = read.missing | (read.failed & (self._options.unseen == "mode"))
        index = np.where(filled, column.common, np.nan_to_num(read.values[:, 0], nan=-1))
        return (index[:, None] == np.arange(len(column.categories))).astype(float)


@dataclass(frozen=True, slots=True)
class _Options:
    """A schema in one form: golden spec and options files, or types by column."""

    types: Mapping[str, Kind]
    missing: frozenset[str]
    selected: tuple[str, ...]  # empty: every column of the training table
    base: int
    clip: tuple[float, float]
    unseen: str

    @staticmethod
    def of(schema: Mapping[str, Any]) -> "_Options":
        """Check a schema's words and values."""
        given = {**schema.get("options", {}), **schema}
        fields = ("types", "missing_extra", "order", "base", "clip", "unseen")
        _check("field", given, (*fields, "options", "spec", "unseen_cells", *KINDS))
        listed: dict[str, str] = {name: kind for name, kind, *_ in given.get("spec", ())}
        listed |= {name: kind for kind in KINDS for name in given.get(kind) or ()}
        types = {**listed, **(given.get("types") or {})}
        _check("type", types.values(), KINDS)
        order = tuple(given.get("order") or ())
        unseen = str(given.get("unseen", -1))
        _check("rule for unseen categories", [unseen], ("-1", "zeros", "mode", "error"))
        return _Options(
            types={name: KINDS[word] for name, word in types.items()},
            missing=_missing_words(given.get("missing_extra") or ()),
            selected=order + tuple(name for name in listed if name not in order),
            base=int(given.get("base", 0)),
            clip=(0.0, 1.0) if given.get("clip", True) else (-np.inf, np.inf),
            unseen=unseen,
        )


def _check(what: str, words: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for word in words:
        if word not in known:
            raise BenchError(
                f"The metadata schema has no {what} '{word}'.", f"It knows {', '.join(known)}."
            )


def is_missing(cell: str) -> bool:
    """Whether a cell says that there is no value."""
    return cell.strip().casefold() in MISSING


def _missing_words(extra: Iterable[str]) -> frozenset[str]:
    extra = [extra] if isinstance(extra, str) else extra
    return frozenset((*MISSING, *(str(word).strip().casefold() for word in extra)))


def matches(columns: Iterable[str], patterns: Mapping[str, str]) -> list[tuple[str, str]]:
    """The columns that fit a pattern, in any case, each with the pattern's reason."""
    return [
        (name, reason)
        for name in columns
        for pattern, reason in patterns.items()
        if fnmatchcase(name.strip().casefold(), pattern.casefold())
    ]


def _table(
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


def _infer(cells: Iterable[str | None]) -> Kind:
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


def _read(cells: Sequence[str | None], column: Column) -> _Read:
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
    return _Read(values.reshape(len(cells), len(nothing)), missing, failed)


def _learn(name: str, kind: Kind, cells: Sequence[str | None]) -> Column:
    categories = ("False", "True") if kind == "boolean" else ()
    if kind == "categorical":
        categories = tuple(sorted({cell for cell in cells if cell is not None}))
    blank = Column(name, kind, categories, -1, (), (), ())
    values = _read(cells, blank).values
    values = values[~np.isnan(values[:, 0])]
    if kind in ("categorical", "boolean"):
        common = int(np.bincount(values[:, 0].astype(int)).argmax()) if len(values) else -1
        return replace(blank, common=common)
    if not len(values):
        values = np.zeros((1, len(blank.parts)))
    low, high, mean = (tuple(f(values, axis=0).tolist()) for f in (np.min, np.max, np.mean))
    return replace(blank, low=low, high=high, mean=mean)
