"""Options that several commands share, and how their values are read."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from benchmark import registry
from benchmark.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from benchmark.plan.request import Named
    from benchmark.spec import Runtime
    from benchmark.store import Store as Results


def complete(kind: str):
    def matching(incomplete: str) -> list[str]:
        known = [*registry.names(kind), *(registry.names("target") if kind == "source" else ())]
        known += ["none"] if kind == "source" else []
        return [name for name in known if name.startswith(incomplete)]

    return matching


def store_at(place: str) -> "Results":
    """The store at a place."""
    from benchmark.store import Store

    return Store(Path(place))


Store = Annotated[
    Any,
    typer.Option(
        "--store", envvar="BENCH_STORE", help="Where results live.", parser=store_at, metavar="PATH"
    ),
]
Data = Annotated[Path, typer.Option("--data", envvar="BENCH_DATA", help="Where data sets lie.")]
Format = Annotated[str, typer.Option("--format", help="table, md, csv or json.")]
Targets = Annotated[
    list[str] | None, typer.Option(help="Repeatable.", autocompletion=complete("target"))
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        help="Repeatable; none: no pretrained weights.", autocompletion=complete("source")
    ),
]
Fusions = Annotated[
    list[str] | None, typer.Option(help="Repeatable.", autocompletion=complete("fusion"))
]
Distances = Annotated[
    list[str] | None,
    typer.Option(help="Repeatable; see `bench list`.", autocompletion=complete("distance")),
]
Archs = Annotated[list[str] | None, typer.Option(help="Any timm or torchvision name; resnet50.")]
Modes = Annotated[list[str] | None, typer.Option(help="finetune, frozen or tuned.")]
Protocols = Annotated[list[str] | None, typer.Option(help="standard, cats, … or a YAML.")]
TrainSizes = Annotated[
    list[str] | None, typer.Option(help="Training images; 100%: the whole training part.")
]
Seeds = Annotated[list[int] | None, typer.Option(help="Of the training; repeatable, 0.")]
WeightSeeds = Annotated[
    list[int] | None, typer.Option(help="Of the weights' own training; repeatable, 0.")
]
Arm = Annotated[
    str, typer.Option(help="The arm whose scores count.", autocompletion=complete("fusion"))
]
Baseline = Annotated[
    str, typer.Option(help="What gains are over: scratch, random (features) or self.")
]
Columns = Annotated[
    list[str] | None, typer.Option(help="Column of the record to use, or a pattern: '*_val'.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="recipe., pretrain., fusion., distance. or data.K=V."),
]
Pixels = Annotated[int, typer.Option(help="Pixels of a side.", min=1)]
Workers = Annotated[int, typer.Option(help="Decoding processes; 0: one per core.", min=0)]
Name = Annotated[str | None, typer.Option(help="What to call your own folder: folder:NAME.")]
Metadata = Annotated[Path | None, typer.Option(help="CSV beside your own folder.")]
Label = Annotated[
    str | None, typer.Option(help="Its column of labels, or several of 0 and 1: 'edema,mass'.")
]
Separator = Annotated[
    str | None, typer.Option(help="Between labels in a cell of --label, where it names several.")
]
Group = Annotated[str | None, typer.Option(help="Its column of patients.")]
Image = Annotated[str | None, typer.Option(help="Its column of file names.")]
Split = Annotated[
    str | None, typer.Option(help="Its column of train, val and test, for --protocol official.")
]
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


def changes_of(settings: Sequence[str]) -> dict[str, Any]:
    """`--set recipe.lr=0.001` as {"recipe.lr": 0.001}; values are read as YAML."""
    import yaml

    parts = ("recipe", "pretrain", "fusion", "distance", "data")
    found: dict[str, Any] = {}
    for text in settings:
        name, value = pair(text, "--set")
        part, dot, _ = name.partition(".")
        if part not in parts or not dot:
            raise BenchError(
                f"--set {text} changes nothing known.",
                f"Begin with {'., '.join(parts)}. as in --set pretrain.epochs=5.",
            )
        found[name] = yaml.safe_load(value)
    return found


def asked_by(said: dict[str, Any]) -> dict[str, Any]:
    """Of the options of a command those that a request knows, as a plan file has them."""
    from benchmark.plan.request import KNOWN

    found = {name.replace("_column", "-column"): value for name, value in said.items()}
    found["type"] = dict(pair(text, "--type") for text in said["type_"] or ())
    found = {name: value for name, value in found.items() if name in KNOWN}
    found |= changes_of(said["set_"] or ())
    # What was left out; a 0 was not.
    return {
        k: v for k, v in found.items() if v is not None and v is not False and v not in ([], {})
    }


def runtime_of(said: dict[str, Any], named: "Iterable[Named]" = ()) -> "Runtime":
    """How a command's cells run, and where components of the user's own lie."""
    from benchmark.plan.request import told
    from benchmark.spec import Runtime

    how = {name: value for name, value in said.items() if name in Runtime.model_fields}
    return Runtime(**{**how, "store": said["store"].root}, **told(named))


def filters_of(said: dict[str, Any]) -> dict[str, Any]:
    """What of a store a reader is to take, as readers call it; what was not named is not asked."""
    names = ("target", "source", "fusion", "protocol", "arch", "mode", "seed", "train_size")
    return {f"{name}s": said[name] for name in names if said.get(name)}
