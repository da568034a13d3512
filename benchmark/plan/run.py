"""`bench run`: plan, prepare the data once, run what is left, and say what came of it."""

import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmark import images, registry
from benchmark.data import leaks, prepare
from benchmark.engine import local
from benchmark.errors import BenchError, did_you_mean, plain, unreadable
from benchmark.plan import plan
from benchmark.plan.pace import Foresight
from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Input,
    Outcome,
    PretrainSpec,
    RunSpec,
    Runtime,
    Size,
)
from benchmark.store import Store

#: Seconds from which the quick way is worth a line.
LONG = 1800.0


def say(text: str = "") -> None:
    """A line for the user; results go to stdout, everything else goes here."""
    _write("stderr", plain(text, "\n") + "\n")


def show(text: str) -> None:
    """A result on stdout."""
    _write("stdout", text)


def _write(stream: str, text: str) -> None:
    """Write, or be silent from now on: that nobody reads on (`| head`) is no failure of a cell."""
    try:
        getattr(sys, stream).write(text)
        getattr(sys, stream).flush()
    except BrokenPipeError:
        setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115


@dataclass(frozen=True)
class Names:
    """Component names as keys know them, and where those given by path lie."""

    inputs: dict[str, Input] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)

    def resolve(self, kind: str, name: str, own: Input | None = None) -> str:
        """`./mine.py:x` becomes `mine:x`, `./my-images` becomes `folder:my-images`."""
        text = name.removeprefix("folder:")
        path = Path(text).expanduser()
        file, ending, variant = name.partition(".py")
        if ending and (not variant or variant.startswith(":")):
            path = Path(file + ending).expanduser()
            if not path.is_file():
                raise BenchError(f"There is no component file {path}.", "Check the path.")
            short = path.stem + variant
            self.paths[short] = path.resolve()
            return short
        if name.startswith("folder:") or (("/" in text or text.startswith(".")) and path.is_dir()):
            if not path.is_dir():
                raise BenchError(f"There is no folder {path}.", "Check the path.")
            return self._folder(path.resolve(), own)
        if kind == "distance" and own is not None and name == "expert":
            short = f"expert:{own.path.stem}"
            self.inputs[short] = own
            return short
        if "/" in text and kind in ("source", "target"):
            raise BenchError(f"There is no folder or component file {path}.", "Check the path.")
        return name

    def _folder(self, path: Path, own: Input | None) -> str:
        named = [short for short, given in self.inputs.items() if given.path == path]
        if own is None and named:
            return named[0]
        if own is not None and own.name is not None and not re.fullmatch(r"[\w.-]+", own.name):
            raise BenchError(f"--name '{own.name}' is no name.", "Use letters, digits and . _ -")
        name = (own.name if own else None) or path.name
        short = f"folder:{name}"
        if short in self.inputs and self.inputs[short].path != path:
            raise BenchError(
                f"Two folders are both named '{name}'.",
                "Name one with --name, in a run of its own.",
            )
        extra = own.model_dump(exclude={"path"}) if own is not None else {}
        self.inputs[short] = Input(**{**extra, "path": path, "name": name})
        return short


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
    make: Callable[[], plan.Plan],
    runtime: Runtime,
    *,
    dry: bool = False,
    executor: Executor = Executor(),
    mirror: Mirror | None = None,
    command: str = "bench run",
) -> int:
    """Run what was planned, every new outcome mirrored; 0 when every cell has its numbers."""
    store = Store(runtime.store)
    store.prepare()
    store.sweep()
    made = make()  # not before the store is known to be ours
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
        failed = [planned for planned in made.of("failed") if not planned.failure]
        for planned in failed:
            say(f"{title(planned.cell)}: failed before ({planned.why})")
        if failed:
            say("Run them again with --retry all, or with --retry and the kind of failure.")
        _say_failures(broken)
        return 2 if failed or broken else 0
    if runtime.device.startswith("cuda") and executor.name == "local" and not local.visible_gpus():
        from benchmark.train.context import device_of

        device_of(runtime)  # torch has the last word on whether there is a GPU
    if not made.of("done"):
        _say_estimate(made, store, foresight)
    cells, unprepared = _prepare(cells, runtime, store)
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
    failures = [*broken, *unprepared, *progress.failures]
    took = _duration(time.monotonic() - began)
    say(f"{progress.finished - len(progress.failures)} cells done in {took}.")
    _say_failures(failures)
    silent = len(cells) - progress.finished
    if silent:
        say(f"{silent} cells ended without an outcome; run the same command again.")
    return 2 if failures or silent else 0


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


def title(cell: Cell) -> str:
    """A cell in the user's words."""
    spec = cell.spec
    if isinstance(spec, RunSpec):
        return f"{spec.source} → {spec.target}, {spec.fusion}, {spec.mode}, fold {spec.fold}"
    if isinstance(spec, PretrainSpec):
        return f"pretraining on {spec.source}"
    return f"{spec.method} {spec.source} → {spec.target}"


class Progress:
    """One line per event in logs; on a terminal a live line per running cell."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = 0
        self.failures: list[tuple[Cell, Failure]] = []
        self.live = sys.stderr.isatty() and "CI" not in os.environ
        self.last: dict[str, float] = {}
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
            )
            self.bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self.bars.start()

    def listen(self, event: str, cell: Cell, facts: dict[str, Any]) -> None:
        """What a worker told of its cell."""
        if event == "epoch":
            self._epoch(cell, facts)
        elif event == "waits":
            since = time.strftime("%H:%M:%S", time.localtime(facts["since"]))
            who = f"process {facts['pid']} on {facts['host']} since {since}"
            say(f"  {title(cell)}: run by {who}; waiting for it")
        elif event == "done":
            self._done(cell, facts["outcome"])

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        if self.bars is not None:
            self.bars.stop()

    def _epoch(self, cell: Cell, facts: dict[str, Any]) -> None:
        left = (facts["epochs"] - facts["epoch"]) * facts["seconds"]
        text = (
            f"epoch {facts['epoch']}/{facts['epochs']}  loss {facts['loss']:.4f}  "
            f"{facts['rate']:.0f} img/s"
        )
        if self.bars is not None:
            if cell.key not in self.tasks:
                self.tasks[cell.key] = self.bars.add_task(
                    title(cell), total=facts["epochs"], facts=""
                )
            self.bars.update(self.tasks[cell.key], completed=facts["epoch"], facts=text)
            return
        now = time.monotonic()
        if now - self.last.setdefault(cell.key, now) > 10 or facts["seconds"] > 10:
            self.last[cell.key] = now
            say(f"  {title(cell)}: {text}  {_duration(left)} left")

    def _done(self, cell: Cell, outcome: Outcome) -> None:
        self.finished += 1
        if outcome.failure is not None:
            self.failures.append((cell, outcome.failure))
            result = f"failed ({outcome.failure.kind})"
        else:
            result = _headline(outcome)
        line = f"[{self.finished}/{self.total}] {title(cell)}: {result}"
        if self.bars is not None:
            if cell.key in self.tasks:
                self.bars.remove_task(self.tasks.pop(cell.key))
            self.bars.console.print(line, markup=False, highlight=False)
        else:
            say(line)


def _headline(outcome: Outcome) -> str:
    spec = outcome.spec
    if isinstance(spec, DistanceSpec):
        return f"{outcome.metrics['distance'].value:.6g}"
    name = spec.headline if isinstance(spec, RunSpec) else "test_auroc"
    found = outcome.metrics.get(name)
    if found is None:
        return outcome.chosen or "ok"
    seconds = outcome.seconds.get("total", 0.0)
    return f"{name} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] in {_duration(seconds)}"


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
        labels = np.array(made.classes)[made.labels]
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
        return [(spec.target, spec.recipe.size, spec.recipe.constancy, spec.recipe.data)]
    if isinstance(spec, DistanceSpec):
        method = registry.load("distance", spec.method, path=runtime.paths.get(spec.method))
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
    say(f"About {_duration(found.seconds)} on one slot and {disk}{rest}.")
    if found.seconds > LONG and any(_finetuned(p.cell) for p in made.of("to run")):
        frozen = f" takes about {_duration(found.frozen)}" if found.frozen else ""
        say(f"Quicker, for a first look: --mode frozen{frozen} (heads on features kept once).")


def _finetuned(cell: Cell) -> bool:
    return isinstance(cell.spec, RunSpec) and cell.spec.mode == "finetune"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
