"""What MLflow is shown of a cell, of a grid and of a distance: numbers and names, no free text."""

import hashlib
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark import trust
from benchmark.errors import Damaged
from benchmark.files import read_json
from benchmark.index import Summary
from benchmark.spec import DistanceSpec, Outcome, PretrainSpec, RunSpec, canonical
from benchmark.stats import Pairs
from benchmark.store import CARD, FILE, Store
from benchmark.trust import public
from reports import plots

if TYPE_CHECKING:
    from reports.distances import Measure
    from reports.leaderboard.gains import Pair, Place

FORMAT = 3  # raise it when runs are to hold other things: the next sync makes them anew
PRETRAINING = "pretraining"  # the experiment of the sources
POOLED = "distance and gain"  # the experiment of correlations over several targets


@dataclass(frozen=True)
class Entry:
    """What one run of MLflow holds; times in milliseconds."""

    name: str
    tags: dict[str, str]
    began: int
    ended: int
    params: dict[str, str] = field(default_factory=dict)
    metrics: Sequence[tuple[str, float, int]] = ()  # name, value, step; may be NaN
    status: str = "FINISHED"
    data: Sequence[tuple[str, str, str]] = ()  # name, digest, what it was used as
    files: Sequence[tuple[Path, str | None]] = ()  # and the folder it goes to
    texts: dict[str, str] = field(default_factory=dict)  # file name -> content
    model: tuple[str, dict[str, str]] | None = None  # name in the registry, and tags


def state_of(store: Store, kind: str, key: str) -> str:
    """Changes with whatever a cell's run is made from."""
    folder = store.folder(kind, key)
    files = [(path.name, path.stat().st_size) for path, _ in _files(folder, True)]
    try:
        outcome = (folder / "outcome.json").read_bytes()
    except FileNotFoundError:  # taken away a moment ago
        outcome = b""
    return digest_of(hashlib.sha256(outcome).hexdigest(), files)


def digest_of(*parts: Any) -> str:
    """Names plain values, and the form in which they are shown."""
    return hashlib.sha256(canonical([FORMAT, *parts]).encode()).hexdigest()[:16]


def experiment_of(cell: Summary) -> str:
    """The experiment of a cell: its target; pretrainings have one of their own.

    A user's own set always has its fingerprint: another of its name may come, here or elsewhere.
    """
    from reports import own

    if cell.spec.kind == "pretrain":
        return PRETRAINING
    return own.marked(cell.spec.target, cell.versions.get("target", ""))


# --- a cell -----------------------------------------------------------------------------------


def of_cell(store: Store, outcome: Outcome) -> Entry:
    """A cell without anything of a patient's record, a name of a patient or an image, or a path."""
    folder = store.folder(outcome.spec.kind, outcome.key)
    ended = int((folder / "outcome.json").stat().st_mtime * 1000)
    files = _files(folder, _may_show(getattr(outcome.spec, "target", "")))
    texts: dict[str, str] = {}
    tested = _tested(store, outcome)
    if tested is None:
        files = [(path, where) for path, where in files if path.suffix != ".npz"]
    else:
        from reports.mlflow import pictures

        found = tested["labels"], tested["scores"].astype(float), outcome.classes
        if not outcome.multilabel:  # several labels are not confused with each other
            texts["confusion.svg"] = pictures.confusion(*found)
        if (curve := pictures.roc(*found)) is not None:
            texts["roc.svg"] = plots.document([curve])
    return Entry(
        name=_title(outcome),
        tags=_tags(outcome),
        began=ended - int(1000 * outcome.seconds.get("total", 0.0)),
        ended=ended,
        params=dict(_flat({**outcome.spec.model_dump(mode="json"), "versions": outcome.versions})),
        metrics=[*_metrics(public(outcome))],
        status="FAILED" if outcome.status == "failed" else "FINISHED",
        data=[*_data(store, outcome)],
        files=files,
        texts=texts,
        model=_model(folder, outcome),
    )


@cache
def _may_show(target: str) -> bool:
    from reports.page import gallery

    return gallery.may_show(target)


def _title(outcome: Outcome) -> str:
    spec = outcome.spec
    names = ("partition", "train_size", "seed", "pretrain_seed", "missing", "tested_on")
    drawn = {name: getattr(spec, name, 0) for name in names}
    seed = "".join(f" {name.replace('_', ' ')} {n}" for name, n in drawn.items() if n)
    if isinstance(spec, RunSpec):
        return f"{spec.source} {spec.fusion} {spec.mode} fold {spec.fold}{seed}"
    if isinstance(spec, DistanceSpec):
        return f"{spec.method} {spec.source}{seed}"
    return f"{spec.source} {spec.arch}{seed}"


def _tags(outcome: Outcome) -> dict[str, str]:
    """What it is and how it went, in words of ours; messages, reasons and warnings stay."""
    shown = public(outcome)
    tags = {"kind": outcome.spec.kind, "status": outcome.status}
    tags |= {"failure.kind": outcome.failure.kind} if outcome.failure else {}
    tags |= {"warnings": str(len(outcome.warnings))} if outcome.warnings else {}
    tags |= {"imported": "yes"} if "imported" in outcome.environment else {}
    tags |= {f"data.{name}": str(value) for name, value in shown.data.items()}
    tags |= {f"environment.{name}": value for name, value in shown.environment.items()}
    return {f"bench.{name}": text for name, text in tags.items()}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The spec, flat (`recipe.lr`); a protocol of the user's own is named by its file's stem."""
    if isinstance(value, dict):
        for part, item in value.items():
            yield from _flat(item, f"{name}.{part}" if name else part)
    elif isinstance(value, str):
        yield name, PurePath(value).stem if value.endswith((".yaml", ".yml")) else value
    else:
        yield name, "none" if value is None else canonical(value)


def _metrics(outcome: Outcome) -> Iterator[tuple[str, float, int]]:
    tables = {"": outcome.metrics}
    names = zip(_classes(outcome.classes), outcome.per_class, strict=False)
    tables |= {f"class/{name}/": table for name, table in names}
    for start, table in tables.items():
        for name, estimate in table.items():
            for ending, value in zip(("", "_low", "_high"), estimate[:3], strict=True):
                yield f"{start}{name}{ending}", float(value), 0
    for name, deviation in outcome.over_classes.items():
        yield f"{name}_sd_classes", deviation, 0
    for stage, seconds in outcome.seconds.items():
        yield f"seconds/{stage}", seconds, 0
    if outcome.joules is not None:
        yield "joules", outcome.joules, 0
    for i, facts in enumerate(outcome.history, start=1):
        step = int(facts.get("epoch") or i)
        for name, value in facts.items():
            if name != "epoch" and value is not None:
                yield f"epoch/{name}", float(value), step  # a final number may have the same name


def _classes(names: Sequence[str]) -> list[str]:
    """Class names as MLflow lets a metric be named, all different."""
    safe = [re.sub(r"[^\w\- ]", "_", name)[:80].strip() or "_" for name in names]
    if len({name.casefold() for name in safe}) == len(safe):
        return safe
    return [f"{i} {name}" for i, name in enumerate(safe)]


def _data(store: Store, outcome: Outcome) -> Iterator[tuple[str, str, str]]:
    """The sets behind a cell that have a digest: target and source."""
    spec, facts = outcome.spec, outcome.data
    if isinstance(spec, DistanceSpec):
        found = {"target": facts.get("target_digest"), "source": facts.get("source_digest")}
    elif isinstance(spec, PretrainSpec):
        found = {"source": facts.get("digest")}
    else:
        made = store.outcome("pretrain", spec.weights) if spec.weights else None
        tested = "tested_on" if spec.tested_on else "target"
        found = {tested: facts.get("digest"), "source": made.data.get("digest") if made else None}
    yield from ((getattr(spec, use), str(digest), use) for use, digest in found.items() if digest)


def _files(folder: Path, shown: bool) -> list[tuple[Path, str | None]]:
    """Every file of a cell that may go out; maps only where images of the set may be `shown`."""
    found: list[tuple[Path, str | None]] = [
        (path, "explain")
        for path in sorted((folder / "explain").glob("*"))
        if path.suffix in (".png", ".svg") and (shown or path.stem != "maps")
    ]
    if folder.parent.parent.name == "weights":  # the networks of runs stay in the store
        found.append((folder / FILE, "weights"))
    found.append((folder / "predictions.npz", None))
    return [(path, where) for path, where in found if path.is_file()]


def _tested(store: Store, outcome: Outcome) -> dict[str, np.ndarray] | None:
    """The stored predictions, if they are whole and no more than numbers by anonymous index."""
    if outcome.status != "ok":
        return None
    try:
        found = store.predictions(outcome.key, outcome.spec.kind)
    except Damaged:
        return None
    numbers = all(array.dtype.kind in "iuf" for array in found.values())
    return found if numbers and set(found) == set(trust.ARRAYS) and len(found["labels"]) else None


def _model(folder: Path, outcome: Outcome) -> tuple[str, dict[str, str]] | None:
    spec = outcome.spec
    if not isinstance(spec, PretrainSpec) or not (folder / FILE).is_file():
        return None
    try:
        card = read_json(folder / CARD)
    except Damaged:
        return None
    facts = {"key": outcome.key, "source": spec.source, "arch": spec.arch, "seed": spec.seed}
    facts |= {name: card[name] for name in ("license", "reference", "sha256") if card.get(name)}
    tags = {f"bench.{name}": str(value) for name, value in facts.items()}
    return re.sub(r"[/:']", "-", f"{spec.source}-{spec.arch}"), tags


# --- a grid, and a distance -------------------------------------------------------------------


def over_folds(store: Store, cells: Iterable[str]) -> Iterator[tuple[str, float, int]]:
    """Mean and standard deviation (ddof 1) of the headline over the folds of each arm of a grid."""
    arms: dict[str, list[tuple[RunSpec, float]]] = defaultdict(list)
    for cell in cells:
        outcome = store.outcome(*cell.split("/"))
        if outcome is not None and outcome.status == "ok" and isinstance(outcome.spec, RunSpec):
            arm = outcome.spec.model_copy(update={"fold": 0, "base": None})
            if (found := outcome.metrics.get(arm.headline)) is not None:
                arms[canonical(arm.model_dump(mode="json"))].append((arm, found.value))
    titles = Counter[str]()
    for part in arms.values():
        spec, values = part[0][0], [value for _, value in part]
        title = _classes([f"{spec.target} {spec.source} {spec.fusion} {spec.arch} {spec.mode}"])[0]
        titles[title] += 1  # arms that differ in a setting are numbered
        name = f"{title} {titles[title]}" if titles[title] > 1 else title
        yield f"folds/{name}/{spec.headline}", float(np.mean(values)), 0
        if len(values) > 1:
            yield f"folds/{name}/{spec.headline}_sd", float(np.std(values, ddof=1)), 0


def of_grid(
    facts: Mapping[str, Any],
    statuses: Counter[str],
    arms: Iterable[tuple[str, float, int]] = (),
) -> Entry:
    """A request; `statuses` counts its cells, those without an outcome as `left`."""
    done = "SCHEDULED" if statuses["left"] else "FINISHED"
    return Entry(
        name=f"grid {facts['grid'][:8]}",
        tags={"bench.kind": "grid"},
        began=int(1000 * facts["began"]),
        ended=int(1000 * time.time()),
        params={"cells": str(len(facts["cells"]))},
        metrics=[*((n, statuses[n], 0) for n in ("ok", "failed", "skipped", "left")), *arms],
        status="FAILED" if statuses["failed"] else done,
    )


def of_correlation(
    where: str,
    place: "Place",
    pairs: "Sequence[Pair]",
    how: "Measure",
    noise: Mapping[str, Mapping[str, float]],
) -> Entry:
    """How a distance goes with the gains on one target, or pooled; signs as in `bench transfer`."""
    from reports import transfer

    values = [how.values[pair.source, pair.target] for pair in pairs]
    near = np.array([value.value for value in values]) * (-1 if how.more_is_near else 1)
    gains = np.array([pair.gain.value for pair in pairs])
    names = [pair.target for pair in pairs], [pair.source for pair in pairs]
    sets: dict[str, Pairs] = {"": "all"}
    if where == POOLED:
        sets = {f"{name}/": name for name in transfer.SETS}
    numbers = {
        start + name: float(value)
        for start, which in sets.items()
        for name, value in transfer.correlated(near, gains, *names, pairs=which)._asdict().items()
    }
    for name in ("training", "pretraining"):  # of several targets, their root mean square
        known = [noise[t][name] for t in dict.fromkeys(names[0]) if name in noise.get(t, {})]
        numbers |= {f"noise_{name}": float(np.sqrt(np.mean(np.square(known))))} if known else {}
    points = [
        plots.Point(pair.source, pair.target, value, pair.gain)
        for pair, value in zip(pairs, values, strict=True)
    ]
    plot = plots.scatter(how.label, points, x_title=how.title, y_title="gain T, per cent")
    shown = ", ".join(transfer.SETS.values()) if where == POOLED else "without self"
    params = {"target": ", ".join(dict.fromkeys(names[0])), "distance": how.label}
    params |= {**place._asdict(), "fusion": "none", "baseline": "scratch", "pairs": shown}
    now = int(1000 * time.time())
    return Entry(
        name=f"{how.label} and gain",
        tags={"bench.kind": "correlation", "mlflow.note.content": how.about},
        began=now,
        ended=now,
        params=params | {"direction": how.direction},
        metrics=[(name, value, 0) for name, value in numbers.items()],
        texts={"scatter.svg": plots.document([plot])} if plot else {},
    )
