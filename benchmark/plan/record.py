"""The patient's record of a target: the columns to use, and the labels' classes."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from benchmark.api import Source, Target
from benchmark.data import label_sets, leaks, split
from benchmark.data.download import find_root
from benchmark.errors import BenchError, DataMissing, did_you_mean
from benchmark.metadata import FORBIDDEN, WARN, check_columns, matches
from benchmark.plan.parts import Why, load, multilabel, read_version
from benchmark.plan.request import Request
from benchmark.spec import Runtime, Split, amount


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


def check_sizes(component: Source, sizes: Sequence[str], target: str) -> None:
    """Refuse a training part as large as the whole set, where that is known before it is read."""
    have = component.card.images or len(component.look().labels)
    for size in filter(None, sizes):
        number, unit = amount(size)
        if 0 < have <= number and not unit:
            raise BenchError(
                f"{target} has {have:,} images in all, so no training part of {number:,.0f}.",
                "Give a smaller --train-size.",
            )


def check_classes(component: Source, how: Split, target: str, notes: list[str]) -> None:
    """Refuse or note classes that are too rare for the folds, where the labels are at hand."""
    look = component.look()
    if not look.labels or how.kind == "official" or how.test is not None:
        return
    units = [
        group if group and how.kind == "grouped" else f"\0{i}"
        for i, group in enumerate(look.groups)
    ]
    unit = getattr(component.card, "group", "") if how.kind == "grouped" else ""
    if label_sets.several(look.labels):
        label_sets.check_rare(look.labels, np.array(units), how.folds, (target, unit))
    else:
        notes += split.check(np.array(look.labels), np.array(units), how.folds, (target, unit))


def second_set(name: str, first: Target, target: str, runtime: Runtime) -> tuple[str, str, Why]:
    """A set to test on, its version and what is broken; refused where classes differ."""
    second = load("target", name, runtime)
    if name == target:
        raise BenchError(f"{name} is the target itself.", "Name another set with --test-on.")
    version, broken = read_version("target", name, runtime, second.look)
    if broken:
        return name, version, broken
    known = [
        {*label_sets.names_of(one.look().labels)} or {*one.card.labels} for one in (second, first)
    ]
    kinds = multilabel(second), multilabel(first)
    if all(known) and (refused := split.differ(name, known[0], target, known[1], kinds)):
        raise refused
    return name, version, ""
