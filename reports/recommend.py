"""`bench recommend`: which source to run next on a target that has few runs, or none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.errors import BenchError
from benchmark.stats import Estimate, interval
from benchmark.store import Store
from reports import belief, evaluate, formats, leaderboard, matrix
from reports.board import higher_is_better
from reports.evaluate import METRICS, OURS, Trial
from reports.matrix import Matrix

STUDY = "MedMNIST study (arXiv:2412.20172)"
FOOTER = (
    "Expected scores come from how a source did on other targets, its nearness and its size, each "
    "weighed by how well it foretold the others; near targets count more. Regret is what is lost "
    "against the best source if this one were the only one run."
)
EVALUATION = (
    "One target left out at a time, nothing of it used but the runs chosen. hit@k: the best source "
    "is among the first k. Regret k: best minus best tried after k runs, in units of best minus "
    "median. Intervals resample targets. No constant was tuned: see the head of reports/belief.py."
)


@dataclass(frozen=True)
class Advice:
    """What is believed of one source on the target."""

    source: str
    run: float | None  # its score, where it was run
    expected: Estimate  # the score; relative to the target's mean source before any run
    regret: float
    best: float  # probability of being the best of all
    elsewhere: float  # mean place on the other targets, 0 the worst to 1 the best
    images: float


@dataclass(frozen=True)
class Recommendation:
    """The sources for one target, the best expected first."""

    target: str
    about: str
    relative: bool  # no run on the target: scores are differences to its mean source
    next: str | None
    sources: tuple[Advice, ...]
    notes: tuple[str, ...]


def recommend(
    known: Matrix, target: str, *, higher: bool = True, about: str = ""
) -> Recommendation:
    """Rank the sources for a target of the matrix from the other targets and its own runs.

    `higher` says whether the metric is better where it is more; the matrix holds it turned.
    """
    column = known.targets.index(target)
    scores = known.scores[:, column]
    seen = {int(s): float(scores[s]) for s in np.flatnonzero(np.isfinite(scores))}
    hidden = known.scores.copy()
    hidden[:, column] = np.nan
    found = belief.believe(belief.learn(replace(known, scores=hidden), column), seen)
    candidates = [i for i, source in enumerate(known.sources) if source != target]
    samples = found.samples()[:, candidates]
    regrets = samples.max(axis=1, keepdims=True) - samples
    sign = 1 if higher else -1
    places = _places(hidden)
    advice = []
    for i, s in enumerate(candidates):
        low, high = sorted((sign * np.array(interval(samples[:, i]))).tolist())
        value = float(sign * found.mean[s])
        advice.append(
            Advice(
                source=known.sources[s],
                run=sign * seen[s] if s in seen else None,
                expected=Estimate(value, low, high, len(seen)),
                regret=float(regrets[:, i].mean()),
                best=float((samples.argmax(axis=1) == i).mean()),
                elsewhere=float(places[s]),
                images=float(known.images[s]),
            )
        )
    left = [s for s in candidates if s not in seen]
    following = known.sources[belief.next_run(found, seen, left)] if left else None
    order = sorted(advice, key=lambda one: (-sign * one.expected.value, one.source))
    return Recommendation(target, about, not seen, following, tuple(order), tuple(_trust(known)))


def _places(scores: np.ndarray) -> np.ndarray:
    """The mean place of each source (S,) over targets, from 0 for the worst to 1 for the best."""
    places = np.full(scores.shape, np.nan)
    for t, column in enumerate(scores.T):
        rows = np.flatnonzero(np.isfinite(column))
        if len(rows) > 1:
            below = (column[rows, None] > column[rows]).sum(axis=1)
            ties = (column[rows, None] == column[rows]).sum(axis=1) - 1
            places[rows, t] = (below + ties / 2) / (len(rows) - 1)
    count = np.isfinite(places).sum(axis=1)
    total = np.nansum(places, axis=1)
    return np.divide(total, count, out=np.full(len(scores), np.nan), where=count > 0)


def _trust(known: Matrix) -> list[str]:
    """How the recommendation does on the targets that are known, as far as they can tell."""
    whole = [t for t in range(len(known.targets)) if np.isfinite(known.scores[:, t]).sum() >= 3]
    if len(whole) < 3:
        return [
            f"{len(whole)} targets are too few to test the recommendation on; "
            f"`bench recommend --evaluate` tests it on the {STUDY}."
        ]
    found = evaluate.trials(known)
    lines = [line for line in evaluate.verdict(found) if "worse" in line or "better" in line]
    start = f"Tested on {len(whole)} targets by leaving each out:"
    return [f"{start} {line}" for line in lines] or [f"{start} it equals the static baseline."]


def show(
    store: Store,
    target: str,
    *,
    fusion: str = "none",
    protocols: Sequence[str] = (),
    archs: Sequence[str] = (),
    modes: Sequence[str] = (),
    format: str = "table",
) -> str:
    """The recommendation as text for stdout."""
    formats.check(format)
    place, known, notes = matrix.of_store(
        store, target, fusion=fusion, protocols=protocols, archs=archs, modes=modes
    )
    metric = leaderboard.metric_title(place.metric)
    about = " · ".join((place.protocol, place.mode, place.arch, metric))
    found = recommend(known, target, higher=higher_is_better(place.metric), about=about)
    found = replace(found, notes=(*found.notes, *notes))
    if format == "json":
        return formats.javascript({**vars(found), "sources": [vars(one) for one in found.sources]})
    if format == "csv":
        return formats.comma_separated([_flat(found, one) for one in found.sources])
    write = formats.terminal if format == "table" else formats.markdown
    return write([_table(found)], FOOTER)


def _flat(found: Recommendation, one: Advice) -> dict[str, Any]:
    return {
        "target": found.target,
        "source": one.source,
        "run": one.run,
        "relative": found.relative,
        **formats.numbers("expected_", one.expected),
        "expected_regret": one.regret,
        "probability_best": one.best,
        "elsewhere": one.elsewhere,
        "images": one.images,
        "next": one.source == found.next,
    }


def _table(found: Recommendation) -> formats.Table:
    lines = [
        [
            str(i), one.source, "–" if one.run is None else f"{one.run:.3f}",
            formats.interval(one.expected, sign=found.relative), f"{one.regret:.3f}",
            f"{one.best:.0%}", "–" if math.isnan(one.elsewhere) else f"{one.elsewhere:.2f}",
            "–" if math.isnan(one.images) else f"{one.images:,.0f}",
        ]
        for i, one in enumerate(found.sources, start=1)
    ]  # fmt: skip
    what = "score over the mean source" if found.relative else "expected score"
    say = f"Run next: {found.next}." if found.next else "Every source has been run."
    return formats.Table(
        title=f"Sources for {found.target} · {found.about}",
        head=["", "source", "run", what, "regret", "best", "place elsewhere", "images"],
        lines=lines,
        words=("source",),
        styles=["bold" if one.source == found.next else "" for one in found.sources],
        notes=[say, *found.notes],
    )


# --- evaluation -------------------------------------------------------------------------------


def show_evaluation(
    *, results: Path | None = None, distances: Path | None = None, format: str = "table"
) -> str:
    """How the recommendation and plain rules do, target by target left out."""
    formats.check(format)
    if results is None and distances is not None:
        raise BenchError("--distances needs the scores that go with them.", "Add --results FILE.")
    known = matrix.published() if results is None else matrix.of_files(results, distances)
    name = STUDY if results is None else results.name
    found = evaluate.trials(known)
    lines = evaluate.verdict(found)
    if known.methods:
        bare = evaluate.trials(replace(known, near=known.near[:0], methods=()))
        found.insert(1, Trial(f"{OURS} without distances", bare[0].numbers))
        lines += [f"Without distances: {line}" for line in evaluate.verdict(bare)]
    rows = [(trial.rule, evaluate.summary(trial)) for trial in found]
    if format in ("json", "csv"):
        flat = [
            {"rule": rule, "metric": metric, **formats.numbers("", value), "targets": value.n}
            for rule, numbers in rows
            for metric, value in numbers.items()
        ]
        if format == "csv":
            return formats.comma_separated(flat)
        return formats.javascript({"results": name, "rules": flat, "verdict": lines})
    table = formats.Table(
        title=f"Leave one target out · {name} · {len(known.sources)} sources",
        head=["rule", "targets", *METRICS.values()],
        lines=[
            [rule, str(numbers["tau"].n), *(_two(value) for value in numbers.values())]
            for rule, numbers in rows
        ],
        words=("rule",),
        styles=["bold" if rule.startswith(OURS) else "" for rule, _ in rows],
        notes=lines,
    )
    write = formats.terminal if format == "table" else formats.markdown
    return write([table], EVALUATION)


def _two(value: Estimate) -> str:
    if math.isnan(value.value):
        return "–"
    return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
