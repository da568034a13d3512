"""From what is asked to cells: every combination, each after what it builds on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from typing import Any, NamedTuple

from benchmark import protocols
from benchmark.api import Fusion, TargetCard
from benchmark.errors import BenchError, did_you_mean
from benchmark.metrics import KAPPA
from benchmark.plan.parts import Why, load, options_of, pretrain_cell, read_version, version_of
from benchmark.plan.record import check_classes, check_sizes, columns_of, second_set
from benchmark.plan.request import MODES, Request
from benchmark.spec import (
    CORE_VERSION,
    Cell,
    Mode,
    Protocol,
    Recipe,
    RunSpec,
    Runtime,
    canonical,
    share_of,
)
from benchmark.train import archs

#: An arm on the record alone: no network, no source.
BARE: tuple[str, Mode, str] = "none", "frozen", "none"
#: Columns whose every subset is run at most: 63 arms.
MOST_COLUMNS = 6


def runs(request: Request, runtime: Runtime, notes: list[str]) -> Iterator[tuple[Cell, Why]]:
    """Each cell with the reason to skip it, or an empty one; its pretraining comes before it."""
    if "tuned" in request.modes and not runtime.keep:
        raise BenchError(
            "Mode tuned starts from networks that were fine-tuned and kept.",
            "Leave --no-keep out, or --mode tuned.",
        )
    for option, asked in (("--missing", request.missing), ("--test-on", request.test_ons)):
        if asked and not runtime.keep:
            raise BenchError(
                "What is tested once more is a network that was kept.",
                f"Leave --no-keep out, or {option}.",
            )
    usual = {name: Recipe.model_fields[name].default for name in protocols.TRAINED}
    idle = [name for name in usual if request.recipe.get(name, usual[name]) != usual[name]]
    if idle and {*request.modes} == {"frozen"}:
        raise BenchError(
            f"Mode frozen trains a head alone: recipe.{idle[0]} would change nothing.",
            "Leave it out, or take --mode finetune.",
        )
    for arch in request.archs:
        archs.known(arch)
    for target in request.targets:
        component = load("target", target, runtime)
        if not isinstance(component.card, TargetCard):
            raise BenchError(f"'{target}' is only a source.", "Name a target; see `bench list`.")
        version, broken = read_version("target", target, runtime, component.look)
        if broken:
            types, left_out, allowed = {}, {}, ()
        else:
            types, said, left_out, allowed = columns_of(component, target, request, runtime)
            notes.extend(said)
            for name in request.protocols:
                check_classes(component, protocols.load(name).split, target, notes)
            check_sizes(component, request.train_sizes, target)
        reading = any(load("fusion", f, runtime).card.record for f in request.fusions)
        if reading and (types or left_out):
            shown = ", ".join(f"{column} ({kind or 'inferred'})" for column, kind in types.items())
            notes.append(f"The record of {target}: {shown or 'nothing'}.")
        if reading and left_out:
            reasons = "; ".join(f"{column} ({why})" for column, why in left_out.items())
            notes.append(f"Left out of the record of {target}: {reasons}.")
        notes.extend(_bears(request, target, runtime))
        notes.extend(_lacks(request, target, types, runtime))
        seconds = [second_set(name, component, target, runtime) for name in request.test_ons]
        one = (target, version, allowed)
        for name, fusion in product(request.protocols, request.fusions):
            reads = load("fusion", fusion, runtime).card.record
            every = request.subsets and reads and len(types) > 1
            for chosen in _subsets(tuple(types)) if every else [tuple(types)]:
                columns = {column: types[column] for column in chosen}
                for cell, why in _cells(request, runtime, one, columns, name, fusion, broken):
                    yield cell, why
                    if not why:
                        yield from _elsewhere(cell, request, fusion, seconds)


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
    """One line of a plan: everything but what is drawn."""

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
    """One cell of a line: its patients, its training and the training of its weights."""

    partition: int
    train_size: str
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
    arm = load("fusion", fusion, runtime)
    assert isinstance(arm, Fusion)
    skip = f"{target} has no metadata" if arm.card.record and not columns else ""
    # An arm on the record alone has no source and no network: it is planned once.
    image = arm.card.image
    modes: list[Mode] = [m for m in MODES if m in request.modes]
    folds = request.folds or range(protocol.split.folds)
    for fold in folds:
        if not 0 <= fold < protocol.split.folds:
            raise BenchError(
                f"The protocol {name} has no fold {fold}.",
                f"Its folds are 0 to {protocol.split.folds - 1}.",
            )
    for arch, mode, source in _networks(request, modes, runtime) if image else [BARE]:
        one = _Arm(*versioned, columns, name, fusion, arch, mode, source)
        why = broken or skip or (arm.refuses(arch, mode) if image else "")
        recipe = _recipe_of(request, runtime, one)
        if image and not why:
            why = archs.refuses(arch, recipe.crop or recipe.size)
        if recipe.trains == "lora":
            archs.need_attention(arch)
        if not why and source != "none":
            why = read_version("source", source, runtime)[1] or ""
        # Weights that were not trained here have no seed of their own.
        given = source == "none" or load("source", source, runtime).card.given
        made = {
            seed: pretrain_cell(source, arch, seed, request.pretrain, runtime)
            if source != "none"
            else None
            for seed in ((0,) if given else request.pretrain_seeds)
        }
        for drawn in product(request.partitions, request.train_sizes, request.seeds, made, folds):
            one_cell = _Drawn(*drawn)
            cells = list(_chain(request, runtime, one, one_cell, made[one_cell.pretrain_seed], why))
            yield from cells
            if arm.card.record and not why:
                yield from ((cell, "") for cell in _without(cells[-1][0], request.missing))


def _without(whole: Cell, missing: Sequence[str]) -> Iterator[Cell]:
    """The tests of a run without some of its records; of columns that it does not read, none."""
    spec = whole.spec
    assert isinstance(spec, RunSpec)
    for text in missing:
        if share_of(text) is not None or {*text.split("+")} <= {*spec.columns}:
            less = spec.model_copy(update={"missing": text, "base": whole.key})
            yield Cell.of(less, whole.versions)


def _elsewhere(
    whole: Cell, request: Request, fusion: str, seconds: Sequence[tuple[str, str, Why]]
) -> Iterator[tuple[Cell, Why]]:
    """The tests of a run that was asked for, and not only built on, on other sets."""
    spec = whole.spec
    if not isinstance(spec, RunSpec) or spec.missing or spec.fusion != fusion:
        return
    if spec.arch == "none" or spec.mode in request.modes:
        for name, version, broken in seconds:
            there = spec.model_copy(update={"tested_on": name, "base": whole.key})
            yield Cell.of(there, {**whole.versions, "tested_on": version}), broken


def _networks(
    request: Request, modes: list[Mode], runtime: Runtime
) -> Iterator[tuple[str, Mode, str]]:
    """Network, mode and source; a source that names its network is looked at with that alone."""
    found = {}
    for arch, mode, source in product(request.archs, modes, request.sources):
        own = load("source", source, runtime).network(arch) if source != "none" else arch
        found[own, mode, source] = None
    yield from found


def _chain(
    request: Request, runtime: Runtime, arm: _Arm, drawn: _Drawn, first: Cell | None, why: Why
) -> Iterator[tuple[Cell, Why]]:
    """A cell after what it builds on: its pretraining, and the image-only run it uses."""
    component = load("fusion", arm.fusion, runtime)
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
    component = load("fusion", arm.fusion, runtime)
    reads = component.card.record
    grades = load("target", arm.target, runtime).card.ordinal
    versions = {
        "core": CORE_VERSION,
        "target": arm.version,
        "fusion": version_of("fusion", arm.fusion, runtime),
        "protocol": str(protocol.version),
    }
    if first is not None:
        versions["source"] = first.versions["source"]
    if component.card.beside:
        versions["record"] = version_of("fusion", component.card.beside, runtime)
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
        options=options_of(component, protocol.fusion.get(arm.fusion, {}), request.options),
        weights=first.key if first else None,
        base=base,
        headline=KAPPA if grades else protocol.headline,
        split=protocol.split,
        recipe=_recipe_of(request, runtime, arm),
    )
    return Cell.of(spec, versions)


def _recipe_of(request: Request, runtime: Runtime, arm: _Arm) -> Recipe:
    """How the cells of a line are trained."""
    name, target, mode, scratch = arm.protocol, arm.target, arm.mode, arm.source == "none"
    spared = tuple(_spared(protocols.load(name), target, runtime))
    found = _recipe(name, target, mode, scratch, canonical(request.recipe), spared)
    return found.model_copy(update={"data": _drawn(target, request.data, runtime)})


@cache
def _recipe(
    name: str, target: str, mode: str, scratch: bool, changes: str, spared: tuple[str, ...]
) -> Recipe:
    protocol, asked = protocols.load(name), json.loads(changes)
    return protocols.recipe_for(protocol, target, mode, asked, spared, scratch=scratch)


def _drawn(target: str, asked: dict[str, Any], runtime: Runtime) -> str:
    """How a target draws its images, as `Recipe.data`; what its card does not know is refused."""
    known = load("target", target, runtime).card.drawing
    for name, value in asked.items():
        if name not in known:
            todo = did_you_mean(name, list(known)) if known else "It draws none."
            raise BenchError(f"The images of {target} have no setting data.{name}.", todo)
        if value not in known[name]:
            raise BenchError(f"data.{name} is {value}.", f"Choose {', '.join(known[name])}.")
    return " ".join(f"{k}={asked[k]}" for k in sorted(asked) if asked[k] != known[k][0])


def _spared(protocol: Protocol, target: str, runtime: Runtime) -> Mapping[str, str]:
    """What the target's images cannot bear, under a protocol that heeds it."""
    return load("target", target, runtime).card.cannot_bear if protocol.by_card else {}


def _lacks(
    request: Request, target: str, types: Mapping[str, str], runtime: Runtime
) -> Iterator[str]:
    """Which arms have no record that could be missing; refuses columns that are not read."""
    for name in (c for text in request.missing if share_of(text) is None for c in text.split("+")):
        if name not in types:
            todo = did_you_mean(name, list(types)) if types else "It has no metadata."
            raise BenchError(f"The record of {target} has no column '{name}' to go missing.", todo)
    bare = [f for f in request.fusions if not load("fusion", f, runtime).card.record]
    if request.missing and bare:
        yield f"{', '.join(bare)}: no record is read, so none can be missing."


def _bears(request: Request, target: str, runtime: Runtime) -> Iterator[str]:
    """What of a protocol's augmentation is left out of the target's recipe, and why."""
    for name in request.protocols:
        protocol = protocols.load(name)
        spared = _spared(protocol, target, runtime)
        out = [protocols.left_out(protocol, target, mode, spared) for mode in request.modes]
        for reason, names in {r: names for found in out for r, names in found.items()}.items():
            yield f"{name} on {target}: no augmentation by {', '.join(names)}: {reason}."
