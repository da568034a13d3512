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
from reports.render import Column, Table, told

State = Literal["done", "skipped", "failed", "running", "died", "left"]
COUNTED: tuple[State, ...] = ("done", "failed", "skipped")


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
    if not grids and format in ("table", "md"):
        return "Nothing was run on this store yet.\n"
    tables = [_requests(grids, now), _running(grids, now), _failed(grids)]
    return render.write(
        format,
        [table for table in tables if table.rows],
        fields=(row for grid in grids for row in _cells(grid, grid.cells)),
        json=lambda _: {"grids": [_grid(grid, now) for grid in grids]},
    )


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
    on = f", tested on {spec['tested_on']}" if spec.get("tested_on") else ""
    drawn = f"fold {spec['fold']}, seed {spec['seed']}"
    return f"{where}, {spec['fusion']}, {spec['mode']}, {drawn}{on}"


def _asked(store: Store, kind: str, key: str) -> str:
    try:
        return title(read_json(store.folder(kind, key) / "spec.json", key=key)["spec"])
    except Damaged as error:
        warnings.warn(f"{error.what} What the cell was asked is not known.", stacklevel=2)
    except (OSError, KeyError):
        pass
    return f"{kind} {key}"


def _requests(grids: Sequence[Grid], now: float) -> Table:
    columns = [
        Column("began", lambda grid: f"{_span(now - grid.began)} ago", words=True),
        *(
            Column(name, lambda grid, state=name: len(grid.of(state)))
            for name in (*COUNTED, "running")
        ),
        Column("left", lambda grid: len(grid.of("left", "died"))),
        Column("ready", lambda grid: _when(grid, now), words=True),
        Column("command", "command", words=True),
    ]
    return Table("Requests", columns, grids)


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
    cells = {cell.key: cell for grid in grids for cell in grid.of("running", "died")}.values()
    columns = [
        Column("cell", "title", words=True),
        Column("state", "state", words=True),
        Column("where", lambda cell: f"{cell.mark.host}:{cell.mark.pid}", words=True),
        Column("for", lambda cell: _span(now - cell.mark.since)),
        Column("epoch", lambda cell: cell.mark.facts, _epoch),
        Column("last sign", lambda cell: f"{_span(now - cell.sign)} ago"),
    ]
    notes = ["A cell whose process died goes on from its last checkpoint when its request is run "
             "again."] if any(cell.state == "died" for cell in cells) else []  # fmt: skip
    return Table("Running", columns, list(cells), notes=notes)


def _epoch(facts: Mapping[str, Any]) -> str:
    return f"{facts['epoch']}/{facts['epochs']}" if "epochs" in facts else "–"


def _failed(grids: Sequence[Grid]) -> Table:
    columns = [
        Column("cells", lambda cause: len(cause.cells)),
        Column("cause", lambda cause: f"{cause.message} ({cause.kind})", words=True),
        Column("for instance", lambda cause: cause.cells[0].title, words=True),
        Column("again with", "command", words=True),
    ]
    return Table("Failed", columns, causes(grids))


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
        **{state: len(grid.of(state)) for state in COUNTED},
        "left": len(grid.of("left", "died")),
        "running": _cells(grid, grid.of("running", "died")),
        "failures": [
            {"kind": c.kind, "message": c.message, "cells": [cell.key for cell in c.cells],
             "again": c.command}
            for c in causes([grid])
        ],
    }  # fmt: skip


def _cells(grid: Grid, cells: Sequence[Standing]) -> list[dict[str, Any]]:
    return Table("", FIELDS, cells, facts={"grid": grid.name}).fields()


FIELDS = (
    *map(told, ("kind", "key")),
    told("cell", "title"),
    told("state"),
    *(told(name, f"mark.{name}") for name in ("host", "pid", "since")),
    told("last_sign", lambda cell: cell.sign if cell.mark else None),
    *(told(name, f"mark.facts.{name}") for name in ("epoch", "epochs")),
    told("seconds", "done.seconds"),
    told("failure", lambda cell: cell.done.failure if cell.state == "failed" else None),
    told("cause", lambda cell: cell.done.message if cell.state == "failed" else None),
)
