"""What the record adds, across networks, modes and protocols (Thomas 2021, Figs 2 to 4)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark import metrics, stats
from benchmark.metrics.rates import telling
from reports import plots
from reports.leaderboard.board import Board
from reports.leaderboard.rows import Row

#: What the paper tells gains of.
METRICS = (
    "accuracy_ovr", "specificity", "sensitivity", "precision", "f1", "informedness", "markedness",
    "mcc", "auroc",
)  # fmt: skip


@dataclass(frozen=True)
class Gain:
    """One arm with the record against the image alone, in percentage points."""

    label: str  # network, mode, protocol and arm
    metrics: tuple[float, ...]  # in the order of METRICS; NaN where one has none
    classes: tuple[tuple[str, float], ...]  # the gain in each class's AUROC
    p: float  # paired Wilcoxon over the classes

    @property
    def stars(self) -> str:
        """`**` for p up to 0.05, `*` up to 0.10, as in the paper."""
        return "**" if self.p <= 0.05 else "*" if self.p <= 0.10 else ""


@dataclass(frozen=True)
class Across:
    """The gains of one target, and their box plots over the classes."""

    titles: tuple[str, ...]
    gains: tuple[Gain, ...]
    most: float  # the gain that has the full colour
    boxes: tuple[plots.Boxes, ...]


def of(boards: Sequence[Board]) -> Across | None:
    """The gains of a target's whole arms; None where fewer than two can be set side by side."""
    gains = tuple(gain for made in boards for gain in _gains(made))
    if len(gains) < 2:
        return None
    named = [(f"{gain.label} {gain.stars}".rstrip(), gain.classes) for gain in gains]
    parts = [named[i : i + plots.SERIES] for i in range(0, len(named), plots.SERIES)]
    found = [abs(value) for gain in gains for value in gain.metrics if math.isfinite(value)]
    return Across(
        titles=tuple(metrics.NAMES[name].title.partition(" (")[0] for name in METRICS),
        gains=gains,
        most=max(found, default=0.0) or 1.0,
        boxes=tuple(made for part in parts if (made := plots.boxes(part)) is not None),
    )


def _gains(made: Board) -> Iterator[Gain]:
    """Each whole row with a record against the whole row of the same network without it."""
    whole = [
        row for row in made.rows
        if row.done == row.expected and row.identity.arch != "none" and not row.identity.missing
    ]  # fmt: skip
    alone = {_network(row): row for row in whole if row.identity.fusion == "none"}
    for row in whole:
        base = alone.get(_network(row))
        if base is None or row.identity.fusion == "none":
            continue
        classes = tuple(_by_class(row, base))
        apart = [value for _, value in classes]
        who = row.identity
        label = ", ".join((f"{row.network} · {made.under}", who.origin, who.fusion, *row.setting))
        yield Gain(label, tuple(_by_metric(row, base)), classes, stats.wilcoxon(apart))


def _network(row: Row) -> tuple:
    who = row.identity
    return who.source, who.pretraining, who.arch, who.mode, who.recipe, who.digest


def _by_metric(row: Row, base: Row) -> Iterator[float]:
    for name in METRICS:
        both = [part.metrics.get(name) for part in (row, base)]
        yield 100 * (both[0].value - both[1].value) if both[0] and both[1] else math.nan


def _by_class(row: Row, base: Row) -> Iterator[tuple[str, float]]:
    both = list(zip(row.classes, row.per_class, base.per_class, strict=True))
    for name, one, other in both[telling(len(both), multilabel=row.multilabel).start :]:
        if "auroc" in one and "auroc" in other:
            apart = 100 * (one["auroc"].value - other["auroc"].value)
            if np.isfinite(apart):
                yield name, apart
