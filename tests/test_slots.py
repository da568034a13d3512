"""Slots of the local executor: what ends one of them is told, and nothing outlives the command."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark import marks
from benchmark.engine import local
from benchmark.errors import BenchError
from benchmark.spec import Cell, DistanceSpec, PretrainSpec, Recipe, RunSpec, Runtime
from benchmark.store import Store

TINY = Path(__file__).parent / "components" / "tiny.py"
EXPERT = [
    Cell.of(DistanceSpec(source=f"patterns:{name}", target="demo:skin", method="expert"))
    for name in ("near", "far")
]


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


def test_a_store_whose_workers_cannot_be_logged_is_told(tmp_path: Path):
    runtime = runtime_of(tmp_path)
    (runtime.store / "workers").write_text("a file where a folder should be")
    with pytest.raises(BenchError, match="Could not write"):
        local.run(EXPERT, runtime)


def test_a_log_that_is_gone_costs_no_more_than_the_cell(tmp_path: Path):
    runtime = runtime_of(tmp_path)

    def listen(event: str, cell: Cell, facts: dict) -> None:
        mark = marks.read(Store(runtime.store).of(cell)) if event == "epoch" else None
        if mark is not None:
            for log in (runtime.store / "workers").iterdir():
                log.unlink()
            os.kill(mark.pid, signal.SIGKILL)

    long = training()
    assert local.run([long], runtime, listener=listen)
    failed = Store(runtime.store).outcome("run", long.key)
    assert failed is not None
    assert failed.failure is not None
    assert failed.failure.kind == "killed"


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
            mark = marks.read(Store(runtime.store).of(cell))
            assert mark is not None
            workers.append(mark)
            os.kill(mark.pid, signal.SIGSTOP)
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

    with ctrl_c_is_heard():
        assert not local.run([cell, *EXPERT], runtime, listener=listen)
    assert [marks.alive(mark) for mark in workers] == [False]
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
    queue = local._Queue([*runs, *weights], Store(tmp_path))
    handed, done, last = [], set(), None
    while (cell := queue.take(last)) is not None:
        assert {key for _, key in cell.upstream()} <= done
        handed.append(cell.key)
        done.add(cell.key)
        last = local.shared(cell)
        queue.done(cell)
    assert sorted(handed) == sorted(cell.key for cell in (*weights, *runs))
