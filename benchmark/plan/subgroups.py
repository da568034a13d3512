"""`bench run --subgroup`: finished cells judged by further columns, from their predictions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.data import prepare
from benchmark.errors import Damaged
from benchmark.plan.plan import Plan
from benchmark.plan.progress import say
from benchmark.plan.request import Asked, Request
from benchmark.spec import Cell, Outcome, RunSpec, Runtime
from benchmark.store import Store

if TYPE_CHECKING:
    from benchmark.train.context import Memory


def check(asked: Asked | Sequence[Asked], made: Plan, runtime: Runtime) -> None:
    """Refuse columns that cannot serve, before anything trains; the sets are prepared."""
    columns = {(spec.target, names): spec for spec, names in _wanted(asked, made).values()}
    if not columns:
        return
    from benchmark.train import subgroups

    for (target, names), spec in columns.items():
        how = {"constancy": spec.recipe.constancy, "drawn": spec.recipe.data}
        prepared = prepare.prepare(target, spec.recipe.size, runtime, **how)
        subgroups.columns_of(prepared, prepare.source_of(target, runtime), names)


def add(asked: Asked | Sequence[Asked], made: Plan, runtime: Runtime) -> None:
    """Judge the finished cells that were not yet: it takes their predictions, and no training."""
    store = Store(runtime.store)
    todo: list[tuple[Outcome, RunSpec, list[str]]] = []
    for key, (spec, names) in _wanted(asked, made).items():
        outcome = store.outcome("run", key)
        if outcome is not None and outcome.status == "ok":
            columns = list(dict.fromkeys([*outcome.subgroup_sizes, *names]))
            if len(columns) > len(outcome.subgroup_sizes):
                todo.append((outcome, spec, columns))
    if not todo:
        return
    from benchmark.train.context import Memory

    memory = Memory()
    for outcome, spec, columns in todo:
        try:
            _judge(store, outcome, spec, columns, runtime, memory)
        except Damaged as error:
            say(f"Note: {error}")
    say(f"{len(todo)} cells judged by subgroups of their patients.")


def _wanted(
    asked: Asked | Sequence[Asked], made: Plan
) -> dict[str, tuple[RunSpec, tuple[str, ...]]]:
    """The runs to judge, by key, with the columns that were asked for on their target."""
    columns: dict[str, dict[str, None]] = {}
    for request in [asked] if isinstance(asked, Asked) else asked:
        if isinstance(request, Request):
            for target in request.targets:
                columns.setdefault(target, {}).update(dict.fromkeys(request.subgroups))
    runs = [(p.cell.key, p.cell.spec) for p in made.cells if p.state != "skipped"]
    return {
        key: (spec, tuple(columns[spec.target]))
        for key, spec in runs
        if isinstance(spec, RunSpec) and not spec.tested_on and columns.get(spec.target)
    }


def _judge(
    store: Store,
    outcome: Outcome,
    spec: RunSpec,
    columns: list[str],
    runtime: Runtime,
    memory: "Memory",
) -> None:
    import torch

    from benchmark.train import finetune, loop, subgroups
    from benchmark.train.context import Work, bootstrap_seed

    cell = Cell(outcome.key, spec, outcome.versions)
    work = Work(cell, runtime, store, loop.Callbacks(), torch.device("cpu"), memory)
    prepared = work.prepared(spec.target, spec.recipe)
    kept, rows = store.predictions(cell.key), finetune.parts_of(work, prepared, spec).test
    if store.damage(outcome) or not np.array_equal(kept["labels"], prepared.labels[rows]):
        raise Damaged(
            f"The run {cell.key} is damaged, or tested other images than {spec.target} has now.",
            "Run `bench store verify --mend`, then this command again.",
        )
    seed = bootstrap_seed(spec.target, spec.split, spec.partition, spec.fold)
    tested = subgroups.Tested(rows, kept["scores"].astype(float), seed)
    values = subgroups.columns_of(prepared, prepare.source_of(spec.target, runtime), columns)
    found = subgroups.measure(prepared, tested, values, spec.headline, len(kept["draws"]))
    subgroups.keep(store, cell, found.draws)
    told = {
        "subgroups": {**outcome.subgroups, **found.numbers},
        "subgroup_sizes": found.sizes,
    }
    store.finish(cell, outcome.model_copy(update=told))
