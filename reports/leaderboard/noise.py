"""The draws that rows are told apart by: other patients, another training, another pretraining."""

import zipfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmark.errors import Damaged
from benchmark.spec import Recipe, is_solved, seed_of
from benchmark.stats import Array
from benchmark.stats.noise import Component, over_folds, over_pretrainings, over_seeds
from benchmark.store import UNREADABLE, Store
from reports.leaderboard.arms import Arm, Identity, Run

GONE = "its predictions are gone or damaged: see `bench store verify`"
Tested = tuple[int, int]  # seed and fold
Trained = tuple[str, str, bool]  # arch, mode, and whether no seed enters: a head solved on weights
Pretrained = tuple[str, Recipe | None]  # arch and the recipe of the pretraining


class Cells(NamedTuple):
    """Finished cells of an arm with the headline's draws of each, or why there are none."""

    arm: Arm
    runs: tuple[Run, ...]
    draws: tuple[Array, ...]
    why: str = ""

    @property
    def trained(self) -> Trained:
        spec = self.arm.runs[0].spec
        fixed = is_solved(spec) and spec.mode == "frozen" and spec.weights is not None
        return spec.arch, spec.mode, fixed

    @property
    def pretrained(self) -> Pretrained:
        return self.arm.identity.arch, self.arm.identity.pretraining

    @property
    def places(self) -> list[Tested]:
        return [(run.spec.seed, run.spec.fold) for run in self.runs]

    def among(self, places: Collection[Tested]) -> "Cells":
        """Those of some seeds and folds."""
        kept = [place in places for place in self.places]
        runs, draws = tuple(compress(self.runs, kept)), tuple(compress(self.draws, kept))
        return self._replace(runs=runs, draws=draws)


def cells_of(store: Store, arm: Arm, runs: Sequence[Run]) -> Cells:
    """The finished ones of these runs with their draws, by seed and fold."""
    fine = [run for run in runs if run.outcome.status == "ok"]
    fine = tuple(sorted(fine, key=lambda run: (run.spec.seed, run.spec.fold)))
    try:
        draws = tuple(_read(store.kept(run.outcome, "predictions.npz")) for run in fine)
    except (*UNREADABLE, Damaged):
        return Cells(arm, fine, (), GONE)
    counts = sorted({len(part) for part in draws})
    if len(counts) > 1:
        said = ", ".join(map(str, counts[:-1]))
        return Cells(arm, fine, (), f"its cells have {said} and {counts[-1]} bootstrap draws")
    return Cells(arm, fine, draws)


def _read(path: Path) -> Array:
    """The draws alone, checked by the sum that their zip has: np.load takes twice as long."""
    with zipfile.ZipFile(BytesIO(path.read_bytes())) as file:
        raw = file.read("draws.npy")
    begin = 10 + int.from_bytes(raw[8:10], "little")  # the length of the header is in its start
    return np.frombuffer(raw, dtype="<f8", offset=begin)


@dataclass(frozen=True)
class Noise:
    """What numbers of a board vary by beside the patients; a text says why it is not known."""

    training: dict[Trained, Component | str]
    pretraining: dict[Pretrained, Component]
    several: frozenset[str]  # weights of sources that have several: the estimate is made of them
    single: tuple[str, ...]  # sources of one pretraining, and none of their recipe twice

    def draws(self, cells: Cells) -> Array | None:
        """The mean of the cells' draws with the noise of training and of pretraining.

        Seeds test the same patients with the same draws, so they are averaged draw by draw. Rows
        of one file of weights share its noise, and their difference is free of it.
        """
        if not cells.draws:
            return None
        made = np.mean(cells.draws, axis=0)
        size, count, arch = len(made), len(cells.runs), cells.arm.identity.arch
        training = self.training.get(cells.trained, "")
        if isinstance(training, Component):
            # A run tested once more is of the same training.
            keys = sorted((run.spec.again and run.spec.base) or run.outcome.key
                          for run in cells.runs)  # fmt: skip
            own = training.drawn(size, seed_of("training noise", *keys))
            doubt = training.doubt(size, seed_of("training noise", *cells.trained))
            made += own * doubt / np.sqrt(count)
        pretraining = self.pretraining.get(cells.pretrained)
        for weights, share in Counter(run.spec.weights for run in cells.runs).items():
            if pretraining is None or weights is None:
                continue
            own = pretraining.drawn(size, seed_of("pretraining noise", weights))
            if weights not in self.several:
                own = own * pretraining.doubt(size, seed_of("pretraining noise", arch))
            made += own * share / count
        return made

    def known(self, arch: str, mode: str) -> dict[str, float]:
        """The deviations of one network and mode as far as they are known, the largest of each."""
        parts = {
            "training": [v for (*who, _), v in self.training.items() if who == [arch, mode]],
            "pretraining": [v for (name, _), v in self.pretraining.items() if name == arch],
        }
        found = {
            name: [one.deviation for one in part if isinstance(one, Component)]
            for name, part in parts.items()
        }
        return {name: max(part) for name, part in found.items() if part}

    def facts(self) -> dict[str, list[dict[str, Any]]]:
        """The components as programs read them."""
        training = [
            {"arch": arch, "mode": mode, "solved": fixed, **_fact(found)}
            for (arch, mode, fixed), found in self.training.items()
        ]
        pretraining = [
            {"arch": arch, "recipe": recipe and recipe.model_dump(mode="json"), **_fact(found)}
            for (arch, recipe), found in self.pretraining.items()
        ]
        return {"training": training, "pretraining": pretraining}

    def notes(self, metric: str) -> Iterator[str]:
        """The components in words; of which sources a board ranks no more than weights."""
        training = [(_network(*who), found) for who, found in self.training.items()]
        pretraining = [
            (f"{arch}, {recipe.length}" if recipe else arch, found)
            for (arch, recipe), found in self.pretraining.items()
        ]
        parts = [*_said("training noise", training), *_said("pretraining noise", pretraining)]
        if parts:
            text = ", ".join(parts)
            yield f"{text[0].upper()}{text[1:]} (standard deviations of {metric})."
        if self.single and not self.pretraining:
            yield "One pretraining of each source: rows rank weights, not sources."
        elif self.single:
            yield (
                f"One pretraining of {', '.join(self.single)}, and none of that recipe twice: "
                "these rows rank weights, not sources."
            )


def _fact(found: Component | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"deviation": None, "freedom": 0, "over": "", "why_unknown": found}
    return {**found._asdict(), "why_unknown": ""}


def _said(title: str, parts: Sequence[tuple[str, Component | str]]) -> Iterator[str]:
    """`training noise 0.008 over seeds`, or of several networks one after the other."""
    texts = [
        (f"unknown of {name} ({found})" if len(parts) > 1 else f"unknown: {found}")
        if isinstance(found, str)
        else f"{found.deviation:.3f} over {found.over}" + f" ({name})" * (len(parts) > 1)
        for name, found in parts
    ]
    if texts:
        yield f"{title} {', '.join(texts)}"


def _network(arch: str, mode: str, fixed: bool) -> str:
    return "record alone" if arch == "none" else f"{arch} {mode}{', solved' if fixed else ''}"


# --- estimates --------------------------------------------------------------------------------


def estimate(parts: Sequence[Cells]) -> Noise:
    """The components of a board from its arms; those that are barred tell nothing of the others."""
    parts = sorted(parts, key=lambda part: [run.outcome.key for run in part.runs])
    fair = [part for part in parts if not part.arm.barred] or parts
    lengths = Counter(len(part.draws[0]) for part in fair if part.draws)
    usual = max(lengths, key=lambda length: lengths[length], default=0)
    rows = [part for part in fair if part.draws and len(part.draws[0]) == usual]
    kinds = dict.fromkeys(part.trained for part in parts if part.runs)
    training = {
        kind: _training([row for row in rows if row.trained == kind]) for kind in sorted(kinds)
    }
    made: dict[Pretrained, Component] = {}
    several: set[str] = set()
    own = [part for part in parts if part.runs and part.arm.identity.pretraining is not None]
    for kind in dict.fromkeys(part.pretrained for part in own):
        found = _pretraining([row for row in rows if row.pretrained == kind], training)
        if found is not None:
            made[kind], weights = found
            several |= weights
    single = {part.arm.identity.source for part in own if part.pretrained not in made}
    return Noise(training, made, frozenset(several), tuple(sorted(single)))


def _value(run: Run) -> float:
    found = run.outcome.metrics.get(run.spec.headline)
    return found.value if found else np.nan


def _training(rows: Sequence[Cells]) -> Component | str:
    """Over seeds where a fold has several; else over folds, from what rows differ by."""
    alike: dict[tuple, list[tuple[float, Array]]] = defaultdict(list)
    for i, row in enumerate(rows):
        for run, draws in zip(row.runs, row.draws, strict=True):
            if np.isfinite(value := _value(run)):
                # On a second set the folds are trainings that test the same patients.
                fold = 0 if run.spec.tested_on else run.spec.fold
                alike[i, fold, run.spec.weights].append((value, draws))
    if several := [_stacked(part) for part in alike.values() if len(part) > 1]:
        found = over_seeds(several)
        return found._replace(over="folds") if rows[0].runs[0].spec.tested_on else found
    table: dict[int, dict[int, tuple[float, Array]]] = defaultdict(dict)
    for (i, fold, _), (cell,) in alike.items():
        table[i][fold] = cell
    folds = max(map(frozenset, table.values()), key=len, default=frozenset())
    whole = [[cells[fold] for fold in sorted(folds)] for cells in table.values()
             if cells.keys() == folds]  # fmt: skip
    if len(folds) < 2 or len(whole) < 2:
        return f"one seed, one {'fold' if len(folds) < 2 else 'row'}"
    values, draws = zip(*map(_stacked, whole), strict=True)
    return over_folds(np.array(values), np.array(draws))


def _pretraining(
    rows: Sequence[Cells], training: dict[Trained, Component | str]
) -> tuple[Component, set[str]] | None:
    """From rows that differ in the pretraining alone, on the cells that they share."""
    alike: dict[Identity, list[Cells]] = defaultdict(list)
    for row in rows:
        if len({run.spec.weights for run in row.runs}) == 1:
            alike[row.arm.identity._replace(pretrain_seed=0)].append(row)
    parts, variances, sources = [], [], defaultdict[str, set[str]](set)
    for who, part in alike.items():
        shared = set.intersection(*(set(row.places) for row in part))
        if len(part) < 2 or not shared:
            continue
        cut = [row.among(shared) for row in part]
        values = np.array([np.mean([_value(run) for run in row.runs]) for row in cut])
        if not np.isfinite(values).all():
            continue
        found = training[part[0].trained]
        sigma = found.deviation if isinstance(found, Component) else 0.0
        parts.append((values, np.array([np.mean(row.draws, axis=0) for row in cut])))
        variances.append(sigma**2 / len(shared))
        sources[who.source] |= {str(row.runs[0].spec.weights) for row in cut}
    if not parts:
        return None
    freedom = sum(len(weights) - 1 for weights in sources.values())
    return over_pretrainings(parts, variances, freedom), set().union(*sources.values())


def _stacked(cells: Sequence[tuple[float, Array]]) -> tuple[Array, Array]:
    values, draws = zip(*cells, strict=True)
    return np.array(values), np.array(draws)
