"""The command line; every import that costs time is inside the command that needs it."""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from benchmark import registry
from benchmark.errors import BenchError

app = typer.Typer(
    name="bench",
    help="Which pretrained weights should I start from, and is the patient's record worth fusing?",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets: list, prepare, verify, info.", no_args_is_help=True)
weights_app = typer.Typer(help="Weights: list, add, export, import.", no_args_is_help=True)
store_app = typer.Typer(help="The store: du, gc.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
app.add_typer(store_app, name="store")


def _complete(kind: str):
    def complete(incomplete: str) -> list[str]:
        known = [*registry.names(kind), *(registry.names("target") if kind == "source" else ())]
        return [name for name in (*known, *(["none"] if kind == "source" else ())) if
                name.startswith(incomplete)]  # fmt: skip

    return complete


Store = Annotated[Path, typer.Option("--store", envvar="BENCH_STORE", help="Where results live.")]
Data = Annotated[Path, typer.Option("--data", envvar="BENCH_DATA", help="Where data sets lie.")]
Format = Annotated[str, typer.Option("--format", help="table, md, csv or json.")]
Targets = Annotated[
    list[str],
    typer.Option("--target", help="Repeat for several.", autocompletion=_complete("target")),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never reach for the network.")]


@app.command()
def run(
    target: Targets,
    source: Annotated[
        list[str],
        typer.Option(help="Repeatable; none is scratch.", autocompletion=_complete("source")),
    ] = ["none"],
    fusion: Annotated[
        list[str], typer.Option(help="Repeatable.", autocompletion=_complete("fusion"))
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
    metadata: Annotated[Path | None, typer.Option(help="CSV beside your own folder.")] = None,
    label: Annotated[str | None, typer.Option(help="Its column of labels.")] = None,
    group: Annotated[str | None, typer.Option(help="Its column of patients.")] = None,
    image: Annotated[str | None, typer.Option(help="Its column of file names.")] = None,
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="COLUMN=numeric|categorical|date|boolean.")
    ] = None,
    retry: Annotated[str, typer.Option(help="Failure kinds to run again, or all.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan only.")] = False,
    slots: Annotated[int, typer.Option(help="Cells at once, per GPU.")] = 1,
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
    forced = dict(_pair(text, "--type") for text in type_ or ())
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
    changes = _changes(set_ or ())
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
    source: Annotated[list[str], typer.Option(autocompletion=_complete("source"))],
    target: Targets,
    method: Annotated[
        list[str],
        typer.Option(help="Repeatable; see `bench list`.", autocompletion=_complete("distance")),
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
    slots: Annotated[int, typer.Option(help="Cells at once, per GPU.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    offline: Offline = False,
    data: Data = Path("data"),
    store: Store = Path("store"),
) -> None:
    """Measure how near sources and targets are, or how well a source's weights suit a target."""
    from benchmark import grid, plan
    from benchmark.spec import Runtime

    names = grid.Names()
    changes = _changes(set_ or ())
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


@app.command()
def leaderboard(
    target: Annotated[list[str] | None, typer.Option(autocompletion=_complete("target"))] = None,
    source: Annotated[list[str] | None, typer.Option(autocompletion=_complete("source"))] = None,
    fusion: Annotated[list[str] | None, typer.Option(autocompletion=_complete("fusion"))] = None,
    protocol: Annotated[list[str] | None, typer.Option()] = None,
    arch: Annotated[list[str] | None, typer.Option()] = None,
    mode: Annotated[list[str] | None, typer.Option()] = None,
    seed: Annotated[list[int] | None, typer.Option()] = None,
    baseline: Annotated[
        str, typer.Option(help="scratch, or self: gains over the target as its own source.")
    ] = "scratch",
    format: Format = "table",
    store: Store = Path("store"),
) -> None:
    """Rank what was run, target by target; rows that cannot be compared have no rank."""
    from benchmark.store import Store as Results
    from reports import leaderboard as boards

    text = boards.show(
        Results(store), targets=target or (), sources=source or (), fusions=fusion or (),
        protocols=protocol or (), archs=arch or (), modes=mode or (), seeds=seed or (),
        baseline=baseline, format=format,
    )  # fmt: skip
    sys.stdout.write(text)


@app.command()
def compare(
    first: str,
    second: str,
    by: Annotated[str, typer.Option(help="source, fusion or protocol, if not plain.")] = "",
    target: Annotated[list[str] | None, typer.Option(autocompletion=_complete("target"))] = None,
    source: Annotated[list[str] | None, typer.Option(autocompletion=_complete("source"))] = None,
    fusion: Annotated[list[str] | None, typer.Option(autocompletion=_complete("fusion"))] = None,
    protocol: Annotated[list[str] | None, typer.Option()] = None,
    format: Format = "table",
    store: Store = Path("store"),
) -> None:
    """Compare two sources, two fusions or two protocols, paired by patient: FIRST minus SECOND."""
    from benchmark.store import Store as Results
    from reports import compare as pairs

    text = pairs.show(
        Results(store), first, second, by=by, targets=target or (), sources=source or (),
        fusions=fusion or (), protocols=protocol or (), format=format,
    )  # fmt: skip
    sys.stdout.write(text)


@app.command()
def transfer(
    distance: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; all there are.", autocompletion=_complete("distance")),
    ] = None,
    target: Annotated[list[str] | None, typer.Option(autocompletion=_complete("target"))] = None,
    mode: Annotated[list[str] | None, typer.Option()] = None,
    fusion: Annotated[
        str, typer.Option(help="The arm whose gains count.", autocompletion=_complete("fusion"))
    ] = "none",
    baseline: Annotated[
        str, typer.Option(help="scratch, or self: gains over the target as its own source.")
    ] = "scratch",
    plot: Annotated[Path | None, typer.Option(help="An SVG file for the scatter.")] = None,
    format: Format = "table",
    store: Store = Path("store"),
) -> None:
    """Did the distance foretell what each source gained, and better than plain baselines?"""
    from benchmark.store import Store as Results
    from reports import transfer as gains

    text = gains.show(
        Results(store), distances=distance or (), targets=target or (), modes=mode or (),
        fusion=fusion, baseline=baseline, plot=plot, format=format,
    )  # fmt: skip
    sys.stdout.write(text)


@app.command()
def recommend(
    target: Annotated[
        str, typer.Option(help="A name or a folder.", autocompletion=_complete("target"))
    ] = "",
    fusion: Annotated[
        str, typer.Option(help="The arm whose scores count.", autocompletion=_complete("fusion"))
    ] = "none",
    protocol: Annotated[list[str] | None, typer.Option()] = None,
    arch: Annotated[list[str] | None, typer.Option()] = None,
    mode: Annotated[list[str] | None, typer.Option()] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Test the recommendation on targets left out.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="CSV of source, target, score; else a published study.")
    ] = None,
    distances: Annotated[
        Path | None, typer.Option(help="CSV of source, target, distance beside --results.")
    ] = None,
    format: Format = "table",
    store: Store = Path("store"),
) -> None:
    """Which source to run next on a target that has few runs or none."""
    from benchmark.store import Store as Results
    from reports import recommend as advice

    if evaluate:
        text = advice.show_evaluation(results=results, distances=distances, format=format)
    elif results or distances:
        raise BenchError("--results and --distances are for --evaluate.", "Add --evaluate.")
    elif not target:
        raise BenchError("No target to recommend for.", "Name it: --target isic, or ./my-images.")
    else:
        from benchmark import grid

        text = advice.show(
            Results(store), grid.Names().resolve("target", target), fusion=fusion,
            protocols=protocol or (), archs=arch or (), modes=mode or (), format=format,
        )  # fmt: skip
    sys.stdout.write(text)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    store: Store = Path("store"),
) -> None:
    """Write the results as HTML: an index and a page per target, each one self-contained file."""
    from benchmark.store import Store as Results
    from reports import page

    sys.stderr.write(f"Wrote {page.write(Results(store), out)}\n")


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="cats, metanet, thomas, yang or medmnist.")],
    format: Format = "table",
    store: Store = Path("store"),
) -> None:
    """Show a paper's published numbers beside ours, and what would have to run for the rest."""
    from benchmark.store import Store as Results
    from reports import replay as replays

    sys.stdout.write(replays.show(name, format, store=Results(store)))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="Key of a finished run, or its beginning.")],
    images: Annotated[Path, typer.Argument(help="A folder of images, or one.")],
    metadata: Annotated[Path | None, typer.Option(help="CSV with the record's columns.")] = None,
    image: Annotated[str, typer.Option(help="Its column of file names; found if not given.")] = "",
    out: Annotated[Path | None, typer.Option(help="CSV to write, instead of stdout.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    store: Store = Path("store"),
) -> None:
    """Class probabilities of new images by a finished run, with its own preprocessing."""
    from benchmark import predict as predicting
    from benchmark.spec import Runtime
    from benchmark.store import Store as Results
    from benchmark.store import replacing

    results = Results(store)
    outcome = predicting.find(results, run)
    trained = predicting.load(results, outcome, Runtime(store=store, device=device))
    found = predicting.predict(trained, images, metadata=metadata, column=image)
    for note in found.warnings:
        sys.stderr.write(f"Note: {note}\n")
    if out is None:
        found.write(sys.stdout)
        return
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        found.write(file)


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="Key of a finished run, or its beginning.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; the run's own explain/ if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images to show.", min=1)] = 6,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    data: Data = Path("data"),
    store: Store = Path("store"),
) -> None:
    """Pictures of what a run looks at, relies on and gains from the record, as PNG and SVG."""
    from benchmark import explain as explaining
    from benchmark.spec import Runtime
    from benchmark.store import Store as Results

    runtime = Runtime(data=data, store=store, device=device, offline=True)
    found = explaining.explain(Results(store), run, runtime, out=out, images=images)
    for path in found.files:
        sys.stdout.write(f"{path}\n")
    for note in found.notes:
        sys.stderr.write(f"Note: {note}\n")


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


@data_app.command("list")
def data_list(data: Data = Path("data")) -> None:
    """Every data set, and whether it is on this machine."""
    from benchmark import contract

    for line in contract.data_sets(data):
        sys.stdout.write(line + "\n")


@data_app.command("prepare")
def data_prepare(
    name: str,
    size: Annotated[int, typer.Option(help="Pixels of a side.")] = 224,
    constancy: Annotated[bool, typer.Option(help="Shades-of-gray colour constancy.")] = False,
    workers: Annotated[int, typer.Option(help="Decoding processes; 0: one per core.")] = 0,
    offline: Offline = False,
    data: Data = Path("data"),
    store: Store = Path("store"),
) -> None:
    """Decode a set once; the first run that needs it does the same."""
    import json

    from benchmark import data as sets
    from benchmark import grid
    from benchmark.spec import Runtime

    names = grid.Names()
    name = names.resolve("source", name)
    runtime = Runtime(
        data=data, store=store, workers=workers, offline=offline, inputs=names.inputs,
        paths=names.paths,
    )  # fmt: skip

    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"\r{done} of {total} images" + ("\n" if done == total else ""))

    prepared = sets.prepare(name, size, runtime, constancy=constancy, progress=progress)
    sys.stdout.write(json.dumps(sets.describe(prepared), indent=1) + "\n")


@data_app.command("info")
def data_info(name: str) -> None:
    """The card of a data set: licence, classes, columns, what leaks, known overlaps."""
    from benchmark import contract

    for line in contract.card_lines(name):
        sys.stdout.write(line + "\n")


@data_app.command("verify")
def data_verify(name: str, offline: Offline = False, data: Data = Path("data")) -> None:
    """Read every image of a set, and say what is missing, broken or there twice."""
    from benchmark import contract

    for line in contract.verify(name, data, offline=offline):
        sys.stdout.write(line + "\n")


@weights_app.command("list")
def weights_list(store: Store = Path("store")) -> None:
    """The weights in the store."""
    from benchmark import weights
    from benchmark.store import Store as Results

    for card in weights.cards(Results(store)):
        sys.stdout.write(
            f"{card['key']}  {card['source']:20} {card['arch']:14} {card.get('license', '')}\n"
        )


@weights_app.command("add")
def weights_add(
    file: Path,
    name: Annotated[str, typer.Option(help="imagenet, or a name of your own.")],
    arch: Annotated[str, typer.Option()] = "resnet50",
    license: Annotated[str, typer.Option()] = "",
    note: Annotated[str, typer.Option()] = "",
    store: Store = Path("store"),
) -> None:
    """Take a file of weights: `--name imagenet` serves `--source imagenet`, another name serves
    `--source weights:NAME`."""
    from benchmark import expand, weights
    from benchmark.spec import Runtime
    from benchmark.store import Store as Results

    source = name if name == "imagenet" else f"weights:{name}"
    results = Results(store)
    results.prepare()
    made = expand.pretrain_cell(source, arch, 0, {}, Runtime(store=store))
    weights.add(results, made, file, license=license, note=note)
    sys.stderr.write(f"Added. Use it with --source {source} --arch {arch}.\n")


@weights_app.command("export")
def weights_export(key: str, out: Path, store: Store = Path("store")) -> None:
    """Copy weights with their card into a folder to hand on."""
    from benchmark import weights
    from benchmark.store import Store as Results

    sys.stderr.write(f"Wrote {weights.export(Results(store), key, out)}\n")


@weights_app.command("import")
def weights_import(folder: Path, store: Store = Path("store")) -> None:
    """Take in a folder that `weights export` wrote."""
    from benchmark import weights
    from benchmark.store import Store as Results

    results = Results(store)
    results.prepare()
    sys.stderr.write(f"Imported {weights.import_(results, folder)}\n")


@store_app.command("du")
def store_du(store: Store = Path("store")) -> None:
    """Files and megabytes by part of the store."""
    from benchmark.store import Store as Results

    for part, (files, size) in Results(store).usage().items():
        sys.stdout.write(f"{part:12} {files:8} files {size / 1e6:12.1f} MB\n")


@store_app.command("gc")
def store_gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; else only say what would go.")
    ] = False,
    store: Store = Path("store"),
) -> None:
    """Drop caches and left-overs; no number, prediction or weight is lost."""
    from benchmark.store import Store as Results
    from benchmark.store import remove

    found = Results(store).garbage()
    for path in found:
        sys.stdout.write(f"{path}\n")
    if yes:
        remove(found)
    sys.stderr.write(f"{len(found)} {'deleted' if yes else 'would go; add --yes'}\n")


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


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise BenchError(f"{option} {text} is not NAME=VALUE.", "Write, for instance, lr=0.001.")
    return name, value


def _changes(settings: "list[str] | tuple[()]") -> dict[str, dict[str, Any]]:
    """`--set recipe.lr=0.001` by what it changes; values are read as YAML."""
    import yaml

    parts = ("recipe", "pretrain", "fusion", "distance")
    found: dict[str, dict[str, Any]] = {part: {} for part in parts}
    for text in settings:
        name, value = _pair(text, "--set")
        part, dot, field = name.partition(".")
        if part not in found or not dot:
            raise BenchError(
                f"--set {text} changes nothing known.",
                f"Begin with {'., '.join(parts)}. as in --set pretrain.epochs=5.",
            )
        found[part][field] = yaml.safe_load(value)
    return found


if __name__ == "__main__":
    main()
