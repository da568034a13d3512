"""What the cells of a part of the store are, without reading each outcome again.

A file beside them remembers; outcomes that changed since are read. It can be deleted at any time,
is written whole and renamed, so that nobody waits for a lock, and is believed for what its
checksum vouches for: where it cannot be read it is made anew, where it cannot be written it is
done without. Numbers that are shown come from the outcomes themselves.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmark.errors import BenchError, Damaged
from benchmark.files import read_json, sealed, write
from benchmark.spec import Outcome, canonical

FILE = "index.json"
FORMAT = 5  # raise it when a summary is to hold other things
#: Changes that are not worth writing the file for: reading them again takes a moment.
FEW = 100
#: So many outcomes read for their summaries are held for who asks for them next.
HELD = 2_000


class Asked(NamedTuple):
    """A spec, flat; what a kind of cell has not is empty."""

    kind: str
    source: str
    target: str
    fusion: str
    method: str
    arch: str
    mode: str
    protocol: str
    fold: int
    partition: int
    train_size: str
    missing: str  # of the records, in the test
    tested_on: str  # a second set; empty: the target's own part
    seed: int
    pretrain_seed: int
    recipe: str  # JSON
    rest: str  # JSON of all other fields

    @property
    def identity(self) -> tuple:
        """What the user names when asking for a cell; all else can make it run again."""
        return self[:-2]


class Summary(NamedTuple):
    """A finished cell without its numbers."""

    key: str
    stamp: str  # of the outcome's file when it was read
    status: str
    reason: str  # of a skip
    failure: str  # its kind
    message: str  # of the failure
    seconds: float
    device: str
    bytes: int  # of its folder
    parts: str  # JSON: the versions of what the spec names
    spec: Asked

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what the spec names."""
        return json.loads(self.parts)


EMPTY = {name: 0 if kind is int else "" for name, kind in Asked.__annotations__.items()}
TEXTS = ("status", "reason", "failure", "message", "device", "parts")


def asked(spec: Mapping[str, Any]) -> Asked:
    """A spec, given as its JSON, made flat."""
    rest, recipe = dict(spec), canonical(spec["recipe"]) if "recipe" in spec else ""
    rest.pop("recipe", None)
    named = {name: rest.pop(name, EMPTY[name]) for name in Asked._fields[:-2]}
    return Asked(**named, recipe=recipe, rest=canonical(rest))


class Index:
    """The summaries of one part of a store, which `read` gives the outcomes of by key."""

    def __init__(self, folder: Path, read: Callable[[str], Outcome | None]) -> None:
        self.folder, self.read = folder, read
        self.rows: dict[str, Summary] | None = None
        self.held: dict[str, tuple[str, Outcome]] = {}  # with their stamps

    def find(self, key: str) -> Summary | None:
        """The summary of a cell that has an outcome."""
        stamp = _stamp(self._file(key))
        return self._current(key, stamp) if stamp else None

    def outcome(self, key: str) -> Outcome | None:
        """The outcome of a cell, which is not read again if `all` has just read it."""
        stamp, outcome = self.held.pop(key, ("", None))
        return outcome if outcome and stamp == _stamp(self._file(key)) else self.read(key)

    def all(self) -> list[Summary]:
        """The summaries of every cell that has an outcome, by key."""
        before = dict(self._loaded())
        found = [self._current(key, stamp, hold=True) for key, stamp in self._stamps()]
        rows = {row.key: row for row in found if row is not None}
        new = sum(before.get(key) is not row for key, row in rows.items())
        self.rows = rows
        if new + len(before.keys() - rows.keys()) > max(FEW, len(rows) // 100):
            self._save()
        return list(rows.values())

    def _file(self, key: str) -> str:
        return f"{self.folder}/{key[:2]}/{key}/outcome.json"

    def _current(self, key: str, stamp: str, *, hold: bool = False) -> Summary | None:
        known = self._loaded().get(key)
        if known is not None and known.stamp == stamp:
            return known
        outcome = self.read(key)
        if outcome is None:
            return None
        if hold and len(self.held) < HELD:
            self.held[key] = stamp, outcome
        row = self._loaded()[key] = _summary(outcome, stamp, self.folder / key[:2] / key)
        return row

    def _stamps(self) -> Iterator[tuple[str, str]]:
        for part in _names(self.folder):
            if len(part) == 2:
                for key in _names(self.folder / part):
                    if stamp := _stamp(self._file(key)):
                        yield key, stamp

    def _loaded(self) -> dict[str, Summary]:
        if self.rows is None:
            try:
                self.rows = _rows(read_json(self.folder / FILE))
            except (Damaged, OSError, KeyError, IndexError, TypeError, ValueError):
                self.rows = {}
        return self.rows

    def _save(self) -> None:
        """Column by column, each text once: a tenth of the size, and read in a moment."""
        texts: dict[Any, int] = {}
        rows = list((self.rows or {}).values())
        number = texts.setdefault
        columns: dict[str, list] = {}
        for at, name in enumerate(Summary._fields[:-1]):
            column = [row[at] for row in rows]
            text = name in TEXTS
            columns[name] = [number(v, len(texts)) for v in column] if text else column
        columns["spec"] = [[number(v, len(texts)) for v in row.spec] for row in rows]
        facts = {"format": FORMAT, "texts": list(texts), **columns}
        with suppress(BenchError, OSError):
            write(self.folder / FILE, sealed(json.dumps(facts)[:-1] + "\n}"), durable=False)


def _rows(facts: dict[str, Any]) -> dict[str, Summary]:
    if facts["format"] != FORMAT:
        return {}
    texts = facts["texts"]
    columns = [
        [texts[i] for i in facts[name]] if name in TEXTS else facts[name]
        for name in Summary._fields[:-1]
    ]
    specs = [Asked(*[texts[i] for i in spec]) for spec in facts["spec"]]
    return {row[0]: Summary(*row) for row in zip(*columns, specs, strict=True)}


def _summary(outcome: Outcome, stamp: str, folder: Path) -> Summary:
    failure = outcome.failure
    return Summary(
        key=outcome.key,
        stamp=stamp,
        status=outcome.status,
        reason=outcome.reason,
        failure=failure.kind if failure else "",
        message=failure.message if failure else "",
        seconds=outcome.seconds.get("total", 0.0),
        device=outcome.environment.get("device", ""),
        bytes=_bytes(folder),
        parts=canonical(outcome.versions),
        spec=asked(outcome.spec.model_dump(mode="json")),
    )


def _bytes(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except FileNotFoundError:  # removed while it was counted
        return 0


def _stamp(path: str) -> str:
    """Changes whenever the file does: it is never written to, only replaced."""
    try:
        facts = os.stat(path)  # noqa: PTH116 - a Path for each of 50,000 costs more than the call
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"{facts.st_mtime_ns}:{facts.st_size}:{facts.st_ino}"


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names alone
    except (FileNotFoundError, NotADirectoryError):
        return []
