"""Heads on frozen features, solved or trained; test data choose none of their settings."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmark.data import split
from benchmark.data.prepare import Prepared
from benchmark.errors import NotFinite
from benchmark.spec import Recipe
from benchmark.train import loop
from benchmark.train.softmax import PENALTIES, Softmax, softmax_optimum, softmax_path

#: Learning rates of a trained head, as multiples of its recipe's, and then its weight decays.
RATES = (0.3, 1.0, 3.0, 10.0)
DECAYS = (0.0, 1.0)
#: Epochs without a better validation AUROC after which a head under trial is given up.
PATIENCE = 8
#: Newton steps to an optimum; a dozen is usual.
MOST_STEPS = 100


class Rows(NamedTuple):
    """The rows a head may see."""

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


class Choice(NamedTuple):
    """What a head was made with, in words, and what a reader should doubt."""

    text: str
    warnings: list[str]


def rows_of(prepared: Prepared, parts: split.Parts, seed: int) -> Rows:
    """The protocol's own validation part, or a grouped cut of the training part."""
    if len(parts.val):
        return Rows(parts.train, parts.train, parts.val)
    return Rows(parts.train, *split.inner(prepared, parts.train, seed))


def solved(
    values: np.ndarray,
    labels: np.ndarray,
    rows: Rows,
    recipe: Recipe,
    *,
    classes: int,
    report: loop.Callbacks,
) -> tuple[Softmax, Choice]:
    """Logistic regression on features (N, D) at its optimum, the penalty chosen on the way."""

    def path(seen: np.ndarray, penalties: Sequence[float]) -> list[Softmax]:
        return softmax_path(
            values[seen],
            labels[seen],
            classes=classes,
            penalties=penalties,
            sample_weight=_balance(labels, seen, classes, recipe),
            max_iterations=MOST_STEPS,
            check=report.check,
        )

    tried = path(rows.fit, PENALTIES)
    judged = [loop.quality(labels[rows.val], probabilities(one, values[rows.val])) for one in tried]
    best = judged.index(max(judged))
    found = path(rows.train, PENALTIES[: best + 1])[-1] if rows.inner else tried[best]
    l2 = PENALTIES[best]
    text = f"penalty {l2:g} of {len(PENALTIES)}, gradient norm {found.gradient_norm:.1g}"
    doubts = [*_one_class(labels[rows.val]), *_at_end("penalty", l2, PENALTIES), *_stopped(found)]
    return found, Choice(f"{text}, by {rows.judge}", doubts)


def optimum(
    values: np.ndarray,
    labels: np.ndarray,
    seen: np.ndarray,
    recipe: Recipe,
    *,
    classes: int,
    report: loop.Callbacks,
) -> tuple[Softmax, Choice]:
    """Thomas's softmax classifier: next to no penalty, or the paper's own descent."""
    faithful = recipe.head == "faithful"
    found = softmax_optimum(
        values[seen],
        labels[seen],
        classes=classes,
        sample_weight=_balance(labels, seen, classes, recipe),
        max_iterations=2000 if faithful else MOST_STEPS,
        faithful=faithful,
        check=report.check,
    )
    how = f"{recipe.head} of the softmax, gradient norm {found.gradient_norm:.2g}"
    return found, Choice(f"{how} after {found.iterations} iterations", _stopped(found))


def probabilities(found: Softmax, values: np.ndarray) -> np.ndarray:
    """Class probabilities (n, K) of features (n, D)."""
    return torch.from_numpy(values @ found.weight.T + found.bias).double().softmax(1).numpy()


class Trial(NamedTuple):
    """A head trained with some settings; the larger `quality` the better."""

    quality: tuple[float, float]
    model: nn.Module
    fit: loop.Fit
    recipe: Recipe
    error: NotFinite | None = None


def trained(
    make: Callable[[], nn.Module],
    inputs: loop.Inputs,
    labels: torch.Tensor,
    rows: Rows,
    recipe: Recipe,
    **how: Any,
) -> tuple[nn.Module, loop.Fit, list[str]]:
    """The best of some short trainings: first of the learning rates, then of the decays."""
    known, device = labels.cpu().numpy(), labels.device

    def attempt(lr: float, decay: float) -> Trial:
        change = {"lr": lr, "weight_decay": decay, "select": "validation"}
        one, model = recipe.model_copy(update=change), make()
        try:
            fit = loop.fit(model, inputs, labels, rows.fit, rows.val, one, patience=PATIENCE, **how)
            scores = loop.predict(model, inputs, torch.as_tensor(rows.val), one, device)
        except NotFinite as error:
            return Trial((-1.0, 0.0), model, loop.Fit(), one, error)
        return Trial(loop.quality(known[rows.val], scores), model, fit, one)

    def best_of(trials: list[Trial]) -> Trial:
        return max(trials, key=lambda trial: trial.quality)

    rates = [float(f"{recipe.lr * factor:.3g}") for factor in RATES]
    best = best_of([attempt(lr, DECAYS[0]) for lr in rates])
    best = best_of([best, *(attempt(best.recipe.lr, decay) for decay in DECAYS[1:])])
    if best.error is not None:
        raise best.error
    model, fit, lr, decay = best.model, best.fit, best.recipe.lr, best.recipe.weight_decay
    if rows.inner:
        model = make()
        loop.fit(
            model, inputs, labels, rows.train, rows.val[:0], best.recipe, stop=fit.epoch, **how
        )
    fit.chosen = (
        f"learning rate {lr:g}, decay {decay:g}, epoch {fit.epoch} of {recipe.epochs}, "
        f"by {rows.judge}"
    )
    doubts = [*_one_class(known[rows.val]), *_at_end("learning rate", lr, rates)]
    doubts += _at_end("decay", decay, DECAYS) if decay else []  # no decay is an end by nature
    return model, fit, doubts


def _balance(labels: np.ndarray, seen: np.ndarray, classes: int, recipe: Recipe) -> np.ndarray:
    return loop.class_weights(labels[seen], classes, recipe)[labels[seen]]


def _at_end(what: str, value: float, among: Sequence[float]) -> list[str]:
    for end, word in ((max(among), "largest"), (min(among), "smallest")):
        if value == end:
            return [f"The {what} chosen for the head, {value:g}, is the {word} of its list."]
    return []


def _stopped(found: Softmax) -> list[str]:
    if found.converged:
        return []
    return [
        f"The head is not at its optimum: gradient norm {found.gradient_norm:.1g} after "
        f"{found.iterations} iterations."
    ]


def _one_class(labels: np.ndarray) -> list[str]:
    if len(np.unique(labels)) > 1:
        return []
    return ["The validation part has one class: the head's settings were chosen by its loss."]
