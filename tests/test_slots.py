"""Slots of the local executor: what ends one of them is told, and nothing outlives the command."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import heartbeat
from benchmark.engine import local, pending
from benchmark.errors import BenchError
from benchmark.plan import run
from benchmark.spec import Cell, DistanceSpec, PretrainSpec, Recipe, RunSpec, Runtime
from benchmark.store import Store

TINY = Path(__file__).parent / "components" / "tiny.py"
EXPERT = [
    Cell.of(DistanceSpec(source=f"patterns:{name}", target="demo:skin", method="expert"))
    for name in ("near", "far")
]

#: Holds the lock of a cell in a store until it is told to end, or nobody asks any more.
HOLDS = """
import fcntl, select, sys
file = open(sys.argv[1] + "/locks", "ab")
fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
print("held", flush=True)
select.select([sys.stdin], [], [], 60)
"""


def runtime_of(folder: Path) -> Runtime:
    store = Store(folder / "store")
    store.prepare()
    return Runtime(
        data=folder, store=store.root, device="cpu", offline=True, paths={"tiny": TINY}, workers=1
    )


def test_a_listener_that_fails_ends_the_command_with_its_error(tmp_path: Path):
    def listen(event: str, cell: Cell, facts: dict) -> None:
        if event == "done":
            raise ValueError("the listener is broken")

    runtime = runtime_of(tmp_path)
    with pytest.raises(ValueError, match="the listener is broken"):
        local.run(EXPERT, runtime, listener=listen)
    kept = [cell for cell in EXPERT if Store(runtime.store).outcome("distance", cell.key)]
    assert kept == EXPERT[:1]  # what was finished stays, and no further one was begun


def test_who_runs_a_cell_that_is_waited_for_is_said(tmp_path: Path, capsys):
    """Another process holds the cell's lock; once it ends, the cell is run here."""
    runtime, cell = runtime_of(tmp_path), EXPERT[0]
    Store(runtime.store).begin(cell)  # as the other would, which is this process's child
    place = Store(runtime.store).of(cell) / heartbeat.NAME
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(runtime.store), str(int(cell.key, 16) >> 2)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdin and other.stdout and other.stdout.readline()
    mark = {"pid": other.pid, "host": "node7", "since": 1_700_000_000.0, "born": ""}
    place.write_text(json.dumps(mark))
    progress, heard = run.Progress(1), list[str]()

    def listen(event: str, one: Cell, facts: dict) -> None:
        heard.append(event)
        progress.listen(event, one, facts)
        if event == "waits":
            other.communicate("end")

    assert local.run([cell], runtime, listener=listen)
    assert [one for one in heard if one != "ready"] == ["waits", "start", "done"]
    said = capsys.readouterr().err
    assert f"run by process {other.pid} on node7 since " in said
    assert Store(runtime.store).outcome("distance", cell.key)


def test_a_store_whose_workers_cannot_be_logged_is_told(tmp_path: Path):
    runtime = runtime_of(tmp_path)
    (runtime.store / "workers").write_text("a file where a folder should be")
    with pytest.raises(BenchError, match="Could not write"):
        local.run(EXPERT, runtime)


@contextlib.contextmanager
def ctrl_c_is_heard() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def training() -> Cell:
    """One that would take hours."""
    recipe = Recipe(size=32, epochs=10**7, batch=16, threads=1, select="last")
    return Cell.of(RunSpec(source="none", target="tiny", arch="resnet18", recipe=recipe))


@pytest.mark.slow
def test_ctrl_c_ends_a_worker_that_hangs_after_its_grace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(local, "GRACE", 1.0)
    runtime, cell, workers = runtime_of(tmp_path), training(), []

    def listen(event: str, cell: Cell, facts: dict) -> None:
        if event == "epoch" and not workers:
            mark = heartbeat.read(Store(runtime.store).of(cell))
            assert mark is not None
            workers.append(mark)
            os.kill(mark.pid, signal.SIGSTOP)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with ctrl_c_is_heard():
        assert not local.run([cell, *EXPERT], runtime, listener=listen)
    assert [heartbeat.alive(mark) for mark in workers] == [False]
    found = Store(runtime.store).outcome("run", cell.key)
    assert found is not None
    assert found.failure is not None
    assert found.failure.kind == "interrupted"


def test_a_queue_hands_out_each_cell_after_what_it_builds_on(tmp_path: Path):
    """Thousands at once, so that a queue that looks through all of them each time is too slow."""
    weights = [Cell.of(PretrainSpec(source=f"s{i}", recipe=Recipe())) for i in range(50)]
    runs = [
        Cell.of(RunSpec(source=first.spec.source, target="t", weights=first.key, fold=fold))
        for fold in range(40)
        for first in weights
    ]
    queue = pending.Queue([*runs, *weights], Store(tmp_path))
    handed, done, last = [], set(), None
    while (cell := queue.take(last)) is not None:
        assert {key for _, key in cell.upstream()} <= done
        handed.append(cell.key)
        done.add(cell.key)
        last = pending.shared(cell)
        queue.done(cell)
    assert sorted(handed) == sorted(cell.key for cell in (*weights, *runs))
