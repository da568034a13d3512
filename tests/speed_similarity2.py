"""Speed of Task2Vec beside the public code's estimator, in one run; `make speed` prints it."""

import time
from typing import Any

import numpy as np

from similarity import task2vec

NEAR = 1e-3  # distance at which an estimate counts as arrived
PATIENCE = 15.0  # times our own seconds after which the rival is stopped


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
        weights = task2vec._weights(network, False)
        estimates = task2vec.batch_means(logits, weights, codes, generator)
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


if __name__ == "__main__":
    import sys

    sys.stdout.write(f"{bench_task2vec()}\n")
