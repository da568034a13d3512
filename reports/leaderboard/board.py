"""Boards: the arms of one target under one protocol and partition, ranked or told why not."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress
from typing import Literal

import numpy as np

from benchmark import metrics, stats
from benchmark.errors import units
from benchmark.spec import RunSpec, Split, trained_on
from benchmark.stats import Comparison, Estimate
from benchmark.store import Store
from reports import overlaps
from reports.leaderboard.arms import Arm, Identity, Run, gather, usual_columns
from reports.leaderboard.noise import Noise, cells_of, estimate
from reports.leaderboard.rows import (
    Row,
    expected_runs,
    length,
    paired,
    row_of,
    unit_of,
    with_extraction,
)

Baseline = Literal["scratch", "self", "random"]  # random: what frozen features of none give
#: Said of a board whose images name no patient.
UNKNOWN = "patients unknown, images taken as independent: intervals are too narrow if they are not"


@dataclass(frozen=True)
class Winner:
    """The first row, and by how much it reads too well for having been chosen among the others."""

    name: str
    excess: float
    corrected: Estimate
    among: int  # rows with a rank


@dataclass(frozen=True)
class Board:
    """The rows of one target, protocol, partition and size: by rank, then those without one."""

    target: str
    protocol: str
    partition: int
    train_size: str  # of the training part; empty: whole
    headline: str
    leaky: bool  # one patient may be on both sides of the split
    siblings: float  # mean share of test images with a sibling in train
    versions: dict[str, str]
    split: Split
    digest: str
    seeds: tuple[int, ...]
    baseline: Baseline
    columns: tuple[str, ...]  # of the record, where a row names no others
    noise: Noise
    rows: tuple[Row, ...]
    tested_on: str = ""  # a second set, all of which is the test

    @property
    def overlaps(self) -> list[str]:
        """Sets of this board that are known to share images."""
        sets = filter(None, (self.target, self.tested_on))
        return overlaps.among([*sets, *(row.identity.source for row in self.rows)])

    @property
    def name(self) -> str:
        """`isic`, or `isic → mysite` where another set is the test."""
        return f"{self.target} → {self.tested_on}" if self.tested_on else self.target

    @property
    def heading(self) -> str:
        """What tells it from the target's other boards."""
        return f"{self.name}, {self.under}" if self.tested_on else self.under

    @property
    def cut(self) -> str:
        """The protocol, and the partition where it is not the first."""
        return f"{self.protocol}, partition {self.partition}" if self.partition else self.protocol

    @property
    def under(self) -> str:
        """The same, and the size of the training part where it is not whole."""
        return ", ".join(filter(None, (self.cut, trained_on(self.train_size))))

    @property
    def unit(self) -> str:
        """What is resampled and never parted, in the card's word; empty: each image alone."""
        return unit_of(run for row in self.rows for run in row.runs)

    @property
    def units(self) -> str:
        """Several of them."""
        return units(self.unit)

    @cached_property
    def winner(self) -> Winner | None:
        """The best of two rows or more that have a rank."""
        fair = [row for row in self.rows if row.rank is not None]
        best = fair[0].headline if len(fair) > 1 else None
        if best is None:
            return None
        higher = higher_is_better(self.headline)
        values = [row.headline.value for row in fair if row.headline]
        draws = [row.draws for row in fair if row.draws is not None]
        excess = stats.chosen_excess(values, draws, higher)
        less = excess if higher else -excess
        value, low, high, n = best
        corrected = Estimate(value - less, low - less, high - less, n)
        return Winner(self.label(fair[0]), excess, corrected, len(fair))

    @property
    def several(self) -> bool:
        """Whether rows differ in network or mode, so that a name needs them."""
        return len({row.network for row in self.rows} - {"–"}) > 1

    def label(self, row: Row) -> str:
        """The row's name, with its network where the board has several."""
        return f"{row.name}, {row.network}" if self.several and row.network != "–" else row.name


def make(
    store: Store,
    runs: Sequence[Run],
    *,
    keep: Callable[[RunSpec], bool] = lambda spec: True,
    baseline: Baseline = "scratch",
    own: "Board | None" = None,
) -> Board | None:
    """The board of the runs of one target, protocol and partition; `keep` picks the rows to show.

    The runs that are not kept still serve as baselines of the gains. Of a second set the drop is
    from the board of the target's `own` test.
    """
    reference, arms = gather(store, runs)
    keeps = [keep(arm.runs[0].spec) for arm in arms]
    shown = list(compress(arms, keeps))
    if not shown:
        return None
    fair = [arm for arm in shown if not arm.barred] or shown
    seeds = tuple(sorted(set[int]().union(*(arm.seeds for arm in fair))))
    asked = [expected_runs(arm, seeds) for arm in arms]
    cells = [cells_of(store, arm, runs) for arm, (runs, _) in zip(arms, asked, strict=True)]
    noise = estimate(cells)
    rows = [row_of(part, *of, noise) for part, of in zip(cells, asked, strict=True)]
    rows = with_extraction(_with_gains(rows, arms, baseline))
    if own is not None:
        rows = [_with_drop(row, own) for row in rows]
    spec = shown[0].runs[0].spec
    found = [run.outcome.data.get("siblings") for arm in fair for run in arm.runs]
    rates = [float(rate) for rate in found if rate is not None]
    return Board(
        target=spec.target,
        protocol=spec.protocol,
        partition=spec.partition,
        train_size=spec.train_size,
        headline=reference.headline,
        leaky=reference.split.kind == "image" or any(rates),
        siblings=float(np.mean(rates)) if rates else 0.0,
        versions={
            "core": reference.core,
            "target": reference.target_version,
            "protocol": reference.protocol_version,
        },
        split=reference.split,
        digest=reference.digest,
        seeds=seeds,
        baseline=baseline,
        columns=usual_columns(arms),
        noise=noise,
        rows=tuple(ranked(list(compress(rows, keeps)), higher_is_better(reference.headline))),
        tested_on=spec.tested_on,
    )


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; so it is for one that nobody described."""
    return metric not in metrics.NAMES or metrics.NAMES[metric].higher_is_better


def ranked(rows: Sequence[Row], higher: bool = True) -> list[Row]:
    """The rows in order; those without a reason against it get ranks, shared where undecided."""
    usual = Counter(length(row) for row in rows if not row.why).most_common(1)
    rows = [_undecidable(row, usual[0][0]) if not row.why else row for row in rows]
    fair = [row for row in rows if not row.why and row.headline and row.draws is not None]
    values = [row.headline.value for row in fair if row.headline]
    draws = [row.draws for row in fair if row.draws is not None]
    lowest, highest = stats.simultaneous_ranks(values, draws, higher)
    placed = [
        replace(row, rank=low, highest=high)
        for row, low, high in zip(fair, lowest, highest, strict=True)
    ]
    return sorted([*placed, *(row for row in rows if row.why)], key=lambda row: _place(row, higher))


def _place(row: Row, higher: bool) -> tuple:
    value = row.headline.value if row.headline else np.nan
    known = not np.isnan(value)
    worth = (-value if higher else value) if known else 0
    return row.rank is None, row.rank or 0, not known, worth, row.name, row.network


def _undecidable(row: Row, usual: int) -> Row:
    """Nothing to rank by: an undefined number, or none of the draws that rank it."""
    if row.headline is None or np.isnan(row.headline.value):
        return replace(row, why=("the headline is undefined on a fold",))
    if row.draws is None:
        return replace(row, why=(row.undrawn,))
    if len(row.draws) != usual:
        return replace(row, why=(f"{len(row.draws)} bootstrap draws, not {usual}",))
    if np.isnan(row.headline.low):
        return replace(row, why=("too few groups in the test part for an interval",))
    return row


def _with_gains(rows: Sequence[Row], arms: Sequence[Arm], baseline: Baseline) -> list[Row]:
    """Each row with its paired differences to no pretraining, ImageNet and the image alone."""
    bases: dict[tuple, Row] = {}
    for row, arm in zip(rows, arms, strict=True):
        plain = not any(text.startswith(("pretrained", "weights")) for text in arm.setting)
        if row.done == row.expected and plain and not arm.stale:
            bases[_same(row.identity, arm.departs)] = row
    found = []
    for row, arm in zip(rows, arms, strict=True):
        who, target = row.identity, arm.runs[0].spec.target
        alone = who._replace(
            fusion="none", options=(), columns=(), types=(), allowed=(), record=None, missing=""
        )
        other = who._replace(pretrain_seed=0)
        base = who._replace(source=target) if baseline == "self" else other._replace(source="none")
        others = {
            "self" if baseline == "self" else base.origin: base,
            "imagenet": other._replace(source="imagenet"),
            "fusion": alone,
            "whole": who._replace(missing=""),
        }
        gains = {}
        for name, other in others.items():
            base = bases.get(_same(other, arm.departs))
            alike = who.arch != "none" or name == "whole"
            if base is not None and base is not row and alike and not arm.stale:
                gain = _gain(row, base)
                gains |= {name: gain} if gain else {}
        found.append(replace(row, gains=gains))
    return found


def _with_drop(row: Row, own: Board) -> Row:
    """The row with how much worse it is than on its own test, whose patients are others."""
    bases = {run.spec.base for run in row.runs}
    at_home = (one for one in own.rows if {run.outcome.key for run in one.runs} >= bases)
    before = next(at_home, None)
    if before is None or before.headline is None or row.headline is None:
        return row
    sides = before.headline, row.headline
    return replace(
        row, drop=stats.unpaired(*(sides if higher_is_better(own.headline) else sides[::-1]))
    )


def _same(who: Identity, departs: tuple[str, ...]) -> tuple:
    """What row and baseline share beside the data: all but versions and how weights were made.

    Of the recipe, how it departs from what is usual: scratch has a schedule of its own.
    """
    return (who.source, who.pretrain_seed, who.fusion, who.options, who.columns, who.types,
            who.record, who.arch, who.mode, departs, who.split, who.headline,
            who.missing, who.digest)  # fmt: skip


def _gain(row: Row, base: Row) -> Comparison | None:
    """How much better the row is, where both are whole and their draws belong together."""
    if row.done < row.expected or row.headline is None or base.headline is None:
        return None
    if row.draws is None or base.draws is None or paired(row) != paired(base):
        return None
    values = row.headline.value, base.headline.value
    if higher_is_better(row.identity.headline):
        return stats.paired_bootstrap(row.draws, base.draws, *values, n=row.headline.n)
    return stats.paired_bootstrap(base.draws, row.draws, *values[::-1], n=row.headline.n)
