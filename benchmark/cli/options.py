"""Options that several commands share, and how their values are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from benchmark import registry
from benchmark.errors import BenchError, did_you_mean


def complete(kind: str):
    def matching(incomplete: str) -> list[str]:
        known = [*registry.names(kind), *(registry.names("target") if kind == "source" else ())]
        return [name for name in (*known, *(["none"] if kind == "source" else ())) if
                name.startswith(incomplete)]  # fmt: skip

    return matching


Store = Annotated[Path, typer.Option("--store", envvar="BENCH_STORE", help="Where results live.")]
Data = Annotated[Path, typer.Option("--data", envvar="BENCH_DATA", help="Where data sets lie.")]
Format = Annotated[str, typer.Option("--format", help="table, md, csv or json.")]
Targets = Annotated[
    list[str],
    typer.Option("--target", help="Repeat for several.", autocompletion=complete("target")),
]
Name = Annotated[str | None, typer.Option(help="What to call your own folder: folder:NAME.")]
Metadata = Annotated[Path | None, typer.Option(help="CSV beside your own folder.")]
Label = Annotated[str | None, typer.Option(help="Its column of labels.")]
Group = Annotated[str | None, typer.Option(help="Its column of patients.")]
Image = Annotated[str | None, typer.Option(help="Its column of file names.")]
Types = Annotated[
    list[str] | None, typer.Option("--type", help="COLUMN=numeric|categorical|date|boolean.")
]
Slots = Annotated[
    int | None,
    typer.Option(
        help="Cells at once per GPU (1), Slurm jobs at once (16); 0: in this process.", min=0
    ),
]
Mlflow = Annotated[
    bool, typer.Option("--mlflow/--no-mlflow", envvar="BENCH_MLFLOW", help="Mirror to MLflow.")
]
Offline = Annotated[bool, typer.Option("--offline", help="Never reach for the network.")]


def device_named(name: str) -> str:
    """One of the devices there can be, or a sentence."""
    known = ["auto", "cpu", "cuda"]
    kind, colon, index = name.partition(":")
    if kind not in known or (colon and not (kind == "cuda" and index.isdigit())):
        raise BenchError(f"No device named '{name}'.", did_you_mean(kind, known))
    return name


Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", callback=device_named)]


def failure_kinds(text: str) -> list[str]:
    """`oom, killed` as a list of kinds of failure, or a sentence."""
    from benchmark.spec import FailureKind

    known = [*get_args(FailureKind), "all"]
    found = [kind.strip() for kind in text.split(",") if kind.strip()]
    for kind in found:
        if kind not in known:
            raise BenchError(f"No kind of failure is named '{kind}'.", did_you_mean(kind, known))
    return found


def pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise BenchError(f"{option} {text} is not NAME=VALUE.", "Write, for instance, lr=0.001.")
    return name, value


def changes_of(settings: Sequence[str], *, flat: bool = True) -> dict[str, Any]:
    """`--set recipe.lr=0.001` as {"recipe.lr": 0.001}, or nested; values are read as YAML."""
    import yaml

    parts = ("recipe", "pretrain", "fusion", "distance", "data")
    found: dict[str, Any] = {}
    for text in settings:
        name, value = pair(text, "--set")
        part, dot, field = name.partition(".")
        if part not in parts or not dot:
            raise BenchError(
                f"--set {text} changes nothing known.",
                f"Begin with {'., '.join(parts)}. as in --set pretrain.epochs=5.",
            )
        place = found if flat else found.setdefault(part, {})
        place[name if flat else field] = yaml.safe_load(value)
    return found
