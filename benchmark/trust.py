"""Whether a cell made elsewhere can be believed, and what of one of ours may go elsewhere."""

import io
import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmark import metrics, protocols, registry
from benchmark.data.unpack import RATIO, SMALL
from benchmark.errors import BenchError
from benchmark.metrics.rates import YES
from benchmark.spec import (
    CORE_VERSION,
    SCHEMA_VERSION,
    Cell,
    DistanceSpec,
    Outcome,
    PretrainSpec,
    RunSpec,
)
from benchmark.stats import interval

#: What a damaged or hostile file makes zipfile, numpy and the parsers raise.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OSError, MemoryError)
#: The same of a parser.
UNREADABLE = (ValueError, KeyError, TypeError, OverflowError, RecursionError)
#: The predictions as the store keeps them, and how many axes each may have.
ARRAYS = {
    "labels": ("<i4", (1, 2)), "scores": ("<f4", (2,)), "groups": ("<i4", (1,)),
    "draws": ("<f8", (1,)),
}  # fmt: skip
#: Scores lose digits when they are stored, so that a few pairs may tie.
TOLERANCE = 0.005
#: Scores may be log-odds in steps of this part of one.
ODDS = 64
#: Draws may have been rounded to make a bundle smaller.
ROUNDED = 1e-4
#: What would move the cursor of a terminal that shows it, or turn the text around it.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: What an outcome may say, also of the data and of the machine; all other words stay at home.
NUMBERS = ("key", "spec", "versions", "status", "metrics", "classes", "per_class", "over_classes",
           "subgroups", "subgroup_sizes", "joules")  # fmt: skip
FACTS = {"train", "val", "test", "test_groups", "siblings", "overlap", "folds", "source_images",
         "target_images", "trained", "parameters", "multilabel"}  # fmt: skip
#: Those that are one word: digests, and what of a target is never parted (patient, lesion, …).
WORDS = {"digest", "source_digest", "target_digest", "unit"}
MACHINE = {"device", "python", "torch", "numpy", "system"}
WORD = re.compile(r"\w{0,40}", re.ASCII)
#: Text without a path: a slash stands only inside a word, as some devices have it in their names.
PLAIN = re.compile(r"([^/\\~\n]|(?<=\w)/(?=\w)){0,200}")
#: A repository of the hub, which is no place on a machine.
REPOSITORY = re.compile(r"hub:\w[\w.-]*/\w[\w.-]*(@\w[\w.-]*)?")


class Unusable(Exception):
    """Why one cell is not taken."""


def outcome(text: bytes) -> Outcome:
    """A finished outcome, or Unusable."""
    try:
        raw = json.loads(text)
        schema = raw["schema_version"]
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise Unusable(f"it has schema {schema}, and this version knows {SCHEMA_VERSION}")
        found = Outcome.model_validate(raw)
    except UNREADABLE as error:
        raise Unusable("its outcome cannot be read") from error
    if found.status != "ok":
        raise Unusable("it is not finished")
    sound(found.model_dump())
    if isinstance(found.spec, DistanceSpec) and "distance" not in found.metrics:
        raise Unusable("it has no distance")
    return found


def sound(value: Any) -> None:
    """Refuse plain data that hold what no screen or number should."""
    if isinstance(value, dict | list | tuple):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            sound(item)
    elif isinstance(value, float) and math.isinf(value):
        raise Unusable("it holds an infinite number")
    elif isinstance(value, str) and CONTROL.search(value):
        raise Unusable("it holds control characters")


def pretraining(text: bytes) -> tuple[Cell, int]:
    """The cell of a pretraining and how many images it saw (0: not told), or Unusable."""
    try:
        raw = json.loads(text)
        cell = Cell.of(PretrainSpec.model_validate(raw["spec"]), dict(raw["versions"]))
        return cell, max(int(raw.get("train", 0)), 0)
    except UNREADABLE as error:
        raise Unusable("its spec cannot be read") from error


def predictions(content: bytes) -> dict[str, np.ndarray]:
    """The four arrays, never by unpickling objects, or Unusable."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as box:
            names = sorted(info.filename for info in box.infolist())
            grown = sum(info.file_size for info in box.infolist())
        if names != sorted(f"{name}.npy" for name in ARRAYS):
            raise ValueError("other arrays")
        if grown > max(RATIO * len(content), SMALL):
            raise ValueError("it grows too much")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = {name: file[name] for name in ARRAYS}
        if found["scores"].dtype == "<i2":
            found["scores"] = lengthened(found["scores"], several=found["labels"].ndim == 2)
        for name, (dtype, axes) in ARRAYS.items():
            if found[name].dtype != dtype or found[name].ndim not in axes:
                raise ValueError(name)
    except DAMAGE as error:
        raise Unusable("its predictions cannot be read") from error
    return found


def public(outcome: Outcome) -> Outcome:
    """The numbers and what they were made with: no warning, log, file, host or word of a person."""

    def named(facts: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in facts.items() if WORD.fullmatch(name)}

    return Outcome(
        **{name: getattr(outcome, name) for name in NUMBERS},
        chosen=outcome.chosen if PLAIN.fullmatch(outcome.chosen) else "",
        history=[named(epoch) for epoch in outcome.history],
        seconds=named(outcome.seconds),
        data={
            name: value
            for name, value in outcome.data.items()
            if (name in WORDS and WORD.fullmatch(str(value)))
            or (name in FACTS and (not isinstance(value, str) or not value))
        },
        environment={
            name: text
            for name, text in outcome.environment.items()
            if name in MACHINE and PLAIN.fullmatch(text)
        },
    )


def place_in(spec: PretrainSpec | RunSpec | DistanceSpec) -> str:
    """A name in a spec that is a path: of a protocol's file, or of a folder."""
    parts = ("source", "target", "fusion", "method", "protocol", "tested_on")
    names = (str(getattr(spec, part, "")) for part in parts)
    places = (name for name in names if re.search(r"[/\\~\0]", name))
    return next((name for name in places if not REPOSITORY.fullmatch(name)), "")


def shortened(scores: np.ndarray, *, several: bool) -> np.ndarray:
    """Probabilities as whole numbers of 1/ODDS of their log-odds; what they predict stays so."""
    exact = scores.astype(np.float64)
    odds = np.log(np.clip(exact, 1e-38, None)) - np.log(np.clip(1 - exact, 1e-8, None))
    odds = np.rint(ODDS * odds)
    if several:
        odds = np.where(exact < YES, np.minimum(odds, -1), odds)
    else:  # of equal ones the first would be predicted
        best = exact.argmax(axis=-1)[:, None]
        before = np.arange(exact.shape[-1]) < best
        odds = np.minimum(odds, np.take_along_axis(odds, best, axis=-1) - before)
    return odds.astype("<i2")


def lengthened(odds: np.ndarray, *, several: bool) -> np.ndarray:
    """The probabilities again; those of classes that exclude each other sum to one."""
    found = 1 / (1 + np.exp(-odds.astype(np.float64) / ODDS))
    return (found if several else found / found.sum(axis=-1, keepdims=True)).astype("<f4")


def check_versions(cell: Cell) -> None:
    """Refuse what a newer version made: it would make the cells here look out of date."""
    for part, ours in _versions(cell.spec):
        theirs = cell.versions.get(part, "")
        if theirs.isdecimal() and ours.isdecimal() and float(theirs) > float(ours):
            raise Unusable(f"its {part} has version {theirs}, and {ours} is known here: upgrade")


def check_predictions(
    outcome: Outcome, arrays: dict[str, np.ndarray], *, rounded: bool = False
) -> None:
    """Refuse arrays that do not fit each other, or that do not give the outcome's headline."""
    assert isinstance(outcome.spec, RunSpec)
    labels, scores, groups, draws = (arrays[name] for name in ARRAYS)
    n, headline = len(labels), outcome.spec.headline
    classes = len(outcome.classes)
    if scores.shape != (n, classes) or groups.shape != (n,) or n < 1:
        raise Unusable("its predictions do not fit each other or its classes")
    if outcome.multilabel != (labels.ndim == 2):
        raise Unusable("it and its labels differ in whether an image has several")
    if len(outcome.per_class) not in (0, classes):
        raise Unusable("its classes and their numbers do not fit")
    if outcome.data.get("test", n) != n:
        raise Unusable(f"it has {n} predictions for {outcome.data['test']} test images")
    if np.isinf(draws).any() or (groups < 0).any():
        raise Unusable("its predictions are out of range")
    try:
        with warnings.catch_warnings(action="ignore"):
            ordinal = headline == metrics.KAPPA
            evaluation = metrics.evaluate(labels, scores, groups, draws=0, seed=0, ordinal=ordinal)
    except BenchError as error:  # labels beyond the classes, scores that are not finite
        raise Unusable(error.what.rstrip(".")) from error
    found = evaluation.overall
    if headline not in found or headline not in outcome.metrics:
        raise Unusable("it does not have its headline metric")
    told, given = outcome.metrics[headline], found[headline].value
    if not np.isclose(told.value, given, rtol=0, atol=TOLERANCE, equal_nan=True):
        raise Unusable(f"its {headline} is {told.value:.4f}, but its predictions give {given:.4f}")
    if not np.allclose(told[1:3], interval(draws), rtol=0, atol=ROUNDED, equal_nan=True):
        raise Unusable(f"the interval of its {headline} is not that of its draws")
    pairs = [(outcome.metrics, found), *zip(outcome.per_class, evaluation.per_class, strict=False)]
    for told_, given_ in pairs:
        for name in told_:
            ours = given_[name].value if name in given_ else math.nan
            # A rounded score may move one image across a threshold, or two in a short bundle.
            near = {"rtol": 0.05, "atol": 0.03} if rounded else {"rtol": 0.01, "atol": 1 / n}
            if not np.isclose(told_[name].value, ours, **near, equal_nan=True):
                raise Unusable(f"its {name} is not that of its predictions")


def _versions(spec: PretrainSpec | RunSpec | DistanceSpec) -> Iterator[tuple[str, str]]:
    """The version that each part of a spec has here, where it is one of ours."""
    yield "core", CORE_VERSION
    if isinstance(spec, RunSpec) and spec.protocol in protocols.names():
        yield "protocol", str(protocols.load(spec.protocol).version)
    kinds = {"method": "distance", "tested_on": "target"}
    for part in ("source", "target", "fusion", "method", "tested_on"):
        name, kind = str(getattr(spec, part, "")), kinds.get(part, part)
        if name and registry.module_file(kind, name.partition(":")[0]) is not None:
            try:
                yield part, registry.version(kind, name)
            except BenchError as error:
                raise Unusable(error.what.rstrip(".")) from error
