"""The mark in the folder of a running cell: which process runs it, where, and how far it is."""

import os
import socket
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import BenchError, Damaged
from benchmark.files import born, read_json, write_json

NAME = "running.json"


class Mark(NamedTuple):
    """Who runs a cell, and what its last epoch told: epoch, epochs, loss, rate, seconds."""

    pid: int
    host: str
    since: float  # seconds since 1970
    facts: dict[str, Any]
    born: str = ""  # which of the processes that had this number


def read(folder: Path) -> Mark | None:
    """The mark in a cell's folder, if a process runs it or died while it did."""
    try:
        raw = read_json(folder / NAME)
        who = raw.pop("pid"), raw.pop("host"), raw.pop("since")
        return Mark(*who, born=raw.pop("born", ""), facts=raw)
    except OSError:
        return None
    except (Damaged, KeyError, TypeError):
        warnings.warn(f"{folder / NAME} is damaged: who runs the cell is not known.", stacklevel=2)
        return None


def stamp(folder: Path) -> int | None:
    """When the mark was written, in nanoseconds since 1970; None where there is none."""
    try:
        return (folder / NAME).stat().st_mtime_ns
    except OSError:
        return None


def tell(folder: Path, facts: dict[str, Any]) -> None:
    """Add the facts of an epoch to the mark; that this fails must not cost the cell."""
    mark = read(folder)
    if mark is not None:
        told = {**mark._asdict(), **facts}
        del told["facts"]
        with suppress(BenchError):
            write_json(folder / NAME, told, durable=False)


def alive(mark: Mark) -> bool | None:
    """Whether the process still is; None where nobody can tell, as it is on another machine."""
    if mark.host != socket.gethostname():
        return None
    try:
        os.kill(mark.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not sys.platform.startswith("linux") or _same(mark)


def _same(mark: Mark) -> bool:
    """Neither dead and unburied, nor a later process that was given the same number."""
    try:
        state = Path(f"/proc/{mark.pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX" and mark.born in ("", born(mark.pid))
