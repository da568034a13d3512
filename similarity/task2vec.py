"""Task2Vec: what a probe network would have to learn for a task, as its diagonal Fisher.

The embedding holds one number per convolution filter and per batch-norm scale: the Fisher
information of those weights for a linear head fitted on the task, averaged over the filter.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import BenchError

if TYPE_CHECKING:
    import torch
    from torch import nn

BATCH = 64  # images of a step of the head, and of a gradient of the reference
EPOCH = 10_000  # class-balanced draws that the public code calls an epoch
EXACT_CLASSES = 20  # up to here the expectation over the labels is exact by default

Prepare = Callable[[Any], "torch.Tensor"]


@dataclass(frozen=True, eq=False)
class Embedding:
    """Fisher per filter and per batch-norm scale, in module order, and how it was made."""

    values: np.ndarray  # (d,) float64, not negative
    meta: Mapping[str, Any] = field(default_factory=dict)  # method, n, classes, seed, draws, parts


@dataclass(frozen=True)
class NoiseFloor:
    """Distances of a task to itself; a distance to another task means nothing below `value`."""

    seeds: tuple[float, ...]  # same images, another head and other draws
    subsets: tuple[float, ...]  # two disjoint halves of the images, one head's seed
    value: float  # the larger of the two means


def embed(
    network: nn.Module,
    images: Any,
    labels: Any,
    *,
    reference: bool = False,
    conv_only: bool = False,
    draws: int | None = None,
    seed: int = 0,
    head: tuple[Any, Any] | None = None,
    batch: int = 16,
    prepare: Prepare | None = None,
) -> Embedding:
    """The diagonal Fisher of `network` on a task; the network itself is left as it is.

    images: (N, C, H, W), normalised as the network wants it, or anything whose slices `prepare`
    makes so; labels: (N,) of any kind. The expectation over the labels is exact up to 20 classes
    and takes `draws` labels per image from the model's softmax beyond (20 by default) or wherever
    `draws` is given. `reference` does as the public code does: batch norm in train mode, gradients
    of batch means, 10,000 class-balanced draws. `head`: (weight (classes, features), bias) to use
    instead of fitting one. `batch` (images at once) bounds the memory and changes no number.
    """
    import torch

    codes, classes = _codes(labels, len(images))
    generator = torch.Generator().manual_seed(seed)
    probe = copy.deepcopy(network).requires_grad_(False).train(reference)
    device = next(probe.parameters()).device

    def load(rows: Any) -> torch.Tensor:
        found = prepare(images[rows]) if prepare else torch.as_tensor(images[rows])
        return found.to(device)

    slots = _slots(probe, conv_only)
    step = BATCH if reference else batch
    if head is None:
        head = _fit(_features(probe, load, len(codes), step), codes, classes, generator)
    weight, bias = (torch.as_tensor(part, device=device).float() for part in head)
    job = _Job(probe, slots, weight.to(_dtype(probe)), bias.to(_dtype(probe)), load, generator)
    if reference:
        method, draws = "reference", EPOCH
        *_, totals = batch_means(job, codes)
    elif draws is None and classes <= EXACT_CLASSES:
        method, draws = "exact", 0
        totals = per_image(job, len(codes), batch=batch)
    else:
        method, draws = "montecarlo", draws or EXACT_CLASSES
        totals = per_image(job, len(codes), batch=batch, draws=draws)
    values = torch.cat(totals).cpu().numpy()
    meta = {
        "method": method,
        "n": len(codes),
        "classes": classes,
        "seed": seed,
        "draws": draws,
        "conv_only": conv_only,
    }
    return Embedding(values, meta)


def _dtype(net: nn.Module) -> torch.dtype:
    return next(net.parameters()).dtype
