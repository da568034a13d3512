"""`bench run`: plan, prepare the data once, run what is left, and say what came of it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmark import images, registry
from benchmark.data import label_sets, leaks, prepare
from benchmark.engine import local
from benchmark.errors import BenchError, did_you_mean, unreadable
from benchmark.plan import plan, subgroups
from benchmark.plan.pace import Foresight
from benchmark.plan.progress import Progress, duration, say, show, title
from benchmark.plan.request import Asked
from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Outcome,
    PretrainSpec,
    RunSpec,
    Runtime,
    Size,
)
from benchmark.store import Store

#: Seconds from which the quick way is worth a line.
LONG = 1800.0


class Mirror(Protocol):
    """What shows outcomes elsewhere; neither call may take long."""

    def begin(self) -> None:
        """Cells start now."""
        ...

    def add(self, outcome: Outcome) -> None:
        """A cell has its outcome, which is in the store."""
        ...


@dataclass(frozen=True)
class Executor:
    """Where cells run: on this machine, as a Slurm array, or on a Ray cluster."""

    name: str = "local"
    slots: int | None = None  # cells at once per GPU, or Slurm jobs at once
    address: str = "auto"  # of the Ray cluster
    settings: Mapping[str, str] = field(default_factory=dict)  # sbatch's long options

    def __post_init__(self) -> None:
        known = ("local", "slurm", "ray")
        if self.name not in known:
            raise BenchError(
                f"No executor named '{self.name}'.", did_you_mean(self.name, list(known))
            )
        if self.slots is not None and self.slots < 0:
            raise BenchError(f"--slots is {self.slots}.", "Give 0 or more.")


def run(
    asked: Asked | Sequence[Asked],
    runtime: Runtime,
    *,
    retry: Sequence[str] = (),
    dry: bool = False,
    executor: Executor = Executor(),
    mirror: Mirror | None = None,
    command: str = "bench run",
) -> int:
    """Run what is asked for, every new outcome mirrored; 0 when every cell has its numbers."""
    store = Store(runtime.store)
    store.prepare()
    store.sweep()
    made = plan.make(asked, runtime, retry=retry)
    for note in made.notes:
        say(f"Note: {note}")
    foresight = Foresight(runtime) if executor.name == "local" else None
    if runtime.offline:
        _need_fetched(made, runtime)
    if dry:
        _show(made, store)
        _say_summary(made)
        _say_estimate(made, store, foresight)
        return 0
    for planned in made.of("skipped"):
        _note_skip(store, planned)
    for planned in made.of("done"):
        store.tidy(planned.cell)
    cells = [planned.cell for planned in made.of("to run")]
    store.record_grid([planned.cell for planned in made.cells], command)
    _say_summary(made)
    broken = [(planned.cell, planned.failure) for planned in made.cells if planned.failure]
    for cell, failure in broken:
        store.fail(cell, failure)
    if not cells:
        subgroups.add(asked, made, runtime)
        _say_failures(broken)
        return 2 if _say_failed_before(made) or broken else 0
    if runtime.device.startswith("cuda") and executor.name == "local" and not local.visible_gpus():
        from benchmark.train.context import device_of

        device_of(runtime)  # torch has the last word on whether there is a GPU
    if not made.of("done"):
        _say_estimate(made, store, foresight)
    cells, unprepared = _prepare(cells, runtime, store)
    if cells:
        subgroups.check(asked, made, runtime)
    began = time.monotonic()
    if mirror is not None and cells:
        mirror.begin()
    with Progress(len(cells)) as progress:

        def listen(event: str, cell: Cell, facts: dict[str, Any]) -> None:
            progress.listen(event, cell, facts)
            if event == "done" and mirror is not None:
                mirror.add(facts["outcome"])

        whole = _execute(executor, cells, runtime, listen)
    if not whole:
        left = len(cells) - progress.finished
        say(f"Stopped. {left} cells are left; go on with the same command:\n  {command}")
        return 130
    subgroups.add(asked, made, runtime)
    failures = [*broken, *unprepared, *progress.failures]
    took = duration(time.monotonic() - began)
    say(f"{progress.finished - len(progress.failures)} cells done in {took}.")
    _say_failures(failures)
    silent = len(cells) - progress.finished
    if silent:
        say(f"{silent} cells ended without an outcome; run the same command again.")
    return 2 if _say_failed_before(made) or failures or silent else 0


def _execute(
    executor: Executor, cells: list[Cell], runtime: Runtime, listener: local.Listener
) -> bool:
    """Hand the cells to where they run; False if the user stopped it."""
    usual = 16 if executor.name == "slurm" else 1
    slots = usual if executor.slots is None else executor.slots
    if executor.name == "local":
        gpus = [] if runtime.device == "cpu" else local.visible_gpus()
        return local.run(cells, runtime, gpus=gpus, listener=listener, slots=slots)
    if executor.name == "slurm":
        from benchmark.engine import slurm

        return slurm.run(cells, runtime, listener=listener, options=executor.settings, slots=slots)
    from benchmark.engine import ray

    return ray.run(cells, runtime, listener=listener, address=executor.address, slots=slots)


def _prepare(
    cells: list[Cell], runtime: Runtime, store: Store
) -> tuple[list[Cell], list[tuple[Cell, Failure]]]:
    """Decode every set once before workers start; what cannot be read costs its cells only."""
    broken: dict[str, Failure] = {}
    unseen = _records(cells, runtime)
    for name, size, constancy, drawn in dict.fromkeys(
        use for cell in cells for use in _sets(cell, runtime)
    ):
        shown = [time.monotonic()]

        def progress(done: int, total: int, name: str = name, shown: list[float] = shown) -> None:
            if done == total or time.monotonic() - shown[0] > 2:
                shown[0] = time.monotonic()
                say(f"  preparing {name}: {done} of {total} images")

        try:
            how = {"constancy": constancy, "drawn": drawn}
            made = prepare.prepare(name, size, runtime, **how, progress=progress)
            if made.white != images.WHITE:
                say(f"  the images of {name} with 16 bits hold no value above {made.white}: white.")
        except Exception as error:  # whatever a component stumbles over costs its own cells
            cause = unreadable(name, error)
            broken[name] = Failure.of(cause)
            say(str(cause))  # with names, which the outcome leaves out
        else:
            _need_no_leak(made, unseen.pop(name, set()))
    good, failures = [], []
    for cell in cells:
        cause = next((broken[name] for name, *_ in _sets(cell, runtime) if name in broken), None)
        if cause is None:
            good.append(cell)
        else:
            store.fail(cell, cause)
            failures.append((cell, cause))
    return good, failures


def _records(cells: list[Cell], runtime: Runtime) -> dict[str, set[str]]:
    """Of each target whose table the plan could not read, the columns that are inputs."""
    found: dict[str, set[str]] = {}
    for spec in (cell.spec for cell in cells):
        if isinstance(spec, RunSpec) and spec.columns:
            found.setdefault(spec.target, set()).update({*spec.columns} - {*spec.allowed})
    return {n: read for n, read in found.items() if not prepare.source_of(n, runtime).look().labels}


def _need_no_leak(made: prepare.Prepared, columns: set[str]) -> None:
    """Refuse inputs that tell the label; name those in doubt."""
    table = {name: cells.tolist() for name, cells in made.metadata.items() if name in columns}
    if table:
        labels = label_sets.named(made.labels, made.classes)
        for note in leaks.check(made.name, table, labels, made.groups):
            say(f"Note: {note}")


def _need_fetched(made: plan.Plan, runtime: Runtime) -> None:
    """Refuse weights that would have to be fetched: else every cell after them would fail."""
    for planned in made.of("to run"):
        spec = planned.cell.spec
        if isinstance(spec, PretrainSpec):
            prepare.source_of(spec.source, runtime).need_fetched(spec.arch)


def _sets(cell: Cell, runtime: Runtime) -> list[tuple[str, Size, bool, str]]:
    """The data sets a cell reads."""
    spec = cell.spec
    if isinstance(spec, RunSpec):
        how = spec.recipe.size, spec.recipe.constancy, spec.recipe.data
        return [(name, *how) for name in (spec.target, spec.tested_on) if name]
    if isinstance(spec, DistanceSpec):
        method = registry.load("distance", spec.method, **runtime.where(spec.method))
        if method.card.needs == "card":
            return []
        names = (spec.target,) if method.card.needs == "weights" else (spec.source, spec.target)
        return [(name, spec.size, False, "") for name in names]
    if isinstance(spec, PretrainSpec) and not prepare.source_of(spec.source, runtime).card.given:
        return [(spec.source, spec.recipe.size, spec.recipe.constancy, "")]
    return []


def _note_skip(store: Store, planned: plan.Planned) -> None:
    """A skip is an answer: it is stored, so that a board can show the reason."""
    cell = planned.cell
    if store.outcome(cell.spec.kind, cell.key) is None:
        outcome = Outcome(
            key=cell.key,
            spec=cell.spec,
            versions=cell.versions,
            status="skipped",
            reason=planned.why,
        )
        store.finish(cell, outcome)


def _say_summary(made: plan.Plan) -> None:
    counts = {state: len(made.of(state)) for state in ("to run", "done", "failed", "skipped")}
    if not counts["to run"]:
        say(f"Nothing to do: {counts['done']} cells are done" + _also(counts) + ".")
        return
    say(f"{counts['to run']} cells to run, {counts['done']} done" + _also(counts) + ".")


def _also(counts: dict[str, int]) -> str:
    return "".join(f", {counts[s]} {s}" for s in ("failed", "skipped") if counts[s])


def _say_failures(failures: list[tuple[Cell, Failure]]) -> None:
    """Each distinct cause once, with the cells it cost."""
    causes: dict[str, list[Cell]] = {}
    for cell, failure in failures:
        causes.setdefault(f"{failure.message} ({failure.kind})", []).append(cell)
    for cause, cells in causes.items():
        more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
        say(f"Failed: {title(cells[0])}{more}: {cause}")


def _say_failed_before(made: plan.Plan) -> bool:
    """Name the cells asked for that failed in an earlier run; whether there are any."""
    failed = [planned for planned in made.of("failed") if not planned.failure]
    for planned in failed:
        say(f"{title(planned.cell)}: failed before ({planned.why})")
    if failed:
        say("Run them again with --retry all, or with --retry and the kind of failure.")
    return bool(failed)


def _show(made: plan.Plan, store: Store) -> None:
    """The plan of a dry run: every cell, and why it would run again."""
    why = plan.again(made, store)
    for planned in made.cells:
        reason = planned.why or why.get(planned.cell.key, "")
        line = f"{planned.cell.key}  {planned.state:8}  {title(planned.cell)}"
        show(line + (f"  ({reason})" if reason else "") + "\n")


def _say_estimate(made: plan.Plan, store: Store, foresight: Foresight | None) -> None:
    """What it all takes, and how it would take less."""
    found = plan.estimate(made, store, foresight)
    if found.seconds is None:
        say("No finished cell is like these: time and disk are not known yet.")
        return
    disk = f"{(found.bytes or 0) / 1e6:.0f} MB of disk"
    disk += f", {found.gpu_seconds / 3600:.2g} GPU-hours" if found.gpu_seconds else ""
    rest = f", without {found.unknown} cells unlike any finished" if found.unknown else ""
    rest += " (by one batch, measured)" if found.measured else ""
    say(f"About {duration(found.seconds)} on one slot and {disk}{rest}.")
    if found.seconds > LONG and any(_finetuned(p.cell) for p in made.of("to run")):
        frozen = f" takes about {duration(found.frozen)}" if found.frozen else ""
        say(f"Quicker, for a first look: --mode frozen{frozen} (heads on features kept once).")


def _finetuned(cell: Cell) -> bool:
    return isinstance(cell.spec, RunSpec) and cell.spec.mode == "finetune"
