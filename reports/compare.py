"""`bench compare A B`: two sources, two fusions or two protocols, paired where both were tested."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from benchmark import stats
from benchmark.errors import BenchError, did_you_mean, units
from benchmark.index import Summary
from benchmark.spec import origin, trained_on
from benchmark.stats import Comparison, Estimate
from benchmark.stats.delong import normal_p
from benchmark.store import Store
from reports import own, render
from reports.leaderboard import subgroups as by_value
from reports.leaderboard.arms import Arm, Identity, Place, Run, gather, place_of
from reports.leaderboard.board import Array, draws_of, higher_is_better, pool, unit_of
from reports.leaderboard.by_class import ClassPair, Z, class_pairs, recalls_apart
from reports.leaderboard.table import cells, read
from reports.render import Column, Table, told

KINDS = ("source", "fusion", "protocol")
ALL = "all classes"
FOOTER = (
    "Differences are first minus second; {units} are resampled. p (Wilcoxon) is of the recalls of "
    "all folds and classes, as in MetaNet's Table 1: it takes them for independent, which classes "
    "of the same {units} are not."
)


@dataclass(frozen=True)
class Pair:
    """Two arms of one target that differ in nothing but what is compared."""

    kind: str
    target: str
    shared: str  # what both share: protocol, fusion or source, network, settings
    metric: str
    names: tuple[str, str]
    first: Estimate
    second: Estimate
    compared: Comparison
    holm: float  # p adjusted for the number of pairs
    cells: int  # that both have
    groups: int  # units tested
    unit: str  # the card's word for a patient, lesion or slide; empty: each image alone
    paired: bool  # the draws are of the same units
    notes: tuple[str, ...]
    classes: tuple[ClassPair, ...]
    wilcoxon: (
        float  # of the recalls of every fold and class, as MetaNet's paper tests; NaN unpaired
    )
    subgroups: tuple[by_value.Change, ...] = ()  # where they are asked for


@dataclass(frozen=True)
class Verdict:
    """All pairs of two names, and what they come to over targets."""

    kind: str
    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    wilcoxon: float  # signed-rank p over the targets' mean differences; NaN with one target
    conclusion: str


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
    subgroups: bool = False,
) -> Verdict:
    """First minus second, target by target; `by` says what the names are if that is not plain."""
    rows = cells(store)
    kind = _kind(first, second, by, rows)
    wanted = {"target": targets, "source": sources, "fusion": fusions, "protocol": protocols}
    wanted.pop(kind, None)
    keys = [
        row.key for row in rows
        if all(
            not names or any(own.is_called(getattr(row.spec, name), one) for one in names)
            for name, names in wanted.items()
        )
    ]  # fmt: skip
    arms: dict[Place, list[Arm]] = defaultdict(list)
    places: dict[Place, list[Run]] = defaultdict(list)
    for run in read(store, keys):
        places[place_of(run)].append(run)
    for place, part in places.items():
        arms[place] = [arm for arm in gather(store, part)[1] if not arm.stale]
    names = first, second
    pairs = [_pair(store, kind, names, a, b, subgroups) for a, b in _partners(kind, names, arms)]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        raise BenchError(
            f"The store has no cells in which nothing but {first} and {second} differs.",
            f"Run both on one target: `bench run --target … --{kind} {first} --{kind} {second}`.",
        )
    found.sort(key=lambda pair: (pair.target, pair.shared))
    adjusted = stats.holm([pair.compared.p for pair in found])
    found = [replace(pair, holm=float(p)) for pair, p in zip(found, adjusted, strict=True)]
    if len({pair.names for pair in found}) == 1:
        names = found[0].names
    p = _over_targets(found)
    return Verdict(kind, names, tuple(found), p, _conclusion(found, names, p))


def show(store: Store, first: str, second: str, *, format: str = "table", **filters: Any) -> str:
    """The comparison as text for stdout."""
    render.check(format)
    found = compare(store, first, second, **filters)
    lines = list(_lines(found.pairs))
    tested = " or ".join(sorted({units(pair.unit) for pair in found.pairs}))
    pairs = [{**asdict(pair), "sentence": sentence(pair)} for pair in found.pairs]
    return render.write(
        format,
        _tables(found, lines, bool(filters.get("subgroups"))),
        f"{found.conclusion} {FOOTER.format(units=tested)}",
        fields=Table("", FIELDS, lines).fields(),
        json=lambda _: {**asdict(found), "pairs": pairs},
    )


def sentence(pair: Pair) -> str:
    """The pair in words that claim no more than the interval."""
    difference, p = pair.compared
    first, second = pair.names
    numbers = (
        f"{pair.metric} {pair.first.value:.3f} against {pair.second.value:.3f}, a difference of "
        f"{render.interval(difference, sign=True)}, {render.probability(p)}"
    )
    where = f"On {pair.target} ({pair.shared})"
    if not p < 0.05:
        return f"{where}, {first} and {second} cannot be told apart: {numbers}."
    if pair.kind == "protocol":  # of two protocols none is better for reading higher
        more = "higher" if difference.value > 0 else "lower"
        return f"{where}, {first} reads {more} than {second}: {numbers}."
    better = (difference.value > 0) == higher_is_better(pair.metric)
    return f"{where}, {first} is {'better' if better else 'worse'} than {second}: {numbers}."


# --- which arms belong together ---------------------------------------------------------------


def _kind(first: str, second: str, by: str, rows: Sequence[Summary]) -> str:
    if by and by not in KINDS:
        raise BenchError(f"Nothing is compared by '{by}'.", did_you_mean(by, list(KINDS)))
    if first == second:
        raise BenchError(f"'{first}' is compared with itself.", "Name two different ones.")
    known = {kind: {getattr(row.spec, kind) for row in rows} for kind in KINDS}
    fits = [kind for kind in KINDS if {first, second} <= known[kind] and by in ("", kind)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise BenchError(
            f"Both {first} and {second} are names of {' and of '.join(f'a {k}' for k in fits)}.",
            f"Say which with --by {fits[0]}.",
        )
    everything = sorted(set().union(*known.values()))
    for name in (first, second):
        if name not in everything:
            raise BenchError(
                f"The store has no results of '{name}'.", did_you_mean(name, everything)
            )
    raise BenchError(
        f"{first} and {second} are not two sources, two fusions or two protocols of this store.",
        f"It has {'; '.join(f'{kind}s {_listed(known[kind])}' for kind in KINDS)}.",
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _partners(
    kind: str, names: tuple[str, str], arms: dict[Place, list[Arm]]
) -> Iterator[tuple[Arm, Arm]]:
    """Arms of the first name with those of the second that are like them in all else."""
    pools: dict[Place, list[Arm]] = defaultdict(list)
    for place, part in arms.items():
        pools[place._replace(protocol="") if kind == "protocol" else place] += part
    for part in pools.values():
        sides = [[arm for arm in part if getattr(arm.runs[0].spec, kind) == n] for n in names]
        for a, b in product(*sides):
            bare = "none" in (a.identity.arch, b.identity.arch) and kind == "fusion"
            if _rest(kind, a.identity, bare) == _rest(kind, b.identity, bare):
                yield a, b


def _rest(kind: str, who: Identity, bare: bool) -> tuple:
    """What must be the same; an arm on the record alone shares only the patients with another."""
    patients = (who.split, who.headline, who.digest, who.recipe.limit)
    arm = (who.fusion, who.options, who.columns, who.types, who.record)
    if bare:
        return patients
    if kind == "source":
        return (*patients, *arm, who.arch, who.mode, who.recipe)
    if kind == "fusion":
        trained = (who.pretrain_seed, who.pretraining)
        return (*patients, who.source, *trained, who.arch, who.mode, who.recipe)
    return (
        who.source,
        *arm[:4],
        who.pretrain_seed,
        who.pretraining,
        who.arch,
        who.mode,
        who.digest,
        who.recipe.limit,
    )


# --- numbers ----------------------------------------------------------------------------------


def _pair(
    store: Store, kind: str, names: tuple[str, str], a: Arm, b: Arm, subgroups: bool
) -> Pair | None:
    # Protocols that cut alike test the same patients.
    cuts = [(who.split, who.digest, who.recipe.limit) for who in (a.identity, b.identity)]
    unpaired = cuts[0] != cuts[1]
    first, second = (_finished(arm) for arm in (a, b))
    if not unpaired:
        cells = first.keys() & second.keys()
        first, second = ({cell: part[cell] for cell in cells} for part in (first, second))
    if not first or not second:
        return None
    sides = [[part[cell] for cell in sorted(part)] for part in (first, second)]
    metric = a.identity.headline if a.identity.headline == b.identity.headline else "auroc"
    first_value, second_value = (_mean(side, metric) for side in sides)
    if kind == "source":
        names = origin(names[0], a.identity.mode), origin(names[1], b.identity.mode)
    unit = unit_of([*a.runs, *b.runs])
    notes = list(_notes(a, b, len(sides[0]), kind, names))
    classes: tuple[ClassPair, ...] = ()
    x, y = (None, None) if unpaired else (draws_of(store, side) for side in sides)
    for drawn, name in ((x, names[0]), (y, names[1])) if not unpaired else ():
        if drawn is None:
            warnings.warn(
                f"Predictions are gone or damaged of {name}, so it is not paired: see `bench store "
                "verify`.",
                stacklevel=2,
            )
    if x is not None and y is not None and len(x) == len(y):
        first_value, second_value = _within(first_value, x), _within(second_value, y)
        values = first_value.value, second_value.value
        compared = stats.paired_bootstrap(x, y, *values, n=first_value.n)
        classes = tuple(class_pairs(store, *sides))
    else:
        compared = _apart(first_value, second_value)
        notes.append(
            f"The two are not paired: their intervals are combined as if of different {units(unit)}"
        )
    return Pair(
        kind=kind,
        target=a.runs[0].spec.target,
        shared=_shared(kind, a, b),
        metric=metric,
        names=names,
        first=first_value,
        second=second_value,
        compared=compared,
        holm=compared.p,
        cells=min(len(side) for side in sides),
        unit=unit,
        groups=sum(int(run.outcome.data.get("test_groups", 0)) for run in _one_seed(sides[0])),
        paired=x is not None,
        notes=tuple(notes),
        classes=classes,
        wilcoxon=math.nan if unpaired else stats.wilcoxon(recalls_apart(*sides)),
        subgroups=by_value.changes(*(by_value.of(store, side) for side in sides))
        if subgroups and not unpaired
        else (),
    )


def _finished(arm: Arm) -> dict[tuple[int, int], Run]:
    fine = [run for run in arm.runs if run.outcome.status == "ok"]
    return {(run.spec.seed, run.spec.fold): run for run in fine}


def _one_seed(runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.spec.seed == runs[0].spec.seed]


def _mean(runs: Sequence[Run], metric: str) -> Estimate:
    tables = [{metric: run.outcome.metrics[metric]} for run in runs]
    return pool([run.spec.seed for run in runs], tables)[metric]


def _within(estimate: Estimate, draws: Array) -> Estimate:
    return Estimate(estimate.value, *stats.interval(draws), estimate.n)


def _apart(first: Estimate, second: Estimate) -> Comparison:
    """The difference of two estimates from different patients: squared half-widths add up."""
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    p = normal_p(value, (high - low) / (2 * Z))
    return Comparison(Estimate(value, low, high, min(first.n, second.n)), p)


def _over_targets(pairs: Sequence[Pair]) -> float:
    """Wilcoxon's p over targets, each by the mean of its pairs."""
    targets: dict[str, list[float]] = defaultdict(list)
    for pair in pairs:
        targets[pair.target].append(pair.compared.difference.value)
    if len(targets) < 2:
        return math.nan
    return stats.wilcoxon([float(np.mean(part)) for part in targets.values()])


# --- words ------------------------------------------------------------------------------------


def _shared(kind: str, a: Arm, b: Arm) -> str:
    """What the two share, and what is particular about one of them."""
    spec, who = a.runs[0].spec, a.identity
    bare = "none" in (who.arch, b.identity.arch)
    parts = {
        "protocol": spec.protocol,
        "source": f"source {who.origin}",
        "fusion": f"fusion {who.fusion}",
        "size": trained_on(spec.train_size),
    }
    parts.pop(kind)
    if bare:
        parts.pop("source", None)
        other = b if who.arch == "none" else a
        parts["with"] = f"image by {other.identity.origin}" if other.identity.arch != "none" else ""
    else:
        parts["network"] = f"{who.arch} {who.mode}"
    texts = [*parts.values(), *(text for text in a.setting if text in b.setting)]
    for arm in (a, b):
        own = [text for text in arm.setting if not {text} <= set(a.setting) & set(b.setting)]
        texts += [f"{getattr(arm.runs[0].spec, kind)} with {', '.join(own)}"] if own else []
    return ", ".join(text for text in texts if text)


def _notes(a: Arm, b: Arm, cells: int, kind: str, names: tuple[str, str]) -> Iterator[str]:
    for name, arm in zip(names, (a, b), strict=True):
        yield from (f"{name}: {text}" for text in arm.barred)
        rates = [run.outcome.data.get("siblings", 0.0) for run in arm.runs]
        if kind == "protocol" and (arm.identity.split.kind == "image" or any(rates)):
            share = np.mean([float(rate) for rate in rates])
            yield (
                f"{name} is LEAKY ({share:.0%} of test images have a sibling in train): "
                "what it reads higher is not a gain"
            )
    expected = a.identity.split.folds * len({run.spec.seed for run in a.runs})
    if a.identity.split == b.identity.split and cells < expected:
        yield f"only {cells} of {expected} cells are in both"


def _conclusion(pairs: Sequence[Pair], names: tuple[str, str], wilcoxon: float) -> str:
    if len(pairs) == 1:
        return sentence(pairs[0])
    clear = [pair for pair in pairs if pair.holm < 0.05]
    up = [pair.compared.difference.value > 0 for pair in clear]
    words = "higher", "lower"
    if pairs[0].kind != "protocol":
        words = "better", "worse"
        up = [u == higher_is_better(pair.metric) for u, pair in zip(up, clear, strict=True)]
    text = (
        f"Of {len(pairs)} comparisons {names[0]} is {words[0]} than {names[1]} in {sum(up)}, "
        f"{words[1]} in {len(up) - sum(up)}, and not to be told apart in "
        f"{len(pairs) - len(clear)} (p < 0.05, adjusted by Holm)."
    )
    targets = len({pair.target for pair in pairs})
    if targets > 1:
        few = "; fewer than six cannot reach 0.05" if targets < 6 else ""
        text += f" Over {targets} targets Wilcoxon's {render.probability(wilcoxon)}{few}."
    return text


class _Line(NamedTuple):
    """A pair, or one class of it."""

    pair: Pair
    name: str  # of the class, or ALL
    difference: Estimate
    p: float
    holm: float


PLACE = (
    Column("target", "pair.target", field="target", words=True),
    Column("shared", "pair.shared", field="shared", words=True),
)
TESTS = (
    Column("difference", "difference", "+.3f", "difference_*"),
    Column("p", "p", "p", "p"),
    Column("p (Holm)", "holm", "p", "p_holm"),
)
FIELDS = (
    told("by", "pair.kind"),
    told("first", lambda line: line.pair.names[0]),
    told("second", lambda line: line.pair.names[1]),
    *PLACE,
    told("metric", lambda line: line.pair.metric if line.name == ALL else "auroc"),
    told("class", "name"),
    *TESTS,
    told("p_wilcoxon", lambda line: line.pair.wilcoxon if line.name == ALL else None),
    told("cells", "pair.cells"),
    told("paired", "pair.paired"),
    told("notes", lambda line: "; ".join(line.pair.notes)),
)


def _lines(pairs: Sequence[Pair]) -> Iterator[_Line]:
    for pair in pairs:
        yield _Line(pair, ALL, *pair.compared, pair.holm)
        yield from (_Line(pair, c.name, c.difference, c.p, c.holm) for c in pair.classes)


def _tables(found: Verdict, lines: Sequence[_Line], subgroups: bool) -> Iterator[Table]:
    columns = [
        *PLACE,
        Column(found.names[0], "pair.first", ".3f"),
        Column(found.names[1], "pair.second", ".3f"),
        *TESTS,
        Column("p (Wilcoxon)", "pair.wilcoxon", "p"),
        Column("cells", "pair.cells"),
        Column("tested", "pair", lambda pair: f"{pair.groups:,} {units(pair.unit, pair.groups)}"),
    ]
    yield Table(
        f"{found.names[0]} against {found.names[1]}, by {found.kind}",
        columns,
        [line for line in lines if line.name == ALL],
        style=lambda line: "bold" if line.holm < 0.05 else "",
        notes=[" ".join([sentence(p), *(f"{n}." for n in p.notes)]) for p in found.pairs],
    )
    classes = [line for line in lines if line.name != ALL]
    if classes:
        name, images = Column("class", "name", words=True), Column("images", "difference.n")
        yield Table("AUROC class by class", [*PLACE, name, *TESTS, images], classes)
    if subgroups:
        for pair in found.pairs:
            yield by_value.table(
                pair.subgroups, pair.names, f"{pair.metric} on {pair.target}", pair.unit
            )
