"""Pooled features of a set: one identity and one cache for frozen heads, distances and pictures."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from benchmark.data import prepare
from benchmark.files import cached_folder
from benchmark.spec import CORE_VERSION, DistanceSpec, Recipe, RunSpec, canonical, seed_of
from benchmark.store import Store
from benchmark.train import loop, weights
from benchmark.train.context import Work

if TYPE_CHECKING:
    from benchmark.train.network import Backbone

#: Images at a time: fixed, as the draws of an augmented test set and the last bits depend on it.
BATCH = 128


class Extractor(NamedTuple):
    """An image network that is not trained here, by all that its numbers come from."""

    arch: str
    weights: tuple[str, str] | None  # kind and key of the cell that made them
    seed: int  # of a network without weights: one for all folds
    init: str

    @classmethod
    def of(cls, spec: RunSpec | DistanceSpec) -> "Extractor":
        """The network that a frozen or tuned run, or a distance, looks with."""
        made = None if spec.weights is None else ("pretrain", spec.weights)
        if isinstance(spec, RunSpec) and spec.mode == "tuned":
            assert spec.base is not None
            made = "run", spec.base
        init = spec.recipe.init if isinstance(spec, RunSpec) else "default"
        return cls(spec.arch, made, seed_of("init", spec.seed), init)

    def identity(self, store: Store) -> str:
        """Which weights: the digest of their file, for a cell's key does not tell who ran it."""
        if self.weights is None:
            return f"random:{self.seed}:{self.init}"
        return weights.sha256(store.folder(*self.weights))

    def build(self, work: Work) -> "Backbone":
        """The network itself, on the CPU; a new one each time."""
        from benchmark.train import (
            network,  # brings timm: seconds that cached features need not pay
        )

        found = network.build(self.arch, seed=self.seed, init=self.init)  # pyright: ignore[reportArgumentType]
        if self.weights is not None:
            network.load_backbone(found, self.state(work))
        return found

    def state(self, work: Work) -> dict[str, torch.Tensor]:
        """The tensors of its file, a classifier's included; none of a network without weights."""
        if self.weights is None:
            return {}
        kind, key = self.weights
        name = "weights", self.identity(work.store)
        return work.memory.get(name, lambda: weights.load(work.store, key, kind=kind))


def pooled(
    work: Work, prepared: prepare.Prepared, recipe: Recipe, rows: np.ndarray | None = None
) -> torch.Tensor:
    """Pooled features (N, C) of a set, or of some of its rows, by the network of this cell."""
    n = len(prepared.labels)
    if rows is not None and np.array_equal(rows, np.arange(n)):
        rows = None
    name = mark(work, prepared, recipe)
    if rows is not None and not _file(work, name).is_file():
        name = mark(work, prepared, recipe, rows=rows)
        chosen, cut = rows, None
    else:
        chosen, cut = np.arange(n), rows

    def build(folder: Path) -> None:
        torch.set_num_threads(recipe.threads)  # as their name says
        backbone = Extractor.of(work.cell.spec).build(work)  # pyright: ignore[reportArgumentType]
        work.put(backbone).eval()
        found = extract(work, backbone, work.pixels(prepared, backbone, recipe), chosen)
        np.save(folder / _file(work, name).name, found.numpy())

    def make() -> torch.Tensor:
        cached_folder(_file(work, name).parent, build)
        return torch.from_numpy(np.load(_file(work, name))).to(work.device)

    with work.timed("features"):
        found = work.memory.get(("features", name), make)
        return found if cut is None else found[torch.from_numpy(cut)]


@torch.inference_mode()
def extract(
    work: Work, backbone: "Backbone", inputs: loop.Pixels, rows: np.ndarray
) -> torch.Tensor:
    """Pooled features float32 (n, C) of these images, on the CPU."""
    found, generator = [], torch.Generator().manual_seed(loop.TEST_SEED)
    for part in torch.from_numpy(rows).split(BATCH):
        work.report.check()
        x, _ = inputs.batch(part, generator, training=False)
        with loop.autocast(work.device, inputs.recipe):
            found.append(backbone.pooled(x).float().cpu())
    return torch.cat(found)


def mark(
    work: Work,
    prepared: prepare.Prepared,
    recipe: Recipe,
    *,
    rows: np.ndarray | None = None,
    **more: Any,
) -> str:
    """The name of what this cell's network says of a set: all that would change a number."""
    network = Extractor.of(work.cell.spec)  # pyright: ignore[reportArgumentType]
    on_cpu = work.device.type == "cpu"
    identity = {
        "core": CORE_VERSION,
        "network": network.identity(work.store),
        "arch": network.arch,
        "data": [prepared.digest, *prepared.made],
        "size": recipe.size,
        "crop": recipe.crop,
        "augment": recipe.test_augment and recipe.test_augment.model_dump(mode="json"),
        "precision": "float32" if on_cpu else recipe.precision,
        "threads": recipe.threads if on_cpu else None,
        "rows": None if rows is None else hashlib.sha256(rows.tobytes()).hexdigest(),
        **more,
    }
    return hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]


def _file(work: Work, name: str) -> Path:
    return work.store.root / "features" / name / "pooled.npy"
