"""Which columns of a table may not be an input, by their names, or only with a word of caution."""

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from benchmark.errors import BenchError

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


def matches(columns: Iterable[str], patterns: Mapping[str, str]) -> list[tuple[str, str]]:
    """The columns that fit a pattern, in any case, each with the pattern's reason."""
    return [
        (name, reason)
        for name in columns
        for pattern, reason in patterns.items()
        if fnmatchcase(name.strip().casefold(), pattern.casefold())
    ]


def words(name: str) -> set[str]:
    """The words of a column's name: `PatientAge_2` is patient and age, `stage` is no age."""
    return {word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}
