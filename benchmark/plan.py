"""Says of every cell asked for whether it is done, to run, failed or skipped, and what is left."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchmark import expand
from benchmark.expand import DistanceRequest, Request
from benchmark.spec import (
    UNFINISHED,
    Cell,
    DistanceSpec,
    Outcome,
    PretrainSpec,
    RunSpec,
    Runtime,
    canonical,
)
from benchmark.store import PARTS, Store

if TYPE_CHECKING:
    from benchmark.pace import Foresight

State = Literal["done", "to run", "failed", "skipped"]


class Planned(NamedTuple):
    """A cell, where it stands, and why."""

    cell: Cell
    state: State
    why: str = ""


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


def make(
    asked: Request | Sequence[Request], runtime: Runtime, *, retry: Sequence[str] = ()
) -> Plan:
    """Every cell asked for, each once, with its state in the store."""
    notes = list[str]()
    requests = [asked] if isinstance(asked, Request) else asked
    found = (pair for request in requests for pair in expand.runs(request, runtime, notes))
    return _plan(found, Store(runtime.store), retry, notes)


def make_distances(
    request: DistanceRequest, runtime: Runtime, *, retry: Sequence[str] = ()
) -> Plan:
    """Every distance asked for, each once, after the pretraining of the network it looks with."""
    notes = list[str]()
    return _plan(expand.distances(request, runtime, notes), Store(runtime.store), retry, notes)


def _plan(
    found: Iterable[tuple[Cell, str]], store: Store, retry: Sequence[str], notes: list[str]
) -> Plan:
    cells: dict[str, Planned] = {}
    for cell, skip in found:
        if cell.key not in cells:
            cells[cell.key] = _state(cell, skip, store, retry)
    waiting = [p.cell for p in cells.values() if p.state == "to run"]
    needed = {key for cell in waiting for _, key in cell.upstream()}
    ordered = [p for p in cells.values() if p.state != "to run" or not _idle(p, needed)]
    return Plan(sorted(ordered, key=_order), list(dict.fromkeys(notes)))


def estimate(plan: Plan, store: Store, foresight: "Foresight | None" = None) -> Estimated:
    """Seconds and bytes of the cells to run, from the finished cells most like each.

    Where none is, and they are worth it, `foresight` tells.
    """
    times: dict[tuple, list[float]] = defaultdict(list)
    on_gpu: dict[tuple, list[float]] = defaultdict(list)
    sizes: dict[tuple, list[float]] = defaultdict(list)
    for kind in PARTS:
        for outcome in store.outcomes(kind):
            if outcome.status == "ok":
                folder = store.folder(kind, outcome.key)
                size = sum(path.stat().st_size for path in folder.iterdir())
                took = outcome.seconds.get("total", 0.0)
                gpu = outcome.environment.get("device", "").startswith("cuda")
                for like in _likes(outcome.spec):
                    times[like].append(took)
                    on_gpu[like].append(took if gpu else 0.0)
                    sizes[like].append(size)
    seconds, gpu_seconds, disk, unlike, known = 0.0, 0.0, 0.0, list[Cell](), 0
    for planned in plan.of("to run"):
        like = next((like for like in _likes(planned.cell.spec) if like in times), None)
        if like is None:
            unlike.append(planned.cell)
            continue
        known += 1
        seconds += sum(times[like]) / len(times[like])
        gpu_seconds += sum(on_gpu[like]) / len(on_gpu[like])
        disk += sum(sizes[like]) / len(sizes[like])
    told = []
    if foresight is not None and foresight.worth(unlike):
        told = [one for one in map(foresight.of, unlike) if one is not None]
    seconds += sum(took for took, _ in told)
    disk += sum(size for _, size in told)
    frozen = foresight.frozen if foresight else 0.0
    if not known and not seconds:
        return Estimated(None, None, len(unlike))
    left = len(unlike) - len(told)
    return Estimated(seconds, disk, left, gpu_seconds, bool(told), frozen)


def again(plan: Plan, store: Store) -> dict[str, str]:
    """For each cell to run that resembles a finished one: what differs, by the cell's key."""
    past: dict[tuple, list[Outcome]] = defaultdict(list)
    for kind in PARTS:
        for outcome in store.outcomes(kind):
            past[_identity(outcome.spec)].append(outcome)
    found = {}
    for planned in plan.of("to run"):
        cell = planned.cell
        others = [
            _differences(outcome, cell)
            for outcome in past.get(_identity(cell.spec), ())
            if outcome.key != cell.key
        ]
        if others:
            found[cell.key] = "differs from a finished cell in " + ", ".join(min(others, key=len))
    return found


def _state(cell: Cell, skip: str, store: Store, retry: Sequence[str]) -> Planned:
    done = store.outcome(cell.spec.kind, cell.key)
    if skip:
        return Planned(cell, "skipped", skip)
    if done is None:
        return Planned(cell, "to run")
    if done.status == "ok":
        return Planned(cell, "done")
    if done.status == "skipped":
        return Planned(cell, "skipped", done.reason)
    assert done.failure is not None
    kind = done.failure.kind
    if kind in UNFINISHED or kind in retry or "all" in retry:
        return Planned(cell, "to run", f"again: {kind}")
    return Planned(cell, "failed", f"{kind}: {done.failure.message}")


def _idle(planned: Planned, needed: set[str]) -> bool:
    """A pretraining that nothing to run waits for."""
    return isinstance(planned.cell.spec, PretrainSpec) and planned.cell.key not in needed


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
        own = (spec.protocol, spec.fusion, spec.partition, spec.seed, spec.fold)
        return (2 if spec.base else 1, *shared, *own)
    if isinstance(spec, DistanceSpec):
        return (3, spec.target, spec.arch, spec.weights or "", spec.method, spec.source, spec.seed)
    return (0, spec.source, spec.arch, spec.seed)


def _likes(spec) -> Iterator[tuple]:
    """What makes the time of two cells alike, the nearest first."""
    if isinstance(spec, PretrainSpec):
        yield ("pretrain", spec.source, spec.arch, canonical(spec.recipe.model_dump(mode="json")))
        yield ("pretrain", spec.source, spec.arch)
    elif isinstance(spec, RunSpec):
        recipe = canonical(spec.recipe.model_dump(mode="json"))
        yield ("run", spec.target, spec.arch, spec.mode, spec.fusion, recipe)
        yield ("run", spec.target, spec.arch, spec.mode, recipe)
        yield ("run", spec.target, spec.arch, spec.mode)
    else:
        yield ("distance", spec.method, spec.arch, spec.limit)


def _identity(spec) -> tuple:
    """What the user names when asking for a cell; all else can make it run again."""
    if isinstance(spec, RunSpec):
        return ("run", spec.source, spec.target, spec.fusion, spec.arch, spec.mode, spec.protocol,
                spec.fold, spec.partition, spec.seed, spec.pretrain_seed)  # fmt: skip
    if isinstance(spec, DistanceSpec):
        return ("distance", spec.source, spec.target, spec.method, spec.arch, spec.seed,
                spec.pretrain_seed)  # fmt: skip
    return (spec.kind, spec.source, spec.arch, spec.seed)


def _differences(outcome: Outcome, cell: Cell) -> list[str]:
    """Fields and versions that changed, as `name old -> new`."""
    old = {"version of " + k: v for k, v in outcome.versions.items()}
    new = {"version of " + k: v for k, v in cell.versions.items()}
    old.update(_flat(outcome.spec.model_dump(mode="json")))
    new.update(_flat(cell.spec.model_dump(mode="json")))
    return [
        f"{k} {old.get(k)} -> {new.get(k)}"
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k)
    ]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, item in value.items():
        if isinstance(item, dict):
            flat.update(_flat(item, f"{prefix}{name}."))
        else:
            flat[prefix + name] = item
    return flat
