"""Rows of a board: the cells of an arm pooled, with the draws that tell it from others."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from benchmark import metrics, stats
from benchmark.stats import Array, Comparison, Estimate
from reports.leaderboard.arms import Arm, Identity, Run
from reports.leaderboard.noise import Cells, Noise

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Row:
    """One arm of a board, as a reader sees it."""

    identity: Identity
    setting: tuple[str, ...]  # how it differs from the board's usual recipe and options
    rank: int | None  # 1 and the rows that beat it
    highest: int | None  # the rank it would have, were every undecided row before it
    why: tuple[str, ...]  # it has no rank
    done: int  # cells
    expected: int
    headline: Estimate | None  # of the cells there are, also where some are missing
    gains: dict[str, Comparison]  # over "scratch", RANDOM or "self", "imagenet", from "fusion",
    # and over the "whole" record where some of it is missing
    metrics: dict[str, Estimate]
    classes: tuple[str, ...]
    per_class: tuple[dict[str, Estimate], ...]
    over_folds: dict[str, float]  # standard deviations (ddof 1) of a metric; of seeds' means
    over_classes: dict[str, float]  # the mean over cells of what classes differ by
    seconds: float  # of all its cells, their training and their tests
    extraction: float  # seconds for its networks' features, which other rows may have spent
    classifier: float  # seconds that its cells trained, on features or whole
    device: str  # "GPU", "CPU" or "mixed"
    joules: float | None
    runs: tuple[Run, ...] = field(repr=False)  # by seed and fold, failed ones too
    draws: Array | None = field(repr=False, compare=False)  # (draws,), paired by row
    undrawn: str = ""  # why it has no draws
    drop: Comparison | None = None  # from the target's own test to that on a second set

    @property
    def multilabel(self) -> bool:
        """Whether its classes are a yes or no each."""
        return any(run.outcome.multilabel for run in self.runs)

    @property
    def leaky(self) -> bool:
        """Whether its source has seen test images."""
        return any(text.startswith("LEAKY") for text in self.why)

    @property
    def ranks(self) -> str | None:
        """`1–3`: the ranks that it may have."""
        if self.rank is None:
            return None
        return str(self.rank) if self.rank == self.highest else f"{self.rank}–{self.highest}"

    @property
    def name(self) -> str:
        """What a sentence calls it: `dtd + concat, epochs 3`."""
        who = self.identity
        parts = [who.origin] if who.arch != "none" else []
        parts += [who.fusion] if who.fusion != "none" else []
        return ", ".join((" + ".join(parts), *self.setting))

    @property
    def network(self) -> str:
        """`resnet50 finetune`; an arm on the record alone has none."""
        who = self.identity
        return f"{who.arch} {who.mode}" if who.arch != "none" else "–"


def unit_of(runs: Iterable[Run]) -> str:
    """What of the runs' target is never parted, in its card's word; empty: each image alone."""
    known = (run.outcome.data.get("unit") for run in runs)
    return next((str(unit) for unit in known if unit is not None), "group")


def expected_runs(arm: Arm, seeds: tuple[int, ...]) -> tuple[list[Run], int]:
    """The runs of the board's seeds, or of its own if it is barred; how many there should be."""
    if arm.barred:
        seeds = tuple(sorted(arm.seeds))
    runs = sorted(
        (run for run in arm.runs if run.spec.seed in seeds),
        key=lambda run: (run.spec.seed, run.spec.fold),
    )
    return runs, arm.identity.split.folds * len(seeds)


def row_of(cells: Cells, runs: Sequence[Run], expected: int, noise: Noise) -> Row:
    """An arm measured on its finished cells."""
    arm, fine = cells.arm, cells.runs
    why = arm.barred if len(fine) == expected else (*arm.barred, _lacks(runs, expected))
    pooled, per_class = _tables(fine)
    draws = noise.draws(cells)
    headline = pooled.get(arm.identity.headline)
    if headline is not None and draws is not None:
        low, high = stats.interval(draws)
        if metrics.NAMES[arm.identity.headline].higher_is_better:
            high = min(high, 1.0)  # noise knows no bounds, and no metric is above one
        headline = Estimate(headline.value, low, high, headline.n)
        pooled[arm.identity.headline] = headline
    classes = next((run.outcome.classes for run in fine), ())
    joules = [run.outcome.joules for run in fine]
    devices = {run.outcome.environment.get("device", "")[:4] for run in fine}
    return Row(
        identity=arm.identity,
        setting=arm.setting,
        rank=None,
        highest=None,
        why=why,
        done=len(fine),
        expected=expected,
        headline=headline,
        gains={},
        metrics=pooled,
        classes=classes,
        per_class=tuple(per_class),
        over_folds=_over_folds(fine),
        over_classes=_over_classes(fine),
        extraction=0.0,
        classifier=sum(run.outcome.seconds.get("train", 0.0) for run in fine),
        seconds=sum(run.outcome.seconds.get("total", 0.0) for run in runs),
        device="GPU" if devices == {"cuda"} else "mixed" if "cuda" in devices else "CPU",
        joules=sum(filter(None, joules)) if joules and None not in joules else None,
        runs=tuple(runs),
        draws=draws,
        undrawn=cells.why,
    )


def _lacks(runs: Sequence[Run], expected: int) -> str:
    """`3/5 cells: 1 failed (oom), 1 not run`."""
    done = sum(run.outcome.status == "ok" for run in runs)
    causes = Counter(
        f"failed ({run.outcome.failure.kind})" if run.outcome.failure else
        f"skipped ({run.outcome.reason})"
        for run in runs if run.outcome.status != "ok"
    )  # fmt: skip
    causes["not run"] = expected - len(runs)
    texts = [f"{count} {cause}" for cause, count in causes.items() if count > 0]
    return f"{done}/{expected} cells: {', '.join(texts)}"


def pool(seeds: Sequence[int], tables: Sequence[Mapping[Key, Estimate]]) -> dict[Key, Estimate]:
    """The mean of each metric over cells, its interval from the cells' own intervals.

    Folds test other patients, so squared half-widths add up (Zou and Donner's MOVER). Seeds test
    the same patients again, so their intervals are averaged: more seeds make it no narrower.
    """
    if not tables:
        return {}
    names = [name for name in tables[0] if all(name in table for table in tables)]
    cells = np.array([[table[name] for name in names] for table in tables], dtype=float)
    value, low, high, n = np.moveaxis(cells.reshape(len(tables), len(names), 4), 2, 0)
    order = np.asarray(seeds)
    parts = [order == seed for seed in sorted(set(seeds))]
    down, up = (
        np.mean([np.sqrt((reach[part] ** 2).sum(0)) / part.sum() for part in parts], axis=0)
        for reach in (value - low, high - value)
    )
    mean, count = value.mean(0), n.sum(0) / len(parts)
    table = np.stack([mean, mean - down, mean + up], axis=1).tolist()
    return {
        name: Estimate(v, lo, hi, int(k))
        for name, (v, lo, hi), k in zip(names, table, count.tolist(), strict=True)
    }


def _tables(runs: Sequence[Run]) -> tuple[dict[str, Estimate], list[dict[str, Estimate]]]:
    """The overall metrics and those of each class, over all cells at once: numpy calls are dear."""
    cells = []
    for run in runs:
        each = enumerate(run.outcome.per_class)
        table = {(-1, name): value for name, value in run.outcome.metrics.items()}
        cells.append(table | {(k, name): v for k, part in each for name, v in part.items()})
    # On a second set folds test the same patients, as seeds do.
    found = pool([i if run.spec.tested_on else run.spec.seed for i, run in enumerate(runs)], cells)
    tables: list[dict[str, Estimate]] = [
        {} for _ in range(max((k for k, _ in found), default=-1) + 2)
    ]
    for (k, name), value in found.items():
        tables[k + 1][name] = value
    return tables[0], tables[1:]


def _over_folds(runs: Sequence[Run]) -> dict[str, float]:
    """How the means over seeds differ from fold to fold; no number where one is missing."""
    folds: dict[int, list[Mapping[str, Estimate]]] = {}
    for run in runs:
        folds.setdefault(run.spec.fold, []).append(run.outcome.metrics)
    means: dict[str, list[float]] = {}
    for name in runs[0].outcome.metrics if len(folds) > 1 else ():
        values = [[table[name].value for table in part if name in table] for part in folds.values()]
        means[name] = [sum(part) / len(part) if part else np.nan for part in values]
    if not means:
        return {}
    spread = np.std(list(means.values()), axis=1, ddof=1).tolist()
    return dict(zip(means, spread, strict=True))


def _over_classes(runs: Sequence[Run]) -> dict[str, float]:
    tables = [run.outcome.over_classes for run in runs]
    names = [name for name in tables[0] if all(name in table for table in tables)] if tables else []
    return {name: float(np.mean([table[name] for table in tables])) for name in names}


def with_extraction(rows: Sequence[Row]) -> list[Row]:
    """Features are made by the first cell that needs them: every row of a network is told of it."""

    def network(run: Run) -> tuple:
        spec, recipe = run.spec, run.spec.recipe
        made = spec.base if spec.mode == "tuned" else spec.weights or spec.seed
        return spec.arch, made, spec.mode, recipe.size, recipe.crop, recipe.test_augment

    took: dict[tuple, float] = {}
    for run in (run for row in rows for run in row.runs):
        spent = run.outcome.seconds.get("features", 0.0)
        took[network(run)] = max(took.get(network(run), 0.0), spent)
    return [
        replace(row, extraction=sum(took[place] for place in {network(r) for r in row.runs}))
        for row in rows
    ]


def length(row: Row) -> int:
    """How many draws it has."""
    return 0 if row.draws is None else len(row.draws)


def paired(row: Row) -> tuple:
    """Draws belong together if they are as many and of the same cells."""
    return length(row), [(run.spec.seed, run.spec.fold) for run in row.runs]
