"""What is asked for: options of the command line or of a plan file become one typed request.

    target: isic
    source: [none, imagenet, dtd]
    fusion: [none, concat]
    size: [112, $protocol]          # $protocol: what the protocol says
    recipe.lr: [1.0e-4, 1.0e-3]     # as --set recipe.lr=...
    include: [{source: dtd, fusion: metanet, fold: 0}]
    exclude: [{source: "medical:*", size: 112}]

`include`: run too, with what it names in place of the plan's; `exclude`: left out, if all is so.
"""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, ValidationInfo

from benchmark.errors import BenchError, did_you_mean
from benchmark.metadata import KINDS
from benchmark.protocols import first_line
from benchmark.spec import Frozen, Input, Mode, Scalar, TrainSize, amount, share_of

MODES: tuple[Mode, ...] = get_args(Mode)

#: Options whose values are crossed.
LISTS = (
    "source", "target", "fusion", "arch", "mode", "protocol",
    "fold", "partition", "train_size", "seed", "pretrain_seed", "missing", "test_on",
)  # fmt: skip
RECIPE = ("size", "epochs", "batch", "lr", "limit", "precision", "threads")
#: Of a folder of the user's own.
OWN = ("name", "metadata", "label", "group", "image", "split", "separator")
#: One value for the whole plan.
SINGLE = ("tune", "column", "allow-column", "type", "subsets", "subgroup")
#: Lists that are one value: learning rates of which validation chooses.
WHOLE = ("tune", "recipe.tune")
#: What `part.field` can change; of an arm and of a method these are the options.
PARTS = ("recipe", "pretrain", "fusion", "data")
OPTIONS = ("fusion", "distance")
#: What of a request names components, targets first: a folder that is a source as well goes by
#: the name the target has.
COMPONENTS = {
    "targets": "target", "test_ons": "target", "sources": "source", "fusions": "fusion",
    "methods": "distance", "probe": "source",
}  # fmt: skip
PROTOCOL = "$protocol"
#: What commands may say of what is asked for; all else is how it runs.
KNOWN = (*LISTS, *RECIPE, *SINGLE, *OWN, "method", "probe", "answers")


class Named(NamedTuple):
    """A component as keys know it, and where one of the user's own lies."""

    name: str
    path: Path | None = None  # of its file
    given: Input | None = None  # its folder, or its table of answers


def resolve(kind: str, text: str, own: Input | None = None) -> Named:
    """`./mine.py:x` is `mine:x`, `./my-images` is `folder:my-images`, read as `own` says."""
    bare = text.removeprefix("folder:")
    path = Path(bare).expanduser()
    file, ending, variant = text.partition(".py")
    if ending and (not variant or variant.startswith(":")):
        path = Path(file + ending).expanduser()
        if not path.is_file():
            raise BenchError(f"There is no component file {path}.", "Check the path.")
        return Named(path.stem + variant, path=path.resolve())
    if text.startswith("folder:") or (("/" in bare or bare.startswith(".")) and path.is_dir()):
        if not path.is_dir():
            raise BenchError(f"There is no folder {path}.", "Check the path.")
        how, path = own or Input(path=path), path.resolve()
        if how.name is not None and not re.fullmatch(r"[\w.-]+", how.name):
            raise BenchError(f"--name '{how.name}' is no name.", "Use letters, digits and . _ -")
        name = how.name or path.name
        given = how.model_copy(update={"path": path, "name": name})
        return Named(f"folder:{name}", given=given)
    if kind == "distance" and own is not None and text == "expert":
        return Named(f"expert:{own.path.stem}", given=own)
    if "/" in bare and kind in ("source", "target") and not text.startswith("hub:"):
        raise BenchError(f"There is no folder or component file {path}.", "Check the path.")
    return Named(text)


def told(named: Iterable[Named]) -> dict[str, Any]:
    """What a runtime tells workers of components of the user's own."""
    inputs, paths = dict[str, Input](), dict[str, Path]()
    for name, path, given in named:
        if path is not None:
            paths[name] = path
        if given is not None and inputs.setdefault(name, given).path != given.path:
            raise BenchError(
                f"Two folders are both named '{name.removeprefix('folder:')}'.",
                "Name one with --name, in a run of its own.",
            )
    return {"inputs": inputs, "paths": paths}


def own_of(asked: Iterable["Asked"]) -> list[Named]:
    """The components of the user's own in some requests."""
    return [one for request in asked for one in request.named]


def listed(value: Any) -> list[Any]:
    """A single value is a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _whole(value: Any, info: ValidationInfo) -> list[int]:
    for one in listed(value):
        if not isinstance(one, int) or isinstance(one, bool) or one < 0:
            name = (info.field_name or "").removesuffix("s")
            raise BenchError(f"{name} {one} is not a whole number.", "Write 0, 1, …")
    return listed(value)


def _modes(value: Any) -> list[Any]:
    for mode in map(str, listed(value)):
        if mode not in MODES:
            raise BenchError(f"No mode named '{mode}'.", did_you_mean(mode, list(MODES)))
    return listed(value)


def _sizes(value: Any) -> list[str]:
    found = ["" if one in (None, PROTOCOL) else str(one).strip() for one in listed(value)]
    for size in filter(None, found):
        try:
            amount(size)
        except ValueError as error:
            raise BenchError(f"'{size}' is no --train-size.", f"{error}.".capitalize()) from error
    return found


def _missing(value: Any) -> list[str]:
    """Each share with one spelling; what is no number names columns."""
    found = list[str]()
    for one in map(str, listed(value)):
        share = share_of(one)
        if share is not None and not 0 < share <= 1:
            raise BenchError(
                f"--missing {one} is no share of the records.",
                "Write 0.5 for half of them, 1 for all, or the name of a column.",
            )
        found.append(one.strip() if share is None else f"{share:.15g}")
    return list(dict.fromkeys(found))


def _types(asked: dict[str, str]) -> dict[str, str]:
    """Each type by its full word."""
    for kind in asked.values():
        if kind not in KINDS:
            known = sorted({*KINDS.values()})
            raise BenchError(f"No type named '{kind}'.", did_you_mean(kind, known))
    return {name: KINDS[kind] for name, kind in asked.items()}


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: [*map(str, listed(value))])]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_whole)]


class Asked(Frozen):
    """What runs and distances are asked for alike; every list is crossed with every other."""

    sources: Texts = ("none",)
    targets: Texts = ()
    seeds: Numbers = (0,)
    pretrain_seeds: Numbers = (0,)  # of the sources' own weights, or of the probe's
    pretrain: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Scalar] = Field(default_factory=dict)  # of the arm, or of the method
    named: tuple[Named, ...] = ()


class Request(Asked):
    """What `bench run` is asked for."""

    fusions: Texts = ("none",)
    archs: Texts = ("resnet50",)
    modes: Annotated[tuple[Mode, ...], BeforeValidator(_modes)] = ("finetune",)
    protocols: Texts = ("standard",)
    folds: Numbers = ()  # empty: all of the protocol's
    partitions: Numbers = (0,)
    train_sizes: Annotated[tuple[TrainSize, ...], BeforeValidator(_sizes)] = ("",)
    #: Each run tested again without these records: shares, or columns joined by +.
    missing: Annotated[tuple[str, ...], BeforeValidator(_missing)] = ()
    test_ons: Texts = ()  # each run tested again on all of these sets
    columns: Texts = ()  # names or patterns; empty: the inputs on the target's card
    types: Annotated[dict[str, str], AfterValidator(_types)] = Field(
        default_factory=dict
    )  # over what is inferred
    allow: Texts = ()  # columns to use although they tell the label
    subgroups: Texts = ()  # further columns to judge the tests by; in no key
    subsets: bool = False  # every choice of the columns, as an ablation
    recipe: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)  # how the target draws its images


class DistanceRequest(Asked):
    """What `bench distance` is asked for."""

    methods: Texts
    arch: str = "resnet50"
    probe: str = "imagenet"  # the source whose weights look at the images
    key: str = ""  # of weights in the store that look instead
    protocol: str = "standard"  # of the runs that a score is to foretell
    size: int = 224
    limit: int | None = None


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


def requests(options: dict[str, Any]) -> list[Request]:
    """The runs these options ask for."""
    options = dict(options)
    include, exclude = (_entries(options.pop(name, []), name) for name in ("include", "exclude"))
    found = []
    for asked in (options, *({**options, **entry} for entry in include)):
        _check(asked)
        barred = [] if asked is not options else exclude
        found += [_valid(Request, one) for one in _crossed(asked, barred)]
    if not found:
        raise BenchError("The plan excludes everything it asks for.", "Take an exclusion out.")
    return found


def distances(options: dict[str, Any], key: str = "") -> DistanceRequest:
    """The distances these options ask for; weights of the store that look are named by `key`."""
    for name in options:
        if name.startswith("fusion."):
            raise BenchError(f"A distance has no option '{name}'.", "Its own begin with distance.")
    return _valid(DistanceRequest, {**options, "key": key})


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
        if name not in known and not (dot and field and part in PARTS):
            raise BenchError(
                f"A plan has no option '{name}'.",
                did_you_mean(str(name), known) + " How it runs is said on the command line.",
            )


def _crossed(options: dict[str, Any], exclude: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The combinations that are left; what is neither changed nor excluded stays a list."""
    named = {name for entry in exclude for name in entry}
    for name in sorted(named - options.keys()):
        raise BenchError(f"The plan excludes by '{name}' and does not set it.", "Set it, too.")
    apart = [name for name in options if name in named or name in RECIPE or "." in name]
    apart = [name for name in apart if name not in WHOLE]
    for values in product(*(listed(options[name]) for name in apart)):
        chosen = dict(zip(apart, values, strict=True))
        if not any(_matches(chosen, entry) for entry in exclude):
            yield {**options, **chosen}


def _matches(chosen: dict[str, Any], entry: dict[str, Any]) -> bool:
    return all(
        any(fnmatchcase(str(chosen[name]), str(wanted)) for wanted in listed(value))
        for name, value in entry.items()
    )


Kind = TypeVar("Kind", bound=Asked)


def _valid(kind: type[Kind], options: dict[str, Any]) -> Kind:
    """The request of these options, in which a component is called as keys call it."""
    facts = _facts(kind, options)
    try:
        own = Input(path=Path(), **{name: options.get(name) or None for name in OWN})
        how = {"target": own}
        if "answers" in options:
            how["distance"] = Input(path=Path(options["answers"]).resolve())
        named = list[Named]()
        for field, role in COMPONENTS.items():
            if field not in facts or (field == "probe" and facts["key"]):
                continue
            texts = [str(text) for text in listed(facts[field])]
            second = field == "test_ons" and any(one.given for one in named)
            each = [_alike(own, Path(text)) if second else how.get(role) for text in texts]
            found = [_same(resolve(role, *one), named) for one in zip(texts, each, strict=True)]
            facts[field] = found[0].name if field == "probe" else [one.name for one in found]
            named += found
        if own != Input(path=Path()) and not any(one.given for one in named):
            raise BenchError(
                f"{', '.join(f'--{name}' for name in OWN)} describe a folder of your own.",
                "Name it: --target ./my-images.",
            )
        told(named)
        return kind(**facts, named=tuple(one for one in named if one.path or one.given))
    except ValidationError as error:
        raise BenchError(f"That cannot be asked: {first_line(error)}", "Correct it.") from error


def _facts(kind: type[Asked], options: dict[str, Any]) -> dict[str, Any]:
    """Options as a request calls them, without those that say nothing."""
    facts: dict[str, Any] = {}
    for name, value in options.items():
        part, _, field = name.partition(".")
        if kind is Request and name in (*RECIPE, "tune"):
            part, field = "recipe", name
        if field and value != PROTOCOL:
            facts.setdefault("options" if part in OPTIONS else part, {})[field] = value
        elif not field and value is not None and name not in (*OWN, "answers"):
            many = "allow" if name == "allow-column" else f"{name}s"
            facts[many if many in kind.model_fields else name] = value
    return facts


def _alike(own: Input, folder: Path) -> Input:
    """A second folder is read as the target's where its table has the same name and is inside."""
    table = (folder / own.metadata.name if own.metadata else folder).resolve()
    same = own.model_copy(update={"name": None, "metadata": table, "split": None})
    return same if table.is_file() else Input(path=folder)


def _same(one: Named, others: Iterable[Named]) -> Named:
    """A folder that goes by another name already keeps that."""
    there = (n for n in others if n.given and one.given and n.given.path == one.given.path)
    return next(there, one)
