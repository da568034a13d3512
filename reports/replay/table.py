"""`bench replay`: the numbers that others published beside ours, made again or still to be made.

What published values determine is computed (`studies`); what needs training is looked up in a
store, and where it is missing the command that makes it is told.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from benchmark import protocols, registry, stats
from benchmark.errors import BenchError, did_you_mean
from benchmark.spec import Outcome, PretrainSpec, Recipe
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import render
from reports.leaderboard import board
from reports.leaderboard import table as leaderboard
from reports.leaderboard.by_class import recalls_apart
from reports.leaderboard.rows import Row as BoardRow
from reports.render import Column, told
from reports.replay import matrix, papers
from reports.replay.papers import Row, Section

Wanted = dict[str, str]  # a line of published/*.csv that says what has to be trained


@dataclass(frozen=True)
class Replay:
    """A paper, replayed."""

    name: str
    title: str
    sections: tuple[Section, ...]


def replay(name: str, store: Store | None = None) -> Replay:
    """The published numbers of a study beside ours; without a store nothing has been trained."""
    if name not in papers.STUDIES:
        known = list(papers.STUDIES)
        raise BenchError(f"No replay named '{name}'.", did_you_mean(name, known))
    title, determined = papers.STUDIES[name]
    return Replay(name, title, (*determined(), *_trained(name, store), *_pairs(name, store)))


def show(name: str, format: str = "table", *, store: Store | None = None) -> str:
    """A replay as text for stdout."""
    render.check(format)
    found = replay(name, store)
    tables = [_table(section) for section in found.sections]

    def data(_: Any) -> dict[str, Any]:
        sections = [
            {"title": section.title, "rows": table.fields(), "notes": section.notes}
            for section, table in zip(found.sections, tables, strict=True)
        ]
        return {"name": found.name, "title": found.title, "sections": sections}

    fields = ({"section": t.title} | row for t in tables for row in t.fields())
    return render.write(format, tables, f"From {found.title}.", fields=fields, json=data)


# --- what has to be trained ---------------------------------------------------------------------


def _trained(name: str, store: Store | None) -> Iterator[Section]:
    tables: dict[str, list[Wanted]] = defaultdict(list)
    for line in papers.read(name) if papers.there(name) else ():
        tables[line["table"]].append(line)
    places = {(line["target"], line["protocol"]) for lines in tables.values() for line in lines}
    boards = _boards(store, places) if store else {}
    sources = store.outcomes("pretrain") if store else []
    for title, lines in tables.items():
        rows = []
        for line in lines:
            if line["mode"] == "pretrain":
                rows.append(_row(line, *_pretrained(line, sources)))
            else:
                rows.append(
                    _row(line, *_found(line, boards.get((line["target"], line["protocol"]))))
                )
        digits = 2 if lines[0]["unit"] else 4
        notes = [*_arms(lines), *_to_run(rows)]
        if any(row.wanted and row.wanted["mode"] == "pretrain" for row in rows):
            notes.append("Sources are pretrained before the first cell that starts from them.")
        yield Section(title, tuple(rows), tuple(notes), digits)


def _pairs(name: str, store: Store | None) -> Iterator[Section]:
    """A published matrix of sources and targets beside own runs, with what is to run."""
    for section in matrix.sections(store) if name == matrix.STUDIED else ():
        yield replace(section, notes=(*section.notes, *_to_run(section.rows)))


def _to_run(rows: Sequence[Row]) -> Iterator[str]:
    yield from (f"To run: {command}" for command in _commands(rows))


def _arms(lines: Sequence[Wanted]) -> Iterator[str]:
    """The options of arms that the protocol sets: a reader of a command does not see them."""
    for name, fusion in dict.fromkeys((line["protocol"], line["fusion"]) for line in lines):
        found = protocols.load(name).fusion.get(fusion, {}) if fusion else {}
        if found:
            told = ", ".join(f"{option} {value}" for option, value in found.items())
            yield f"The protocol {name} gives {fusion} {told}."


def _boards(
    store: Store, places: set[tuple[str, str]]
) -> dict[tuple[str, str], board.Board | None]:
    """The boards of the store by (target, protocol)."""
    keys: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in store.summaries():
        asked = row.spec
        if not (asked.partition or asked.train_size or asked.missing or asked.tested_on):
            keys[row.spec.target, row.spec.protocol].append(row.key)
    runs = {place: leaderboard.read(store, keys[place]) for place in keys.keys() & places}
    return {place: board.make(store, found) for place, found in runs.items() if found}


def _row(line: Wanted, ours: Estimate | None, cells: str, note: str = "") -> Row:
    scale = 100 if line["unit"] else 1
    if ours is not None:
        ours = Estimate(scale * ours.value, scale * ours.low, scale * ours.high, ours.n)
    return Row(
        line["item"],
        float(line["paper"]) if line["paper"] else None,
        ours,
        sd=float(line["sd"]) if line["sd"] else None,
        verified=line["verified"],
        gate=line["gate"] == "yes",
        cells=cells,
        wanted=None if ours or line["metric"] == "wilcoxon" else line,  # its arms are asked for
        note=note,
    )


def _pretrained(line: Wanted, sources: Sequence[Outcome]) -> tuple[Estimate | None, str]:
    """A source's number on itself, if it was trained as its card says."""
    for outcome in sources:
        spec = outcome.spec
        if (
            isinstance(spec, PretrainSpec)
            and outcome.status == "ok"
            and (spec.source, spec.arch) == (line["source"], line["arch"])
            and _same_recipe(spec.recipe, registry.load("source", spec.source).card.pretrain)
        ):
            return outcome.metrics.get(line["metric"]), "1/1"
    return None, "0/1"


def _found(line: Wanted, made: board.Board | None) -> tuple[Estimate | None, str, str]:
    """Our number, how many of its cells are done, and what to know of it."""
    if not line["target"]:
        return None, "", "private data: bring your own as a folder"
    alike = [row for row in made.rows if _same_arm(line, row)] if made else []
    protocol = protocols.load(line["protocol"])
    recipe = protocols.recipe_for(protocol, line["target"], line["mode"], dict(_changes(line)))
    fits = [row for row in alike if _same_recipe(row.identity.recipe, recipe)]
    if not fits:
        note = "run with another recipe only" if alike else ""
        return None, f"0/{protocol.split.folds}", note
    row = max(fits, key=lambda row: row.done)
    cells = f"{row.done}/{row.expected}"
    if row.done < row.expected:
        return None, cells, "; ".join(row.why)
    if line["metric"] == "wilcoxon":
        return _wilcoxon(line, made, row, cells)
    if line["metric"] == "gain":
        gain = row.gains.get("fusion")
        return gain.difference if gain else None, cells, "" if gain else "no arm of the image alone"
    table = row.metrics
    if line["label"]:
        table = dict(zip(row.classes, row.per_class, strict=True)).get(line["label"], {})
    return table.get(line["metric"]), cells, "; ".join(row.why)


def _wilcoxon(
    line: Wanted, made: board.Board | None, row: BoardRow, cells: str
) -> tuple[Estimate | None, str, str]:
    """The p of the recalls of all folds and classes being those of the arm that `label` names."""
    named = line | {"fusion": line["label"], "columns": "*" if line["label"] != "none" else ""}
    others = [
        other for other in (made.rows if made else ())
        if _same_arm(named, other) and other.identity.recipe == row.identity.recipe
        and [run.spec.fold for run in other.runs] == [run.spec.fold for run in row.runs]
        and other.done == other.expected
    ]  # fmt: skip
    if not others:
        return None, cells, f"no whole arm {line['label']}"
    apart = recalls_apart(row.runs, others[0].runs)
    p = stats.wilcoxon(apart)
    return Estimate(p, math.nan, math.nan, len(apart)), cells, ""


def _same_arm(line: Wanted, row: BoardRow) -> bool:
    who = row.identity
    if any(getattr(who, name) != line[name] for name in ("source", "arch", "mode", "fusion")):
        return False
    columns = _columns(line["target"]) if line["columns"] == "*" else line["columns"].split()
    of_protocol = protocols.load(line["protocol"]).fusion.get(line["fusion"], {})
    options = {**_options(line["fusion"]), **of_protocol}
    options |= {"layers": int(line["layers"])} if line["layers"] else {}
    return set(who.columns) == set(columns) and dict(who.options) == options


def _same_recipe(given: Recipe, wanted: Recipe) -> bool:
    """Whether it was trained as it should be; threads and precision do not count."""
    how = {"threads": given.threads, "precision": given.precision}
    return given == wanted.model_copy(update=how)


def _changes(line: Wanted) -> Iterator[tuple[str, int]]:
    for text in line["recipe"].split():
        name, _, value = text.partition("=")
        yield name, int(value)


@cache
def _columns(target: str) -> tuple[str, ...]:
    return tuple(registry.load("target", target).columns())


@cache
def _options(fusion: str) -> dict[str, Any]:
    return dict(registry.load("fusion", fusion).card.options)


COMMON = ("protocol", "target", "mode", "layers", "recipe", "train_size")
MANY = ("fusion", "arch", "source")


def _commands(rows: Sequence[Row]) -> Iterator[str]:
    """The commands that train what is missing; what differs in one list only is one command."""
    lines = [row.wanted for row in rows if row.wanted]
    jobs: list[dict[str, Any]] = []
    for line in (line for line in lines if line["target"]):  # neither private nor a source
        job: dict[str, Any] = {name: line.get(name, "") for name in COMMON}
        job |= {"columns": line["columns"].strip("*"), **{name: (line[name],) for name in MANY}}
        if line["metric"] == "gain":
            job["fusion"] = ("none", line["fusion"])
        jobs.append(job)
    for many in MANY:
        merged: dict[tuple, dict[str, None]] = {}
        for job in jobs:
            rest = tuple((name, value) for name, value in job.items() if name != many)
            merged.setdefault(rest, {}).update(dict.fromkeys(job[many]))
        jobs = [dict(rest) | {many: tuple(values)} for rest, values in merged.items()]
    for job in jobs:
        yield _command(job)


def _command(job: dict[str, Any]) -> str:
    words = ["bench run", f"--protocol {job['protocol']}", f"--target {job['target']}"]
    for name in ("source", "arch", "fusion"):
        words += [f"--{name} {value}" for value in job[name]]
    words.append(f"--mode {job['mode']}")
    words += [f"--column {name}" for name in job["columns"].split()]
    words += [f"--set fusion.layers={job['layers']}"] if job["layers"] else []
    words += [f"--train-size {job['train_size']}"] if job["train_size"] else []
    return " ".join(words + [f"--set recipe.{change}" for change in job["recipe"].split()])


# --- words --------------------------------------------------------------------------------------


def _table(section: Section) -> render.Table:
    def number(value: float | None, sign: str = "") -> str:
        # Adding zero turns -0.0, which a tiny difference is rounded to, into 0.0.
        return "–" if value is None else f"{round(value, digits) + 0.0:{sign}.{digits}f}"

    def paper(row: Row) -> str:
        text = number(row.paper)
        if row.paper is not None and digits > 3:  # no zeros that nobody printed
            text = min(text, f"{row.paper:g}", key=len)
        return f"{text} ± {number(row.sd)}" if row.sd is not None else text

    def ours(found: Estimate) -> str:
        limits = "" if math.isnan(found.low) else f" [{number(found.low)}, {number(found.high)}]"
        return number(found.value) + limits

    digits = section.digits
    ungated = [row for row in section.rows if not row.gate and row.paper is not None]
    notes = list(section.notes)
    if ungated and len(ungated) < len(section.rows):
        notes.insert(0, f"No gate: {'; '.join(row.item for row in ungated)}.")
    columns = [
        Column("", "item", field="item", words=True),
        Column("paper", paper),
        told("paper"),
        told("paper_sd", "sd"),
        Column("ours", "ours", ours),
        told("ours", "ours.value"),
        told("low", "ours.low"),
        told("high", "ours.high"),
        Column("difference", "difference", lambda apart: number(apart, "+"), "difference"),
        told("gate"),
        told("verified"),
        Column("cells", "cells", field="cells", spare=True),
        told("command", lambda row: next(_commands([row]), "")),
        Column("note", "note", field="note", words=True, spare=True),
    ]
    return render.Table(section.title, columns, section.rows, notes=notes)
