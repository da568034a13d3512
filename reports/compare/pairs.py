"""The numbers of a comparison: differences, paired where both were tested on the same patients."""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from benchmark import stats
from benchmark.errors import BenchError, units
from benchmark.index import Asked
from benchmark.spec import RunSpec, origin
from benchmark.stats import Array, Comparison, Estimate
from benchmark.stats.delong import normal_p
from benchmark.store import Store
from reports import own
from reports.compare import partners, verdict
from reports.compare.verdict import Pair, Verdict
from reports.leaderboard import asked
from reports.leaderboard import subgroups as by_value
from reports.leaderboard.arms import Arm, Place, Run, gather, place_of
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.by_class import ClassPair, class_pairs, recalls_apart
from reports.leaderboard.noise import GONE, Cells, Noise, cells_of, estimate
from reports.leaderboard.rows import pool, unit_of
from reports.leaderboard.table import cells, read


def compare(
    store: Store,
    first: str,
    second: str,
    *,
    by: str = "",
    targets: Sequence[str] = (),
    sources: Sequence[str] = (),
    fusions: Sequence[str] = (),
    protocols: Sequence[str] = (),
    train_sizes: Sequence[str] = (),
    margin: float | None = None,
    subgroups: bool = False,
) -> Verdict:
    """First minus second, target by target; `by` says what the names are if that is not plain.

    `margin` also asks whether the first is not worse by more than that.
    """
    rows = cells(store)
    kind = partners.kind_of(first, second, by, rows)
    wanted: dict[str, Sequence[str]] = {
        "target": targets, "source": sources, "fusion": fusions, "protocol": protocols,
        "train_size": asked.sizes(train_sizes, rows),
    }  # fmt: skip
    wanted.pop(kind, None)

    def keeps(spec: RunSpec | Asked, *names: str) -> bool:
        return all(
            not wanted.get(name) or any(own.is_called(getattr(spec, name), n) for n in wanted[name])
            for name in names
        )

    def shows(arm: Arm) -> bool:
        usual = not arm.stale and not arm.identity.missing
        return usual and keeps(arm.runs[0].spec, "source", "fusion")

    # Boards whole: what is usual on them, and their noise, come of rows that are not compared too.
    places: dict[Place, list[Run]] = defaultdict(list)
    keys = [
        row.key
        for row in rows
        if keeps(row.spec, "target", "protocol", "train_size") and not row.spec.tested_on
    ]
    for run in read(store, keys):
        places[place_of(run)].append(run)
    arms = {place: gather(store, part)[1] for place, part in places.items()}
    shown = {place: [arm for arm in part if shows(arm)] for place, part in arms.items()}

    @cache
    def noise_of(place: Place) -> Noise:
        return estimate([cells_of(store, arm, arm.runs) for arm in arms[place]])

    pairs = [
        _pair(store, kind, (first, second), a, b, noise_of, margin, subgroups)
        for a, b in partners.partners(kind, (first, second), shown)
    ]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        option = partners.KINDS[kind]
        raise BenchError(
            f"The store has no cells in which nothing but {first} and {second} differs.",
            f"Run both on one target: `bench run --target … {option} {first} {option} {second}`.",
        )
    found.sort(key=lambda pair: (pair.target, pair.shared))
    adjusted = stats.holm([pair.compared.p for pair in found])
    found = [replace(pair, holm=float(p)) for pair, p in zip(found, adjusted, strict=True)]
    alike = len({pair.names for pair in found}) == 1
    names = found[0].names if alike else (first, second)
    p = _over_targets(found)
    said = verdict.conclusion(found, names, p, margin)
    return Verdict(kind, names, tuple(found), p, said, margin)


def _pair(
    store: Store,
    kind: str,
    names: tuple[str, str],
    a: Arm,
    b: Arm,
    noise_of: Callable[[Place], Noise],
    margin: float | None,
    subgroups: bool,
) -> Pair | None:
    # Protocols that cut alike test the same patients.
    alike = partners.patients(a.identity) == partners.patients(b.identity)
    first, second = (cells_of(store, arm, arm.runs) for arm in (a, b))
    if alike:
        shared = set(first.places) & set(second.places)
        first, second = first.among(shared), second.among(shared)
    if not first.runs or not second.runs:
        return None
    sides = first.runs, second.runs
    same = a.identity.headline == b.identity.headline
    metric = a.identity.headline if same else "auroc"
    if kind == "source":
        names = origin(names[0], a.identity.mode), origin(names[1], b.identity.mode)
    unit = unit_of([*a.runs, *b.runs])
    notes = list(verdict.notes(a, b, len(sides[0]), kind, names))
    drawn = [
        noise_of(place_of(part.runs[0])).draws(part) if same else None for part in (first, second)
    ]
    values = [
        _mean(side, metric) if draws is None else _within(_mean(side, metric), draws)
        for side, draws in zip(sides, drawn, strict=True)
    ]
    why = [text for part, name in zip((first, second), names, strict=True)
           if (text := _unpaired(part, name))]  # fmt: skip
    x, y = drawn
    if x is not None and y is not None and len(x) != len(y):
        why.append(f"{len(x)} bootstrap draws of {names[0]} and {len(y)} of {names[1]}")
    classes: tuple[ClassPair, ...] = ()
    sign = 1 if higher_is_better(metric) else -1
    both = (x, y) if alike and x is not None and y is not None and len(x) == len(y) else None
    if both is not None:
        compared = stats.paired_bootstrap(*both, *(v.value for v in values), n=values[0].n)
        not_worse = _not_worse(both, margin, sign)
        classes = tuple(class_pairs(store, *sides))
    else:
        compared = stats.unpaired(*values)
        not_worse = _not_worse(compared, margin, sign)
        because = f" ({'; '.join(why)})" if why else ""
        notes.append(
            f"The two are not paired{because}: their intervals are combined as if of different "
            f"{units(unit)}"
        )
    return Pair(
        kind=kind,
        target=a.runs[0].spec.target,
        shared=verdict.shared(kind, a, b),
        metric=metric,
        names=names,
        first=values[0],
        second=values[1],
        compared=compared,
        holm=compared.p,
        cells=min(len(side) for side in sides),
        unit=unit,
        groups=sum(int(run.outcome.data.get("test_groups", 0)) for run in _one_seed(sides[0])),
        paired=both is not None,
        notes=tuple(notes),
        classes=classes,
        wilcoxon=stats.wilcoxon(recalls_apart(*sides)) if alike else math.nan,
        not_worse=not_worse,
        subgroups=by_value.changes(*(by_value.of(store, side) for side in sides))
        if subgroups and alike
        else (),
    )


def _one_seed(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.spec.seed == runs[0].spec.seed]


def _mean(runs: Sequence[Run], metric: str) -> Estimate:
    tables = [{metric: run.outcome.metrics[metric]} for run in runs]
    return pool([run.spec.seed for run in runs], tables)[metric]


def _unpaired(cells: Cells, name: str) -> str:
    """Why an arm's draws pair with nothing; empty where they may."""
    if cells.why == GONE:
        warnings.warn(
            f"Predictions are gone or damaged of {name}, so it is not paired: see `bench store "
            "verify`.",
            stacklevel=2,
        )
        return f"predictions are gone or damaged of {name}"
    return cells.why and f"{name}: {cells.why}"


def _not_worse(found: tuple[Array, Array] | Comparison, margin: float | None, sign: int) -> float:
    """The p of the first being worse by the margin or more; `sign` is −1 where less is better."""
    if margin is None:
        return math.nan
    if isinstance(found, Comparison):
        value, low, high, _ = found.difference
        return normal_p(sign * value + margin, (high - low) / (2 * stats.Z), one_sided=True)
    first, second = found[::sign]
    return stats.not_worse(first, second, margin)


def _within(estimate: Estimate, draws: Array) -> Estimate:
    return Estimate(estimate.value, *stats.interval(draws), estimate.n)


def _over_targets(pairs: Sequence[Pair]) -> float:
    """Wilcoxon's p over targets, each by the mean of its pairs."""
    targets: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        targets[pair.target].append(pair.compared.difference.value)
    if len(targets) < 2:
        return math.nan
    return stats.wilcoxon([float(np.mean(part)) for part in targets.values()])
