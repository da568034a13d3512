"""What `bench status` says of a store, worked by hand."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stores import ok

from benchmark.errors import BenchError
from benchmark.heartbeat import NAME, read, tell
from benchmark.spec import Cell, DistanceSpec, Failure, PretrainSpec, Recipe, RunSpec
from benchmark.store import Store
from reports import status

COMMAND = "bench run --target b --source a"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run_of(fold: int) -> Cell:
    return Cell.of(RunSpec(source="a", target="b", fold=fold))


def finish(store: Store, cell: Cell, seconds: float) -> None:
    store.finish(cell, ok(cell, seconds={"total": seconds}))


def begin(store: Store, cell: Cell, **facts) -> None:
    folder = store.begin(cell)
    mark = json.loads((folder / NAME).read_text())
    (folder / NAME).write_text(json.dumps({**mark, **facts}))


@pytest.fixture
def mixed(store: Store) -> Store:
    """Of ten cells: 3 done, 1 skipped, 2 failed, 2 running, 1 died, 1 not begun."""
    cells = [run_of(i) for i in range(9)]
    weights = Cell.of(PretrainSpec(source="a", recipe=Recipe()))
    finish(store, weights, 100)
    finish(store, cells[0], 10)
    finish(store, cells[1], 30)
    store.finish(cells[2], ok(cells[2], status="skipped", reason="no record"))
    for cell in cells[3:5]:
        store.fail(cell, Failure(kind="oom", message="Out of memory."))
    begin(store, cells[5], epoch=3, epochs=60)
    begin(store, cells[6], host="node7", pid=4321)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    begin(store, cells[7], pid=dead.pid)
    store.fail(cells[8], Failure(kind="interrupted", message="Stopped."))
    store.record_grid([weights, *cells], COMMAND)
    return store


def test_a_request_is_counted_and_foretold(mixed: Store):
    now = time.time() + 7200
    (grid,) = json.loads(status.show(mixed, format="json", now=now))["grids"]
    counts = {name: grid[name] for name in ("done", "failed", "skipped", "left")}
    assert counts == {"done": 3, "failed": 2, "skipped": 1, "left": 2}
    assert grid["command"] == COMMAND
    assert grid["seconds_left"] == 4 * 20 / 2  # runs take 20 s, pretraining is no measure
    assert grid["ready"] == now + 40
    running = {cell["host"]: cell for cell in grid["running"] if cell["state"] == "running"}
    mine = running[socket.gethostname()]
    assert (mine["pid"], mine["epoch"], mine["epochs"]) == (os.getpid(), 3, 60)
    assert mine["cell"] == "a → b, none, finetune, fold 5, seed 0"
    assert (running["node7"]["pid"], running["node7"]["epoch"]) == (4321, None)
    assert [cell["state"] for cell in grid["running"]].count("died") == 1
    assert grid["failures"] == [
        {
            "kind": "oom",
            "message": "Out of memory.",
            "cells": sorted(run_of(i).key for i in (3, 4)),
            "again": f"{COMMAND} --retry oom",
        }
    ]


def test_the_table_says_it_in_words(mixed: Store):
    text = status.show(mixed, now=time.time() + 7200)
    (line,) = [line for line in text.splitlines() if "2.0 h ago" in line and COMMAND in line]
    assert line.split()[3:8] == ["3", "2", "1", "2", "2"]
    assert "in 40 s (" in line
    assert f"{socket.gethostname()}:{os.getpid()}" in text
    assert "3/60" in text
    assert "died" in text
    assert "Out of memory. (oom)" in text
    assert f"{COMMAND} --retry oom" in text
    markdown = status.show(mixed, format="md")
    assert markdown.count("## ") == 3
    assert "| node7:4321 |" in markdown


def test_one_line_per_cell_for_a_program(mixed: Store):
    rows = list(csv.DictReader(io.StringIO(status.show(mixed, format="csv"))))
    states = sorted(row["state"] for row in rows)
    assert states == sorted(
        ["done"] * 3 + ["skipped", "failed", "failed", "running", "running", "died", "left"]
    )
    failed = next(row for row in rows if row["state"] == "failed")
    assert (failed["failure"], failed["cause"]) == ("oom", "Out of memory.")
    assert {row["kind"] for row in rows} == {"run", "pretrain"}


def test_when_nobody_knows_it_says_so(store: Store):
    assert status.show(store) == "Nothing was run on this store yet.\n"
    cells = [run_of(i) for i in range(3)]
    store.record_grid(cells, COMMAND)
    assert "unknown" in status.show(store)
    begin(store, cells[0])
    assert "unknown" in status.show(store)  # nothing is finished that it could go by
    finish(store, cells[1], 50)
    assert "in 100 s" not in status.show(store)
    assert "in 2 min" in status.show(store)
    for cell in cells:
        finish(store, cell, 50)
    assert " now " in status.show(store)


def test_a_cause_is_shown_once_and_with_the_latest_command(store: Store):
    cells = [run_of(i) for i in range(4)]
    for cell in cells:
        store.fail(cell, Failure(kind="killed", message="The worker died (signal 9)."))
    store.record_grid(cells[:3], "bench run old")
    path = next((store.root / "grids").glob("*.json"))
    path.write_text(json.dumps({**json.loads(path.read_text()), "began": 0.0}))
    store.record_grid(cells[2:], "bench run new")
    assert [grid.command for grid in status.gather(store)] == ["bench run new", "bench run old"]
    (cause,) = status.causes(status.gather(store))
    assert len(cause.cells) == 4
    assert cause.command == "bench run new"  # a plain run tries those again


@pytest.mark.parametrize("ahead", [3600.0, -3600.0])
def test_a_clock_that_is_set_makes_no_living_run_look_dead(
    store: Store, monkeypatch: pytest.MonkeyPatch, ahead: float
):
    store.begin(cell := run_of(0))
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + ahead)
    assert status.standing(store, "run", cell.key, None).state == "running"


def test_a_cell_tried_again_is_running(store: Store):
    cell = run_of(0)
    store.fail(cell, Failure(kind="oom", message="Out of memory."))
    begin(store, cell)
    assert (
        status.standing(store, "run", cell.key, store.summary("run", cell.key)).state == "running"
    )
    finish(store, cell, 1)
    now = status.standing(store, "run", cell.key, store.summary("run", cell.key))
    assert now.state == "done"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (PretrainSpec(source="dtd", recipe=Recipe()), "pretraining on dtd"),
        (DistanceSpec(source="dtd", target="isic", method="otdd"), "otdd dtd → isic"),
    ],
)
def test_other_cells_have_titles_too(spec, words: str):
    assert status.title(spec.model_dump()) == words


def test_an_unknown_format_is_refused(store: Store):
    with pytest.raises(BenchError, match="jsn"):
        status.show(store, format="jsn")


def test_a_thousand_cells_take_no_second(store: Store):
    cells = [run_of(i) for i in range(1000)]
    for cell in cells[:100]:
        finish(store, cell, 1)
    store.record_grid(cells, COMMAND)
    began = time.process_time()
    status.show(store)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("how", ["changed", "cut", "of another cell"])
def test_what_a_running_cell_was_asked_is_believed_only_whole(store: Store, how: str):
    cell = run_of(0)
    path = store.begin(cell) / "spec.json"
    content = path.read_bytes()
    if how == "changed":
        path.write_bytes(content.replace(b'"b"', b'"c"'))
    elif how == "cut":
        path.write_bytes(content[:20])
    else:
        path.write_bytes((store.begin(run_of(1)) / "spec.json").read_bytes())
    with pytest.warns(UserWarning, match="spec.json is damaged"):
        assert status.standing(store, "run", cell.key, None).title == f"run {cell.key}"


def test_a_damaged_mark_is_told(tmp_path: Path):
    (tmp_path / NAME).write_bytes(b'{"pid": 1\0\0')
    with pytest.warns(UserWarning, match="damaged"):
        assert read(tmp_path) is None


def test_a_mark_in_which_a_digit_was_changed_is_told(store: Store):
    folder = store.begin(run_of(0))
    tell(folder, {"epoch": 3})
    before = (folder / NAME).read_bytes()
    after = before.replace(b'"epoch": 3', b'"epoch": 7')
    assert after != before
    (folder / NAME).write_bytes(after)
    with pytest.warns(UserWarning, match="damaged"):
        assert read(folder) is None
