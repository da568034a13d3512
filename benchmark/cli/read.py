"""Commands that read the store: boards, comparisons, distances beside gains, pages, pictures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.cli import options
from benchmark.cli.run import leave
from benchmark.errors import BenchError

if TYPE_CHECKING:
    from benchmark.plan.request import Request

app = typer.Typer()


@app.command()
def leaderboard(
    target: options.Targets = None,
    source: options.Sources = None,
    fusion: options.Fusions = None,
    protocol: options.Protocols = None,
    arch: options.Archs = None,
    mode: options.Modes = None,
    train_size: options.TrainSizes = None,
    seed: options.Seeds = None,
    baseline: options.Baseline = "scratch",
    format: options.Format = "table",
    store: options.Store = "store",
) -> None:
    """Rank what was run, target by target; rows that cannot be compared have no rank."""
    filters = options.filters_of(dict(locals()))
    from reports.leaderboard import table as boards

    sys.stdout.write(boards.show(store, baseline=baseline, format=format, **filters))


@app.command()
def curve(
    target: options.Targets = None,
    source: options.Sources = None,
    fusion: options.Fusions = None,
    protocol: options.Protocols = None,
    arch: options.Archs = None,
    mode: options.Modes = None,
    seed: options.Seeds = None,
    format: options.Format = "table",
    store: options.Store = "store",
) -> None:
    """Scores by the number of training images, and the number at which two sources cross."""
    filters = options.filters_of(dict(locals()))
    from reports.leaderboard import curve as curves

    sys.stdout.write(curves.show(store, format=format, **filters))


@app.command()
def status(format: options.Format = "table", store: options.Store = "store") -> None:
    """What runs where, what failed and why, what is left and when it will be done."""
    from reports import status as standing

    sys.stdout.write(standing.show(store, format=format))


@app.command()
def compare(
    first: str,
    second: str,
    by: Annotated[
        str,
        typer.Option(
            help="source, fusion, protocol, mode, arch, train_size, augmentation or trains, where "
            "that is not plain."
        ),
    ] = "",
    target: options.Targets = None,
    source: options.Sources = None,
    fusion: options.Fusions = None,
    protocol: options.Protocols = None,
    train_size: options.TrainSizes = None,
    margin: Annotated[
        float | None, typer.Option(help="Also: is FIRST not worse by more than this?", min=0.0)
    ] = None,
    subgroups: Annotated[
        bool, typer.Option("--subgroups", help="Also by value of the columns they were judged by.")
    ] = False,
    format: options.Format = "table",
    store: options.Store = "store",
) -> None:
    """Compare two sources, fusions, protocols, modes, …, paired by patient: FIRST minus SECOND."""
    filters = options.filters_of(dict(locals()))
    from reports import compare as pairs

    how = {"by": by, "margin": margin, "subgroups": subgroups, "format": format}
    sys.stdout.write(pairs.show(store, first, second, **how, **filters))


@app.command()
def transfer(
    distance: options.Distances = None,
    target: options.Targets = None,
    mode: options.Modes = None,
    fusion: options.Arm = "none",
    baseline: options.Baseline = "scratch",
    plot: Annotated[Path | None, typer.Option(help="An SVG file for the scatter.")] = None,
    format: options.Format = "table",
    store: options.Store = "store",
) -> None:
    """Did the distance foretell what each source gained, and better than plain baselines?"""
    from reports import transfer as gains

    text = gains.show(
        store, distances=distance or (), targets=target or (), modes=mode or (),
        fusion=fusion, baseline=baseline, plot=plot, format=format,
    )  # fmt: skip
    sys.stdout.write(text)


@app.command()
def recommend(
    target: Annotated[
        str, typer.Option(help="A name or a folder.", autocompletion=options.complete("target"))
    ] = "",
    source: options.Sources = None,
    fusion: options.Arm = "none",
    protocol: options.Protocols = None,
    arch: options.Archs = None,
    mode: options.Modes = None,
    budget: Annotated[
        int | None, typer.Option(help="Sources to run, each with every fold.", min=1)
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="Run the budget; else its commands are shown.")
    ] = False,
    per_second: Annotated[
        bool, typer.Option("--per-second", help="Choose by expected gain per second.")
    ] = False,
    set_: options.Settings = None,
    column: options.Columns = None,
    name: options.Name = None,
    metadata: options.Metadata = None,
    label: options.Label = None,
    group: options.Group = None,
    image: options.Image = None,
    split: options.Split = None,
    separator: options.Separator = None,
    type_: options.Types = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Test the recommendation on targets left out.")
    ] = False,
    results: Annotated[
        Path | None, typer.Option(help="CSV of source, target, score; else a published study.")
    ] = None,
    distances: Annotated[
        Path | None, typer.Option(help="CSV of source, target, distance beside --results.")
    ] = None,
    slots: options.Slots = None,
    mlflow: options.Mlflow = True,
    device: options.Device = "auto",
    offline: options.Offline = False,
    data: options.Data = Path("data"),
    format: options.Format = "table",
    store: options.Store = "store",
) -> None:
    """Which source to run next on a target that has few runs or none; the candidates are those
    the store knows, if none is named."""
    said = dict(locals())
    from reports import render
    from reports.recommend import advice
    from reports.recommend.evaluate import show

    render.check(format)
    if evaluate:
        sys.stdout.write(show(results=results, distances=distances, format=format))
        return
    if results or distances:
        raise BenchError("--results and --distances are for --evaluate.", "Add --evaluate.")
    if not target:
        raise BenchError("No target to recommend for.", "Name it: --target isic, or ./my-images.")
    if run and not budget:
        raise BenchError("--run has no budget.", "Say how many sources to run: --budget 5.")
    from benchmark.cli import advise
    from benchmark.plan.request import own_of

    places = {"store": str(store.root), "data": str(data), "device": device}
    usual = {"store": "store", "data": "data", "device": "auto"}
    question = advise.Question(
        options.asked_by({**said, "source": None}),
        sources=source or (),
        per_second=per_second,
        words=[w for k, v in places.items() if v != usual[k] for w in (f"--{k}", v)],
    )
    code = 0
    if run:
        from benchmark.plan import run as running
        from reports.mlflow import mirrored

        with store.in_use(), mirrored(store, mlflow, say=running.say) as mirror:

            def execute(requests: "list[Request]", command: str) -> int:
                runtime = options.runtime_of(said, own_of(requests))
                how = {"executor": running.Executor(slots=slots), "mirror": mirror}
                return running.run(requests, runtime, **how, command=command)

            code = advise.spend(question, store, budget=budget or 0, run=execute)
    found = question.answer(store, budget=1 if run else budget or 1)
    sys.stdout.write(advice.text(found, format=format))
    if budget and not run:
        (sys.stdout if format == "table" else sys.stderr).write(advise.commands(question, found))
    leave(code)


@app.command()
def report(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("report"),
    store: options.Store = "store",
) -> None:
    """Write the results as HTML: an index and a page per target, each one self-contained file."""
    from reports.page import write

    sys.stderr.write(f"Wrote {write.write(store, out)}\n")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to make.")] = Path("study"),
    show: Annotated[bool, typer.Option("--open/--no-open", help="In the browser.")] = True,
) -> None:
    """Unpack the study of real data that comes with this package and open its page."""
    from reports import studies
    from reports.page import write

    store = studies.unpack("small", out)
    page = write.write(store, out / "report")
    sys.stdout.write(
        f"{page}\nMore of it: bench recommend --store {store.root} --target isic, or leaderboard, "
        "compare, curve, transfer.\n"
    )
    if show and sys.stdout.isatty():
        import webbrowser

        webbrowser.open(page.resolve().as_uri())


@app.command()
def replay(
    name: Annotated[str, typer.Argument(help="cats, metanet, thomas, yang or medmnist.")],
    format: options.Format = "table",
    store: options.Store = "store",
) -> None:
    """Show a paper's published numbers beside ours, and what would have to run for the rest."""
    from reports.replay import table as replays

    sys.stdout.write(replays.show(name, format, store=store))


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="Key of a finished run, or its beginning.")],
    images: Annotated[Path, typer.Argument(help="A folder of images, or one.")],
    metadata: Annotated[Path | None, typer.Option(help="CSV with the record's columns.")] = None,
    image: Annotated[str, typer.Option(help="Its column of file names; found if not given.")] = "",
    out: Annotated[Path | None, typer.Option(help="CSV to write, instead of stdout.")] = None,
    device: options.Device = "auto",
    store: options.Store = "store",
) -> None:
    """Class probabilities of new images by a finished run, with its own preprocessing."""
    said = dict(locals())
    from benchmark.explain import predict as predicting
    from benchmark.files import replacing

    outcome = predicting.find(store, run)
    trained = predicting.load(store, outcome, options.runtime_of(said))
    found = predicting.predict(trained, images, metadata=metadata, column=image)
    sys.stderr.writelines(f"Note: {note}\n" for note in found.warnings)
    if out is None:
        found.write(sys.stdout)
        return
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        found.write(file)


@app.command()
def explain(
    run: Annotated[
        str, typer.Argument(help="Key of a finished run, or its beginning; or give --target.")
    ] = "",
    target: Annotated[
        str, typer.Option(help="Its best run.", autocompletion=options.complete("target"))
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; the run's own explain/ if not given.")
    ] = None,
    images: Annotated[int, typer.Option(help="Test images to show.", min=1)] = 6,
    figures: Annotated[
        bool,
        typer.Option(
            "--figures",
            help="Also the weights of the image alone, and the record's beside each network.",
        ),
    ] = False,
    device: options.Device = "auto",
    data: options.Data = Path("data"),
    store: options.Store = "store",
) -> None:
    """Pictures of what a run looks at, relies on and gains from the record, as PNG and SVG."""
    said = dict(locals())
    from benchmark.explain import explain as explaining
    from reports.leaderboard import best

    if bool(run) == bool(target):
        raise BenchError("Which run?", "Give its key, or --target for the best run of a target.")
    if target:
        run = best.best_run(store, target)
    runtime = options.runtime_of({**said, "offline": True})
    found = explaining.explain(store, run, runtime, out=out, images=images, figures=figures)
    sys.stdout.writelines(f"{path}\n" for path in found.files)
    sys.stderr.writelines(f"Note: {note}\n" for note in found.notes)
