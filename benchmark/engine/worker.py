"""The process that runs cells: it reads them line by line and tells how each goes.

Started as `bench cell`. Every executor starts the same command; the outcome is in the store, the
lines on stdout are for a progress display only. When its standard input closes while a cell
runs, the parent is gone and so is the worker: nothing finished is lost, and no two processes
train the same cell. With `--batch` it takes the cells of a file to a worker of its own, so that
a cell that takes the whole process with it costs the others nothing on a cluster either.
"""

import json
import os
import queue
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmark import heartbeat
from benchmark.errors import BenchError, Damaged, Interrupted
from benchmark.files import read_json
from benchmark.spec import Cell, DistanceSpec, Outcome, PretrainSpec, RunSpec, Runtime
from benchmark.store import Store

#: Exit codes of a worker: stopped by a signal, left by its parent, unable to write to the store.
STOPPED, ORPHANED, CANNOT_WRITE = 130, 75, 3

#: What asks a worker to stop: the user, a scheduler, or Slurm ahead of a time limit.
STOPS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)

#: A mark tells its epoch this often at most: heads on cached features have epochs of milliseconds.
TOLD_EVERY = 5.0  # seconds

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
            os._exit(ORPHANED)
        inbox.put(None)

    threading.Thread(target=listen, daemon=True).start()

    def tell(event: str, **facts: Any) -> None:
        out.write(json.dumps({"event": event, **facts}) + "\n")

    stop = _stop_on_signals()
    from benchmark.train import job as cells

    memory = cells.Memory()
    store = Store(runtime.store)
    store.prepare()  # its rights are this process's too
    held = store.in_use()
    held.__enter__()  # until this process ends, however it does
    tell("ready")
    while (line := inbox.get()) is not None:
        busy.set()
        one = decode(json.loads(line))
        with alone(one, runtime.store, stop, lambda facts: tell("waits", **facts)) as free:
            if not free:
                return STOPPED
            tell("start", key=one.key)
            try:
                outcome = run_one(one, runtime, tell, stop, memory)
            except BenchError as error:  # not even the failure could be written
                sys.stderr.write(f"{error.what}\t{error.todo}\n")
                return CANNOT_WRITE
        busy.clear()
        tell("done", key=one.key, status=outcome.status)
        if stop.is_set():
            return STOPPED
    return 0


def run_batch(path: Path, runtime: Runtime) -> int:
    """Run the cells of a file, for executors that hand over a whole batch.

    Started again on the same file, after a preemption or the loss of a node, it leaves out the
    cells that got their outcome since the file was written.
    """
    _stop_once()
    _leave_with_parent()
    from benchmark.engine import local  # which starts the other kind of worker

    _compile_here()
    store = Store(runtime.store)
    try:
        given = read_json(path)["cells"]
    except (FileNotFoundError, Damaged):  # called off meanwhile, or it is given out anew
        return STOPPED
    cells = [(decode(raw), raw["before"]) for raw in given]
    left = [cell for cell, before in cells if settled(store, cell, before) is None]
    return 0 if local.run(left, runtime) else STOPPED


def settled(store: Store, cell: Cell, before: int | None) -> Outcome | None:
    """The outcome of a cell that needs no further run; `before` stamps the one it had.

    A failure from before is tried again, and so is a cell that was stopped on the way.
    """
    now = stamp(store.of(cell) / "outcome.json")
    outcome = store.outcome(cell.spec.kind, cell.key) if now is not None else None
    if outcome is None or outcome.failure is None:
        return outcome
    return None if now == before or outcome.failure.kind == "interrupted" else outcome


def stamp(path: Path) -> int | None:
    """Changes when a file is written anew; None where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def stopped(code: int) -> bool:
    """Whether a worker ended because someone asked it to, even before it could listen."""
    return code == STOPPED or -code in STOPS


def how_ended(code: int) -> str:
    """A worker's exit code in words."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def run_one(one: Cell, runtime: Runtime, tell: Callable, stop: threading.Event, memory) -> Outcome:
    """Run a cell with its progress told; a wish to stop ends it at the next step."""
    from benchmark.train import job as cells
    from benchmark.train import loop

    folder, told = Store(runtime.store).of(one), -TOLD_EVERY

    def epoch(facts: dict[str, Any]) -> None:
        nonlocal told
        tell("epoch", key=one.key, **facts)
        if time.monotonic() - told >= TOLD_EVERY:
            heartbeat.tell(folder, facts)
            told = time.monotonic()

    def check() -> None:
        if stop.is_set():
            raise Interrupted("Stopped on request; the same command goes on from here.")

    return cells.run(one, runtime, loop.Callbacks(epoch=epoch, check=check), memory)


@contextmanager
def alone(
    cell: Cell,
    store: Path,
    stop: threading.Event,
    waits: Callable[[dict[str, Any]], None] = lambda facts: None,
) -> Iterator[bool]:
    """Be the only process that runs the cell, as long as it takes; False when asked to stop.

    `waits` is told once who holds it: pid, host and since when, as far as the folder says.
    A byte of one file is locked per cell: the system frees it when the process is gone, however
    it went and on whichever machine. Where the file system has no locks, nobody can tell.
    """
    import fcntl

    try:
        file = (store / "locks").open("ab")
    except OSError:
        yield True
        return
    with file:
        free, told = False, False
        while not free and not stop.is_set():
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(cell.key, 16) >> 2)
                free = True
            except (BlockingIOError, PermissionError):
                if not told and (mark := heartbeat.read(Store(store).of(cell))) is not None:
                    waits({"pid": mark.pid, "host": mark.host, "since": mark.since})
                    told = True
                stop.wait(0.5)
            except OSError:
                free = True
        yield free


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in STOPS:
        signal.signal(number, lambda *_: stop.set())
    return stop


def _stop_once() -> None:
    """Take any wish to stop as Ctrl-C, and only the first: schedulers send several."""

    def stop(*_: Any) -> None:
        for number in STOPS:
            signal.signal(number, lambda *_: None)
        raise KeyboardInterrupt

    for number in STOPS:
        signal.signal(number, stop)


def _leave_with_parent() -> None:
    """End when whoever holds the other end of standard input, where that is a pipe, is gone."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def listen() -> None:
        while os.read(0, 4096):
            pass
        os._exit(ORPHANED)

    threading.Thread(target=listen, daemon=True).start()


def _compile_here() -> None:
    """Compiled kernels lie on the node's own disk: on a shared one the nodes would meet."""
    folder = Path(tempfile.gettempdir()) / f"bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():  # someone else's trap
        return
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"):
        os.environ.setdefault(name, str(folder / name.split("_")[0].lower()))
