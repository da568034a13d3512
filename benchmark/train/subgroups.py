"""What a run's test predictions are worth in subgroups of the patients."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmark import metrics
from benchmark.api import Source
from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.files import replacing
from benchmark.metadata.subgroups import DRAWS, FEWEST, by_value
from benchmark.spec import Cell
from benchmark.stats import Estimate
from benchmark.store import Store

#: The metrics that an outcome tells of a subgroup, beside the headline.
TOLD = ("auroc", "mcr", "accuracy")


class Subgroups(NamedTuple):
    """By column and value: the numbers, the groups tested, and the headline's draws."""

    numbers: dict[str, dict[str, dict[str, Estimate]]]
    sizes: dict[str, dict[str, int]]
    draws: np.ndarray  # float32 (values with numbers, draws)


class Tested(NamedTuple):
    """Test rows of a set with their predictions."""

    rows: np.ndarray
    scores: np.ndarray
    seed: int  # of the bootstrap


def measure(
    prepared: prepare.Prepared,
    tested: Tested,
    columns: dict[str, np.ndarray],
    headline: str,
    draws: int,
) -> Subgroups:
    """The test rows judged for each value of some columns, which are given for the whole set."""
    rows, groups = tested.rows, split.linked_groups(prepared)[tested.rows]
    values = {name: cells[rows] for name, cells in columns.items()}
    found = metrics.subgroups(
        prepared.labels[rows], tested.scores, groups, values,
        draws=draws, seed=tested.seed, minimum=FEWEST, ordinal=headline == metrics.KAPPA,
    )  # fmt: skip
    told = dict.fromkeys((headline, *TOLD))
    kept = [one.draws[headline] for part in found.values() for one in part.values()]
    return Subgroups(
        {
            name: {value: {m: one.overall[m] for m in told} for value, one in part.items()}
            for name, part in found.items()
        },
        {
            name: {
                value: len(np.unique(groups[cells == value])) for value in np.unique(cells).tolist()
            }
            for name, cells in values.items()
        },
        np.array(kept, dtype=np.float32).reshape(len(kept), draws),
    )


def of_card(prepared: prepare.Prepared, target: Source) -> tuple[dict[str, np.ndarray], list[str]]:
    """The columns that the target's card names, as far as they can serve, and why others cannot."""
    columns, doubts = dict[str, np.ndarray](), list[str]()
    for name in getattr(target.card, "subgroups", ()):
        if name in prepared.metadata:
            try:
                columns |= columns_of(prepared, target, [name])
            except BenchError as error:
                doubts.append(error.what)
    return columns, doubts


def columns_of(
    prepared: prepare.Prepared, target: Source, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Each image's subgroup by each column; refuses one that would tell of single patients."""
    prepared.need(names)
    groups, missing = split.linked_groups(prepared), getattr(target.card, "missing", ())
    return {name: by_value(name, prepared.metadata[name], groups, missing) for name in names}


def keep(store: Store, cell: Cell, draws: np.ndarray) -> None:
    """Write the draws beside the outcome, where there are any."""
    if len(draws):
        with replacing(store.of(cell) / DRAWS) as temporary, temporary.open("wb") as file:
            np.save(file, draws)
