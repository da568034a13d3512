"""The record alone, without any image: what it knows of the classes by itself."""

import numpy as np

from benchmark.api import BenchError, Fusion, FusionCard


class Metadata(Fusion):
    card = FusionCard(title="Record alone", needs="record", image=False)
    variants = ("boosting", "logistic")

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

    def prior(self, labels: np.ndarray, classes: int) -> np.ndarray:
        """The class frequencies (classes,) its probabilities stand for: balanced, so all alike."""
        known = np.bincount(labels, minlength=classes) > 0
        return known / known.sum()

    def _model(self, seed: int):
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
