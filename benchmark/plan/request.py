"""A plan file: any option of `bench run` as YAML, with lists that are crossed with each other.

    target: isic
    source: [none, imagenet, dtd]
    fusion: [none, concat]
    size: [112, $protocol]          # $protocol: what the protocol says
    recipe.lr: [1.0e-4, 1.0e-3]     # as --set recipe.lr=...
    include: [{source: dtd, fusion: metanet, fold: 0}]
    exclude: [{source: "medical:*", size: 112}]

An entry of `include` is run with what it names in place of the plan's; a combination that has all
of an entry of `exclude` is left out.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from benchmark.errors import BenchError, did_you_mean
from benchmark.metadata import KINDS
from benchmark.plan.expand import Request
from benchmark.plan.run import Names
from benchmark.spec import Input

#: What the specs and the request call an option whose values are crossed.
LISTS = {
    "source": "sources",
    "target": "targets",
    "fusion": "fusions",
    "arch": "archs",
    "mode": "modes",
    "protocol": "protocols",
    "fold": "folds",
    "partition": "partitions",
    "seed": "seeds",
    "pretrain_seed": "pretrain_seeds",
}
RECIPE = ("size", "epochs", "batch", "lr", "limit", "precision", "threads")
CHANGES = {"recipe": "recipe", "pretrain": "pretrain", "fusion": "options", "data": "data"}
NUMBERS = ("fold", "partition", "seed", "pretrain_seed")
SINGLE = ("column", "allow-column", "type", "subsets")  # one value for the whole plan
OWN = ("name", "metadata", "label", "group", "image")  # of a folder of the user's own
PROTOCOL = "$protocol"


def read(path: Path) -> dict[str, Any]:
    """The options in a plan file."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BenchError(f"There is no plan file {path}.", "Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise BenchError(f"{path} is not YAML: {reason}.", "Mend that line.") from error
    if not isinstance(found, dict):
        raise BenchError(f"{path} does not hold options.", "Write for instance: target: isic")
    if "target" not in found:
        raise BenchError(f"{path} names no target.", "Add a line: target: isic")
    return found


def requests(options: dict[str, Any], names: Names) -> list[Request]:
    """What these options ask for; `names` takes note of folders and files given by path."""
    options = dict(options)
    include, exclude = (_entries(options.pop(name, []), name) for name in ("include", "exclude"))
    found = []
    for asked in (options, *({**options, **entry} for entry in include)):
        _check(asked)
        barred = [] if asked is not options else exclude
        found += [_request(one, names) for one in _crossed(asked, barred)]
    if not found:
        raise BenchError("The plan excludes everything it asks for.", "Take an exclusion out.")
    return found


def _entries(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise BenchError(f"'{name}' is not a list of options.", "Write: - {source: dtd, fold: 0}")
    for entry in value:
        _check(entry)
    return value


def _check(options: dict[str, Any]) -> None:
    known = [*LISTS, *RECIPE, *SINGLE, *OWN, "include", "exclude"]
    for name in options:
        part, dot, field = str(name).partition(".")
        if name not in known and not (dot and field and part in CHANGES):
            raise BenchError(
                f"A plan has no option '{name}'.",
                did_you_mean(str(name), known) + " How it runs is said on the command line.",
            )


def _crossed(options: dict[str, Any], exclude: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The combinations that are left; what is neither changed nor excluded stays a list."""
    named = {name for entry in exclude for name in entry}
    for name in sorted(named - options.keys()):
        raise BenchError(f"The plan excludes by '{name}' and does not set it.", "Set it, too.")
    apart = [
        name for name in options
        if name in named or name in RECIPE or ("." in name)
    ]  # fmt: skip
    rest = {name: value for name, value in options.items() if name not in apart}
    for values in product(*(listed(options[name]) for name in apart)):
        chosen = dict(zip(apart, values, strict=True))
        if not any(_matches(chosen, entry) for entry in exclude):
            yield {**rest, **chosen}


def _matches(chosen: dict[str, Any], entry: dict[str, Any]) -> bool:
    return all(
        any(fnmatchcase(str(chosen[name]), str(wanted)) for wanted in listed(value))
        for name, value in entry.items()
    )


def _request(options: dict[str, Any], names: Names) -> Request:
    folder = own(options)
    facts: dict[str, Any] = {"recipe": {}, "pretrain": {}, "options": {}, "data": {}}
    # Targets first: a folder that is a source as well goes by the name the target has.
    for name, value in sorted(options.items(), key=lambda item: item[0] != "target"):
        if name in LISTS:
            facts[LISTS[name]] = _resolved(name, listed(value), names, folder)
        elif name in RECIPE and value != PROTOCOL:
            facts["recipe"][name] = value
        elif "." in name and value != PROTOCOL:
            part, _, field = name.partition(".")
            facts[CHANGES[part]][field] = value
    facts["columns"] = tuple(listed(options.get("column") or ()))
    facts["allow"] = tuple(listed(options.get("allow-column") or ()))
    facts["types"] = types(options.get("type") or {})
    facts["subsets"] = bool(options.get("subsets", False))
    if any(options.get(name) for name in OWN) and not names.inputs:
        raise BenchError(
            "--name, --metadata, --label, --group and --image describe a folder of your own.",
            "Name it: --target ./my-images.",
        )
    return Request(**facts)


def own(options: dict[str, Any]) -> Input:
    """How to read a folder of the user's own."""
    metadata = options.get("metadata")
    return Input(
        path=Path(),
        name=options.get("name"),
        metadata=Path(metadata) if metadata else None,
        label=options.get("label"),
        group=options.get("group"),
        image=options.get("image"),
    )


def types(asked: dict[str, str]) -> dict[str, str]:
    """Column and type, each type by its full word."""
    for kind in map(str, asked.values()):
        if kind not in KINDS:
            raise BenchError(
                f"No type named '{kind}'.", did_you_mean(kind, sorted({*KINDS.values()}))
            )
    return {name: KINDS[kind] for name, kind in asked.items()}


def _resolved(name: str, values: Sequence[Any], names: Names, own: Input) -> tuple[Any, ...]:
    if name in NUMBERS:
        wrong = [v for v in values if not isinstance(v, int) or isinstance(v, bool) or v < 0]
        if wrong:
            raise BenchError(f"{name} {wrong[0]} is not a whole number.", "Write 0, 1, …")
        return tuple(values)
    texts = [str(value) for value in values]
    if name in ("source", "target", "fusion"):
        of_target = own if name == "target" else None
        return tuple(names.resolve(name, text, of_target) for text in texts)
    return tuple(texts)


def listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
