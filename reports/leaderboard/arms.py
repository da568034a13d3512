"""Gathers the cells of one target and protocol into arms, and says which arms may be compared.

Cells are averaged only where nothing but fold and seed differs. What differs from the board's
usual recipe is named; what differs in data, split or version bars an arm from a rank.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from benchmark.index import Summary
from benchmark.spec import (
    UNREAD,
    Outcome,
    PretrainSpec,
    Recipe,
    RecordMap,
    RunSpec,
    Scalar,
    Split,
    amount,
    lacking,
    origin,
)
from benchmark.store import Store
from reports import overlaps
from reports.leaderboard.departs import columns_of, differences

Value = TypeVar("Value", bound=Hashable)


class Identity(NamedTuple):
    """What makes an arm: two cells that differ in any of it are never averaged."""

    source: str
    fusion: str
    options: tuple[tuple[str, Scalar], ...]
    columns: tuple[str, ...]
    types: tuple[tuple[str, str], ...]
    allowed: tuple[str, ...]
    record: RecordMap | None
    arch: str
    mode: str
    recipe: Recipe
    pretrain_seed: int
    pretraining: Recipe | None  # None: scratch, weights by others, or no longer known
    source_version: str
    fusion_version: str
    target_version: str
    protocol_version: str
    core: str
    split: Split
    headline: str
    missing: str  # of the test part's records
    digest: str

    @property
    def origin(self) -> str:
        """What the network began from, in a reader's word."""
        return self.source if self.arch == "none" else origin(self.source, self.mode)


#: Of an identity: what the spec says in so many words, and what comes from the outcome's versions.
ASKED = ("source", "fusion", "columns", "allowed", "record", "arch", "mode", "recipe",
         "pretrain_seed", "split", "headline", "missing")  # fmt: skip
VERSIONS = ("source_version", "fusion_version", "target_version", "protocol_version", "core")


class Place(NamedTuple):
    """What the cells of a board share: they test the same patients of one set."""

    target: str
    protocol: str
    partition: int
    train_size: str
    tested_on: str = ""  # a second set, all of which is the test

    @property
    def order(self) -> tuple:
        """By name, the whole training part first, then from the smallest size; second sets last."""
        size = amount(self.train_size) if self.train_size else (0.0, "")
        return (*self[:3], size[1], size[0], self.tested_on)


class Run(NamedTuple):
    """An outcome with its spec, known to be a run's."""

    spec: RunSpec
    outcome: Outcome


def place_of(run: Run | Summary) -> Place:
    """The board that a run belongs on."""
    return Place(*(getattr(run.spec, name) for name in Place._fields))


@dataclass(frozen=True)
class Arm:
    """The cells of one identity, and how a reader is told what is particular about it."""

    identity: Identity
    runs: tuple[Run, ...]
    setting: tuple[str, ...] = ()  # how it differs from the board's usual recipe and options
    departs: tuple[str, ...] = ()  # of this what the recipe says; scratch has a usual of its own
    barred: tuple[str, ...] = ()  # what keeps it from a rank, whatever its numbers
    stale: bool = False  # of other data or an older version: no baseline for others

    @property
    def seeds(self) -> set[int]:
        return {run.spec.seed for run in self.runs}


class Reference(NamedTuple):
    """What the ranked arms of a board have in common."""

    core: str
    target_version: str
    protocol_version: str
    split: Split
    headline: str
    digest: str


def gather(store: Store, runs: Sequence[Run]) -> tuple[Reference, list[Arm]]:
    """The arms of one target and protocol, each judged against the board's reference."""
    made = _pretraining(store, runs)
    groups: dict[Identity, list[Run]] = defaultdict(list)
    for run in _not_mended(runs):
        groups[_identity(run, made.get(run.spec.weights or ""))].append(run)
    arms = [Arm(identity, tuple(part)) for identity, part in _placed(groups)]
    reference = _reference(arms)
    habits = _Habits(arms)
    return reference, [_judged(arm, habits, reference) for arm in arms]


def _pretraining(store: Store, runs: Iterable[Run]) -> dict[str, Recipe]:
    """The recipe behind each file of weights of our own: one for all seeds, unlike its key."""
    found = {}
    for key in {run.spec.weights for run in runs if run.spec.weights}:
        done = store.outcome("pretrain", key)
        if done is not None and done.history and isinstance(done.spec, PretrainSpec):
            found[key] = done.spec.recipe
    return found


def _not_mended(runs: Sequence[Run]) -> list[Run]:
    """The runs without those that failed of a broken set which could be read since."""
    broken = [UNREAD in run.outcome.versions.values() for run in runs]
    read = {run.spec.source for run, bad in zip(runs, broken, strict=True) if not bad}
    return [
        run for run, bad in zip(runs, broken, strict=True) if not bad or run.spec.source not in read
    ]


def _identity(run: Run, pretraining: Recipe | None) -> Identity:
    spec, versions = run.spec, run.outcome.versions
    same: dict[str, Any] = {name: getattr(spec, name) for name in ASKED}
    same |= {name: versions.get(name.removesuffix("_version"), "") for name in VERSIONS}
    return Identity(
        **same,
        options=tuple(sorted(spec.options.items())),
        types=tuple(sorted(spec.types.items())),
        pretraining=pretraining,
        digest=str(run.outcome.data.get("digest", "")),
    )


def _placed(groups: dict[Identity, list[Run]]) -> Iterator[tuple[Identity, list[Run]]]:
    """Failed and skipped cells saw no data: they join the arm they would have belonged to."""
    known = {identity for identity in groups if identity.digest}
    homes: dict[Identity, list[Identity]] = defaultdict(list)
    for identity in known:
        homes[identity._replace(digest="")].append(identity)
    placed = {identity: list(groups[identity]) for identity in known}
    for identity in groups.keys() - known:
        home = max(homes[identity], key=lambda i: (len(groups[i]), i.digest), default=identity)
        placed.setdefault(home, []).extend(groups[identity])
    for identity, runs in placed.items():
        if len({(run.spec.seed, run.spec.fold) for run in runs}) == len(runs):
            yield identity, runs
            continue
        # One cell twice: the weights differ in a way that nobody can name any more.
        apart: dict[str, list[Run]] = defaultdict(list)
        for run in runs:
            apart[run.spec.weights or ""].append(run)
        for part in apart.values():
            yield identity, part


def _reference(arms: Sequence[Arm]) -> Reference:
    """The newest versions; among their cells the most frequent split, headline and data."""
    pool = [arm for arm in arms if arm.identity.digest] or list(arms)
    found: dict[str, Any] = {}
    for name in Reference._fields:
        values = [getattr(arm.identity, name) for arm in pool for _ in arm.runs]
        pick = _newest if name in ("core", "target_version", "protocol_version") else _usual
        found[name] = pick(values)
        pool = [arm for arm in pool if getattr(arm.identity, name) == found[name]]
    return Reference(**found)


class _Habits:
    """What is usual among arms that are alike; only deviations from it are worth words."""

    def __init__(self, arms: Sequence[Arm]) -> None:
        whole = [arm for arm in arms if arm.identity.recipe.limit is None]
        limited = _by(arms, _kind, lambda who: who.recipe)
        self.recipe = limited | _by(whole, _kind, lambda who: who.recipe)
        self.options = _by(arms, lambda who: who.fusion, lambda who: who.options)
        self.columns = usual_columns(arms)
        self.types = _by(arms, lambda who: who.fusion, lambda who: who.types)
        self.pretrain_seed = _by(arms, _weights, lambda who: who.pretrain_seed)
        self.record = _by(arms, lambda who: who.fusion, lambda who: who.record)
        self.pretraining = _by(arms, _weights, lambda who: who.pretraining)
        self.source = _by(arms, lambda who: who.source, lambda who: who.source_version, _newest)
        self.fusion = _by(arms, lambda who: who.fusion, lambda who: who.fusion_version, _newest)


def usual_columns(arms: Sequence[Arm]) -> tuple[str, ...]:
    """The columns that a board names once, the most that any arm reads."""
    counts = Counter(arm.identity.columns for arm in arms for _ in arm.runs)
    return max(counts, key=lambda columns: (len(columns), counts[columns], columns), default=())


def _kind(who: Identity) -> tuple[str, bool]:
    return who.origin if who.origin == "scratch" else who.mode, who.arch == "none"


def _weights(who: Identity) -> tuple[str, str]:
    return who.source, who.arch


def _by(
    arms: Sequence[Arm],
    group: Callable[[Identity], Hashable],
    value: Callable[[Identity], Any],
    pick: Callable[[Sequence[Any]], Any] | None = None,
) -> dict[Hashable, Any]:
    """For each group of arms the value that most of their cells have (or what `pick` takes)."""
    values: dict[Hashable, list[Any]] = defaultdict(list)
    for arm in arms:
        values[group(arm.identity)] += [value(arm.identity)] * len(arm.runs)
    return {name: (pick or _usual)(found) for name, found in values.items()}


def _judged(arm: Arm, habits: _Habits, reference: Reference) -> Arm:
    who = arm.identity
    barred = list(_leaks(arm))
    stale = list(_stale(who, habits, reference))
    if who.missing:
        barred.append("records are missing from its test")
    if who.recipe.limit is not None:
        barred.append(f"limited to {who.recipe.limit} images")
    setting = tuple(_setting(who, habits, tested=any(r.outcome.status == "ok" for r in arm.runs)))
    departs = tuple(differences(who.recipe, habits.recipe[_kind(who)]))
    return Arm(who, arm.runs, setting, departs, tuple(barred + stale), bool(stale))


def _leaks(arm: Arm) -> Iterator[str]:
    if arm.identity.allowed:
        yield f"LEAKY: {', '.join(arm.identity.allowed)} tells the label (--allow-column)"
    spec = arm.runs[0].spec
    if arm.identity.source == (spec.tested_on or spec.target):
        yield f"LEAKY: pretrained on {spec.tested_on or 'the target itself'}"
        return
    if known := overlaps.between(arm.identity.source, spec.tested_on or spec.target):
        yield f"LEAKY: {known}"
        return
    seen: Counter[int] = Counter()
    for run in arm.runs:
        overlap = run.outcome.data.get("overlap")  # a text where nobody can tell
        seen[run.spec.seed] += overlap if isinstance(overlap, int) else 0
    if any(seen.values()):
        yield f"LEAKY: {max(seen.values())} test images are in the source"


def _stale(who: Identity, habits: _Habits, reference: Reference) -> Iterator[str]:
    """What sets an arm so far apart that its numbers are about something else."""
    versions = (
        ("code", who.core, reference.core),
        ("target", who.target_version, reference.target_version),
        ("protocol", who.protocol_version, reference.protocol_version),
        ("source", who.source_version, habits.source[who.source]),
        ("fusion", who.fusion_version, habits.fusion[who.fusion]),
    )
    for name, value, usual in versions:
        if value != usual:
            yield f"{name} version {value or 'unknown'}, not {usual}"
    if who.split != reference.split:
        yield f"another split ({', '.join(differences(who.split, reference.split))})"
    if who.headline != reference.headline:
        yield f"judged by {who.headline}, not {reference.headline}"
    if who.digest and who.digest != reference.digest:
        yield f"other data ({who.digest[:8]}, not {reference.digest[:8]})"


def _setting(who: Identity, habits: _Habits, *, tested: bool) -> Iterator[str]:
    """The settings in which an arm differs from those like it, as a reader would say them."""
    if who.missing:
        yield lacking(who.missing)
    changes = differences(who.recipe, habits.recipe[_kind(who)])
    yield from (change for change in changes if not change.startswith("limit "))
    if who.recipe.limit is not None:
        yield f"limit {who.recipe.limit}"  # told even where all rows share it
    usual = dict(habits.options[who.fusion])
    yield from (f"{name} {value}" for name, value in who.options if usual.get(name) != value)
    if who.columns and who.columns != habits.columns:
        yield columns_of(who.columns, habits.columns)
    usual = dict(habits.types[who.fusion])
    yield from (f"{name} {kind}" for name, kind in who.types if usual.get(name, kind) != kind)
    yield from differences(who.record, habits.record[who.fusion])
    if who.pretrain_seed != habits.pretrain_seed[_weights(who)]:
        yield f"pretraining seed {who.pretrain_seed}"
    pretraining = habits.pretraining[_weights(who)]
    if not tested:  # so perhaps never pretrained
        return
    if who.pretraining is None and pretraining is not None:
        yield "weights of unknown origin"
    elif who.pretraining is not None and pretraining is None:
        yield f"pretrained for {who.pretraining.length}"
    else:
        changes = differences(who.pretraining, pretraining)
        yield from (f"pretrained with {change}" for change in changes)


def _usual(values: Sequence[Value]) -> Value:
    """The most frequent; of equals the one whose text comes first, so that order is no matter."""
    counts = Counter(values)
    if len(counts) == 1:
        return values[0]
    return min(counts, key=lambda value: (-counts[value], repr(value)))


def _newest(versions: Sequence[str]) -> str:
    """The highest number; hashes of files have no order, so there the most frequent."""
    numbers = [version for version in versions if version.isdigit()]
    return max(numbers, key=int) if numbers else _usual(versions)
