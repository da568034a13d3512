"""Which columns of a table may not enter a record: copies of the label, names of rows or patients.

Judged by content, on all rows at once and in units: a patient's rows count as one wherever a
number of observations is asked for, and are never on both sides of the cross-validation.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import lgamma
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.data.label_sets import Label, questions
from benchmark.errors import BenchError
from benchmark.metadata import FORBIDDEN, WARN, is_missing, kind_of, matches, words

Codes = NDArray[np.int64]

#: From this AUROC of a class a column is refused; from that, doubted.
REFUSED, DOUBTED = 0.99, 0.95
#: In this share of the rows that have it, one value is one class.
PURE = 0.99
#: By chance alone, a finding must be rarer than this.
CHANCE = 1e-3
FOLDS, BINS, VALUES, CLASSES = 5, 32, 1000, 50
#: Of the values, what is called nearly all of them distinct; at least so many.
DISTINCT, FEW = 0.95, 10

_WHO = {"patient", "subject", "person", "participant", "individual", "lesion", "slide", "case"}
_NUMBER = {"id", "ids", "pid", "mrn", "uid", "no", "nr", "num", "number", "key", "index", "name",
           "accession", "unnamed"}  # fmt: skip
_ALSO = {"study", "exam", "visit", "series", "scan", "image", "img", "file", "record", "sample"}
#: Where on the body: a column `site` with one of these is no site of acquisition.
_BODY = {
    "abdomen", "acral", "ankle", "anterior", "arm", "axilla", "back", "bone", "brain", "breast",
    "buttock", "cheek", "chest", "chin", "colon", "ear", "elbow", "extremity", "eye", "face",
    "finger", "foot", "forehead", "genital", "groin", "hand", "head", "hip", "kidney", "knee",
    "leg", "lip", "liver", "lobe", "lung", "mouth", "nail", "neck", "nose", "oral", "palm",
    "pelvis", "prostate", "scalp", "shoulder", "skin", "spine", "stomach", "thigh", "thorax",
    "toe", "torso", "trunk", "wrist",
}  # fmt: skip
_CODE = re.compile(r"[A-Za-z]+[-_ ]?\d{2,}[A-Za-z0-9_-]*")  # P07, subj-0012


@dataclass(frozen=True)
class Look:
    """What is known of a set's record before anything runs; names are columns of its table."""

    left_out: Mapping[str, str] = field(default_factory=dict)  # no input unless asked for -> why
    refused: Mapping[str, str] = field(default_factory=dict)  # input that tells the label -> how
    notes: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()  # of each image, where they are known
    groups: tuple[str, ...] = ()  # of each image; "": it stands alone


class Cells:
    """A column as numbers: the code of each row's value, −1 where it has none."""

    def __init__(self, name: str, cells: Sequence[str]) -> None:
        self.name = name
        index: dict[str, int] = {}
        raw = np.fromiter((index.setdefault(c, len(index)) for c in cells), np.int64, len(cells))
        self.values = sorted({text.strip() for text in index if not is_missing(text)})
        place = {text: i for i, text in enumerate(self.values)}
        self.codes: Codes = np.array([place.get(text.strip(), -1) for text in index])[raw]
        self.kind = kind_of(self.values)

    @cached_property
    def ranks(self) -> Codes:
        """For each value its place in the order of numbers or dates."""
        keys = [float(v) for v in self.values] if self.kind == "numeric" else self.values
        order = np.argsort(np.array(keys), kind="stable")
        found = np.empty(len(keys), np.int64)
        found[order] = np.arange(len(keys))
        return found

    @property
    def measured(self) -> bool:
        return self.kind in ("numeric", "date")


class Told(NamedTuple):
    """How much a column by itself says of the label."""

    auroc: float  # of the class that it tells best, 0.5 where too few rows could show it
    label: str  # that class
    pure: float  # share of the rows that have it in which a value is one class, else 0

    def __str__(self) -> str:
        if self.pure:
            return f"one value is one class in {_share(self.pure)} of the rows that have it"
        return f"it tells '{self.label}' with an AUROC of {self.auroc:.3f} by itself"

    @property
    def refused(self) -> bool:
        return bool(self.pure) or self.auroc >= REFUSED

    @property
    def doubted(self) -> bool:
        return not self.refused and self.auroc >= DOUBTED


class Rows:
    """The label and the group of each row, the rarest of many classes as one."""

    def __init__(
        self, labels: Sequence[str] | NDArray[np.str_], groups: Sequence[str] | Codes
    ) -> None:
        names, y = np.unique(np.asarray(labels), return_inverse=True)
        common = np.argsort(-np.bincount(y), kind="stable")[:CLASSES]
        place = np.full(len(names), len(common))
        place[common] = np.arange(len(common))
        self.names = [str(name) for name in names[common]]
        self.y: Codes = place[y]
        self.unit: Codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        units = int(self.unit.max()) + 1
        self.classes = int(self.y.max()) + 1
        self.fold: Codes = np.random.default_rng(0).permutation(units)[self.unit] % FOLDS

    def enough(self, has: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """(classes,) whether so many units are of a class and not that order is no accident."""
        unit, label = np.divmod(
            _distinct(self.unit[has] * self.classes + self.y[has]), self.classes
        )
        one = np.bincount(label, minlength=self.classes)
        alone = np.bincount(unit)[unit] == 1  # units of one class only
        other = len(_distinct(unit)) - np.bincount(label[alone], minlength=self.classes)
        orders = _log_factorial(one + other) - _log_factorial(one) - _log_factorial(other)
        return (np.minimum(one, other) >= FOLDS) & (np.log(2) - orders <= np.log(CHANCE))

    @cached_property
    def all_enough(self) -> NDArray[np.bool_]:
        return self.enough(np.ones(len(self.y), bool))


def judge(
    columns: Mapping[str, Cells], labels: Sequence[Label], groups: Sequence[str] | None
) -> Look:
    """What may not enter a record, and why; without groups a column that looks like them serves."""
    like = grouping(list(columns.values())) if groups is None else ""
    alone = np.arange(-len(labels), 0)
    units = np.where(columns[like].codes < 0, alone, columns[like].codes) if like else alone
    asked = [Rows(one, units if groups is None else groups) for one in questions(labels)]
    left_out, refused, notes = dict[str, str](), dict[str, str](), list[str]()
    if groups is None:
        hint = f"; {like} looks as if it did: --group {like}" if like else ""
        notes.append(f"No --group says which images are of one patient{hint}.")
        left_out |= {like: f"it looks as if it named patients: --group {like}"} if like else {}
    for name, column in columns.items():
        why = _by_name(column) or nothing(column) or identifies(column, asked[0])
        if name in left_out or why:
            left_out.setdefault(name, why)
            continue
        found = _most_told(column, asked)
        if found.refused:
            refused[name] = str(found)
        elif found.doubted:
            notes.append(f"The column {name} is doubtful: {found}.")
        elif name.casefold() == "site":
            notes.append(f"The column {name} is used: its values are places on the body.")
    return Look(left_out, refused, tuple(notes))


def _most_told(column: Cells, asked: Sequence[Rows]) -> Told:
    return max((told(column, rows) for rows in asked), key=lambda one: (one.pure, one.auroc))


def told(column: Cells, rows: Rows) -> Told:
    """What a column tells of the label; rows of a group lie in one fold of the cross-validation."""
    has = column.codes >= 0
    areas = np.where(rows.all_enough, _cross_validated(_binned(column), rows), 0.5)
    if column.measured and has.any():
        shape = (len(column.values), rows.classes)
        place = column.ranks[column.codes[has]] * rows.classes + rows.y[has]
        hits = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
        area = _area(hits, hits.sum(1, keepdims=True) - hits)
        enough = rows.all_enough if has.all() else rows.enough(has)
        area = np.where(enough, np.maximum(area, 1 - area), 0.5)
        areas = np.maximum(areas, area)
    best = int(areas[: len(rows.names)].argmax())
    return Told(float(areas[best]), rows.names[best], _purity(column.codes, rows))


def check(
    target: str,
    table: Mapping[str, Sequence[str]],
    labels: Sequence[Label],
    groups: Codes,
) -> list[str]:
    """Notes on columns that are inputs and doubtful; refuses those that tell the label."""
    asked = [Rows(one, groups) for one in questions(labels)]
    found = {name: _most_told(Cells(name, cells), asked) for name, cells in table.items()}
    if refused := {name: str(one) for name, one in found.items() if one.refused}:
        raise refusal(target, refused)
    return [f"The column {name} is doubtful: {one}." for name, one in found.items() if one.doubted]


def refusal(target: str, telling: Mapping[str, str]) -> BenchError:
    """What is said of columns that tell the label, each with how."""
    listed = "; ".join(f"{name}: {how}" for name, how in telling.items())
    return BenchError(
        f"The table of {target} tells the label ({listed}).",
        "Take the column out, name those to use with --column, or use it all the same with "
        f"--allow-column {next(iter(telling))}, which the board will say.",
    )


def nothing(column: Cells) -> str:
    """Why a column says nothing, or an empty text."""
    if not column.values:
        return "it has only missing values"
    if len(column.values) == 1 and (column.codes >= 0).all():
        return f"it is '{column.values[0]}' in every row"
    return ""


def identifies(column: Cells, rows: Rows) -> str:
    """Why a column names rows or patients rather than saying something of them, or ''."""
    has = column.codes >= 0
    # Its values, each once per group: a patient's number is one value for all the images.
    pairs = len(_distinct(rows.unit[has] * (len(column.values) + 1) + column.codes[has]))
    distinct = len(column.values)
    nearly = distinct >= DISTINCT * pairs and (distinct >= FEW or distinct == len(has))
    if column.kind == "categorical" and nearly:
        return f"it only names them: {distinct} different values in {pairs}"
    if column.kind == "numeric" and _named(column) and distinct >= FEW / 2:
        return "by its name and values it is a number of rows or patients"
    if column.kind == "categorical" and _named(column) and distinct >= FEW:
        return "by its name and values it names rows or patients"
    if column.kind == "numeric" and nearly and distinct >= FEW and _counts(column):
        return "it counts or numbers them"
    return ""


def grouping(columns: Sequence[Cells]) -> str:
    """The column that looks as if it named patients with several rows each, or ''."""
    found = []
    for column in columns:
        rows, distinct = int((column.codes >= 0).sum()), len(column.values)
        if not FEW / 2 <= distinct < rows:
            continue
        codes = column.kind == "categorical" and distinct >= max(FEW, rows / 10)
        if _named(column) or (codes and all(_CODE.fullmatch(v) for v in column.values)):
            found.append((not words(column.name) & _WHO, distinct, column.name))
    return min(found)[2] if found else ""


def _named(column: Cells) -> bool:
    """Whether the name says a number or name of something, and nothing else."""
    found = words(column.name)
    whole = column.kind != "numeric" or all(re.fullmatch(r"\d+(\.0+)?", v) for v in column.values)
    return whole and bool(found & (_WHO | _NUMBER)) and found <= _WHO | _NUMBER | _ALSO


def _counts(column: Cells) -> bool:
    """Whether whole numbers run without gaps, or are written to one width with leading zeros."""
    if not all(re.fullmatch(r"\d+", v) for v in column.values):
        return False
    if len({len(v) for v in column.values}) == 1 and any(v[0] == "0" for v in column.values):
        return True
    numbers = [int(v) for v in column.values]
    return max(numbers) - min(numbers) < 1.1 * len(numbers)


def _purity(codes: Codes, rows: Rows) -> float:
    """The share of units in which a value is one class, where that is no accident; else 0."""
    has, classes = codes >= 0, rows.classes
    key = (codes[has] * (int(rows.unit.max()) + 1) + rows.unit[has]) * classes + rows.y[has]
    rest, label = np.divmod(_distinct(key), classes)
    value = rest // (int(rows.unit.max()) + 1)
    often = np.bincount(value)[value] > 1  # a value of one unit alone could be any class
    if not often.sum() > 0.5 * len(value):
        return 0.0
    pairs, counts = np.unique(value[often] * classes + label[often], return_counts=True)
    value, label = np.divmod(pairs, classes)
    order = np.lexsort((counts, value))  # of each value its most frequent class comes last
    last = order[np.append(np.diff(value[order]) > 0, True)]
    share = float(counts[last].sum() / counts.sum())
    units = np.bincount(_distinct(rows.unit * classes + rows.y) % classes, minlength=classes)
    usual = units / units.sum()
    # Each value could have been any class, and is that one in all of its units.
    chance = np.minimum(counts[last] * np.log(usual[label[last]]) + np.log(classes), 0).sum()
    rare = chance <= np.log(CHANCE) and 1 - share <= 0.1 * (1 - usual.max())
    return share if share >= PURE and rare else 0.0


def _binned(column: Cells) -> Codes:
    """The value of each row in few numbers: quantiles of what is measured, common categories."""
    n, codes = len(column.values), column.codes
    if n <= BINS or not (column.measured or n > VALUES):
        return codes + 1
    if column.measured:
        place = column.ranks[codes]
        share = np.cumsum(np.bincount(place[codes >= 0], minlength=n)) / (codes >= 0).sum()
        return np.where(codes >= 0, np.ceil(share * BINS).astype(np.int64)[place], 0)
    counts = np.bincount(codes[codes >= 0], minlength=n)
    place = np.full(n, VALUES + 1)
    place[np.argsort(-counts, kind="stable")[:VALUES]] = np.arange(1, VALUES + 1)
    return np.where(codes >= 0, place[codes], 0)


def _cross_validated(cells: Codes, rows: Rows) -> NDArray[np.float64]:
    """(classes,) AUROC of each class's share among the rows of a cell in the other folds."""
    width, classes = int(cells.max()) + 1, rows.classes
    place = (rows.fold * width + cells) * classes + rows.y
    counts = np.bincount(place, minlength=FOLDS * width * classes)
    counts = counts.reshape(FOLDS, width, classes).astype(float)
    train = counts.sum(0) - counts
    prior = train.sum(1, keepdims=True) / np.maximum(train.sum((1, 2), keepdims=True), 1)
    scores = (train + prior) / (train.sum(2, keepdims=True) + 1)
    misses = counts.sum(2, keepdims=True) - counts
    found = np.empty(classes)
    for c in range(classes):
        levels, place = np.unique(scores[..., c], return_inverse=True)
        hit = np.bincount(place.ravel(), counts[..., c].ravel(), len(levels))
        miss = np.bincount(place.ravel(), misses[..., c].ravel(), len(levels))
        found[c] = _area(hit[:, None], miss[:, None])[0]
    return found


def _area(hits: NDArray[Any], misses: NDArray[Any]) -> NDArray[np.float64]:
    """(classes,) AUROC of scores in rising order (levels, classes); ties count half."""
    below = np.cumsum(misses, axis=0) - misses / 2
    return (hits * below).sum(0) / np.maximum(hits.sum(0) * misses.sum(0), 1)


def _distinct(keys: Codes) -> Codes:
    """The different numbers in order; many times faster here than numpy's own, which hashes."""
    keys = np.sort(keys)
    return keys[np.append(True, np.diff(keys) > 0)[: len(keys)]]


def _log_factorial(counts: Codes) -> NDArray[np.float64]:
    return np.array([lgamma(n + 1) for n in counts])


def _share(value: float) -> str:
    return f"{100 * value:.3g} %"


def _by_name(column: Cells) -> str:
    """Why the name alone keeps a column out, or an empty text."""
    why = [reason for _, reason in matches([column.name], {**FORBIDDEN, **WARN})]
    anatomical = column.name.casefold() == "site" and any(words(v) & _BODY for v in column.values)
    return "" if anatomical or not why else why[0]
