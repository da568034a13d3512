"""How long cells will take that resemble none that is finished: by one batch, measured.

The batch is trained and tested by the code of the run, in a process of its own: whoever plans
imports no torch and holds no GPU. What was measured is kept for this machine.
"""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmark.data import prepare
from benchmark.data.contents import cache
from benchmark.data.download import find_root
from benchmark.errors import BenchError
from benchmark.spec import (
    Cell,
    DistanceSpec,
    PretrainSpec,
    Recipe,
    RunSpec,
    Runtime,
    amount,
    canonical,
    seed_of,
)

#: Pixels through a network below which a run is over about as soon as a batch is measured.
SMALL = 1e8
#: Images of a batch on a CPU, where an image takes as long in a small batch as in a large one.
FEW = 2
#: Seconds that all measurements of a command may take together, unless BENCH_PATIENCE says others.
PATIENCE = 60.0


class Pace(NamedTuple):
    """Seconds an image takes in training and in a test, and bytes of the network's weights."""

    train: float
    test: float
    bytes: float


class Passes(NamedTuple):
    """Images that go through a network, and what is kept of it."""

    train: float
    test: float
    keeps: bool


@dataclass
class Foresight:
    """What cells will take, one after the other: features that two share are extracted once."""

    runtime: Runtime
    frozen: float = 0.0  # seconds the fine-tuned cells would take in mode frozen
    paces: dict[str, Pace | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    extracted: set[tuple] = field(default_factory=set)
    patience: float = field(  # seconds left to measure
        default_factory=lambda: float(os.environ.get("BENCH_PATIENCE", PATIENCE))
    )

    def worth(self, cells: list[Cell]) -> bool:
        """Whether these cells are large enough to measure a batch for them."""
        shares, self.extracted = [(cell, self._passes(cell)) for cell in cells], set()
        pixels = sum(
            (3 * passes.train + passes.test) * _pixels(cell.spec.recipe)
            for cell, passes in shares
            if passes and not isinstance(cell.spec, DistanceSpec)
        )
        return pixels > SMALL

    def of(self, cell: Cell) -> tuple[float, float] | None:
        """Seconds and bytes of a cell; None where nothing can be said."""
        spec, passes = cell.spec, self._passes(cell)
        if passes is None or not isinstance(spec, RunSpec | PretrainSpec):
            return None
        if not passes.train and not passes.test:
            return 0.0, 0.0
        pace = self._pace(spec.arch, spec.recipe)
        if pace is None:
            return None
        if isinstance(spec, RunSpec) and spec.mode == "finetune":
            self.frozen += self._features(spec) * pace.test
        seconds = passes.train * pace.train + passes.test * pace.test
        return seconds, pace.bytes if passes.keeps else 0.0

    def _passes(self, cell: Cell) -> Passes | None:
        spec = cell.spec
        if isinstance(spec, PretrainSpec):
            component = prepare.source_of(spec.source, self.runtime)
            given = component.card.given
            n = 0 if given else self._count(spec.source, spec.recipe)
            return Passes(n * spec.recipe.over(n).epochs, 0, keeps=not given)
        if not isinstance(spec, RunSpec) or spec.arch == "none":
            return None
        if spec.tested_on:
            return Passes(0, self._count(spec.tested_on, spec.recipe), keeps=False)
        if spec.missing:  # a test of what was trained and mostly of features that are there
            return Passes(0, 0, keeps=False)
        n = self._count(spec.target, spec.recipe)
        if not n:
            return None
        if spec.mode != "finetune":
            return Passes(0, self._features(spec), keeps=False)
        test = 1 / spec.split.folds if spec.split.folds > 1 else spec.split.test or 0.2
        val = (1 - test) * spec.split.validation
        share = self._share(spec, n * (1 - test - val))
        rows = n * (1 - test - val) * share
        epochs = spec.recipe.over(round(rows)).epochs * max(1, len(spec.recipe.tune))
        trained = rows * epochs
        return Passes(trained, n * (val * epochs + test), keeps=self.runtime.keep)

    def _share(self, spec: RunSpec, n: float) -> float:
        """How much of the training part is used."""
        if not spec.train_size:
            return 1.0
        number, unit = amount(spec.train_size)
        classes = prepare.source_of(spec.target, self.runtime).card.classes or 2
        images = {"%": n * number / 100, "/class": number * classes}.get(unit, number)
        return min(1.0, images / n)

    def _features(self, spec: RunSpec) -> int:
        """Images whose features nobody has extracted yet."""
        recipe = spec.recipe
        key = (spec.target, spec.arch, recipe.size, spec.base or spec.weights or spec.seed)
        if key in self.extracted:
            return 0
        self.extracted.add(key)
        return self._count(spec.target, recipe)

    def _count(self, name: str, recipe: Recipe) -> int:
        """Images of a set, by its card or by looking; 0 where it is not here."""
        if name not in self.counts:
            component = prepare.source_of(name, self.runtime)
            self.counts[name] = component.card.images
            try:
                if not self.counts[name]:
                    root = find_root(component, self.runtime.data, offline=True)
                    self.counts[name] = sum(1 for _ in component.records(root))
            except BenchError:
                pass  # the run will say so
        return min(self.counts[name], recipe.limit or self.counts[name])

    def _pace(self, arch: str, recipe: Recipe) -> Pace | None:
        facts = {
            "arch": arch,
            "device": self.runtime.device,
            "machine": [platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES", "")],
            "recipe": recipe.model_dump(
                mode="json", exclude={"epochs", "images", "lr", "tune", "limit", "select"}
            ),
        }
        key = canonical(facts)
        if key not in self.paces:
            began = time.monotonic()
            self.paces[key] = _kept(key) or _measured(
                arch, recipe, self.runtime, key, self.patience
            )
            self.patience -= time.monotonic() - began
        return self.paces[key]


def _pixels(recipe: Recipe) -> int:
    size = recipe.crop or recipe.size
    return size * size if isinstance(size, int) else size[0] * size[1]


def _place(key: str) -> Path:
    return cache() / "pace" / f"{seed_of(key):016x}.json"


def _kept(key: str) -> Pace | None:
    try:
        return Pace(**json.loads(_place(key).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _measured(
    arch: str, recipe: Recipe, runtime: Runtime, key: str, patience: float
) -> Pace | None:
    """One batch, measured in a process of its own; None where that does not succeed in time."""
    if patience <= 0:
        return None
    command = [sys.executable, "-m", "benchmark.plan.pace", arch, recipe.model_dump_json()]
    sys.stderr.write(f"Measuring one batch of {arch}, for {patience:.0f} s at most …\n")
    try:
        told = subprocess.run(
            [*command, runtime.device],
            capture_output=True,
            text=True,
            timeout=patience,
            check=True,
            start_new_session=True,  # signals to the terminal's processes are for the parent
        )
        pace = Pace(**json.loads(told.stdout))
        _place(key).parent.mkdir(parents=True, exist_ok=True)
        _place(key).write_text(json.dumps(pace._asdict()))
    except (OSError, ValueError, TypeError, subprocess.SubprocessError):
        return None
    return pace


def measure(arch: str, recipe: Recipe, runtime: Runtime) -> Pace:
    """Train and test a network on one batch of noise; the first pass only warms up."""
    import numpy as np
    import torch

    from benchmark.train import loop, network
    from benchmark.train.classifier import Classifier, Head
    from benchmark.train.context import device_of

    device = device_of(runtime)
    torch.set_num_threads(recipe.threads)
    n = max(2, recipe.batch if device.type == "cuda" else min(FEW, recipe.batch))
    height, width = (recipe.size, recipe.size) if isinstance(recipe.size, int) else recipe.size
    noise = np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    backbone = network.build(arch, seed=0)
    head = Head(backbone.channels, 2, dropout=recipe.dropout)
    model = Classifier(backbone, head).to(device)
    how = recipe.model_copy(update={"epochs": 2, "images": None, "select": "last"})
    inputs = loop.Pixels(
        images=loop.on_device(noise, device), record=None, recipe=how,
        mean=backbone.mean, std=backbone.std, device=device,
    )  # fmt: skip
    rows = np.arange(n)
    labels = torch.arange(n, device=device) % 2
    fit = loop.fit(model, inputs, labels, rows, rows[:0], how, classes=2, seed=0)
    began = time.perf_counter()
    loop.predict(model, inputs, torch.as_tensor(rows), how, device)
    seconds = time.perf_counter() - began
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    return Pace(1 / float(fit.history[-1]["rate"] or 1), seconds / n, weights)


if __name__ == "__main__":
    arch, recipe, device = sys.argv[1:]
    found = measure(arch, Recipe.model_validate_json(recipe), Runtime(device=device))
    sys.stdout.write(json.dumps(found._asdict()))
