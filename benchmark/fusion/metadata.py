"""The record alone, without any image: what it knows of the classes by itself."""

from collections.abc import Callable
from itertools import islice, product
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.api import BenchError, Fusion, FusionCard

if TYPE_CHECKING:
    from benchmark.train.choose import Rows

#: What `boosted` chooses among: learning rates, and leaves of a tree.
RATES = (0.03, 0.1)
LEAVES = (2, 4, 16)
#: Trees of each class at most, and those without a lower validation loss after which it stops.
MOST, PATIENCE = 500, 10


class Metadata(Fusion):
    card = FusionCard(title="Record alone", needs="record", image=False)
    variants = ("boosting", "logistic", "boosted")
    #: Of which `late` takes the better; one more would give finished runs of it other numbers.
    candidates = ("boosting", "logistic")

    @property
    def chooses(self) -> bool:
        """Whether its settings are chosen by validation."""
        return self.variant == "boosted"

    def takes_gaps(self, options):
        return self.chooses

    def head(self, channels, record, classes, *, dropout, options):
        """There is none: this arm is fitted by `fit_predict`."""
        raise BenchError("The record alone has no network.", "Call fit_predict.")

    def fit_predict(
        self,
        train: np.ndarray,
        labels: np.ndarray,
        test: np.ndarray,
        seed: int,
        *,
        classes: int | None = None,
    ) -> np.ndarray:
        """Probabilities (n, classes) of the test records, every class given the same weight.

        `train` and `test` are encoded records (N, M); NaN means missing. `labels` are 0 to
        classes - 1; a class without training records gets probability 0.
        """
        labels = np.asarray(labels)
        known = np.unique(labels)
        count = int(classes if classes is not None else known.max() + 1)
        train, test = np.asarray(train, float), np.asarray(test, float)
        empty = np.isnan(train).all(0)  # trees cannot bin what was never seen
        train, test = np.where(empty, 0.0, train), np.where(empty, 0.0, test)
        scores = np.zeros((len(test), count))
        if len(known) == 1:
            scores[:, known] = 1.0
            return scores
        model = self._model(seed).fit(train, labels)
        scores[:, known] = model.predict_proba(test)
        return scores

    def choose(
        self,
        record: np.ndarray,
        labels: np.ndarray,
        rows: "Rows",
        test: np.ndarray,
        seed: int,
        *,
        weight: np.ndarray,
        quality: Callable[[np.ndarray, np.ndarray], tuple[float, float]],
    ) -> tuple[np.ndarray, str]:
        """Boosted trees' probabilities of the test records (n, M), and the settings chosen.

        Of each rate and number of leaves as many trees as the validation loss asks for; between
        these the `quality` of validation labels and probabilities decides. `weight` (classes,) is
        that of the loss.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier

        known, scores = np.unique(labels[rows.fit]), np.zeros((len(test), len(weight)))
        if len(known) == 1:
            scores[:, known] = 1.0
            return scores, "one class in training"
        val = rows.val[np.isin(labels[rows.val], known)]
        if not len(val):
            raise BenchError(
                "No validation image has a class of the training part.",
                "Take another --partition, or metadata:logistic, which chooses nothing.",
            )
        empty = np.isnan(record[rows.fit]).all(0)  # trees cannot bin what was never seen
        record, test = np.where(empty, 0.0, record), np.where(empty, 0.0, test)

        def grow(rate: float, leaves: int, trees: int, part: np.ndarray, **how):
            settings: dict[str, Any] = {"early_stopping": bool(how), "n_iter_no_change": PATIENCE}
            settings |= {"learning_rate": rate, "max_leaf_nodes": leaves, "max_iter": trees}
            model = HistGradientBoostingClassifier(**settings, random_state=seed)
            return model.fit(record[part], labels[part], weight[labels[part]], **how)

        held = {
            "X_val": record[val],
            "y_val": labels[val],
            "sample_weight_val": weight[labels[val]],
        }
        tried = []
        for rate, leaves in product(RATES, LEAVES):
            model = grow(rate, leaves, MOST, rows.fit, **held)
            trees = int(np.argmax(model.validation_score_[1:])) + 1
            judged = np.zeros((len(val), len(weight)))
            judged[:, known] = next(
                islice(model.staged_predict_proba(record[val]), trees - 1, None)
            )
            tried.append((quality(labels[val], judged), rate, leaves, trees))
        _, rate, leaves, trees = max(tried, key=lambda one: one[0])
        model = grow(rate, leaves, trees, rows.train)
        scores[:, model.classes_] = model.predict_proba(test)
        return scores, f"{trees} trees of {leaves} leaves at a learning rate of {rate:g}"

    def prior(
        self, labels: np.ndarray, classes: int, *, weight: np.ndarray | None = None
    ) -> np.ndarray:
        """The class frequencies (classes,) its probabilities stand for.

        All alike for a balanced loss, as it is without a `weight` (classes,) of another.
        """
        counts = np.bincount(labels, minlength=classes)
        found = counts > 0 if weight is None else counts * weight
        return found / found.sum()

    def _model(self, seed: int):
        if self.chooses:
            raise BenchError(
                "Boosted trees stop by a validation part.", "Call choose, or take boosting."
            )
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if self.variant == "logistic":
            return make_pipeline(
                SimpleImputer(),
                StandardScaler(),
                LogisticRegression(class_weight="balanced", max_iter=2000),
            )
        # Shallow trees: a record of a few columns overfits with the default of 31 leaves.
        return HistGradientBoostingClassifier(
            class_weight="balanced", max_depth=4, random_state=seed
        )
