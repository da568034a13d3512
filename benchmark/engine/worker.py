"""The process that runs cells: it reads them line by line and tells how each goes.

Started as `bench cell`. Every executor starts the same command; the outcome is in the store, the
lines on stdout are for a progress display only. When its standard input closes while a cell
runs, the parent is gone and so is the worker: nothing finished is lost, and no two processes
train the same cell.
"""

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError, Interrupted
from benchmark.spec import Cell, DistanceSpec, PretrainSpec, RunSpec, Runtime

#: Exit code of a worker that could not write to the store.
CANNOT_WRITE = 3

KINDS = {"pretrain": PretrainSpec, "run": RunSpec, "distance": DistanceSpec}


def encode(cell: Cell) -> dict[str, Any]:
    """A cell as JSON."""
    return {"key": cell.key, "versions": cell.versions, "spec": cell.spec.model_dump(mode="json")}


def decode(raw: dict[str, Any]) -> Cell:
    """A cell from JSON; its key must be the one its content makes."""
    spec = KINDS[raw["spec"]["kind"]].model_validate(raw["spec"])
    cell = Cell.of(spec, raw["versions"])
    if cell.key != raw["key"]:
        raise BenchError(
            f"The cell {raw['key']} was planned by another version of transfer-bench.",
            "Use one version for the plan and for its workers.",
        )
    return cell


def serve(runtime: Runtime, lines: Iterable[str] = sys.stdin) -> int:
    """Run the cells that arrive, one after the other, until the input ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not mix with our lines
    inbox: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()

    def listen() -> None:
        for line in lines:
            if line.strip():
                inbox.put(line)
        if busy.is_set():
            os._exit(75)  # the parent is gone
        inbox.put(None)

    threading.Thread(target=listen, daemon=True).start()

    def tell(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")

    stop = _stop_on_signals()
    from benchmark import cell as cells

    memory = cells.Memory()
    tell("ready")
    while (line := inbox.get()) is not None:
        busy.set()
        one = decode(json.loads(line))
        tell("start", key=one.key)
        try:
            outcome = run_one(one, runtime, tell, stop, memory)
        except BenchError as error:  # not even the failure could be written
            sys.stderr.write(f"{error.what}\t{error.todo}\n")
            return CANNOT_WRITE
        busy.clear()
        tell("done", key=one.key, status=outcome.status)
        if stop.is_set():
            return 130
    return 0


def run_batch(path: Path, runtime: Runtime) -> int:
    """Run the cells of a file, for executors that hand over a whole batch."""
    from benchmark import cell as cells

    stop, memory = _stop_on_signals(), cells.Memory()
    for raw in json.loads(path.read_text()):
        run_one(decode(raw), runtime, lambda event, **facts: None, stop, memory)
        if stop.is_set():
            return 130
    return 0


def run_one(one: Cell, runtime: Runtime, tell: Callable, stop: threading.Event, memory):
    """Run a cell with its progress told; a wish to stop ends it at the next step."""
    from benchmark import cell as cells
    from benchmark import train

    def check() -> None:
        if stop.is_set():
            raise Interrupted("Stopped on request; the same command goes on from here.")

    report = train.Report(
        epoch=lambda facts: tell("epoch", key=one.key, **facts),
        check=check,
    )
    return cells.run(one, runtime, report, memory)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
