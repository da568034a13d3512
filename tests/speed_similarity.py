"""Speed of OTDD and Task2Vec beside other code for them, in one run; `make speed` prints it."""

import time
from typing import Any

import numpy as np

from similarity import task2vec
from similarity.otdd import label_distances

NEAR = 1e-3  # distance at which an estimate counts as arrived
PATIENCE = 15.0  # times our own seconds after which the rival is stopped


def bench_otdd() -> dict[str, float]:
    """How often faster than dense: label distances of 10 × 10 classes of 50 images, d = 2,048.

    One dense pair (SciPy's square root of the product of the covariances) stands for all hundred.
    """
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(0)
    classes = np.arange(10).repeat(50)
    x1, x2 = np.maximum(rng.normal(size=(2, 500, 2048)), 0)
    label_distances(x1[:100], classes[:100], x2[:100], classes[:100])  # imports, threads

    ours = min(_seconds(lambda: label_distances(x1, classes, x2, classes)) for _ in range(3))

    def dense() -> None:
        a, b = x1[:50], x2[:50]
        ca, cb = np.cov(a.T), np.cov(b.T)
        cross = np.real(np.trace(np.asarray(sqrtm(ca @ cb))))
        float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * cross)

    return {"otdd_label_distances": 100 * _seconds(dense) / ours}


def _seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def bench_task2vec() -> dict[str, float]:
    """CPU seconds to the exact Fisher (60 images, two classes, ResNet18 at 64 px), ours and theirs.

    `task2vec` is theirs over ours. Their estimator squares gradients of means over 64 draws; it is
    given batch norm in eval mode here (in train mode it never comes near: `train_mode_distance`)
    and stops within 1e-3 of the exact embedding, or after fifteen times our seconds: then the ratio
    is a lower bound and `reached` is 0.
    """
    import torch

    from benchmark.train.network import build

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(60, 3, 64, 64, generator=generator)
    codes = np.arange(60) % 2
    images += torch.as_tensor(codes, dtype=torch.float32)[:, None, None, None] / 2
    network = build("resnet18", seed=0)
    head = torch.randn(2, 512, generator=generator) / 10, torch.zeros(2)

    def logits(rows: Any) -> torch.Tensor:
        return network.pooled(images[rows]) @ head[0].T + head[1]

    took, exact = [], task2vec.embed(network, images, codes, head=head)
    for _ in range(3):
        began = time.process_time()
        task2vec.embed(network, images, codes, head=head)
        took.append(time.process_time() - began)
    ours = min(took)

    found = {"task2vec": 0.0, "ours_seconds": ours, "reached": 0.0}
    for mode, patience in (("eval", PATIENCE * ours), ("train", 4 * ours)):
        network.train(mode == "train")
        weights = task2vec.weights_of(network, False)
        estimates = task2vec.batch_means(
            logits, weights, task2vec._balanced(codes, generator), generator
        )
        spent, distance = 0.0, 1.0
        while spent < patience and distance > NEAR:
            began = time.process_time()
            totals = next(estimates)
            spent += time.process_time() - began
            # A mean over 64 independent draws has a 64th of the variance.
            distance = task2vec.cosine(64 * torch.cat(totals).numpy(), exact.values)
        found[f"{mode}_mode_distance"] = distance
        if mode == "eval":
            found |= {"task2vec": spent / ours, "reached": float(distance <= NEAR)}
    torch.set_num_threads(threads)
    return found
