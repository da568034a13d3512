"""Subgroups by a column of the record: values that many patients share, ages in bands."""

import re
from bisect import bisect
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmark.errors import BenchError
from benchmark.metadata.cells import is_missing, kind_of
from benchmark.metadata.rules import words

#: Patients below which a value is not named, and a named one has no number.
FEWEST = 10
#: Named values and characters of a value at most; what has more is no category.
MOST, LONGEST = 20, 40
#: A file beside an outcome: the headline's draws (values, draws), by column as its sizes list them
#: and by value as its numbers do.
DRAWS = "subgroups.npy"
OTHER = "other"  # values of fewer patients, pooled
BANDS = ("<30", "30-44", "45-59", "60-74", "75+")
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}.*", re.ASCII)


def by_value(
    name: str, cells: Iterable[str], groups: ArrayLike, missing: Iterable[str] = ()
) -> NDArray[np.str_]:
    """The subgroup of each row (n,): a value, an age's band, `other`, or empty without a value.

    Refuses a column whose values would tell of single patients: dates, free text, names.
    """
    blank = {word.casefold() for word in missing}
    texts = (str(cell).strip() for cell in cells)
    values = np.array(
        ["" if is_missing(text) or text.casefold() in blank else text for text in texts], dtype=str
    )
    if "age" in words(name):
        values = age_band(values)
    found = np.unique(values[values != ""]).tolist()
    if not found:
        raise _refusal(name, "it has no value")
    if kind_of(found) == "date" or any(_DATE.fullmatch(value) for value in found):
        raise _refusal(name, "it holds dates")
    if max(map(len, found)) > LONGEST:
        raise _refusal(name, "it holds free text")
    units = np.asarray(groups)
    patients = {value: len(np.unique(units[values == value])) for value in found}
    named = [value for value in found if patients[value] >= FEWEST]
    if len(named) > MOST:
        raise _refusal(name, f"{len(named)} values are too many to compare")
    if 2 * sum(patients[value] for value in named) < sum(patients.values()):
        raise _refusal(name, f"most of its values belong to fewer than {FEWEST} patients each")
    return np.where(np.isin(values, ["", *named]), values, OTHER)


def age_band(values: Iterable[Any]) -> NDArray[np.str_]:
    """Ages in years as `<30`, `30-44`, `45-59`, `60-74` or `75+`; what is no age is empty."""

    def band(value: Any) -> str:
        try:
            age = float(value)
        except (TypeError, ValueError):
            return ""
        return BANDS[bisect((30, 45, 60, 75), age)] if age >= 0 else ""

    return np.array([band(value) for value in values], dtype=str)


def _refusal(name: str, why: str) -> BenchError:
    return BenchError(
        f"The column {name} cannot name subgroups: {why}.",
        "Give one of a few categories, such as sex or site, or an age in years (named age).",
    )
