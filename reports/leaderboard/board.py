"""Boards: the arms of one target under one protocol and partition, ranked or told why not."""

import zipfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from itertools import compress
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmark import metrics, stats
from benchmark.errors import Damaged, units
from benchmark.spec import RunSpec, Split, trained_on
from benchmark.stats import Comparison, Estimate
from benchmark.store import UNREADABLE, Store
from reports import overlaps
from reports.leaderboard.arms import Arm, Identity, Run, gather, usual_columns

Array = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)
Baseline = Literal["scratch", "self", "random"]  # random: what frozen features of none give


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
    gains: dict[str, Comparison]  # over "scratch", RANDOM or "self", "imagenet", from "fusion"
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
    draws: Array | None = field(repr=False, compare=False)  # (seeds x draws,), paired by row

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


#: Said of a board whose images name no patient.
UNKNOWN = "patients unknown, images taken as independent: intervals are too narrow if they are not"


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
    rows: tuple[Row, ...]

    @property
    def overlaps(self) -> list[str]:
        """Sets of this board that are known to share images."""
        return overlaps.among([self.target, *(row.identity.source for row in self.rows)])

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

    @property
    def several(self) -> bool:
        """Whether rows differ in network or mode, so that a name needs them."""
        return len({row.network for row in self.rows} - {"–"}) > 1

    def label(self, row: Row) -> str:
        """The row's name, with its network where the board has several."""
        return f"{row.name}, {row.network}" if self.several and row.network != "–" else row.name


def unit_of(runs: Iterable[Run]) -> str:
    """What of the runs' target is never parted, in its card's word; empty: each image alone."""
    known = (run.outcome.data.get("unit") for run in runs)
    return next((str(unit) for unit in known if unit is not None), "group")


def make(
    store: Store,
    runs: Sequence[Run],
    *,
    keep: Callable[[RunSpec], bool] = lambda spec: True,
    baseline: Baseline = "scratch",
) -> Board | None:
    """The board of the runs of one target, protocol and partition; `keep` picks the rows to show.

    The runs that are not kept still serve as baselines of the gains.
    """
    reference, arms = gather(store, runs)
    keeps = [keep(arm.runs[0].spec) for arm in arms]
    shown = list(compress(arms, keeps))
    if not shown:
        return None
    fair = [arm for arm in shown if not arm.barred] or shown
    seeds = tuple(sorted(set[int]().union(*(arm.seeds for arm in fair))))
    rows = _with_gains([_row(store, arm, seeds) for arm in arms], arms, baseline)
    rows = _with_extraction(rows)
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
        rows=tuple(ranked(list(compress(rows, keeps)), higher_is_better(reference.headline))),
    )


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better; so it is for one that nobody described."""
    return metric not in metrics.NAMES or metrics.NAMES[metric].higher_is_better


def ranked(rows: Sequence[Row], higher: bool = True) -> list[Row]:
    """The rows in order; those without a reason against it get ranks, shared where undecided."""
    usual = Counter(_length(row) for row in rows if not row.why).most_common(1)
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


def _length(row: Row) -> int:
    return 0 if row.draws is None else len(row.draws)


def _undecidable(row: Row, usual: int) -> Row:
    """Nothing to rank by: an undefined number, or none of the draws that rank it."""
    if row.headline is None or np.isnan(row.headline.value):
        return replace(row, why=("the headline is undefined on a fold",))
    if row.draws is None:
        return replace(row, why=("its predictions are gone or damaged: see `bench store verify`",))
    if len(row.draws) != usual:
        return replace(row, why=(f"{len(row.draws)} bootstrap draws, not {usual}",))
    if np.isnan(row.headline.low):
        return replace(row, why=("too few groups in the test part for an interval",))
    return row


def _row(store: Store, arm: Arm, seeds: tuple[int, ...]) -> Row:
    """An arm measured on the cells of the board's seeds; one that is barred on its own."""
    if arm.barred:
        seeds = tuple(sorted(arm.seeds))
    runs = sorted(
        (run for run in arm.runs if run.spec.seed in seeds),
        key=lambda run: (run.spec.seed, run.spec.fold),
    )
    fine = [run for run in runs if run.outcome.status == "ok"]
    expected = arm.identity.split.folds * len(seeds)
    why = arm.barred if len(fine) == expected else (*arm.barred, _lacks(runs, expected))
    pooled, per_class = _tables(fine)
    draws = draws_of(store, fine)
    headline = pooled.get(arm.identity.headline)
    if headline is not None and draws is not None:
        headline = Estimate(headline.value, *stats.interval(draws), headline.n)
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
    found = pool([run.spec.seed for run in runs], cells)
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


def _with_extraction(rows: Sequence[Row]) -> list[Row]:
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


def draws_of(store: Store, runs: Sequence[Run]) -> Array | None:
    """The headline's draws, averaged over the folds of a seed; the seeds' lie end to end.

    A draw thus picks a seed and then its patients: the interval holds what both vary, and does
    not pretend that a second seed brought new patients.
    """
    cells: dict[int, list[Array]] = {}
    try:
        for run in runs:
            path = store.kept(run.outcome, "predictions.npz")
            cells.setdefault(run.spec.seed, []).append(_read_draws(path))
    except (*UNREADABLE, Damaged):
        return None
    if not cells or len({len(draws) for part in cells.values() for draws in part}) > 1:
        return None
    return np.concatenate([np.mean(part, axis=0) for part in cells.values()])


def _read_draws(path: Path) -> Array:
    """The draws alone, checked by the sum that their zip has: np.load takes twice as long."""
    with zipfile.ZipFile(BytesIO(path.read_bytes())) as file:
        raw = file.read("draws.npy")
    begin = 10 + int.from_bytes(raw[8:10], "little")  # the length of the header is in its start
    return np.frombuffer(raw, dtype="<f8", offset=begin)


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
            fusion="none", options=(), columns=(), types=(), allowed=(), record=None
        )
        other = who._replace(pretrain_seed=0)
        base = who._replace(source=target) if baseline == "self" else other._replace(source="none")
        others = {
            "self" if baseline == "self" else base.origin: base,
            "imagenet": other._replace(source="imagenet"),
            "fusion": alone,
        }
        gains = {}
        for name, other in others.items():
            base = bases.get(_same(other, arm.departs))
            if base is not None and base is not row and who.arch != "none" and not arm.stale:
                gain = _gain(row, base)
                gains |= {name: gain} if gain else {}
        found.append(replace(row, gains=gains))
    return found


def _same(who: Identity, departs: tuple[str, ...]) -> tuple:
    """What row and baseline share beside the data: all but versions and how weights were made.

    Of the recipe, how it departs from what is usual: scratch has a schedule of its own.
    """
    return (who.source, who.pretrain_seed, who.fusion, who.options, who.columns, who.types,
            who.record, who.arch, who.mode, departs, who.split, who.headline,
            who.digest)  # fmt: skip


def paired(row: Row) -> tuple:
    """Draws belong together if they are as many and of the same cells."""
    return _length(row), [(run.spec.seed, run.spec.fold) for run in row.runs]


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
