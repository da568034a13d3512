"""A verdict as text for stdout."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from benchmark.errors import units
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import render
from reports.compare.pairs import compare
from reports.compare.verdict import Pair, Verdict, sentence
from reports.leaderboard import subgroups as by_value
from reports.render import Column, Table, told

ALL = "all classes"
FOOTER = (
    "Differences are first minus second; {units} are resampled. p (Wilcoxon) is of the recalls of "
    "all folds and classes, as in MetaNet's Table 1: it takes them for independent, which classes "
    "of the same {units} are not."
)


def show(store: Store, first: str, second: str, *, format: str = "table", **filters: Any) -> str:
    """The comparison as text for stdout."""
    render.check(format)
    found = compare(store, first, second, **filters)
    lines = list(_lines(found.pairs))
    tested = " or ".join(sorted({units(pair.unit) for pair in found.pairs}))
    pairs = [{**asdict(pair), "sentence": sentence(pair, found.margin)} for pair in found.pairs]
    return render.write(
        format,
        _tables(found, lines, bool(filters.get("subgroups"))),
        f"{found.conclusion} {FOOTER.format(units=tested)}",
        fields=Table("", FIELDS, lines).fields(),
        json=lambda _: {**asdict(found), "pairs": pairs},
    )


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
    told("p_not_worse", lambda line: line.pair.not_worse if line.name == ALL else None),
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
        Column("p (not worse)" if found.margin is not None else None, "pair.not_worse", "p"),
        Column("cells", "pair.cells"),
        Column("tested", "pair", lambda pair: f"{pair.groups:,} {units(pair.unit, pair.groups)}"),
    ]
    yield Table(
        f"{found.names[0]} against {found.names[1]}, by {found.kind}",
        columns,
        [line for line in lines if line.name == ALL],
        style=lambda line: "bold" if line.holm < 0.05 else "",
        notes=[
            " ".join([sentence(p, found.margin), *(f"{n}." for n in p.notes)]) for p in found.pairs
        ],
    )
    classes = [line for line in lines if line.name != ALL]
    if classes:
        name, images = Column("class", "name", words=True), Column("images", "difference.n")
        yield Table("AUROC class by class", [*PLACE, name, *TESTS, images], classes)
    if subgroups:
        for pair in found.pairs:
            about = f"{pair.metric} on {pair.target}"
            yield by_value.table(pair.subgroups, pair.names, about, pair.unit)
