"""What an arm is worth in subgroups of the patients: each value, the worst one, and the gap."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmark import stats
from benchmark.errors import Damaged, units
from benchmark.metadata.subgroups import DRAWS, FEWEST, OTHER
from benchmark.spec import Outcome
from benchmark.stats import Array, Comparison, Estimate
from benchmark.store import UNREADABLE, Store
from reports import render
from reports.leaderboard.arms import Run
from reports.leaderboard.board import higher_is_better
from reports.render import Column, Table

GAP = "best − worst"
NONE = (
    "No cells of both were judged by a column: `bench run --subgroup COLUMN` with their other "
    "options does, without training."
)


@dataclass(frozen=True)
class Part:
    """The patients with one value; no number where some fold tested too few of them."""

    value: str
    patients: int  # or lesions, slides: what the set's groups are, over all folds
    estimate: Estimate | None
    draws: Array | None
    lost: bool = False  # there were numbers, whose draws are not here

    @property
    def why(self) -> str:
        """What keeps it from a number."""
        if self.lost:
            return "the draws of its interval are not here"
        return "" if self.estimate else f"{self.patients} in all, in some fold fewer than {FEWEST}"


@dataclass(frozen=True)
class Subgroups:
    """An arm by one column: intervals of the worst and the gap hold for all values at once."""

    column: str
    higher: bool  # is better
    parts: tuple[Part, ...]
    not_given: int  # patients without a value
    worst: tuple[str, Estimate] | None  # the value; None with fewer than two numbers
    gap: Estimate | None  # best minus worst, never negative; n: the values looked at

    @property
    def numbered(self) -> list[Part]:
        """The values that have a number."""
        return [part for part in self.parts if part.estimate]


def of(store: Store, runs: Sequence[Run]) -> tuple[Subgroups, ...]:
    """The finished runs of an arm by every column that all of them were judged by."""
    fine = [run.outcome for run in runs if run.outcome.status == "ok"]
    columns = [
        name
        for name in (fine[0].subgroup_sizes if fine else ())
        if all(name in outcome.subgroup_sizes for outcome in fine)
    ]
    if not columns:
        return ()
    # Those of a board were read in brief, without these numbers.
    whole = store.outcomes("run", [outcome.key for outcome in fine])
    drawn = [_draws(store, outcome) for outcome in whole]
    return tuple(_by_column(column, whole, drawn) for column in columns)


def _draws(store: Store, outcome: Outcome) -> dict[tuple[str, str], Array]:
    """The headline's draws by column and value; none where the file is gone or damaged."""
    names = [(c, value) for c in outcome.subgroup_sizes for value in outcome.subgroups.get(c, ())]
    try:
        found = np.load(store.kept(outcome, DRAWS), allow_pickle=False) if names else []
    except (*UNREADABLE, Damaged) as error:
        if DRAWS in outcome.files:  # else it came without, from a bundle
            warnings.warn(f"{error} Its subgroups have no numbers.", stacklevel=2)
        return {}
    return dict(zip(names, found, strict=True)) if len(found) == len(names) else {}


def _by_column(
    column: str, outcomes: Sequence[Outcome], drawn: Sequence[dict[tuple[str, str], Array]]
) -> Subgroups:
    sizes = [outcome.subgroup_sizes[column] for outcome in outcomes]
    seeds = [getattr(outcome.spec, "seed", 0) for outcome in outcomes]
    metric = getattr(outcomes[0].spec, "headline", "auroc")
    parts = []
    for value in sorted({value for part in sizes for value in part} - {""}):
        cells = [outcome.subgroups[column].get(value, {}).get(metric) for outcome in outcomes]
        numbers = [cell.value for cell in cells if cell is not None]
        draws = [part[column, value] for part in drawn if (column, value) in part]
        known = len(numbers) == len(outcomes) and not np.isnan(numbers).any()
        patients = _per_seed(seeds, [part.get(value, 0) for part in sizes])
        if not known or len(draws) < len(outcomes):
            parts.append(Part(value, patients, None, None, lost=known))
            continue
        found = _over_folds(seeds, draws)
        images = _per_seed(seeds, [cell.n for cell in cells if cell is not None])
        estimate = Estimate(float(np.mean(numbers)), *stats.interval(found), images)
        parts.append(Part(value, patients, estimate, found))
    not_given = _per_seed(seeds, [part.get("", 0) for part in sizes])
    higher = higher_is_better(metric)
    return Subgroups(column, higher, tuple(parts), not_given, *_extremes(parts, higher))


def _per_seed(seeds: Sequence[int], counts: Sequence[int]) -> int:
    """Over the folds: seeds test the same patients."""
    return sum(n for seed, n in zip(seeds, counts, strict=True) if seed == seeds[0])


def _over_folds(seeds: Sequence[int], draws: Sequence[Array]) -> Array:
    """The mean over the folds of a seed, the seeds' end to end, so that it holds what they vary."""
    each = [
        np.mean([one for s, one in zip(seeds, draws, strict=True) if s == seed], axis=0)
        for seed in dict.fromkeys(seeds)
    ]
    return np.concatenate(each).astype(float)


def _extremes(
    parts: Sequence[Part], higher: bool
) -> tuple[tuple[str, Estimate] | None, Estimate | None]:
    known = [(p.value, p.estimate, p.draws) for p in parts if p.estimate and p.draws is not None]
    if len(known) < 2:
        return None, None
    sign = 1 if higher else -1
    values, draws = [sign * e.value for _, e, _ in known], [sign * drawn for *_, drawn in known]
    found = stats.extremes(values, draws)
    name, estimate, _ = known[found.lowest]
    low, high = sorted(sign * bound for bound in found.bounds)
    gap = Estimate(found.spread, *found.spread_bounds, len(known))
    return (name, Estimate(estimate.value, low, high, estimate.n)), gap


def plain(found: Sequence[Subgroups]) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "column": one.column,
            "values": [
                {
                    "name": part.value,
                    "groups": part.patients,
                    **_numbers(part.estimate),
                    "why": part.why,
                }
                for part in one.parts
            ],
            "not_given": one.not_given,
            "worst": {"name": one.worst[0], **_numbers(one.worst[1])} if one.worst else None,
            "gap": one.gap,
        }
        for one in found
    ]


def _numbers(estimate: Estimate | None) -> dict[str, Any]:
    return (estimate or Estimate(np.nan, np.nan, np.nan, 0))._asdict()


@dataclass(frozen=True)
class Change:
    """How two arms differ on the patients with one value, or in the gap between the values."""

    column: str
    value: str
    patients: int
    first: Estimate | None
    second: Estimate | None
    compared: Comparison | None  # None where one has no number
    holm: float = math.nan  # p adjusted for all values of all columns


def changes(first: Sequence[Subgroups], second: Sequence[Subgroups]) -> tuple[Change, ...]:
    """First minus second for each value and for each gap; the two tested the same patients."""
    others = {one.column: one for one in second}
    found = [
        change
        for one in first
        if one.column in others
        for change in _changes(one, others[one.column])
    ]
    values = [math.nan if c.compared is None or c.value == GAP else c.compared.p for c in found]
    adjusted = stats.holm(values).tolist()
    return tuple(replace(one, holm=p) for one, p in zip(found, adjusted, strict=True))


def _changes(one: Subgroups, other: Subgroups) -> Iterator[Change]:
    theirs = {part.value: part for part in other.parts}
    both: list[tuple[Array, Array]] = []
    for mine in one.parts:
        part, compared = theirs.get(mine.value), None
        second = part.estimate if part else None
        if part and mine.draws is not None and part.draws is not None and mine.estimate and second:
            both.append((mine.draws, part.draws))
            values = mine.estimate.value, second.value
            compared = stats.paired_bootstrap(*both[-1], *values, n=mine.estimate.n)
        yield Change(one.column, mine.value, mine.patients, mine.estimate, second, compared)
    if one.gap and other.gap and one.gap.n == other.gap.n == len(both):
        drawn = np.subtract(*(np.ptp(side, axis=0) for side in zip(*both, strict=True)))
        # The gap of a draw is too wide, of either arm: what is left of that is taken off.
        change = one.gap.value - other.gap.value
        drawn += change - np.nanmean(drawn)
        compared = stats.paired_bootstrap(drawn, np.zeros_like(drawn), change, 0.0, n=len(both))
        yield Change(one.column, GAP, sum(p.patients for p in one.numbered),
                     one.gap, other.gap, compared)  # fmt: skip


def table(found: Sequence[Change], names: tuple[str, str], metric: str, unit: str) -> Table:
    """The differences by value, for `bench compare --subgroups`."""
    known = [one for one in found if one.compared and one.value != GAP]
    note = (
        f"{len(known)} differences were looked at: p (Holm) is adjusted for them. Values of fewer "
        f"than {FEWEST} {units(unit)} are pooled as {OTHER}; a fold that tests fewer gives none. "
        f"Intervals are of these networks on other {units(unit)}, without the noise of training."
    )
    columns = (
        Column("column", "column", words=True),
        Column("value", "value", words=True),
        Column(units(unit), "patients", ","),
        Column(names[0], "first", lambda one: render.said(one.value, ".3f")),
        Column(names[1], "second", lambda one: render.said(one.value, ".3f")),
        Column("difference", "compared.difference", "+.3f"),
        Column("p", "compared.p", "p"),
        Column("p (Holm)", lambda one: None if math.isnan(one.holm) else one.holm, "p"),
    )
    return Table(f"{metric} by subgroup", columns, found, notes=[note] if found else [NONE])
