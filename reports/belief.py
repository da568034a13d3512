"""Which source to run next on a target: learnt from other targets, distances and sizes.

Scores are compared within their target: less its mean, over its standard deviation. A linear model
says what a source can be expected to do on a target from how it did on the others, how near it is
and how large it is; what the model leaves over gives a covariance between sources, and each run on
the target itself corrects the rest through it. The method has no constant of its own:

- the linear model's shrinkage is chosen by its evidence (Bayesian ridge, vague priors);
- the covariance is shrunk to a sphere by Ledoit and Wolf's formula;
- the scale of the target is one of the other targets' scales, weighed by how well it explains the
  runs there are;
- a target counts 1 + r, r the correlation of its distances to the sources with those of this one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmark.errors import BenchError
from reports.board import Array
from reports.matrix import Matrix

SAMPLES = 4000  # of the belief: its percentiles are then good to about a hundredth of its spread


@dataclass(frozen=True)
class Prior:
    """What to expect on a target before any run: mean (S,) and covariance (S, S) in its scales."""

    mean: Array
    covariance: Array
    scales: Array  # (J,) that the target may have, in units of the score


def learn(matrix: Matrix, target: int) -> Prior:
    """From everything but the target's own scores."""
    from sklearn.covariance import ledoit_wolf
    from sklearn.linear_model import BayesianRidge

    others = np.array([
        t for t in range(len(matrix.targets))
        if t != target and np.isfinite(matrix.scores[:, t]).sum() >= 3
        and np.nanstd(matrix.scores[:, t]) > 0
    ], dtype=int)  # fmt: skip
    if len(others) < 2:
        raise BenchError(
            f"Too few other targets have three sources or more: {len(others)}.",
            "Run the sources on at least two other targets, or rank by `bench distance`.",
        )
    z, scales = _standard(matrix.scores[:, others])
    alike = _alike(matrix.near)
    rows = [
        _features(matrix, np.delete(z, i, axis=1), np.delete(others, i), t, alike)
        for i, t in enumerate(others.tolist())
    ]
    x, y = np.concatenate(rows), z.T.ravel()
    known = np.isfinite(y)
    model = BayesianRidge(fit_intercept=False).fit(x[known], y[known])
    rest = np.where(known, y - model.predict(x), 0.0).reshape(len(others), -1)
    covariance = ledoit_wolf(rest, assume_centered=True)[0]
    mean = np.asarray(model.predict(_features(matrix, z, others, target, alike)))
    return Prior(mean, covariance, scales)


def _standard(scores: Array) -> tuple[Array, Array]:
    """Each column less its mean, over its deviation; and the deviations."""
    scales = np.nanstd(scores, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (scores - np.nanmean(scores, axis=0)) / scales, scales


def _alike(near: Array) -> Array:
    """How much each target counts for each other (T, T): 1 + the mean correlation of nearness."""
    count = near.shape[2]
    total, known = np.zeros((count, count)), np.zeros((count, count))
    for method in near:
        for a in range(count):
            for b in range(count):
                both = np.isfinite(method[:, a]) & np.isfinite(method[:, b])
                x, y = method[both, a], method[both, b]
                if both.sum() >= 3 and np.ptp(x) > 0 and np.ptp(y) > 0:
                    total[a, b] += np.corrcoef(x, y)[0, 1]
                    known[a, b] += 1
    return 1 + np.divide(total, known, out=np.zeros_like(total), where=known > 0)


def _features(matrix: Matrix, z: Array, others: Array, target: int, alike: Array) -> Array:
    """(S, 2 + M): the source elsewhere, its size, and each nearness; unknown is the average, 0."""
    weights = np.where(np.isfinite(z), alike[target][others], 0.0)
    total = weights.sum(axis=1)
    sums = (weights * np.nan_to_num(z)).sum(axis=1)
    elsewhere = np.divide(sums, total, out=np.zeros(len(z)), where=total > 0)
    columns = [np.log(matrix.images), *matrix.near[:, :, target]]
    return np.column_stack([elsewhere, *map(_centred, columns)])


def _centred(values: Array) -> Array:
    values = np.where(np.isfinite(values), values, np.nan)
    if np.isfinite(values).sum() < 2 or np.nanstd(values) == 0:
        return np.zeros(len(values))
    return np.nan_to_num((values - np.nanmean(values)) / np.nanstd(values))


@dataclass(frozen=True)
class Belief:
    """What is believed of a target after some runs: one Gaussian for each scale it may have.

    Without a run the level of the target is unknown: means are then relative to its mean source.
    """

    weights: Array  # (J,), of sum 1
    means: Array  # (J, S)
    covariances: Array  # (J, S, S)

    @property
    def mean(self) -> Array:
        """What to expect of each source (S,)."""
        return self.weights @ self.means

    def improvement(self, best: float) -> Array:
        """By how much each source can be expected to exceed the best run so far (S,)."""
        from scipy.special import ndtr

        spread = np.sqrt(np.maximum(np.diagonal(self.covariances, axis1=1, axis2=2), 1e-18))
        ahead = (self.means - best) / spread
        density = np.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
        return self.weights @ (spread * (ahead * ndtr(ahead) + density))

    def samples(self, *, seed: int = 0) -> Array:
        """(SAMPLES, S) of what the sources may score."""
        rng = np.random.default_rng(seed)
        parts = [
            rng.multivariate_normal(mean, covariance, size=count, method="eigh", tol=1e-6)
            for mean, covariance, count in zip(
                self.means, self.covariances, rng.multinomial(SAMPLES, self.weights), strict=True
            )
        ]
        return np.concatenate(parts)


def believe(prior: Prior, seen: Mapping[int, float]) -> Belief:
    """The prior, corrected by the runs there are: source -> score."""
    at, values = list(seen), np.array(list(seen.values()), dtype=float)
    parts = [_given(prior, scale, at, values) for scale in prior.scales]
    means, covariances, evidence = (np.array(part) for part in zip(*parts, strict=True))
    weights = np.exp(evidence - evidence.max())
    return Belief(weights / weights.sum(), means, covariances)


def _given(prior: Prior, scale: float, at: list[int], y: Array) -> tuple[Array, Array, float]:
    """Mean, covariance and log evidence of one scale; the target's level has a flat prior."""
    mean, covariance = scale * prior.mean, scale**2 * prior.covariance
    if not at:
        return mean, covariance, 0.0
    inverse = np.linalg.inv(covariance[np.ix_(at, at)])
    gain = covariance[:, at] @ inverse
    precision = inverse.sum()
    residual = y - mean[at]
    level = (inverse @ residual).sum() / precision
    off = 1 - gain.sum(axis=1)
    posterior = covariance - gain @ covariance[at] + np.outer(off, off) / precision
    left = residual - level
    evidence = 0.5 * (np.linalg.slogdet(inverse)[1] - math.log(precision) - left @ inverse @ left)
    return mean + level + gain @ left, posterior, float(evidence)


def next_run(belief: Belief, seen: Mapping[int, float], candidates: Sequence[int]) -> int:
    """The source with the largest expected improvement on the best run; at first, the best mean."""
    worth = belief.improvement(max(seen.values())) if seen else belief.mean
    return max(candidates, key=lambda source: worth[source])
