"""What the charts of a board show: receiver operating curves, calibration, classes, training."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import Damaged
from benchmark.metrics import BINS
from benchmark.store import Store
from reports.leaderboard.board import Board, Row
from reports.plots import charts

Array = NDArray[np.float64]
Tested = tuple[NDArray[np.integer], Array]  # labels (n,) and scores (n, classes) of one fold
GRID = np.linspace(0, 1, 101)  # false positive rates
FEWEST = 10  # images in a bin of the calibration chart


@dataclass(frozen=True)
class Curves:
    """The charts of a board, each None where the store has nothing to draw it from."""

    rows: tuple[Row, ...]  # that are drawn
    roc: charts.Lines | None
    calibration: charts.Lines | None
    training: charts.Lines | None
    loss: charts.Lines | None
    classes: charts.Boxes | None


def of(store: Store, made: Board) -> Curves:
    """The charts of a board's first rows, and of no pretraining beside them."""
    rows = chosen(made)
    rocs, calibrated, trained, losses = [], [], [], []
    for row in rows:
        label = made.label(row)
        tested = list(_predictions(store, row))
        confidence, accuracy = calibration(tested)
        rocs.append((label, GRID.tolist(), roc(tested).tolist()))
        calibrated.append((label, confidence.tolist(), accuracy.tolist()))
        trained.append((label, *history(row, "val_auroc")))
        losses.append((label, *history(row, "loss")))
    by_class = [(made.label(row), list(_by_class(row))) for row in rows]
    return Curves(
        rows=tuple(rows),
        roc=charts.lines(
            "Receiver operating characteristic", rocs, unit=True,
            x_title="false positive rate", y_title="true positive rate",
        ),
        calibration=charts.lines(
            "Calibration", calibrated, unit=True, dots=True,
            x_title="confidence in the answer", y_title="share of right answers",
        ),
        training=charts.lines(
            "Validation AUROC", trained, x_title="epoch", y_title="AUROC"
        ),
        loss=charts.lines("Training loss", losses, x_title="epoch", y_title="loss"),
        classes=charts.boxes(by_class),
    )  # fmt: skip


def chosen(made: Board) -> list[Row]:
    """The best rows, and the image alone without pretraining as the last if not among them."""
    rows = [row for row in made.rows if row.done]
    first = rows[: charts.SERIES]
    plain = [row for row in rows if row.identity.source == row.identity.fusion == "none"]
    if plain and plain[0] not in first:
        first = [*first[: charts.SERIES - 1], plain[0]]
    return first


def _by_class(row: Row) -> Iterator[tuple[str, float]]:
    for name, table in zip(row.classes, row.per_class, strict=False):
        if "auroc" in table:
            yield name, table["auroc"].value


def _predictions(store: Store, row: Row) -> Iterator[Tested]:
    for run in row.runs:
        if run.outcome.status == "ok":
            try:
                found = store.predictions(run.outcome.key)
            except Damaged as error:
                warnings.warn(f"{error} Its curves are left out.", stacklevel=2)
                continue
            yield found["labels"], found["scores"].astype(float)


def roc(tested: Sequence[Tested]) -> Array:
    """True positive rates on GRID, the mean over folds and classes (of two: the second)."""
    rates = []
    for labels, scores in tested:
        for k in range(1 if scores.shape[1] == 2 else 0, scores.shape[1]):
            truth = labels == k
            if not truth.any() or truth.all():
                continue
            order = np.argsort(-scores[:, k], kind="stable")
            last = np.append(np.diff(scores[order, k]) != 0, True)  # of images with equal scores
            hits, misses = np.cumsum(truth[order])[last], np.cumsum(~truth[order])[last]
            x, y = np.append(0, misses / misses[-1]), np.append(0, hits / hits[-1])
            rates.append(np.interp(GRID, x, y))
    return np.mean(rates, axis=0) if rates else np.full(len(GRID), np.nan)


def calibration(tested: Sequence[Tested]) -> tuple[Array, Array]:
    """Mean confidence and share of right answers in each bin of the top score, folds pooled."""
    if not tested or not all(np.allclose(p.sum(axis=1), 1, atol=1e-3) for _, p in tested):
        return np.zeros(0), np.zeros(0)
    tops = np.concatenate([scores.max(axis=1) for _, scores in tested])
    right = np.concatenate([scores.argmax(axis=1) == labels for labels, scores in tested])
    bins = np.clip(np.ceil(tops * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    enough = count >= FEWEST
    sums = [np.bincount(bins, weights=values, minlength=BINS)[enough] for values in (tops, right)]
    return sums[0] / count[enough], sums[1] / count[enough]


def history(row: Row, name: str) -> tuple[list[float], list[float]]:
    """The mean over the row's cells of a number kept per epoch."""
    values: dict[float, list[float]] = defaultdict(list)
    for run in row.runs:
        for facts in run.outcome.history:
            value = facts.get(name)
            if value is not None and math.isfinite(value):
                values[float(facts.get("epoch") or 0)].append(float(value))
    epochs = sorted(values)
    return epochs, [float(np.mean(values[epoch])) for epoch in epochs]
