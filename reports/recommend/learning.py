"""What other targets say of the sources on one that has few runs, or none.

Nothing here has a constant that was set to suit some results:

- scores are compared within their target as normal scores of their ranks, so that neither a hard
  target nor one failed run outweighs the rest;
- the mean is the static baseline, a source's mean rank on the other targets, and the slope from
  rank to score is fitted on ranks that leave the target out: without distances the first order is
  that of the static baseline;
- of a source that was run on no other target its size speaks, as far as it does of the rest;
- nearness, and how sources did on near targets, correct it through a ridge whose strength is that
  of highest evidence, and only if on targets left out that raises weighted τ by more than its
  standard error (the usual rule for preferring the simpler model);
- the covariance of what is left over is shrunk to a sphere by Ledoit and Wolf's formula; pairs
  that were not run are filled with what it expects of them, in turn;
- level and scale of the target are like those of the other targets;
- runs choose the next source unless that lost to the fixed order on targets left out.

What was left out to judge these choices is never the target that is recommended for: nothing of
its scores is used at all.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchError
from benchmark.stats import Array
from reports.recommend.belief import Evidence, Prior, order, regrets, tau
from reports.recommend.matrix import Matrix

Mask = NDArray[np.bool_]
NEAR_TARGETS = "near targets"
# Bounds on the work, not on the result: a standard error over 100 targets is a tenth of their
# spread, ten scales follow a distribution, and filling stops where it moves by a twentieth.
JUDGED, SCALES, ROUNDS, SETTLED = 100, 10, 10, 0.05
TINY = 1e-9


class TooFew(BenchError):
    """Not enough other targets to learn anything from."""


def learn(matrix: Matrix, hidden: Sequence[int]) -> list[Prior]:
    """What to expect on each hidden target, from the scores on all the others."""
    others = [t for t in usable(matrix.scores) if t not in set(hidden)]
    if len(others) < 2:
        raise TooFew(
            f"Other targets with scores of three sources or more: {len(others)}.",
            "Run the sources on at least two other targets.",
        )
    scores = matrix.scores[:, others]
    known = np.isfinite(scores)
    normal, scales = _normal(scores, known)
    # The mean rank on all other targets, those that are hidden with this one too.
    elsewhere = _mean_ranks(scores)
    now = _by_size(matrix, _mean_ranks(matrix.scores)[:, hidden], hidden)
    ranked = _centred(elsewhere, known)
    slope = max((ranked * normal).sum() / max((ranked**2).sum(), TINY), TINY)
    fitted, means = slope * elsewhere, slope * now
    evidence = Evidence(len(others), {"mean rank": slope})
    if matrix.methods:
        features = _features(matrix, _centred(normal - fitted, known), known, others, hidden)
        coefficients, gain, error = _ridge_if_better(features, fitted, normal, known)
        evidence = Evidence(len(others), evidence.weights, gain, error)
        if gain > error:
            more = features @ coefficients
            fitted, means = fitted + more[:, : len(others)], means + more[:, len(others) :]
            names = (*matrix.methods, NEAR_TARGETS)
            evidence.weights.update(zip(names, coefficients.tolist(), strict=True))
    left = _centred(normal - fitted, known)
    levels = _mean(np.where(known, scores - scales * fitted, 0.0), known)
    shape = _covariance(left, known)
    # A source that was run on few other targets has a mean that is less well known.
    doubt = 1 / (
        1 / max((slope * now).var(), TINY) + known.sum(axis=1) / max(left[known].var(), TINY)
    )
    most = np.arange(SCALES) + 0.5
    prior = Prior(
        mean=means[:, 0],
        covariance=shape.matrix() + np.diag(doubt + TINY),
        scales=np.quantile(scales, most / SCALES) if len(scales) > SCALES else scales,
        level=float(levels.mean()),
        spread=float(levels.std(ddof=1)),
        evidence=evidence,
    )
    adaptive = _adapts(prior, fitted, scores, shape, doubt)
    return [replace(prior, mean=mean, adaptive=adaptive) for mean in means.T]


def usable(scores: Array) -> list[int]:
    """The targets that can be learnt from and be judged on: three sources, not all alike."""
    with np.errstate(invalid="ignore"):
        return [
            t
            for t, column in enumerate(scores.T)
            if np.isfinite(column).sum() >= 3 and np.nanmax(column) > np.nanmin(column)
        ]


def _mean(values: Array, known: Mask) -> Array:
    """Of each column (of the first axis), over what is known; the rest must be 0."""
    return values.sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def _centred(values: Array, known: Mask) -> Array:
    """Each target's values less their mean over the sources that were run; 0 for the others."""
    values = np.where(known, values, 0.0)
    return np.where(known, values - _mean(values, known), 0.0)


def _normal(scores: Array, known: Mask) -> tuple[Array, Array]:
    """Normal scores (S, J) of each target's ranks, and how much score one of them is worth."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0, nan_policy="omit")
    normal = np.where(known, ndtri((ranks - 0.5) / known.sum(axis=0)), 0.0)
    return normal, (_centred(scores, known) * normal).sum(axis=0) / (normal**2).sum(axis=0)


def _mean_ranks(scores: Array) -> Array:
    """Each source's mean rank on the targets but this one (S, J); 0 is the average, or unknown.

    Ranks are fractions of the runs of their target: a long list counts no more than a short one.
    """
    from scipy.stats import rankdata

    known = np.isfinite(scores)
    places = (rankdata(scores, axis=0, nan_policy="omit") - 0.5) / np.maximum(known.sum(axis=0), 1)
    ranks = np.where(known, places, 0.0)
    total = ranks.sum(axis=1, keepdims=True) - ranks
    count = known.sum(axis=1, keepdims=True) - known
    mean = ranks.sum() / max(known.sum(), 1)
    # Rounded: equal places stay equal whatever was summed.
    return np.round(np.where(count > 0, total / np.maximum(count, 1) - mean, 0.0), 12)


def _by_size(matrix: Matrix, ranks: Array, hidden: Sequence[int]) -> Array:
    """Mean ranks (S, hidden); of sources with no other target, what their size has one expect.

    A source that was run elsewhere has in its ranks what its size is worth.
    """
    run = np.isfinite(matrix.scores)
    missing = run.sum(axis=1, keepdims=True) <= run[:, hidden]
    if not missing.any():
        return ranks
    size = _unit(np.log(matrix.images)[:, None])
    x, y = np.where(missing, 0.0, size), np.where(missing, 0.0, ranks)
    slopes = [_ridge(a[a != 0, None], b[a != 0]) for a, b in zip(x.T, y.T, strict=True)]
    return np.where(missing, size * np.ravel(slopes), ranks)


# --- nearness -----------------------------------------------------------------------------------


def _features(
    matrix: Matrix, left: Array, known: Mask, others: Sequence[int], hidden: Sequence[int]
) -> Array:
    """(S, others then hidden, M + 1): each nearness, and what was left over on near targets.

    Each is centred and scaled by target; where it is not known it is 0, the average.
    """
    alike = _alike(matrix.near)[others][:, [*others, *hidden]]  # 0 with the target itself
    weight = known @ np.abs(alike)
    near = np.divide(left @ alike, weight, out=np.zeros_like(weight), where=weight > 0)
    columns = [*matrix.near[:, :, [*others, *hidden]], near]
    return np.stack([_unit(values) for values in columns], axis=-1)


def _unit(values: Array) -> Array:
    """Each column less its mean, over its deviation; 0 where unknown or constant."""
    known = np.isfinite(values)
    centred = _centred(values, known)
    scale = np.sqrt(_mean(centred**2, known))
    return np.divide(centred, scale, out=np.zeros_like(centred), where=scale > TINY)


def _alike(near: Array) -> Array:
    """How alike targets are (T, T): the correlation of their nearness to the sources.

    A source that is near to every target says nothing of which are alike: its mean is taken off.
    """
    total = np.zeros((near.shape[2], near.shape[2]))
    for method in near:
        known = np.isfinite(method)
        own = _centred(_unit(method).T, known.T).T
        square = (own**2).T @ known
        norm = np.sqrt(square * square.T)
        total += np.divide(own.T @ own, norm, out=np.zeros_like(norm), where=norm > TINY)
    np.fill_diagonal(total, 0.0)
    return total / len(near)


def _ridge_if_better(
    features: Array, fitted: Array, normal: Array, known: Mask
) -> tuple[Array, float, float]:
    """The coefficients, what they gain in weighted tau on targets left out, its standard error."""
    count = known.shape[1]
    targets, sources = np.nonzero(known.T)
    x = features[sources, targets]
    x -= (np.eye(count)[targets].T @ x / known.sum(axis=0)[:, None])[targets]
    y = _centred(normal - fitted, known)[sources, targets]
    gains = []
    for j in _judged(count):
        found = _ridge(x[targets != j], y[targets != j])
        rows = known[:, j]
        plain, truth = fitted[rows, j], normal[rows, j]
        gains.append(tau(plain + features[rows, j] @ found, truth) - tau(plain, truth))
    gain = np.array(gains)[np.isfinite(gains)]
    if len(gain) < 2:
        return np.zeros(features.shape[2]), 0.0, math.inf
    return _ridge(x, y), float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain)))


def _ridge(x: Array, y: Array) -> Array:
    """Ridge regression whose penalty has the highest evidence (MacKay's fixed point)."""
    from sklearn.linear_model import BayesianRidge

    if not y.any():
        return np.zeros(x.shape[1])
    made = BayesianRidge(
        max_iter=100, tol=TINY, fit_intercept=False,
        alpha_1=0.0, lambda_1=0.0, alpha_2=TINY**2, lambda_2=TINY**2,  # priors that say nothing
    )  # fmt: skip
    return made.fit(x, y).coef_


def _judged(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, JUDGED)).astype(int)).tolist()


# --- covariance ---------------------------------------------------------------------------------


class _Shape(NamedTuple):
    """A covariance between sources, kept so that one target can be taken out of it again."""

    filled: Array  # (S, J) deviations, what was not run as expected
    sample: Array  # (S, S) their second moments
    shrinkage: float

    def matrix(self, *, without: int | None = None) -> Array:
        """(S, S)."""
        sample, count = self.sample, self.filled.shape[1]
        if without is not None:
            own = self.filled[:, without]
            sample = (sample - np.outer(own, own / count)) * (count / (count - 1))
        shrunk = (1 - self.shrinkage) * sample
        shrunk[np.diag_indices(len(sample))] += self.shrinkage * np.trace(sample) / len(sample)
        return shrunk


def _covariance(left: Array, known: Mask) -> _Shape:
    shape = _shrunk(left)
    for _ in range(0 if known.all() else ROUNDS):
        whole = shape.matrix()
        own = shape.shrinkage * np.trace(whole) / len(whole)  # what a source does on its own
        if own < TINY:
            break
        expected = shape.filled - own * np.linalg.solve(whole, shape.filled)
        filled = np.where(known, left, expected)
        moved = np.linalg.norm(filled - shape.filled)
        shape = _shrunk(filled)
        if moved < SETTLED * np.linalg.norm(filled):
            break
    return shape


def _shrunk(filled: Array) -> _Shape:
    from sklearn.covariance import ledoit_wolf_shrinkage

    sample = filled @ filled.T / filled.shape[1]
    return _Shape(filled, sample, ledoit_wolf_shrinkage(filled.T, assume_centered=True))


def _adapts(prior: Prior, fitted: Array, scores: Array, shape: _Shape, doubt: Array) -> bool:
    """Whether choosing by the runs seen did no worse than the fixed order on targets left out.

    Mean and covariance leave the target out; what both orders share was fitted with it too.
    """
    gaps = []
    for j in _judged(scores.shape[1]):
        covariance = shape.matrix(without=j) + np.diag(doubt + TINY)
        own, truth = replace(prior, mean=fitted[:, j], covariance=covariance), scores[:, j]
        fixed = order(replace(own, adaptive=False), truth)
        gaps.append((regrets(truth, order(own, truth)) - regrets(truth, fixed)).mean())
    return not sum(gap for gap in gaps if math.isfinite(gap)) > 0
