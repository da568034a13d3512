"""How a run's explanation is drawn: plain numbers in, PNG and SVG out, one style for all."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from benchmark.stats import Estimate

P = ParamSpec("P")
#: Of Okabe and Ito: they stay apart under colour blindness and in grey.
BLUE, ORANGE, GREY, DARK = "#0072B2", "#E69F00", "#B8B8B8", "#333333"

STYLE: Any = {
    "font.size": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.axisbelow": True,
    "axes.edgecolor": DARK,
    "svg.hashsalt": "bench",
    "figure.facecolor": "white",
}


#: What bars of the record's weights say.
RECORD = "the record: what each value adds; orange speaks for the class, blue against it"
UNITS = "(a number: from its lowest to its highest value in training, or for each step of one)"


class Look(NamedTuple):
    """One test image with each arm's map of evidence and what the arm said."""

    title: str  # "test image 12, true NV"
    image: np.ndarray  # uint8 (H, W, 3)
    maps: tuple[np.ndarray, ...]  # float (h, w) of each arm
    said: tuple[str, ...]  # "MEL 0.81" of each arm
    right: tuple[bool, ...]


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write the figure as PNG and as SVG, the same bytes for the same numbers."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    with mpl.rc_context(STYLE):
        figure.savefig(paths[0], dpi=150)
        figure.set_layout_engine("none")  # what was found for the one holds for the other
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """The one style is in force while a figure is made."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def _figure(width: float, height: float, title: str, note: str, *, size: float = 13) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=size)
    if note:
        figure.supxlabel(note, fontsize=9)
    return figure


@_styled
def maps(looks: Sequence[Look], arms: Sequence[str], *, note: str) -> Figure:
    """A row for each image: the image, then the evidence each arm saw in it."""
    columns = 1 + len(arms)
    tall = 2.2 * max((look.image.shape[0] / look.image.shape[1] for look in looks), default=1)
    title = "Where the network saw evidence for the class it named\n"
    figure = _figure(2.4 * columns + 0.9, (tall + 0.4) * len(looks) + 1.3, title, note)
    figure.set_layout_engine(ConstrainedLayoutEngine(h_pad=0.07))
    grid = figure.subplots(len(looks), columns, squeeze=False)
    shown = None
    for look, axes in zip(looks, grid, strict=True):
        height, width, _ = look.image.shape
        whole = (0, width, height, 0)
        for axis in axes:
            axis.imshow(look.image, extent=whole)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        axes[0].set_title(fill(look.title, 28), fontsize=10)
        each = zip(axes[1:], look.maps, look.said, look.right, strict=True)
        for axis, heat, said, right in each:
            fine = _enlarged(heat, (height, width))
            axis.imshow(0.75 * look.image.mean(2), extent=whole, cmap="gray", vmin=0, vmax=255)
            shown = axis.imshow(
                fine, extent=whole, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.5 * fine
            )
            words = f"said {said}, {'right' if right else 'wrong'}"
            axis.set_title(words + "\n(no evidence found)" * (not heat.any()), fontsize=10)
    above: Any = {"xycoords": "axes fraction", "ha": "center", "fontsize": 11, "weight": "bold"}
    for axis, arm in zip(grid[0], ("the image", *arms), strict=True):
        axis.annotate(arm.replace(" (", "\n("), (0.5, 1.2), **above)
    if shown is not None:
        bar = figure.colorbar(shown, ax=grid, location="right", shrink=0.3, pad=0.02, ticks=[0, 1])
        bar.ax.set_yticklabels(["no\nevidence", "most in\nthis image"])
    return figure


@_styled
def weights(
    record: np.ndarray,
    columns: Sequence[str],
    image: np.ndarray,
    panels: Sequence[str],
    *,
    note: str = "",
) -> Figure:
    """Bars of the record's weights (P, M), and the spread of the image's (P, C), by panel."""
    across = min(4, len(panels))
    down = -(-len(panels) // across)
    rows = max(len(columns), 1)
    bars = (0.3 * rows + 1.1) * down * bool(len(columns))
    height = bars + 0.5 * len(panels) + 2.2
    title = "\n".join(filter(None, ["What the last layer adds to the log-odds", note]))
    figure = _figure(max(3.0 * across + 2.4, 7.5), height + 0.2 * title.count("\n"), title, "")
    below: Any
    if len(columns):
        parts: Any = figure.subfigures(2, 1, height_ratios=[bars, 0.5 * len(panels) + 1.2])
        part, below = parts
        _record_bars(part, record, columns, panels, (down, across))
    else:
        below = figure.subfigures(1, 1)
    _image_spread(below.subplots(), image, panels)
    return figure


@_styled
def image_weights(
    parts: Sequence[tuple[str, np.ndarray]], panels: Sequence[str], *, note: str = ""
) -> Figure:
    """Box plots of the size of weights (P, C) on a logarithmic axis, part beside part by panel."""
    colours = (GREY, BLUE, ORANGE)
    title = "Size of the weights without and with the patient's record"
    below = (
        "Box: the middle half of the weights. The record's are of its encoded values, the\n"
        "image's of its pooled features, each in its own unit before any standardisation."
    )
    below = "\n".join(filter(None, [below, note]))
    figure = _figure(max(1.6 * len(panels) + 3, 7.5), 4.8, title, below)
    axis = figure.subplots()
    for k, (_, values) in enumerate(parts):
        sizes = [np.abs(row[row != 0]) for row in values]
        _boxes(axis, sizes, np.arange(len(panels)) + 0.27 * (k - 1), 0.22, colours[k], 0.6)
    axis.set_yscale("log")
    axis.set_xticks(range(len(panels)), [_short(panel, 30) for panel in panels])
    axis.set_xlim(-0.6, len(panels) - 0.4)
    axis.set_ylabel("size of a weight of the last layer")
    axis.grid(axis="y", color="#E5E5E5")
    _legend(axis, [name for name, _ in parts], colours, 0.6)
    return figure


@_styled
def record_weights(
    values: np.ndarray,
    columns: Sequence[str],
    panels: Sequence[str],
    networks: Sequence[str],
    *,
    note: str = "",
) -> Figure:
    """Bars of the record's weights (P, N, M): a row of axes for each class, a column a network."""
    down, across, rows = values.shape
    height = (0.22 * rows + 0.5) * down + 1.8
    title = "Weights of the patient's record beside each network"
    below = "\n".join(filter(None, [RECORD, UNITS, note]))
    figure = _figure(max(1.7 * across + 3, 7.5), height, title, below)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for line, panel, axes in zip(values, panels, grid, strict=True):
        for axis, row in zip(axes, line, strict=True):
            _weight_bars(axis, row)
        axes[0].set_yticks(range(rows), [_short(name, 40) for name in columns])
        axes[0].set_ylabel(_short(panel, 30), weight="bold")
    for axis, name in zip(grid[0], networks, strict=True):
        axis.set_title(name.replace(" · ", "\n"), fontsize=10)
    grid[0][0].invert_yaxis()
    return figure


@_styled
def classes(
    names: Sequence[str],
    arms: Sequence[tuple[str, np.ndarray]],
    stars: Sequence[str],
    *,
    title: str,
    note: str,
) -> Figure:
    """Box plots over folds of each class's AUROC, an array (folds, classes) for each arm."""
    colours = (BLUE, ORANGE)
    width = 0.8 / len(arms)
    figure = _figure(max(1.3 * len(names) + 2.5, 7.5), 5.4, title, note, size=12)
    axis = figure.subplots()
    for k, (_, values) in enumerate(arms):
        places = np.arange(len(names)) + (k - (len(arms) - 1) / 2) * width
        known = [column[~np.isnan(column)] for column in values.T]
        _boxes(axis, known, places, 0.8 * width, colours[k], 0.45, showfliers=False)
        for place, column in zip(places, values.T, strict=True):
            axis.plot(np.full(len(column), place), column, "o", ms=4, color=DARK, mfc="white")
    tops = np.nanmax([np.nanmax(values, axis=0) for _, values in arms], axis=0)
    low = min(float(np.nanmin([np.nanmin(values) for _, values in arms])), 0.5)
    span = max(1.0, float(np.nanmax(tops))) - low
    for x, (top, star) in enumerate(zip(tops, stars, strict=True)):
        axis.text(x, top + 0.02 * span, star, ha="center", va="bottom", fontsize=13)
    axis.axhline(0.5, color=GREY, linestyle="--", zorder=0)
    axis.annotate("chance", (1, 0.5), xycoords=("axes fraction", "data"), va="center", ha="left")
    axis.set_xticks(range(len(names)), [_short(name) for name in names])
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.set_ylim(low - 0.05 * span, low + 1.12 * span)
    axis.set_ylabel("AUROC, this class against the rest")
    _legend(axis, [arm for arm, _ in arms], colours, 0.45)
    return figure


@_styled
def bars(found: Sequence[tuple[str, Estimate]], *, title: str, x_title: str, note: str) -> Figure:
    """Horizontal bars with intervals in percentage points; pale where zero is within."""
    figure = _figure(8.5, 0.45 * len(found) + 2.2, "", note)
    axis = figure.subplots()
    axis.set_title(title)
    axis.set_xlabel(x_title)
    y = np.arange(len(found))
    values = 100 * np.array([[e.value, e.low, e.high] for _, e in found])
    sure = (values[:, 1] > 0) | (values[:, 2] < 0)
    axis.barh(y, values[:, 0], color=[BLUE if s else GREY for s in sure], height=0.62)
    reach = np.clip(np.abs(values[:, 1:].T - values[:, 0]), 0, None)
    line: Any = {"ecolor": DARK, "elinewidth": 1.3, "capsize": 3}
    axis.errorbar(values[:, 0], y, xerr=reach, fmt="none", **line)
    axis.axvline(0, color=DARK, linewidth=1)
    axis.set_yticks(y, [name for name, _ in found])
    axis.invert_yaxis()
    axis.grid(axis="x", color="#E5E5E5")
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    beside: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 9}
    for place, (value, low, high) in zip(y, values, strict=True):
        around = "no interval" if np.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
        axis.annotate(f"{value:+.1f} {around}", (1.02, place), **beside)
    return figure


def _boxes(
    axis: Axes, values: Sequence[np.ndarray], places: np.ndarray, width: float, colour: str,
    alpha: float | None = None, **more: Any,
) -> None:  # fmt: skip
    axis.boxplot(
        values,
        positions=places.tolist(),
        widths=width,
        patch_artist=True,
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": GREY},
        boxprops={"facecolor": colour, "alpha": alpha, "edgecolor": DARK},
        **{"medianprops": {"color": DARK, "linewidth": 2}, **more},
        manage_ticks=False,
    )


def _legend(axis: Axes, names: Sequence[str], colours: Sequence[str], alpha: float) -> None:
    patches = [
        Patch(facecolor=colour, alpha=alpha, edgecolor=DARK, label=name)
        for colour, name in zip(colours, names, strict=False)
    ]
    place: Any = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
    axis.legend(handles=patches, ncols=3, frameon=False, **place)


def _record_bars(
    part: Any,
    record: np.ndarray,
    columns: Sequence[str],
    panels: Sequence[str],
    shape: tuple[int, int],
) -> None:
    grid = part.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    y = np.arange(len(columns))
    for axis, values, panel in zip(grid, record, panels, strict=False):
        _weight_bars(axis, values)
        axis.set_title(panel)
    for axis in grid[len(panels) :]:
        axis.set_visible(False)
    for axis in grid[max(len(panels) - shape[1], 0) : len(panels)]:
        axis.tick_params(axis="x", labelbottom=True)
    grid[0].set_yticks(y, [_short(name, 40) for name in columns])
    grid[0].invert_yaxis()
    part.supxlabel(f"{RECORD}\n{UNITS}", fontsize=10)


def _weight_bars(axis: Axes, values: np.ndarray) -> None:
    colours = [ORANGE if value > 0 else BLUE for value in values]
    axis.barh(np.arange(len(values)), values, color=colours, height=0.7)
    axis.axvline(0, color=DARK, linewidth=1)
    axis.grid(axis="x", color="#E5E5E5")
    axis.tick_params(axis="y", length=0)


def _image_spread(axis: Axes, image: np.ndarray, panels: Sequence[str]) -> None:
    y = np.arange(len(panels))
    median = {"color": DARK}
    _boxes(axis, list(image), y, 0.55, GREY, orientation="horizontal", medianprops=median)
    axis.axvline(0, color=DARK, linewidth=1)
    axis.set_yticks(y, [_short(panel, 30) for panel in panels] if len(panels) > 1 else [""])
    axis.set_ylim(len(panels) - 0.4, -0.6)
    axis.grid(axis="x", color="#E5E5E5")
    axis.set_xlabel(
        f"the image: weights of its {image.shape[1]} features, per unit (box: the middle half)"
    )


def _enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The map at the image's size, 0 to 1."""
    from PIL import Image

    picture = Image.fromarray(heat.astype(np.float32))
    fine = np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    return np.clip(fine / max(float(heat.max()), 1e-12), 0, 1) if heat.max() > 0 else 0 * fine


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if len(names) else "none"


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
