"""`bench run` and `bench distance`: what is typed becomes a plan, and the plan is carried out."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from benchmark.cli.options import (
    Archs,
    Columns,
    Data,
    Device,
    Distances,
    Format,
    Fusions,
    Group,
    Image,
    Label,
    Metadata,
    Mlflow,
    Modes,
    Name,
    Offline,
    Pixels,
    Protocols,
    Seeds,
    Separator,
    Settings,
    Slots,
    Sources,
    Split,
    Store,
    Targets,
    Types,
    WeightSeeds,
    Workers,
    asked_by,
    failure_kinds,
    pair,
    runtime_of,
)  # fmt: skip
from benchmark.errors import BenchError

if TYPE_CHECKING:
    from benchmark.plan.request import Asked
    from benchmark.spec import Runtime

app = typer.Typer()

#: Where cells run and how many at once; the same for runs and distances.
Retry = Annotated[str, typer.Option(help="Failure kinds to run again, or all.")]
Dry = Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")]
Executor = Annotated[str, typer.Option(help="local, slurm or ray.")]
Address = Annotated[str, typer.Option(help="Of a Ray cluster: auto or ray://HOST:PORT.")]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option(help="sbatch option K=V, such as partition=gpu, mem=32G or time=480 (minutes)."),
]


@app.command()
def run(
    plan: Annotated[
        Path | None, typer.Argument(help="A YAML of these options; see docs/grids.md.")
    ] = None,
    target: Targets = None,
    source: Sources = None,
    fusion: Fusions = None,
    arch: Archs = None,
    mode: Modes = None,
    protocol: Protocols = None,
    fold: Annotated[list[int] | None, typer.Option(help="Repeatable; all by default.")] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Another cut of the patients; repeatable, 0.")
    ] = None,
    train_size: Annotated[
        list[str] | None,
        typer.Option(help="Training images: 100, 5% or 10/class; repeatable, all. The rest stays."),
    ] = None,
    seed: Seeds = None,
    pretrain_seed: WeightSeeds = None,
    size: Annotated[int | None, typer.Option(help="Pixels of a side.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    tune: Annotated[
        list[float] | None,
        typer.Option(help="Learning rates of which validation takes the best; repeatable."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Images at most; such runs have no rank.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="bf16 or float32.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a cell.")] = None,
    set_: Settings = None,
    column: Columns = None,
    allow_column: Annotated[
        list[str] | None, typer.Option(help="Column to use although it tells the label.")
    ] = None,
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Every choice of the columns, as an ablation.")
    ] = False,
    missing: Annotated[
        list[str] | None,
        typer.Option(help="Test again without this share of records (0.5), or COLUMN[+COLUMN]."),
    ] = None,
    test_on: Annotated[
        list[str] | None,
        typer.Option(help="Test finished runs on all of this set or folder too; trains nothing."),
    ] = None,
    subgroup: Annotated[
        list[str] | None, typer.Option(help="Column to judge tests by as well; trains nothing.")
    ] = None,
    name: Name = None,
    metadata: Metadata = None,
    label: Label = None,
    group: Group = None,
    image: Image = None,
    split: Split = None,
    separator: Separator = None,
    type_: Types = None,
    retry: Retry = "",
    dry_run: Dry = False,
    executor: Executor = "local",
    slots: Slots = None,
    address: Address = "auto",
    slurm: SlurmOptions = None,
    mlflow: Mlflow = True,
    device: Device = "auto",
    timeout: Annotated[float | None, typer.Option(help="Seconds a cell may take.", min=1)] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin cells anew instead of at their checkpoints.")
    ] = False,
    keep: Annotated[bool, typer.Option(help="Keep the trained networks.")] = True,
    workers: Workers = 0,
    offline: Offline = False,
    data: Data = Path("data"),
    store: Store = "store",
) -> None:
    """Train and test every combination asked for; what is done is not done again."""
    said = dict(locals())
    from benchmark.plan import request

    options = {**(request.read(plan) if plan else {}), **asked_by(said)}
    if "target" not in options:
        raise BenchError("No target to run on.", "Name it: --target isic, or give a plan file.")
    asked = request.requests(options)
    leave(carry_out(asked, runtime_of(said, request.own_of(asked)), said))


@app.command()
def distance(
    source: Sources,
    target: Targets,
    method: Distances,
    probe: Annotated[
        str,
        typer.Option(help="Whose weights look: a source, a key of weights, a safetensors file."),
    ] = "imagenet",
    answers: Annotated[
        Path | None, typer.Option(help="CSV of raw answers for the method expert.")
    ] = None,
    name: Name = None,
    metadata: Metadata = None,
    label: Label = None,
    group: Group = None,
    image: Image = None,
    split: Split = None,
    separator: Separator = None,
    arch: Annotated[str, typer.Option()] = "resnet50",
    seed: Seeds = None,
    pretrain_seed: WeightSeeds = None,
    size: Pixels = 224,
    protocol: Annotated[
        str, typer.Option(help="Of the runs: scores see its training parts only.")
    ] = "standard",
    limit: Annotated[int | None, typer.Option(help="Images of a side at most.", min=2)] = None,
    set_: Settings = None,
    retry: Retry = "",
    dry_run: Dry = False,
    executor: Executor = "local",
    slots: Slots = None,
    address: Address = "auto",
    slurm: SlurmOptions = None,
    mlflow: Mlflow = True,
    device: Device = "auto",
    offline: Offline = False,
    format: Format = "table",
    data: Data = Path("data"),
    store: Store = "store",
) -> None:
    """Measure how near sources and targets are, or how well a source's weights suit a target."""
    said = {**locals(), "type_": None}
    from benchmark.plan import plan, progress, request
    from benchmark.train import weights
    from reports import distances

    if answers is not None and "expert" not in (method or ()):
        raise BenchError("--answers are for the expert distance.", "Add --method expert.")
    store.prepare()
    asked = request.distances(asked_by(said), weights.probe(store, probe, arch))
    runtime = runtime_of(said, request.own_of([asked]))
    code = carry_out([asked], runtime, said)
    if not dry_run:
        cells = [p.cell for p in plan.make(asked, runtime).of("done")]
        found = [store.outcome(cell.spec.kind, cell.key) for cell in cells]
        known = [one for one in found if one is not None and one.spec.kind == "distance"]
        if known:
            progress.show(distances.show(store, known, format=format))
    leave(code)


def carry_out(asked: "Sequence[Asked]", runtime: "Runtime", said: dict[str, Any]) -> int:
    """Run what is asked for where the command said, and mirror what comes of it; the exit code."""
    from benchmark.plan import run as running
    from reports import mlflow as tracking

    settings = dict(pair(text, "--slurm") for text in said.get("slurm") or ())
    where = running.Executor(
        said.get("executor", "local"), said["slots"], said.get("address", "auto"), settings
    )
    store, retry = said["store"], failure_kinds(said.get("retry", ""))
    with store.in_use(), tracking.mirrored(store, said["mlflow"], say=running.say) as mirror:
        return running.run(
            asked, runtime, retry=retry, dry=said.get("dry_run", False), executor=where,
            mirror=mirror, command="bench " + shlex.join(sys.argv[1:]),
        )  # fmt: skip


def leave(code: int) -> None:
    """End the command, with its exit code where that says something."""
    if code:
        raise typer.Exit(code)
