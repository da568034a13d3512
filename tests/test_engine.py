"""Grids that are killed, interrupted and broken: what was finished stays, the rest completes."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmark.spec import Outcome
from benchmark.store import Store

TINY = Path(__file__).parent / "components" / "tiny.py"
BROKEN = Path(__file__).parent / "components" / "broken.py"

#: Twelve cells: two arms, two seeds, three folds; each trains long enough to be hit.
BASE = ["--target", str(TINY), "--arch", "resnet18", "--protocol", "demo", "--mode", "frozen",
        "--epochs", "60", "--threads", "1", "--device", "cpu", "--offline"]  # fmt: skip
GRID = [*BASE, "--fusion", "none", "--fusion", "concat", "--seed", "0", "--seed", "1"]


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


def results(store: Path) -> dict[str, tuple]:
    """What must be equal bit for bit."""
    kept = Store(store)
    found = {}
    for outcome in kept.outcomes():
        assert outcome.status == "ok", outcome.failure
        arrays = kept.predictions(outcome.key)
        found[outcome.key] = (
            outcome.metrics,
            tuple((h["loss"], h.get("val_auroc")) for h in outcome.history),
            {name: array.tobytes() for name, array in arrays.items()},
        )
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an uninterrupted run."""
    store = tmp_path_factory.mktemp("whole") / "store"
    code, errors = finish(store)
    assert code == 0, errors
    return store


@pytest.fixture(scope="module")
def uninterrupted(whole: Path) -> dict[str, tuple]:
    found = results(whole)
    assert len(found) == 12
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
        if len(before) == 12:
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


@pytest.mark.parametrize(
    "times",
    [2, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_killed_at_random_moments_nothing_is_lost(
    tmp_path: Path, features: Path, uninterrupted, times: int
):
    left, seed = times, 20260
    while left:  # a grid that came to its end in spite of all is followed by another
        store = shutil.copytree(features, tmp_path / f"store{seed}")
        left -= kill_at_random(store, left, seed)
        code, errors = finish(store)
        assert code == 0, errors
        assert results(store) == uninterrupted
        assert not [p for p in store.rglob("*") if p.name in ("last.pt", "running.json")]
        seed += 1


def test_a_wish_to_stop_is_noted_and_the_same_command_goes_on(
    tmp_path: Path, features: Path, uninterrupted
):
    store = shutil.copytree(features, tmp_path / "store")
    for wish in (signal.SIGINT, signal.SIGTERM):
        process = start(store)
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("[2/"):
                process.send_signal(wish)
                break
        rest = process.stderr.read()
        assert process.wait(60) == 130, lines
        assert "go on with the same command" in rest
        assert "bench run" in rest
        kinds = {o.failure.kind for o in Store(store).outcomes() if o.failure}
        assert kinds <= {"interrupted"}
    code, errors = finish(store)
    assert code == 0, errors
    assert results(store) == uninterrupted


def test_a_finished_grid_does_nothing_quickly(whole: Path):
    took = []
    for _ in range(3):
        began = time.monotonic()
        code, errors = finish(whole)
        took.append(time.monotonic() - began)
        assert code == 0
        assert "Nothing to do: 12 cells are done." in errors
    assert min(took) < 2


def test_one_failure_costs_one_cell(tmp_path: Path, features: Path):
    """An arm that breaks in four ways, between cells that do not."""
    store = shutil.copytree(features, tmp_path / "store")
    arms = [word for how in ("explode", "die", "nan", "memory") for word in
            ("--fusion", f"{BROKEN}:{how}")]  # fmt: skip
    code, errors = finish(store, *arms, "--fusion", "none", "--fold", "0", grid=BASE)
    assert code == 2, errors
    assert "Traceback" not in errors
    assert "signal 9" in errors
    outcomes = Store(store).outcomes()
    assert [o.spec.fusion for o in outcomes if o.status == "ok"] == ["none"]
    kinds = {o.spec.fusion: o.failure.kind for o in outcomes if o.failure}
    assert kinds == {
        "broken:explode": "bug",
        "broken:die": "killed",
        "broken:nan": "not_finite",
        "broken:memory": "oom",
    }
    tail = next(o.failure.log_tail for o in outcomes if o.failure and o.failure.kind == "bug")
    assert "this arm always breaks" in tail


def test_a_cell_that_takes_too_long_is_ended(tmp_path: Path, features: Path):
    store = shutil.copytree(features, tmp_path / "store")
    words = ("--fold", "0", "--epochs", "90000", "--timeout", "3")
    code, errors = finish(store, *words, grid=BASE)
    assert code == 2
    assert "timeout" in errors
    assert {o.failure.kind for o in Store(store).outcomes() if o.failure} == {"timeout"}


def test_a_cell_planned_by_another_version_is_refused():
    from benchmark.engine.worker import decode, encode
    from benchmark.errors import BenchError
    from benchmark.spec import Cell, RunSpec

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
