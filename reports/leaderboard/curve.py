"""`bench curve`: scores by the number of training images, and the number at which sources cross."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from benchmark.errors import BenchError
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import plots, render
from reports.leaderboard import table
from reports.leaderboard.board import Board, higher_is_better
from reports.leaderboard.rows import Row, paired
from reports.render import Column, Table, told

FOOTER = (
    "From how many training images on the first stays ahead of the second: straight lines between "
    "the sizes that were run, on a logarithmic scale; 95 % interval from draws of the same "
    "{units}; each pair by itself. Test and validation parts are whole at every size."
)


class Point(NamedTuple):
    """A row at one size; `images` is the mean over its cells, as groups enter whole."""

    asked: str
    images: float
    headline: Estimate
    row: Row


@dataclass(frozen=True)
class Line:
    """One arm at several sizes, from the smallest."""

    label: str
    points: tuple[Point, ...] = field(repr=False)

    @property
    def kind(self) -> tuple:
        """What two lines share that differ in their source."""
        who = self.points[-1].row.identity
        arm = (who.fusion, who.options, who.columns, who.types, who.record)
        return (*arm, who.arch, who.mode, self.points[-1].row.setting)


@dataclass(frozen=True)
class Crossing:
    """Two sources: `first` is ahead at the largest size, and from `at` on."""

    first: Line
    second: Line
    smallest: float  # of the sizes that both were run at
    largest: float
    at: Estimate  # 0: at every size; infinite: not even at the largest

    @property
    def verdict(self) -> str:
        """What the interval leaves open."""
        if self.at.high == 0:
            return "do not cross"
        return "cross" if self.at.low > 0 and self.at.high < math.inf else "not known"

    @property
    def text(self) -> str:
        """`251 [210, 300]`, `do not cross between 100 and 1,600`."""
        ends = f"{self.smallest:,.0f}", f"{self.largest:,.0f}"
        if self.verdict == "do not cross":
            return f"do not cross between {ends[0]} and {ends[1]}"
        value, low, high = (
            f"below {ends[0]}" if n == 0 else f"above {ends[1]}" if n == math.inf else f"{n:,.0f}"
            for n in self.at[:3]
        )
        seen = value if 0 < self.at.value < math.inf else "none seen"
        unknown = "not known: " if (self.at.low, self.at.high) == (0, math.inf) else ""
        return f"{unknown}{seen} [{low}, {high}]"

    @property
    def sentence(self) -> str:
        """The same for a page."""
        first, second = self.first.label, self.second.label
        if self.verdict == "do not cross":
            return f"{first} is ahead of {second}: they {self.text} training images."
        if self.verdict == "cross":
            return f"{first} is ahead of {second} from {self.text} training images on."
        return f"Where {first} and {second} cross is not known for sure: {self.text}."


@dataclass(frozen=True)
class Curve:
    """The lines of one target under one protocol and partition, the best at the end first."""

    target: str
    under: str
    headline: str
    units: str
    lines: tuple[Line, ...]
    crossings: tuple[Crossing, ...]

    @property
    def chart(self) -> plots.Chart | None:
        """The lines with their intervals."""
        named = [
            (line.label, [p.images for p in line.points], [p.headline for p in line.points])
            for line in self.lines
        ]
        metric = table.metric_title(self.headline).partition(" (")[0]
        return plots.lines(
            f"Learning curve, {self.under}",
            named,
            x_title="training images",
            y_title=metric,
            dots=True,
            log=True,
        )


def crossing(sizes: ArrayLike, apart: ArrayLike, draws: ArrayLike) -> Estimate:
    """The size from which one row stays ahead of another, with its 95 % interval.

    `apart` (S,) is how far it is ahead at each size, `draws` (B, S) the same in each draw. It is 0
    where the row is ahead at every size, and infinite where it is behind at the last.
    """
    drawn = np.asarray(draws, float)
    drawn = drawn[np.isfinite(drawn).all(1)]
    found = _from(np.log(np.asarray(sizes, float)), np.vstack([np.asarray(apart, float), drawn]))
    ends = np.quantile(found[1:], [0.025, 0.975], method="nearest") if len(drawn) else [0, math.inf]
    return Estimate(float(found[0]), float(ends[0]), float(ends[1]), len(drawn))


def _from(places: plots.Array, apart: plots.Array) -> plots.Array:
    """By row of `apart` (n, S): where the last of its meetings with zero is."""
    ahead = apart > 0
    last = ahead.shape[1] - 1 - (~ahead[:, ::-1]).argmax(1)  # the last size at which it is not
    found = np.where(ahead.all(1), 0.0, math.inf)
    rows = np.flatnonzero(ahead[:, -1] & ~ahead.all(1))
    i = last[rows]
    before, after = apart[rows, i], apart[rows, i + 1]
    share = before / (before - after)
    found[rows] = np.exp(places[i] + share * (places[i + 1] - places[i]))
    return found


def of(boards: Sequence[Board]) -> list[Curve]:
    """The curves of boards that differ in the size of the training part alone."""
    groups: dict[tuple[str, str, int], list[Board]] = defaultdict(list)
    for made in (one for one in boards if not one.tested_on):
        groups[made.target, made.protocol, made.partition].append(made)
    return [curve for part in groups.values() if (curve := _curve(part)) is not None]


def _curve(boards: Sequence[Board]) -> Curve | None:
    arms: dict[Any, list[tuple[Point, str]]] = defaultdict(list)
    for made in boards:
        for row in made.rows:
            counts = [float(run.outcome.data.get("train", math.nan)) for run in row.runs]
            images = sum(counts) / max(len(counts), 1)
            if row.rank is not None and row.headline is not None and images > 0:
                point = Point(made.train_size, images, row.headline, row)
                arms[row.identity].append((point, made.label(row)))
    lines = []
    for found in arms.values():
        points, labels = zip(*sorted(found, key=lambda one: one[0].images), strict=True)
        lines += [Line(labels[-1], points)] if len(points) > 1 else []
    if not lines:
        return None
    first = min(boards, key=lambda made: made.train_size != "")
    sign = 1 if higher_is_better(first.headline) else -1
    lines.sort(key=lambda line: (-sign * line.points[-1].headline.value, line.label))
    pairs = (_crossing(a, b, sign) for a, b in combinations(lines, 2) if _sources(a, b))
    return Curve(
        target=first.target,
        under=first.cut,
        headline=first.headline,
        units=first.units,
        lines=tuple(lines),
        crossings=tuple(pair for pair in pairs if pair is not None),
    )


def _sources(a: Line, b: Line) -> bool:
    """Whether two lines differ in their source alone."""
    one, other = (line.points[-1].row.identity.source for line in (a, b))
    return one != other and a.kind == b.kind


def _crossing(a: Line, b: Line, sign: int) -> Crossing | None:
    """At the sizes of both, over draws of the same patients."""
    others = {point.asked: point for point in b.points}
    both = [(p, others[p.asked]) for p in a.points if p.asked in others]
    both = [(p, q) for p, q in both if paired(p.row) == paired(q.row) == paired(both[-1][0].row)]
    if len(both) < 2:
        return None
    apart = np.array([sign * (p.headline.value - q.headline.value) for p, q in both])
    sides = ([np.asarray(point.row.draws) for point in side] for side in zip(*both, strict=True))
    draws = sign * np.subtract(*map(np.transpose, sides))
    if apart[-1] < 0:
        a, b, apart, draws = b, a, -apart, -draws
    sizes = [p.images for p, _ in both]
    return Crossing(a, b, sizes[0], sizes[-1], crossing(sizes, apart, draws))


def show(store: Store, *, format: str = "table", **filters: Any) -> str:
    """The curves as text for stdout; `filters` as boards take them."""
    render.check(format)
    found = of(table.boards(store, **filters))
    if not found:
        raise BenchError(
            "No arm was run at two sizes of the training part.",
            "Run some: `bench run … --train-size 100 --train-size 400 --train-size ''`.",
        )
    units = " or ".join(sorted({curve.units for curve in found}))
    rows = [
        row
        for curve in found
        for row in Table("", FIELDS, curve.crossings, facts=_facts(curve)).fields()
    ]
    return render.write(
        format,
        [made for curve in found for made in _tables(curve)],
        FOOTER.format(units=units),
        fields=rows,
        json=lambda _: [_json(curve) for curve in found],
    )


def _number(value: float) -> float | None:
    return value if 0 < value < math.inf else None


#: Of a crossing; an end of the interval that lies beyond the sizes is empty.
FIELDS = (
    Column("ahead", "first.label", field="first", words=True),
    Column("of", "second.label", field="second", words=True),
    Column("from training images", "text", words=True),
    told("verdict"),
    told("images", lambda pair: _number(pair.at.value)),
    told("images_low", lambda pair: _number(pair.at.low)),
    told("images_high", lambda pair: _number(pair.at.high)),
    told("smallest"),
    told("largest"),
)


def _facts(curve: Curve) -> dict[str, Any]:
    return {"target": curve.target, "under": curve.under, "headline": curve.headline}


def _tables(curve: Curve) -> Iterator[Table]:
    title = f"{curve.target} · {curve.under} · {table.metric_title(curve.headline)}"
    sizes = {p.asked: p.images for line in curve.lines for p in line.points}
    by_size = [
        Column(f"{images:,.0f}" + " (all)" * (not asked), _at(asked), ".3f")
        for asked, images in sorted(sizes.items(), key=lambda one: one[1])
    ]
    yield Table(
        f"{title}, by training images", [Column("row", "label", words=True), *by_size], curve.lines
    )
    if curve.crossings:
        yield Table(f"{curve.target} · where two sources cross", FIELDS, curve.crossings)


def _at(asked: str):
    return lambda line: next((p.headline for p in line.points if p.asked == asked), None)


def _json(curve: Curve) -> dict[str, Any]:
    lines = [
        {
            "label": line.label,
            "points": [
                {"train_size": p.asked, "images": p.images, **render.numbers(p.headline)}
                for p in line.points
            ],
        }
        for line in curve.lines
    ]
    return {
        **_facts(curve),
        "lines": lines,
        "crossings": Table("", FIELDS, curve.crossings).fields(),
    }
