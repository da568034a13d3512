"""Measures a distance cell: gives a method its two sides, and makes what they need only once."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import data, network, registry, split, train, weights
from benchmark.api import Distance, Measured, SourceCard
from benchmark.errors import BenchError
from benchmark.spec import Augment, DistanceSpec, Recipe, Runtime, canonical, seed_of
from benchmark.store import Store, build_folder

#: Images of a side at most, unless `--limit` says otherwise.
SIDE = 2000


def measure(
    spec: DistanceSpec,
    runtime: Runtime,
    device: torch.device,
    get: Callable[[Hashable, Callable[[], Any]], Any],
) -> tuple[Measured, dict[str, Any]]:
    """The distance, and what it was measured on; `get` keeps what later cells share."""
    path, given = runtime.paths.get(spec.method), runtime.inputs.get(spec.method)
    method = registry.load("distance", spec.method, path=path, given=given)
    assert isinstance(method, Distance)
    shared = _Shared(spec, runtime, device, get)
    source, target = _Side(spec.source, shared), _Side(spec.target, shared)
    found = method.measure(source, target, seed=spec.seed, options=spec.options)
    facts: dict[str, Any] = {}
    for name, side in (("source", source), ("target", target)):
        if "prepared" in side.__dict__:
            facts[f"{name}_digest"] = side.prepared.digest
            facts[f"{name}_images"] = len(side.rows)
    return found, facts


@dataclass(frozen=True)
class _Shared:
    spec: DistanceSpec
    runtime: Runtime
    device: torch.device
    get: Callable[[Hashable, Callable[[], Any]], Any]


class _Side:
    """A data set as `benchmark.api.Side` describes it."""

    def __init__(self, name: str, shared: _Shared) -> None:
        self.name = name
        self.shared = shared
        self.card: SourceCard = data.source_of(name, shared.runtime).card

    @cached_property
    def prepared(self) -> data.Prepared:
        size = self.shared.spec.size
        return self.shared.get(
            ("set", self.name, size, False),
            lambda: data.prepare(self.name, size, self.shared.runtime),
        )

    @cached_property
    def rows(self) -> np.ndarray:
        spec = self.shared.spec
        seed = seed_of("side", self.name, spec.seed) % 2**32
        return split.limited(self.prepared, spec.limit or SIDE, seed)

    @property
    def labels(self) -> np.ndarray:
        return self.prepared.labels[self.rows]

    @property
    def groups(self) -> np.ndarray:
        return split.linked_groups(self.prepared)[self.rows]

    @property
    def features(self) -> np.ndarray:
        return self._outputs[0]

    @property
    def probabilities(self) -> np.ndarray:
        found = self._outputs[1]
        if not found.size:
            raise BenchError(
                f"The weights {self.shared.spec.weights} have no classifier.",
                "Take a score that needs features only, such as scores:logme.",
            )
        return found

    @property
    def images(self) -> torch.Tensor:
        return self._batch(torch.as_tensor(self.rows))

    @property
    def network(self) -> network.Backbone:
        spec = self.shared.spec
        backbone = network.build(spec.arch, seed=seed_of("probe", spec.seed))
        if spec.weights is not None:
            network.load_backbone(backbone, self._state())
        return backbone.to(self.shared.device)

    def _state(self) -> dict[str, torch.Tensor]:
        key = self.shared.spec.weights
        assert key is not None
        store = Store(self.shared.runtime.store)
        return self.shared.get(("weights", key), lambda: weights.load(store, key))

    def _batch(self, rows: torch.Tensor) -> torch.Tensor:
        backbone = self.shared.get(("probe", self.shared.spec.weights), lambda: self.network)
        pixels = train.Pixels(
            images=train.on_device(self.prepared.images, torch.device("cpu")),
            record=None,
            recipe=Recipe(size=self.shared.spec.size, augment=Augment()),
            mean=backbone.mean,
            std=backbone.std,
            device=self.shared.device,
        )
        return pixels.batch(rows, torch.Generator(), training=False)[0]

    def cached(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made once for this set, subset, probe and name."""

        def build(folder: Path) -> None:
            np.save(folder / "array.npy", make())

        return np.load(build_folder(self._place(name), build) / "array.npy")

    @cached_property
    def _outputs(self) -> tuple[np.ndarray, np.ndarray]:
        """Pooled features and, where the weights have a classifier, its probabilities; cached."""

        def build(folder: Path) -> None:
            backbone = self.network.eval()
            state = {} if self.shared.spec.weights is None else self._state()
            weight, bias = _classifier(state, backbone.channels)
            features = []
            with torch.inference_mode():
                for rows in torch.as_tensor(self.rows).split(128):
                    features.append(backbone.pooled(self._batch(rows)).float().cpu())
            pooled = torch.cat(features)
            np.save(folder / "pooled.npy", pooled.numpy())
            if weight is not None and bias is not None:
                logits = pooled.double() @ weight.double().T + bias.double()
                np.save(folder / "probabilities.npy", logits.softmax(1).numpy())

        final = build_folder(self._place("outputs"), build)
        given = final / "probabilities.npy"
        found = np.load(given) if given.is_file() else np.empty((0, 0))
        return np.load(final / "pooled.npy"), found

    def _place(self, name: str) -> Path:
        spec = self.shared.spec
        identity = {
            "name": name,
            "weights": spec.weights,
            "seed": spec.seed,
            "arch": spec.arch,
            "data": self.prepared.digest,
            "size": spec.size,
            "limit": spec.limit,
        }
        mark = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
        return Store(self.shared.runtime.store).root / "features" / f"side-{mark}"


def _classifier(
    state: dict[str, torch.Tensor], channels: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Weight (K, C) and bias (K,) of the source's own linear classifier, where the file has one."""
    for name in ("head.output", "fc", "classifier", "head", "head.fc", "last_linear"):
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if weight is not None and bias is not None and weight.shape[1:] == (channels,):
            return weight, bias
    return None, None
