"""What the index shows over all boards: counts, source × target maps, the sources' pretraining."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.spec import Outcome, PretrainSpec
from benchmark.store import Store
from reports import plots, render
from reports.leaderboard.board import Board, higher_is_better
from reports.leaderboard.gains import Left, of_one_partition, told
from reports.leaderboard.rows import Row


@dataclass(frozen=True)
class Shade:
    """A cell of a heat map: its row, and how far and which way it departs."""

    row: Row
    tone: str  # "up", "down" or "flat"
    depth: float  # per cent of the full colour
    text: str


@dataclass(frozen=True)
class Heat:
    """One map of sources (rows) and targets (columns)."""

    title: str
    targets: tuple[str, ...]
    origin: str  # what the source none is here, whose number is the middle of the colours
    rows: tuple[tuple[str, tuple[Shade | None, ...]], ...]
    most: float  # the difference that has the full colour
    notes: tuple[str, ...]


def counts(boards: Sequence[Board]) -> dict[str, int]:
    """What there is, by name; failures only where there are any."""
    runs = [run for made in boards for row in made.rows for run in row.runs]
    rows = [row.identity for made in boards for row in made.rows]
    found = {
        "targets": len({made.target for made in boards}),
        "sources": len({who.source for who in rows} - {"none"}),
        "fusions": len({who.fusion for who in rows} - {"none"}),
        "finished cells": sum(run.outcome.status == "ok" for run in runs),
        "failed": sum(run.outcome.status == "failed" for run in runs),
        "skipped": sum(run.outcome.status == "skipped" for run in runs),
    }
    return {k: v for k, v in found.items() if v or k not in ("failed", "skipped")}


def heats(boards: Sequence[Board]) -> list[Heat]:
    """A map for each protocol, fusion and network that more than one source was run with."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], tuple[Board, Row]]] = {}
    left: dict[str, list[Left]] = defaultdict(list)
    for made, others in of_one_partition(boards):
        left[made.protocol] += others
        for row in made.rows:
            if row.setting or row.headline is None or row.identity.arch == "none":
                continue
            place = (made.protocol, row.identity.fusion, row.network)
            groups.setdefault(place, {}).setdefault((row.identity.source, made.target), (made, row))
    order = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0][1] != "none", item[0]))
    return [
        _heat(" · ".join(place), cells, told(left[place[0]]))
        for place, cells in order
        if len(cells) > 1
    ]


def _heat(
    title: str, cells: dict[tuple[str, str], tuple[Board, Row]], notes: Sequence[str]
) -> Heat:
    sources = sorted({source for source, _ in cells}, key=lambda s: (s != "none", s))
    targets = sorted({target for _, target in cells})
    apart: dict[tuple[str, str], float] = {}
    for target in targets:
        column = {s: cells[s, target] for s in sources if (s, target) in cells}
        values = {s: row.headline.value for s, (_, row) in column.items() if row.headline}
        base = values.get("none", float(np.mean(list(values.values()))))
        for source, (made, _) in column.items():
            sign = 1 if higher_is_better(made.headline) else -1
            apart[source, target] = sign * (values[source] - base)
    finite = {place: abs(value) for place, value in apart.items() if math.isfinite(value)}
    fair = [value for place, value in finite.items() if not cells[place][1].why]
    most = max(fair or finite.values(), default=0.0) or 1.0

    def shade(source: str, target: str) -> Shade | None:
        if (source, target) not in cells:
            return None
        row, value = cells[source, target][1], apart[source, target]
        tone = "flat" if not abs(value) > 0 else "up" if value > 0 else "down"
        depth = round(62 * min(abs(value) / most, 1), 1) if tone != "flat" else 0
        text = f"{source} on {target}: {render.interval(row.headline)}, {value:+.3f}"
        return Shade(row, tone, depth, "; ".join((text, *row.why)))

    rows = tuple((s, tuple(shade(s, t) for t in targets)) for s in sources)
    origin = next(iter(cells.values()))[1].identity._replace(source="none").origin
    return Heat(title, tuple(targets), origin, rows, most, tuple(notes))


def pretraining(store: Store) -> tuple[list[dict[str, Any]], plots.Chart | None]:
    """A line of the sources' own table for each pretraining, and their loss by epoch."""
    done = [(o.spec, o) for o in store.outcomes("pretrain") if isinstance(o.spec, PretrainSpec)]
    done.sort(key=lambda pair: (pair[0].source, pair[0].arch, pair[0].seed))
    named = [(spec.source, *_losses(outcome)) for spec, outcome in done if outcome.history]
    chart = plots.lines("Pretraining loss", named, x_title="epoch", y_title="loss")
    return [_pretrained(spec, outcome) for spec, outcome in done], chart


def _losses(outcome: Outcome) -> tuple[list[float], list[float]]:
    values = [(facts.get("epoch"), facts.get("loss")) for facts in outcome.history]
    known = [(float(epoch), float(loss)) for epoch, loss in values if epoch and loss is not None]
    return [epoch for epoch, _ in known], [loss for _, loss in known]


def _pretrained(spec: PretrainSpec, outcome: Outcome) -> dict[str, Any]:
    failed = f"{outcome.failure.kind}: {outcome.failure.message}" if outcome.failure else ""
    names = [f"{part}_{m}" for part in ("train", "val", "test") for m in ("accuracy", "auroc")]
    return {
        "source": spec.source,
        "arch": spec.arch,
        "seed": spec.seed,
        "epochs": len(outcome.history) or "–",
        "numbers": [outcome.metrics.get(name) for name in names],
        "seconds": outcome.seconds.get("total", 0.0),
        "note": failed or outcome.reason or outcome.chosen,
    }
