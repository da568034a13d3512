"""A cell being run: where its things are, what it shares with others, what it has noted."""

import platform
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.spec import Cell, Outcome, Recipe, Runtime, Scalar, Split, seed_of
from benchmark.store import Store
from benchmark.train import loop

if TYPE_CHECKING:
    from benchmark.train.network import Backbone


class Memory:
    """What the cells of one process share: the last few sets, splits, features and weights."""

    def __init__(self, size: int = 24) -> None:
        self.size = size
        self.items: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The thing of that key, made now if it is not at hand."""
        if key not in self.items:
            self.items[key] = make()
        self.items.move_to_end(key)
        while len(self.items) > self.size:
            self.items.popitem(last=False)
        return self.items[key]


@dataclass
class Work:
    """A cell being run: where its things are, and what it has noted so far."""

    cell: Cell
    runtime: Runtime
    store: Store
    report: loop.Callbacks
    device: torch.device
    memory: Memory
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.store.of(self.cell)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a stage to the outcome."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def log(self, text: str) -> None:
        """A line for whoever opens the cell's folder."""
        with suppress(OSError), (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def outcome(self, **facts: Any) -> Outcome:
        """A success with all that was noted."""
        return Outcome(
            key=self.cell.key,
            spec=self.cell.spec,
            versions=self.cell.versions,
            status="ok",
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            warnings=self.warnings,
            environment=environment(self.device),
            **facts,
        )

    def prepared(self, name: str, recipe: Recipe) -> prepare.Prepared:
        """The decoded set a recipe asks for."""

        def make() -> prepare.Prepared:
            how = {"constancy": recipe.constancy, "drawn": recipe.data}
            return prepare.prepare(name, recipe.size, self.runtime, **how)

        with self.timed("data"):
            return self.memory.get(("set", name, recipe.size, recipe.constancy, recipe.data), make)

    def pixels(
        self,
        prepared: prepare.Prepared,
        backbone: "Backbone",
        recipe: Recipe,
        record: np.ndarray | None = None,
    ) -> loop.Pixels:
        """The images of a set as a network takes them, with the record beside them."""
        return loop.Pixels(
            images=self.memory.get(
                ("pixels", prepared.digest, prepared.made, recipe.size),
                lambda: loop.on_device(prepared.images, self.device),
            ),
            record=self.tensor(record),
            recipe=recipe,
            mean=backbone.mean,
            std=backbone.std,
            device=self.device,
        )

    def put(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model on its device; channels_last is how a GPU's convolutions are fastest."""
        if self.device.type == "cuda":
            return model.to(self.device).to(memory_format=torch.channels_last)
        return model.to(self.device)

    def tensor(self, record: np.ndarray | None) -> torch.Tensor | None:
        """A record on the device, where there is one."""
        return None if record is None else torch.from_numpy(record).to(self.device)


def facts_of(prepared: prepare.Prepared, parts: split.Parts) -> dict[str, Scalar]:
    """What a reader must know of the data behind the numbers."""
    return {
        "digest": prepared.digest,
        "white": prepared.white,
        "unit": prepared.unit,
        "train": len(parts.train),
        "val": len(parts.val),
        "test": len(parts.test),
        "test_groups": len(np.unique(prepared.groups[parts.test])),
        "siblings": round(parts.siblings, 6),
        **({"multilabel": True} if prepared.multilabel else {}),
    }


def environment(device: torch.device) -> dict[str, str]:
    """What the numbers were made with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
    }


def device_of(runtime: Runtime) -> torch.device:
    """The device asked for, or the GPU where there is one."""
    if runtime.device.startswith("cuda") and not torch.cuda.is_available():
        raise BenchError(
            f"There is no GPU here that torch can use (--device {runtime.device}).",
            "Leave --device out, or look at the driver with nvidia-smi and `bench doctor`.",
        )
    if runtime.device != "auto":
        return torch.device(runtime.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def bootstrap_seed(target: str, how: Split, partition: int, fold: int) -> int:
    """Names the test patients alone: the draws of two arms, or two trainings, belong together."""
    return seed_of("bootstrap", split.partition_seed(target, how, partition), fold)
