"""Runs cells on this machine: one long-lived worker process per slot."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmark.engine.pending import Queue, shared, without_upstream
from benchmark.engine.worker import CANNOT_WRITE, encode, how_ended, stopped
from benchmark.errors import BenchError, cannot_write
from benchmark.files import tail
from benchmark.spec import Cell, Failure, Runtime
from benchmark.store import Store

Listener = Callable[[str, Cell, dict[str, Any]], None]

#: What a worker gets to stop by itself before it is killed.
GRACE = 20.0  # seconds


def run(
    cells: Sequence[Cell],
    runtime: Runtime,
    *,
    slots: int = 1,
    gpus: Sequence[str] = (),
    listener: Listener = lambda event, cell, facts: None,
) -> bool:
    """Run every cell; the store tells what came of each. False when the user stopped it.

    Whatever ends a slot but the end of its work is raised here: a listener that fails, a log that
    is gone, a store that cannot be written.
    """
    if slots == 0:
        return _run_here(cells, runtime, listener)
    pending = Queue(cells, Store(runtime.store))
    places = [gpu for gpu in gpus or ("",) for _ in range(slots)]
    slotted = [_Slot(pending, runtime, gpu, listener) for gpu in places[: max(1, len(cells))]]
    # Not joined: a join that Ctrl-C interrupts takes a running thread for ended (Python 3.11).
    ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    for slot in slotted:
        threading.Thread(target=lambda slot=slot: ends.put(slot.serve()), daemon=True).start()
    try:
        causes = [ends.get() for _ in slotted]
    except KeyboardInterrupt:
        pending.stop()
        _wind_up(slotted, ends)
        return False
    if (cause := next((c for c in causes if c is not None), None)) is not None:
        raise cause
    return True


def _wind_up(slotted: Sequence["_Slot"], ends: "queue.SimpleQueue") -> None:
    """Let every worker note that it was stopped; one that hangs, or a second Ctrl-C, ends it."""
    for slot in slotted:
        slot.ask_to_stop()
    until = time.monotonic() + GRACE
    with suppress(KeyboardInterrupt, queue.Empty):
        while any(slot.serving for slot in slotted):
            ends.get(timeout=max(0.0, until - time.monotonic()))
    for slot in slotted:
        slot.kill()
    with suppress(KeyboardInterrupt, queue.Empty):  # each notes the end of its cell
        while any(slot.serving for slot in slotted):
            ends.get(timeout=5.0)


@dataclass
class _Slot:
    """A place for one worker; a worker that dies costs its cell and is replaced."""

    pending: Queue
    runtime: Runtime
    gpu: str
    listener: Listener
    process: subprocess.Popen[str] | None = None
    errors: Path | None = None
    serving: bool = True

    def serve(self) -> BaseException | None:
        """Feed the worker cell by cell; gives what ended it early."""
        try:
            self._feed()
        except BaseException as error:
            self.pending.stop()  # whatever it was, the other slots go no further
            return error
        finally:
            self.serving = False
        return None

    def _feed(self) -> None:
        last = None
        try:
            while (cell := self.pending.take(last)) is not None:
                last = shared(cell)
                self._one(cell)
                self.pending.done(cell)
        finally:
            self._close()

    def ask_to_stop(self) -> None:
        """Let the running cell note that it was interrupted."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the worker at once; what it had written stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

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
            with suppress(BrokenPipeError):  # it died: store and exit code say how far it came
                worker.stdin.write(json.dumps(encode(cell)) + "\n")
                worker.stdin.flush()
            for line in worker.stdout:
                if not line.endswith("\n"):  # torn by its death
                    break
                facts = json.loads(line)
                if told := facts["event"] == "done":
                    break
                if facts["event"] == "start":  # importing torch is not the cell's time
                    timer = self._timer(worker, timed_out)
                self.listener(facts["event"], cell, facts)
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
        said = tail(self.errors)
        self._close()
        if code == CANNOT_WRITE:  # nor, likely, can we
            what, _, todo = said.splitlines()[-1].partition("\t") if said else ("", "", "")
            raise BenchError(what or "A worker could not write to the store.", todo)
        if timed_out:
            failure = Failure(kind="timeout", message=f"It took over {self.runtime.timeout:g} s.")
        elif self.pending.stopping or stopped(code):
            failure = Failure(kind="interrupted", message="Stopped; the same command goes on.")
        else:
            hint = " The kernel's out-of-memory killer sends signal 9." if code == -9 else ""
            message = f"The worker died ({how_ended(code)}).{hint}"
            failure = Failure(kind="killed", message=message, log_tail=said)
        return self.pending.store.fail(cell, failure)

    def _worker(self) -> subprocess.Popen[str]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self._close()
        folder = self.runtime.store / "workers"
        environment = dict(os.environ)
        if self.gpu:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.errors = folder / f"{uuid.uuid4().hex[:12]}.log"
            errors = self.errors.open("x")
        except OSError as error:
            raise cannot_write(folder, error) from error
        with errors:
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
    from benchmark.train import job as cells_
    from benchmark.train import loop
    from benchmark.train.context import Memory

    store, memory = Store(runtime.store), Memory()
    for cell in cells:
        report = loop.Callbacks(epoch=partial(listener, "epoch", cell))
        try:
            outcome = without_upstream(store, cell) or cells_.run(cell, runtime, report, memory)
        except KeyboardInterrupt:
            return False
        listener("done", cell, {"outcome": outcome})
    return True


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
