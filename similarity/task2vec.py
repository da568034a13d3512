"""Task2Vec: what a probe network would have to learn for a task, as its diagonal Fisher.

One number per convolution filter and per batch-norm scale, and of a transformer per output of its
linear layers, whose tokens are as many places: the Fisher information of those weights
for a linear head fitted on the task, averaged over the filter.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import Distance, DistanceCard, Estimate, Measured, Side
from benchmark.errors import BenchError, NotFinite
from benchmark.spec import Scalar
from similarity._fisher import batch_means, per_image, weights_of
from similarity._floor import against_halves
from similarity._labelled import yes_no
from similarity._subsets import of_pairs, pairs_of, subset

if TYPE_CHECKING:
    import torch
    from torch import nn

EXACT_CLASSES = 20  # up to here the expectation over labels is exact, beyond it takes as many draws
BATCH = 64  # images of a step of the head, and of a gradient of the reference
ALPHA = 0.15  # of the asymmetric distance, as in the paper
EPOCH = 10_000  # class-balanced draws that the public code calls an epoch


@dataclass(frozen=True, eq=False)
class Embedding:
    """The Fisher of each filter and batch-norm scale in module order, and how it was made."""

    values: np.ndarray  # (d,) float64, none negative
    meta: Mapping[str, Any] = field(default_factory=dict)  # method, n, classes, seed, draws, …


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
    prepare: Callable[[Any], torch.Tensor] | None = None,
) -> Embedding:
    """The diagonal Fisher of `network` on a task; the network itself is left as it is.

    images: (N, C, H, W) normalised as the network wants them, or anything that `prepare` makes so
    from `images[rows]`; labels: (N,) of any kind. Classes count alike, in the head and in the mean
    over images; of labels (N, K) of 0 and 1, K sigmoids, yes and no do in the head. The expectation
    over labels is exact up to 20 classes; beyond, or where `draws` is given, so many labels per
    image are drawn from the model itself. `reference` does as the public code: batch norm in train
    mode, gradients of means over 64 images, 10,000 class-balanced draws; such values compare only
    with their like. `head`: (weight (classes, features), bias (classes,)), for the sorted classes,
    in place of a fitted one. `batch`, the images at once, bounds the memory and changes no number.
    """
    import torch

    codes, classes = _codes(labels, len(images))
    sigmoids = codes.ndim == 2
    if sigmoids and reference:
        raise BenchError(
            "The reference knows one class an image only.", "Leave distance.reference out."
        )
    probe = copy.deepcopy(network).requires_grad_(False).train(reference)
    weights = weights_of(probe, conv_only)
    like, generator = weights[0], torch.Generator().manual_seed(seed)

    def load(rows: Any) -> torch.Tensor:
        found = prepare(images[rows]) if prepare else torch.as_tensor(images[rows])
        return found.to(like)

    if head is None:
        features = _features(probe, load, len(codes), BATCH if reference else batch)
        head = _fit(features, torch.as_tensor(codes), classes, generator)
    matrix, bias = (torch.as_tensor(part).to(like) for part in head)

    def logits(rows: Any) -> torch.Tensor:
        return _pooled(probe, load(rows)) @ matrix.T + bias

    if draws is None and classes > EXACT_CLASSES:
        draws = EXACT_CLASSES
    if reference:
        method, draws = "reference", EPOCH
        *_, totals = batch_means(logits, weights, _balanced(codes, generator), generator)
    else:
        method = "exact" if draws is None else "montecarlo"
        totals = per_image(
            logits,
            weights,
            n=len(codes),
            classes=classes,
            generator=generator,
            draws=draws,
            batch=batch,
            shares=torch.as_tensor(_shares(codes)),
            sigmoids=sigmoids,
        )
    values = torch.cat(totals).double().cpu().numpy()
    if not np.isfinite(values).all():
        raise NotFinite("The Fisher is not finite.", "Check the images and the probe's weights.")
    meta = {"method": method, "n": len(codes), "classes": classes, "seed": seed,
            "draws": draws, "conv_only": conv_only}  # fmt: skip
    return Embedding(values, meta)


# --- distances --------------------------------------------------------------------------------


def cosine(a: Any, b: Any) -> float:
    """Task2Vec's distance: 1 − cosine of h₀/(h₀+h₁) and h₁/(h₀+h₁), in [0, 1].

    Nothing is added to the denominator, so the unit of the Fisher does not matter. A weight that
    neither task touches (0/0) is left out; one that only one of them touches counts as (0, 1).
    """
    h0, h1 = _pair(a, b)
    seen = (h0 > 0) | (h1 > 0)
    # Against underflow of the sum, which only the ratio of the two matters for.
    larger = np.maximum(h0, h1)[seen]
    x, y = h0[seen] / larger, h1[seen] / larger
    return _cosine_distance(x / (x + y), y / (x + y))


def raw_cosine(a: Any, b: Any) -> float:
    """1 − cosine of the embeddings themselves: a few filters with a large Fisher decide it."""
    return _cosine_distance(*_pair(a, b))


def trivial(embedding: Any) -> np.ndarray:
    """A task that asks the same of every filter, as much in all as this one."""
    values = np.asarray(getattr(embedding, "values", embedding), dtype=np.float64)
    return np.full_like(values, values.mean())


def asymmetric(a: Any, b: Any, alpha: float = ALPHA) -> float:
    """From task a to task b: the cosine less `alpha` times a's own from the trivial task.

    So of two sources equally near the more complex one is nearer; the value may be below zero.
    """
    return cosine(a, b) - alpha * cosine(a, trivial(a))


def _pair(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    methods = {
        e.meta["method"] == "reference" for e in (a, b) if "method" in getattr(e, "meta", ())
    }
    h0, h1 = (np.asarray(getattr(e, "values", e), dtype=np.float64) for e in (a, b))
    if h0.ndim != 1 or h0.shape != h1.shape or len(methods) > 1:
        raise BenchError(
            f"Embeddings of shapes {h0.shape} and {h1.shape} are not comparable, or one of them "
            "was made as the reference and the other was not.",
            "Embed both tasks with the same network and options.",
        )
    for h in (h0, h1):
        if not (np.isfinite(h).all() and (h >= 0).all() and h.any()):
            raise BenchError(
                "An embedding is not finite, negative somewhere or zero everywhere.",
                "Embed that task again and check its images.",
            )
    return h0, h1


def _cosine_distance(u: np.ndarray, v: np.ndarray) -> float:
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return float(((u - v) ** 2).sum() / 2)  # keeps its digits where the two are almost equal


# --- the head ---------------------------------------------------------------------------------


def _codes(labels: Any, images: int) -> tuple[np.ndarray, int]:
    """Class indices in sorted order, and how many classes there are; of label sets (n, K) those
    labels that some images bear and others do not."""
    given = labels.detach().cpu() if hasattr(labels, "detach") else labels
    if np.ndim(given) == 2:
        _, told = yes_no(np.zeros((images, 1)), given)
        return told, told.shape[1]
    classes, codes = np.unique(np.asarray(given), return_inverse=True)
    if codes.shape != (images,) or len(classes) < 2:
        raise BenchError(
            f"{codes.size} labels of {len(classes)} classes for {images} images are no task.",
            "Give one label for each image and at least two classes.",
        )
    return codes, len(classes)


def _pooled(probe: nn.Module, x: torch.Tensor) -> torch.Tensor:
    run: Any = getattr(probe, "pooled", probe)
    return run(x).flatten(1)


def _features(probe: nn.Module, load: Any, n: int, batch: int) -> torch.Tensor:
    import torch

    with torch.no_grad():
        parts = [_pooled(probe, load(slice(k, k + batch))).float() for k in range(0, n, batch)]
    return torch.cat(parts)


def _fit(
    features: torch.Tensor, codes: torch.Tensor, classes: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A linear head: ten epochs of Adam, counted as the public code counts them.

    Ten passes over a small set would leave the head where its random start put it.
    """
    import torch

    device, width = features.device, features.shape[1]
    scatter = torch.rand(classes, width + 1, generator=generator) * 2 - 1
    start = (scatter / width**0.5).to(device)
    matrix, bias = (part.clone().requires_grad_() for part in (start[:, :-1], start[:, -1]))
    loss_of = torch.nn.functional.cross_entropy
    if codes.ndim == 2:
        codes = codes.float()
        odds = ((1 - codes).sum(0) / codes.sum(0)).to(device)
        loss_of = torch.nn.BCEWithLogitsLoss(pos_weight=odds, weight=(1 + 1 / odds) / 2)
    adam = torch.optim.Adam([matrix, bias], lr=4e-4, weight_decay=1e-4, fused=True)
    for _ in range(10):
        for rows in _balanced(codes.numpy(), generator):
            logits = features[rows.to(device)] @ matrix.T + bias
            adam.zero_grad()
            loss_of(logits, codes[rows].to(device)).backward()
            adam.step()
    return matrix.detach(), bias.detach()


def _shares(codes: np.ndarray) -> np.ndarray:
    """Of each image (n,): classes count alike; of label sets, images."""
    if codes.ndim == 2:
        return np.full(len(codes), 1 / len(codes))
    counts = np.bincount(codes)
    return 1 / len(counts) / counts[codes]


def _balanced(codes: np.ndarray, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """An epoch of whole batches, each class drawn as often as any other, with replacement."""
    import torch

    chance = torch.as_tensor(_shares(codes) if codes.ndim == 2 else 1 / np.bincount(codes)[codes])
    drawn = torch.multinomial(chance, EPOCH // BATCH * BATCH, replacement=True, generator=generator)
    return iter(drawn.view(-1, BATCH))


# --- the component ----------------------------------------------------------------------------


class Task2Vec(Distance):
    """The distance of two sets' embeddings by one probe; the variant names what is compared."""

    card = DistanceCard(
        title="Task2Vec",
        version=3,
        needs="network",
        reference="https://arxiv.org/abs/1902.03545",
        options={
            "floor": 2,  # halvings of each side; 0 measures no noise
            "size": 500,  # images of a half at most
            "conv_only": False,
            "reference": False,
            "draws": 0,
            "alpha": ALPHA,  # of task2vec:asymmetric
            # The cats study: subsets=100, share=0.01, and the mean over pairs of subsets.
            "subsets": 1,
            "share": 1.0,
            "pairs": "",
        },
    )
    variants = ("cosine", "raw", "asymmetric")

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        how: dict[str, Any] = {
            "reference": bool(options["reference"]),
            "conv_only": bool(options["conv_only"]),
            "draws": int(options["draws"]) or None,
        }
        name = f"task2vec {self.card.version} with linear layers {sorted(how.items())} {seed}"
        alpha = float(options["alpha"])
        between = {"raw": raw_cosine, "asymmetric": partial(asymmetric, alpha=alpha)}.get(
            self.variant, cosine
        )
        subsets, share = int(options["subsets"]), float(options["share"])
        if subsets < 1 or not 0 < share <= 1:
            raise BenchError(
                f"{subsets} subsets of {share} of the images are none.",
                "Give subsets of 1 or more, and a share above 0, at most 1.",
            )
        if subsets > 1 or share < 1:

            def part(side: Side, number: int) -> np.ndarray:
                rows = subset(side.labels, share, (seed, number))
                known = f"{name} subset {number} of {share}"
                return side.cached(known, lambda: _embedding(side, rows, seed, how))

            pairs = pairs_of(options["pairs"], subsets, seed)
            one = {k: part(source, k) for k in dict.fromkeys(k for k, _ in pairs)}
            other = {k: part(target, k) for k in dict.fromkeys(k for _, k in pairs)}
            sides = [*one.values()], [*other.values()]
            return of_pairs([(one[a], other[b]) for a, b in pairs], sides, between)

        def of(side: Side) -> np.ndarray:
            return side.cached(name, lambda: _embedding(side, slice(None), seed, how))

        def look(side: Side) -> Callable[[np.ndarray], np.ndarray]:
            def half(rows: np.ndarray) -> np.ndarray:
                known = f"{name} of {hashlib.sha256(rows.tobytes()).hexdigest()[:16]}"
                return side.cached(known, lambda: _embedding(side, rows, seed, how))

            return half

        facts: dict[str, float | Estimate] = {}
        if halvings := int(options["floor"]):
            _, facts = against_halves(
                source, target, look, between, name=f"{name} {self.variant} {alpha}",
                size=int(options["size"]), draws=halvings, seed=seed,
            )  # fmt: skip
        return Measured(between(of(source), of(target)), facts=facts)


def _embedding(side: Side, rows: Any, seed: int, how: dict[str, Any]) -> np.ndarray:
    """Of some images of a side; they are looked at batch by batch, so a side may be large."""
    places = np.arange(len(side.labels))[rows]
    labels = side.labels[rows]
    return embed(side.network, places, labels, seed=seed, prepare=side.images, **how).values
