"""How often `bench compare` says that a record helps: one of noise, one that tells the label.

Patients are simulated as pooled features and a column of the record; heads, their choice of
settings, metrics, noise of training and the paired test are those of the product.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from benchmark import metrics, registry, stats
from benchmark.spec import Recipe, seed_of
from benchmark.stats.noise import over_folds
from benchmark.train import heads, loop
from benchmark.train.classifier import Standardised
from benchmark.train.heads import Rows
from benchmark.train.network import seeded

PATIENTS, IMAGES, FEATURES, FOLDS, DRAWS = 400, 2, 16, 5, 500
RECIPE = Recipe(epochs=10, batch=64, lr=1e-3, optimizer="adamw", dropout=0.0, threads=1)
#: Of each kind of head: logistic regressions at their optimum, and gates that are trained.
SOLVED, TRAINED = ("none", "concat"), ("film", "metanet")
ARMS = ("concat", "film", "metanet")


class Patients(NamedTuple):
    """Images of patients: pooled features (N, C), a record (N, 1), labels and groups (N,)."""

    features: np.ndarray
    record: np.ndarray
    labels: np.ndarray
    groups: np.ndarray


def patients(seed: int, share: float) -> Patients:
    """Labels of which the image knows a part, and the record `share` times as much."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(PATIENTS), IMAGES)
    image, record, rest = rng.normal(size=(3, PATIENTS))
    labels = (image + share * record + rest > 0).astype(int)
    seen = image[groups, None] * rng.normal(size=FEATURES) / np.sqrt(FEATURES)
    features = seen + 0.5 * rng.normal(size=(len(groups), FEATURES))
    return Patients(
        features.astype(np.float32), record[groups, None].astype(np.float32), labels[groups], groups
    )


def helped(found: Patients, seed: int, arms: Sequence[str]) -> dict[str, bool]:
    """By arm whether the record is said to help: the difference's interval lies above zero."""
    numbers: dict[str, list[metrics.Evaluation]] = {arm: [] for arm in ("none", *arms)}
    order = np.random.default_rng(seed).permutation(PATIENTS)
    for fold in range(FOLDS):
        parts = (
            np.isin(found.groups, order[fold::FOLDS]),
            np.isin(found.groups, order[(fold + 1) % FOLDS :: FOLDS][: PATIENTS // 10]),
        )
        test, val = map(np.flatnonzero, parts)
        train = np.flatnonzero(~(parts[0] | parts[1]))
        for arm, cells in numbers.items():
            scores = _scores(arm, found, Rows(train, train, val), test, seed_of("head", seed, fold))
            with warnings.catch_warnings(action="ignore"):
                cells.append(
                    metrics.evaluate(
                        found.labels[test], scores, found.groups[test],
                        draws=DRAWS, seed=seed_of("bootstrap", seed, fold),
                    )
                )  # fmt: skip
    value = {a: float(np.mean([c.overall["auroc"].value for c in n])) for a, n in numbers.items()}
    draws = {arm: np.mean([c.draws["auroc"] for c in n], axis=0) for arm, n in numbers.items()}
    for kind in (SOLVED, TRAINED):  # as boards do: one seed, so over folds
        rows = [numbers[arm] for arm in kind if arm in numbers]
        if len(rows) < 2:
            continue
        noise = over_folds(
            np.array([[c.overall["auroc"].value for c in row] for row in rows]),
            np.array([[c.draws["auroc"] for c in row] for row in rows]),
        )
        doubt = noise.doubt(DRAWS, seed_of("doubt", seed, *kind)) / np.sqrt(FOLDS)
        for arm in (arm for arm in kind if arm in numbers):
            draws[arm] = draws[arm] + noise.drawn(DRAWS, seed_of("noise", seed, arm)) * doubt
    return {
        arm: stats.paired_bootstrap(
            draws[arm], draws["none"], value[arm], value["none"]
        ).difference.low
        > 0
        for arm in arms
    }


def _scores(arm: str, found: Patients, rows: Rows, test: np.ndarray, seed: int) -> np.ndarray:
    """Test probabilities of a frozen arm's head."""
    if arm in SOLVED:
        values = found.features
        if arm == "concat":
            values = np.concatenate([values, found.record], axis=1)
        how = {"classes": 2, "report": loop.Callbacks()}
        model, _ = heads.solved(values, found.labels, rows, RECIPE, **how)
        return heads.probabilities(model, values[test])
    fusion, features = registry.load("fusion", arm), torch.from_numpy(found.features)
    seen = features[rows.train].double()
    mean, deviation = seen.mean(0).float(), seen.std(0, correction=0).float()

    def make() -> torch.nn.Module:
        with seeded(seed):
            head = fusion.head(FEATURES, 1, 2, dropout=0.0, options={})
        return Standardised(head, mean - deviation, deviation)

    inputs, labels = loop.Features(features, torch.from_numpy(found.record)), found.labels
    model, _, _ = heads.trained(
        make, inputs, torch.from_numpy(labels), rows, RECIPE,
        classes=2, seed=seed, report=loop.Callbacks(),
    )  # fmt: skip
    return loop.predict(model, inputs, torch.as_tensor(test), RECIPE, torch.device("cpu"))


def shares(runs: int, share: float, arms: Sequence[str] = ARMS) -> dict[str, float]:
    """Of so many simulated sets the share in which each arm is said to help."""
    torch.set_num_threads(1)
    found = [helped(patients(seed, share), seed, arms) for seed in range(runs)]
    return {arm: float(np.mean([one[arm] for one in found])) for arm in found[0]}


def shown() -> Iterator[tuple[str, float, float, float]]:
    """What is held, the share that came out, and between what marks it has to lie."""
    for what, share, low, high in (("noise", 0.0, 0.0, 0.07), ("half the label", 1.0, 0.9, 1.0)):
        # Kinds whose noise is estimated together; gates take a hundred trainings a run.
        for kind, runs in ((SOLVED[1:], 200), (TRAINED, 60)):
            for arm, value in shares(runs, share, kind).items():
                yield f"a record of {what} is said to help, {arm} ({runs} runs)", value, low, high
