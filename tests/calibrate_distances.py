"""How often what is said of distances is right: the excess over the floor, and distance with gain.

`make calibrate` runs these at full size, the tests a small part of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from benchmark import registry
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
def image_features(name: str, *, size: int = 32, images: int = 10**9) -> Given:
    """What an untrained ResNet18 says of a built-in set."""
    import torch

    from benchmark.train import network

    component = registry.load("source", name)
    assert isinstance(component, Source)
    backbone = network.build("resnet18", seed=0).eval()
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
    from pathlib import Path

    samples = list(component.records(Path()))
    step = max(1, len(samples) // images)
    return iter(samples[::step])


def excess(source: Given, target: Given, method: str, seed: int = 0, **options: Any) -> Estimate:
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
