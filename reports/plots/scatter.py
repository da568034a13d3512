"""Scatter plots as SVG: gain against distance with both intervals, one colour per target."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from benchmark.stats import Estimate
from reports.plots import charts
from reports.plots.charts import BOTTOM, HEIGHT, LEFT, RIGHT, SERIES, TOP, WIDTH, Axis
from reports.render import plain

LABELLED = 12  # points that get their name written beside them; more would overlap
ROW = 16  # units of a line of the legend
STYLE = """
text { font: 11px system-ui, sans-serif; fill: #3d4a59 } .name { fill: #18202b }
.gridline { stroke: #dfe3e9 } .zero { stroke: #566273; stroke-dasharray: 3 3 }
.whisker2 { stroke-width: 1.2; opacity: .55 }
.s1 { stroke: #0072b2 } .s2 { stroke: #d55e00 } .s3 { stroke: #00805c }
.s4 { stroke: #b0508a } .s5 { stroke: #8a6d00 } .s6 { stroke: #4b5563 }
.f1 { fill: #0072b2 } .f2 { fill: #d55e00 } .f3 { fill: #00805c }
.f4 { fill: #b0508a } .f5 { fill: #8a6d00 } .f6 { fill: #4b5563 }
"""
#: Beside colour: shapes stay apart in print and for every eye. Radius 4, around (0, 0).
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "M-3.6 -3.6h7.2v7.2h-7.2z",
    "M0 -4.8L4.6 3.4H-4.6z",
    "M0 -5L5 0L0 5L-5 0z",
)


class Point(NamedTuple):
    """A pair of source and target."""

    source: str
    target: str
    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class Panel:
    """One plot."""

    title: str
    x_title: str
    y_title: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    targets: tuple[str, ...]

    @property
    def height(self) -> int:
        """Of the plot and the legend below it."""
        return HEIGHT + ROW * math.ceil(len(self.targets) / 2) + 6


def panel(title: str, points: Sequence[Point], *, x_title: str, y_title: str) -> Panel | None:
    """A plot of the points that have both numbers; None if there are none."""
    kept = tuple(p for p in points if math.isfinite(p.x.value) and math.isfinite(p.y.value))
    if not kept:
        return None
    x = charts.of_estimates(p.x for p in kept)
    y = charts.of_estimates([p.y for p in kept], 0.0)
    targets = tuple(dict.fromkeys(sorted(p.target for p in kept)))
    return Panel(title, x_title, y_title, x, y, kept, targets)


def svg(made: Panel) -> str:
    """The plot as one element; its colours are those of the page's style sheet."""
    label = f"{made.y_title} against {made.x_title}, {len(made.points)} points"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {made.height}" role="img" '
        f'aria-label="{_text(label)}">{_inside(made)}</svg>'
    )


def document(panels: Sequence[Panel]) -> str:
    """The plots side by side as a file of its own."""
    columns = min(3, len(panels))
    tall = max(made.height for made in panels) + 24
    rows = math.ceil(len(panels) / columns)
    size = f'width="{columns * WIDTH}" height="{rows * tall}"'
    box = f'viewBox="0 0 {columns * WIDTH} {rows * tall}"'
    parts = []
    for i, made in enumerate(panels):
        place = f"translate({i % columns * WIDTH} {i // columns * tall + 20})"
        title = (
            f'<text class="name" x="{LEFT}" y="-4" font-weight="bold">{_text(made.title)}</text>'
        )
        parts.append(f'<g transform="{place}">{title}{_inside(made)}</g>')
    white = '<rect width="100%" height="100%" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {box}><style>{STYLE}</style>'
        f"{white}{''.join(parts)}</svg>\n"
    )


def _inside(made: Panel) -> str:
    return "".join((_frame(made), *(_point(made, point) for point in made.points), _legend(made)))


def _frame(made: Panel) -> str:
    parts = []
    for tick in made.y.ticks:
        y, text = _down(made.y, tick), made.y.text(tick)
        css = "zero" if tick == 0 else "gridline"
        parts.append(f'<line class="{css}" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{text}</text>')
    for tick in made.x.named:
        x = _across(made.x, tick)
        anchor = "end" if x > RIGHT - 10 else "middle"  # else the canvas would cut it
        parts.append(
            f'<text x="{x}" y="{BOTTOM + 16}" text-anchor="{anchor}">{made.x.text(tick)}</text>'
        )
    middle, half = (LEFT + RIGHT) // 2, (TOP + BOTTOM) // 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 7}" text-anchor="middle">{_text(made.x_title)}</text>'
        f'<text x="10" y="{half}" text-anchor="middle" transform="rotate(-90 10 {half})">'
        f"{_text(made.y_title)}</text>"
    )
    return "".join(parts)


def _point(made: Panel, point: Point) -> str:
    colour, shape = _look(made, point.target)
    x, y = _across(made.x, point.x.value), _down(made.y, point.y.value)
    parts = []
    if math.isfinite(point.x.low) and math.isfinite(point.x.high):
        low, high = _across(made.x, point.x.low), _across(made.x, point.x.high)
        parts.append(f'<path class="whisker2 s{colour}" d="M{low} {y}H{high}"/>')
    if math.isfinite(point.y.low) and math.isfinite(point.y.high):
        low, high = _down(made.y, point.y.low), _down(made.y, point.y.high)
        parts.append(f'<path class="whisker2 s{colour}" d="M{x} {low}V{high}"/>')
    told = (
        f"{point.source} on {point.target}: T {_numbers(point.y)} %, {made.x_title} "
        f"{_numbers(point.x)}"
    )
    parts.append(
        f'<path class="f{colour}" transform="translate({x} {y})" d="{shape}">'
        f"<title>{_text(told)}</title></path>"
    )
    if len(made.points) <= LABELLED:
        right = x < (LEFT + RIGHT) / 2
        anchor, at = ("start", x + 7) if right else ("end", x - 7)
        name = point.source if len(point.source) <= 24 else point.source[:23] + "…"
        parts.append(
            f'<text class="name" x="{at:.1f}" y="{y - 5:.1f}" text-anchor="{anchor}">'
            f"{_text(name)}</text>"
        )
    return "".join(parts)


def _legend(made: Panel) -> str:
    parts = []
    for i, target in enumerate(made.targets):
        colour, shape = _look(made, target)
        x, y = LEFT + i % 2 * (RIGHT - LEFT) // 2, HEIGHT + 6 + i // 2 * ROW
        name = target if len(target) <= 26 else target[:25] + "…"
        parts.append(
            f'<path class="f{colour}" transform="translate({x} {y})" d="{shape}"/>'
            f'<text x="{x + 9}" y="{y + 4}">{_text(name)}</text>'
        )
    return "".join(parts)


def _look(made: Panel, target: str) -> tuple[int, str]:
    """The colour's number and the shape of a target."""
    place = made.targets.index(target)
    return place % SERIES + 1, SHAPES[place % len(SHAPES)]


def _numbers(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low):
        return f"{estimate.value:.4g}"
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"


def _text(words: str) -> str:
    return escape(plain(words))


def _across(axis: Axis, value: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * axis.at(value) / 100, 1)


def _down(axis: Axis, value: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * axis.at(value) / 100, 1)
