"""Runs cells on a cluster: files of cells go out to workers, their outcomes appear in the store.

What follows from a cell is read from its folder alone, so it does not matter which machine ran it,
how often its batch was started again, or whether whoever asked for it still waits.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmark import heartbeat
from benchmark.engine.local import Listener
from benchmark.engine.pending import shared, without_upstream
from benchmark.engine.worker import decode, encode, how_ended, settled, stamp, stopped
from benchmark.errors import BenchError, Damaged
from benchmark.files import born, read_json, remove, tail, write_json
from benchmark.spec import Cell, Failure, Runtime
from benchmark.store import Store

#: Cells of a batch at most: what a lost node can hold up.
MOST = 50

#: How often a cell is given to another batch after its process was lost or stopped from outside.
TRIES = 3

#: Exit code of a command that ended with an error the user can mend.
MENDABLE = 2


@dataclass
class Batch:
    """Cells that one worker takes in this order; those that have their outcome leave the list."""

    id: str
    file: Path
    cells: list[Cell]
    outcomes: dict[str, int | None]  # stamps of what was there before
    marks: dict[str, int | None]
    seen: int | None = None  # stamp of the mark that was told last
    moved: bool = False  # whether any cell got its outcome

    @property
    def log(self) -> Path:
        return self.file.with_suffix(".log")

    @property
    def end(self) -> Path:
        return self.file.with_suffix(".end")


class Executor(Protocol):
    """A place that starts `attend` on batches."""

    @property
    def slots(self) -> int:
        """Batches it runs at once."""
        ...

    @property
    def every(self) -> float:
        """Seconds between two looks at the store."""
        ...

    def start(self, batches: Sequence[Batch]) -> None:
        """Have every batch run as soon as there is room."""
        ...

    def gone(self) -> Mapping[str, str]:
        """The batches whose processes are no more, by id, and what is known of the reason."""
        ...

    def known(self, jobs: Mapping[str, str]) -> set[str]:
        """The batches of an earlier command whose jobs still run, so that they are waited for."""
        ...

    def stop(self) -> None:
        """Ask every process to stop, and see that none is left."""
        ...


def run(
    cells: Sequence[Cell],
    runtime: Runtime,
    executor: Executor,
    *,
    listener: Listener = lambda event, cell, facts: None,
    size: int | None = None,
) -> bool:
    """Run every cell; the store tells what came of each. False when the user stopped it."""
    command = _Command(list(cells), Store(absolute(runtime).store), executor, listener, size)
    try:
        command.take_over()
        while command.waiting or command.batches:
            command.send()
            time.sleep(executor.every)
            command.look()
    except KeyboardInterrupt:
        command.call_off()
        return False
    except BenchError:
        command.call_off()
        raise
    return True


def absolute(runtime: Runtime) -> Runtime:
    """The same runtime for a process with another working directory."""
    inputs = {
        name: own.model_copy(
            update={
                "path": own.path.absolute(),
                "metadata": own.metadata.absolute() if own.metadata is not None else None,
            }
        )
        for name, own in runtime.inputs.items()
    }
    changes = {
        "data": runtime.data.absolute(),
        "store": runtime.store.absolute(),
        "inputs": inputs,
        "paths": {name: path.absolute() for name, path in runtime.paths.items()},
    }
    return runtime.model_copy(update=changes)


def cut(cells: Sequence[Cell], size: int) -> Iterator[list[Cell]]:
    """Batches of at most `size` cells, those that share data and weights side by side."""
    groups: dict[tuple, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(shared(cell), []).append(cell)
    batch: list[Cell] = []
    for group in groups.values():
        for first in range(0, len(group), size):
            piece = group[first : first + size]
            if batch and len(batch) + len(piece) > size:
                yield batch
                batch = []
            batch = batch + piece
    if batch:
        yield batch


@dataclass
class _Command:
    """The cells of a command: some wait for others, some are in batches under way."""

    waiting: list[Cell]
    store: Store
    executor: Executor
    listener: Listener
    size: int | None
    batches: dict[str, Batch] = field(default_factory=dict)
    tries: dict[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.store.root / "batches"

    @property
    def by(self) -> str:
        """Who may tell whether a batch still runs."""
        return type(self.executor).__name__

    def take_over(self) -> None:
        """Wait for batches that an earlier command left running instead of running them again."""
        found = {}
        for path in self.folder.glob("*.json"):
            with suppress(FileNotFoundError, Damaged):  # its own command has just done with it
                raw = read_json(path)
                if raw["by"] == self.by:
                    found[path] = raw
        jobs = {path.stem: raw["job"] for path, raw in found.items() if "job" in raw}
        known = self.executor.known(jobs) if jobs else set()
        wanted = {cell.key for cell in self.waiting}
        for path, raw in found.items():
            cells = [decode(one) for one in raw["cells"] if one["key"] in wanted]
            before = {one["key"]: one["before"] for one in raw["cells"]}
            mark = {one["key"]: one["mark"] for one in raw["cells"]}
            batch = Batch(path.stem, path, cells, before, mark)
            if batch.id in known and cells:
                self._track(batch)
            elif batch.id not in known and heartbeat.alive(heartbeat.Mark(**raw["asked"])) is False:
                remove((batch.file, batch.log, batch.end))

    def send(self) -> None:
        """Give out the cells that need not wait for another."""
        ready = self._ready()
        if not ready:
            return
        # Two batches a slot: few enough to start cheaply, enough for the slots to end together.
        size = self.size or min(MOST, -(-len(ready) // (2 * max(1, self.executor.slots))))
        made = [self._write(batch) for batch in cut(ready, size)]
        for batch in made:
            self._track(batch)
        self.executor.start(made)

    def look(self) -> None:
        """See what came of the batches under way."""
        gone = self.executor.gone()  # before the notes: whoever ends leaves one first
        ended = {path.stem for path in self.folder.glob("*.end")}
        for batch in list(self.batches.values()):
            self._collect(batch)
            note = _note(batch) if batch.id in ended else None
            if note is not None and not {cell.key for cell in batch.cells} <= set(note["left"]):
                continue  # outcomes that are not to be seen from here yet
            if note is not None or batch.id in gone:
                del self.batches[batch.id]
                self._close(batch, note, gone.get(batch.id, ""))

    def call_off(self) -> None:
        """Stop what runs; a batch whose file is gone is not begun any more."""
        for batch in self.batches.values():
            batch.file.unlink(missing_ok=True)
        self.executor.stop()
        for batch in self.batches.values():
            remove((batch.log, batch.end))

    def _ready(self) -> list[Cell]:
        """Cells whose weights are there; what is done or cannot be done by now is told."""
        ready = []
        pending = {cell.key for cell in self.waiting}
        pending.update(cell.key for batch in self.batches.values() for cell in batch.cells)
        for cell in self.waiting[:]:
            if any(key in pending for _, key in cell.upstream()):
                continue
            self.waiting.remove(cell)
            found = self.store.outcome(cell.spec.kind, cell.key)
            if found is None or found.status == "failed":
                found = without_upstream(self.store, cell)
            if found is None:
                ready.append(cell)
            else:
                self.listener("done", cell, {"outcome": found})
        return ready

    def _write(self, cells: list[Cell]) -> Batch:
        name = uuid.uuid4().hex[:12]
        before = {cell.key: stamp(self.store.of(cell) / "outcome.json") for cell in cells}
        mark = {cell.key: heartbeat.stamp(self.store.of(cell)) for cell in cells}
        me = os.getpid()
        asked = heartbeat.Mark(me, socket.gethostname(), time.time(), {}, born(me))._asdict()
        raw = [
            {**encode(cell), "before": before[cell.key], "mark": mark[cell.key]} for cell in cells
        ]
        file = self.folder / f"{name}.json"
        write_json(file, {"by": self.by, "asked": asked, "cells": raw})
        return Batch(name, file, list(cells), before, mark)

    def _track(self, batch: Batch) -> None:
        self.batches[batch.id] = batch
        mine = {cell.key for cell in batch.cells}
        self.waiting = [cell for cell in self.waiting if cell.key not in mine]

    def _collect(self, batch: Batch) -> None:
        """Tell the outcomes there are; cells run in order, so the first without one is the last."""
        while batch.cells and self._tell(batch, batch.cells[0]):
            pass
        if not batch.cells:
            return
        folder = self.store.of(batch.cells[0])
        now = heartbeat.stamp(folder)
        if now not in (None, batch.seen, batch.marks[batch.cells[0].key]):
            batch.seen = now
            mark = heartbeat.read(folder)
            if mark is not None and "epoch" in mark.facts:
                self.listener("epoch", batch.cells[0], mark.facts)

    def _tell(self, batch: Batch, cell: Cell) -> bool:
        """Tell the outcome of a cell, if it has one since it was sent."""
        found = settled(self.store, cell, batch.outcomes[cell.key])
        if found is None:
            return False
        batch.moved = True
        batch.cells.remove(cell)
        self.listener("done", cell, {"outcome": found})
        return True

    def _close(self, batch: Batch, note: dict[str, Any] | None, why: str) -> None:
        """A batch's process is gone: its cells without an outcome go to another or have failed."""
        for cell in batch.cells[:]:
            self._tell(batch, cell)
        if batch.cells:
            said = tail(batch.log)
            if note is not None:
                code = note["code"]
                why = f"It ended on {note['host']} with {how_ended(code)}."
                if code == MENDABLE:
                    what, _, todo = said.partition("Error: ")[2].partition("\n")
                    raise BenchError(what or "A worker could not start.", todo or said)
            self._pass_on(batch, note, why, said)
        remove((batch.file, batch.log, batch.end))

    def _pass_on(self, batch: Batch, note: dict[str, Any] | None, why: str, said: str) -> None:
        """Fail the cell that took its process down; the others go to the next batch."""
        for cell in batch.cells:
            folder = self.store.of(cell)
            at = heartbeat.stamp(folder) != batch.marks[cell.key]
            halted = stamp(folder / "outcome.json") != batch.outcomes[cell.key]
            tried = self.tries.get(cell.key, 0)
            # A batch that got nowhere says nothing of any one cell, but not for ever.
            if at or halted or not batch.moved:
                self.tries[cell.key] = tried = tried + 1
            deadly = note and cell.key in note["at"] and note["code"] and not stopped(note["code"])
            if deadly and not halted:
                self._fail(cell, f"It took its batch with it. {why}", said)
            elif tried < TRIES:
                self.waiting.append(cell)
            else:
                self._fail(cell, f"Its process was lost {TRIES} times. {why}".strip(), said)

    def _fail(self, cell: Cell, message: str, said: str) -> None:
        failure = Failure(kind="killed", message=message, log_tail=said)
        outcome = self.store.fail(cell, failure)
        self.listener("done", cell, {"outcome": outcome})


def _note(batch: Batch) -> dict[str, Any] | None:
    """What `node.note_end` wrote."""
    with suppress(OSError, ValueError):
        return json.loads(batch.end.read_text())
