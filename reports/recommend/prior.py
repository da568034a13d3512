"""What other targets say of the sources on one that has few runs, or none.

- Scores are compared within their target as normal scores of their ranks. Effects of source and
  target are fitted together, for in a short list of good sources even the worst is good.
- A source's level is a random effect over targets, shrunk by the variance between sources and that
  within them towards what its size has one expect; what remains unknown of it stays in the belief.
- Nearness moves it through a ridge, whose penalty is the best with each target left out in turn.
  Targets that are near speak louder.
- How sources go together over targets is a covariance shrunk by Ledoit and Wolf's formula.

No constant was set to suit some results; nothing of the target's own scores is used.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import BenchError
from benchmark.stats import Array, places
from reports.recommend.belief import Belief
from reports.recommend.matrix import Matrix

Mask = NDArray[np.bool_]
PENALTIES: Array = np.append(np.logspace(-1, 4, 16), 1e12)  # from next to none to no slope at all
PEERS = 15  # a bound on the work
TINY = 1e-9
GRAIN = 0.01  # variance of a normal score that no agreement takes away: it is known by a rank only


class TooFew(BenchError):
    """Not enough other targets to learn anything from."""


def learn(matrix: Matrix, hidden: Sequence[int]) -> list[Belief]:
    """What to expect on each hidden target, from the scores on all the others."""
    from scipy.special import ndtri
    from scipy.stats import t as student
    from sklearn.covariance import ledoit_wolf

    others = [t for t in usable(matrix.scores, least=2) if t not in set(hidden)]
    if len(others) < 2:
        raise TooFew(
            f"Other targets with scores of two sources or more: {len(others)}.",
            "Run the sources on at least two other targets.",
        )
    count, everyone = len(others), [*others, *hidden]
    scores = matrix.scores[:, others]
    known = np.isfinite(scores)
    normal = np.where(known, ndtri(places(scores)), 0.0)
    voices = _voices(matrix.near)[others][:, everyone]
    voices /= voices.mean(axis=0)
    voices[range(count), range(count)] = 0.0  # each target is left out in turn
    levels, doubts = _levels(normal, known, unit(np.log(matrix.images)), voices)
    among = np.hstack([known, np.ones((len(scores), len(hidden)), bool)])
    near = unit(np.where(among, matrix.near[:, :, everyone], np.nan).transpose(1, 2, 0))
    slopes = _slopes(near[:, :count], _centred(normal - levels[:, :count], known), known)
    fitted = levels + near @ slopes
    rest = _centred(normal - fitted[:, :count], known)
    # Pairs that were not run are 0 in it.
    together = ledoit_wolf(rest.T, assume_centered=True)[0] / known.mean()
    covariances = together + doubts + GRAIN * np.eye(len(known))
    scales = _scales(scores, fitted[:, :count], covariances[:count], known)
    heights = np.ma.array(scores - scales * fitted[:, :count], mask=~known).mean(axis=0).data
    # As Student's t of the runs that a source has elsewhere, one taken for its level.
    least = float(student.ppf(0.975, max(known.sum() / len(known) - 1, 2)))
    weights = dict(zip(matrix.methods, slopes.tolist(), strict=True))

    def belief(k: int, peers: Sequence[tuple[Belief, Array]] = ()) -> Belief:
        rest = np.arange(count) != k
        scale = np.median(scales[rest])  # a target with few runs may have any
        return Belief(
            heights[rest].mean() + scale * fitted[:, k],
            scale**2 * covariances[k] + heights.var(ddof=1),
            _noise(matrix.errors[:, everyone[k]]), least, count, weights, peers,
        )  # fmt: skip

    peers = [(belief(k), scores[:, k]) for k in range(0, count, -(-count // PEERS))]
    return [belief(k, peers) for k in range(count, len(everyone))]


def usable(scores: Array, *, least: int = 3) -> list[int]:
    """The targets with enough sources, not all alike: two can be learnt from, three judged on."""
    known = [column[np.isfinite(column)] for column in scores.T]
    return [t for t, found in enumerate(known) if len(found) >= least and np.ptp(found) > 0]


def unit(values: Array) -> Array:
    """Each column (of the first axis) less its mean, over its deviation; 0 where unknown."""
    known = np.ma.masked_invalid(values)
    spread = np.ma.masked_less(known.std(axis=0), TINY)
    return ((known - known.mean(axis=0)) / spread).filled(0.0)


def _centred(values: Array, known: Mask) -> Array:
    """Each target's values less their mean over the sources that were run; 0 for the others."""
    some = np.ma.array(values, mask=~known)
    return (some - some.mean(axis=0)).filled(0.0)


def _noise(errors: Array) -> Array:
    """The variance of each run's score; one that is unknown is as large as is usual, if that is."""
    known = np.ma.masked_invalid(errors)
    return np.square(known.filled(np.ma.median(known) if known.count() else 0.0))


def _scales(scores: Array, fitted: Array, covariances: Array, known: Mask) -> Array:
    """The score of one unit: what was run is spread as far as is expected of just these sources.

    A short list of the best is not as far apart as all would be.
    """
    shares = (known / known.sum(axis=0)).T
    apart = np.diagonal(covariances, axis1=1, axis2=2) - (covariances @ shares[..., None])[..., 0]
    found, expected = ((_centred(part, known) ** 2).sum(axis=0) for part in (scores, fitted))
    return np.sqrt(found / (expected + (apart * known.T).sum(axis=1)))


def _levels(normal: Array, known: Mask, size: Array, voices: Array) -> tuple[Array, Array]:
    """Each source's level for each target (S, T), shrunk to what its size has one expect, and the
    covariances of what is unknown of them (T, S, S)."""
    between, within, runs = 0.5, 0.5, known.sum(axis=0)
    alone = np.linalg.inv(np.eye(len(known)) + np.outer(size, size))

    def solved(voice: Array) -> tuple[Array, Array]:
        """The levels, the targets' effects taken out, and their covariance."""
        share = known * (voice / runs)
        left = np.diag((known * voice).sum(axis=1)) - share @ known.T
        whole = np.linalg.inv(left + within / between * alone)
        return whole @ ((normal * voice).sum(axis=1) - share @ normal.sum(axis=0)), within * whole

    for _ in range(30):  # REML by expectation and maximisation
        level, doubt = solved(np.ones(len(runs)))
        rest = (normal * _centred(normal - level[:, None], known)).sum()
        squares = level * (alone @ level) + np.diag(alone @ doubt)
        between = max(float(squares[known.any(axis=1)].mean()), TINY)
        within = max(float(rest / max(known.sum() - len(runs), 1)), TINY)
    levels, doubts = zip(*map(solved, voices.T), strict=True)
    return np.stack(levels, axis=1), np.stack(doubts)


def _voices(near: Array) -> Array:
    """(T, T): how loud each target speaks to each, the louder the more alike they are.

    Targets are alike if their nearness to the sources goes together; a source that is near to all
    says nothing of which are alike, so its mean is taken off.
    """
    alike = np.zeros((near.shape[2], near.shape[2]))
    for method in near:
        own = _centred(unit(method).T, np.isfinite(method).T)
        own /= np.maximum(np.linalg.norm(own, axis=1, keepdims=True), TINY)
        alike += own @ own.T
    return np.exp(alike / max(len(near), 1))


def _slopes(near: Array, left: Array, known: Mask) -> Array:
    """What a unit of each nearness is worth (M,)."""
    each = np.eye(near.shape[2])
    near = np.where(known[..., None], near, 0.0)
    grams = np.einsum("sjm,sjn->jmn", near, near)
    sums = np.einsum("sjm,sj->jm", near, left)

    def solved(gram: Array, total: Array, penalty: Array) -> Array:
        found = np.linalg.solve(gram + penalty[..., None, None] * each, total[..., None])
        return np.asarray(found[..., 0], np.float64)

    held = solved(grams.sum(0) - grams, sums.sum(0) - sums, PENALTIES[:, None])
    errors = np.einsum("pjm,jmn,pjn->pj", held, grams, held) - 2 * (held * sums).sum(axis=-1)
    best = (errors / known.sum(axis=0)).sum(axis=1).argmin()
    return solved(grams.sum(0), sums.sum(0), PENALTIES[best])
