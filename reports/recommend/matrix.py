"""Sources × targets: the scores, sizes and nearness that a recommendation learns from."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmark import registry
from benchmark.api import Ready
from benchmark.errors import BenchError, DataMissing
from benchmark.registry import names, plugins
from benchmark.stats import Array
from benchmark.store import Store
from reports.distances import measured
from reports.leaderboard import gains
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.gains import Place

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
    methods: tuple[str, ...] = ()

    def without_self(self) -> "Matrix":
        """No target foretells itself."""
        same = np.array([[s == t for t in self.targets] for s in self.sources])
        scores = np.where(same, np.nan, self.scores)
        return Matrix(self.sources, self.targets, scores, self.images, self.near, self.methods)


def build(
    scores: Scores,
    *,
    images: Mapping[str, float] | None = None,
    near: Mapping[str, Scores] | None = None,
    sources: Iterable[str] = (),
    also: Iterable[str] = (),
) -> Matrix:
    """From scores by (source, target); `sources` and `also` name those without any score."""
    sources = tuple(sorted({*(source for source, _ in scores), *sources}))
    targets = tuple(sorted({*(target for _, target in scores), *also}))

    def table(values: Scores) -> Array:
        return np.array([[values.get((s, t), np.nan) for t in targets] for s in sources])

    known = images or {}
    # A published matrix may name a thousand sources: only those that could be ours are looked up.
    ours = {name for kind in ("source", "target") for name in (*names(kind), *plugins(kind))}
    counts = [
        known[s] if s in known else images_of(s) if s.partition(":")[0] in ours else math.nan
        for s in sources
    ]
    near = {name: part for name, part in (near or {}).items() if np.isfinite(table(part)).any()}
    return Matrix(
        sources,
        targets,
        table(scores),
        np.array([count if count > 0 else math.nan for count in counts]),
        np.array([table(part) for part in near.values()]).reshape(-1, len(sources), len(targets)),
        tuple(near),
    ).without_self()


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
    fusion: str = "none",
    protocols: Sequence[str] = (),
    archs: Sequence[str] = (),
    modes: Sequence[str] = (),
    sources: Sequence[str] = (),
) -> tuple[Place, Matrix, list[str]]:
    """The largest comparable part of a store, the target, if any, among it; and what was left out.

    A store without results gives a matrix without scores, of the sources with a distance to the
    target or else of all there are. `sources` are those to keep, if not all.
    """
    scores, left = _scores(store, fusion, protocols, archs, modes)
    usual = (("standard", protocols), ("finetune", modes), ("resnet50", archs))
    nowhere = Place(*(asked[0] if asked else name for name, asked in usual), metric="")
    place = max(scores, key=lambda place: (len(scores[place]), place), default=nowhere)
    measures, notes = measured(store, store.outcomes("distance"), place.arch, set(), ())
    near = {
        measure.label: {
            pair: value.value if measure.more_is_near else -value.value
            for pair, value in measure.values.items()
        }
        for measure in measures
    }
    found = scores.get(place, {})
    reached = {s for pairs in near.values() for s, t in pairs if t == target and s != target}
    kept = {*(source for source, _ in found), *reached, *sources}
    kept = kept or {name for name in names("source") if images_of(name) > 0 and _at_hand(name)}
    if sources:
        kept &= set(sources)
        found = {pair: score for pair, score in found.items() if pair[0] in kept}
    notes += left[place]
    others = [" ".join(other[:3]) for other in scores if other != place]
    notes += [f"Not used, for it is not comparable: {name}." for name in others]
    return place, build(found, near=near, sources=kept, also=(target,) if target else ()), notes


def _scores(
    store: Store,
    fusion: str,
    protocols: Sequence[str],
    archs: Sequence[str],
    modes: Sequence[str],
) -> tuple[dict[Place, dict[tuple[str, str], float]], dict[Place, list[str]]]:
    """The scores of whole rows by place, higher being better; and what was left out of each."""
    scores: dict[Place, dict[tuple[str, str], float]] = {}
    left: dict[Place, list[str]] = defaultdict(list)
    if not any(store.keys("run")):
        return scores, left
    made_of = leaderboard.boards(
        store, fusions=(fusion,), protocols=protocols, archs=archs, modes=modes
    )
    for made, others in gains.of_one_partition(made_of):
        sign = 1 if higher_is_better(made.headline) else -1
        for place, rows in gains.by_place(made, fusion).items():
            fair, why = gains.fair(made, rows)
            left[place] += [*others, *why]
            for source, row in fair.items():
                if row.headline is not None and source != made.target:
                    score = sign * row.headline.value
                    scores.setdefault(place, {})[source, made.target] = score
    return scores, left


def of_files(results: Path, distances: Path | None = None) -> Matrix:
    """From a CSV of source, target, score (optional: images, of the source), higher is better.

    `distances`: source, target, distance, and optionally method and more_is_near (1 or 0). A pair
    that was not run has no row, or an empty score. A folder is taken for a store.
    """
    if results.is_dir() and distances is None:
        return of_store(Store(results))[1]
    rows = _read(results, ("source", "target", "score"))
    scores = {(row["source"], row["target"]): _number(row, "score", results) for row in rows}
    if len(scores) < len(rows):
        raise BenchError(f"{results} has a pair twice.", "Average its scores into one row.")
    images = {row["source"]: _number(row, "images", results) for row in rows if row.get("images")}
    near: dict[str, dict[tuple[str, str], float]] = {}
    for row in _read(distances, ("source", "target", "distance")) if distances else ():
        sign = 1 if row.get("more_is_near", "").strip().lower() in ("1", "true", "yes") else -1
        values = near.setdefault(row.get("method") or "distance", {})
        values[row["source"], row["target"]] = sign * _number(row, "distance", distances)
    return build(scores, images=images, near=near)


def published() -> Matrix:
    """The MedMNIST study (arXiv:2412.20172): 15 sources, 12 targets and nine published scores."""
    path = PUBLISHED / "medmnist_scores.csv"
    rows = _read(path, ("source", "target", "auc"))

    def column(name: str) -> dict[tuple[str, str], float]:
        return {(row["source"], row["target"]): _number(row, name, path) for row in rows}

    sizes = of_files(PUBLISHED / "medmnist_matrix.csv")
    images = dict(zip(sizes.sources, sizes.images.tolist(), strict=True))
    methods = [name for name in rows[0] if name not in ("source", "target", "auc")]
    return build(column("auc"), images=images, near={name: column(name) for name in methods})


def _read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        raise DataMissing(f"There is no file {path}.", f"Give a CSV of {', '.join(columns)}.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in columns if not rows or rows[0].get(name) is None]
    if missing:
        raise BenchError(
            f"{path} lacks {', '.join(missing)}, or has no rows.",
            f"Its first line must name {', '.join(columns)}.",
        )
    return rows


def _number(row: Mapping[str, str], name: str, path: Path | None) -> float:
    text = (row[name] or "").strip()
    try:
        return math.nan if text.lower() in MISSING else float(text)
    except ValueError as error:
        pair = f"{row['source']} on {row['target']}"
        raise BenchError(f"{path}: the {name} of {pair} is '{text}'.", "Write a number.") from error
