"""From what is asked to cells: every combination, each after what it builds on."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import combinations, product
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmark import protocols, registry
from benchmark.api import Distance, Fusion, Source, SourceCard, Target, TargetCard
from benchmark.data import leaks, split
from benchmark.data.download import find_root
from benchmark.errors import BenchError, DataMissing, did_you_mean, unreadable
from benchmark.metadata import FORBIDDEN, WARN, check_columns, matches
from benchmark.spec import (
    CORE_VERSION,
    UNREAD,
    Cell,
    DistanceSpec,
    PretrainSpec,
    Protocol,
    Recipe,
    RunSpec,
    Runtime,
    Scalar,
    Split,
    canonical,
)
from benchmark.store import Store
from benchmark.train import archs, weights

#: Columns whose every subset is run at most: 63 arms.
MOST_COLUMNS = 6

#: Why a cell is not run: the reason to skip it or what is broken; empty where it can be.
Why = str | BenchError
Mode = Literal["finetune", "frozen", "tuned"]
MODES: tuple[Mode, ...] = ("finetune", "frozen", "tuned")


@dataclass(frozen=True)
class Request:
    """What `bench run` was asked for; every list is crossed with every other."""

    sources: Sequence[str] = ("none",)
    targets: Sequence[str] = ()
    fusions: Sequence[str] = ("none",)
    archs: Sequence[str] = ("resnet50",)
    modes: Sequence[str] = ("finetune",)
    protocols: Sequence[str] = ("standard",)
    folds: Sequence[int] = ()  # empty: all of the protocol's
    partitions: Sequence[int] = (0,)
    seeds: Sequence[int] = (0,)
    pretrain_seeds: Sequence[int] = (0,)
    columns: Sequence[str] = ()  # names or patterns; empty: the inputs on the target's card
    types: dict[str, str] = field(default_factory=dict)  # column -> type, over what is inferred
    allow: Sequence[str] = ()  # columns to use although they tell the label
    subsets: bool = False  # every choice of the columns, as an ablation
    recipe: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Scalar] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)  # how the target draws its images


@dataclass(frozen=True)
class DistanceRequest:
    """What `bench distance` was asked for; every list is crossed with every other."""

    sources: Sequence[str]
    targets: Sequence[str]
    methods: Sequence[str]
    arch: str = "resnet50"
    probe: str = "imagenet"  # the source whose weights look at the images
    key: str = ""  # of weights in the store that look instead
    seeds: Sequence[int] = (0,)
    pretrain_seeds: Sequence[int] = (0,)  # of the probe, or of the source's own weights
    size: int = 224
    limit: int | None = None
    pretrain: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Scalar] = field(default_factory=dict)


def runs(request: Request, runtime: Runtime, notes: list[str]) -> Iterator[tuple[Cell, Why]]:
    """Each cell with the reason to skip it, or an empty one; its pretraining comes before it."""
    if "tuned" in request.modes and not runtime.keep:
        raise BenchError(
            "Mode tuned starts from networks that were fine-tuned and kept.",
            "Leave --no-keep out, or --mode tuned.",
        )
    for arch in request.archs:
        archs.known(arch)
    for target in request.targets:
        component = _component("target", target, runtime)
        if not isinstance(component.card, TargetCard):
            raise BenchError(f"'{target}' is only a source.", "Name a target; see `bench list`.")
        version, broken = _read("target", target, runtime, component.look)
        if broken:
            types, left_out, allowed = {}, {}, ()
        else:
            types, said, left_out, allowed = columns_of(component, target, request, runtime)
            notes.extend(said)
            for name in request.protocols:
                _check_classes(component, protocols.load(name).split, target, notes)
        reading = any(_component("fusion", f, runtime).card.record for f in request.fusions)
        if reading and (types or left_out):
            shown = ", ".join(f"{column} ({kind or 'inferred'})" for column, kind in types.items())
            notes.append(f"The record of {target}: {shown or 'nothing'}.")
        if reading and left_out:
            reasons = "; ".join(f"{column} ({why})" for column, why in left_out.items())
            notes.append(f"Left out of the record of {target}: {reasons}.")
        notes.extend(_bears(request, target, runtime))
        one = (target, version, allowed)
        for name, fusion in product(request.protocols, request.fusions):
            reads = _component("fusion", fusion, runtime).card.record
            every = request.subsets and reads and len(types) > 1
            for chosen in _subsets(tuple(types)) if every else [tuple(types)]:
                columns = {column: types[column] for column in chosen}
                yield from _cells(request, runtime, one, columns, name, fusion, broken)


def _subsets(columns: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every choice of columns but none of them, the smallest first."""
    if len(columns) > MOST_COLUMNS:
        raise BenchError(
            f"{len(columns)} columns have {2 ** len(columns) - 1} subsets.",
            f"Choose at most {MOST_COLUMNS} of them with --column.",
        )
    sizes = range(1, len(columns) + 1)
    return [chosen for size in sizes for chosen in combinations(columns, size)]


@dataclass(frozen=True)
class _Arm:
    """One line of the grid: everything but what is drawn."""

    target: str
    version: str  # of the target
    allowed: tuple[str, ...]
    columns: dict[str, str]  # with their types
    protocol: str
    fusion: str
    arch: str
    mode: Mode
    source: str


class _Drawn(NamedTuple):
    """One cell of a line: its test patients, its training and the training of its weights."""

    partition: int
    seed: int
    pretrain_seed: int
    fold: int


def _cells(
    request: Request,
    runtime: Runtime,
    versioned: tuple[str, str, tuple[str, ...]],
    columns: dict[str, str],
    name: str,
    fusion: str,
    broken: BenchError | None,
) -> Iterator[tuple[Cell, Why]]:
    protocol, target = protocols.load(name), versioned[0]
    arm = _component("fusion", fusion, runtime)
    assert isinstance(arm, Fusion)
    unknown = [mode for mode in request.modes if mode not in MODES]
    if unknown:
        raise BenchError(f"No mode named '{unknown[0]}'.", did_you_mean(unknown[0], list(MODES)))
    skip = f"{target} has no metadata" if arm.card.record and not columns else ""
    # An arm on the record alone has no source and no network: it is planned once.
    image = arm.card.image
    modes: list[Mode] = [m for m in MODES if m in request.modes] if image else ["frozen"]
    folds = request.folds or range(protocol.split.folds)
    for fold in folds:
        if not 0 <= fold < protocol.split.folds:
            raise BenchError(
                f"The protocol {name} has no fold {fold}.",
                f"Its folds are 0 to {protocol.split.folds - 1}.",
            )
    for arch, mode, source in product(
        request.archs if image else ("none",), modes, request.sources if image else ("none",)
    ):
        one = _Arm(*versioned, columns, name, fusion, arch, mode, source)
        why = broken or skip or (arm.refuses(arch, mode) if image else "")
        if not why and source != "none":
            why = _read("source", source, runtime)[1] or ""
        # Weights that were not trained here have no seed of their own.
        given = source == "none" or _component("source", source, runtime).card.given
        made = {
            seed: pretrain_cell(source, arch, seed, request.pretrain, runtime)
            if source != "none"
            else None
            for seed in ((0,) if given else request.pretrain_seeds)
        }
        for drawn in product(request.partitions, request.seeds, made, folds):
            one_cell = _Drawn(*drawn)
            yield from _chain(request, runtime, one, one_cell, made[one_cell.pretrain_seed], why)


def _chain(
    request: Request, runtime: Runtime, arm: _Arm, drawn: _Drawn, first: Cell | None, why: Why
) -> Iterator[tuple[Cell, Why]]:
    """A cell after what it builds on: its pretraining, and the image-only run it uses."""
    component = _component("fusion", arm.fusion, runtime)
    base = None
    if arm.mode == "tuned":
        base = replace(arm, mode="finetune", fusion="none")
    elif component.card.needs == "probabilities":
        base = replace(arm, fusion="none")
    base_key = None
    if base is not None and not why:
        for found in _chain(request, runtime, base, drawn, first, ""):
            yield found
            base_key = found[0].key
    if first is not None and not why:
        yield first, ""
    yield _run_cell(request, runtime, arm, drawn, first, base_key), why


def _run_cell(
    request: Request,
    runtime: Runtime,
    arm: _Arm,
    drawn: _Drawn,
    first: Cell | None,
    base: str | None,
) -> Cell:
    protocol = protocols.load(arm.protocol)
    component = _component("fusion", arm.fusion, runtime)
    reads = component.card.record
    versions = {
        "core": CORE_VERSION,
        "target": arm.version,
        "fusion": _version("fusion", arm.fusion, runtime),
        "protocol": str(protocol.version),
    }
    if first is not None:
        versions["source"] = first.versions["source"]
    if component.card.beside:
        versions["record"] = _version("fusion", component.card.beside, runtime)
    spec = RunSpec(
        source=first.spec.source if first else "none",
        target=arm.target,
        fusion=arm.fusion,
        arch=arm.arch,
        mode=arm.mode,
        protocol=arm.protocol,
        **drawn._asdict(),
        columns=tuple(arm.columns) if reads else (),
        types={name: kind for name, kind in arm.columns.items() if kind} if reads else {},
        allowed=tuple(c for c in arm.allowed if c in arm.columns) if reads else (),
        record=protocol.record if reads else None,
        options=_options(component, protocol.fusion.get(arm.fusion, {}), request.options),
        weights=first.key if first else None,
        base=base,
        headline=protocol.headline,
        split=protocol.split,
        recipe=_recipe(
            arm.protocol,
            arm.target,
            arm.mode,
            canonical(request.recipe),
            tuple(_spared(protocol, arm.target, runtime)),
        ).model_copy(update={"data": _drawn(arm.target, request.data, runtime)}),
    )
    return Cell.of(spec, versions)


@cache
def _recipe(protocol: str, target: str, mode: str, changes: str, spared: tuple[str, ...]) -> Recipe:
    return protocols.recipe_for(protocols.load(protocol), target, mode, json.loads(changes), spared)


def _drawn(target: str, asked: dict[str, Any], runtime: Runtime) -> str:
    """How a target draws its images, as `Recipe.data`; what its card does not know is refused."""
    known = _component("target", target, runtime).card.drawing
    for name, value in asked.items():
        if name not in known:
            todo = did_you_mean(name, list(known)) if known else "It draws none."
            raise BenchError(f"The images of {target} have no setting data.{name}.", todo)
        if value not in known[name]:
            raise BenchError(f"data.{name} is {value}.", f"Choose {', '.join(known[name])}.")
    return " ".join(f"{k}={asked[k]}" for k in sorted(asked) if asked[k] != known[k][0])


def _spared(protocol: Protocol, target: str, runtime: Runtime) -> Mapping[str, str]:
    """What the target's images cannot bear, under a protocol that heeds it."""
    return _component("target", target, runtime).card.cannot_bear if protocol.by_card else {}


def _bears(request: Request, target: str, runtime: Runtime) -> Iterator[str]:
    """What of a protocol's augmentation is left out of the target's recipe, and why."""
    for name in request.protocols:
        protocol = protocols.load(name)
        spared = _spared(protocol, target, runtime)
        out = [protocols.left_out(protocol, target, mode, spared) for mode in request.modes]
        for reason, names in {r: names for found in out for r, names in found.items()}.items():
            yield f"{name} on {target}: no augmentation by {', '.join(names)}: {reason}."


def every(kind: str, needs: set[str], runtime: Runtime) -> list[str]:
    """The listed sets that methods with these needs can use on this machine.

    Synthetic ones are among them only where there is no other.
    """
    found: list[tuple[str, SourceCard]] = []
    for name in [*registry.names(kind), *(registry.names("target") if kind == "source" else ())]:
        with suppress(BenchError, ImportError, SyntaxError):  # not here, or broken
            component = _component(kind, name, runtime)
            looked_at = needs & {"features", "network"} or (kind == "target" and needs != {"card"})
            trained_on = "weights" in needs and kind == "source" and not component.card.given
            if component.variants[:1] == ("*",):  # a user's own, which has to be named
                continue
            if looked_at or trained_on:
                find_root(component, runtime.data, offline=True)
            found.append((name, component.card))
    if not found:
        raise BenchError(
            f"No {kind} can be read on this machine.", "`bench data list` says what is missing."
        )
    real = [name for name, card in found if card.origin != "synthetic"]
    return real or [name for name, _ in found]


def distances(
    request: DistanceRequest, runtime: Runtime, notes: list[str]
) -> Iterator[tuple[Cell, Why]]:
    """Each distance after the pretraining of the network it looks with; `all` names every set."""
    archs.known(request.arch)
    needs = {_component("distance", name, runtime).card.needs for name in request.methods}
    sides = {"source": list(request.sources), "target": list(request.targets)}
    for kind, names in sides.items():
        if "all" in names:
            sides[kind] = every(kind, needs, runtime)
            notes.append(f"All {kind}s: {', '.join(sides[kind])}.")
    for name, source, target, seed, pretrain_seed in product(
        request.methods,
        sides["source"],
        sides["target"],
        request.seeds,
        request.pretrain_seeds,
    ):
        method = _component("distance", name, runtime)
        assert isinstance(method, Distance)
        versions, why = {"core": CORE_VERSION, "method": _version("distance", name, runtime)}, ""
        for kind, one in (("source", source), ("target", target)):
            versions[kind], broken = _read(kind, one, runtime)
            why = why or broken or ""
        # A score looks with the source's own network, a distance with the probe, and some with
        # nothing but the cards.
        own, cards_only = method.card.needs == "weights", method.card.needs == "card"
        known, weights, made = source, None if own or cards_only else request.key or None, 0
        if own:
            known, versions["source"] = _source(source, request.arch, runtime)
        looks = source if own else "none" if cards_only else request.probe
        if weights is None and looks != "none":
            first = pretrain_cell(looks, request.arch, pretrain_seed, request.pretrain, runtime)
            weights, made = first.key, first.spec.seed
            if not why:
                yield first, ""
        spec = DistanceSpec(
            source=known,
            target=target,
            method=name,
            arch="none" if cards_only else request.arch,
            seed=0 if cards_only else seed,
            pretrain_seed=made,
            size=DistanceSpec.model_fields["size"].default if cards_only else request.size,
            limit=None if cards_only else request.limit,
            options=_options(method, {}, request.options),
            weights=weights,
        )
        yield Cell.of(spec, versions), why


def pretrain_cell(
    source: str, arch: str, seed: int, changes: dict[str, Any], runtime: Runtime
) -> Cell:
    """The pretraining that makes a source's weights."""
    known, version = _source(source, arch, runtime)
    card = _component("source", source, runtime).card
    assert isinstance(card, SourceCard)
    if card.given:
        return weights.given_cell(known, arch, version)
    recipe = protocols.change(card.pretrain.model_dump(), changes)
    spec = PretrainSpec(source=known, arch=arch, seed=seed, recipe=recipe)
    return Cell.of(spec, {"core": CORE_VERSION, "source": version})


def _source(source: str, arch: str, runtime: Runtime) -> tuple[str, str]:
    """A source's name in a key, and its version: of a file that was added, the file's digest."""
    component = _component("source", source, runtime)
    component.check(arch)
    if not component.card.given:
        return source, _read("source", source, runtime)[0]
    if digest := weights.added(Store(runtime.store), source, arch):
        return source.partition("@")[0], f"file:{digest[:16]}"
    component.need_added(arch)
    return source, _version("source", source, runtime)


class Columns(NamedTuple):
    """The columns of a record: those to use, what to say, those left out, and those in spite."""

    types: dict[str, str]
    notes: list[str]
    left_out: dict[str, str]  # with the reason
    allowed: tuple[str, ...]  # used although they tell the label


def columns_of(component: Source, target: str, request: Request, runtime: Runtime) -> Columns:
    """The record's columns to use with their types; refuses columns that tell the label."""
    card, look, usual = component.card, component.look(), component.columns()
    known = usual
    if any(name not in known for name in request.columns) and isinstance(component, Target):
        with suppress(DataMissing):  # the cells say what is missing
            root = find_root(component, runtime.data, offline=True)
            known = {**component.further(root), **known}
    names = _named(target, request.columns, list(known), look.left_out) or list(usual)
    allow = _named(target, request.allow, list(known), look.left_out)
    names += [name for name in allow if name not in names]
    forbidden = {**FORBIDDEN, **getattr(card, "forbidden", {})}
    warned = {**WARN, **getattr(card, "warned", {})}
    # A card that lists an input knows what it is.
    doubtful = {name: why for name, why in warned.items() if name not in usual}
    notes = [*look.notes]
    notes += check_columns([n for n in names if n not in allow], forbidden, doubtful)
    said = {name for name, _ in matches(names, {**forbidden, **doubtful})}
    notes += [
        f"The column {name} is used: {look.left_out[name]}."
        for name in names
        if name in look.left_out and name not in said
    ]
    telling = {name: look.refused[name] for name in names if name in look.refused}
    telling |= dict(matches([n for n in names if n in allow], forbidden))
    if refused := {name: how for name, how in telling.items() if name not in allow}:
        raise leaks.refusal(target, refused)
    if not look.labels:  # what it tells is seen when it is prepared: it is taken at its word
        telling |= dict.fromkeys(allow, "")
    left_out = {} if request.columns else {
        name: why for name, why in look.left_out.items() if name not in names
    }  # fmt: skip
    for name in request.types:
        if name not in names:
            raise BenchError(
                f"The record of {target} has no column '{name}' to give a type.",
                did_you_mean(name, names) if names else "It has no metadata.",
            )
    types = {name: request.types.get(name, known.get(name, "")) for name in names}
    return Columns(types, notes, left_out, tuple(telling))


def _named(
    target: str, asked: Sequence[str], known: Sequence[str], others: Iterable[str]
) -> list[str]:
    """The columns asked for by name, or by a pattern such as `*_val` among the usual inputs."""
    found = list[str]()
    for name in asked:
        fits = [name] if name in (*known, *others) else [c for c in known if fnmatchcase(c, name)]
        if not fits:
            raise BenchError(
                f"The target {target} has no column '{name}'.",
                did_you_mean(name, list(known)) if known else "It has no metadata.",
            )
        found += fits
    return list(dict.fromkeys(found))


def _check_classes(component: Source, how: Split, target: str, notes: list[str]) -> None:
    """Refuse or note classes that are too rare for the folds, where the labels are at hand."""
    look = component.look()
    if not look.labels or how.kind == "official" or how.test is not None:
        return
    units = [
        group if group and how.kind == "grouped" else f"\0{i}"
        for i, group in enumerate(look.groups)
    ]
    unit = getattr(component.card, "group", "") if how.kind == "grouped" else ""
    notes += split.check(np.array(look.labels), np.array(units), how.folds, (target, unit))


def _options(
    arm: Fusion | Distance, of_protocol: dict[str, Scalar], asked: dict[str, Scalar]
) -> dict[str, Scalar]:
    """The arm's options: its own defaults, the protocol's, then the user's."""
    known = dict(arm.card.options)
    return {**known, **of_protocol, **{k: v for k, v in asked.items() if k in known}}


def _component(kind: str, name: str, runtime: Runtime):
    path, given = runtime.paths.get(name), runtime.inputs.get(name)
    return (
        _built_in(kind, name)
        if path is None and given is None
        else registry.load(kind, name, path=path, given=given)
    )


@cache
def _built_in(kind: str, name: str):
    return registry.load(kind, name)


def _version(kind: str, name: str, runtime: Runtime) -> str:
    path, given = runtime.paths.get(name), runtime.inputs.get(name)
    if path is None and given is None:
        return _built_in_version(kind, name)
    return registry.version(kind, name, path=path, given=given)


def _read(
    kind: str, name: str, runtime: Runtime, look: Callable[[], object] = lambda: None
) -> tuple[str, BenchError | None]:
    """A set's version, and why it cannot be used: one of the user's own may be broken."""
    version = UNREAD
    try:
        version = _version(kind, name, runtime)
        look()
    except Exception as error:
        if name not in runtime.inputs:
            raise
        return version, unreadable(name, error)
    return version, None


@cache
def _built_in_version(kind: str, name: str) -> str:
    return registry.version(kind, name)
