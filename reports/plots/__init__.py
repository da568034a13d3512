"""Charts as SVG texts without a font or a script from elsewhere: for pages, and files of their own.

Numbers become places on a canvas; colours are classes, which the page's style sheet knows too.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.rates import GRID
from benchmark.stats import Estimate
from reports.plots.axes import Axis, axis, of_estimates, sizes
from reports.render import plain

Array = NDArray[np.float64]

#: Colours (and dashes) that stay apart under colour blindness; a chart shows no more series.
SERIES = 6
#: A chart's canvas and the frame of its plot, in SVG units; a line of its legend.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, LINE = 420, 270, 46, 408, 10, 228, 16
LABELLED = 12  # points that get their name written beside them; more would overlap
#: Beside colour: shapes stay apart in print and for every eye. Radius 4, around (0, 0).
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.6 3.4H-4.6z",
    "M0 -5L5 0L0 5L-5 0z",
)
#: Of a file of its own; a page has its own style sheet.
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #3d4a59 } .name { fill: #18202b } .on { fill: #fff }
.gridline { stroke: #dfe3e9 } .zero { stroke: #566273; stroke-dasharray: 3 3 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round }
.rest { stroke: #a9b2bd; stroke-width: 1 }
.s1 { stroke: #0072b2 } .s2 { stroke: #d55e00; stroke-dasharray: 7 3 } .s3 { stroke: #00805c }
.s4 { stroke: #b0508a } .s5 { stroke: #8a6d00 } .s6 { stroke: #4b5563 }
.f1 { fill: #0072b2 } .f2 { fill: #d55e00 } .f3 { fill: #00805c }
.f4 { fill: #b0508a } .f5 { fill: #8a6d00 } .f6 { fill: #4b5563 }
.whisker2 { stroke-width: 1.2; stroke-dasharray: none; opacity: .55 }
"""


class Key(NamedTuple):
    """A line of a legend."""

    number: int  # of its colour and dashes, from 1
    label: str
    sample: str  # a mark around (0, 0)


@dataclass(frozen=True)
class Chart:
    """A plot with two axes; `marks` lie in its frame."""

    title: str
    x_title: str
    y_title: str
    x: Axis
    y: Axis
    about: str  # for those who do not see it
    legend: tuple[Key, ...]
    marks: str

    @property
    def height(self) -> int:
        """Of the plot and the legend below it."""
        return HEIGHT + LINE * math.ceil(len(self.legend) / 2) + 6


class Point(NamedTuple):
    """A pair of source and target."""

    source: str
    target: str
    x: Estimate
    y: Estimate


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


class Boxes(NamedTuple):
    """Box plots on one axis."""

    axis: Axis
    boxes: tuple[Box, ...]


def lines(
    title: str,
    named: Sequence[tuple[str, Iterable[float], Iterable[float | Estimate]]],
    *,
    x_title: str,
    y_title: str,
    unit: bool = False,
    dots: bool = False,
    log: bool = False,
    behind: Sequence[Array] = (),
) -> Chart | None:
    """Lines from (label, x, y), their numbers by position; None if no point has a value.

    `unit` is the square from 0 to 1 with its diagonal, `log` an x of counts; `behind` are grey
    lines over GRID. An estimate as y shows its interval.
    """
    kept = []
    for number, (label, xs, ys) in enumerate(named[:SERIES], start=1):
        both = [(a, _known(b)) for a, b in zip(xs, ys, strict=True)]
        points = [(a, b) for a, b in both if math.isfinite(b.value)]
        kept += [(number, label, points)] if points else []
    if not kept:
        return None
    square = Axis(0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    x = square if unit else (sizes if log else axis)([a for *_, points in kept for a, _ in points])
    y = square if unit else of_estimates(b for *_, points in kept for _, b in points)
    marks = [f'<path class="zero" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>'] if unit else []
    for curve in behind:
        path = _path(x, y, zip(GRID, curve, strict=True))
        marks.append(f'<path class="line rest" d="{path}"/>')
    for number, label, points in kept:
        line = ((a, b.value) for a, b in points)
        path, told = _path(x, y, line), f"<title>{text_of(label)}</title>"
        marks.append(f'<path class="line s{number}" d="{path}">{told}</path>')
        if dots or len(points) == 1:
            marks += [
                f'<circle class="f{number}" cx="{_across(x, a)}" cy="{_down(y, b.value)}" r="3"/>'
                for a, b in points
            ]
        marks += [
            f'<path class="whisker2 s{number}" d="{_upright(x, y, a, b)}"/>'
            for a, b in points
            if math.isfinite(b.low) and math.isfinite(b.high)
        ]
    legend = [Key(n, label, f'<path class="line s{n}" d="M-7 0h14"/>') for n, label, _ in kept]
    about = f"{title}: {y_title} against {x_title} for {'; '.join(key.label for key in legend)}"
    return Chart(title, x_title, y_title, x, y, about, tuple(legend), "".join(marks))


def scatter(title: str, points: Sequence[Point], *, x_title: str, y_title: str) -> Chart | None:
    """The points that have both numbers, a colour and a shape a target; None if there are none."""
    kept = [p for p in points if math.isfinite(p.x.value) and math.isfinite(p.y.value)]
    if not kept:
        return None
    x = of_estimates(p.x for p in kept)
    y = of_estimates([p.y for p in kept], 0.0)
    looks = {
        name: (f"f{i % SERIES + 1}", SHAPES[i % len(SHAPES)])
        for i, name in enumerate(sorted({p.target for p in kept}))
    }
    legend = (
        Key(i % SERIES + 1, name, f'<path class="{looks[name][0]}" d="{looks[name][1]}"/>')
        for i, name in enumerate(looks)
    )
    marks = (_point(p, x, y, looks[p.target], x_title, len(kept) <= LABELLED) for p in kept)
    about = f"{y_title} against {x_title}, {len(kept)} points"
    return Chart(title, x_title, y_title, x, y, about, tuple(legend), "".join(marks))


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


def svg(chart: Chart, *, legend: bool = True) -> str:
    """The chart as one element of a page."""
    height = chart.height if legend else HEIGHT
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{text_of(chart.about)}">{_inside(chart, legend)}</svg>'
    )


def document(charts: Sequence[Chart]) -> str:
    """The charts side by side as a file of its own."""
    columns, tall = min(3, len(charts)), max(chart.height for chart in charts) + 24
    parts = []
    for i, chart in enumerate(charts):
        place = f"translate({i % columns * WIDTH} {i // columns * tall + 20})"
        title = words(LEFT, -4, chart.title, "start", "name")
        parts.append(f'<g transform="{place}">{title}{_inside(chart)}</g>')
    return file(columns * WIDTH, math.ceil(len(charts) / columns) * tall, parts)


def _inside(chart: Chart, legend: bool = True) -> str:
    parts = []
    for tick in chart.y.ticks:
        y, css = _down(chart.y, tick), "zero" if tick == 0 > chart.y.low else "gridline"
        parts.append(f'<path class="{css}" d="M{LEFT} {y}H{RIGHT}"/>')
        parts.append(words(LEFT - 6, y + 4, chart.y.text(tick), "end"))
    room = sum(7 * len(chart.x.text(tick)) + 14 for tick in chart.x.ticks) < RIGHT - LEFT
    for tick in chart.x.ticks if room else chart.x.named:
        text, x = chart.x.text(tick), _across(chart.x, tick)
        long = len(text) > 3 and x > RIGHT - 10  # the canvas would cut it
        parts.append(words(x, BOTTOM + 16, text, "end" if long else "middle"))
    half = (TOP + BOTTOM) // 2
    parts.append(words((LEFT + RIGHT) / 2, HEIGHT - 7, chart.x_title))
    turned = words(11, half, chart.y_title)
    parts += [f'<g transform="rotate(-90 11 {half})">{turned}</g>', chart.marks]
    for i, key in enumerate(chart.legend if legend else ()):
        x, y = LEFT + i % 2 * (RIGHT - LEFT) // 2, HEIGHT + 6 + i // 2 * LINE
        parts.append(f'<g transform="translate({x} {y})">{key.sample}</g>')
        parts.append(words(x + 11, y + 4, short(key.label, 26), "start"))
    return "".join(parts)


def _point(
    point: Point, x: Axis, y: Axis, look: tuple[str, str], x_title: str, labelled: bool
) -> str:
    (css, shape), name = look, point.source
    a, b = _across(x, point.x.value), _down(y, point.y.value)
    parts = []
    for estimate, path in (
        (point.x, f"M{_across(x, point.x.low)} {b}H{_across(x, point.x.high)}"),
        (point.y, f"M{a} {_down(y, point.y.low)}V{_down(y, point.y.high)}"),
    ):
        if math.isfinite(estimate.low) and math.isfinite(estimate.high):
            parts.append(f'<path class="whisker2 s{css[1:]}" d="{path}"/>')
    told = f"{name} on {point.target}: T {_numbers(point.y)} %, {x_title} {_numbers(point.x)}"
    parts.append(
        f'<path class="{css}" transform="translate({a} {b})" d="{shape}">'
        f"<title>{text_of(told)}</title></path>"
    )
    if labelled:
        anchor, at = ("start", a + 7) if a < (LEFT + RIGHT) / 2 else ("end", a - 7)
        parts.append(words(at, b - 5, short(name, 24), anchor, "name"))
    return "".join(parts)


def _numbers(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def file(width: float, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def words(x: float, y: float, text: str, anchor: str = "middle", css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text{kind} x="{x:g}" y="{y:g}" text-anchor="{anchor}">{text_of(text)}</text>'


def _path(x: Axis, y: Axis, points: Iterable[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_across(x, a)} {_down(y, b)}" for a, b in points)


def _known(value: float | Estimate) -> Estimate:
    return value if isinstance(value, Estimate) else Estimate(value, math.nan, math.nan, 0)


def _upright(x: Axis, y: Axis, place: float, value: Estimate) -> str:
    return f"M{_across(x, place)} {_down(y, value.low)}V{_down(y, value.high)}"


def _across(axis: Axis, value: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * axis.at(value) / 100, 1)


def _down(axis: Axis, value: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * axis.at(value) / 100, 1)


def text_of(text: str) -> str:
    return escape(plain(text))


def short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: max(most - 1, 1)] + "…"
