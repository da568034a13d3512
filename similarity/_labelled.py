"""Features and labels as every score takes them."""

from typing import Any

import numpy as np

from benchmark.api import BenchError


def prepare(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features as float64 and labels as the index of their class, after what every score needs."""
    x = array(features).astype(np.float64)
    names = array(labels)
    if x.ndim != 2 or names.shape != x.shape[:1]:
        what = f"Features {x.shape} and labels {names.shape} do not go together."
        raise BenchError(what, "Give features (n, d) and labels (n,).")
    if not np.isfinite(x).all():
        raise BenchError("The features are not all finite.", "Leave out NaN and infinite rows.")
    classes, codes = np.unique(names, return_inverse=True)
    if len(classes) < 2:
        raise BenchError(f"A score needs two classes, not {len(classes)}.", "Give labels of two.")
    return x, codes


def yes_no(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features and zeros and ones (n, K): of classes, or of labels (n, K) those that differ."""
    y = array(labels)
    if y.ndim == 1:
        x, codes = prepare(features, labels)
        return x, one_hot(codes)
    told = y[:, y.min(0) < y.max(0)]
    if not told.shape[1]:
        raise BenchError("No label is borne by some images and not by others.", "Give more images.")
    return prepare(features, told[:, 0])[0], told.astype(np.float64)


def once(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Rows of which no two have the same features, but for the last digits, and the same label."""
    from scipy.spatial.distance import cdist

    x, y = array(features).astype(np.float64), array(labels)
    near = cdist(x, x) <= 1e-5 * np.linalg.norm(x, axis=1)
    alike = (y[:, None] == y).reshape(len(y), len(y), -1).all(axis=2)
    kept = ~np.tril(near & alike, -1).any(axis=1)
    return x[kept], y[kept]


def in_order(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """As `prepare`, in an order that the features alone decide, so that seeds mean the same."""
    x, codes = prepare(features, labels)
    order = sorted(range(len(x)), key=lambda i: x[i].tobytes())
    return x[order], codes[order], order


def class_means(x: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """The mean of each class, (classes, d)."""
    hot = one_hot(codes)
    return hot.T @ x / hot.sum(axis=0)[:, None]


def one_hot(codes: np.ndarray) -> np.ndarray:
    """Zeros and ones, (n, classes)."""
    return np.eye(codes.max() + 1)[codes]


def array(values: Any) -> np.ndarray:
    """A tensor or anything else as an array."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
