"""What a reader was asked for, as results call it; an error in words where there is none."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.errors import BenchError, did_you_mean
from benchmark.index import Summary
from benchmark.spec import spelled
from reports import own

WHOLE = "100%"  # how a reader calls the whole training part, which a spec leaves empty


def called(name: str, asked: Sequence[Any], known: set[Any]) -> list[Any]:
    """Those of the known values that were asked for."""
    found = []
    for value in asked:
        fits = [item for item in known if item == value or own.is_called(str(item), str(value))]
        if not fits:
            names = sorted(map(str, known))
            raise BenchError(
                f"The store has no results of {name} '{value}'.", did_you_mean(str(value), names)
            )
        found += fits
    return found


def sizes(asked: Sequence[str], rows: Iterable[Summary]) -> list[str]:
    """The sizes of the training part that were asked for, as specs spell them."""
    known = {row.spec.train_size or WHOLE for row in rows}
    found = called("train_size", [_spelled(size) or WHOLE for size in asked], known)
    return ["" if size == WHOLE else size for size in found]


def _spelled(size: str) -> str:
    try:
        return spelled(size)
    except ValueError as error:
        what = f"'{size}' is no size of the training part."
        raise BenchError(what, "Write 100, 5% or 10/class.") from error
