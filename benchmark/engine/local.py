"""Runs cells on this machine: one long-lived worker process per slot."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.engine.worker import CANNOT_WRITE, encode, stopped
from benchmark.errors import BenchError
from benchmark.spec import Cell, Failure, Outcome, RunSpec, Runtime
from benchmark.store import Store

Listener = Callable[[str, Cell, dict[str, Any]], None]

#: What a worker gets to stop by itself before it is killed.
GRACE = 20.0  # seconds


@dataclass
class _Queue:
    """Cells to run, handed out so that none starts before its weights are there."""

    cells: list[Cell]
    store: Store
    lock: threading.Condition = field(default_factory=threading.Condition)
    running: dict[str, Cell] = field(default_factory=dict)
    warm: set[tuple] = field(default_factory=set)  # whose features are extracted
    stopping: bool = False
    broken: BenchError | None = None

    def take(self, last: tuple | None) -> Cell | None:
        """The next cell that can start, best one that shares data and weights with the last;
        waits while others must finish first; None when nothing is left."""
        with self.lock:
            while not self.stopping and self.cells:
                pending = {c.key for c in (*self.cells, *self.running.values())}
                ready = [
                    c for c in self.cells if not any(key in pending for _, key in c.upstream())
                ]
                # One slot at a time extracts features, else two would extract the same.
                busy = {shared(c) for c in self.running.values() if _frozen(c)} - self.warm
                free = [c for c in ready if not (_frozen(c) and shared(c) in busy)]
                mine = [c for c in free if shared(c) == last]
                if mine or free:
                    cell = (mine or free)[0]
                    self.cells.remove(cell)
                    self.running[cell.key] = cell
                    return cell
                self.lock.wait(1.0)
            return None

    def done(self, cell: Cell) -> None:
        """A cell has its outcome: those that wait for it may go on."""
        with self.lock:
            self.running.pop(cell.key, None)
            if _frozen(cell):
                self.warm.add(shared(cell))
            self.lock.notify_all()

    def stop(self, reason: BenchError | None = None) -> None:
        """Hand out nothing more."""
        with self.lock:
            self.stopping = True
            self.broken = self.broken or reason
            self.lock.notify_all()


def run(
    cells: Sequence[Cell],
    runtime: Runtime,
    *,
    slots: int = 1,
    gpus: Sequence[str] = (),
    listener: Listener = lambda event, cell, facts: None,
) -> bool:
    """Run every cell; the store tells what came of each. False when the user stopped it."""
    if slots == 0:
        return _run_here(cells, runtime, listener)
    pending = _Queue(list(cells), Store(runtime.store))
    places = [gpu for gpu in gpus or ("",) for _ in range(slots)]
    slotted = [_Slot(pending, runtime, gpu, listener) for gpu in places[: max(1, len(cells))]]
    threads = [threading.Thread(target=slot.serve, daemon=True) for slot in slotted]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.2)
    except KeyboardInterrupt:
        pending.stop()
        for slot in slotted:
            slot.ask_to_stop()
        for thread in threads:
            thread.join(GRACE + 5)
        return False
    if pending.broken is not None:
        raise pending.broken
    return True


@dataclass
class _Slot:
    """A place for one worker; a worker that dies costs its cell and is replaced."""

    pending: _Queue
    runtime: Runtime
    gpu: str
    listener: Listener
    process: subprocess.Popen[str] | None = None
    errors: Path | None = None

    def serve(self) -> None:
        """Feed the worker cell by cell."""
        last = None
        try:
            while (cell := self.pending.take(last)) is not None:
                last = shared(cell)
                self._one(cell)
                self.pending.done(cell)
        except BenchError as error:  # the store cannot be written: go no further
            self.pending.stop(error)
        finally:
            self._close()

    def ask_to_stop(self) -> None:
        """Let the running cell note that it was interrupted."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def _one(self, cell: Cell) -> None:
        if (outcome := without_upstream(self.pending.store, cell)) is not None:
            self.listener("done", cell, {"outcome": outcome})
            return
        before = self.pending.store.outcome(cell.spec.kind, cell.key)
        worker = self._worker()
        assert worker.stdin is not None and worker.stdout is not None
        timed_out, told = threading.Event(), False
        timer: threading.Timer | None = None
        try:
            worker.stdin.write(json.dumps(encode(cell)) + "\n")
            worker.stdin.flush()
            for line in worker.stdout:
                facts = json.loads(line)
                if told := facts["event"] == "done":
                    break
                if facts["event"] == "start":  # importing torch is not the cell's time
                    timer = self._timer(worker, timed_out)
                self.listener(facts["event"], cell, facts)
        except BrokenPipeError:
            pass  # it died: the store and the exit code say how far it came
        finally:
            if timer is not None:
                timer.cancel()
        outcome = self.pending.store.outcome(cell.spec.kind, cell.key)
        if outcome is None or (outcome == before and not told):
            outcome = self._died(cell, timed_out.is_set())
        self.listener("done", cell, {"outcome": outcome})

    def _died(self, cell: Cell, timed_out: bool):
        """Write down the end of a cell whose worker left no outcome."""
        assert self.process is not None and self.errors is not None
        code = _exit_code(self.process)
        tail = "\n".join(self.errors.read_text(errors="replace").splitlines()[-20:])
        self._close()
        if code == CANNOT_WRITE:  # nor, likely, can we
            what, _, todo = tail.splitlines()[-1].partition("\t") if tail else ("", "", "")
            raise BenchError(what or "A worker could not write to the store.", todo)
        if timed_out:
            failure = Failure(kind="timeout", message=f"It took over {self.runtime.timeout:g} s.")
        elif self.pending.stopping or stopped(code):
            failure = Failure(kind="interrupted", message="Stopped; the same command goes on.")
        else:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            hint = " The kernel's out-of-memory killer sends signal 9." if code == -9 else ""
            failure = Failure(
                kind="killed", message=f"The worker died ({how}).{hint}", log_tail=tail
            )
        return self.pending.store.fail(cell, failure)

    def _worker(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self._close()
        folder = self.runtime.store / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".log", dir=folder)
        os.close(handle)
        self.errors = Path(name)
        environment = dict(os.environ)
        if self.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmark.cli", "cell", self.runtime.model_dump_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which asks us to stop
            )
        return self.process

    def _timer(
        self, worker: subprocess.Popen[str], late: threading.Event
    ) -> threading.Timer | None:
        if self.runtime.timeout is None:
            return None

        def expire() -> None:
            late.set()
            worker.kill()

        timer = threading.Timer(self.runtime.timeout, expire)
        timer.daemon = True
        timer.start()
        return timer

    def _close(self) -> None:
        if self.process is not None:
            if self.process.stdin is not None:
                with suppress(BrokenPipeError):
                    self.process.stdin.close()
            _exit_code(self.process)
            self.process = None
        if self.errors is not None:
            self.errors.unlink(missing_ok=True)
            self.errors = None


def _exit_code(process: subprocess.Popen[str]) -> int:
    """Wait for a worker that is to end, and end it if it does not."""
    try:
        return process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _run_here(cells: Sequence[Cell], runtime: Runtime, listener: Listener) -> bool:
    """Run the cells in this very process, where a debugger can follow them."""
    from benchmark import cell as cells_
    from benchmark import train
    from benchmark.work import Memory

    store, memory = Store(runtime.store), Memory()
    for cell in cells:
        report = train.Report(epoch=partial(listener, "epoch", cell))
        try:
            outcome = without_upstream(store, cell) or cells_.run(cell, runtime, report, memory)
        except KeyboardInterrupt:
            return False
        listener("done", cell, {"outcome": outcome})
    return True


def without_upstream(store: Store, cell: Cell) -> Outcome | None:
    """The failure of a cell whose pretraining or image-only run is not there."""
    for kind, key in cell.upstream():
        found = store.outcome(kind, key)
        if found is None or found.status != "ok":
            cause = found.failure.message if found and found.failure else "no outcome"
            message = f"The {kind} {key} it builds on failed: {cause}"
            return store.fail(cell, Failure(kind="upstream", message=message))
    return None


def visible_gpus() -> list[str]:
    """The GPUs of this machine, asked of the driver so that the parent needs no torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu for gpu in named.split(",") if gpu and gpu != "-1"]
    try:
        found = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return found.stdout.split()


def _frozen(cell: Cell) -> bool:
    return isinstance(cell.spec, RunSpec) and cell.spec.mode != "finetune"


def shared(cell: Cell) -> tuple:
    """What cells have in common that makes the second one cheaper in the same process."""
    spec = cell.spec
    target = spec.target if isinstance(spec, RunSpec) else ""
    weights = spec.weights if isinstance(spec, RunSpec) else None
    return (spec.kind, target, spec.arch, weights)
