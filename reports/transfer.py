"""`bench transfer`: does a distance foretell what a source gains, and better than plain baselines?

A negative ρ says that nearer sources gained more: a score, of which more is nearer, enters with
its sign turned.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmark import stats
from benchmark.errors import BenchError
from benchmark.files import write
from benchmark.stats import Array, Correlation, Estimate, Pairs
from benchmark.store import Store
from reports import overlaps, plots, render
from reports.distances import Measure, measured
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import Baseline, Board
from reports.leaderboard.gains import OVER, Pair, Place, gather
from reports.recommend.matrix import images_of
from reports.render import Column, Table, told

SETS: dict[Pairs, str] = {
    "all": "all pairs",
    "without_self": "without self",
    "within_target": "within targets",
}
PLAIN = {
    "log size": "minus the logarithm of the source's images",
    "static": "minus the source's mean rank on the other targets",
    "imagenet first": "0 for ImageNet, 1 for every other source",
}
FOOTER = (
    "A negative ρ says that nearer sources gained more; a score is marked − and enters with its "
    "sign turned. ρ is Spearman's with a 95 % bootstrap over sources and targets "
    "crossed, p permutes the sources, for all targets at once; both need five sources. τ by target "
    "is the mean weighted τ of the single targets."
)


@dataclass(frozen=True)
class Line:
    """How one distance, or one plain baseline, goes with the gains."""

    name: str
    kind: Literal["distance", "baseline"]
    pairs: Pairs
    correlation: Correlation
    by_target: float  # mean weighted tau of the targets, each by itself
    warning: str


@dataclass(frozen=True)
class Analysis:
    """The gains of one protocol, mode and network against every distance there is."""

    place: Place
    fusion: str
    baseline: Baseline
    pairs: tuple[Pair, ...]
    measures: tuple[Measure, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """`standard · finetune · resnet50 · image alone`."""
        protocol, mode, arch, _ = self.place
        fusion = "image alone" if self.fusion == "none" else self.fusion
        return " · ".join((protocol, mode, arch, fusion))

    @property
    def ceiling(self) -> float:
        """How large |ρ| within targets can be at most, for the gains are estimates themselves."""
        pairs = [pair for pair in self.pairs if pair.source != pair.target]
        errors = [(pair.gain.high - pair.gain.low) / (2 * 1.96) for pair in pairs]
        targets = [pair.target for pair in pairs]
        return stats.ceiling([pair.gain.value for pair in pairs], errors, targets)

    @property
    def about(self) -> str:
        """What the gain is, for an axis or a caption."""
        metric = leaderboard.metric_title(self.place.metric)
        return f"gain T of {metric} over {OVER[self.baseline]}, per cent"


def analyse(
    store: Store,
    boards: Sequence[Board],
    *,
    distances: Sequence[str] = (),
    fusion: str = "none",
    baseline: Baseline = "scratch",
) -> list[Analysis]:
    """One analysis for each protocol, mode, network and metric in which a source has a gain."""
    outcomes = store.outcomes("distance")
    analyses = []
    for place, group in gather(boards, fusion, baseline).items():
        found = group.pairs
        if not found:
            continue
        measures, notes = measured(
            store, outcomes, place.arch, group.weights, distances, group.split
        )
        lines = tuple(_lines(found, measures))
        notes = [*_cautions(found, measures), *notes, *group.left]
        analyses.append(
            Analysis(place, fusion, baseline, tuple(found), tuple(measures), lines, tuple(notes))
        )
    return sorted(analyses, key=lambda analysis: (-len(analysis.pairs), analysis.place))


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


# --- correlations -----------------------------------------------------------------------------


def _lines(pairs: Sequence[Pair], measures: Sequence[Measure]) -> Iterator[Line]:
    for measure in measures:
        values = [measure.values.get((pair.source, pair.target)) for pair in pairs]
        sign = -1 if measure.more_is_near else 1
        near = np.array([np.nan if value is None else sign * value.value for value in values])
        yield from _correlated(measure.label, "distance", near, pairs)
    for name, near in plain(pairs).items():
        yield from _correlated(name, "baseline", near, pairs)


def plain(pairs: Sequence[Pair]) -> dict[str, Array]:
    """What a distance has to beat, for each pair; less is better, as for a distance."""
    sources, targets = _names(pairs)
    gains = np.array([pair.gain.value for pair in pairs])
    sizes = {source: images_of(source) for source in set(sources)}
    return {
        "log size": -np.log([sizes[source] for source in sources]),
        "static": -stats.static_baseline(gains, targets, sources),
        "imagenet first": np.array([float(source != "imagenet") for source in sources]),
    }


def _names(pairs: Sequence[Pair]) -> tuple[list[str], list[str]]:
    return [pair.source for pair in pairs], [pair.target for pair in pairs]


def _correlated(
    name: str, kind: Literal["distance", "baseline"], near: Array, pairs: Sequence[Pair]
) -> Iterator[Line]:
    sources, targets = _names(pairs)
    gains = np.array([pair.gain.value for pair in pairs])
    for which in SETS:
        found = correlated(near, gains, targets, sources, pairs=which)
        keep = np.array([which == "all" or s != t for s, t in zip(sources, targets, strict=True)])
        taus = stats.weighted_tau_by_target(-near[keep], gains[keep], np.array(targets)[keep])
        known = [tau for tau in taus.values() if not math.isnan(tau)]
        mean = -float(np.mean(known)) if known else math.nan
        yield Line(name, kind, which, found, mean, stats.power_warning(found))


def correlated(
    near: Array, gains: Array, targets: Sequence[str], sources: Sequence[str], *, pairs: Pairs
) -> Correlation:
    """The correlation of `near`, of which less is nearer, with the gains."""
    # Weighted tau weighs the large: hand in nearness, and turn the signs back.
    found = stats.correlate(-near, gains, targets, sources, pairs=pairs)
    return Correlation(
        -found.spearman, -found.pearson, -found.kendall, -found.weighted_tau,
        found.p, -found.high, -found.low, found.n,
    )  # fmt: skip


def _cautions(pairs: Sequence[Pair], measures: Sequence[Measure]) -> Iterator[str]:
    """What a reader has to know before believing a correlation of these pairs."""
    if len(pairs) < 3:
        yield (
            f"There {'is 1 pair' if len(pairs) == 1 else f'are {len(pairs)} pairs'} of source and "
            "target, and no correlation has fewer than 3: run more sources or targets."
        )
    if not measures:
        yield "The store has no distance for these pairs: measure some with `bench distance`."
    yield from (text for measure in measures if (text := _observers(pairs, measure)))
    for measure in measures:
        known = [measure.values.get((pair.source, pair.target)) for pair in pairs]
        count = sum(value is not None and math.isfinite(value.value) for value in known)
        if count < len(pairs):
            yield (
                f"{measure.label} is known for {count} of {len(pairs)} pairs: its line and the "
                "baselines' are not of the same pairs."
            )


def _observers(pairs: Sequence[Pair], measure: Measure) -> str:
    """The range of the correlation when each of the people asked is left out."""
    sources, targets = _names(pairs)
    gains = np.array([pair.gain.value for pair in pairs])
    found = []
    for left in measure.without.values():
        near = [left.get((pair.source, pair.target), math.nan) for pair in pairs]
        rho = stats.correlate(np.array(near), gains, targets, sources, pairs="within_target",
                              draws=0, permutations=0)  # fmt: skip
        found.append(rho.spearman)
    known = [rho for rho in found if not math.isnan(rho)]
    if not known:
        return ""
    return (
        f"{measure.label}: with each of {len(found)} observers left out, ρ within targets goes "
        f"from {min(known):+.2f} to {max(known):+.2f}."
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


# --- texts ------------------------------------------------------------------------------------


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
    notes += overlaps.among(name for pair in pairs for name in (pair.source, pair.target))
    columns = [
        Column("target", "target", words=True),
        Column("source", lambda pair: "† " * (pair in marked) + pair.source, words=True),
        Column("T %", "gain", "+.2f"),
    ]
    for each in measures:
        near = each.values
        columns.append(Column(
            each.label, lambda pair, near=near: near.get((pair.source, pair.target)),
            lambda value: f"{value.value:.4g}",
        ))  # fmt: skip
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
                    {"source": source, "target": target, "distance": value}
                    for (source, target), value in sorted(measure.values.items())
                ],
            }
            for measure in analysis.measures
        ],
        "correlations": _fields(analysis),
        "notes": analysis.notes,
    }
