"""One tested cell as pictures of their own: its confusion matrix and its receiver operating curves.

Both are SVG texts without a font or a script from elsewhere.
"""

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from reports.plots import curves
from reports.plots.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from reports.render import plain

NUMBERED = 20  # classes up to which a cell of the matrix has room for its number
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #18202b } .on { fill: #fff }
.gridline { stroke: #dfe3e9 } .chance { stroke: #566273; stroke-dasharray: 3 3 }
rect { fill: #0072b2 } path { fill: none; stroke-linejoin: round }
.rest { stroke: #a9b2bd; stroke-width: 1 }
.mean { stroke: #0072b2; stroke-width: 2.5 }
.worst { stroke: #d55e00; stroke-width: 2; stroke-dasharray: 6 3 }
"""


def confusion(labels: NDArray[np.integer], scores: NDArray, classes: Sequence[str]) -> str:
    """How often each true class (rows) got each answer (columns); shades are shares of a row.

    `labels`: (n,), `scores`: (n, K); the answer is the highest score.
    """
    k = scores.shape[1]
    counts = np.zeros((k, k), dtype=int)
    np.add.at(counts, (labels, scores.argmax(axis=1)), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = int(np.clip(480 / k, 6, 56))
    left, top = 150, 46
    parts = [_words(left + k * side / 2, 16, "answer"), _words(left - 8, 16, "true class", "end")]
    for i in range(k):
        middle = top + (i + 0.5) * side + 4
        if side >= 12:
            parts.append(_words(left - 8, middle, _short(_name(classes, i), 20), "end"))
            parts.append(
                _words(left + (i + 0.5) * side, top - 8, _short(_name(classes, i), side // 8))
            )
        for j in range(k):
            told = f"{_name(classes, i)} called {_name(classes, j)}: {counts[i, j]}"
            parts.append(
                f'<rect x="{left + j * side}" y="{top + i * side}" width="{side - 1}" '
                f'height="{side - 1}" fill-opacity="{0.06 + 0.94 * share[i, j]:.3f}">'
                f"<title>{escape(plain(told))}</title></rect>"
            )
            if k <= NUMBERED:
                css = "on" if share[i, j] > 0.6 else ""
                parts.append(_words(left + (j + 0.5) * side, middle, str(counts[i, j]), css=css))
    return _document(left + k * side + 20, top + k * side + 12, parts)


def roc(labels: NDArray[np.integer], scores: NDArray, classes: Sequence[str]) -> str | None:
    """Each class against the rest, their mean and the worst of them; None without two classes.

    Two classes have one curve, that of the second.
    """
    k = scores.shape[1]
    found = {}
    for i in range(1 if k == 2 else 0, k):
        alone = np.stack([-scores[:, i], scores[:, i]], axis=1)
        curve = curves.roc([((labels == i).astype(int), alone)])
        if np.isfinite(curve).all():
            found[_name(classes, i)] = curve
    if not found:
        return None
    worst = min(found, key=lambda name: found[name].mean())
    named = [("mean", _short(worst), found[worst])]
    if len(found) > 1:
        mean = np.mean(list(found.values()), axis=0)
        each = ("rest", "each class", found[worst])
        named = [each, ("worst", f"worst: {_short(worst)}", found[worst]), ("mean", "mean", mean)]
    parts = [_axes(), *(_line("rest", curve) for curve in found.values())]
    parts += [_line(css, curve) for css, _, curve in named]
    for row, (css, label, _) in enumerate(named):
        y = BOTTOM - 14 - 18 * (len(named) - 1 - row)
        parts.append(f'<path class="{css}" d="M{RIGHT - 170} {y - 4}h22"/>')
        parts.append(_words(RIGHT - 142, y, label, "start"))
    return _document(WIDTH, HEIGHT, parts)


def _axes() -> str:
    parts = [f'<path class="chance" d="M{LEFT} {BOTTOM}L{RIGHT} {TOP}"/>']
    for tick in np.linspace(0, 1, 6):
        x, y = LEFT + (RIGHT - LEFT) * tick, BOTTOM - (BOTTOM - TOP) * tick
        parts.append(f'<path class="gridline" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
        parts.append(_words(LEFT - 6, y + 4, f"{tick:.1f}", "end"))
        parts.append(_words(x, BOTTOM + 16, f"{tick:.1f}"))
    middle = (TOP + BOTTOM) // 2
    parts.append(_words((LEFT + RIGHT) / 2, HEIGHT - 7, "false positive rate"))
    turned = (
        f'<g transform="rotate(-90 12 {middle})">{_words(12, middle, "true positive rate")}</g>'
    )
    return "".join((*parts, turned))


def _line(css: str, curve: NDArray[np.float64]) -> str:
    xs = LEFT + (RIGHT - LEFT) * curves.GRID
    ys = BOTTOM - (BOTTOM - TOP) * curve
    points = "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<path class="{css}" d="M{points}"/>'


def _document(width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}"><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" style="fill: #fff"/>{"".join(parts)}</svg>\n'
    )


def _words(x: float, y: float, text: str, anchor: str = "middle", css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return (
        f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(plain(text))}</text>'
    )


def _name(classes: Sequence[str], i: int) -> str:
    return classes[i] if i < len(classes) else str(i)


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: max(most - 1, 1)] + "…"
