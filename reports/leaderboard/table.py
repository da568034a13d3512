"""`bench leaderboard`: every board of a store, as a table for the terminal, md, csv or json."""

import gc
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, get_args

from benchmark import metrics
from benchmark.errors import BenchError
from benchmark.index import Asked, Summary
from benchmark.spec import RANDOM, RunSpec
from benchmark.store import Store
from reports import own, render
from reports.leaderboard import asked, board, subgroups
from reports.leaderboard.arms import Place, Run, place_of
from reports.leaderboard.board import UNKNOWN, Baseline, Board
from reports.leaderboard.rows import Row
from reports.render import Column, told

#: Metrics that every format shows beside the headline, with their headings.
OVER = ("scratch", RANDOM, "self", "imagenet")  # what a row may have gained over
BESIDE = {"worst_class_recall": "worst recall", "ece": "ECE"}
SPREAD = {"over_folds": "± folds", "over_classes": "± classes"}  # of the headline, ddof 1
DROP = "Drop: how much worse than on {made.target}'s own test, as of different {made.units}."
FOOTER = (
    "Rank: 1 and the rows that are better for certain, to the last place that the others leave "
    "(paired bootstrap over {units}, one 95 % bound for all pairs of rows). Intervals, gains and "
    "ranks hold the noise of training and of pretraining as far as it is known. ±: the headline's "
    "standard deviation (n − 1) over folds and over classes."
)


def each(
    store: Store,
    *,
    targets: Sequence[str] = (),
    fusions: Sequence[str] = (),
    protocols: Sequence[str] = (),
    sources: Sequence[str] = (),
    archs: Sequence[str] = (),
    modes: Sequence[str] = (),
    seeds: Sequence[int] = (),
    train_sizes: Sequence[str] = (),
    baseline: Baseline = "scratch",
    brief: bool = True,
) -> Iterator[Board]:
    """Every board of the store, by target and protocol; empty filters keep everything.

    Ranks are among the rows that are kept; the gains' baselines need not be kept. Cells of other
    seeds are left out before anything is averaged. A board's cells are read when it is asked for,
    in `brief` without their histories.
    """
    baseline = known_baseline(baseline)
    rows = cells(store)
    wanted = {
        "target": targets, "protocol": protocols, "seed": seeds,
        "source": sources, "fusion": fusions, "arch": archs, "mode": modes,
    }  # fmt: skip
    for name, some in wanted.items():
        wanted[name] = asked.called(name, some, {getattr(row.spec, name) for row in rows})
    wanted["train_size"] = asked.sizes(train_sizes, rows)

    def keeps(spec: RunSpec | Asked, *names: str) -> bool:
        return all(not wanted[name] or getattr(spec, name) in wanted[name] for name in names)

    groups: dict[Place, list[str]] = defaultdict(list)
    for row in rows:
        if keeps(row.spec, "target", "protocol", "seed", "train_size"):
            groups[place_of(row)].append(row.key)
    homes: dict[Place, Board] = {}  # of those whose runs were tested on a second set as well
    away = {place._replace(tested_on="") for place in groups if place.tested_on}
    for place in sorted(groups, key=lambda place: place.order):
        runs = read(store, groups[place], brief=brief)
        if not runs:
            continue
        made = board.make(
            store,
            runs,
            keep=lambda spec: keeps(spec, "source", "fusion", "arch", "mode"),
            baseline=baseline,
            own=homes.get(place._replace(tested_on="")) if place.tested_on else None,
        )
        if made is not None:
            homes |= {place: made} if place in away else {}
            yield made


def boards(store: Store, **filters: Any) -> list[Board]:
    """The boards all at once; `filters` as `each` takes them."""
    return list(each(store, **filters))


def known_baseline(name: str) -> Baseline:
    """What gains may be over, or an error that names the choices."""
    for known in get_args(Baseline):
        if name == known:
            return known
    raise BenchError(f"No baseline named '{name}'.", f"Known: {', '.join(get_args(Baseline))}.")


def show(store: Store, *, format: str = "table", **filters: Any) -> str:
    """The boards as text for stdout; `filters` as `each` takes them."""
    render.check(format)
    found = each(store, **filters)
    if format == "json":
        with _no_collection():
            return render.javascript([_board(store, made) for made in found])
    found = list(found)
    units = " or ".join(sorted({made.units for made in found}))
    return render.write(format, map(_table, found), FOOTER.format(units=units))


def read(store: Store, keys: Sequence[str], *, brief: bool = True) -> list[Run]:
    """These runs of a store, as far as they can be read."""
    with _no_collection():
        outcomes = own.told_apart(store, store.outcomes("run", keys, brief=brief))
        return [Run(o.spec, o) for o in outcomes if isinstance(o.spec, RunSpec)]


def cells(store: Store) -> list[Summary]:
    """Every run of a store in brief; an error that says what to do where there is none."""
    found = own.told_apart(store, store.summaries())
    if not found:
        raise BenchError(
            f"The store {store.root} has no results yet.",
            "Make some with `bench run`, or name another store with --store.",
        )
    return found


@contextmanager
def _no_collection() -> Iterator[None]:
    """Reading makes a million objects that all stay: walking them again and again costs a third."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


# --- words ------------------------------------------------------------------------------------


def metric_title(name: str) -> str:
    """What a metric is called in full."""
    return metrics.NAMES[name].title if name in metrics.NAMES else name


def leak(made: Board) -> str:
    """How far a LEAKY protocol leaks, as measured; empty for a clean one."""
    rate = f"{made.siblings:.0%} of test images have a sibling in train"
    return f"LEAKY: {rate}" if made.leaky else ""


def labels(made: Board) -> str:
    """What several labels an image make of the numbers; empty where each image has one class."""
    if not any(row.multilabel for row in made.rows):
        return ""
    return "An image may have several labels: each is a yes or no, and numbers are their means."


def record(made: Board) -> str:
    """Which columns the record has where a row names no others; empty where no row reads it."""
    reads = any(row.identity.columns for row in made.rows)
    return f"The record, if a row says no other: {', '.join(made.columns)}." if reads else ""


def ends(made: Board) -> list[str]:
    """Rows of which a setting was chosen at an end of its list: a better one may lie beyond."""
    found = dict[str, int]()
    for row in made.rows:
        at_end = [any("of its list" in text for text in r.outcome.warnings) for r in row.runs]
        found[made.label(row)] = sum(at_end)
    told = [f"{name} ({n} cell{'s' * (n > 1)})" for name, n in found.items() if n]
    text = "Chosen at an end of its list, so a better value may lie beyond"
    return [f"{text}: {', '.join(told)}."] if told else []


def doubts(made: Board) -> Iterator[str]:
    """The noise of the numbers, and what choosing adds to the first row's."""
    yield from made.noise.notes(metric_title(made.headline).partition(" (")[0])
    found = made.winner
    if found is not None and round(found.excess, 3) > 0:
        yield (
            f"{found.name} was chosen as the best of {found.among} rows, so its {made.headline} "
            f"reads about {found.excess:.3f} too well: {render.interval(found.corrected)} without."
        )


def cost(row: Row) -> str:
    """`1,310 GPU-s, 61 kJ`: of all cells of the row."""
    energy = f", {row.joules / 1000:,.0f} kJ" if row.joules is not None else ""
    return f"{row.seconds:,.0f} {row.device}-s{energy}" if row.seconds else "–"


def spread_of(name: str) -> Callable[[Row], float | None]:
    """The headline's standard deviation over `over_folds` or `over_classes` of a row."""
    return lambda row: getattr(row, name).get(row.identity.headline)


def _seconds(value: float) -> str:
    return f"{value:,.1f} s" if value else "–"


def gain_names(made: Board) -> dict[str, str]:
    """The gains that some row of the board has, with their headings."""
    names = {name: f"over {name}" for name in OVER} | {"fusion": "by fusion", "whole": "over whole"}
    return {k: v for k, v in names.items() if any(k in row.gains for row in made.rows)}


def reason(run: Run) -> str:
    """Why a cell has no numbers; empty where it has."""
    failure = run.outcome.failure
    return f"{failure.kind}: {failure.message}" if failure else run.outcome.reason


def _table(made: Board) -> render.Table:
    """A board; what it says nothing of has no heading."""
    parts = [made.name, made.under, metric_title(made.headline), leak(made)]
    return render.Table(
        title=" · ".join(part for part in parts if part),
        columns=list(_columns(made)),
        rows=made.rows,
        style=lambda row: "bold" if row.rank == 1 else "dim" if row.rank is None else "",
        notes=[
            *filter(None, [labels(made), record(made)]),
            *(f"No rank: {made.label(row)}: {'; '.join(row.why)}." for row in made.rows if row.why),
            *doubts(made),
            *([DROP.format(made=made)] if made.tested_on else []),
            *made.overlaps,
            *ends(made),
            *([] if made.unit or made.leaky else [f"{UNKNOWN[0].upper()}{UNKNOWN[1:]}."]),
        ],
        facts=_plain(made, "target tested_on protocol partition train_size leaky siblings"),
    )


def _columns(made: Board) -> Iterator[Column]:
    gains = gain_names(made)
    timed = any(row.extraction for row in made.rows)
    yield Column("rank", "ranks")
    yield from (told("rank"), told("rank_highest", "highest"))
    yield told("source", "identity.source")
    yield Column("source", "identity.origin", field="origin", words=True)
    yield Column("fusion", "identity.fusion", field="fusion", words=True)
    yield told("arch", "identity.arch")
    yield told("mode", "identity.mode")
    yield Column("network" if made.several else None, "network", words=True)
    yield Column("setting", lambda row: "; ".join(row.setting), "", "setting", True, True)
    yield told("missing", "identity.missing")
    yield told("metric", lambda row: made.headline)
    yield Column(made.headline, "headline", ".3f", "*")
    fell = any(row.drop for row in made.rows)
    yield Column("drop" if fell else None, "drop.difference", "+.3f", "drop_*")
    yield told("drop_p", "drop.p")
    for name in (*OVER, "fusion", "whole"):
        field = f"gain_{name.replace(' ', '_')}_"
        yield Column(gains.get(name), f"gains.{name}.difference", "+.3f", f"{field}*")
        yield told(f"{field}p", f"gains.{name}.p")
    for name, heading in BESIDE.items():
        yield Column(heading, f"metrics.{name}.value", ".3f")
        yield Column(None, f"metrics.{name}", field=f"{name}_*")
    yield Column("cells", lambda row: f"{row.done}/{row.expected}")
    yield from (told("cells_done", "done"), told("cells_expected", "expected"))
    for name, heading in SPREAD.items():
        yield Column(heading, spread_of(name), ".3f", f"sd_{name}", spare=True)
    yield Column("cost", cost)
    yield told("seconds", lambda row: round(row.seconds, 3))
    yield Column("features" if timed else None, "extraction", _seconds)
    yield Column("classifier" if timed else None, "classifier", _seconds)
    yield told("seconds_features", lambda row: round(row.extraction, 3))
    yield told("seconds_classifier", lambda row: round(row.classifier, 3))
    yield told("device")
    yield told("joules")
    yield told("why_no_rank", lambda row: "; ".join(row.why))


def _board(store: Store, made: Board) -> dict[str, Any]:
    return {
        **_plain(made, "target tested_on protocol partition train_size headline"),
        "higher_is_better": board.higher_is_better(made.headline),
        **_plain(made, "leaky siblings overlaps versions"),
        "split": made.split.model_dump(mode="json"),
        **_plain(made, "digest seeds columns"),
        "noise": made.noise.facts(),
        "winner": made.winner and asdict(made.winner),
        "rows": [_row(store, row) for row in made.rows],
    }


def _row(store: Store, row: Row) -> dict[str, Any]:
    who = row.identity
    return {
        "rank": row.rank,
        "rank_highest": row.highest,
        "why_no_rank": row.why,
        **_plain(who, "source origin fusion"),
        "options": dict(who.options),
        **_plain(who, "columns missing arch mode"),
        "setting": row.setting,
        "recipe": who.recipe.model_dump(mode="json"),
        **_plain(row, "headline drop gains metrics"),
        "sd_over_folds": row.over_folds,
        "sd_over_classes": row.over_classes,
        **_plain(row, "classes per_class"),
        "subgroups": subgroups.plain(subgroups.of(store, row.runs)),
        "cells": {"done": row.done, "expected": row.expected},
        "seconds": round(row.seconds, 3),
        "seconds_features": round(row.extraction, 3),
        "seconds_classifier": round(row.classifier, 3),
        **_plain(row, "device joules"),
        "runs": [_run(run) for run in row.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "key": run.outcome.key,
        **_plain(run.spec, "fold seed pretrain_seed"),
        "status": run.outcome.status,
        "reason": reason(run),
        "chosen": run.outcome.chosen,
        **{name: run.outcome.data.get(name) for name in ("trained", "parameters")},
        "headline": run.outcome.metrics.get(run.spec.headline),
    }


def _plain(thing: Any, names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names.split()}
