"""What training minimises and what chooses: losses, class weights, probabilities, quality.

Labels (n,) are classes that exclude each other; labels (n, K) of 0 and 1 are a yes or no each.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmark import metrics
from benchmark.spec import Recipe

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of logits (n, K) and labels


def probabilities(logits: torch.Tensor, *, multilabel: bool = False) -> torch.Tensor:
    """Float64 (n, K): of classes that exclude each other, or of each label its own yes."""
    return logits.double().sigmoid() if multilabel else logits.double().softmax(1)


def loss(labels: torch.Tensor, train: np.ndarray, classes: int, recipe: Recipe) -> Loss:
    """Cross-entropy with the recipe's class weights; of several labels each one's, their mean."""
    weights = class_weights(labels[torch.as_tensor(train)].cpu().numpy(), classes, recipe)
    weight = torch.as_tensor(weights, device=labels.device).float()
    if labels.ndim == 1:
        return nn.CrossEntropyLoss(weight=weight)
    no, yes = weight

    def of_labels(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        each = torch.where(truth > 0, yes, no)
        return nn.functional.binary_cross_entropy_with_logits(logits, truth.float(), each)

    return of_labels


def auroc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Macro one-vs-rest AUROC over the classes that can have one."""
    with warnings.catch_warnings(action="ignore"):  # of what other metrics cannot say here
        return float(metrics.one_vs_rest(labels, scores)["macro"]["auroc"]["mean"])


def quality(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """What chooses: the AUROC, and between equals the mean log of the label's probability."""
    found = auroc(labels, scores)
    of_label = (
        np.where(labels > 0, scores, 1 - scores)
        if labels.ndim == 2
        else scores[np.arange(len(labels)), labels]
    )
    return 0.0 if math.isnan(found) else found, float(np.log(of_label.clip(1e-12)).mean())


def class_weights(labels: np.ndarray, classes: int, recipe: Recipe) -> np.ndarray:
    """Weights (K,) of the loss; a class without training images weighs nothing.

    Of several labels (2, K): those of each one's no and yes, scaled to a mean of one over images.
    """
    if labels.ndim == 2:
        each = np.stack([class_weights(label, 2, recipe) for label in labels.T], axis=1)
        return each / np.take_along_axis(each, labels.astype(int), axis=0).mean(axis=0)
    counts = np.bincount(labels, minlength=classes).astype(float)
    present = counts > 0
    if recipe.class_weights == "none":
        return np.ones(classes)
    weights = np.zeros(classes)
    if recipe.class_weights == "balanced" or present.sum() == 1:
        weights[present] = counts.sum() / (present.sum() * counts[present])
    else:  # MetaNet's: the odds against the class, scaled to mean one
        weights[present] = (counts.sum() - counts[present]) / counts[present]
        weights *= present.sum() / weights.sum()
    return weights
