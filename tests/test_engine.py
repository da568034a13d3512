"""Grids that are killed, interrupted and broken: what was finished stays, the rest completes."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from stores import results
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.engine import local, node
from benchmark.engine.worker import ORPHANED, decode, encode
from benchmark.errors import BenchError
from benchmark.files import write
from benchmark.plan import plan
from benchmark.spec import Cell, Outcome, RunSpec, Runtime
from benchmark.store import Store

TINY = Path(__file__).parent / "components" / "tiny.py"
BROKEN = Path(__file__).parent / "components" / "broken.py"

#: Eight cells: two arms, two seeds, two folds; each trains long enough to be hit.
CELLS = 8
BASE = ["--target", str(TINY), "--arch", "test_resnet", "--protocol", "demo", "--mode", "frozen",
        "--epochs", "40", "--threads", "1", "--device", "cpu", "--offline",
        "--set", "recipe.head=trained", "--fold", "0", "--fold", "1"]  # fmt: skip
GRID = [*BASE, "--fusion", "none", "--fusion", "concat", "--seed", "0", "--seed", "1"]


pytestmark = pytest.mark.timeout(600)


def start(store: Path, *options: str, grid: list[str] = GRID) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmark.cli", "run", *grid, *options, "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CI": "1"},
        # Started in a background, a shell may have told it to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(store: Path, *options: str, grid: list[str] = GRID) -> tuple[int, str]:
    process = start(store, *options, grid=grid)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


def workers_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted run, made in this process."""
    store = tmp_path_factory.mktemp("whole") / "store"
    done = CliRunner().invoke(app, ["run", *GRID, "--slots", "0", "--store", str(store)])
    assert done.exit_code == 0, done.output
    return store


@pytest.fixture(scope="module")
def uninterrupted(whole: Path) -> dict[str, tuple]:
    found = results(whole)
    assert len(found) == CELLS
    return found


@pytest.fixture
def features(whole: Path, tmp_path: Path) -> Path:
    """Caches alone: what follows trains heads and need not extract features again."""
    for part in ("features", "prepared", "splits"):
        shutil.copytree(whole / part, tmp_path / "caches" / part)
    return tmp_path / "caches"


def kill_at_random(store: Path, times: int, seed: int) -> int:
    """Kill the parent or a worker with signal 9, again and again; how often there was one."""
    rng = random.Random(seed)
    for done in range(times):
        before = {o.key: o for o in Store(store).outcomes() if o.status == "ok"}
        if len(before) == CELLS:
            return done
        process = start(store)
        time.sleep(rng.uniform(0.5, 7.0))
        victims = workers_of(process.pid)
        worker = rng.random() < 0.5 and victims
        with contextlib.suppress(ProcessLookupError):  # it had just ended
            os.kill(rng.choice(victims) if worker else process.pid, signal.SIGKILL)
        process.communicate(timeout=200)
        for pid in victims:
            for _ in range(100):
                if not Path(f"/proc/{pid}").exists():
                    break
                time.sleep(0.1)
            else:
                pytest.fail("a worker outlived its parent")
        after = {o.key: o for o in Store(store).outcomes()}
        for key, outcome in before.items():
            assert after[key] == outcome, "a finished cell was touched"
    return times


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_random_moments_nothing_is_lost(tmp_path: Path, features: Path, uninterrupted):
    left, seed = 100, 20260
    while left:  # a grid that came to its end in spite of all is followed by another
        store = shutil.copytree(features, tmp_path / f"store{seed}")
        left -= kill_at_random(store, left, seed)
        complete(store, uninterrupted)
        seed += 1


def complete(store: Path, uninterrupted: dict[str, tuple]) -> None:
    """The same command again ends where an uninterrupted one does, and leaves nothing behind."""
    code, errors = finish(store)
    assert code == 0, errors
    assert results(store) == uninterrupted
    assert not [p for p in store.rglob("*") if p.name in ("last.pt", "running.json")]


def hit(process: subprocess.Popen[str], after: int, number: int, *, worker: bool = False) -> None:
    """Send a signal to the command, or to its worker, once that many cells are done."""
    assert process.stderr is not None
    assert any(line.startswith(f"[{after}/") for line in process.stderr)
    os.kill(workers_of(process.pid)[0] if worker else process.pid, number)


def test_what_is_killed_or_told_to_stop_goes_on_with_the_same_command(
    tmp_path: Path, features: Path, uninterrupted
):
    store, kept = shutil.copytree(features, tmp_path / "store"), {}
    for wish in (signal.SIGTERM, signal.SIGKILL):  # Ctrl-C is taken as SIGTERM is
        process = start(store)
        if wish == signal.SIGTERM:
            hit(process, 1, signal.SIGKILL, worker=True)
        hit(process, 2, wish)
        _, rest = process.communicate(timeout=200)
        assert process.returncode == (-9 if wish == signal.SIGKILL else 130), rest
        assert ("go on with the same command" in rest) == (wish != signal.SIGKILL)
        outcomes = Store(store).outcomes()
        assert {o.failure.kind for o in outcomes if o.failure} <= {"interrupted", "killed"}
        now = {o.key: o for o in outcomes if o.status == "ok"}
        assert len(now) > len(kept)
        assert kept.items() <= now.items(), "a finished cell was touched"
        kept = now
    complete(store, uninterrupted)


def test_a_finished_grid_does_nothing_quickly(whole: Path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    code, errors = finish(whole)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0
    assert f"Nothing to do: {CELLS} cells are done." in errors
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5


def test_one_failure_costs_one_cell(runtime: Runtime, request_tiny, features: Path):
    """An arm that breaks in four ways, between cells that do not; a worker's log may be gone."""
    shutil.copytree(features, runtime.store)
    arms = [f"broken:{how}" for how in ("explode", "die", "nan", "memory")]
    runtime = runtime.model_copy(update={"paths": {**runtime.paths, **dict.fromkeys(arms, BROKEN)}})
    made = plan.make(request_tiny(fusions=(*arms, "none"), folds=(0,)), runtime)

    def listen(event: str, cell: Cell, facts: dict) -> None:
        if event == "start" and cell.spec == dies:
            logs = [log.unlink() for log in (runtime.store / "workers").iterdir()]
            gone.append(len(logs))

    dies, gone = next(p.cell.spec for p in made.cells if p.cell.spec.fusion == "broken:die"), []
    assert local.run([planned.cell for planned in made.of("to run")], runtime, listener=listen)
    assert gone == [1]
    outcomes = {o.spec.fusion: o for o in Store(runtime.store).outcomes()}
    assert outcomes.pop("none").status == "ok"
    assert {name: o.failure.kind for name, o in outcomes.items() if o.failure} == {
        "broken:explode": "bug",
        "broken:die": "killed",
        "broken:nan": "not_finite",
        "broken:memory": "oom",
    }
    assert "signal 9" in outcomes["broken:die"].failure.message
    assert "this arm always breaks" in outcomes["broken:explode"].failure.log_tail


@pytest.fixture
def endless(runtime: Runtime, request_tiny, features: Path) -> Cell:
    """A cell that ends only if it is ended; the store has the caches, for a quick start."""
    shutil.copytree(features, runtime.store)
    asked = request_tiny(folds=(0,), recipe={"epochs": 10**6})
    return plan.make(asked, runtime).cells[0].cell


def test_a_cell_that_takes_too_long_is_ended(runtime: Runtime, endless: Cell):
    assert local.run([endless], runtime.model_copy(update={"timeout": 1.0}))
    (outcome,) = Store(runtime.store).outcomes()
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"


def test_ctrl_c_reaches_the_cell_that_runs(runtime: Runtime, endless: Cell):
    def listen(event, cell, facts) -> None:
        if event == "epoch" and not asked:
            asked.append(os.kill(os.getpid(), signal.SIGINT))

    asked, before = [], signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert not local.run([endless], runtime, listener=listen)
    finally:
        signal.signal(signal.SIGINT, before)
    (outcome,) = Store(runtime.store).outcomes()
    assert outcome.failure is not None
    assert outcome.failure.kind == "interrupted"


def test_a_worker_leaves_with_its_parent(runtime: Runtime, endless: Cell):
    """The pipe it is fed through closes, however its parent went."""
    words = [sys.executable, "-m", "benchmark.cli", "cell", runtime.model_dump_json()]
    worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(json.dumps(encode(endless)) + "\n")
        worker.stdin.flush()
        assert any('"epoch"' in line for line in worker.stdout)
        worker.stdin.close()
        assert worker.wait(30) == ORPHANED
    finally:
        worker.kill()
    assert not Store(runtime.store).outcomes()


def test_the_worker_of_a_batch_leaves_with_its_parent(runtime: Runtime, endless: Cell):
    batch = runtime.store / "batch.json"
    write(batch, json.dumps({"cells": [{**encode(endless), "before": None}]}))
    worker = node.begin(batch, runtime)
    assert worker.stdin is not None
    worker.stdin.close()
    try:
        assert worker.wait(60) == ORPHANED
    finally:
        worker.terminate()


def test_a_cell_planned_by_another_version_is_refused():
    raw = json.loads(json.dumps(encode(Cell.of(RunSpec(source="a", target="b"), {"core": "1"}))))
    assert decode(raw).spec == RunSpec(source="a", target="b")
    raw["spec"]["fold"] = 3
    with pytest.raises(BenchError, match="another version"):
        decode(raw)


def test_outcomes_say_how_they_came_to_be(whole: Path):
    outcome: Outcome = Store(whole).outcomes()[0]
    assert outcome.data["test_groups"] > 0
    assert outcome.data["siblings"] == 0
    assert "by validation AUROC" in outcome.chosen
    assert {"train", "test", "bootstrap", "total"} <= set(outcome.seconds)
    assert outcome.environment["torch"]
    assert set(outcome.subgroups) == {"site"}
    assert all(np.isfinite(e.value) for e in (outcome.metrics["auroc"], outcome.metrics["mcr"]))
