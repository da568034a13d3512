"""What lasts: one folder per key, its outcome renamed in last, so that it is whole or not there."""

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.spec import SCHEMA_VERSION, Cell, Failure, Outcome

#: The part of the store that holds a kind of cell.
PARTS = {"run": "runs", "pretrain": "weights", "distance": "distances"}


class Store:
    """Outcomes, weights, features and prepared data below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, kind: str, key: str) -> Path:
        """Where a cell keeps its files."""
        return self.root / PARTS[kind] / key[:2] / key

    def of(self, cell: Cell) -> Path:
        """Where this cell keeps its files."""
        return self.folder(cell.spec.kind, cell.key)

    def prepare(self) -> None:
        """Make the store, or refuse one that a newer version wrote or that cannot be written."""
        mark = self.root / "store.json"
        try:
            found = json.loads(mark.read_text())["schema_version"] if mark.is_file() else None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise BenchError(
                f"{mark} is damaged.", "Restore it or choose another --store."
            ) from error
        if found is not None and found > SCHEMA_VERSION:
            raise BenchError(
                f"The store {self.root} has schema {found}; this version knows {SCHEMA_VERSION}.",
                "Upgrade transfer-bench or choose another --store.",
            )
        if found is None:
            write(mark, json.dumps({"schema_version": SCHEMA_VERSION}))

    def outcome(self, kind: str, key: str) -> Outcome | None:
        """The outcome of a cell, if it is done: the one answer for planner and worker alike."""
        path = self.folder(kind, key) / "outcome.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        return _parse(path, text)

    def keys(self, kind: str) -> Iterator[str]:
        """The keys of every cell of a kind that has an outcome."""
        for folder in sorted((self.root / PARTS[kind]).glob("??/*")):
            if (folder / "outcome.json").is_file():
                yield folder.name

    def outcomes(self, kind: str = "run") -> list[Outcome]:
        """Every outcome of a kind, by key."""
        found = (self.outcome(kind, key) for key in self.keys(kind))
        return [outcome for outcome in found if outcome is not None]

    def begin(self, cell: Cell) -> Path:
        """Open a cell's folder: its spec is written and it is marked as running here."""
        folder = self.of(cell)
        spec = {
            "key": cell.key,
            "versions": cell.versions,
            "spec": cell.spec.model_dump(mode="json"),
        }
        write(folder / "spec.json", json.dumps(spec, indent=1), durable=False)
        mark = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        mark["born"] = born(os.getpid())
        write(folder / "running.json", json.dumps(mark), durable=False)
        return folder

    def finish(self, cell: Cell, outcome: Outcome) -> None:
        """Write the outcome, the last thing a cell does; a success needs its checkpoint no more."""
        folder = self.of(cell)
        write(folder / "outcome.json", outcome.model_dump_json(indent=1))
        if outcome.status == "ok":
            (folder / "last.pt").unlink(missing_ok=True)
        (folder / "running.json").unlink(missing_ok=True)

    def fail(self, cell: Cell, failure: Failure, **more: Any) -> Outcome:
        """Write down that a cell failed, and why."""
        outcome = Outcome(
            key=cell.key,
            spec=cell.spec,
            versions=cell.versions,
            status="failed",
            failure=failure,
            **more,
        )
        self.finish(cell, outcome)
        return outcome

    def save_predictions(
        self,
        cell: Cell,
        *,
        labels: np.ndarray,
        scores: np.ndarray,
        groups: np.ndarray,
        draws: np.ndarray,
    ) -> None:
        """Scores, labels and an anonymous group per test image, and the headline's draws."""
        with (
            replacing(self.of(cell) / "predictions.npz") as temporary,
            temporary.open("wb") as file,
        ):
            np.savez_compressed(
                file,
                labels=labels.astype(np.int32),
                scores=scores.astype(np.float32),
                groups=groups.astype(np.int32),
                draws=draws.astype(np.float64),
            )

    def predictions(self, key: str, kind: str = "run") -> dict[str, np.ndarray]:
        """What `save_predictions` wrote."""
        path = self.folder(kind, key) / "predictions.npz"
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def log_tail(self, cell: Cell, lines: int = 20) -> str:
        """The last lines of a cell's log."""
        with suppress(FileNotFoundError):
            text = (self.of(cell) / "log.txt").read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def record_grid(self, cells: Sequence[Cell], command: str) -> str:
        """Note which cells belong to one request; the same request again has the same name."""
        keys = sorted(f"{cell.spec.kind}/{cell.key}" for cell in cells)
        name = hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16]
        path = self.root / "grids" / f"{name}.json"
        facts = {"grid": name, "command": command, "began": time.time(), "cells": keys}
        write(path, json.dumps(facts, indent=1), durable=False)
        return name

    def grids(self) -> list[dict[str, Any]]:
        """Every request that was run, the latest first: grid, command, began, cells (kind/key)."""
        found = [json.loads(p.read_text()) for p in (self.root / "grids").glob("*.json")]
        return sorted(found, key=lambda facts: -facts["began"])

    def usage(self) -> dict[str, tuple[int, int]]:
        """Files and bytes by part of the store."""
        sizes: dict[str, tuple[int, int]] = {}
        for part in sorted(path for path in self.root.iterdir() if path.is_dir()):
            files = [path.stat().st_size for path in part.rglob("*") if path.is_file()]
            sizes[part.name] = (len(files), sum(files))
        return sizes

    def garbage(self) -> list[Path]:
        """What can go without losing a number: caches and left-over temporaries."""
        caches = [self.root / name for name in ("features", "prepared", "splits", "workers")]
        found = [path for cache in caches if cache.is_dir() for path in sorted(cache.iterdir())]
        for part in PARTS.values():
            for path in sorted((self.root / part).glob("??/*/*.tmp-*")):
                found.append(path)
        return found


def write(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a text file so that readers see the old one or the new one, never a part."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `path` that takes its name at the end, flushed if it must last."""
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise cannot_write(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cannot_write(path: Path, error: OSError) -> BenchError:
    """What to tell where the disk refuses."""
    return BenchError(
        f"Could not write {path}: {error.strerror or error}.",
        "Free space or fix the permission, then run the same command again.",
    )


def born(pid: int) -> str:
    """Names a process beyond its number: which boot, and its tick in it; empty where unknown.

    No clock is asked: one that is set anew makes no living process look like another.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{boot}/{facts[19]}"  # the name before the last bracket may hold anything


def build_folder(final: Path, build: Callable[[Path], None]) -> Path:
    """Make a folder whole or not at all; two builders at once do not meet, the first one wins."""
    if final.is_dir():
        return final
    temporary = final.with_name(f"{final.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        build(temporary)
        try:
            temporary.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    except OSError as error:
        raise cannot_write(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def remove(paths: Iterable[Path]) -> None:
    """Delete files and folders."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _parse(path: Path, text: bytes) -> Outcome | None:
    try:
        raw = json.loads(text)
        found = raw["schema_version"]
        if found > SCHEMA_VERSION:
            raise BenchError(
                f"{path} has schema {found}; this version knows {SCHEMA_VERSION}.",
                "Upgrade transfer-bench or choose another --store.",
            )
        return Outcome.model_validate(raw)
    except (ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(f"{path} is damaged ({reason}): the cell counts as not done.", stacklevel=2)
        return None
