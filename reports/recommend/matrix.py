"""Sources × targets: the scores, sizes and nearness that a recommendation learns from."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmark import registry
from benchmark.api import Ready
from benchmark.data.tables import read_table
from benchmark.errors import BenchError
from benchmark.registry import names, plugins
from benchmark.stats import Array
from benchmark.store import Store
from reports.distances import measured
from reports.leaderboard import gains
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place
from reports.leaderboard.rows import Row, paired

PUBLISHED = Path(__file__).parent.parent / "published"
MISSING = ("", "na", "n/a", "nan", "null", "none")
Scores = Mapping[tuple[str, str], float]  # of (source, target)


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

    def without_self(self) -> "Matrix":
        """No target foretells itself."""
        same = np.array([[s == t for t in self.targets] for s in self.sources])
        return replace(self, scores=np.where(same, np.nan, self.scores))


class Run(NamedTuple):
    """A source on a target: its score, the error of that, and what it took."""

    score: float
    error: float
    seconds: float


def build(
    scores: Scores,
    *,
    images: Mapping[str, float] | None = None,
    near: Mapping[str, Scores] | None = None,
    errors: Scores | None = None,
    sources: Iterable[str] = (),
    also: Iterable[str] = (),
) -> Matrix:
    """From scores by (source, target); `sources` and `also` name those without any score."""
    sources = tuple(sorted({*(source for source, _ in scores), *sources}))
    targets = tuple(sorted({*(target for _, target in scores), *also}))

    def table(values: Scores) -> Array:
        return np.array([[values.get((s, t), np.nan) for t in targets] for s in sources])

    # A published matrix may name a thousand sources: only those that could be ours are looked up.
    ours = {name for kind in ("source", "target") for name in (*names(kind), *plugins(kind))}
    known = images or {}
    look = {s: images_of(s) for s in sources if s not in known and s.partition(":")[0] in ours}
    counts = np.array([{**look, **known}.get(s, math.nan) for s in sources])
    near = {name: part for name, part in (near or {}).items() if np.isfinite(table(part)).any()}
    parts = np.array([table(part) for part in near.values()])
    return Matrix(
        sources, targets, table(scores), np.where(counts > 0, counts, np.nan),
        parts.reshape(-1, len(sources), len(targets)), tuple(near), table(errors or {}),
    ).without_self()  # fmt: skip


def images_of(source: str) -> float:
    """How many images a source has by its card; NaN for one without or no longer known."""
    card = registry.card("source", source) if source != "none" else None
    return float(card.images) if card and card.images > 0 else math.nan


def _at_hand(source: str) -> bool:
    """Whether it can be run as it is: no file of weights has to be asked for first."""
    return not isinstance(registry.load("source", source), Ready)


def of_store(
    store: Store,
    target: str = "",
    *,
    sources: Sequence[str] = (),
    fusion: str = "none",
    **where: Sequence[str],
) -> tuple[Place, Matrix, list[str], Array]:
    """The largest comparable part of a store, the target, if any, among it; what was left out; and
    the seconds that each source would take (S,).

    A store without results gives a matrix without scores, of the sources with a distance to the
    target or else of all there are. `sources` are those to keep, if not all; `where` protocols,
    modes and archs.
    """
    runs, left = _runs(store, fusion, **where)
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
    kept = {*(source for source, _ in found), *reached, *sources}
    kept = kept or {name for name in names("source") if images_of(name) > 0 and _at_hand(name)}
    if sources:
        kept &= set(sources)
        found = {pair: run for pair, run in found.items() if pair[0] in kept}
    others = [" ".join(other[:3]) for other in runs if other != place]
    notes += left[place] + [f"Not used, for it is not comparable: {name}." for name in others]
    scores, errors = ({pair: run[i] for pair, run in found.items()} for i in (0, 1))
    also = (target,) if target else ()
    known = build(scores, errors=errors, near=near, sources=kept, also=also)
    return place, known, notes, _seconds(store, place, known.sources, target, found)


def _runs(
    store: Store, fusion: str, **where: Sequence[str]
) -> tuple[dict[Place, dict[tuple[str, str], Run]], dict[Place, list[str]]]:
    """The whole rows by place, a higher score being better; and what was left out of each."""
    runs: dict[Place, dict[tuple[str, str], Run]] = defaultdict(dict)
    left: dict[Place, list[str]] = defaultdict(list)
    made_of = (
        leaderboard.boards(store, fusions=(fusion,), **where) if any(store.keys("run")) else ()
    )
    for made, others in gains.of_one_partition(made_of):
        sign = 1 if higher_is_better(made.headline) else -1
        for place, rows in gains.by_place(made, fusion).items():
            fair, why = gains.fair(made, rows)
            left[place] += [*others, *why]
            for (source, row), error in zip(fair.items(), _errors([*fair.values()]), strict=True):
                if row.headline is not None and source != made.target:
                    score = sign * row.headline.value
                    runs[place][source, made.target] = Run(score, error, row.seconds)
    return {place: part for place, part in runs.items() if part}, left


def _errors(rows: Sequence[Row]) -> list[float]:
    """The standard error of each row against the others of its target.

    Patients move all rows of a target alike, which is the target's level and no noise of one.
    """
    draws = [np.asarray(row.draws) for row in rows]
    if len(rows) < 2 or any(paired(row) != paired(rows[0]) for row in rows):
        return [float(np.std(one)) for one in draws]
    off = np.array(draws) - np.mean(draws, axis=0)
    return (off.std(axis=1) * math.sqrt(len(rows) / (len(rows) - 1))).tolist()


def _seconds(
    store: Store, place: Place, sources: Sequence[str], target: str, runs: Mapping
) -> Array:
    """What each source would take (S,): a run, and a pretraining where no weights are ready."""
    took = {s: one for one in store.summaries("pretrain") if one.status == "ok"
            and (s := one.spec.source) and one.spec.arch == place.arch}  # fmt: skip
    here = [run.seconds for (_, t), run in runs.items() if t == target]
    run = np.mean(here or [run.seconds for run in runs.values()] or [math.nan])
    pretrained = np.mean([one.seconds for one in took.values()] or [0.0])
    ready = [s in took or s == "none" or not _at_hand(s) for s in sources]
    return np.asarray(run + np.where(ready, 0.0, pretrained), np.float64)


def of_files(results: Path, distances: Path | None = None) -> Matrix:
    """From a CSV of source, target, score (optional: images, of the source), higher is better.

    `distances`: source, target, distance, and optionally method and more_is_near (1 or 0). A pair
    that was not run has no row, or an empty score. A folder is taken for a store.
    """
    if results.is_dir() and distances is None:
        return of_store(Store(results))[1]
    rows = _read(results, "score")
    scores = _column(rows, "score", results)
    if len(scores) < len(rows):
        raise BenchError(f"{results} has a pair twice.", "Average its scores into one row.")
    sized = _column([row for row in rows if row.get("images")], "images", results)
    images = {source: count for (source, _), count in sized.items()}
    near: dict[str, dict[tuple[str, str], float]] = defaultdict(dict)
    for row in _read(distances, "distance") if distances else ():
        sign = 1 if row.get("more_is_near", "").strip().lower() in ("1", "true", "yes") else -1
        for pair, value in _column([row], "distance", distances).items():
            near[row.get("method") or "distance"][pair] = sign * value
    return build(scores, images=images, near=near)


def published() -> Matrix:
    """The MedMNIST study (arXiv:2412.20172): 15 sources, 12 targets and nine published scores."""
    path = PUBLISHED / "medmnist_scores.csv"
    rows = _read(path, "auc")
    sizes = of_files(PUBLISHED / "medmnist_matrix.csv")
    images = dict(zip(sizes.sources, sizes.images.tolist(), strict=True))
    near = {name: _column(rows, name, path) for name in list(rows[0])[2:] if name != "auc"}
    return build(_column(rows, "auc", path), images=images, near=near)


def _read(path: Path, value: str) -> list[dict[str, str]]:
    rows = read_table(path, need=("source", "target", value))
    if not rows:
        raise BenchError(f"{path} has no rows.", f"Give rows of source, target, {value}.")
    return rows


def _column(rows: Sequence[Mapping[str, str]], name: str, path: Path | None) -> dict:
    found = {}
    for row in rows:
        pair, text = (row["source"], row["target"]), row[name].strip()
        try:
            found[pair] = math.nan if text.lower() in MISSING else float(text)
        except ValueError as error:
            said = f"{path}: the {name} of {' on '.join(pair)} is '{text}'."
            raise BenchError(said, "Write a number.") from error
    return found
