"""Writes what a reader command found: as a table for the terminal, as md, csv or json."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from benchmark.errors import BenchError, did_you_mean, plain
from benchmark.stats import Estimate, defined

FORMATS = ("table", "md", "csv", "json")
UNCUT = 10_000  # columns of a pipe that names no width
WORD, GAP = 16, 2  # longer words are folded where room is short; between columns


@dataclass(frozen=True)
class Column:
    """What a table tells of each row: people under a heading, programs in a field."""

    heading: str | None  # None: a field only
    value: str | Callable[[Any], Any]  # the way to it from the row, "ours.low", or what finds it
    format: str | Callable[[Any], str] = ""  # as `said` takes it
    field: str = ""  # empty: for people only; a * stands for value, low and high of an estimate
    words: bool = False
    spare: bool = False  # not shown where no row has anything to say

    def of(self, row: Any) -> Any:
        """What it holds of a row; None where there is nothing on the way."""
        if not isinstance(self.value, str):
            return self.value(row)
        for name in self.value.split("."):
            if row is not None:
                row = row.get(name) if isinstance(row, Mapping) else getattr(row, name)
        return row

    def fields(self, row: Any) -> dict[str, Any]:
        """The same for csv and json; an estimate as three fields."""
        if "*" not in self.field:
            return {self.field: self.of(row)}
        return numbers(self.of(row), self.field)


def told(field: str, value: str | Callable[[Any], Any] = "") -> Column:
    """A column that programs read and people do not."""
    return Column(None, value or field, field=field)


@dataclass(frozen=True)
class Table:
    """Rows under columns, with what is to be said below."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Any]
    style: Callable[[Any], str] = lambda row: ""  # for a terminal: "bold", "dim" or ""
    notes: Sequence[str] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  # fields that all rows share

    @cached_property
    def shown(self) -> list[Column]:
        """The columns for people."""
        shown = [column for column in self.columns if column.heading is not None]
        return [c for c in shown if not c.spare or any(c.of(row) for row in self.rows)]

    @cached_property
    def lines(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[said(column.of(row), column.format) for column in self.shown] for row in self.rows]

    def fields(self) -> list[dict[str, Any]]:
        """The rows as programs read them; none if the table is for people only."""
        columns = [column for column in self.columns if column.field]
        return [
            {**self.facts, **{k: v for column in columns for k, v in column.fields(row).items()}}
            for row in (self.rows if columns else ())
        ]


def write(
    format: str,
    tables: Iterable[Table],
    footer: str = "",
    *,
    fields: Iterable[dict[str, Any]] | None = None,
    json: Callable[[Sequence[dict[str, Any]]], Any] | None = None,
) -> str:
    """The tables in this format; `fields` are what programs read, if not the rows of the tables.

    `json` says what it holds, given the fields of all rows; else it holds them.
    """
    if format in ("csv", "json"):
        rows = [row for table in tables for row in table.fields()] if fields is None else [*fields]
        if format == "csv":
            return comma_separated(rows)
        return javascript(json(rows) if json else rows)
    return (terminal if format == "table" else markdown)(list(tables), footer)


def check(format: str) -> None:
    """Refuse a format that nobody writes, before anything is read."""
    if format not in FORMATS:
        raise BenchError(f"No format named '{format}'.", did_you_mean(format, list(FORMATS)))


def said(value: Any, format: str | Callable[[Any], str] = "") -> str:
    """A value in words; a dash where there is nothing.

    `format` is as Python's, of an estimate for each number, or a function; "p" is a probability's.
    """
    if value is None:
        return "–"
    if callable(format):
        return format(value)
    if format == "p":
        return "–" if math.isnan(value) else p_value(value)
    if isinstance(value, Estimate):
        text = said(value.value, format)
        if math.isnan(value.value) or math.isnan(value.low):
            return text
        return f"{text} [{value.low:{format}}, {value.high:{format}}]"
    return "–" if isinstance(value, float) and math.isnan(value) else f"{value:{format}}"


def interval(estimate: Estimate | None, *, sign: bool = False) -> str:
    """`0.873 [0.861, 0.884]`, with signs for a difference; a dash where there is nothing."""
    return said(estimate, "+.3f" if sign else ".3f")


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
    """Tables for people; as wide as the terminal, uncut into a pipe that names no width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    out = io.StringIO()
    live = sys.stdout.isatty()
    width = None if live or os.environ.get("COLUMNS", "").isdigit() else UNCUT
    console = Console(file=out, force_terminal=live, width=width)
    for table in tables:
        console.print(Text(plain(table.title), style="bold"))
        grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        lines = [[plain(text) for text in line] for line in table.lines]
        widths = _widths(table.shown, lines, console.width)
        for column, room in zip(table.shown, widths, strict=False):
            side = "left" if column.words else "right"
            grid.add_column(Text(plain(column.heading or "")), justify=side, width=room,
                            overflow="fold")  # fmt: skip
        for row, line in zip(table.rows, lines, strict=True):
            grid.add_row(*map(Text, line[: len(widths)]), style=table.style(row))
        if table.rows:
            console.print(grid, Text(""))
        left = [column.heading or "" for column in table.shown[len(widths) :]]
        note = f"Too narrow for {', '.join(left)}: --format md has every column."
        for text in (*([note] if left and table.rows else ()), *table.notes):
            console.print(Text(plain(text), style="dim"))
        console.print()
    if footer:
        console.print(Text(plain(footer)))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _widths(columns: Sequence[Column], lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """The widths of as many columns as fit, the last left out first: numbers stay whole."""
    from rich.cells import cell_len

    full, least = [], []
    for column, texts in zip(columns, zip(*lines, strict=True), strict=False):
        heading = plain(column.heading or "")
        longest = max(map(cell_len, texts))
        full.append(max(longest, cell_len(heading)))
        words = [text for said in texts for text in said.split()] if column.words else []
        whole = max(map(cell_len, [*heading.split(), *words]), default=0)
        least.append(min(whole, WORD) if column.words else max(whole, longest))
    while len(least) > 2 and sum(least) + GAP * (len(least) - 1) > room:
        least.pop()
    widths = full[: len(least)]
    while sum(widths) + GAP * (len(widths) - 1) > room and widths != least:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[widest] -= 1
    return widths


def markdown(tables: Sequence[Table], footer: str = "") -> str:
    """The same tables to paste into a page."""
    parts = []
    for table in tables:
        head = [column.heading or "" for column in table.shown]
        lines = [head, ["---"] * len(head), *table.lines] if table.lines else []
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
    strange = {ord(c): f"\\u{ord(c):04x}" for c in set(text) if not c.isprintable()}
    return (text.translate(strange) if strange else text) + "\n"


def numbers(estimate: Estimate | None, field: str = "*") -> dict[str, float | None]:
    """An estimate as three fields of a flat row."""
    names = [field.replace("*", part) for part in ("value", "low", "high")]
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
