"""What runs where, what failed and why, what is left and when it will be done."""

import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from benchmark import heartbeat
from benchmark.errors import Damaged
from benchmark.files import read_json
from benchmark.heartbeat import Mark
from benchmark.index import Summary
from benchmark.spec import UNFINISHED
from benchmark.store import PARTS, Store
from reports import render
from reports.render import Table

State = Literal["done", "skipped", "failed", "running", "died", "left"]


@dataclass(frozen=True)
class Standing:
    """Where a cell stands."""

    kind: str
    key: str
    state: State
    title: str = ""
    done: Summary | None = None
    mark: Mark | None = None
    sign: float = 0.0  # when the mark was last written, in seconds since 1970


@dataclass(frozen=True)
class Grid:
    """A request that was run, and where its cells stand."""

    name: str
    command: str
    began: float  # seconds since 1970
    cells: tuple[Standing, ...]

    def of(self, *states: State) -> list[Standing]:
        """The cells in these states."""
        return [cell for cell in self.cells if cell.state in states]

    @cached_property
    def seconds(self) -> float | None:
        """Until all is done, as the finished cells went and as many run; None if nobody knows."""
        running = self.of("running")
        todo = [*running, *self.of("left", "died")]
        times: dict[str, list[float]] = defaultdict(list)
        for cell in self.of("done"):
            assert cell.done is not None
            for kind in (cell.kind, ""):
                times[kind].append(cell.done.seconds)
        if not todo:
            return 0.0
        if not running or not times:
            return None
        alike = [times[cell.kind] if cell.kind in times else times[""] for cell in todo]
        return sum(sum(found) / len(found) for found in alike) / len(running)


@dataclass(frozen=True)
class Cause:
    """What cells failed of, and the command that tries them again."""

    kind: str
    message: str
    cells: tuple[Standing, ...]
    command: str


def show(store: Store, *, format: str = "table", now: float | None = None) -> str:
    """Every request that was run on the store, the latest first."""
    render.check(format)
    grids = gather(store)
    now = time.time() if now is None else now
    if format == "json":
        return render.javascript({"grids": [_grid(grid, now) for grid in grids]})
    if format == "csv":
        return render.comma_separated([_flat(grid, cell) for grid in grids for cell in grid.cells])
    tables = [_requests(grids, now), _running(grids, now), _failed(grids)]
    if not grids:
        return "Nothing was run on this store yet.\n"
    write = render.markdown if format == "md" else render.terminal
    return write([table for table in tables if table.lines])


def gather(store: Store) -> list[Grid]:
    """The requests with the standing of each of their cells."""
    known: dict[str, Standing] = {}
    asked, grids = store.grids(), []
    done = {(kind, row.key): row for kind in PARTS if asked for row in store.summaries(kind)}
    for facts in asked:
        for name in facts["cells"]:
            if name not in known:
                kind, _, key = name.partition("/")
                known[name] = standing(store, kind, key, done.get((kind, key)))
        cells = tuple(known[name] for name in facts["cells"])
        grids.append(Grid(facts["grid"], facts["command"], facts["began"], cells))
    return grids


def standing(store: Store, kind: str, key: str, done: Summary | None) -> Standing:
    """Where one cell stands, by its outcome and the mark of whoever runs it."""
    if done is not None and not done.failure:
        state: State = "done" if done.status == "ok" else "skipped"
        return Standing(kind, key, state, title(done.spec._asdict()), done)
    folder = store.folder(kind, key)
    mark = heartbeat.read(folder)
    if mark is not None:
        state = "died" if heartbeat.alive(mark) is False else "running"
        sign = (heartbeat.stamp(folder) or 0) / 1e9
        return Standing(kind, key, state, _asked(store, kind, key), done, mark, sign)
    if done is None or done.failure == "interrupted":
        return Standing(kind, key, "left", "", done)
    return Standing(kind, key, "failed", title(done.spec._asdict()), done)


def causes(grids: Sequence[Grid]) -> list[Cause]:
    """Each distinct cause once, with its cells and the latest command that asked for them."""
    found: dict[tuple[str, str], dict[str, Standing]] = {}
    commands: dict[tuple[str, str], str] = {}
    for grid in grids:
        for cell in grid.of("failed"):
            assert cell.done is not None
            cause = (cell.done.failure, cell.done.message)
            found.setdefault(cause, {})[cell.key] = cell
            again = "" if cause[0] in UNFINISHED else f" --retry {cause[0]}"
            commands.setdefault(cause, grid.command + again)
    return [Cause(*cause, tuple(cells.values()), commands[cause]) for cause, cells in found.items()]


def title(spec: Mapping[str, Any]) -> str:
    """A cell in the user's words."""
    if spec["kind"] == "pretrain":
        return f"pretraining on {spec['source']}"
    if spec["kind"] == "distance":
        return f"{spec['method']} {spec['source']} → {spec['target']}"
    where = f"{spec['source']} → {spec['target']}"
    return f"{where}, {spec['fusion']}, {spec['mode']}, fold {spec['fold']}, seed {spec['seed']}"


def _asked(store: Store, kind: str, key: str) -> str:
    try:
        return title(read_json(store.folder(kind, key) / "spec.json", key=key)["spec"])
    except Damaged as error:
        warnings.warn(f"{error.what} What the cell was asked is not known.", stacklevel=2)
    except (OSError, KeyError):
        pass
    return f"{kind} {key}"


def _requests(grids: Sequence[Grid], now: float) -> Table:
    lines = []
    for grid in grids:
        counts = [len(grid.of(state)) for state in ("done", "failed", "skipped", "running")]
        left = len(grid.of("left", "died"))
        lines.append([f"{_span(now - grid.began)} ago", *map(str, counts), str(left),
                      _when(grid, now), grid.command])  # fmt: skip
    head = ("began", "done", "failed", "skipped", "running", "left", "ready", "command")
    return Table("Requests", head, lines, words=("began", "ready", "command"))


def _when(grid: Grid, now: float) -> str:
    """When a request will be done: a span, and the clock of this machine."""
    if grid.seconds == 0:
        return "now"
    if grid.seconds is None:
        return "unknown"
    clock = time.localtime(now + grid.seconds)
    day = "%H:%M" if grid.seconds < 12 * 3600 else "%a %d %b %H:%M"
    return f"in {_span(grid.seconds)} ({time.strftime(day, clock)})"


def _running(grids: Sequence[Grid], now: float) -> Table:
    cells = {cell.key: cell for grid in grids for cell in grid.of("running", "died")}
    lines = []
    for cell in cells.values():
        assert cell.mark is not None
        facts, mark = cell.mark.facts, cell.mark
        epoch = f"{facts['epoch']}/{facts['epochs']}" if "epochs" in facts else "–"
        lines.append([cell.title, cell.state, f"{mark.host}:{mark.pid}", _span(now - mark.since),
                      epoch, f"{_span(now - cell.sign)} ago"])  # fmt: skip
    notes = ["A cell whose process died goes on from its last checkpoint when its request is run "
             "again."] if any(cell.state == "died" for cell in cells.values()) else []  # fmt: skip
    head = ("cell", "state", "where", "for", "epoch", "last sign")
    return Table("Running", head, lines, words=("cell", "state", "where"), notes=notes)


def _failed(grids: Sequence[Grid]) -> Table:
    lines = [
        [str(len(c.cells)), f"{c.message} ({c.kind})", c.cells[0].title, c.command]
        for c in causes(grids)
    ]
    head = ("cells", "cause", "for instance", "again with")
    return Table("Failed", head, lines, words=head[1:])


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} days"


def _grid(grid: Grid, now: float) -> dict[str, Any]:
    seconds = grid.seconds
    return {
        "grid": grid.name,
        "command": grid.command,
        "began": grid.began,
        "seconds_left": seconds,
        "ready": None if seconds is None else now + seconds,
        **{state: len(grid.of(state)) for state in ("done", "failed", "skipped")},
        "left": len(grid.of("left", "died")),
        "running": [_flat(grid, cell) for cell in grid.of("running", "died")],
        "failures": [
            {"kind": c.kind, "message": c.message, "cells": [cell.key for cell in c.cells],
             "again": c.command}
            for c in causes([grid])
        ],
    }  # fmt: skip


def _flat(grid: Grid, cell: Standing) -> dict[str, Any]:
    mark, done = cell.mark, cell.done
    failed = done if cell.state == "failed" else None
    return {
        "grid": grid.name,
        "kind": cell.kind,
        "key": cell.key,
        "cell": cell.title,
        "state": cell.state,
        "host": mark.host if mark else None,
        "pid": mark.pid if mark else None,
        "since": mark.since if mark else None,
        "last_sign": cell.sign if mark else None,
        "epoch": mark.facts.get("epoch") if mark else None,
        "epochs": mark.facts.get("epochs") if mark else None,
        "seconds": done.seconds if done else None,
        "failure": failed.failure if failed else None,
        "cause": failed.message if failed else None,
    }
