"""How often what is said of distances is right: the excess over the floor, and distance with gain.

`make calibrate` runs these at full size, the tests a small part of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import registry, stats
from benchmark.api import Distance, Source
from benchmark.stats import Estimate

METHODS = ("otdd", "rivals:frechet", "rivals:mmd")


@dataclass
class Given:
    """A side of which features, labels and groups are given."""

    features: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    name: str = "given"
    card: Any = None
    kept: dict[str, np.ndarray] = field(default_factory=dict)

    def cached(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def part(self, rows: np.ndarray) -> "Given":
        return Given(self.features[rows], self.labels[rows], self.groups[rows])


@cache
def image_features(
    name: str, *, size: int = 32, images: int = 10**9, arch: str = "resnet18"
) -> Given:
    """What an untrained network says of a built-in set."""
    import torch

    from benchmark.train import network

    component = registry.load("source", name)
    assert isinstance(component, Source)
    backbone = network.build(arch, seed=0).eval()
    found, labels, groups = [], [], []
    for sample in _some(component, images):
        labels.append(sample.label)
        groups.append(sample.group or sample.name)
        found.append(component.decode(sample, size)[0])
    x = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        features = [backbone.pooled(part) for part in x.split(128)]
    return Given(torch.cat(features).numpy(), np.array(labels), np.array(groups), name)


def _some(component: Source, images: int) -> Iterator[Any]:
    samples = list(component.records(Path()))
    step = max(1, len(samples) // images)
    return iter(samples[::step])


def excess(source: Any, target: Any, method: str, seed: int = 0, **options: Any) -> Estimate:
    """The excess of a distance over its floor, with its interval."""
    found = registry.load("distance", method)
    assert isinstance(found, Distance)
    asked = {**found.card.options, **options}
    value = found.measure(source, target, seed=seed, options=asked).facts["excess"]
    assert isinstance(value, Estimate)
    return value


def two_halves(whole: Given, size: int, rng: np.random.Generator) -> tuple[Given, Given]:
    """Two parts of `size` images of one set, which share no group."""
    units = np.unique(whole.groups, return_inverse=True)[1]
    order = rng.permutation(units.max() + 1)
    place = np.argsort(order)[units]
    rows = np.argsort(place, kind="stable")
    rest = rows[place[rows] > place[rows[size - 1]]]
    return whole.part(rows[:size]), whole.part(rest[:size])


def halves_hold_zero(
    whole: Given, size: int, method: str, *, repeats: int = 50, seed: int = 0, **options: Any
) -> float:
    """The share of repeats in which 0 is inside the interval of the excess of two halves."""
    held = 0
    for repeat in range(repeats):
        one, other = two_halves(whole, size, np.random.default_rng((seed, repeat)))
        found = excess(one, other, method, seed=repeat, **options)
        held += found.low <= 0 <= found.high
    return held / repeats


def foretold(
    sources: int, targets: int, *, level: float = 0.0, rho: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Distance, gain, target and source of every pair; both have levels of their sources.

    `level`: the share of the variance that lies between sources; `rho`: what distance and gain
    have in common, in the levels and in the rest.
    """
    rng = np.random.default_rng((seed, sources, targets, round(100 * level)))

    def drawn(*shape: int) -> np.ndarray:
        x, noise = rng.normal(size=(2, *shape))
        return np.stack([x, rho * x + (1 - rho**2) ** 0.5 * noise])

    both = level**0.5 * drawn(sources)[:, :, None] + (1 - level) ** 0.5 * drawn(sources, targets)
    source, target = np.indices((sources, targets))
    return both[0].ravel(), both[1].ravel(), target.ravel(), source.ravel()


def found_significant(
    sources: int,
    targets: int,
    *,
    level: float = 0.0,
    rho: float = 0.0,
    repeats: int = 400,
    permutations: int = 999,
) -> float:
    """The share of simulated tables whose correlation within targets has p < 0.05."""
    small = 0
    for repeat in range(repeats):
        distance, gain, target, source = foretold(
            sources, targets, level=level, rho=rho, seed=repeat
        )
        how: dict[str, Any] = {"pairs": "within_target", "draws": 0, "permutations": permutations}
        names = np.char.add("s", source.astype(str))  # no source is its own target
        small += stats.correlate(distance, gain, target, names, **how).p < 0.05
    return small / repeats


def shown(*, repeats: int = 50, tables: int = 400) -> Iterator[tuple[str, float, float, float]]:
    """What is held, the share that came out, and between what marks it has to lie."""
    for name, size, method in product(("demo:skin", "patterns:near"), (100, 300), METHODS):
        share = halves_hold_zero(image_features(name), size, method, repeats=repeats)
        yield f"halves of {name}, {size} images, {method}: 0 in the interval", share, 0.9, 1.0
    for shape, level in product(((5, 3), (8, 3), (8, 12), (15, 12)), (0.0, 0.5, 0.8)):
        share = found_significant(*shape, level=level, repeats=tables)
        said = f"nulls of {shape[0]} × {shape[1]}, {level:.0%} between sources: significant"
        yield said, share, 0.02, 0.07
    for level in (0.0, 0.5, 0.8):
        share = found_significant(8, 12, level=level, rho=-0.7, repeats=tables)
        yield f"ρ = −0.7 at 8 × 12, {level:.0%} between sources: found", share, 0.7, 1.0
