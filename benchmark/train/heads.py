"""Heads on frozen features, solved or trained; test data choose none of their settings."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmark.spec import Recipe
from benchmark.train import choose, loop, objective
from benchmark.train.choose import Rows, Trial
from benchmark.train.softmax import PENALTIES, Softmax, softmax_optimum, softmax_path

#: Learning rates of a trained head, as multiples of its recipe's, and then its weight decays.
RATES = (0.3, 1.0, 3.0, 10.0)
DECAYS = (0.0, 1.0)
#: Epochs without a better validation AUROC after which a head under trial is given up.
PATIENCE = 8
#: Newton steps to an optimum; a dozen is usual.
MOST_STEPS = 100


class Choice(NamedTuple):
    """What a head was made with, in words, and what a reader should doubt."""

    text: str
    warnings: list[str]


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
    many = labels.ndim == 2
    said = [probabilities(one, values[rows.val], multilabel=many) for one in tried]
    judged = [objective.quality(labels[rows.val], one) for one in said]
    best = judged.index(max(judged))
    found = path(rows.train, PENALTIES[: best + 1])[-1] if rows.inner else tried[best]
    l2 = PENALTIES[best]
    text = f"penalty {l2:g} of {len(PENALTIES)}, gradient norm {found.gradient_norm:.1g}"
    doubts = [
        *choose.one_class(labels[rows.val]),
        *choose.at_end("penalty chosen for the head", l2, PENALTIES),
        *_stopped(found),
    ]
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


def probabilities(found: Softmax, values: np.ndarray, *, multilabel: bool = False) -> np.ndarray:
    """Class probabilities (n, K) of features (n, D)."""
    logits = torch.from_numpy(values @ found.weight.T + found.bias)
    return objective.probabilities(logits, multilabel=multilabel).numpy()


def trained(
    make: Callable[[], nn.Module],
    inputs: loop.Inputs,
    labels: torch.Tensor,
    rows: Rows,
    recipe: Recipe,
    **how: Any,
) -> tuple[nn.Module, loop.Fit, list[str]]:
    """The best of some short trainings: first of the learning rates, then of the decays."""

    def attempt(lr: float, decay: float) -> Trial:
        change = {"lr": lr, "weight_decay": decay, "select": "validation"}
        one = recipe.model_copy(update=change)
        return choose.attempt(make, inputs, labels, rows, one, patience=PATIENCE, **how)

    rates = [float(f"{recipe.lr * factor:.3g}") for factor in RATES]
    best = choose.best_of([attempt(lr, DECAYS[0]) for lr in rates])
    best = choose.best_of([best, *(attempt(best.recipe.lr, decay) for decay in DECAYS[1:])])
    model, fit = choose.settled(best, make, inputs, labels, rows, **how)
    lr, decay = best.recipe.lr, best.recipe.weight_decay
    epochs = recipe.over(len(rows.fit)).epochs
    fit.chosen = (
        f"learning rate {lr:g}, decay {decay:g}, epoch {fit.epoch} of {epochs}, by {rows.judge}"
    )
    doubts = [
        *choose.one_class(labels.cpu().numpy()[rows.val]),
        *choose.at_end("learning rate chosen for the head", lr, rates),
    ]
    doubts += (
        choose.at_end("decay chosen for the head", decay, DECAYS) if decay else []
    )  # no decay is an end by nature
    return model, fit, doubts


def _balance(labels: np.ndarray, seen: np.ndarray, classes: int, recipe: Recipe) -> np.ndarray:
    weights, given = objective.class_weights(labels[seen], classes, recipe), labels[seen]
    return np.take_along_axis(weights, given.astype(int), 0) if given.ndim == 2 else weights[given]


def _stopped(found: Softmax) -> list[str]:
    if found.converged:
        return []
    return [
        f"The head is not at its optimum: gradient norm {found.gradient_norm:.1g} after "
        f"{found.iterations} iterations."
    ]
