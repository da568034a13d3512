"""Speed of the dataset distance beside the dense code, in one run; `make speed` prints it."""

import time

import numpy as np

from similarity.otdd import label_distances


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
