"""Late fusion: the image arm's probabilities with those of a model on the record alone."""

import numpy as np

from benchmark.api import Fusion, FusionCard


class Late(Fusion):
    """Trains as the image alone; `combine` then meets the record's probabilities."""

    card = FusionCard(
        title="Late fusion",
        needs="probabilities",
        beside="metadata",
        # The variant on the other side; best: boosting or logistic, by validation.
        options={"record": "best"},
    )
    variants = ("mean", "product")

    def takes_gaps(self, options):
        return self.option(options, "record") == "boosted"

    def combine(
        self, image: np.ndarray, record: np.ndarray, prior: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities (N, K) of both sides as one.

        `product` is p_image · p_record / prior, scaled to sum 1: Bayes' rule where image and
        record are independent given the class. `prior` (K,) is the one that the record's side was
        trained under, None the uniform one. The image's prior p_i stays in the answer, which is
        (p_image / p_i) · (p_record / prior) · p_i: a record that knows nothing changes nothing. A
        row in which the sides exclude each other's every class falls back to the mean.
        """
        mean = (image + record) / 2
        if self.variant != "product":
            return mean
        k = image.shape[1]
        weight = np.full(k, 1 / k) if prior is None else np.asarray(prior, float)
        both = np.where(weight > 0, image * record / np.where(weight > 0, weight, 1), 0.0)
        total = both.sum(1, keepdims=True)
        return np.where(total > 0, both / np.where(total > 0, total, 1), mean)
