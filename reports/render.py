"""Writes what a reader command found: as a table for the terminal, as md, csv or json."""

import csv
import io
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.errors import BenchError, did_you_mean, plain
from benchmark.stats import Estimate, defined

FORMATS = ("table", "md", "csv", "json")


@dataclass(frozen=True)
class Table:
    """Texts in rows under headings, with what is to be said below."""

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    words: Sequence[str] = ()  # headings of columns that hold words, not numbers
    styles: Sequence[str] = ()  # of rows, for a terminal: "bold", "dim" or ""
    notes: Sequence[str] = ()


def check(format: str) -> None:
    """Refuse a format that nobody writes, before anything is read."""
    if format not in FORMATS:
        raise BenchError(f"No format named '{format}'.", did_you_mean(format, list(FORMATS)))


def interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    """`0.873 [0.861, 0.884]`, with signs for a difference; a dash where there is nothing."""
    if estimate is None or math.isnan(estimate.value):
        return "–"
    value, low, high = (f"{number:{'+' if sign else ''}.3f}" for number in estimate[:3])
    return f"{value} [{low}, {high}]" if not math.isnan(estimate.low) else value


def probability(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    text = p_value(p)
    return f"p = {text}" if text[0].isdigit() else f"p {text}"


def p_value(p: float) -> str:
    """`0.012`, `< 0.001`: below a heading that says what it is."""
    if math.isnan(p):
        return "undefined"
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def terminal(tables: Sequence[Table], footer: str = "") -> str:
    """Tables for people; as wide as the terminal, uncut into a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    out = io.StringIO()
    live = sys.stdout.isatty()
    console = Console(file=out, force_terminal=live, width=None if live else 400)
    for table in tables:
        console.print(Text(plain(table.title), style="bold"))
        grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in table.head:
            side = "left" if name in table.words else "right"
            grid.add_column(plain(name), justify=side, overflow="fold")
        for i, line in enumerate(table.lines):
            style = table.styles[i] if table.styles else ""
            grid.add_row(*(Text(plain(text)) for text in line), style=style)
        if table.lines:
            console.print(grid)
        for note in table.notes:
            console.print(Text(plain(note), style="dim"))
        console.print()
    if footer:
        console.print(Text(plain(footer)))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def markdown(tables: Sequence[Table], footer: str = "") -> str:
    """The same tables to paste into a page."""
    parts = []
    for table in tables:
        lines = [table.head, ["---"] * len(table.head), *table.lines] if table.lines else []
        rows = ["| " + " | ".join(map(_escaped, line)) + " |" for line in lines]
        notes = [f"- {_escaped(note)}" for note in table.notes]
        parts.append("\n".join([f"## {_escaped(table.title)}", "", *rows, "", *notes]))
    parts += [_escaped(footer)] if footer else []
    return "\n\n".join(part.strip() for part in parts) + "\n"


def comma_separated(rows: Sequence[dict[str, Any]]) -> str:
    """One line per row; the first row names the columns. An undefined number is an empty field."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: _field(v) for k, v in row.items()} for row in defined(list(rows)))
    return out.getvalue()


def javascript(value: Any) -> str:
    """JSON; an undefined number is null, and what would turn a line is written as its number."""
    text = json.dumps(defined(value), ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + "\n"


def numbers(prefix: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate as three fields of a flat row."""
    names = [f"{prefix}value", f"{prefix}low", f"{prefix}high"]
    return dict(zip(names, estimate[:3] if estimate else [None] * 3, strict=True))


def _field(value: Any) -> Any:
    """A text as a spreadsheet shows it: none of them may begin a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _escaped(text: str) -> str:
    text = " ".join(plain(text).split())
    for sign in "\\|`*_":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("](", "]\\(").replace("<", "&lt;").replace(">", "&gt;")
