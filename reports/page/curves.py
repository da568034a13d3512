"""The charts of a board's best rows: operating curves, calibration, classes, training."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import Damaged
from benchmark.metrics.rates import BINS, GRID, Tested, roc_curve
from benchmark.store import Store
from reports import plots
from reports.leaderboard.board import Board
from reports.leaderboard.rows import Row

FEWEST = 10  # images in a bin of the calibration chart


@dataclass(frozen=True)
class Curves:
    """The charts of a board's best rows, those that the store has something to draw from."""

    rows: tuple[Row, ...]
    charts: tuple[tuple[plots.Chart, str], ...]  # and a note
    classes: plots.Boxes | None


def of(store: Store, made: Board) -> Curves:
    """Receiver operating curves, calibration, classes and training of a board's first rows."""
    rows = chosen(made)
    labels = [made.label(row) for row in rows]
    tested = [list(_predictions(store, row)) for row in rows]
    many = any(row.multilabel for row in rows)
    binary = not many and any(len(row.classes) == 2 for row in rows)
    note = "Mean over labels." if many else "One class against the rest, mean over classes."
    sure = "On the dashed line confidence is right; below it the network is too sure."
    said = ("confidence in the answer", "share of right answers")
    if many:
        sure = "Every label of every image. On the dashed line the probability is right."
        said = ("probability of a label", "share of images that have it")
    drawn = (
        ("Receiver operating characteristic", "false positive rate", "true positive rate",
         "" if binary else note,
         [(GRID, roc_curve(part)) for part in tested]),
        ("Calibration", *said, sure,
         [calibration(part) for part in tested]),
        ("Validation AUROC", "epoch", "AUROC", "", [_history(row, "val_auroc") for row in rows]),
        ("Training loss", "epoch", "loss", "", [_history(row, "loss") for row in rows]),
    )  # fmt: skip
    charts = []
    for title, x_title, y_title, text, values in drawn:
        named = [(label, xs, ys) for label, (xs, ys) in zip(labels, values, strict=True)]
        unit, dots = x_title != "epoch", title == "Calibration"
        chart = plots.lines(title, named, x_title=x_title, y_title=y_title, unit=unit, dots=dots)
        charts += [(chart, text)] if chart else []
    by_class = [(label, list(_by_class(row))) for label, row in zip(labels, rows, strict=True)]
    return Curves(tuple(rows), tuple(charts), plots.boxes(by_class))


def chosen(made: Board) -> list[Row]:
    """The best rows, and the image alone without pretraining as the last if not among them."""
    rows = [row for row in made.rows if row.done]
    first = rows[: plots.SERIES]
    plain = [row for row in rows if row.identity.source == row.identity.fusion == "none"]
    if plain and plain[0] not in first:
        first = [*first[: plots.SERIES - 1], plain[0]]
    return first


def calibration(tested: Sequence[Tested]) -> tuple[plots.Array, plots.Array]:
    """Mean confidence and share of right answers in each bin of the top score, folds pooled.

    Of several labels, of every label's own.
    """
    if tested and all(labels.ndim == 2 for labels, _ in tested):
        tops = np.concatenate([scores.ravel() for _, scores in tested])
        right = np.concatenate([labels.ravel() == 1 for labels, _ in tested])
    elif tested and all(np.allclose(p.sum(axis=1), 1, atol=1e-3) for _, p in tested):
        tops = np.concatenate([scores.max(axis=1) for _, scores in tested])
        right = np.concatenate([scores.argmax(axis=1) == labels for labels, scores in tested])
    else:
        return np.zeros(0), np.zeros(0)
    bins = np.clip(np.ceil(tops * BINS).astype(int) - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    enough = count >= FEWEST
    sums = [np.bincount(bins, weights=values, minlength=BINS)[enough] for values in (tops, right)]
    return sums[0] / count[enough], sums[1] / count[enough]


def _by_class(row: Row) -> Iterator[tuple[str, float]]:
    for name, found in zip(row.classes, row.per_class, strict=False):
        if "auroc" in found:
            yield name, found["auroc"].value


def _predictions(store: Store, row: Row) -> Iterator[Tested]:
    for run in row.runs:
        if run.outcome.status == "ok":
            try:
                found = store.predictions(run.outcome.key)
            except Damaged as error:
                warnings.warn(f"{error} Its curves are left out.", stacklevel=2)
                continue
            yield found["labels"], found["scores"].astype(float)


def _history(row: Row, name: str) -> tuple[list[float], list[float]]:
    """The mean over the row's cells of a number kept per epoch."""
    values: dict[float, list[float]] = defaultdict(list)
    for run in row.runs:
        for facts in run.outcome.history:
            value = facts.get(name)
            if value is not None and math.isfinite(value):
                values[float(facts.get("epoch") or 0)].append(float(value))
    return sorted(values), [float(np.mean(values[epoch])) for epoch in sorted(values)]
