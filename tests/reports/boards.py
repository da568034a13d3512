"""Synthetic stores for the tests of the reports: real specs and outcomes, invented numbers."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from stores import ok

from benchmark import metrics
from benchmark.data.split import partition_seed
from benchmark.spec import (
    Cell,
    Failure,
    Outcome,
    PretrainSpec,
    Recipe,
    RecordMap,
    RunSpec,
    Split,
    seed_of,
)
from benchmark.stats import Estimate, interval
from benchmark.store import Store

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
DRAWS = 400


@contextmanager
def quick() -> Iterator[None]:
    """Nothing here has to outlive a power cut."""
    with mock.patch.object(os, "fsync"):
        yield


def pretrain(store: Store, source: str, *, seed: int = 0, recipe: Recipe | None = None) -> str:
    """Store a pretraining with its table of accuracies and a curve; its key."""
    spec = PretrainSpec(source=source, seed=seed, recipe=recipe or Recipe(epochs=8))
    cell = Cell.of(spec, {"core": "1", "source": "1"})
    rng = np.random.default_rng(seed_of("pretrain", source))
    level = rng.uniform(0.7, 0.9)
    found = {
        f"{part}_{name}": Estimate(v := level - 0.03 * i, v - 0.02, v + 0.02, 500)
        for i, part in enumerate(("train", "val", "test"))
        for name in ("accuracy", "auroc")
    }
    with quick():
        store.begin(cell)
        outcome = ok(
            cell,
            metrics=found,
            history=_history(spec.recipe.epochs, level),
            chosen="last epoch of 8",
            seconds={"train": 300.0, "total": 320.0},
            environment={"device": "cuda (NVIDIA)", "torch": "2.11"},
        )
        store.finish(cell, outcome)
    return cell.key


def run(
    store: Store,
    *,
    source: str = "dtd",
    target: str = "isic",
    fusion: str = "none",
    fold: int = 0,
    seed: int = 0,
    folds: int = 3,
    value: float | None = None,
    draws: np.ndarray | None = None,
    predictions: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
    failure: Failure | None = None,
    skip: str = "",
    versions: dict[str, str] | None = None,
    data: dict[str, Any] | None = None,
    classes: Sequence[str] = CLASSES,
    spec: dict[str, Any] | None = None,
    **facts: Any,
) -> Outcome:
    """Store one cell. `predictions` (labels, scores, groups) are truly evaluated; else the value
    and the draws are taken as they are."""
    record_only = fusion.startswith("metadata")
    fields: dict[str, Any] = {
        "source": source,
        "target": target,
        "fusion": fusion,
        "arch": "none" if record_only else "resnet50",
        "mode": "frozen" if record_only else "finetune",
        "fold": fold,
        "seed": seed,
        "columns": () if fusion == "none" else ("age", "sex", "site"),
        "record": None if fusion == "none" else RecordMap(),
        "split": Split(folds=folds),
        "weights": None if source == "none" else f"weights-of-{source}",
    }
    made = RunSpec(**(fields | (spec or {})))
    known = {"core": "1", "target": "1", "fusion": "1", "protocol": "1"}
    if source != "none":
        known["source"] = "1"
    cell = Cell.of(made, known | (versions or {}))
    with quick():
        store.begin(cell)
        if failure is not None:
            return store.fail(cell, failure, seconds={"total": 12.5})
        if skip:
            outcome = ok(cell, status="skipped", reason=skip)
            store.finish(cell, outcome)
            return outcome
        if predictions is not None:
            found = _evaluated(store, cell, made, predictions)
        else:
            found = _invented(store, cell, made, value, draws, classes)
        outcome = ok(
            cell,
            classes=tuple(classes),
            chosen="epoch 21 of 30 by validation AUROC",
            **{
                "data": {
                    "digest": "0123456789abcdef", "train": 5000, "val": 500, "test": 1000,
                    "test_groups": 700, "siblings": 0.0, "unit": "patient",
                } | (data or {}),
                "seconds": {"data": 3.0, "train": 250.0, "test": 9.0, "total": 262.0},
                "joules": 61_000.0,
                "environment": {"device": "cuda (NVIDIA)", "python": "3.12", "torch": "2.11"},
            }
            | found
            | facts,
        )  # fmt: skip
        store.finish(cell, outcome)
    return outcome


def shared_draws(target: str, fold: int, partition: int = 0, spread: float = 0.02) -> np.ndarray:
    """What the patients drawn do to every arm alike."""
    rng = np.random.default_rng(seed_of("shared", target, fold, partition))
    return rng.normal(0, spread, DRAWS)


def predictions(
    target: str,
    skill: float,
    fold: int,
    *,
    arm: str = "",
    seed: int = 0,
    patients: int = 120,
    classes: int = 3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and groups of one test fold: two images per patient; arms share the noise."""
    rng = np.random.default_rng(seed_of("patients", target, fold))
    labels = np.repeat(rng.integers(classes, size=patients), 2)
    noise = rng.normal(size=(2 * patients, classes))
    own = np.random.default_rng(seed_of("arm", target, fold, seed, arm, skill))
    logits = skill * np.eye(classes)[labels] + noise + 0.5 * own.normal(size=noise.shape)
    scores = np.exp(logits)
    return labels, scores / scores.sum(axis=1, keepdims=True), np.repeat(np.arange(patients), 2)


def fill(
    root: Path,
    *,
    targets: Sequence[str] = ("isic", "ptbxl"),
    sources: Sequence[str] = ("none", "imagenet", "dtd"),
    fusions: Sequence[str] = ("none", "concat"),
    folds: int = 3,
    true: bool = False,
) -> Store:
    """A whole grid; `true` evaluates predictions, else the numbers are invented, which is quick."""
    store = Store(root)
    store.prepare()
    keys = {source: pretrain(store, source) for source in sources if source != "none"}
    for target in targets:
        arms = [(s, f) for f in fusions for s in sources if not f.startswith("metadata")]
        arms += [("none", f) for f in fusions if f.startswith("metadata")]
        for (source, fusion), fold in product(arms, range(folds)):
            level = _level(target, source, fusion)
            common: dict[str, Any] = {
                "source": source, "target": target, "fusion": fusion, "fold": fold,
                "folds": folds, "spec": {"weights": keys.get(source)},
                "history": _history(30, level),
                "warnings": ["Class 3 is rare: 4 test images."] if fold == 0 else [],
            }  # fmt: skip
            if true:
                part = predictions(target, 9 * (level - 0.68), fold, arm=f"{source} {fusion}")
                run(store, **common, predictions=part, classes=CLASSES[4:7])
                continue
            rng = np.random.default_rng(seed_of("cell", target, source, fusion, fold))
            value = float(level + rng.normal(0, 0.006))
            draws = value + shared_draws(target, fold) + rng.normal(0, 0.008, DRAWS)
            run(store, **common, value=value, draws=draws)
    return store


def varied(root: Path) -> Store:
    """A true grid with everything a report must say of rows that cannot be ranked."""
    store = fill(
        root, targets=("isic", "oasis1"), sources=("none", "imagenet", "dtd", "pcam:small"),
        fusions=("none", "concat", "metadata:boosting"), true=True,
    )  # fmt: skip
    keys = {source: pretrain(store, source) for source in ("isic", "openml:40927")}
    keys |= {source: pretrain(store, source) for source in ("imagenet", "dtd")}
    oom = Failure(
        kind="oom",
        message="Out of memory. Lower --batch or --size, or take a larger device.",
        log_tail="epoch 3\nTried to allocate 2 GiB",
    )
    for fold in range(3):

        def cell(
            source: str, skill: float, arm: str, fold: int = fold, spec: Any = None, **more: Any
        ) -> None:
            part = predictions("isic", skill, fold, arm=arm)
            fields = {"weights": keys.get(source)} | (spec or {})
            kept = {"fold": fold, "classes": CLASSES[4:7], "spec": fields, "predictions": part}
            run(store, source=source, **kept, **more)

        cell("isic", 1.9, "itself")
        if fold < 2:
            cell("openml:40927", 1.2, "openml", failure=oom if fold == 1 else None)
        cell("imagenet", 0.9, "few", spec={"recipe": Recipe(limit=200, epochs=3)})
        cell("dtd", 1.0, "attention", fusion="attention:mul", skip="needs the blocks of a ResNet")
        cats = {"protocol": "cats", "split": Split(kind="image", folds=3)}
        for source, skill in (("imagenet", 1.9), ("dtd", 1.8), ("none", 1.3)):
            cell(source, skill, "cats" + source, spec=cats, data={"siblings": 0.35})
    return store


def _level(target: str, source: str, fusion: str) -> float:
    """How good an arm is."""
    rng = np.random.default_rng(seed_of("arm", target, source, fusion))
    gain = {"none": 0.0, "imagenet": 0.06, "dtd": 0.03}.get(source, rng.uniform(-0.02, 0.06))
    level = 0.78 + gain + (0.02 if fusion == "concat" else 0.0) + rng.normal(0, 0.004)
    return level - (0.05 if fusion.startswith("metadata") else 0.0)


def _evaluated(store: Store, cell: Cell, spec: RunSpec, part: tuple) -> dict[str, Any]:
    labels, scores, groups = part
    seed = seed_of("bootstrap", partition_seed(spec.target, spec.split, spec.partition), spec.fold)
    found = metrics.evaluate(labels, scores, groups, draws=DRAWS, seed=seed)
    store.save_predictions(
        cell, labels=labels, scores=scores, groups=groups, draws=found.draws[spec.headline]
    )
    return {
        "metrics": found.overall,
        "per_class": found.per_class,
        "over_classes": found.over_classes(),
    }


def _invented(
    store: Store,
    cell: Cell,
    spec: RunSpec,
    value: float | None,
    draws: np.ndarray | None,
    classes: Sequence[str],
) -> dict[str, Any]:
    value = 0.8 if value is None else value
    if draws is None:
        draws = value + shared_draws(spec.target, spec.fold, spec.partition)
    low, high = interval(draws)
    estimates = {}
    for name in metrics.NAMES:
        as_given = metrics.NAMES[name].higher_is_better or name == spec.headline
        base = value if as_given else 0.5 * (1 - value)
        estimates[name] = Estimate(base, base - value + low, base - value + high, 1000)
    each = [dict.fromkeys(("auroc", "recall"), estimates["auroc"]) for _ in classes]
    rng = np.random.default_rng(seed_of("scores", cell.key))
    labels = rng.integers(len(classes), size=200)
    scores = np.exp(2 * np.eye(len(classes))[labels] + rng.normal(size=(200, len(classes))))
    store.save_predictions(
        cell,
        labels=labels,
        scores=scores / scores.sum(axis=1, keepdims=True),
        groups=np.arange(200) // 2,
        draws=draws,
    )
    small = {name: estimates[name] for name in ("auroc", "mcr", "accuracy")}
    by = {"sex": {"female": small, "male": small}, "age": {"<30": small, "75+": small}}
    return {"metrics": estimates, "per_class": each, "subgroups": by}


def _history(epochs: int, level: float) -> list[dict[str, float | int | None]]:
    return [
        {
            "epoch": i + 1,
            "loss": 1.5 * 0.9**i + 0.1,
            "lr": 1e-4,
            "rate": 812.5,
            "val_auroc": level - 0.2 * 0.8**i,
        }
        for i in range(epochs)
    ]
