"""The patient's record as numbers: thomas' G(M), metanet's one-hot map, columns that may not enter.

Cells are read as text, whatever type the table gives them: a file read with types and the same file
read as strings are encoded alike. Everything is learnt from the training rows.
"""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchError
from benchmark.metadata.cells import (
    KINDS,
    MEASURED,
    Column,
    Kind,
    Read,
    infer,
    is_missing,
    kind_of,
    learn,
    missing_words,
    read_cells,
    table_of,
)
from benchmark.metadata.rules import FORBIDDEN, WARN, check_columns, matches, words

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FORBIDDEN",
    "KINDS",
    "WARN",
    "Column",
    "Encoder",
    "OneHotEncoder",
    "OrdinalEncoder",
    "check_columns",
    "is_missing",
    "kind_of",
    "matches",
    "words",
]


class Encoder(ABC):
    """A map from a table to floats, fitted on training rows; `counts` tells of the last table."""

    name: ClassVar[str]

    @abstractmethod
    def _names(self, column: Column) -> Sequence[str]: ...

    @abstractmethod
    def _encode(self, column: Column, read: Read) -> NDArray[np.float64]: ...

    def __init__(self, schema: Mapping[str, Any] | None = None, *, indicator: bool = False) -> None:
        """Take a schema of types, missing_extra, order, base, clip, unseen; what it lacks is found.

        With `gaps` in it no value is made up for a missing one or a number that cannot be read:
        all its columns are NaN there.
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
        table = table_of(frame, options.missing, (*names, *options.types))
        self.columns = tuple(
            learn(name, options.types.get(name) or infer(table[name]), table[name])
            for name in names
        )
        return self

    def transform(self, frame: "pd.DataFrame") -> "pd.DataFrame":
        """Return floats of the frame's rows under `columns_out`; columns not fitted are ignored."""
        import pandas as pd

        blocks = [np.empty((len(frame), 0))]
        self.counts = {"unseen": {}, "unparsable": {}, "missing": {}}
        table = table_of(frame, self._options.missing, [column.name for column in self._fitted()])
        for column in self._fitted():
            read = read_cells(table[column.name], column)
            self._count(column, read)
            block = self._encode(column, read)
            made_up = read.missing | (read.failed & (column.kind in MEASURED))
            blocks.append(
                np.where(made_up[:, None], np.nan, block) if self._options.gaps else block
            )
            if self.indicator:
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

    def _count(self, column: Column, read: Read) -> None:
        how = "unparsable" if column.kind in MEASURED else "unseen"
        for what, rows in ((how, read.failed), ("missing", read.missing)):
            if n := int(rows.sum()):
                self.counts[what][column.name] = n

    def _tell(self) -> None:
        for what, how in (("unseen", "not seen in training"), ("unparsable", "without meaning")):
            listed = ", ".join(f"{name} ({n})" for name, n in self.counts[what].items())
            text = f"Metadata values {how}, by column: {listed}."
            if listed and what == "unseen" and self._options.unseen == "error":
                raise BenchError(text, "Leave these rows out or change the schema's 'unseen'.")
            if listed:
                warnings.warn(text, stacklevel=3)


class OrdinalEncoder(Encoder):
    """Thomas' G(M): numbers as they are, dates in six parts, categories by index, else −1."""

    name = "ordinal"

    def _names(self, column: Column) -> Sequence[str]:
        return column.parts

    def _encode(self, column: Column, read: Read) -> NDArray[np.float64]:
        base = self._options.base if column.kind == "categorical" else 0
        return np.where(np.isnan(read.values), -1.0, read.values + base)


class OneHotEncoder(Encoder):
    """Metanet's map: numbers to 0–1 over the training range, categories one-hot.

    A missing number becomes the mean, a missing category the most frequent one; a category that
    training did not know is all zeros (schema `unseen: mode` takes the most frequent one).
    """

    name = "onehot"

    def _names(self, column: Column) -> Sequence[str]:
        if column.kind in MEASURED:
            return column.parts
        return tuple(f"{column.name}_{category}" for category in column.categories)

    def _encode(self, column: Column, read: Read) -> NDArray[np.float64]:
        if column.kind in MEASURED:
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
    gaps: bool

    @staticmethod
    def of(schema: Mapping[str, Any]) -> "_Options":
        """Check a schema's words and values."""
        given = {**schema.get("options", {}), **schema}
        fields = ("types", "missing_extra", "order", "base", "clip", "unseen", "gaps")
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
            missing=missing_words(given.get("missing_extra") or ()),
            selected=order + tuple(name for name in listed if name not in order),
            base=int(given.get("base", 0)),
            clip=(0.0, 1.0) if given.get("clip", True) else (-np.inf, np.inf),
            unseen=unseen,
            gaps=bool(given.get("gaps", False)),
        )


def _check(what: str, words: Iterable[str], known: Iterable[str]) -> None:
    known = list(known)
    for word in words:
        if word not in known:
            raise BenchError(
                f"The metadata schema has no {what} '{word}'.", f"It knows {', '.join(known)}."
            )
