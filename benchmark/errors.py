"""Errors a user can mend: one sentence what is wrong, one sentence what to do."""

import difflib
import errno
import re
from pathlib import Path


def private(name: object) -> str:
    """A name that may tell a patient's: for whoever runs the command, not for what lasts."""
    return f"‹{str(name).translate({0x2039: '<', 0x203A: '>'})}›"


def public(text: str) -> str:
    """The text without the names marked as private."""
    return re.sub("‹[^›]*›", "‹see the log on this machine›", text)


class BenchError(Exception):
    """What is wrong and what to do about it; the command line prints both and exits 2."""

    #: The failure kind a cell gets when this error ends it.
    kind = "bad_input"

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(f"{what} {todo}".strip())
        self.what = what
        self.todo = todo

    def __reduce__(self) -> tuple:
        return type(self), (self.what, self.todo)


class DataMissing(BenchError):
    """A data set, or a part of it, is not on this machine."""

    kind = "data_missing"


class NotFinite(BenchError):
    """A loss or a score became NaN or infinite."""

    kind = "not_finite"


class DiskFull(BenchError):
    """There is no room for what was to be written."""

    kind = "disk_full"


class Died(BenchError):
    """A process that was to help is gone."""

    kind = "killed"


class Damaged(BenchError):
    """A file of the store is not what was written."""

    kind = "damaged"


def unreadable(name: str, error: Exception) -> BenchError:
    """Whatever a reader of a data set stumbled over, as a sentence."""
    if isinstance(error, BenchError):
        return type(error)(f"{name}: {error.what}", error.todo)
    what = f"{name} could not be read ({type(error).__name__}: {private(error)})."
    return BenchError(what, "`bench check` says more.")


def plain(text: str, keep: str = "") -> str:
    """Names come from users and files: nothing in them may steer a terminal or turn a line."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def units(unit: str, n: int = 2) -> str:
    """So many of what is never parted, by its word: a card's, a column's, or none for images."""
    several = "" if n == 1 else "s"
    return (
        f"{unit or 'image'}{several}" if not unit or unit.isalpha() else f"value{several} of {unit}"
    )


#: Error numbers of a disk or a quota that is full.
FULL = (errno.ENOSPC, errno.EDQUOT)


def cannot_write(path: Path, error: OSError) -> BenchError:
    """What to tell where the disk refuses."""
    return (DiskFull if error.errno in FULL else BenchError)(
        f"Could not write {path}: {error.strerror or error}.",
        "Free space or fix the permission, then run the same command again.",
    )


class Interrupted(Exception):
    """The user or the cluster asked the running cell to stop."""


def did_you_mean(name: str, known: list[str]) -> str:
    """The nearest of the known names, or all of them."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {near[0]}?" if near else f"Known: {', '.join(known)}."
