"""The training loop: one for pretraining, fine-tuning and heads on frozen features."""

import copy
import io
import math
import time
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from benchmark.errors import NotFinite
from benchmark.files import replacing
from benchmark.spec import Augment, Recipe, seed_of
from benchmark.train import objective
from benchmark.train.augment import augment, normalise

#: A checkpoint is written after an epoch if the last one is older than this: heads on cached
#: features have epochs of milliseconds. Which epoch a resumed run starts from changes no number.
CHECKPOINT_EVERY = 2.0  # seconds

#: Of the augmentation of test images, where a protocol has one: every arm sees the same.
TEST_SEED = 2021

Batch = tuple[torch.Tensor, torch.Tensor | None]


class Inputs(Protocol):
    """Where a model's batches come from."""

    def batch(self, rows: torch.Tensor, generator: torch.Generator, *, training: bool) -> Batch:
        """Network input and record of these rows, augmented as the recipe says."""
        ...


@dataclass(frozen=True)
class Pixels:
    """Images of a mapped set, held on the device where they fit, changed and scaled there."""

    images: torch.Tensor  # uint8 (N, H, W, 3)
    record: torch.Tensor | None
    recipe: Recipe
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device

    def batch(self, rows: torch.Tensor, generator: torch.Generator, *, training: bool) -> Batch:
        """Gather, augment and normalise: float (n, 3, H, W)."""
        found = self.images[rows.to(self.images.device)].to(self.device, non_blocking=True)
        pixels = found.permute(0, 3, 1, 2)
        recipe = self.recipe
        changes = recipe.augment if training else recipe.test_augment or Augment()
        pixels = augment(pixels, changes, generator, out_size=recipe.crop, random_crop=training)
        record = None if self.record is None else self.record[rows.to(self.record.device)]
        return normalise(pixels, self.mean, self.std), record


@dataclass(frozen=True)
class Features:
    """Pooled features of a frozen network."""

    values: torch.Tensor  # float32 (N, C)
    record: torch.Tensor | None

    def batch(self, rows: torch.Tensor, generator: torch.Generator, *, training: bool) -> Batch:
        """The features and records of these rows."""
        record = None if self.record is None else self.record[rows]
        return self.values[rows], record


@dataclass
class Fit:
    """What training gave beside the model itself."""

    history: list[dict[str, float | int | None]] = field(default_factory=list)
    chosen: str = ""
    epoch: int = 0  # the one whose weights were kept
    resumed: int = 0


@dataclass(frozen=True)
class Callbacks:
    """How the loop speaks with whoever runs it."""

    epoch: Callable[[dict[str, Any]], None] = lambda facts: None
    check: Callable[[], None] = lambda: None  # raises Interrupted when asked to stop


def fit(
    model: nn.Module,
    inputs: Inputs,
    labels: torch.Tensor,
    train: np.ndarray,
    val: np.ndarray,
    recipe: Recipe,
    *,
    classes: int,
    seed: int,
    checkpoint: Path | None = None,
    report: Callbacks | None = None,
    patience: int | None = None,
    stop: int | None = None,
    keep: bool = False,
) -> Fit:
    """Train `model` in place and leave the chosen checkpoint's weights in it.

    It ends before the recipe's last epoch after `patience` epochs without a better validation
    AUROC, or after `stop` epochs. `keep` writes the last epoch's checkpoint in any case.
    """
    report, recipe = report or Callbacks(), recipe.over(len(train))
    device = labels.device
    loss_of = objective.loss(labels, train, classes, recipe)
    optimizer = make_optimizer(model, recipe)
    rows = torch.as_tensor(train)
    result, best, start = Fit(), {"score": (-1.0, 0.0), "epoch": -1, "state": None}, 0
    select = recipe.select == "validation" and len(val) > 0
    saved = None if checkpoint is None else _saved(checkpoint, model, optimizer, device)
    if saved is not None:
        result.history, best, start = saved["history"], saved["best"], saved["epoch"]
        result.resumed = start
    written = time.monotonic()
    last = recipe.epochs if stop is None else stop
    for epoch in range(start, last):
        began = time.monotonic()
        loss = _epoch(model, inputs, labels, rows, recipe, loss_of, optimizer, epoch, seed, report)
        if not math.isfinite(loss):
            raise NotFinite(
                f"The loss is {loss} in epoch {epoch + 1}.", "Lower the learning rate (--lr)."
            )
        seconds = time.monotonic() - began
        facts: dict[str, float | int | None] = {
            "epoch": epoch + 1,
            "loss": loss,
            "lr": rate(recipe, epoch, 0.0),
            "rate": len(train) / max(seconds, 1e-9),
        }
        if len(val) and (select or epoch + 1 == recipe.epochs):
            scores = predict(
                model, inputs, torch.as_tensor(val), recipe, device, multilabel=labels.ndim == 2
            )
            of_val = labels[torch.as_tensor(val)].cpu().numpy()
            facts["val_auroc"] = objective.auroc(of_val, scores)
            score = objective.quality(of_val, scores)
            if select and score > tuple(best["score"]):
                best = {"score": score, "epoch": epoch, "state": _copy(model)}
        result.history.append(facts)
        report.epoch({**facts, "epochs": recipe.epochs, "seconds": seconds})
        due = time.monotonic() - written > CHECKPOINT_EVERY or (keep and epoch + 1 == last)
        if checkpoint is not None and due:
            _save(checkpoint, model, optimizer, result.history, best, epoch + 1)
            written = time.monotonic()
        if select and patience is not None and epoch - best["epoch"] >= patience:
            break
    result.epoch = len(result.history)
    if select and best["state"] is not None:
        model.load_state_dict(best["state"])
        result.epoch = best["epoch"] + 1
        result.chosen = f"epoch {best['epoch'] + 1} of {recipe.epochs} by validation AUROC"
    else:
        result.chosen = f"last epoch of {recipe.epochs}"
    return result


def _epoch(
    model: nn.Module,
    inputs: Inputs,
    labels: torch.Tensor,
    rows: torch.Tensor,
    recipe: Recipe,
    loss_of: objective.Loss,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    seed: int,
    report: Callbacks,
) -> float:
    """One pass; all its randomness comes from the seed and the epoch, so a resumed run agrees."""
    device = labels.device
    generator = torch.Generator().manual_seed(seed_of(seed, "epoch", epoch))
    torch.manual_seed(seed_of(seed, "dropout", epoch))
    order = rows[torch.randperm(len(rows), generator=generator)]
    steps = batches(len(order), recipe.batch)
    total = torch.zeros((), device=device)
    model.train()
    for step, (first, last) in enumerate(steps):
        report.check()
        for group in optimizer.param_groups:
            group["lr"] = rate(recipe, epoch, step / len(steps)) * group.get("share", 1.0)
        chosen = order[first:last]
        x, record = inputs.batch(chosen, generator, training=True)
        with autocast(device, recipe):
            logits = model(x, record)
        loss = loss_of(logits.float(), labels[chosen.to(device)])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(chosen)
    return float(total / len(order))


def batches(n: int, size: int) -> list[tuple[int, int]]:
    """Cuts of n rows; a last batch of one joins its neighbour, as batch norm needs two."""
    cuts = [(i, min(i + size, n)) for i in range(0, n, size)]
    if len(cuts) > 1 and cuts[-1][1] - cuts[-1][0] == 1:
        cuts[-2:] = [(cuts[-2][0], n)]
    return cuts


@torch.inference_mode()
def predict(
    model: nn.Module,
    inputs: Inputs,
    rows: torch.Tensor,
    recipe: Recipe,
    device: torch.device,
    *,
    multilabel: bool = False,
) -> np.ndarray:
    """Class probabilities (n, K) float64 of these rows."""
    model.eval()
    found, generator = [], torch.Generator().manual_seed(TEST_SEED)
    for chosen in rows.split(max(recipe.batch, 64)):
        x, record = inputs.batch(chosen, generator, training=False)
        with autocast(device, recipe):
            logits = model(x, record)
        found.append(objective.probabilities(logits, multilabel=multilabel).cpu())
    scores = torch.cat(found).numpy()
    if not np.isfinite(scores).all():
        raise NotFinite("The network's outputs are not finite.", "Lower the learning rate (--lr).")
    return scores


def rate(recipe: Recipe, epoch: int, share: float) -> float:
    """The learning rate at a point of training; `share` of the epoch has passed."""
    if recipe.schedule == "cosine":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (epoch + share) / recipe.epochs))
    if recipe.schedule == "step":
        return recipe.lr * recipe.factor ** sum(epoch >= m for m in recipe.milestones)
    return recipe.lr


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over everything that trains."""
    parameters: list[Any] = [p for p in model.parameters() if p.requires_grad]
    if recipe.layer_decay < 1:
        from benchmark.train import trains

        parameters = trains.groups(model, recipe.layer_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, recipe.lr, weight_decay=recipe.weight_decay)


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """bf16 on a GPU where the recipe says so; a CPU runs float32."""
    on = device.type == "cuda" and recipe.precision == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=on)


def on_device(pixels: np.ndarray, device: torch.device) -> torch.Tensor:
    """The mapped images as a tensor: on the GPU when they fill less than half of what is free."""
    tensor = torch.from_numpy(np.asarray(pixels)) if pixels.flags.writeable else _shared(pixels)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if tensor.nbytes < free / 2:
            return tensor.to(device)
    return tensor


def _shared(pixels: np.ndarray) -> torch.Tensor:
    """A tensor over read-only memory; nothing here writes to it."""
    with warnings.catch_warnings(action="ignore"):
        return torch.from_numpy(pixels)


def _copy(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _saved(path: Path, model, optimizer, device: torch.device) -> dict[str, Any] | None:
    """Go on from a checkpoint; one that is damaged, or of another cell, is dropped."""
    if not path.exists():  # the usual case: nothing is copied for it
        return None
    first = _copy(model), copy.deepcopy(optimizer.state_dict())
    try:
        check, content = path.read_bytes().split(b"\n", 1)
        if check != _check(path, content):
            raise ValueError("its checksum is not that of its content")
        saved = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        return {name: saved[name] for name in ("history", "best", "epoch")}
    except Exception as error:  # whatever it holds, the cell can do without it
        warnings.warn(f"The checkpoint was not used: {type(error).__name__}.", stacklevel=2)
        model.load_state_dict(first[0])
        optimizer.load_state_dict(first[1])
        path.unlink(missing_ok=True)
        return None


def _save(path: Path, model, optimizer, history, best, epoch: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "best": best,
        "epoch": epoch,
    }
    content = io.BytesIO()
    torch.save(state, content)  # in memory: its errors on a full disk are no OSError
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_check(path, content.getbuffer()) + b"\n")
        file.write(content.getbuffer())


def _check(path: Path, content: bytes | memoryview) -> bytes:
    """A checksum of a checkpoint and of the cell whose it is."""
    return b"%08x" % zlib.crc32(content, zlib.crc32(path.parent.name.encode()))
