"""A score that tells what it was shown of the target."""

from collections.abc import Mapping

import numpy as np

from benchmark.api import Distance, DistanceCard, Measured, Side
from benchmark.spec import Scalar


class Seen(Distance):
    card = DistanceCard(title="What a score sees", needs="weights", more_is_near=True)

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        _, counts = np.unique(target.groups, return_counts=True)
        facts = {"smallest_group": float(counts.min()), "images": float(len(target.features))}
        return Measured(float(len(target.labels)), facts=facts)
