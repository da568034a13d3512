"""Ray: what it is asked for, on paper, and a real cluster of three nodes, one of which dies."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from stores import driver as driven
from stores import results

from benchmark.engine import local
from benchmark.engine import ray as engine
from benchmark.engine.schedule import Batch
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.spec import Cell, RunSpec, Runtime
from benchmark.store import Store

if find_spec("ray") is None:
    pytest.skip("the extra [ray] is not installed", allow_module_level=True)

BROKEN = Path(__file__).parent / "components" / "broken.py"


@pytest.fixture(scope="module", autouse=True)
def token() -> Iterator[None]:
    """Ray reads who may come in as it is imported, so this is told before."""
    told = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789" * 4,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster(token) -> Iterator[Any]:
    """Three raylets with a CPU each, as `ray start` makes them."""
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={**room, "include_dashboard": False})
    made.room = room
    while len(made.worker_nodes) < 2:
        made.add_node(**room)
    yield made
    made.shutdown()


def grid(runtime: Runtime, request_tiny, seeds: int, epochs: int = 60) -> list[Cell]:
    """Three folds of two arms for every seed."""
    asked = request_tiny(
        seeds=tuple(range(seeds)), fusions=("none", "concat"), recipe={"epochs": epochs}
    )
    return [planned.cell for planned in plan.make(asked, runtime).of("to run")]


@pytest.fixture
def ready(runtime: Runtime, request_tiny) -> Runtime:
    """A store with the caches alone, so that what runs are heads on features."""
    warm = runtime.model_copy(update={"store": runtime.store.parent / "warm"})
    assert local.run(grid(warm, request_tiny, 1, 1)[:1], warm, slots=0)
    for part in ("features", "prepared"):
        shutil.copytree(warm.store / part, runtime.store / part)
    return runtime


def here(cells: list[Cell], runtime: Runtime) -> dict[str, tuple]:
    """The numbers of a run in this very process."""
    alone = runtime.model_copy(update={"store": runtime.store.parent / "alone"})
    for part in ("features", "prepared"):
        shutil.copytree(runtime.store / part, alone.store / part)
    assert local.run(cells, alone, slots=0)
    return results(alone.store)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seeds", [2, 10])
def test_a_node_dies_and_no_outcome_is_missing(cluster, ready: Runtime, request_tiny, seeds: int):
    cells = grid(ready, request_tiny, seeds)
    assert len(cells) == 6 * seeds
    finished: list[str] = []

    def listen(event, cell, facts):
        if event == "done":
            finished.append(cell.key)
            if len(finished) == len(cells) // 3:
                cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)

    try:
        assert engine.run(cells, ready, address=cluster.address, listener=listen, size=4)
    finally:
        while len(cluster.worker_nodes) < 2:
            cluster.add_node(**cluster.room)
    assert sorted(finished) == sorted(cell.key for cell in cells)
    assert results(ready.store) == here(cells, ready)
    left = [p for p in ready.store.rglob("*") if p.name in ("last.pt", "running.json")]
    assert not left
    assert not list((ready.store / "batches").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cell_that_dies_takes_nobody_with_it(cluster, ready: Runtime, request_tiny):
    ready = ready.model_copy(update={"paths": {**ready.paths, "broken:die": BROKEN}})
    asked = request_tiny(fusions=("broken:die", "none"), folds=(0,))
    cells = [planned.cell for planned in plan.make(asked, ready).of("to run")]
    assert engine.run(cells, ready, address=cluster.address)
    found = {o.spec.fusion: o.failure and o.failure.kind for o in Store(ready.store).outcomes()}
    assert found == {"broken:die": "killed", "none": None}


@pytest.mark.slow
def test_who_lacks_the_token_is_refused(cluster):
    code = (
        "from benchmark.engine import ray; from benchmark.spec import Runtime\n"
        f"ray.run([], Runtime(), address={cluster.address!r})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RAY_AUTH_TOKEN": "f" * 40},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert found.returncode == 1
    assert "does not know us" in found.stderr


class Paper:
    """Ray as far as the executor knows it, with two GPUs or none."""

    def __init__(self, gpus: int = 0) -> None:
        self.gpus = gpus
        self.asked: list[dict[str, Any]] = []
        self.given: list[tuple[str, ...]] = []
        self.ended: dict[int, Any] = {}
        self.cancelled: list[tuple[int, bool]] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 12.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def nodes(self) -> list[dict[str, Any]]:
        sizes = ((True, 4.0), (True, 8.0), (False, 64.0))
        return [{"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in sizes]

    def remote(self, task):
        return self

    def options(self, **words):
        self.asked.append(words)

        class Task:
            def remote(_, *given: str) -> int:
                self.given.append(given)
                return len(self.given) - 1

        return Task()

    def wait(self, tasks, *, timeout, num_returns=1):
        done = [task for task in tasks if task in self.ended]
        return done, [task for task in tasks if task not in self.ended]

    def get(self, task):
        if isinstance(self.ended[task], Exception):
            raise self.ended[task]
        return self.ended[task]

    def cancel(self, task, *, force: bool = False) -> None:
        self.cancelled.append((task, force))


def batch_of(runtime: Runtime, name: str) -> Batch:
    cells = [Cell.of(RunSpec(source="a", target="b"))]
    return Batch(name, runtime.store / f"{name}.json", cells, {}, {})


@pytest.mark.parametrize(
    ("gpus", "device", "threads", "slots", "cpus", "share"),
    [
        (0, "auto", 2, 6, 2, 0),
        (2, "auto", 2, 8, 2, 0.25),
        (2, "cpu", 2, 6, 2, 0),
        (0, "cpu", 16, 1, 8, 0),  # as many threads as no node has: it takes the largest
    ],
)
def test_what_a_task_asks_for(runtime: Runtime, gpus, device, threads, slots, cpus, share):
    paper = Paper(gpus)
    runtime = runtime.model_copy(update={"device": device})
    made = engine._Ray(paper, runtime, per_gpu=4, threads=threads)
    assert made.slots == slots
    made.start([batch_of(runtime, "x")])
    assert paper.given == [(str(runtime.store / "x.json"), runtime.model_dump_json())]
    asked = paper.asked[0]
    assert (asked["num_cpus"], asked["num_gpus"], asked["max_retries"]) == (cpus, share, 0)


def test_what_ray_tells_of_a_task(runtime: Runtime):
    from ray.exceptions import WorkerCrashedError

    paper = Paper()
    made = engine._Ray(paper, runtime, per_gpu=1, threads=1)
    made.start([batch_of(runtime, name) for name in "abc"])
    assert made.gone() == {}
    paper.ended = {0: "", 1: WorkerCrashedError()}
    gone = made.gone()
    assert gone["a"] == ""
    assert gone["b"].startswith("Ray says: The worker died unexpectedly")
    made.stop()
    assert paper.cancelled == [(2, False), (2, True)]
    paper.ended[2] = "node7"
    with pytest.raises(BenchError, match="node7 does not see the store"):
        made.gone()


def test_a_node_that_does_not_see_the_store_says_so(runtime: Runtime):
    file = runtime.store / "nowhere" / "batch.json"
    assert engine._task(str(file), runtime.model_dump_json()) == socket.gethostname()


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, runtime: Runtime):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BenchError, match=r"transfer-bench\[ray\]"):
        engine.run([], runtime)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_cells_share_a_gpu(cluster, ready: Runtime, request_tiny):
    """Ray believes in the GPU; the cells run beside each other on a node with a single one."""
    ready = ready.model_copy(update={"device": "auto"})
    node = cluster.add_node(**{**cluster.room, "num_cpus": 2}, num_gpus=1)
    try:
        cells = grid(ready, request_tiny, 1, 600)
        assert engine.run(cells, ready, address=cluster.address, slots=2, size=2)
    finally:
        cluster.remove_node(node)
    spans = []
    for outcome in Store(ready.store).outcomes():
        path = ready.store / "runs" / outcome.key[:2] / outcome.key
        began = (path / "spec.json").stat().st_mtime
        spans.append((began, (path / "outcome.json").stat().st_mtime))
    spans.sort()
    assert len(spans) == 6
    together = [1 + sum(a < c < b for a, b in spans[:i]) for i, (c, _) in enumerate(spans)]
    assert max(together) == 2


def test_no_cluster_is_said_so(runtime: Runtime):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(BenchError, match="No Ray cluster answers"):
        engine.run([], runtime, address=f"ray://127.0.0.1:{port}")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_driver_is_killed_and_the_same_grid_goes_on(cluster, ready: Runtime, request_tiny):
    cells = grid(ready, request_tiny, 10)
    call = "ray.run(cells, runtime, address=sys.argv[2], size=5, listener=listener)"
    command = driven(call, cells, ready, cluster.address)
    kept: dict[str, bytes] = {}
    for stop in (8, 15, 10**9):
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None
        for i, _ in enumerate(line for line in driver.stdout if line.startswith("done")):
            if i + 1 == stop:
                driver.send_signal(signal.SIGKILL)
        driver.wait(300)
        for path in ready.store.glob("runs/??/*/outcome.json"):
            assert kept.setdefault(str(path), path.read_bytes()) == path.read_bytes()
        time.sleep(1)
    assert driver.returncode == 0
    assert len(kept) == 60
    assert results(ready.store) == here(cells, ready)
    assert not list((ready.store / "batches").iterdir())
