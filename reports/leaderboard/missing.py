"""How an arm's score falls with the share of records that its test lacks."""

from collections.abc import Iterator, Sequence

from benchmark.spec import share_of
from benchmark.stats import Estimate
from reports import plots
from reports.leaderboard.arms import Identity
from reports.leaderboard.board import Board

Line = tuple[str, Sequence[float], Sequence[float | Estimate]]  # label, shares, scores


def chart(made: Board) -> plots.Chart | None:
    """A line for each arm tested without some records; the image alone is a level beside them."""
    found = list(lines(made))
    title, x_title = "Records missing in the test", f"share of {made.units} without a record"
    return plots.lines(title, found, x_title=x_title, y_title=made.headline.upper(), dots=True)


def lines(made: Board) -> Iterator[Line]:
    """The arms by rank, each followed by the image alone of its network."""
    known = {row.identity: (row, row.headline) for row in made.rows if row.headline is not None}
    told = set[Identity]()
    for who, (row, whole) in known.items():
        points: list[tuple[float, Estimate]] = [(0.0, whole)]
        for other, (_, less) in known.items():
            share = share_of(other.missing)
            if share is not None and other._replace(missing="") == who:
                points.append((share, less))
        if len(points) < 2:
            continue
        points.sort()
        yield made.label(row), [share for share, _ in points], [score for _, score in points]
        alone = who._replace(
            fusion="none", options=(), columns=(), types=(), allowed=(), record=None
        )
        if alone in known and alone not in told:
            told.add(alone)
            image, level = known[alone]
            yield f"{made.label(image)}, image alone", [0.0, points[-1][0]], [level.value] * 2
