"""What two sides are apart beyond what each is from its own other half.

Everything is measured at one size m, on halves that share no group. Of squared distances the
sampling noise of both sides is added to what they differ in, and the halves hold the same noise:
excess = D(a, b) − ½ (D(a, a′) + D(b, b′)) is 0 where two sides come from one place.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmark.api import BenchError, Estimate, Side

#: Images of a half at the least.
LEAST = 8

Halves = tuple[np.ndarray, np.ndarray]


def halves(groups: np.ndarray, size: int, draws: int, seed: int) -> Iterator[Halves]:
    """Rows of two halves of `size` images without a common group, drawn `draws` times."""
    units = np.unique(groups, return_inverse=True)[1]
    for draw in range(draws):
        rng = np.random.default_rng((seed, draw))
        place = rng.permutation(int(units.max()) + 1)[units]
        order = np.lexsort((rng.random(len(units)), place))
        rest = order[place[order] > place[order[size - 1]]]
        yield np.sort(order[:size]), np.sort(rest[:size])


def half_size(side: Side) -> int:
    """Images that each of two halves has, whatever way the groups fall."""
    largest = np.unique(side.groups, return_counts=True)[1].max()
    return int(len(side.groups) - largest) // 2


def labelled(side: Side) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Features and labels of some rows of a side."""
    features, labels = side.features, side.labels
    return lambda rows: (features[rows], labels[rows])


def against_halves(
    source: Side,
    target: Side,
    look: Callable[[Side], Callable[[np.ndarray], Any]],
    between: Callable[[Any, Any], float],
    *,
    name: str,
    size: int,
    draws: int,
    seed: int,
) -> tuple[Estimate, dict[str, float | Estimate]]:
    """The distance of halves of two sides; its floor, and its excess over it.

    `look` makes of a side and some of its rows what `between` compares. What halves of one side
    are apart is kept with that side under `name`, so that many pairs pay for it once.
    """
    if size < LEAST or draws < 1:
        what = f"{draws} halvings into {size} images are none."
        raise BenchError(what, f"Ask for one or more, and for {LEAST} images or more.")
    for side in (source, target):
        if half_size(side) < LEAST:
            what = f"{side.name} has no two halves of {LEAST} images that share no group."
            raise BenchError(what, "Add images of more groups, or raise --limit.")
    m = min(size, half_size(source), half_size(target))

    def parts_of(side: Side) -> list[Any]:
        of = look(side)
        return [(of(one), of(other)) for one, other in halves(side.groups, m, draws, seed)]

    def itself(side: Side, parts: list[Any]) -> np.ndarray:
        known = f"{name}: {draws} halvings into {m}"
        return side.cached(known, lambda: np.array([between(a, b) for a, b in parts]))

    ours, theirs = parts_of(source), parts_of(target)
    floor = (itself(source, ours) + itself(target, theirs)) / 2
    # Never the same half of both: a set stands at its floor from itself.
    across = np.array([
        [between(a[0], b[1]), between(a[1], b[0])] for a, b in zip(ours, theirs, strict=True)
    ])  # fmt: skip
    share = m / (min(len(source.groups), len(target.groups)) - m)
    excess = _on_the_scale(across - floor[:, None], share, m)
    return _on_the_scale(across, share, m), {"floor": float(floor.mean()), "excess": excess}


def _on_the_scale(values: np.ndarray, share: float, size: int) -> Estimate:
    """The mean over halvings with its 95 % interval.

    Halvings share their images, so their mean is no surer than the sets: what halves of m of n
    images scatter by, times √(m/(n − m)), is the deviation of the whole (a delete-a-part
    jackknife), and 1/draws that of having drawn but some halvings.
    """
    from scipy.stats import t

    mean, count = float(values.mean()), values.size
    error = float(values.std(ddof=1)) * (share + 1 / count) ** 0.5
    half = float(t.ppf(0.975, count - 1)) * error
    return Estimate(mean, mean - half, mean + half, size)
