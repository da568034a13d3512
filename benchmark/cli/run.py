"""`bench run` and `bench distance`: what is typed becomes a plan, and the plan is carried out."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli.options import (
    Data,
    Device,
    Format,
    Group,
    Image,
    Label,
    Metadata,
    Mlflow,
    Name,
    Offline,
    Slots,
    Store,
    Targets,
    Types,
    changes_of,
    complete,
    failure_kinds,
    pair,
)
from benchmark.errors import BenchError

if TYPE_CHECKING:
    from benchmark.plan import run as running
    from benchmark.plan.plan import Plan
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
    target: Annotated[
        list[str] | None,
        typer.Option(help="Repeat for several.", autocompletion=complete("target")),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Repeatable; none: no pretrained weights.", autocompletion=complete("source")
        ),
    ] = None,
    fusion: Annotated[
        list[str] | None, typer.Option(help="Repeatable.", autocompletion=complete("fusion"))
    ] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="Any timm or torchvision name; resnet50.")
    ] = None,
    mode: Annotated[list[str] | None, typer.Option(help="finetune, frozen or tuned.")] = None,
    protocol: Annotated[list[str] | None, typer.Option(help="standard, cats, … or a YAML.")] = None,
    fold: Annotated[list[int] | None, typer.Option(help="Repeatable; all by default.")] = None,
    partition: Annotated[
        list[int] | None, typer.Option(help="Another cut of the patients; repeatable, 0.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of the training; repeatable, 0.")] = None,
    pretrain_seed: Annotated[
        list[int] | None, typer.Option(help="Of the source's own training; repeatable, 0.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Pixels of a side.")] = None,
    epochs: Annotated[int | None, typer.Option()] = None,
    batch: Annotated[int | None, typer.Option()] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="Images at most; such runs have no rank.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="bf16 or float32.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of a cell.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="recipe., pretrain., fusion. or data.K=V; part of the key."),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="Column of the record to use, or a pattern: '*_val'.")
    ] = None,
    allow_column: Annotated[
        list[str] | None, typer.Option(help="Column to use although it tells the label.")
    ] = None,
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Every choice of the columns, as an ablation.")
    ] = False,
    name: Name = None,
    metadata: Metadata = None,
    label: Label = None,
    group: Group = None,
    image: Image = None,
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
    workers: Annotated[int, typer.Option(help="Decoding processes; 0: one per core.", min=0)] = 0,
    offline: Offline = False,
    data: Data = Path("data"),
    store: Store = Path("store"),
) -> None:
    """Train and test every combination asked for; what is done is not done again."""
    from benchmark.plan import plan as plans
    from benchmark.plan import request as asking
    from benchmark.plan import run as running
    from benchmark.spec import Runtime

    names = running.Names()
    said = {
        "target": target, "source": source, "fusion": fusion, "arch": arch, "mode": mode,
        "protocol": protocol, "fold": fold, "partition": partition, "seed": seed,
        "pretrain_seed": pretrain_seed, "size": size, "epochs": epochs,
        "batch": batch, "lr": lr, "limit": limit, "precision": precision, "threads": threads,
        "column": column, "allow-column": allow_column, "subsets": subsets, "name": name,
        "metadata": metadata, "label": label, "group": group, "image": image,
        "type": dict(pair(text, "--type") for text in type_ or ()),
        **changes_of(set_ or ()),
    }  # fmt: skip
    asked = asking.read(plan) if plan else {}
    asked.update({name: value for name, value in said.items() if not _unsaid(value)})
    if "target" not in asked:
        raise BenchError("No target to run on.", "Name it: --target isic, or give a plan file.")
    requests = asking.requests(asked, names)
    runtime = Runtime(
        data=data, store=store, device=device, workers=workers, timeout=timeout, offline=offline,
        fresh=fresh, keep=keep, inputs=names.inputs, paths=names.paths,
    )  # fmt: skip
    where = running.Executor(executor, slots, address, _settings(slurm))
    make = partial(plans.make, requests, runtime, retry=failure_kinds(retry))
    _exit(_carry_out(make, runtime, where, dry=dry_run, mlflow=mlflow))


@app.command()
def distance(
    source: Annotated[
        list[str],
        typer.Option(help="all: every set at hand.", autocompletion=complete("source")),
    ],
    target: Targets,
    method: Annotated[
        list[str],
        typer.Option(help="Repeatable; see `bench list`.", autocompletion=complete("distance")),
    ],
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
    arch: Annotated[str, typer.Option()] = "resnet50",
    seed: Annotated[list[int], typer.Option(help="Repeatable.")] = [0],
    pretrain_seed: Annotated[
        list[int], typer.Option(help="Of the weights that look; repeatable.")
    ] = [0],
    size: Annotated[int, typer.Option(help="Pixels of a side.", min=1)] = 224,
    limit: Annotated[int | None, typer.Option(help="Images of a side at most.", min=2)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="distance.K=V or pretrain.K=V.")
    ] = None,
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
    store: Store = Path("store"),
) -> None:
    """Measure how near sources and targets are, or how well a source's weights suit a target."""
    from benchmark.plan import plan
    from benchmark.plan import request as asking
    from benchmark.plan import run as running
    from benchmark.spec import Input, Runtime
    from benchmark.store import Store as Results
    from benchmark.train import weights
    from reports import distances

    names = running.Names()
    changes = changes_of(set_ or (), flat=False)
    if answers is not None and "expert" not in method:
        raise BenchError("--answers are for the expert distance.", "Add --method expert.")
    asked = Input(path=answers.resolve()) if answers is not None else None
    own = asking.own(
        {"name": name, "metadata": metadata, "label": label, "group": group, "image": image}
    )
    targets = [names.resolve("target", one, own) for one in target]  # first: they give the names
    results = Results(store)
    results.prepare()
    key = weights.probe(results, probe, arch)
    request = plan.DistanceRequest(
        sources=[names.resolve("source", one) for one in source],
        targets=targets,
        methods=[names.resolve("distance", one, asked) for one in method],
        arch=arch,
        probe=probe if key else names.resolve("source", probe),
        key=key,
        seeds=seed,
        pretrain_seeds=pretrain_seed,
        size=size,
        limit=limit,
        pretrain=changes.get("pretrain", {}),
        options=changes.get("distance", {}),
    )
    runtime = Runtime(
        data=data, store=store, device=device, offline=offline, inputs=names.inputs,
        paths=names.paths,
    )  # fmt: skip
    where = running.Executor(executor, slots, address, _settings(slurm))
    make = partial(plan.make_distances, request, runtime, retry=failure_kinds(retry))
    code = _carry_out(make, runtime, where, dry=dry_run, mlflow=mlflow)
    if not dry_run:
        cells = [p.cell for p in plan.make_distances(request, runtime).of("done")]
        found = [results.outcome(cell.spec.kind, cell.key) for cell in cells]
        known = [one for one in found if one is not None and one.spec.kind == "distance"]
        if known:
            running.show(distances.show(results, known, format=format))
    _exit(code)


def _carry_out(
    make: "Callable[[], Plan]",
    runtime: "Runtime",
    where: "running.Executor",
    *,
    dry: bool,
    mlflow: bool,
) -> int:
    """Run a plan and mirror what comes of it; the exit code."""
    from benchmark.plan import run as running
    from benchmark.store import Store as Results
    from reports import mlflow as tracking

    store = Results(runtime.store)
    with store.in_use(), tracking.mirrored(store, mlflow, say=running.say) as mirror:
        return running.run(
            make, runtime, dry=dry, executor=where, mirror=mirror, command=_command()
        )


def _unsaid(value: object) -> bool:
    """Whether an option was left out: a 0 was not."""
    return value is None or value is False or value == {}


def _settings(slurm: "list[str] | None") -> dict[str, str]:
    return dict(pair(text, "--slurm") for text in slurm or ())


def _command() -> str:
    """The command as it was typed, for whoever has to type it again."""
    import shlex

    return "bench " + shlex.join(sys.argv[1:])


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)
