"""What validation chooses: among which rows, between which trainings, and what to doubt of it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmark.data import split
from benchmark.data.prepare import Prepared
from benchmark.errors import NotFinite
from benchmark.spec import Recipe
from benchmark.train import loop, objective


class Rows(NamedTuple):
    """The rows that settings may be chosen by."""

    train: np.ndarray  # those it is fitted on in the end
    fit: np.ndarray  # those its candidates are fitted on
    val: np.ndarray  # those that choose among the candidates

    @property
    def inner(self) -> bool:
        """Whether the protocol has no validation part, and the training part was cut."""
        return len(self.fit) < len(self.train)

    @property
    def judge(self) -> str:
        return "validation AUROC" + (" inside the training part" if self.inner else "")


def rows_of(prepared: Prepared, parts: split.Parts, seed: int) -> Rows:
    """The protocol's own validation part, or a grouped cut of the training part."""
    if len(parts.val):
        return Rows(parts.train, parts.train, parts.val)
    return Rows(parts.train, *split.inner(prepared, parts.train, seed))


class Trial(NamedTuple):
    """A network trained with some settings; the larger `quality` the better."""

    quality: tuple[float, float]
    model: nn.Module
    fit: loop.Fit
    recipe: Recipe
    error: NotFinite | None = None


def attempt(
    make: Callable[[], nn.Module],
    inputs: loop.Inputs,
    labels: torch.Tensor,
    rows: Rows,
    recipe: Recipe,
    **how: Any,
) -> Trial:
    """One training, judged on the validation rows; one that runs away is the worst there is."""
    model = make()
    try:
        fit = loop.fit(model, inputs, labels, rows.fit, rows.val, recipe, **how)
        seen, device = torch.as_tensor(rows.val), labels.device
        many = labels.ndim == 2
        scores = loop.predict(model, inputs, seen, recipe, device, multilabel=many)
    except NotFinite as error:
        return Trial((-1.0, 0.0), model, loop.Fit(), recipe, error)
    known = labels.cpu().numpy()[rows.val]
    return Trial(objective.quality(known, scores), model, fit, recipe)


def best_of(trials: Sequence[Trial]) -> Trial:
    """The first of the best."""
    return max(trials, key=lambda trial: trial.quality)


def settled(
    best: Trial,
    make: Callable[[], nn.Module],
    inputs: loop.Inputs,
    labels: torch.Tensor,
    rows: Rows,
    **how: Any,
) -> tuple[nn.Module, loop.Fit]:
    """The network of the best trial; trained once more where some rows were held back for it."""
    if best.error is not None:
        raise best.error
    model, fit = best.model, best.fit
    if rows.inner:
        model, none = make(), rows.val[:0]
        # `stop` counts the candidates' epochs: the schedule is theirs, however many rows there are.
        epochs = best.recipe.over(len(rows.fit)).epochs
        recipe = best.recipe.model_copy(update={"images": None, "epochs": epochs})
        loop.fit(model, inputs, labels, rows.train, none, recipe, stop=fit.epoch, **how)
    return model, fit


def rate(
    make: Callable[[], nn.Module],
    inputs: loop.Inputs,
    labels: torch.Tensor,
    rows: Rows,
    recipe: Recipe,
    *,
    folder: Path,
    **how: Any,
) -> tuple[nn.Module, loop.Fit, list[str]]:
    """Fine-tuning at each learning rate of the list; the best, and what to doubt of it.

    Each has a checkpoint of its own, so that a killed run goes on at the rate it was in.
    """
    best: Trial | None = None
    for i, lr in enumerate(recipe.tune):
        one, path = recipe.model_copy(update={"lr": lr}), folder / f"last-{i}.pt"
        trial = attempt(make, inputs, labels, rows, one, checkpoint=path, keep=True, **how)
        best = trial if best is None else best_of([best, trial])  # holds two networks at most
    assert best is not None
    model, fit = settled(best, make, inputs, labels, rows, checkpoint=folder / "last.pt", **how)
    lr = best.recipe.lr
    chosen = f"learning rate {lr:g} by {rows.judge}, {fit.chosen}"
    if fit.chosen.endswith(" by validation AUROC"):
        chosen = f"learning rate {lr:g}, {fit.chosen.removesuffix('validation AUROC')}{rows.judge}"
    fit.chosen = chosen
    doubts = at_end("learning rate chosen", lr, recipe.tune)
    return model, fit, [*one_class(labels.cpu().numpy()[rows.val]), *doubts]


def at_end(what: str, value: float, among: Sequence[float]) -> list[str]:
    """A chosen value at an end of its list: a better one may lie beyond."""
    for end, word in ((max(among), "largest"), (min(among), "smallest")):
        if value == end:
            return [f"The {what}, {value:g}, is the {word} of its list."]
    return []


def one_class(labels: np.ndarray) -> list[str]:
    """A validation part that ranks nothing."""
    if len(np.unique(labels, axis=0)) > 1:
        return []
    return ["The validation part has one class: settings were chosen by its loss."]
