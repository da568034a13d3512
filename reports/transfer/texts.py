"""What is said of distances and gains: a verdict, tables, scatter plots and JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmark import stats
from benchmark.errors import BenchError
from benchmark.files import write
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import overlaps, plots, render
from reports.distances import UNDER, Measure
from reports.leaderboard import table as leaderboard
from reports.leaderboard.gains import Pair
from reports.render import Column, Table, told
from reports.transfer.correlations import SETS, Analysis, Line, analyse

PLAIN = {
    "log size": "minus the logarithm of the source's images",
    "static": "minus the source's mean place on the other targets",
    "imagenet first": "0 for ImageNet, 1 for every other source",
}
FOOTER = (
    "A negative ρ says that nearer sources gained more; a score is marked − and enters with its "
    "sign turned. ρ is Spearman's with a 95 % bootstrap over sources and targets "
    "crossed, p permutes the sources, for all targets at once; both need five sources. p (Holm) is "
    "that of one among all distances of the table over the same pairs, and what a distance is told "
    "from 0 by. τ by target is the mean weighted τ of the single targets."
)


def show(
    store: Store,
    *,
    distances: Sequence[str] = (),
    targets: Sequence[str] = (),
    modes: Sequence[str] = (),
    fusion: str = "none",
    baseline: str = "scratch",
    format: str = "table",
    plot: Path | None = None,
) -> str:
    """The analyses as text for stdout; `plot` names an SVG file for the scatter."""
    render.check(format)
    baseline = leaderboard.known_baseline(baseline)
    # Of all modes: frozen features are held against a network trained on the target.
    boards = leaderboard.boards(store, targets=targets, fusions=(fusion,), baseline=baseline)
    found = analyse(store, boards, distances=distances, fusion=fusion, baseline=baseline)
    found = [analysis for analysis in found if not modes or analysis.place.mode in modes]
    if not found:
        base = {"scratch": "--source none --mode finetune", "random": "--source none"}.get(
            baseline, "each target as a --source too"
        )
        raise BenchError(
            f"No source has a gain over the baseline '{baseline}' on any target.",
            f"Run sources beside it, every fold: `bench run {base} --source … --target …`.",
        )
    if plot is not None:
        panels = [panel for analysis in found for panel in panels_of(analysis)]
        if not panels:
            raise BenchError("There is no distance to plot.", "Measure one with `bench distance`.")
        write(plot, plots.document(panels))
    tables = (table for analysis in found for table in (_pair_table(analysis), table_of(analysis)))
    return render.write(
        format,
        tables,
        FOOTER,
        fields=(row for analysis in found for row in _fields(analysis)),
        json=lambda _: [_json(analysis) for analysis in found],
    )


def verdict(analysis: Analysis) -> str:
    """Which distance goes with the gains, if any can be told to, and whether a baseline does."""
    lines = [line for line in analysis.lines if line.pairs == "within_target"]
    best = {
        kind: min(
            (line for line in lines if line.kind == kind
             and not math.isnan(line.correlation.spearman)),
            key=lambda line: (bool(line.warning), line.correlation.spearman),  # told from 0 first
            default=None,
        )
        for kind in ("distance", "baseline")
    }  # fmt: skip
    near, other = best["distance"], best["baseline"]
    if near is None:
        return "No distance has a correlation within targets."
    rho = f"ρ = {near.correlation.spearman:+.2f} within targets"
    if math.isnan(near.correlation.p):
        return (
            f"Fewer than {stats.SOURCES} sources cannot say whether a distance foretells the gain."
        )
    if near.warning or near.correlation.spearman >= 0:
        text = f"No distance can be said to foretell the gain; {near.name} comes nearest ({rho})"
    else:
        text = f"{near.name} foretells the gain best of the distances ({rho})"
    if other is None:
        return f"{text}."
    ahead = "ahead of it" if other.correlation.spearman <= near.correlation.spearman else "behind"
    return (
        f"{text}; the best baseline, {other.name}, is {ahead} ({other.correlation.spearman:+.2f})."
    )


def table_of(analysis: Analysis) -> Table:
    """The correlations, distances first; a set of pairs equal to the one above is left out."""
    itself = any(pair.source == pair.target for pair in analysis.pairs)
    shown = [line for line in analysis.lines if itself or line.pairs != "without_self"]
    turned = {measure.label for measure in analysis.measures if measure.more_is_near}

    def label(line: Line) -> str:
        if line.kind == "baseline":
            return f"baseline: {line.name}"
        return f"−{line.name}" if line.name in turned else line.name

    def rho(line: Line) -> Estimate:
        return Estimate(line.correlation.spearman, line.correlation.low, line.correlation.high, 0)

    def holm(line: Line) -> float | None:
        return None if line.kind == "baseline" else line.p_holm

    def clear(line: Line) -> str:
        if math.isnan(line.correlation.p):
            return "–" if math.isnan(line.correlation.spearman) else "too few sources"
        return "no" if line.warning else "yes"

    def negated(line: Line) -> bool:
        return line.name in turned or (line.kind == "baseline" and line.name != "imagenet first")

    notes = [verdict(analysis)]
    if not math.isnan(highest := analysis.ceiling):
        notes.append(
            "The gains are estimates: within targets not even a perfect distance could be "
            f"expected above |ρ| = {highest:.2f}."
        )
    notes += [measure.about for measure in analysis.measures if measure.about]
    # Of one pair set only: a page of warnings is read by nobody.
    notes += [
        f"{line.name}, {SETS[line.pairs]}: {line.warning}"
        for line in shown
        if line.warning
        and line.kind == "distance"
        and line.pairs == "within_target"
        and not math.isnan(line.correlation.p)
    ]
    baselines = [f"{name}: {text}" for name, text in PLAIN.items()]
    return Table(
        f"Distance and gain · {analysis.title}",
        [
            Column("distance", label, words=True),
            told("name"),
            told("kind"),
            told("negated", negated),
            Column("pairs", "pairs", SETS.__getitem__, "pairs", words=True),
            Column("n", "correlation.n"),
            Column("ρ", rho, "+.2f"),
            Column("p", "correlation.p", "p"),
            Column("p (Holm)", holm, "p", "p_holm"),
            Column("told from 0", clear),
            told("spearman", "correlation.spearman"),
            Column("r", "correlation.pearson", "+.2f", "pearson"),
            Column("τ", "correlation.kendall", "+.2f", "kendall"),
            Column("weighted τ", "correlation.weighted_tau", "+.2f", "weighted_tau"),
            *(told(name, f"correlation.{name}") for name in ("p", "low", "high", "n")),
            Column("τ by target", "by_target", "+.2f", "tau_by_target"),
            told("warning"),
        ],
        shown,
        style=lambda line: "dim" if line.kind == "baseline" else "",
        notes=[*notes, *analysis.notes, "Baselines: " + "; ".join(baselines) + "."],
        facts=_facts(analysis),
    )


def _facts(analysis: Analysis) -> dict[str, Any]:
    place = analysis.place._asdict()
    return {**place, "fusion": analysis.fusion, "baseline": analysis.baseline}


def _fields(analysis: Analysis) -> list[dict[str, Any]]:
    return replace(table_of(analysis), rows=analysis.lines).fields()


def _pair_table(analysis: Analysis) -> Table:
    """Every pair with its gain and its distances, so that a reader sees the points themselves."""
    pairs, measures = analysis.pairs, analysis.measures
    marked = [pair for pair in pairs if overlaps.between(pair.source, pair.target)]
    notes = [f"T: {analysis.about}."]
    notes += [f"{', '.join(m.title for m in measures)}."] if measures else []
    notes += [overlaps.NOTE] if marked else []
    notes += [UNDER] * any(measure.under for measure in measures)
    notes += overlaps.among(name for pair in pairs for name in (pair.source, pair.target))
    columns = [
        Column("target", "target", words=True),
        Column("source", lambda pair: "† " * (pair in marked) + pair.source, words=True),
        Column("T %", "gain", "+.2f"),
    ]
    for each in measures:

        def near(pair: Pair, each: Measure = each) -> str | None:
            value = each.values.get((pair.source, pair.target))
            if value is None:
                return None
            return f"{each.mark(pair.source, pair.target)}{value.value:.4g}"

        columns.append(Column(each.label, near))
    return Table(f"Gains · {analysis.title}", columns, pairs, notes=notes)


def panels_of(analysis: Analysis) -> list[plots.Chart]:
    """A scatter for each distance of the analysis."""
    panels = []
    for measure in analysis.measures:
        points = [
            plots.Point(pair.source, pair.target, value, pair.gain)
            for pair in analysis.pairs
            if (value := measure.values.get((pair.source, pair.target))) is not None
        ]
        heading = f"{measure.label} · {analysis.title}"
        made = plots.scatter(heading, points, x_title=measure.title, y_title="gain T, per cent")
        panels += [made] if made else []
    return panels


def _json(analysis: Analysis) -> dict[str, Any]:
    return {
        **_facts(analysis),
        "verdict": verdict(analysis),
        "ceiling": analysis.ceiling,
        "pairs": [
            asdict(pair) | {"overlap": overlaps.between(pair.source, pair.target)}
            for pair in analysis.pairs
        ],
        "distances": [
            {
                "name": measure.label,
                "more_is_near": measure.more_is_near,
                "noise": measure.noise,
                "about": measure.about,
                "values": [
                    {
                        "source": source,
                        "target": target,
                        "distance": value,
                        **measure.facts(source, target),
                    }
                    for (source, target), value in sorted(measure.values.items())
                ],
            }
            for measure in analysis.measures
        ],
        "correlations": _fields(analysis),
        "notes": analysis.notes,
    }
