"""How near each source is to each target, as tables and as maps of sources and targets."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.spec import Outcome
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import overlaps, render
from reports.distances.measures import Measure, measured
from reports.render import Column, Table

FOOTER = (
    "An interval is the method's own, or the range over seeds. Floor: what two halves of one set "
    "are apart, the mean of both sides, at the size at which the sides are compared; excess: the "
    "distance less the floor."
)
#: Of two equal sets arithmetic leaves this much.
ROUNDING = 1e-9
UNDER = "‡ not told from its floor: halves of one set may be as far apart."


@dataclass(frozen=True)
class Cell:
    """A pair on a map: its distance, and how deep its colour is."""

    value: Estimate
    depth: float  # per cent of the full colour, which the nearest pair has
    text: str
    overlap: str  # what is known of images on both sides
    mark: str  # where it is not told from its floor


@dataclass(frozen=True)
class Map:
    """One distance: sources in rows, targets in columns."""

    measure: Measure
    targets: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]

    @property
    def notes(self) -> list[str]:
        """How it was measured, and how much of it is noise."""
        floors = self.measure.floors.values()
        told = [f"Floors: {min(floors):.4g} to {max(floors):.4g}."] if floors else []
        told += [UNDER] * bool(self.measure.under)
        marked = any(cell and cell.overlap for _, row in self.rows for cell in row)
        told += [overlaps.NOTE] * marked + self.measure.overlaps
        return [text for text in (self.measure.about, *told) if text]


def of_store(store: Store) -> list[Map]:
    """A map of every distance that the store has."""
    outcomes = store.outcomes("distance")
    archs = sorted({o.spec.arch for o in outcomes if o.spec.arch != "none"}) or ["none"]
    found: dict[str, Measure] = {}
    for arch in archs:
        for measure in measured(store, outcomes, arch, set(), ())[0]:
            name = measure.label if len(archs) == 1 else f"{measure.label} · {arch}"
            found.setdefault(name, measure)
    return [of(measure) for measure in found.values()]


def of(measure: Measure) -> Map:
    """The map of one distance."""
    sources = sorted({source for source, _ in measure.values})
    targets = sorted({target for _, target in measure.values})
    sign = -1 if measure.more_is_near else 1
    finite = [sign * v.value for v in measure.values.values() if math.isfinite(v.value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def cell(source: str, target: str) -> Cell | None:
        value = measure.values.get((source, target))
        if value is None:
            return None
        far = (sign * value.value - low) / (high - low) if high > low else 0.0
        known = overlaps.between(source, target)
        mark = measure.mark(source, target)
        known_of = [known, UNDER[2:].rstrip(".")] if mark else [known]
        text = "; ".join([f"{source} to {target}: {number(value)}", *filter(None, known_of)])
        depth = round(100 * (1 - far), 1) if math.isfinite(far) else 0.0
        return Cell(value, depth, text, known, mark)

    rows = tuple((s, tuple(cell(s, t) for t in targets)) for s in sources)
    return Map(measure, tuple(targets), rows)


def show(store: Store, outcomes: Sequence[Outcome], *, format: str = "table") -> str:
    """The distances of these outcomes, a table each."""
    render.check(format)
    arch = next((o.spec.arch for o in outcomes if o.spec.arch != "none"), "none")
    maps = [of(measure) for measure in measured(store, outcomes, arch, set(), ())[0]]
    fields = (row for each in maps for row in _flat(each))
    return render.write(format, map(table_of, maps), FOOTER, fields=fields)


def table_of(found: Map) -> Table:
    """A map in words; the nearest source of each target is marked."""

    def column(i: int, target: str) -> Column:
        cells = [row[i] for _, row in found.rows]
        nearest = max((cell.depth for cell in cells if cell), default=math.nan)

        def text(cell: Cell) -> str:
            mark = ("● " if cell.depth == nearest else "") + ("† " if cell.overlap else "")
            return mark + cell.mark + number(cell.value)

        return Column(target, lambda row: row[1][i], text)

    columns = [Column("source", lambda row: row[0], words=True)]
    columns += [column(i, target) for i, target in enumerate(found.targets)]
    notes = [*found.notes, *["● nearest source of a target"] * (len(found.rows) > 1)]
    return Table(found.measure.title, columns, found.rows, notes=notes)


def number(value: Estimate) -> str:
    """`0.8752 [0.8601, 0.8893]`."""
    near = value._replace(value=0.0) if abs(value.value) < ROUNDING else value
    return render.said(near, ".4g")


def _flat(found: Map) -> Iterator[dict[str, Any]]:
    for source, row in found.rows:
        for target, cell in zip(found.targets, row, strict=True):
            if cell is not None:
                yield {
                    "method": found.measure.label,
                    "more_is_near": found.measure.more_is_near,
                    "source": source,
                    "target": target,
                    **render.numbers(cell.value),
                    **found.measure.facts(source, target),
                    "overlap": cell.overlap,
                }
