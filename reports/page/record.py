"""What a page says of the record: subgroups of the patients, and tests that lack some records."""

from collections.abc import Sequence
from typing import NamedTuple

from benchmark.store import Store
from reports import plots
from reports.leaderboard import missing, subgroups
from reports.leaderboard.board import Board, Row


class Told(NamedTuple):
    """Of a board: its best rows by subgroup, and how scores fall with the records missing."""

    subgroups: list[tuple[str, tuple[subgroups.Subgroups, ...]]]
    missing: plots.Chart | None


def of(store: Store, made: Board, rows: Sequence[Row]) -> Told:
    """The subgroups of these rows, and the curves of every arm that was tested with less."""
    named = [(made.label(row), subgroups.of(store, row.runs)) for row in rows]
    return Told([one for one in named if one[1]], missing.chart(made))
