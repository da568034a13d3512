"""Batches on any cluster: what is cut, sent, found again, tried again and given up."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import stores
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import heartbeat
from benchmark.engine import local, node, pending, schedule, worker
from benchmark.engine.schedule import Batch
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.spec import Cell, Failure, Input, Outcome, PretrainSpec, Recipe, RunSpec, Runtime
from benchmark.store import Store

BROKEN = Path(__file__).parent / "components" / "broken.py"

#: A stand-in for the process that a cluster keeps between itself and the worker.
NODE = """
import sys
from pathlib import Path
from benchmark.engine import node
from benchmark.spec import Runtime
file = Path(sys.argv[1])
process = node.begin(file, Runtime.model_validate_json(sys.argv[2]))
node.note_end(file, node.wait(process))
"""


#: Another process that runs the cell of `cell_of()`.
HOLD = """
import sys, threading, time
from pathlib import Path
from benchmark.engine import worker
from benchmark.spec import Cell, RunSpec
cell = Cell.of(RunSpec(source="a", target="b"))
with worker.alone(cell, Path(sys.argv[1]), threading.Event()) as free:
    print(free, flush=True)
    time.sleep(600)
"""


ok = partial(stores.ok, seconds={"total": 1.0})


def cell_of(fold: int = 0, **changes) -> Cell:
    return Cell.of(RunSpec(source="a", target="b", fold=fold, **changes))


@dataclass
class Paper:
    """A cluster on paper: `work` is what becomes of a batch, at once."""

    store: Store
    work: Callable[[Store, Batch], int | None]
    slots: int = 2
    every: float = 0.0
    sent: list[list[str]] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    jobs: set[str] = field(default_factory=set)
    stopped: bool = False
    noted: bool = False  # `work` notes the end itself

    def start(self, batches_: Sequence[Batch]) -> None:
        for batch in batches_:
            self.sent.append([cell.key for cell in batch.cells])
            code = self.work(self.store, batch)
            if self.noted:
                continue
            if code is None:
                self.lost[batch.id] = "The node is gone."
            else:
                node.note_end(batch.file, code)

    def gone(self) -> Mapping[str, str]:
        return self.lost

    def known(self, jobs: Mapping[str, str]) -> set[str]:
        return {name for name, job in jobs.items() if job in self.jobs}

    def stop(self) -> None:
        self.stopped = True


def all_fine(store: Store, batch: Batch) -> int:
    for cell in list(batch.cells):
        store.begin(cell)
        store.finish(cell, ok(cell))
    return 0


def collect(cells: Sequence[Cell], runtime: Runtime, cluster, **more) -> dict[str, Outcome]:
    """Run, and what the listener was told at the end, each cell once."""
    found: dict[str, Outcome] = {}

    def listen(event, cell, facts):
        if event == "done":
            assert cell.key not in found
            found[cell.key] = facts["outcome"]

    assert schedule.run(cells, runtime, cluster, listener=listen, **more)
    assert not list((runtime.store / "batches").glob("*.*"))
    return found


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99)), unique=True, max_size=60),
    st.integers(1, 9),
)
def test_batches_hold_every_cell_once_and_few_groups(asked, size):
    cells = [Cell.of(RunSpec(source="a", target=f"t{group}", fold=fold)) for group, fold in asked]
    found = list(schedule.cut(cells, size))
    assert sorted(c.key for batch in found for c in batch) == sorted(c.key for c in cells)
    assert all(1 <= len(batch) <= size for batch in found)
    groups = {pending.shared(c) for c in cells}
    pieces = sum(len({pending.shared(c) for c in batch}) for batch in found)
    assert pieces <= len(groups) + len(cells) // size  # a group is parted only where it must be


def test_small_groups_share_a_batch():
    cells = [Cell.of(RunSpec(source="a", target=f"t{i // 2}", fold=i)) for i in range(8)]
    assert [len(batch) for batch in schedule.cut(cells, 5)] == [4, 4]
    assert [len(batch) for batch in schedule.cut(cells, 1)] == [1] * 8


@pytest.mark.parametrize(("cells", "slots", "sizes"), [(12, 2, [3] * 4), (300, 2, [50] * 6)])
def test_there_are_batches_for_every_slot(runtime: Runtime, cells: int, slots: int, sizes):
    cluster = Paper(Store(runtime.store), all_fine, slots=slots)
    found = collect([cell_of(i) for i in range(cells)], runtime, cluster)
    assert len(found) == cells
    assert [len(keys) for keys in cluster.sent] == sizes


def test_what_settles_a_cell(runtime: Runtime):
    """A success always; a failure if it is newer than the batch; an interruption never."""
    store, cell = Store(runtime.store), cell_of()
    path = store.of(cell) / "outcome.json"
    assert worker.settled(store, cell, None) is None
    store.fail(cell, Failure(kind="oom", message="old"))
    before = worker.stamp(path)
    assert worker.settled(store, cell, before) is None
    store.fail(cell, Failure(kind="interrupted", message="preempted"))
    assert worker.settled(store, cell, before) is None
    store.fail(cell, Failure(kind="oom", message="new"))
    os.utime(path, ns=(1, 1))  # a clock of few ticks
    found = worker.settled(store, cell, before)
    assert found is not None
    assert found.failure is not None
    assert found.failure.message == "new"
    store.finish(cell, ok(cell))
    assert worker.settled(store, cell, worker.stamp(path)) == ok(cell)


def test_cells_wait_for_their_weights(runtime: Runtime):
    before = Cell.of(PretrainSpec(source="a", recipe=Recipe()))
    broken = Cell.of(PretrainSpec(source="x", recipe=Recipe()))
    good = [cell_of(i, weights=before.key) for i in range(3)]
    bad = [cell_of(i, weights=broken.key) for i in range(3)]

    def work(store: Store, batch: Batch) -> int:
        for cell in list(batch.cells):
            store.begin(cell)
            if cell == broken:
                store.fail(cell, Failure(kind="bug", message="no good"))
            else:
                store.finish(cell, ok(cell))
        return 0

    cluster = Paper(Store(runtime.store), work)
    found = collect([*bad, *good, broken, before], runtime, cluster)
    assert {found[cell.key].status for cell in (before, *good)} == {"ok"}
    kinds = {outcome.failure.kind for cell in bad if (outcome := found[cell.key]).failure}
    assert kinds == {"upstream"}
    sent = [key for keys in cluster.sent for key in keys]
    assert not {cell.key for cell in bad} & set(sent)
    assert set(sent[:2]) == {before.key, broken.key}


def test_what_another_command_did_meanwhile_is_not_sent(runtime: Runtime):
    store, cells = Store(runtime.store), [cell_of(i) for i in range(2)]
    store.finish(cells[0], ok(cells[0]))
    cluster = Paper(store, all_fine)
    assert set(collect(cells, runtime, cluster)) == {cell.key for cell in cells}
    assert cluster.sent == [[cells[1].key]]


@pytest.mark.parametrize("code", [-9, -11, 1])
def test_a_cell_that_takes_its_batch_with_it_fails_alone(runtime: Runtime, code: int):
    cells = [cell_of(i) for i in range(6)]
    deadly = {cells[1].key, cells[4].key}

    def work(store: Store, batch: Batch) -> int:
        for cell in list(batch.cells):
            store.begin(cell)
            if cell.key in deadly:
                batch.log.write_text("it was\na bad cell\n")
                return code
            store.finish(cell, ok(cell))
        return 0

    cluster = Paper(Store(runtime.store), work)
    found = collect(cells, runtime, cluster, size=6)
    assert {key for key, outcome in found.items() if outcome.status == "failed"} == deadly
    for key in deadly:
        failure = found[key].failure
        assert failure is not None
        assert failure.kind == "killed"
        assert str(abs(code)) in failure.message
        assert socket.gethostname() in failure.message
        assert "a bad cell" in failure.log_tail
    assert [len(keys) for keys in cluster.sent] == [6, 4, 1]


def test_a_lost_node_is_not_the_cells_fault_but_not_for_ever(runtime: Runtime):
    cells, often = [cell_of(i) for i in range(4)], {0: 1, 2: 99}
    losses = {cells[i].key: n for i, n in often.items()}

    def work(store: Store, batch: Batch) -> int | None:
        for cell in list(batch.cells):
            store.begin(cell)
            if losses.get(cell.key, 0) > 0:
                losses[cell.key] -= 1
                return None
            store.finish(cell, ok(cell))
        return 0

    found = collect(cells, runtime, Paper(Store(runtime.store), work), size=4)
    assert [found[cell.key].status for cell in cells] == ["ok", "ok", "failed", "ok"]
    failure = found[cells[2].key].failure
    assert failure is not None
    assert failure.kind == "killed"
    assert "lost 3 times. The node is gone." in failure.message


def test_a_stopped_cell_goes_to_the_next_batch(runtime: Runtime):
    cells, stops = [cell_of(i) for i in range(3)], [1]

    def work(store: Store, batch: Batch) -> int:
        for cell in list(batch.cells):
            store.begin(cell)
            if cell == cells[1] and stops:
                stops.pop()
                store.fail(cell, Failure(kind="interrupted", message="preempted"))
                return 130
            store.finish(cell, ok(cell))
        return 0

    cluster = Paper(Store(runtime.store), work)
    found = collect(cells, runtime, cluster, size=3)
    assert {outcome.status for outcome in found.values()} == {"ok"}
    assert cluster.sent[1] == [cells[1].key, cells[2].key]


@pytest.mark.parametrize("code", [None, 1, 0, -15])
def test_batches_that_get_nowhere_are_given_up(runtime: Runtime, code: int | None):
    cells = [cell_of(i) for i in range(2)]
    cluster = Paper(Store(runtime.store), lambda store, batch: code)
    found = collect(cells, runtime, cluster, size=2)
    assert {o.failure.kind for o in found.values() if o.failure} == {"killed"}
    assert len(cluster.sent) == schedule.TRIES


def test_outcomes_that_a_network_disk_shows_late_are_waited_for(runtime: Runtime, monkeypatch):
    """The node has finished its cells and says so; here they are to be seen three looks later."""
    cells, looks = [cell_of(i) for i in range(2)], []
    real = schedule.settled

    def late(store: Store, cell: Cell, before: int | None) -> Outcome | None:
        looks.append(1)
        return real(store, cell, before) if len(looks) > 3 else None

    def work(store: Store, batch: Batch) -> int:
        for cell in list(batch.cells):
            store.begin(cell)
            store.finish(cell, ok(cell))
        node.note_end(batch.file, -9)
        monkeypatch.setattr(schedule, "settled", late)
        return 0

    cluster = Paper(Store(runtime.store), work, noted=True)
    found = collect(cells, runtime, cluster, size=2)
    assert {outcome.status for outcome in found.values()} == {"ok"}
    assert len(cluster.sent) == 1
    assert len(looks) > 3


def test_an_error_that_the_user_can_mend_ends_it(runtime: Runtime):
    def work(store: Store, batch: Batch) -> int:
        batch.log.write_text("noise\nError: The disk is full.\nMake room.\n")
        return schedule.MENDABLE

    cluster = Paper(Store(runtime.store), work)
    with pytest.raises(BenchError) as caught:
        schedule.run([cell_of()], runtime, cluster)
    assert (caught.value.what, caught.value.todo) == ("The disk is full.", "Make room.")
    assert cluster.stopped


def test_ctrl_c_stops_the_cluster(runtime: Runtime):
    def work(store: Store, batch: Batch) -> int:
        raise KeyboardInterrupt

    cluster = Paper(Store(runtime.store), work)
    assert not schedule.run([cell_of()], runtime, cluster)
    assert cluster.stopped


def test_jobs_of_a_killed_command_are_waited_for(runtime: Runtime):
    """One whose job still runs, one whose job is gone, and one of which others may know."""
    store, cells = Store(runtime.store), [cell_of(i) for i in range(4)]
    dead = {"pid": 2**22 + 1, "host": socket.gethostname(), "since": 0.0, "facts": {}}
    for name, by, part in (
        ("alive", "Paper", cells[:2]),
        ("gone", "Paper", cells[2:]),
        ("other", "_Ray", cells),
    ):
        raw = [{**worker.encode(cell), "before": None, "mark": None} for cell in part]
        file = runtime.store / "batches" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        given = {"by": by, "asked": dead, "cells": raw, "job": f"7_{name}"}
        file.write_text(json.dumps(given))
    cluster = Paper(store, all_fine, jobs={"7_alive"})
    looks = []

    def finish_later() -> Mapping[str, str]:
        looks.append(1)
        if len(looks) == 3:
            for cell in cells[:2]:
                store.finish(cell, ok(cell))
            node.note_end(runtime.store / "batches" / "alive.json", 0)
        return {}

    cluster.gone = finish_later
    found = []
    assert schedule.run(
        cells, runtime, cluster, listener=lambda event, cell, facts: found.append(cell.key)
    )
    assert sorted(found) == sorted(cell.key for cell in cells)
    assert [path.name for path in (runtime.store / "batches").iterdir()] == ["other.json"]
    assert {key for keys in cluster.sent for key in keys} == {cell.key for cell in cells[2:]}


def test_progress_is_told_from_the_mark(runtime: Runtime):
    store, cell, told = Store(runtime.store), cell_of(), []
    cluster = Paper(store, lambda store, batch: None)
    cluster.start = lambda batches_: store.begin(cell)
    steps = iter(range(1, 9))

    def gone() -> Mapping[str, str]:
        epoch = next(steps)
        time.sleep(0.01)
        if epoch < 4:
            heartbeat.tell(store.of(cell), {"epoch": epoch, "epochs": 3, "seconds": 1.0})
            return {}
        store.finish(cell, ok(cell))
        return {next((runtime.store / "batches").glob("*.json")).stem: ""}

    cluster.gone = gone

    def listen(event, cell, facts):
        told.append((event, facts.get("epoch")))

    assert schedule.run([cell], runtime, cluster, listener=listen)
    assert told == [("epoch", 1), ("epoch", 2), ("epoch", 3), ("done", None)]


def test_a_runtime_for_another_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    own = Input(path=Path("mine"), metadata=Path("mine.csv"))
    relative = Runtime(store=Path("s"), inputs={"folder:mine": own}, paths={"x": Path("x.py")})
    found = schedule.absolute(relative)
    assert (found.store, found.data) == (tmp_path / "s", tmp_path / "data")
    assert found.inputs["folder:mine"].path == tmp_path / "mine"
    assert found.inputs["folder:mine"].metadata == tmp_path / "mine.csv"
    assert found.paths == {"x": tmp_path / "x.py"}


@pytest.mark.parametrize(("code", "stopped"), [(0, False), (130, True), (-15, True), (-9, False)])
def test_what_counts_as_asked_to_stop(code: int, stopped: bool):
    assert worker.stopped(code) == stopped
    assert worker.stopped(-signal.SIGUSR2)


def test_marks_tell_the_living_from_the_dead(runtime: Runtime):
    store, cell = Store(runtime.store), cell_of()
    folder = store.begin(cell)
    mark = heartbeat.read(folder)
    assert mark is not None
    assert (mark.pid, mark.host, mark.facts) == (os.getpid(), socket.gethostname(), {})
    assert heartbeat.alive(mark)
    assert heartbeat.alive(mark._replace(host="elsewhere")) is None
    assert (
        heartbeat.alive(mark._replace(born=mark.born + "1")) is False
    )  # a later one of that number
    child = subprocess.Popen([sys.executable, "-c", ""])
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    assert heartbeat.alive(mark._replace(pid=child.pid)) is False  # dead, though unburied
    child.wait()
    assert heartbeat.alive(mark._replace(pid=child.pid)) is False
    heartbeat.tell(folder, {"epoch": 3})
    told = heartbeat.read(folder)
    assert told == mark._replace(facts={"epoch": 3})
    (folder / heartbeat.NAME).write_text("{")
    assert heartbeat.read(folder) is None
    heartbeat.tell(folder, {"epoch": 4})


# From here on with real processes.


@dataclass
class Processes:
    """A cluster of plain processes on this machine."""

    runtime: Runtime
    slots: int = 2
    every: float = 0.1
    nodes: dict[str, subprocess.Popen] = field(default_factory=dict)

    def start(self, batches_: Sequence[Batch]) -> None:
        for batch in batches_:
            words = [str(batch.file), self.runtime.model_dump_json()]
            self.nodes[batch.id] = subprocess.Popen([sys.executable, "-c", NODE, *words])

    def gone(self) -> Mapping[str, str]:
        return {name: "" for name, node in self.nodes.items() if node.poll() is not None}

    def known(self, jobs: Mapping[str, str]) -> set[str]:
        return set()

    def stop(self) -> None:
        for one in self.nodes.values():
            one.kill()


@pytest.fixture
def tiny(runtime: Runtime, request_tiny) -> list[Cell]:
    """Three cells that train for a second; features are there, so that what runs are heads."""
    made = plan.make(request_tiny(recipe={"epochs": 60}), runtime)
    return [planned.cell for planned in made.of("to run")]


@pytest.fixture
def alone(tmp_path: Path, runtime: Runtime, tiny: list[Cell]) -> dict[str, tuple]:
    """The numbers of a run in this very process; its caches are handed on."""
    apart = runtime.model_copy(update={"store": tmp_path / "alone"})
    assert local.run(tiny, apart, slots=0)
    for part in ("features", "prepared"):
        shutil.copytree(apart.store / part, runtime.store / part)
    return numbers(Store(apart.store))


def numbers(store: Store) -> dict[str, tuple]:
    return {
        outcome.key: (
            outcome.metrics,
            [h["loss"] for h in outcome.history],
            store.predictions(outcome.key)["scores"].tobytes(),
        )
        for outcome in store.outcomes()
        if outcome.status == "ok"
    }


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.timeout(600)
@pytest.mark.slow
@pytest.mark.parametrize("whose", ["node", "worker"])
def test_a_process_is_killed_and_a_local_run_agrees(
    runtime: Runtime, tiny: list[Cell], alone: dict[str, tuple], whose: str
):
    """A lost node costs nothing, a worker command that dies the cell it was at."""
    store, cluster, hits = Store(runtime.store), Processes(runtime), []

    def listen(event, cell, facts):
        living = [node.pid for node in cluster.nodes.values() if node.poll() is None]
        if event == "done" and not hits and living:
            hits.append(living[0] if whose == "node" else children(living[0])[0])
            os.kill(hits[0], signal.SIGKILL)

    assert schedule.run(tiny, runtime, cluster, listener=listen, size=3)
    assert hits
    found = numbers(store)
    assert found == {key: alone[key] for key in found}
    failed = [outcome.failure.kind for outcome in store.outcomes() if outcome.failure]
    assert len(found) + len(failed) == 3
    assert failed in (([],) if whose == "node" else ([], ["killed"]))


@pytest.mark.slow
def test_a_cell_that_kills_its_process_fails_alone(runtime: Runtime, request_tiny):
    runtime = runtime.model_copy(update={"paths": {**runtime.paths, "broken:die": BROKEN}})
    made = plan.make(request_tiny(fusions=("broken:die", "none"), folds=(0,)), runtime)
    cells = [planned.cell for planned in made.of("to run")]
    assert schedule.run(cells, runtime, Processes(runtime), size=2)
    found = {o.spec.fusion: o.failure for o in Store(runtime.store).outcomes()}
    assert found["none"] is None
    assert found["broken:die"].kind == "killed"
    assert "signal 9" in found["broken:die"].message


def test_a_batch_started_again_leaves_out_what_is_done(runtime: Runtime, tiny: list[Cell]):
    store = Store(runtime.store)
    store.prepare()
    store.fail(tiny[0], Failure(kind="oom", message="in this batch"))
    store.finish(tiny[1], ok(tiny[1]))
    raw = [{**worker.encode(cell), "before": None} for cell in tiny[:2]]
    file = runtime.store / "batch.json"
    file.write_text(json.dumps({"cells": raw}))
    assert node.wait(node.begin(file, runtime)) == 0
    outcomes = {outcome.key: outcome for outcome in store.outcomes()}
    assert outcomes[tiny[1].key] == ok(tiny[1])
    failure = outcomes[tiny[0].key].failure
    assert failure is not None
    assert failure.message == "in this batch"
    assert file.with_suffix(".log").read_text() == ""


def test_one_process_at_a_time_runs_a_cell(runtime: Runtime):
    """The next one waits until the first is gone, however it goes, or until it is told to stop."""
    runtime.store.mkdir()
    cell, stop = cell_of(), threading.Event()
    words = [sys.executable, "-c", HOLD, str(runtime.store)]
    other = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "True\n"
    with worker.alone(cell_of(fold=1), runtime.store, stop) as free:
        assert free
    began = time.monotonic()
    threading.Timer(1.0, other.kill).start()
    with worker.alone(cell, runtime.store, stop) as free:
        assert free
    assert time.monotonic() - began > 0.9
    other.communicate()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as third:
        assert third.stdout is not None
        third.stdout.readline()
        threading.Timer(0.5, stop.set).start()
        with worker.alone(cell, runtime.store, stop) as free:
            assert not free
        third.kill()


settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")
