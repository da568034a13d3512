"""What other targets say of the sources on one that has few runs, or none.

- Scores are compared within their target as normal scores of their ranks. Effects of source and
  target are fitted together, for in a short list of good sources even the worst is good.
- A source's level is a random effect over targets, shrunk by the variance between sources and that
  within them towards what its size has one expect; what remains unknown of it stays in the prior.
- Nearness moves it through a ridge, each target left out in turn; its penalty is averaged over a
  Bayesian bootstrap of the targets instead of picked. Targets that are near speak louder.
- How sources go together over targets is a covariance shrunk by Ledoit and Wolf's formula, pairs
  that were not run taken in expectation; that few targets tell little of it makes tails heavy.

No constant was set to suit some results; nothing of the target's own scores is used.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchError
from benchmark.stats import Array
from reports.recommend.belief import Evidence, Prior
from reports.recommend.matrix import Matrix

Mask = NDArray[np.bool_]
PENALTIES: Array = np.append(np.logspace(-1, 4, 16), np.inf)  # from next to none to no slope at all
#: Bounds on the work: of the bootstrap, of typical scales and factors, of rounds.
DRAWS, SCALES, FACTORS, ROUNDS, SETTLED = 200, 10, 6, 8, 0.02
LEAST = 0.05  # of a target's voice, where all sources are near that are far here
TINY = 1e-9


class TooFew(BenchError):
    """Not enough other targets to learn anything from."""


def learn(matrix: Matrix, hidden: Sequence[int]) -> list[Prior]:
    """What to expect on each hidden target, from the scores on all the others."""
    others = [t for t in usable(matrix.scores, least=2) if t not in set(hidden)]
    if len(others) < 2:
        raise TooFew(
            f"Other targets with scores of two sources or more: {len(others)}.",
            "Run the sources on at least two other targets.",
        )
    count, everyone = len(others), [*others, *hidden]
    scores = matrix.scores[:, others]
    known = np.isfinite(scores)
    normal = _normal(scores, known)
    size = unit(np.log(matrix.images)[:, None])[:, 0]
    between, within = _variances(normal, known)
    voices = _voices(matrix.near, others, everyone)
    voices[range(count), range(count)] = 0.0  # each target is left out in turn
    found = [_level(normal, known, size, voice, within / between) for voice in voices.T]
    levels, doubts = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    among = np.hstack([known, np.ones((len(scores), len(hidden)), bool)])
    given = np.where(among, matrix.near[:, :, everyone], np.nan)
    near = np.moveaxis(np.array([unit(one) for one in given]).reshape(given.shape), 0, -1)
    slopes, doubt = _slopes(near[:, :count], _centred(normal - levels[:, :count], known), known)
    fitted = levels + near @ slopes
    shape = _covariance(_centred(normal - fitted[:, :count], known), known)

    def covariance(k: int) -> Array:
        of_level = np.diag(within * doubts[:, k] + TINY)
        return shape + of_level + near[:, k] @ doubt @ near[:, k].T

    scales = [
        _scale(scores[run, j], fitted[run, j], covariance(j)[np.ix_(run, run)])
        for j, run in enumerate(known.T)
    ]
    heights = _mean(np.where(known, scores - scales * fitted[:, :count], 0.0), known)
    weights = dict(zip(matrix.methods, slopes.tolist(), strict=True))
    return [
        Prior(
            mean=fitted[:, k],
            covariance=covariance(k),
            scales=np.quantile(scales, _middles(SCALES)) if count > SCALES else np.array(scales),
            level=float(heights.mean()),
            spread=float(heights.std(ddof=1)),
            factors=_factors(count),
            noise=np.nan_to_num(matrix.errors[:, everyone[k]]) ** 2,
            evidence=Evidence(count, weights),
        )
        for k in range(count, len(everyone))
    ]


def usable(scores: Array, *, least: int = 3) -> list[int]:
    """The targets with enough sources, not all alike: two can be learnt from, three judged on."""
    known = [column[np.isfinite(column)] for column in scores.T]
    return [t for t, found in enumerate(known) if len(found) >= least and np.ptp(found) > 0]


def unit(values: Array) -> Array:
    """Each column less its mean, over its deviation; 0 where unknown or constant."""
    known = np.isfinite(values)
    centred = _centred(values, known)
    scale = np.sqrt(_mean(centred**2, known))
    return np.divide(centred, scale, out=np.zeros_like(centred), where=scale > TINY)


def _mean(values: Array, known: Mask) -> Array:
    """Of each column (of the first axis), over what is known; the rest must be 0."""
    return values.sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def _centred(values: Array, known: Mask) -> Array:
    """Each target's values less their mean over the sources that were run; 0 for the others."""
    values = np.where(known, values, 0.0)
    return np.where(known, values - _mean(values, known), 0.0)


def _middles(parts: int) -> Array:
    return (np.arange(parts) + 0.5) / parts


def _factors(targets: int) -> Array:
    """What a covariance of so many targets may be off by: Student's t as a few Gaussians."""
    from scipy.stats import chi2

    return (targets - 1) / chi2.ppf(_middles(FACTORS), targets - 1)


def _scale(scores: Array, fitted: Array, covariance: Array) -> float:
    """The score of one unit: what was run is spread as far as is expected of just these sources.

    A short list of the best is not as far apart as all would be.
    """
    centre = np.eye(len(scores)) - 1 / len(scores)
    expected = fitted @ centre @ fitted + np.trace(centre @ covariance)
    return float(np.sqrt(scores @ centre @ scores / expected))


def _normal(scores: Array, known: Mask) -> Array:
    """Normal scores (S, J) of each target's ranks."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(scores, axis=0, nan_policy="omit")
    return np.where(known, ndtri((ranks - 0.5) / known.sum(axis=0)), 0.0)


def _equations(normal: Array, known: Mask, voice: Array) -> tuple[Array, Array]:
    """Left and right side of the sources' levels, those of the targets taken out."""
    share = known * (voice / np.maximum(known.sum(axis=0), 1))
    left = np.diag((known * voice).sum(axis=1)) - share @ known.T
    return left, (normal * voice).sum(axis=1) - share @ normal.sum(axis=0)


def _level(normal: Array, known: Mask, size: Array, voice: Array, ratio: float) -> tuple:
    """Each source's level (S,), shrunk to what its size has one expect, and what is unknown of it.

    The latter is in units of the variance within; `ratio` is that variance over the one between.
    """
    left, right = _equations(normal, known, voice)
    whole = np.linalg.inv(left + ratio * np.eye(len(left)))
    by_size = left @ size
    slope = size @ (right - left @ whole @ right)
    slope /= size @ (by_size - left @ whole @ by_size) + ratio
    return slope * size + whole @ (right - slope * by_size), np.diag(whole)


def _variances(normal: Array, known: Mask) -> tuple[float, float]:
    """Between the levels of sources and within them: REML by expectation and maximisation."""
    left, right = _equations(normal, known, np.ones(known.shape[1]))
    run, between, within = known.any(axis=1), 0.5, 0.5
    free = max(known.sum() - known.shape[1], 1)
    for _ in range(30):
        whole = np.linalg.inv(left + within / between * np.eye(len(left)))
        level = whole @ right
        rest = (normal * _centred(normal - level[:, None], known)).sum()
        between = max(((level**2 + within * np.diag(whole))[run]).mean(), TINY)
        within = max(float(rest / free), TINY)
    return float(between), within


def _voices(near: Array, others: Sequence[int], everyone: Sequence[int]) -> Array:
    """(others, everyone): how loud each target speaks to each, 1 on average.

    Targets are alike if their nearness to the sources goes together; a source that is near to all
    says nothing of which are alike, so its mean is taken off.
    """
    alike = np.zeros((near.shape[2], near.shape[2]))
    for method in near:
        known = np.isfinite(method)
        own = _centred(unit(method).T, known.T).T
        square = (own**2).T @ known
        norm = np.sqrt(square * square.T)
        alike += np.divide(own.T @ own, norm, out=np.zeros_like(norm), where=norm > TINY)
    loud = np.maximum(1 + alike[others][:, everyone] / max(len(near), 1), LEAST)
    return loud / loud.mean(axis=0)


def _slopes(near: Array, left: Array, known: Mask) -> tuple[Array, Array]:
    """What a unit of each nearness is worth (M,), and the covariance of that."""
    count, methods = known.shape[1], near.shape[2]
    near = np.where(known[..., None], near, 0.0)
    grams = np.einsum("sjm,sjn->jmn", near, near)
    sums = np.einsum("sjm,sj->jm", near, left)

    def solved(gram: Array, total: Array, penalty: float) -> Array:
        if penalty == np.inf:
            return np.zeros(methods)
        return np.asarray(np.linalg.solve(gram + penalty * np.eye(methods), total), np.float64)

    errors = np.zeros((len(PENALTIES), count))
    gram, total = grams.sum(0), sums.sum(0)
    for i, j in np.ndindex(errors.shape):
        found = solved(gram - grams[j], total - sums[j], float(PENALTIES[i]))
        errors[i, j] = (found @ grams[j] @ found - 2 * found @ sums[j]) / known[:, j].sum()
    shares = np.random.default_rng(0).dirichlet(np.ones(count), DRAWS)
    best = PENALTIES[(errors @ shares.T).argmin(axis=0)].tolist()
    parts = zip(np.tensordot(count * shares, grams, 1), count * shares @ sums, best, strict=True)
    drawn = np.array([solved(*part) for part in parts])
    off = drawn - drawn.mean(axis=0)
    return drawn.mean(axis=0), off.T @ off / DRAWS


def _covariance(left: Array, known: Mask) -> Array:
    """(S, S) between what is left over of sources."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    size, count = left.shape
    filled, unknown, found = left, np.zeros((size, size)), np.zeros((size, size))
    for _ in range(ROUNDS):
        sample = (filled @ filled.T + unknown) / count
        shrinkage = ledoit_wolf_shrinkage(filled.T, assume_centered=True) if filled.any() else 1.0
        before, found = found, (1 - shrinkage) * sample
        found[np.diag_indices(size)] += shrinkage * np.trace(sample) / size + TINY
        if known.all() or np.linalg.norm(found - before) < SETTLED * np.linalg.norm(found):
            break
        filled, unknown = left.copy(), np.zeros((size, size))
        for j, run in enumerate(known.T):
            holes = np.ix_(~run, ~run)
            gain = np.linalg.solve(found[np.ix_(run, run)], found[np.ix_(run, ~run)])
            filled[~run, j] = left[run, j] @ gain
            unknown[holes] += found[holes] - found[np.ix_(~run, run)] @ gain
    return found
