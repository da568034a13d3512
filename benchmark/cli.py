"""The command line; every import that costs time is inside the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from benchmark import cli_read, cli_store, registry
from benchmark.errors import BenchError
from benchmark.options import Data, Offline, Store, Targets, changes_of, complete, pair

app = typer.Typer(
    name="bench",
    help="Which pretrained weights should I start from, and is the patient's record worth fusing?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def run(
    target: Targets,
    source: Annotated[
        list[str],
        typer.Option(help="Repeatable; none is scratch.", autocompletion=complete("source")),
    ] = ["none"],
    fusion: Annotated[
        list[str], typer.Option(help="Repeatable.", autocompletion=complete("fusion"))
    ] = ["none"],
    arch: Annotated[list[str], typer.Option(help="Any timm or torchvision name.")] = ["resnet50"],
    mode: Annotated[list[str], typer.Option(help="finetune or frozen.")] = ["finetune"],
    protocol: Annotated[list[str], typer.Option(help="standard, cats, … or a YAML.")] = [
        "standard"
    ],
    fold: Annotated[list[int] | None, typer.Option(help="Repeatable; all by default.")] = None,
    seed: Annotated[list[int], typer.Option(help="Repeatable.")] = [0],
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
        typer.Option("--set", help="recipe.K=V, pretrain.K=V or fusion.K=V; part of the key."),
    ] = None,
    column: Annotated[list[str] | None, typer.Option(help="Column of the record to use.")] = None,
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Every choice of the columns, as an ablation.")
    ] = False,
    metadata: Annotated[Path | None, typer.Option(help="CSV beside your own folder.")] = None,
    label: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    group: Annotated[str | None, typer.Option(help="Its column of patients.")] = None,
    image: Annotated[str | None, typer.Option(help="Its column of file names.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="COLUMN=numeric|categorical|date|boolean.")
    ] = None,
    retry: Annotated[str, typer.Option(help="Failure kinds to run again, or all.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    slots: Annotated[int, typer.Option(help="Cells at once, per GPU; 0: in this process.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    timeout: Annotated[float | None, typer.Option(help="Seconds a cell may take.")] = None,
    keep: Annotated[bool, typer.Option(help="Keep the trained networks.")] = True,
    workers: Annotated[int, typer.Option(help="Decoding processes; 0: one per core.")] = 0,
    offline: Offline = False,
    data: Data = Path("data"),
    store: Store = Path("store"),
) -> None:
    """Train and test every combination asked for; what is done is not done again."""
    from benchmark import grid, plan
    from benchmark.spec import Input, Runtime

    names = grid.Names()
    forced = dict(pair(text, "--type") for text in type_ or ())
    own = Input(
        path=Path(), metadata=metadata, label=label, group=group, image=image, forced=forced
    )
    targets = [names.resolve("target", name, own) for name in target]
    if not names.inputs and (metadata or label or group or image):
        raise BenchError(
            "--metadata, --label, --group and --image describe a folder of your own.",
            "Name it: --target ./my-images.",
        )
    sources = [names.resolve("source", name) for name in source]
    fusions = [names.resolve("fusion", name) for name in fusion]
    changes = changes_of(set_ or ())
    direct = {"size": size, "epochs": epochs, "batch": batch, "lr": lr, "limit": limit,
              "precision": precision, "threads": threads}  # fmt: skip
    changes["recipe"].update({k: v for k, v in direct.items() if v is not None})
    request = plan.Request(
        sources=sources,
        targets=targets,
        fusions=fusions,
        archs=arch,
        modes=mode,
        protocols=protocol,
        folds=fold or (),
        seeds=seed,
        columns=column or (),
        subsets=subsets,
        recipe=changes["recipe"],
        pretrain=changes["pretrain"],
        options=changes["fusion"],
    )
    runtime = Runtime(
        data=data,
        store=store,
        device=device,
        workers=workers,
        timeout=timeout,
        offline=offline,
        keep=keep,
        inputs=names.inputs,
        paths=names.paths,
    )
    kinds = [kind for kind in retry.split(",") if kind]
    command = "bench " + " ".join(sys.argv[1:])
    code = grid.run(
        lambda: plan.make(request, runtime, retry=kinds),
        runtime,
        dry=dry_run,
        slots=slots,
        command=command,
    )
    if code:
        raise typer.Exit(code)


@app.command()
def distance(
    source: Annotated[list[str], typer.Option(autocompletion=complete("source"))],
    target: Targets,
    method: Annotated[
        list[str],
        typer.Option(help="Repeatable; see `bench list`.", autocompletion=complete("distance")),
    ],
    probe: Annotated[
        str, typer.Option(help="Source whose weights look at the images.")
    ] = "imagenet",
    arch: Annotated[str, typer.Option()] = "resnet50",
    seed: Annotated[list[int], typer.Option(help="Repeatable.")] = [0],
    size: Annotated[int, typer.Option(help="Pixels of a side.")] = 224,
    limit: Annotated[int | None, typer.Option(help="Images of a side at most.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="distance.K=V or pretrain.K=V.")
    ] = None,
    retry: Annotated[str, typer.Option(help="Failure kinds to run again, or all.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    slots: Annotated[int, typer.Option(help="Cells at once, per GPU; 0: in this process.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    offline: Offline = False,
    data: Data = Path("data"),
    store: Store = Path("store"),
) -> None:
    """Measure how near sources and targets are, or how well a source's weights suit a target."""
    from benchmark import grid, plan
    from benchmark.spec import Runtime

    names = grid.Names()
    changes = changes_of(set_ or ())
    request = plan.DistanceRequest(
        sources=[names.resolve("source", name) for name in source],
        targets=[names.resolve("target", name) for name in target],
        methods=[names.resolve("distance", name) for name in method],
        arch=arch,
        probe=names.resolve("source", probe),
        seeds=seed,
        size=size,
        limit=limit,
        pretrain=changes["pretrain"],
        options=changes["distance"],
    )
    runtime = Runtime(
        data=data,
        store=store,
        device=device,
        offline=offline,
        inputs=names.inputs,
        paths=names.paths,
    )
    kinds = [kind for kind in retry.split(",") if kind]
    code = grid.run(
        lambda: plan.make_distances(request, runtime, retry=kinds),
        runtime,
        dry=dry_run,
        slots=slots,
        command="bench " + " ".join(sys.argv[1:]),
    )
    if code:
        raise typer.Exit(code)


app.registered_commands += cli_read.app.registered_commands  # they stand in this order in the help
app.add_typer(cli_store.data_app, name="data")
app.add_typer(cli_store.weights_app, name="weights")
app.add_typer(cli_store.store_app, name="store")


@app.command(name="list")
def list_() -> None:
    """The sources, targets, fusions and distances there are."""
    for kind, heading in (("source", "Sources (every target is one too)"), ("target", "Targets"),
                          ("fusion", "Fusions"), ("distance", "Distances")):  # fmt: skip
        found = registry.names(kind)
        sys.stdout.write(heading + "\n")
        for name, line in found.items():
            sys.stdout.write(f"  {name:12} {line}\n")
        for name, where in registry.plugins(kind).items():
            sys.stdout.write(f"  {name:12} (from {where})\n")


@app.command()
def check(
    component: Annotated[str, typer.Argument(help="A name or a file such as ./mine.py.")],
    kind: Annotated[str, typer.Option(help="source, target or fusion.")] = "",
) -> None:
    """Hold a component, yours for instance, to the contract that every built-in one keeps."""
    from benchmark import contract

    for line in contract.check(component, kind):
        sys.stdout.write(line + "\n")


@app.command()
def doctor() -> None:
    """Is this installation sound? Each line says what was looked at and what was found."""
    from benchmark import contract

    code = 0
    for fine, line in contract.doctor():
        sys.stdout.write(("ok    " if fine else "WRONG ") + line + "\n")
        code = code or (0 if fine else 2)
    if code:
        raise typer.Exit(code)


@app.command()
def version() -> None:
    """The version of this installation."""
    from importlib.metadata import version as installed

    sys.stdout.write(installed("transfer-bench") + "\n")


@app.command(hidden=True)
def cell(
    runtime: Annotated[str, typer.Argument(help="The runtime as JSON.")],
    batch: Annotated[Path | None, typer.Option(help="A file of cells.")] = None,
) -> None:
    """Run the cells that arrive on standard input, or those of a file."""
    from benchmark.engine import worker
    from benchmark.spec import Runtime

    how = Runtime.model_validate_json(runtime)
    raise typer.Exit(worker.run_batch(batch, how) if batch else worker.serve(how))


def main() -> NoReturn:
    """Run a command; an error the user can mend is two sentences and exit code 2."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except BenchError as error:
        if debug:
            raise
        sys.stderr.write(f"Error: {error.what}\n{error.todo}\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
