"""Sources × targets: the scores, sizes and nearness that a recommendation learns from."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark import added, registry
from benchmark.api import Ready
from benchmark.data.tables import read_table
from benchmark.errors import BenchError
from benchmark.metadata.cells import is_missing
from benchmark.stats import Array
from benchmark.store import Store
from reports.distances import measured
from reports.leaderboard import gains
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place
from reports.leaderboard.rows import Row, paired

#: The MedMNIST study (arXiv:2412.20172): 15 sources, 12 targets and eight published scores.
MEDMNIST = Path(__file__).parent.parent / "published" / "medmnist_scores.csv"
NEAR = "near:"  # begins the names of columns that tell nearness
Pairs = Mapping[tuple[str, str], float]  # of (source, target)
Run = tuple[float, float, float]  # score, its standard error, seconds


@dataclass(frozen=True)
class Matrix:
    """What is known: scores (S, T), higher is better, NaN where not run; nearness (M, S, T)."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    scores: Array
    images: Array  # (S,) of each source; NaN where unknown
    near: Array  # of M methods, more is nearer; NaN where unknown
    methods: tuple[str, ...]
    errors: Array  # (S, T) standard errors of the scores; NaN where unknown
    seconds: Array  # (S,) that each would take; NaN where unknown


def build(
    scores: Pairs,
    *,
    images: Mapping[str, float] | None = None,
    near: Mapping[str, Pairs] | None = None,
    errors: Pairs | None = None,
    seconds: Mapping[str, float] | None = None,
    sources: Iterable[str] = (),
    targets: Iterable[str] = (),
) -> Matrix:
    """From scores by (source, target); `sources` and `targets` name those without any score.

    No target foretells itself, neither by its score nor by being nearest to itself.
    """
    rows = tuple(sorted({*(source for source, _ in scores), *sources}))
    columns = tuple(sorted({*(target for _, target in scores), *targets}))

    def table(values: Pairs) -> Array:
        found = [
            math.nan if s == t else values.get((s, t), math.nan) for s in rows for t in columns
        ]
        return np.reshape(found, (len(rows), len(columns)))

    def column(values: Mapping[str, float]) -> Array:
        return np.array([values.get(source) or math.nan for source in rows])

    parts = {name: table(part) for name, part in (near or {}).items()}
    parts = {name: part for name, part in parts.items() if np.isfinite(part).any()}
    return Matrix(
        rows, columns, table(scores), column(images or {}),
        np.reshape([*parts.values()], (-1, len(rows), len(columns))), tuple(parts),
        table(errors or {}), column(seconds or {}),
    )  # fmt: skip


def images_of(source: str) -> float:
    """How many images a source has by its card; NaN for one without or no longer known."""
    card = registry.card("source", source) if source != "none" else None
    return float(card.images) if card and card.images > 0 else math.nan


def _at_hand(source: str) -> bool:
    """Whether it is known here and can be run as it is, no file of weights asked for first."""
    try:
        return not isinstance(registry.load("source", source), Ready)
    except BenchError:  # of an imported bundle, whose plugin is not here
        return False


def of_store(
    store: Store,
    target: str = "",
    *,
    sources: Sequence[str] = (),
    fusion: str = "none",
    **where: Sequence[str],
) -> tuple[Place, Matrix, list[str]]:
    """The largest comparable part of a store, the target, if any, among it; and what was left out.

    A store without results gives a matrix without scores, of the sources with a distance to the
    target or else of all there are. `sources` are those to keep, if not all; `where` protocols,
    modes and archs.
    """
    runs, left = _runs(store, fusion, where)
    usual = {"protocols": "standard", "modes": "finetune", "archs": "resnet50"}
    nowhere = Place(*((where.get(k) or [name])[0] for k, name in usual.items()), metric="")
    place = max(runs, key=lambda place: (len(runs[place]), place), default=nowhere)
    measures, notes = measured(store, store.outcomes("distance"), place.arch, set(), ())
    near = {
        one.label: {k: v.value * (1 if one.more_is_near else -1) for k, v in one.values.items()}
        for one in measures
    }
    found = runs.get(place, {})
    reached = {s for pairs in near.values() for s, t in pairs if t == target and s != target}
    kept = set(sources) or {source for source, _ in found} | reached
    kept = kept or {s for s in registry.names("source") if images_of(s) > 0 and _at_hand(s)}
    found = {pair: run for pair, run in found.items() if pair[0] in kept}
    scores, errors, took = ({pair: run[i] for pair, run in found.items()} for i in range(3))
    images = {source: images_of(source) for source in kept} | added.seen(store)
    known = build(
        scores, images=images, errors=errors, near=near, sources=kept,
        seconds=_seconds(store, place.arch, kept, took, target), targets=[target] if target else (),
    )  # fmt: skip
    notes += gains.told(left[place])
    notes += [f"Not used, for it is not comparable: {' '.join(o[:3])}." for o in runs if o != place]
    return place, known, notes


def _runs(
    store: Store, fusion: str, where: Mapping[str, Sequence[str]]
) -> tuple[dict[Place, dict[tuple[str, str], Run]], dict[Place, list[gains.Left]]]:
    """The whole rows by place; and what was left out of each."""
    runs, left = defaultdict(dict), defaultdict(list)
    some = any(store.keys("run"))
    boards = leaderboard.boards(store, fusions=(fusion,), **where) if some else ()
    for made, others in gains.of_one_partition(boards):
        sign = 1 if higher_is_better(made.headline) else -1
        for place, rows in gains.by_place(made, fusion).items():
            fair, why = gains.fair(made, rows)
            left[place] += [*others, *why]
            for (source, row), error in zip(fair.items(), _errors([*fair.values()]), strict=True):
                if row.headline is not None and source != made.target:
                    score = sign * row.headline.value
                    runs[place][source, made.target] = (score, error, row.seconds)
    return runs, left


def _errors(rows: Sequence[Row]) -> list[float]:
    """The standard error of each row against the others of its target.

    Patients move all rows of a target alike, which is the target's level and no noise of one.
    """
    draws = [np.asarray(row.draws) for row in rows]
    if len(rows) < 2 or any(paired(row) != paired(rows[0]) for row in rows):
        return [float(np.nanstd(one)) for one in draws]
    off = np.array(draws) - np.nanmean(draws, axis=0)
    return (np.nanstd(off, axis=1) * math.sqrt(len(rows) / (len(rows) - 1))).tolist()


def _seconds(
    store: Store, arch: str, sources: Iterable[str], took: Pairs, target: str
) -> dict[str, float]:
    """What each source would take: a run, and a pretraining where no weights are ready."""
    made = {one.spec.source: one.seconds for one in store.summaries("pretrain")
            if one.status == "ok" and one.spec.arch == arch}  # fmt: skip
    here = [seconds for (_, t), seconds in took.items() if t == target]
    run = float(np.mean(here or [*took.values()] or [math.nan]))
    more = float(np.mean([*made.values()] or [0.0]))
    ready = {s for s in sources if s in made or s == "none" or not _at_hand(s)}
    return {s: run if s in ready else run + more for s in sources}


def of_files(results: Path, distances: Path | None = None) -> Matrix:
    """From a CSV of source, target, score (optional: images, of the source), higher is better.

    Its columns `near:NAME` say how near the two are, more being nearer. `distances`: source,
    target, distance, and optionally method and more_is_near (1 or 0). A pair that was not run has
    no row, or an empty score. A folder is taken for a store.
    """
    if results.is_dir() and distances is None:
        return of_store(Store(results))[1]
    rows = read_table(results, need=("source", "target", "score"))
    scores = {_pair(row): _number(row, "score", results) for row in rows}
    if len(scores) < len(rows):
        raise BenchError(f"{results} has a pair twice.", "Average its scores into one row.")
    images = {r["source"]: _number(r, "images", results) for r in rows if r.get("images")}
    near = defaultdict[str, dict[tuple[str, str], float]](dict)
    for name in (name for row in rows[:1] for name in row if name.startswith(NEAR)):
        near[name.removeprefix(NEAR)] = {_pair(r): _number(r, name, results) for r in rows}
    need = ("source", "target", "distance")
    for row in read_table(distances, need=need) if distances else ():
        sign = 1 if row.get("more_is_near", "").strip().lower() in ("1", "true", "yes") else -1
        value = sign * _number(row, "distance", distances)
        near[row.get("method") or "distance"][_pair(row)] = value
    return build(scores, images=images, near=near)


def _pair(row: Mapping[str, str]) -> tuple[str, str]:
    return row["source"], row["target"]


def _number(row: Mapping[str, str], name: str, path: Path | None) -> float:
    try:
        return math.nan if is_missing(row[name]) else float(row[name])
    except ValueError as error:
        said = f"{path}: the {name} of {' on '.join(_pair(row))} is '{row[name]}'."
        raise BenchError(said, "Write a number.") from error
