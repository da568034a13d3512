"""`bench leaderboard`: every board of a store, as a table for the terminal, md, csv or json."""

import csv
import io
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmark import metrics
from benchmark.errors import BenchError
from benchmark.registry import did_you_mean
from benchmark.spec import RunSpec
from benchmark.stats import Comparison, Estimate
from benchmark.store import Store
from reports import board
from reports.arms import Run
from reports.board import Baseline, Board, Row

FORMATS = ("table", "md", "csv", "json")
#: Metrics that every format shows beside the headline, with their headings.
BESIDE = {"worst_class_recall": "worst recall", "ece": "ECE"}


def boards(
    store: Store,
    *,
    targets: Sequence[str] = (),
    fusions: Sequence[str] = (),
    protocols: Sequence[str] = (),
    sources: Sequence[str] = (),
    archs: Sequence[str] = (),
    modes: Sequence[str] = (),
    seeds: Sequence[int] = (),
    baseline: Baseline = "scratch",
) -> list[Board]:
    """Every board of the store, by target and protocol; empty filters keep everything.

    Ranks are among the rows that are kept. Seeds are taken out before anything is averaged.
    """
    if baseline not in ("scratch", "self"):
        raise BenchError(f"No baseline named '{baseline}'.", "Known: scratch, self.")
    runs = [Run(o.spec, o) for o in store.outcomes() if isinstance(o.spec, RunSpec)]
    if not runs:
        raise BenchError(
            f"The store {store.root} has no results yet.",
            "Make some with `bench run`, or name another store with --store.",
        )
    wanted = {
        "target": targets, "protocol": protocols, "seed": seeds,
        "source": sources, "fusion": fusions, "arch": archs, "mode": modes,
    }  # fmt: skip
    for name, asked in wanted.items():
        _known(name, asked, [getattr(run.spec, name) for run in runs])

    def keeps(spec: RunSpec, *names: str) -> bool:
        return all(not wanted[name] or getattr(spec, name) in wanted[name] for name in names)

    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        if keeps(run.spec, "target", "protocol", "seed"):
            groups[run.spec.target, run.spec.protocol].append(run)
    found = (
        board.make(
            store,
            groups[place],
            keep=lambda spec: keeps(spec, "source", "fusion", "arch", "mode"),
            baseline=baseline,
        )
        for place in sorted(groups)
    )
    return [made for made in found if made is not None]


def show(store: Store, *, format: str = "table", **filters: Any) -> str:
    """The boards as text for stdout; `filters` as `boards` takes them."""
    if format not in FORMATS:
        raise BenchError(f"No format named '{format}'.", did_you_mean(format, list(FORMATS)))
    found = boards(store, **filters)
    writer = {"table": _table, "md": _markdown, "csv": _csv, "json": _json}[format]
    return writer(found)


def _known(name: str, asked: Sequence[Any], known: Sequence[Any]) -> None:
    for value in asked:
        if value not in known:
            names = sorted({str(item) for item in known})
            raise BenchError(
                f"The store has no results of {name} '{value}'.", did_you_mean(str(value), names)
            )


# --- words ------------------------------------------------------------------------------------


def title(made: Board) -> str:
    """`isic · standard · AUROC (...)`, and how far a LEAKY protocol leaks."""
    name = metrics.NAMES[made.headline].title if made.headline in metrics.NAMES else made.headline
    leak = f" · LEAKY: {leak_text(made)}" if made.leaky else ""
    return f"{made.target} · {made.protocol} · {name}{leak}"


def leak_text(made: Board) -> str:
    """How far a LEAKY protocol leaks, as measured."""
    return f"{made.siblings:.0%} of test images have a sibling in train"


def interval(estimate: Estimate | None, digits: int = 3) -> str:
    """`0.873 [0.861, 0.884]`, and a dash where there is nothing."""
    if estimate is None or math.isnan(estimate.value):
        return "–"
    value, low, high = (f"{number:.{digits}f}" for number in estimate[:3])
    return f"{value} [{low}, {high}]" if not math.isnan(estimate.low) else value


def gain(compared: Comparison | None) -> str:
    """`+0.031 [0.020, 0.043]`."""
    if compared is None:
        return "–"
    value, low, high, _ = compared.difference
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def cost(row: Row) -> str:
    """`1,310 GPU-s, 61 kJ`: of all cells of the row."""
    energy = f", {row.joules / 1000:,.0f} kJ" if row.joules is not None else ""
    return f"{row.seconds:,.0f} {row.device}-s{energy}"


def gain_names(made: Board) -> dict[str, str]:
    """The gains that some row of the board has, with their headings."""
    names = {made.baseline: f"over {made.baseline}", "imagenet": "over imagenet",
             "fusion": "by fusion"}  # fmt: skip
    return {k: v for k, v in names.items() if any(k in row.gains for row in made.rows)}


def _cells(made: Board) -> tuple[list[str], list[list[str]]]:
    """Headings and texts of a board; columns that say nothing are left out."""
    networks = {(row.identity.arch, row.identity.mode) for row in made.rows}
    several = len(networks - {("none", "frozen")}) > 1
    settings = any(row.setting for row in made.rows)
    gains = gain_names(made)
    head = ["rank", "source", "fusion"]
    head += (["network"] if several else []) + (["setting"] if settings else [])
    head += [made.headline, *gains.values(), *BESIDE.values(), "cells", "cost"]
    lines = []
    for row in made.rows:
        who = row.identity
        line = ["–" if row.rank is None else str(row.rank), who.source, who.fusion]
        line += [f"{who.arch} {who.mode}"] if several else []
        line += ["; ".join(row.setting)] if settings else []
        line += [interval(row.headline), *(gain(row.gains.get(name)) for name in gains)]
        line += [interval(row.metrics.get(name)).partition(" ")[0] for name in BESIDE]
        lines.append([*line, f"{row.done}/{row.expected}", cost(row)])
    return head, lines


def _notes(made: Board) -> list[str]:
    """Why rows have no rank, one line each."""
    return [f"No rank: {row.name}: {'; '.join(row.why)}." for row in made.rows if row.why]


# --- formats ----------------------------------------------------------------------------------


def _table(found: Sequence[Board]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    terminal = sys.stdout.isatty()
    # A pipe has no width: nothing is cut there.
    console = Console(file=out, force_terminal=terminal, width=None if terminal else 400)
    for made in found:
        head, lines = _cells(made)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
        table.title = Text(_plain(title(made)), style="bold")
        for name in head:
            words = name in ("source", "fusion", "network", "setting")
            table.add_column(name, justify="left" if words else "right", overflow="fold")
        for line, row in zip(lines, made.rows, strict=True):
            style = "bold" if row.rank == 1 else "dim" if row.rank is None else ""
            table.add_row(*(Text(_plain(text)) for text in line), style=style)
        console.print(table)
        for note in _notes(made):
            console.print(Text(_plain(note), style="dim"))
        console.print()
    console.print(Text("Rows that share a rank cannot be told apart (paired bootstrap, 95 %)."))
    return out.getvalue()


def _plain(text: str) -> str:
    """Names come from users and files: nothing in them may steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _markdown(found: Sequence[Board]) -> str:
    parts = []
    for made in found:
        head, lines = _cells(made)
        table = [head, ["---"] * len(head), *lines]
        rows = ["| " + " | ".join(map(_escaped, line)) + " |" for line in table]
        notes = [f"- {_escaped(note)}" for note in _notes(made)]
        parts.append("\n".join([f"## {_escaped(title(made))}", "", *rows, "", *notes]))
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _escaped(text: str) -> str:
    for sign in "\\|`*_<>[]":
        text = text.replace(sign, "\\" + sign) if sign != "<" else text.replace("<", "&lt;")
    return " ".join(_plain(text).split())


def _csv(found: Sequence[Board]) -> str:
    out = io.StringIO()
    rows = [_flat(made, row) for made in found for row in made.rows]
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _flat(made: Board, row: Row) -> dict[str, Any]:
    who = row.identity
    flat: dict[str, Any] = {
        "target": made.target,
        "protocol": made.protocol,
        "leaky": made.leaky,
        "siblings": made.siblings,
        "rank": row.rank,
        "source": who.source,
        "fusion": who.fusion,
        "arch": who.arch,
        "mode": who.mode,
        "setting": "; ".join(row.setting),
        "metric": made.headline,
        **_numbers("", row.headline),
    }
    for name in (made.baseline, "imagenet", "fusion"):
        found = row.gains.get(name)
        flat |= _numbers(f"gain_{name}_", found.difference if found else None)
        flat[f"gain_{name}_p"] = found.p if found else None
    for name in BESIDE:
        flat |= _numbers(f"{name}_", row.metrics.get(name))
    return flat | {
        "cells_done": row.done,
        "cells_expected": row.expected,
        "seconds": round(row.seconds, 3),
        "device": row.device,
        "joules": row.joules,
        "why_no_rank": "; ".join(row.why),
    }


def _numbers(prefix: str, estimate: Estimate | None) -> dict[str, float | None]:
    names = [f"{prefix}value", f"{prefix}low", f"{prefix}high"]
    return dict(zip(names, estimate[:3] if estimate else [None] * 3, strict=True))


def _json(found: Sequence[Board]) -> str:
    return json.dumps([_defined(_board(made)) for made in found], ensure_ascii=False) + "\n"


def _board(made: Board) -> dict[str, Any]:
    return {
        "target": made.target,
        "protocol": made.protocol,
        "headline": made.headline,
        "higher_is_better": board.higher_is_better(made.headline),
        "leaky": made.leaky,
        "siblings": made.siblings,
        "versions": made.versions,
        "split": made.split.model_dump(mode="json"),
        "digest": made.digest,
        "seeds": made.seeds,
        "rows": [_row(row) for row in made.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    who = row.identity
    return {
        "rank": row.rank,
        "why_no_rank": row.why,
        "source": who.source,
        "fusion": who.fusion,
        "options": dict(who.options),
        "columns": who.columns,
        "arch": who.arch,
        "mode": who.mode,
        "setting": row.setting,
        "recipe": who.recipe.model_dump(mode="json"),
        "headline": _estimate(row.headline),
        "gains": {
            name: {**_estimate(found.difference), "p": found.p} for name, found in row.gains.items()
        },
        "metrics": {name: _estimate(value) for name, value in row.metrics.items()},
        "classes": row.classes,
        "per_class": [
            {name: _estimate(value) for name, value in table.items()} for table in row.per_class
        ],
        "cells": {"done": row.done, "expected": row.expected},
        "seconds": round(row.seconds, 3),
        "device": row.device,
        "joules": row.joules,
        "runs": [
            {
                "key": run.outcome.key,
                "fold": run.spec.fold,
                "seed": run.spec.seed,
                "status": run.outcome.status,
                "reason": reason(run),
                "value": value.value if (value := run.outcome.metrics.get(who.headline)) else None,
            }
            for run in row.runs
        ],
    }


def reason(run: Run) -> str:
    """Why a cell has no numbers; empty where it has."""
    failure = run.outcome.failure
    return f"{failure.kind}: {failure.message}" if failure else run.outcome.reason


def _estimate(estimate: Estimate | None) -> dict[str, Any]:
    return estimate._asdict() if estimate else {}


def _defined(value: Any) -> Any:
    """JSON has no NaN: an undefined number is null."""
    if isinstance(value, dict):
        return {name: _defined(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
