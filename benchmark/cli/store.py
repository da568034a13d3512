"""Commands on data sets, weights and the store itself."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli import options
from benchmark.errors import BenchError

data_app = typer.Typer(help="Data sets: list, prepare, verify, info, slices.", no_args_is_help=True)
weights_app = typer.Typer(help="Weights: list, add, export, import.", no_args_is_help=True)
results_app = typer.Typer(help="Finished results: export, import.", no_args_is_help=True)
mlflow_app = typer.Typer(help="The MLflow mirror: sync.", no_args_is_help=True)
expert_app = typer.Typer(help="Expert distance: sheet, show.", no_args_is_help=True)
store_app = typer.Typer(help="The store: du, gc, share, verify.", no_args_is_help=True)


@data_app.command("list")
def data_list(data: options.Data = Path("data")) -> None:
    """Every data set, and whether it is on this machine."""
    from benchmark import contract

    sys.stdout.writelines(f"{line}\n" for line in contract.data_sets(data))


@data_app.command("prepare")
def data_prepare(
    name: str,
    size: options.Pixels = 224,
    constancy: Annotated[bool, typer.Option(help="Shades-of-gray colour constancy.")] = False,
    workers: options.Workers = 0,
    offline: options.Offline = False,
    data: options.Data = Path("data"),
    store: options.Store = "store",
) -> None:
    """Decode a set once; the first run that needs it does the same."""
    said = dict(locals())
    import json

    from benchmark.data import prepare as sets
    from benchmark.plan.request import resolve

    one = resolve("source", name)
    runtime = options.runtime_of(said, [one])

    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"\r{done} of {total} images" + ("\n" if done == total else ""))

    prepared = sets.prepare(one.name, size, runtime, constancy=constancy, progress=progress)
    sys.stdout.write(json.dumps(sets.describe(prepared), indent=1) + "\n")


@data_app.command("info")
def data_info(name: str) -> None:
    """The card of a data set: licence, classes, columns, what leaks, known overlaps."""
    from benchmark import contract

    sys.stdout.writelines(f"{line}\n" for line in contract.card_lines(name))


@data_app.command("verify")
def data_verify(
    name: str, offline: options.Offline = False, data: options.Data = Path("data")
) -> None:
    """Read every image of a set, and say what is missing, broken or there twice."""
    from benchmark import contract

    sys.stdout.writelines(f"{line}\n" for line in contract.verify(name, data, offline=offline))


@data_app.command("slices")
def data_slices(
    volumes: Annotated[Path, typer.Argument(help="A NIfTI or Analyze file, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="Folder for the images and their labels.csv.")],
    axis: Annotated[str, typer.Option(help="coronal, axial or sagittal.")] = "coronal",
    range_: Annotated[str, typer.Option("--range", help="FIRST-LAST, LAST left out.")] = "130-140",
    count: Annotated[int, typer.Option(help="Slices of a volume.")] = 10,
    metadata: options.Metadata = None,
    label: options.Label = None,
    group: options.Group = None,
) -> None:
    """Cut volumes into flat images; a table of classes sorts them into a folder for each."""
    from benchmark.data import slices

    found = re.fullmatch(r"(\d+)-(\d+)", range_)
    if found is None:
        raise BenchError(f"--range {range_} is not FIRST-LAST.", "Write, for instance, 130-140.")
    if metadata is None and (label or group):
        raise BenchError("A column was named, but no table.", "Name it with --metadata FILE.")
    classes = slices.Classes(metadata, label or "label", group or "subject") if metadata else None
    span = int(found[1]), int(found[2])
    written = slices.cut(volumes, out, axis=axis, span=span, count=count, classes=classes)
    sys.stdout.write(f"{len(written)} slices and {slices.TABLE} in {out}\n")


@weights_app.command("list")
def weights_list(store: options.Store = "store") -> None:
    """The weights in the store, with what their cards say."""
    from benchmark.train import weights

    for card in weights.cards(store):
        images, size = card.get("images"), card.get("size")
        facts = [
            *(card.get(name) for name in ("license", "kind")),
            f"{images:,} images" if images else "",
            f"{size} pixels" if size else "",
            card.get("note"),
        ]
        sys.stdout.write(
            f"{card['key']}  {card['sha256'][:8]}  {card['source']:20} {card['arch']:14} "
            f"{'; '.join(filter(None, facts))}\n"
        )


@weights_app.command("add")
def weights_add(
    file: Path,
    name: Annotated[str, typer.Option(help="imagenet, radimagenet, or a name of your own.")],
    arch: Annotated[str, typer.Option()] = "resnet50",
    license: Annotated[str, typer.Option()] = "",
    note: Annotated[str, typer.Option()] = "",
    mean: Annotated[str, typer.Option(help="Of pixels from 0 to 1: 0.485,0.456,0.406.")] = "",
    std: Annotated[str, typer.Option(help="Their deviation: 0.229,0.224,0.225.")] = "",
    size: Annotated[int, typer.Option(help="Pixels of the images it was made with.", min=0)] = 0,
    images: Annotated[int, typer.Option(help="How many images it was made with.", min=0)] = 0,
    origin: Annotated[str, typer.Option(help="natural, medical or synthetic images.")] = "",
    store: options.Store = "store",
) -> None:
    """Take a file of weights, by whatever layout: `--name imagenet` serves `--source imagenet`,
    another name serves `--source weights:NAME`."""
    from benchmark.files import read_json
    from benchmark.store import CARD
    from benchmark.train import weights

    if not re.fullmatch(r"[\w.-]+", name):
        raise BenchError(f"--name '{name}' is no name.", "Use letters, digits and . _ -")
    if origin not in ("", "natural", "medical", "synthetic"):
        raise BenchError(f"No origin named '{origin}'.", "Say natural, medical or synthetic.")
    source = name if name in ("imagenet", "radimagenet") else f"weights:{name}"
    store.prepare()
    made = weights.add(
        store, source, arch, file, mean=_numbers(mean), std=_numbers(std),
        license=license, note=note, size=size, images=images, kind=origin,
    )  # fmt: skip
    card = read_json(store.of(made) / CARD)
    left = card["left"]
    beside = f"; left out: {', '.join(left[:3])}" + f" and {len(left) - 3} more" * (len(left) > 3)
    sys.stderr.write(
        f"Recognised all of {arch}, {card['named']}{beside if left else ''}.\n"
        f"Added. Use it with --source {source} --arch {arch}; where another file takes the name, "
        f"with --source {source}@{card['sha256'][:8]}.\n"
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise BenchError(f"'{text}' is not a list of numbers.", "Write 0.5,0.5,0.5.") from error


@weights_app.command("export")
def weights_export(key: str, out: Path, store: options.Store = "store") -> None:
    """Copy weights with their card into a folder to hand on."""
    from benchmark.train import weights

    sys.stderr.write(f"Wrote {weights.export(store, key, out)}\n")


@weights_app.command("import")
def weights_import(folder: Path, store: options.Store = "store") -> None:
    """Take in a folder that `weights export` wrote."""
    from benchmark.train import weights

    store.prepare()
    sys.stderr.write(f"Imported {weights.import_(store, folder)}\n")


@results_app.command("export")
def results_export(
    out: Path,
    target: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    key: Annotated[list[str] | None, typer.Option(help="Of a cell, or its beginning.")] = None,
    short: Annotated[bool, typer.Option(help="Predictions rounded: a third as big.")] = False,
    store: options.Store = "store",
) -> None:
    """Write finished runs and distances into one file that names nobody."""
    from benchmark import bundle

    path = bundle.export(store, out, targets=target or (), keys=key or (), short=short)
    sys.stderr.write(f"Wrote {path}\n")


@results_app.command("import")
def results_import(file: Path, store: options.Store = "store") -> None:
    """Take in what `results export` wrote; what cannot be trusted is refused with the reason."""
    from benchmark import bundle

    found = bundle.import_(store, file)
    sys.stderr.write(
        f"{len(found.added)} cells added, {len(found.replaced)} put in place of failures, "
        f"{len(found.same)} were here already.\n"
    )
    sys.stderr.writelines(f"Kept ours, theirs differs: {name}\n" for name in found.differs)
    for name, reason in found.refused.items():
        sys.stderr.write(f"Refused {name}: {reason}\n")
    if found.refused:
        raise typer.Exit(2)


@mlflow_app.command("sync")
def mlflow_sync(
    uri: Annotated[str | None, typer.Option(help="Before MLFLOW_TRACKING_URI.")] = None,
    store: options.Store = "store",
) -> None:
    """Make MLflow show what the store holds; what it shows already is left alone."""
    from reports import mlflow

    def progress(done: int, total: int) -> None:
        if done % 50 == 0 or done == total:
            sys.stderr.write(f"{done} of {total} cells\n")

    found = mlflow.sync(store, uri=uri, progress=progress)
    sys.stderr.write(f"{found.written} runs written, {found.unchanged} were there already.\n")
    sys.stderr.writelines(f"Refused: {text}\n" for text in found.refused)
    if found.refused:
        raise typer.Exit(2)


@expert_app.command("sheet")
def expert_sheet(
    name: list[str],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("sheet"),
    seed: Annotated[int, typer.Option()] = 0,
    offline: options.Offline = False,
    data: options.Data = Path("data"),
    store: options.Store = "store",
) -> None:
    """Nine random images of each set, and a CSV of questions for the observers to answer."""
    from benchmark.data import sheet
    from benchmark.plan.request import resolve

    known = [resolve("source", one) for one in name]
    runtime = options.runtime_of({"data": data, "store": store, "offline": offline}, known)
    sys.stdout.writelines(
        f"{path}\n" for path in sheet.make([one.name for one in known], runtime, out, seed=seed)
    )
    sys.stderr.write(
        "Give each observer a copy, join the copies, then: "
        "bench distance --method expert --answers FILE …\n"
    )


@expert_app.command("show")
def expert_show(file: Path, format: options.Format = "table") -> None:
    """The majority's answers in a file, kappa, and distances when one observer is left out."""
    from reports import answers

    sys.stdout.write(answers.show(file, format=format))


@store_app.command("du")
def store_du(store: options.Store = "store") -> None:
    """Files and megabytes by part of the store."""
    for part, (files, size) in store.usage().items():
        sys.stdout.write(f"{part:12} {files:8} files {size / 1e6:12.1f} MB\n")


@store_app.command("gc")
def store_gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; else only say what would go.")
    ] = False,
    store: options.Store = "store",
) -> None:
    """Drop caches and left-overs; no number, prediction or weight is lost."""
    from benchmark.files import remove

    with store.in_use(alone=True) as free:
        if yes and not free:
            raise BenchError(f"A run is using {store.root}.", "Wait for it, or stop it.")
        found = store.garbage()
        sys.stdout.writelines(f"{path}\n" for path in found)
        if yes:
            remove(found)
    sys.stderr.write(f"{len(found)} {'deleted' if yes else 'would go; add --yes'}\n")


@store_app.command("share")
def store_share(
    off: Annotated[
        bool, typer.Option("--off", help="Keep decoded sets to their owner again.")
    ] = False,
    store: options.Store = "store",
) -> None:
    """Let the owner's group read and write the whole store, decoded patients' records included."""
    store.share(not off)
    who = "its owner alone reads decoded sets" if off else "its group reads and writes all of it"
    sys.stderr.write(f"{store.root}: {who}.\n")


@store_app.command("verify")
def store_verify(
    mend: Annotated[
        bool,
        typer.Option("--mend", help="Set aside what is damaged: the next run makes it again."),
    ] = False,
    store: options.Store = "store",
) -> None:
    """Check everything in the store against its checksums; exit code 2 where something differs."""
    found = 0
    for path, why, outcome in store.verify():
        found += 1
        sys.stdout.write(f"{path}: {why}\n")
        if mend:
            store.mend(path, outcome)
    done = "set aside" if mend else "damaged; set it aside with --mend, and run again"
    sys.stderr.write(f"{found} {done}\n" if found else "Everything is as it was written.\n")
    raise typer.Exit(2 if found and not mend else 0)
