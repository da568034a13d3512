"""Measures a distance cell: gives a method its two sides, and makes what they need only once."""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmark import added, registry
from benchmark.api import Distance, Measured, SourceCard
from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.files import cached_folder
from benchmark.spec import DistanceSpec, Recipe, RunSpec, Split, seed_of
from benchmark.stats import Estimate
from benchmark.train import features, finetune
from benchmark.train.context import Work

if TYPE_CHECKING:
    from benchmark.train.network import Backbone

#: Images of a side at most, unless `--limit` says otherwise.
SIDE = 2000


def measure(work: Work, spec: DistanceSpec) -> tuple[Measured, dict[str, Any]]:
    """The distance, and what it was measured on; of a score the mean over the training parts."""
    method = registry.load("distance", spec.method, **work.runtime.where(spec.method))
    assert isinstance(method, Distance)
    source, target = _Side(spec.source, work, spec), _Side(spec.target, work, spec)
    parts = [target] if spec.split is None else target.trainings(spec.split)
    each = [method.measure(source, one, seed=spec.seed, options=spec.options) for one in parts]
    facts: dict[str, Any] = {} if spec.split is None else {"folds": len(parts)}
    for name, sides in (("source", [source]), ("target", parts)):
        if "prepared" in sides[0].__dict__:
            facts[f"{name}_digest"] = sides[0].prepared.digest
            facts[f"{name}_images"] = max(len(side.seen) for side in sides)
    return _mean(each), facts


def _mean(found: Sequence[Measured]) -> Measured:
    if len(found) == 1:
        return found[0]
    numbers = np.mean([[one.value, one.low, one.high] for one in found], axis=0)
    facts = {
        name: float(np.mean([one.facts[name] for one in found]))
        for name, fact in found[0].facts.items()
        if not isinstance(fact, Estimate)
    }
    return Measured(float(numbers[0]), float(numbers[1]), float(numbers[2]), facts)


class _Side:
    """A data set as `benchmark.api.Side` describes it, or a training part of one."""

    #: The places in `rows` that are seen.
    places: np.ndarray | slice = slice(None)

    def __init__(self, name: str, work: Work, spec: DistanceSpec) -> None:
        self.name = name
        self.work = work
        self.spec = spec
        self.recipe = Recipe(size=spec.size)  # the images as a frozen head sees them
        card: SourceCard = prepare.source_of(name, work.runtime).card
        told = added.behind(work.store).get(name, {}) if card.given else {}
        self.card = replace(card, **told)

    @cached_property
    def prepared(self) -> prepare.Prepared:
        return self.work.prepared(self.name, self.recipe)

    @cached_property
    def rows(self) -> np.ndarray:
        return self._limited(None)

    def _limited(self, rows: np.ndarray | None) -> np.ndarray:
        # By content, not by name: a copy of a set under another name shares its features.
        seed = seed_of("side", self.prepared.digest, self.spec.seed) % 2**32
        return split.limited(self.prepared, self.spec.limit or SIDE, seed, rows)

    def trainings(self, how: Split) -> "Sequence[_Side]":
        """The training part of each fold, as a side; the images of all are looked at once."""
        asked = (RunSpec(source="none", target=self.name, split=how, fold=k)
                 for k in range(how.folds))  # fmt: skip
        cut = [finetune.parts_of(self.work, self.prepared, one).train for one in asked]
        parts = [self._limited(train) for train in cut]
        self.rows = np.unique(np.concatenate(parts))
        sides = [copy(self) for _ in parts]
        for side, part in zip(sides, parts, strict=True):
            side.places = np.searchsorted(self.rows, part)
        return sides

    @property
    def seen(self) -> np.ndarray:
        return self.rows[self.places]

    @property
    def labels(self) -> np.ndarray:
        return self.prepared.labels[self.seen]

    @property
    def groups(self) -> np.ndarray:
        return split.linked_groups(self.prepared)[self.seen]

    @property
    def features(self) -> np.ndarray:
        found = features.pooled(self.work, self.prepared, self.recipe, self.rows)
        return found.cpu().numpy()[self.places]

    @property
    def probabilities(self) -> np.ndarray:
        state = features.Extractor.of(self.spec).state(self.work)
        pooled = torch.from_numpy(self.features).double()
        weight, bias = _classifier(state, pooled.shape[1])
        if weight is None or bias is None:
            raise BenchError(
                f"The weights {self.spec.weights} have no classifier.",
                "Take a score that needs features only, such as scores:logme.",
            )
        return (pooled @ weight.double().T + bias.double()).softmax(1).numpy()

    def images(self, rows: np.ndarray) -> torch.Tensor:
        who = features.Extractor.of(self.spec)
        known = "probe", who.arch, who.identity(self.work.store)
        backbone = self.work.memory.get(known, lambda: self.network)
        pixels = self.work.pixels(self.prepared, backbone, self.recipe)
        chosen = torch.from_numpy(self.seen[rows])
        return pixels.batch(chosen, torch.Generator(), training=False)[0]

    @property
    def network(self) -> "Backbone":
        return features.Extractor.of(self.spec).build(self.work).to(self.work.device)

    def cached(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made once for this set, subset, probe and name."""
        version = self.work.cell.versions.get("method", "")
        more = {"rows": self.seen, "name": name, "method": version, "seed": self.spec.seed}
        mark = features.mark(self.work, self.prepared, self.recipe, **more)

        def build(folder: Path) -> None:
            np.save(folder / "array.npy", make())

        final = self.work.store.root / "features" / f"side-{mark}"
        return np.load(cached_folder(final, build) / "array.npy")


def _classifier(
    state: dict[str, torch.Tensor], channels: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weight (K, C) and bias (K,) of the source's own linear classifier, where the file has one."""
    for name in ("head.output", "fc", "classifier", "head", "head.fc", "last_linear"):
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if weight is not None and bias is not None and weight.shape[1:] == (channels,):
            return weight, bias
    return None, None
