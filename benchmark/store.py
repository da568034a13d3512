"""What lasts: one folder per key, its outcome renamed in last, so that it is whole or not there."""

import hashlib
import json
import os
import socket
import time
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from benchmark.errors import BenchError, Damaged
from benchmark.files import (
    born,
    broken,
    differing,
    is_whole,
    leftovers,
    read_json,
    remove,
    replacing,
    sealed,
    sum_of,
    unsealed,
    write,
    write_json,
)
from benchmark.index import Index, Summary
from benchmark.spec import SCHEMA_VERSION, Cell, Failure, Outcome, shortened

#: Folders of what can be made again.
CACHES = ("features", "prepared", "splits")
#: Files of a cell's folder that are no part of its result.
OTHERS = ("outcome.json", "outcome.damaged.json", "spec.json", "running.json", "log.txt",
          "last*.pt", "*.tmp-*")  # fmt: skip
#: What comes of reading an npz file that is not what was written.
UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
#: The tensors of a pretraining, or of a run that kept its network, and what is said of them.
FILE = "weights.safetensors"
CARD = "card.json"
#: The part of the store that holds a kind of cell.
PARTS = {"run": "runs", "pretrain": "weights", "distance": "distances"}


class Store:
    """Outcomes, weights, features and prepared data below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._indexes: dict[str, Index] = {}

    def folder(self, kind: str, key: str) -> Path:
        """Where a cell keeps its files."""
        return self.root.joinpath(PARTS[kind], key[:2], key)

    def of(self, cell: Cell) -> Path:
        """Where this cell keeps its files."""
        return self.folder(cell.spec.kind, cell.key)

    def prepare(self) -> None:
        """Make the store, or refuse one that a newer version wrote or that cannot be written."""
        mark, found = self.root / "store.json", None
        try:
            facts = read_json(mark) if mark.is_file() else {}
            found = int(facts["schema_version"]) if facts else None
            if facts.get("shared"):
                os.umask(0o002)  # what this process writes, the group may read and replace
        except (Damaged, KeyError, TypeError, ValueError):  # each outcome has its own version
            warnings.warn(f"{mark} was damaged and is written anew.", stacklevel=2)
        if found is None:
            write_json(mark, {"schema_version": SCHEMA_VERSION})
        else:
            _need_known(found, f"The store {self.root}")

    @property
    def shared(self) -> bool:
        """Whether the group of its owner uses the store as a whole."""
        with suppress(OSError, Damaged):
            return bool(read_json(self.root / "store.json").get("shared"))
        return False

    def share(self, shared: bool) -> None:
        """Give the whole store to its owner's group, or keep what names patients to its owner."""
        self.prepare()
        write_json(self.root / "store.json", {"schema_version": SCHEMA_VERSION, "shared": shared})
        if not shared:
            for folder in (self.root / "prepared").glob("*"):
                folder.chmod(0o700)
            return
        for path in (self.root, *self.root.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode | (0o2070 if path.is_dir() else 0o060))

    def outcome(self, kind: str, key: str, *, brief: bool = False) -> Outcome | None:
        """The outcome of a cell, if it is done: the one answer for planner and worker alike.

        One in `brief` is without the history of training and the numbers of subgroups.
        """
        path = self.folder(kind, key) / "outcome.json"
        try:
            text = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _parse(path, text, brief=brief)

    def kept(self, outcome: Outcome, name: str) -> Path:
        """A file of a finished cell, if it is as it was when the cell ended."""
        path = self.folder(outcome.spec.kind, outcome.key) / name
        expected = outcome.files.get(name)  # none in an outcome of an earlier version
        if path.is_file() if expected is None else is_whole(path, expected):
            return path
        raise _gone(name, outcome.spec.kind, outcome.key)

    def damage(self, outcome: Outcome) -> list[str]:
        """The files of a finished cell that are gone or not what was written."""
        return differing(self.folder(outcome.spec.kind, outcome.key), outcome.files)

    def spoil(self, outcome: Outcome) -> None:
        """Take back the done mark of a cell that was damaged, so that it is run again."""
        path = self.folder(outcome.spec.kind, outcome.key) / "outcome.json"
        with suppress(OSError):
            path.replace(path.with_name("outcome.damaged.json"))

    def keys(self, kind: str) -> Iterator[str]:
        """The keys of every cell of a kind that has an outcome."""
        for folder in sorted((self.root / PARTS[kind]).glob("??/*")):
            if (folder / "outcome.json").is_file():
                yield folder.name

    def outcomes(
        self, kind: str = "run", keys: Iterable[str] | None = None, *, brief: bool = False
    ) -> list[Outcome]:
        """Every outcome of a kind, by key, or those of some keys; `brief` as of one."""
        keys = self.keys(kind) if keys is None else keys
        read = self._index(kind).outcome if brief else partial(self.outcome, kind)
        return [outcome for outcome in map(read, keys) if outcome is not None]

    def summary(self, kind: str, key: str) -> Summary | None:
        """A finished cell without its numbers; read only if it changed since it last was."""
        return self._index(kind).find(key)

    def summaries(self, kind: str = "run") -> list[Summary]:
        """The summary of every outcome of a kind, by key."""
        return self._index(kind).all()

    def _index(self, kind: str) -> Index:
        if kind not in self._indexes:
            read = partial(self.outcome, kind, brief=True)
            self._indexes[kind] = Index(self.root / PARTS[kind], read)
        return self._indexes[kind]

    def begin(self, cell: Cell) -> Path:
        """Open a cell's folder: its spec is written and it is marked as running here."""
        folder = self.of(cell)
        remove(leftovers(folder))
        facts = {"key": cell.key, "versions": cell.versions}
        write_json(folder / "spec.json", {**facts, "spec": cell.spec.model_dump(mode="json")})
        here = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        write_json(folder / "running.json", {**here, "born": born(os.getpid())}, durable=False)
        return folder

    def finish(self, cell: Cell, outcome: Outcome, *, durable: bool = True) -> None:
        """Write the outcome, the last thing a cell does; a success needs its checkpoint no more."""
        folder = self.of(cell)
        if outcome.status == "ok" and folder.is_dir():
            kept = [p for p in sorted(folder.iterdir()) if p.is_file()]
            kept = [p for p in kept if not any(map(p.match, OTHERS))]
            outcome = outcome.model_copy(update={"files": {p.name: sum_of(p) for p in kept}})
        text = sealed(outcome.model_dump_json(indent=1))
        write(folder / "outcome.json", text, durable=durable)
        if outcome.status == "ok":
            remove(folder.glob("last*.pt"))
        (folder / "running.json").unlink(missing_ok=True)

    def tidy(self, cell: Cell) -> None:
        """Take away what a process that was killed while it finished a cell left beside it."""
        folder = self.of(cell)
        if (folder / "running.json").exists():  # the last to go
            remove([*folder.glob("last*.pt"), folder / "running.json"])

    def fail(self, cell: Cell, failure: Failure, **more: Any) -> Outcome:
        """Write down that a cell failed, and why."""
        outcome = Outcome(
            key=cell.key, spec=cell.spec, versions=cell.versions, status="failed",
            failure=failure, **more,
        )  # fmt: skip
        self.finish(cell, outcome)
        return outcome

    def save_predictions(
        self, cell: Cell, *, labels: np.ndarray, scores: np.ndarray, groups: np.ndarray,
        draws: np.ndarray,
    ) -> None:  # fmt: skip
        """Scores, labels and an anonymous group per test image, and the headline's draws."""
        arrays = {
            "labels": labels.astype(np.int32),
            "scores": scores.astype(np.float32),
            "groups": groups.astype(np.int32),
            "draws": draws.astype(np.float64),
        }
        path = self.of(cell) / "predictions.npz"
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)

    def predictions(self, key: str, kind: str = "run") -> dict[str, np.ndarray]:
        """What `save_predictions` wrote; raises Damaged where it is not that any more."""
        outcome, name = self.outcome(kind, key), "predictions.npz"
        path = self.folder(kind, key) / name if outcome is None else self.kept(outcome, name)
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        except UNREADABLE as error:
            raise _gone(name, kind, key) from error

    def record_grid(self, cells: Sequence[Cell], command: str) -> str:
        """Note which cells belong to one request; the same request again has the same name."""
        keys = sorted(f"{cell.spec.kind}/{cell.key}" for cell in cells)
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]
        path = self.root / "grids" / f"{name}.json"
        write_json(path, {"grid": name, "command": command, "began": time.time(), "cells": keys})
        return name

    def grids(self) -> list[dict[str, Any]]:
        """Every request that was run, the latest first: grid, command, began, cells (kind/key)."""
        found = []
        for path in (self.root / "grids").glob("*.json"):
            try:
                facts = read_json(path, grid=path.stem)
                facts["cells"] = [str(text) for text in facts["cells"]]
                found.append((float(facts["began"]), str(facts["command"]), facts))
            except (Damaged, OSError, KeyError, TypeError, ValueError):
                warnings.warn(f"{path} is damaged: this request is not shown.", stacklevel=2)
        return [facts for *_, facts in sorted(found, key=lambda row: -row[0])]

    @contextmanager
    def in_use(self, *, alone: bool = False) -> Iterator[bool]:
        """Be one of the store's users, or the only one; False where that is known not to be."""
        import fcntl

        try:
            file = (self.root / "in-use").open("a")
        except OSError:
            yield True
            return
        free = True
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
            except OSError as error:
                free = not isinstance(error, BlockingIOError)
            yield free

    def sweep(self) -> None:
        """Remove what killed writers left."""
        parts = ("prepared", "features", "splits", "grids", "batches", "outputs")
        for part in ("", *parts, *PARTS.values()):
            with suppress(OSError):
                remove(leftovers(self.root / part))

    def verify(self) -> Iterator[tuple[Path, str, Outcome | None]]:
        """Everything that is not as it was written: where, what, and the outcome it concerns."""
        for part, kind in ((part, kind) for kind, part in PARTS.items()):
            for folder in sorted((self.root / part).glob("??/*")):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    outcome = self.outcome(kind, folder.name)
                if caught:
                    yield folder / "outcome.json", "it cannot be read", None
                for name in self.damage(outcome) if outcome is not None else ():
                    yield folder / name, "it is gone or was changed", outcome
        for cache in CACHES:
            for folder in sorted((self.root / cache).glob("*")):
                if ".tmp-" not in folder.name and (why := broken(folder)):
                    yield folder, why, None
        for path in (self.root / "store.json", *sorted((self.root / "grids").glob("*.json"))):
            try:
                read_json(path, **({} if path.name == "store.json" else {"grid": path.stem}))
            except (Damaged, OSError) as error:
                yield path, str(error), None

    def mend(self, path: Path, outcome: Outcome | None) -> None:
        """Take away what `verify` found, so that the next run makes it again."""
        if outcome is not None:
            self.spoil(outcome)
        elif path.name == "outcome.json":
            path.replace(path.with_name("outcome.damaged.json"))
        else:
            remove([path])

    def usage(self) -> dict[str, tuple[int, int]]:
        """Files and bytes by part of the store."""
        sizes: dict[str, tuple[int, int]] = {}
        for part in sorted(path for path in self.root.glob("*") if path.is_dir()):
            files = [path.stat().st_size for path in part.rglob("*") if path.is_file()]
            sizes[part.name] = (len(files), sum(files))
        return sizes

    def garbage(self) -> list[Path]:
        """What can go without losing a number: caches and left-over temporaries."""
        caches = [self.root / name for name in (*CACHES, "workers")]
        found = [path for cache in caches if cache.is_dir() for path in sorted(cache.iterdir())]
        for part in PARTS.values():
            for pattern in ("*.tmp-*", "??/*/*.tmp-*"):
                found += sorted((self.root / part).glob(pattern))
        return found


def _gone(name: str, kind: str, key: str) -> Damaged:
    return Damaged(
        f"{name} of the {kind} {key} is gone or damaged.",
        "Run `bench store verify --mend`, then the command that made it: it is made again.",
    )


def _need_known(schema: int, what: str) -> None:
    """Refuse what a newer version wrote."""
    if schema > SCHEMA_VERSION:
        raise BenchError(
            f"{what} has schema {schema}; this version knows {SCHEMA_VERSION}.",
            "Upgrade transfer-bench or choose another --store.",
        )


def _parse(path: Path, text: bytes, *, brief: bool = False) -> Outcome | None:
    try:
        text = shortened(unsealed(text)) if brief else unsealed(text)
        try:
            found = Outcome.model_validate_json(text)
        except ValidationError:  # what a newer version wrote, or damage, which `json` tells of
            raw = json.loads(text)
            _need_known(raw["schema_version"], str(path))
            found = Outcome.model_validate(raw)
        _need_known(found.schema_version, str(path))
        if found.key != path.parent.name:
            raise ValueError(f"it is that of the cell {found.key}")
        return found
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"{path} is damaged ({reason}): the cell counts as not done.", stacklevel=2)
        return None
