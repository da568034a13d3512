"""Runs one cell: from a spec to a stored outcome, or to a stored reason why there is none."""

import math
import time
import traceback
import warnings

import torch

from benchmark.errors import FULL, BenchError, Damaged, Interrupted
from benchmark.files import remove, tail
from benchmark.spec import Cell, DistanceSpec, Failure, Outcome, PretrainSpec, RunSpec, Runtime
from benchmark.stats import Estimate
from benchmark.store import Store
from benchmark.train import energy, loop
from benchmark.train.context import Memory, Work, device_of


def run(
    cell: Cell,
    runtime: Runtime,
    report: loop.Callbacks | None = None,
    memory: Memory | None = None,
) -> Outcome:
    """Run a cell unless it is done; whatever happens, the store says how it ended."""
    store = Store(runtime.store)
    done = store.outcome(cell.spec.kind, cell.key)
    if done is not None and done.status != "failed":
        return done
    folder = store.begin(cell)
    if runtime.fresh:
        remove(folder.glob("last*.pt"))
    work = Work(
        cell, runtime, store, report or loop.Callbacks(), device_of(runtime), memory or Memory()
    )
    torch.set_num_threads(cell.threads)
    began, joules = time.perf_counter(), energy.meter(work.device)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            outcome = _dispatch(work, cell.spec)
        outcome = outcome.model_copy(update={"joules": joules()})
        outcome.seconds["total"] = round(time.perf_counter() - began, 4)
        outcome.warnings.extend(dict.fromkeys(str(warning.message) for warning in caught))
        store.finish(cell, outcome)
    except Exception as error:  # one failure costs one cell: its cause is written down
        work.log(traceback.format_exc())
        if isinstance(error, BenchError):
            work.log(f"{error.what} {error.todo}")
        if isinstance(error, Damaged):
            _spoil_upstream(store, cell)
        return store.fail(cell, failure_of(error, tail(folder / "log.txt")), seconds=work.seconds)
    return outcome


def _spoil_upstream(store: Store, cell: Cell) -> None:
    """What this cell builds on is damaged: it counts as not done, and the next run makes it."""
    for kind, key in cell.upstream():
        outcome = store.outcome(kind, key)
        if outcome is not None and store.damage(outcome):
            store.spoil(outcome)


def _dispatch(work: Work, spec: PretrainSpec | RunSpec | DistanceSpec) -> Outcome:
    if isinstance(spec, PretrainSpec):
        from benchmark.train import pretrain  # each kind brings its own imports

        return pretrain.run(work, spec)
    if isinstance(spec, RunSpec):
        from benchmark.train import elsewhere, finetune, missing

        how = missing if spec.missing else elsewhere if spec.tested_on else finetune
        return how.run(work, spec)
    return _distance(work, spec)


def failure_of(error: Exception, log_tail: str = "") -> Failure:
    """The kind of a failure, and a sentence for the user."""
    if isinstance(error, Interrupted):
        return Failure(kind="interrupted", message=str(error))
    if isinstance(error, BenchError):
        return Failure.of(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return Failure(kind="disk_full", message="The disk is full. Free space, then run again.")
    text = f"{type(error).__name__}: {error}"
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in text.lower()
    if memory and (isinstance(error, MemoryError) or "memory" in text.lower()):
        text = f"Out of memory. Lower --batch or --size, or take a larger device. ({text[:200]})"
        return Failure(kind="oom", message=text, log_tail=log_tail)
    return Failure(kind="bug", message=text[:500], log_tail=log_tail)


def _distance(work: Work, spec: DistanceSpec) -> Outcome:
    """Measure how far a source is from a target."""
    from benchmark.train import measure

    with work.timed("measure"):
        found, facts = measure.measure(work, spec)
    n = int(facts.get("target_images", 0))
    numbers = {"distance": Estimate(found.value, found.low, found.high, n)}
    for name, fact in found.facts.items():
        numbers[name] = (
            fact if isinstance(fact, Estimate) else Estimate(fact, math.nan, math.nan, n)
        )
    return work.outcome(metrics=numbers, data=facts, chosen="")
