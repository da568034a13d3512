"""The geometry of the charts: numbers become percentages and paths, templates do the drawing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from benchmark.stats import Estimate

#: Colours (and dashes) that stay apart under colour blindness; a chart shows no more series.
SERIES = 6
#: A line chart's canvas and the frame of its plot, in SVG units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 420, 270, 46, 408, 10, 228


@dataclass(frozen=True)
class Axis:
    """A range with round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where a value lies, in per cent of the axis; outside values lie on its ends."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 3)

    def beyond(self, value: float) -> int:
        """-1 or 1 where a value lies left or right of the axis, else 0."""
        return (value > self.high) - (value < self.low)

    @property
    def named(self) -> tuple[float, ...]:
        """The ticks with room for a number, zero among them."""
        every = 2 if len(self.ticks) > 5 else 1
        return self.ticks[self.ticks.index(0.0) % every if 0.0 in self.ticks else 0 :: every]

    def text(self, tick: float) -> str:
        """The tick with as many digits as its neighbours need."""
        step = self.ticks[1] - self.ticks[0]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{tick:.{digits}f}"


class Series(NamedTuple):
    """One line of a chart; `path` is in the units of the canvas."""

    number: int  # of its colour and dashes, from 1
    label: str
    path: str
    dots: tuple[tuple[float, float], ...] = ()


class Box(NamedTuple):
    """A box plot on a shared axis, in per cent, with its points by name."""

    number: int  # of its colour, from 1
    label: str
    middle: float  # the median as a value
    low: float
    q1: float
    median: float
    q3: float
    high: float
    points: tuple[tuple[str, float, float], ...]  # name, value, per cent


@dataclass(frozen=True)
class Lines:
    """A chart of lines."""

    title: str
    x: Axis
    y: Axis
    x_title: str
    y_title: str
    series: tuple[Series, ...]
    diagonal: bool = False  # what chance, or perfect calibration, would give


@dataclass(frozen=True)
class Boxes:
    """Box plots on one axis."""

    axis: Axis
    boxes: tuple[Box, ...]


def axis(values: Iterable[float], *, ticks: int = 4) -> Axis:
    """An axis around the finite values, its ends on round numbers."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / ticks
    base = 10 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    marks = tuple(round(k * step, 12) for k in range(first, last + 1))
    return Axis(marks[0], marks[-1], marks)


def of_estimates(estimates: Iterable[Estimate | None], *also: float) -> Axis:
    """An axis that holds every interval, and what else is to be seen."""
    return axis([*(number for e in estimates if e is not None for number in e[:3]), *also])


def lines(
    title: str,
    named: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    x_title: str,
    y_title: str,
    unit: bool = False,
    dots: bool = False,
) -> Lines | None:
    """Lines from (label, x, y), their numbers by position; None if no point has a value."""
    kept = []
    for number, (label, xs, ys) in enumerate(named[:SERIES], start=1):
        points = [(a, b) for a, b in zip(xs, ys, strict=True) if math.isfinite(b)]
        kept += [(number, label, points)] if points else []
    if not kept:
        return None
    square = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    x = square if unit else axis([a for *_, points in kept for a, _ in points])
    y = square if unit else axis([b for *_, points in kept for _, b in points])
    series = []
    for number, label, points in kept:
        placed = [(_across(x, a), _down(y, b)) for a, b in points]
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in placed)
        series.append(
            Series(number, label, path, tuple(placed) if dots or len(placed) == 1 else ())
        )
    return Lines(title, x, y, x_title, y_title, tuple(series), unit)


def _across(axis: Axis, value: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * axis.at(value) / 100, 1)


def _down(axis: Axis, value: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * axis.at(value) / 100, 1)


def frame(chart: Lines) -> dict[str, list[tuple[float, str]]]:
    """Where a chart's ticks are, in units of the canvas, with their texts."""
    return {
        "x": [(_across(chart.x, t), chart.x.text(t)) for t in chart.x.ticks],
        "y": [(_down(chart.y, t), chart.y.text(t)) for t in chart.y.ticks],
    }


def boxes(named: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> Boxes | None:
    """Box plots from (label, points by name): quartiles, and whiskers to the ends."""
    known = [
        (number, label, [(name, value) for name, value in points if math.isfinite(value)])
        for number, (label, points) in enumerate(named[:SERIES], start=1)
    ]
    known = [part for part in known if part[2]]
    if not known:
        return None
    scale = axis([value for *_, points in known for _, value in points])
    made = []
    for number, label, points in known:
        ends = np.percentile([value for _, value in points], [0, 25, 50, 75, 100]).tolist()
        dots = tuple((name, value, scale.at(value)) for name, value in points)
        low, q1, median, q3, high = map(scale.at, ends)
        made.append(Box(number, label, ends[2], low, q1, median, q3, high, dots))
    return Boxes(scale, tuple(made))
