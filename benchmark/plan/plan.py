"""Says of every cell asked for whether it is done, to run, failed or skipped, and what is left."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark import index
from benchmark.errors import BenchError
from benchmark.index import Summary
from benchmark.plan import distances, expand
from benchmark.plan.parts import Why
from benchmark.plan.request import Asked, DistanceRequest, Request
from benchmark.spec import (
    UNFINISHED,
    Cell,
    DistanceSpec,
    Failure,
    PretrainSpec,
    RunSpec,
    Runtime,
    canonical,
)
from benchmark.store import PARTS, Store

if TYPE_CHECKING:
    from benchmark.plan.pace import Foresight

#: Cells from which a look at the whole store is quicker than one for each.
MANY = 100

State = Literal["done", "to run", "failed", "skipped"]


class Planned(NamedTuple):
    """A cell, where it stands, and why."""

    cell: Cell
    state: State
    why: str = ""
    failure: Failure | None = None  # found by the plan, and not yet in the store


@dataclass(frozen=True)
class Plan:
    """The cells in the order they are run, pretraining first, and notes for the user."""

    cells: list[Planned]
    notes: list[str]

    def of(self, state: State) -> list[Planned]:
        """The cells in one state."""
        return [planned for planned in self.cells if planned.state == state]


class Estimated(NamedTuple):
    """What the cells to run will take, by what finished cells took or by a batch measured."""

    seconds: float | None
    bytes: float | None
    unknown: int  # cells that resemble none that is finished
    gpu_seconds: float = 0.0  # of the seconds, those on a GPU
    measured: bool = False  # one batch was, for the cells that resemble none
    frozen: float = 0.0  # seconds that those of them that are fine-tuned would take frozen


def make(asked: Asked | Sequence[Asked], runtime: Runtime, *, retry: Sequence[str] = ()) -> Plan:
    """Every cell asked for, each once and after what it builds on, with its state in the store."""
    notes, store = list[str](), Store(runtime.store)
    asked_for: dict[str, tuple[Cell, Why]] = {}
    for request in [asked] if isinstance(asked, Asked) else asked:
        for cell, why in _cells(request, runtime, notes):
            asked_for.setdefault(cell.key, (cell, why))
    causes = {str(why): why for _, why in asked_for.values()}
    if len(causes) == 1 and isinstance(cause := next(iter(causes.values())), BenchError):
        raise cause  # it is all that was asked for
    notes += [str(why) for why in causes.values() if isinstance(why, BenchError)]
    for kind in PARTS if len(asked_for) > MANY else ():
        store.summaries(kind)  # all at once, and the next command knows them
    cells = {key: _state(*pair, store, retry) for key, pair in asked_for.items()}
    waiting = [p.cell for p in cells.values() if p.state == "to run"]
    needed = {key for cell in waiting for _, key in cell.upstream()}
    ordered = [p for p in cells.values() if p.state != "to run" or not _idle(p, needed, store)]
    return Plan(sorted(ordered, key=_order), list(dict.fromkeys(notes)))


def _cells(asked: Asked, runtime: Runtime, notes: list[str]) -> Iterator[tuple[Cell, Why]]:
    if isinstance(asked, DistanceRequest):
        return distances.cells(asked, runtime, notes)
    assert isinstance(asked, Request)
    return expand.runs(asked, runtime, notes)


def estimate(plan: Plan, store: Store, foresight: "Foresight | None" = None) -> Estimated:
    """Seconds and bytes of the cells to run, from the finished cells most like each.

    Where none is, and they are worth it, `foresight` tells.
    """
    past: dict[tuple, list[Summary]] = defaultdict(list)
    for done in (row for kind in PARTS for row in store.summaries(kind) if row.status == "ok"):
        for like in _likes(done.spec):
            past[like].append(done)
    seconds, gpu_seconds, disk, unlike = 0.0, 0.0, 0.0, list[Cell]()
    waiting = [planned.cell for planned in plan.of("to run")]
    for cell in waiting:
        alike = next((past[like] for like in _likes(_asked(cell)) if like in past), [])
        if not alike:
            unlike.append(cell)
            continue
        seconds += sum(one.seconds for one in alike) / len(alike)
        on_gpu = (one.seconds for one in alike if one.device.startswith("cuda"))
        gpu_seconds += sum(on_gpu) / len(alike)
        disk += sum(one.bytes for one in alike) / len(alike)
    told = []
    if foresight is not None and foresight.worth(unlike):
        told = [one for one in map(foresight.of, unlike) if one is not None]
    seconds += sum(took for took, _ in told)
    disk += sum(size for _, size in told)
    frozen = foresight.frozen if foresight else 0.0
    if len(unlike) == len(waiting) and not seconds:
        return Estimated(None, None, len(unlike))
    left = len(unlike) - len(told)
    return Estimated(seconds, disk, left, gpu_seconds, bool(told), frozen)


def again(plan: Plan, store: Store) -> dict[str, str]:
    """For each cell to run that resembles a finished one: what differs, by the cell's key."""
    past: dict[tuple, list[Summary]] = defaultdict(list)
    for done in (row for kind in PARTS for row in store.summaries(kind)):
        past[done.spec.identity].append(done)
    found = {}
    for planned in plan.of("to run"):
        cell, spec = planned.cell, _asked(planned.cell)
        if alike := [done for done in past.get(spec.identity, ()) if done.key != cell.key]:
            new = _flat(spec, cell.versions)
            others = [_differences(_flat(done.spec, done.versions), new) for done in alike]
            found[cell.key] = "differs from a finished cell in " + ", ".join(min(others, key=len))
    return found


def _state(cell: Cell, why: Why, store: Store, retry: Sequence[str]) -> Planned:
    done = store.summary(cell.spec.kind, cell.key)
    if isinstance(why, BenchError) and (done is None or done.status != "ok"):
        failure = Failure.of(why)
        return Planned(cell, "failed", f"{failure.kind}: {failure.message}", failure)
    if why and isinstance(why, str):
        return Planned(cell, "skipped", why)
    if done is None:
        return Planned(cell, "to run")
    if done.status == "ok":
        return Planned(cell, "done")
    if done.status == "skipped":
        return Planned(cell, "skipped", done.reason)
    if done.failure in (*UNFINISHED, *retry) or "all" in retry:
        return Planned(cell, "to run", f"again: {done.failure}")
    return Planned(cell, "failed", f"{done.failure}: {done.message}")


def _idle(planned: Planned, needed: set[str], store: Store) -> bool:
    """A pretraining that nothing to run waits for, and that was not damaged either."""
    if not isinstance(planned.cell.spec, PretrainSpec) or planned.cell.key in needed:
        return False
    return bool(planned.why) or not store.of(planned.cell).is_dir()


def _order(planned: Planned) -> tuple:
    """Pretraining first; then cells side by side that share data, weights and features."""
    spec = planned.cell.spec
    if isinstance(spec, RunSpec):
        shared = (
            spec.target,
            canonical(spec.recipe.size),
            spec.arch,
            spec.weights or "",
            spec.mode,
        )
        own = (spec.protocol, spec.fusion, spec.partition, spec.train_size, spec.seed, spec.fold)
        after = 3 if spec.again else 2 if spec.base else 1
        return (after, *shared, *own, spec.missing, spec.tested_on)
    if isinstance(spec, DistanceSpec):
        return (4, spec.target, spec.arch, spec.weights or "", spec.method, spec.source, spec.seed)
    return (0, spec.source, spec.arch, spec.seed)


def _asked(cell: Cell) -> index.Asked:
    return index.asked(cell.spec.model_dump(mode="json"))


def _likes(spec: index.Asked) -> Iterator[tuple]:
    """What makes the time of two cells alike, the nearest first."""
    if spec.kind == "pretrain":
        yield ("pretrain", spec.source, spec.arch, spec.recipe)
        yield ("pretrain", spec.source, spec.arch)
    elif spec.kind == "run":
        again = spec.missing != "", spec.tested_on
        alike = ("run", spec.target, spec.arch, spec.mode, spec.train_size, *again)
        yield (*alike, spec.fusion, spec.recipe)
        yield (*alike, spec.recipe)
        yield alike
    else:
        yield ("distance", spec.method, spec.arch, json.loads(spec.rest)["limit"])


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Fields and versions that changed, as `name old -> new`."""
    return [
        f"{k} {old.get(k)} -> {new.get(k)}"
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k)
    ]


def _flat(spec: index.Asked, versions: dict[str, str]) -> dict[str, Any]:
    """What two cells of one name may differ in."""
    fields = {"recipe": json.loads(spec.recipe or "{}"), **json.loads(spec.rest)}
    return dict(_leaves(fields)) | {"version of " + k: v for k, v in versions.items()}


def _leaves(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f"{prefix}{name}.")
        else:
            yield prefix + name, item
