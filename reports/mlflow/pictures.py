"""One tested cell as pictures of their own: its confusion matrix and its operating curves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.metrics.rates import GRID, roc_curve, telling, truth_of
from reports import plots
from reports.plots import Chart, short, words

NUMBERED = 20  # classes up to which a cell of the matrix has room for its number


def roc(labels: NDArray[np.integer], scores: plots.Array, classes: Sequence[str]) -> Chart | None:
    """The mean over classes against the rest, the worst of them and all; None without two classes.

    Two classes have one curve, that of the second.
    """
    found = {}
    k = scores.shape[1]
    truth = truth_of(labels, k)
    for i in telling(k, multilabel=labels.ndim == 2):
        alone = np.stack([-scores[:, i], scores[:, i]], axis=1)
        curve = roc_curve([(truth[:, i].astype(int), alone)])
        if np.isfinite(curve).all():
            found[_name(classes, i)] = curve
    if not found:
        return None
    worst = min(found, key=lambda name: found[name].mean())
    named = {short(worst, 22): found[worst]}
    if len(found) > 1:
        mean = np.mean(list(found.values()), axis=0)
        named = {"mean of classes (grey)": mean, f"worst: {short(worst, 16)}": found[worst]}
    return plots.lines(
        "Receiver operating characteristic",
        [(label, GRID, curve) for label, curve in named.items()],
        x_title="false positive rate",
        y_title="true positive rate",
        unit=True,
        behind=list(found.values()) if len(found) > 1 else (),
    )


def confusion(labels: NDArray[np.integer], scores: plots.Array, classes: Sequence[str]) -> str:
    """How often each true class (rows) got each answer (columns); shades are shares of a row.

    `labels`: (n,), `scores`: (n, K); the answer is the highest score.
    """
    k = scores.shape[1]
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (labels, scores.argmax(axis=1)), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = int(np.clip(480 / k, 6, 56))
    left, top = 150, 46
    parts = [
        words(left + k * side / 2, 16, "answer"),
        words(left - 8, 16, "true class", "end"),
    ]
    for i in range(k):
        name, middle = _name(classes, i), top + (i + 0.5) * side + 4
        if side >= 12:
            parts.append(words(left - 8, middle, short(name, 20), "end"))
            parts.append(words(left + (i + 0.5) * side, top - 8, short(name, side // 8)))
        for j in range(k):
            told = f"{name} called {_name(classes, j)}: {counts[i, j]}"
            parts.append(
                f'<rect class="f1" x="{left + j * side}" y="{top + i * side}" width="{side - 1}" '
                f'height="{side - 1}" fill-opacity="{0.06 + 0.94 * share[i, j]:.3f}">'
                f"<title>{plots.text_of(told)}</title></rect>"
            )
            if k <= NUMBERED:
                css = "on" if share[i, j] > 0.6 else ""
                parts.append(words(left + (j + 0.5) * side, middle, str(counts[i, j]), css=css))
    return plots.file(left + k * side + 20, top + k * side + 12, parts)


def _name(classes: Sequence[str], i: int) -> str:
    return classes[i] if i < len(classes) else str(i)
