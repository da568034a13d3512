"""What is believed of a target after some runs, which source to run next, and what that is worth.

A source's score on the target is level + scale · (mean + deviation). Deviations are Gaussian with
a covariance between sources, the level is Gaussian, and the scale is one of a few; what they are
on other targets (`recommend.prior`) is the prior, and each run on the target corrects it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmark.stats import Array

RUNS = 6  # that an order is judged by
SAMPLES = 4000  # of a belief: its percentiles are then good to about a hundredth of its spread


@dataclass(frozen=True)
class Evidence:
    """What a prior was learnt from, for the reader."""

    targets: int = 0
    weights: dict[str, float] = field(default_factory=dict)  # of each nearness


@dataclass(frozen=True)
class Prior:
    """What to expect on a target before any run on it."""

    mean: Array  # (S,) in units of the target's scale, about its level
    covariance: Array  # (S, S) in those units squared
    scales: Array  # (J,) that the target may have, each as likely: the score of one unit
    level: float
    spread: float  # standard deviation of the level
    evidence: Evidence = Evidence()


@dataclass(frozen=True)
class Belief:
    """The prior, corrected by the runs seen: one Gaussian for each scale there may be."""

    prior: Prior
    seen: Mapping[int, float]  # source -> score
    weights: Array  # (J,), of sum 1
    means: Array  # (J, S)
    spreads: Array  # (J, S) standard deviations
    gains: Array  # (J, runs, S): how far a run that is one too high lifts each source

    @property
    def mean(self) -> Array:
        """What to expect of each source (S,)."""
        return self.weights @ self.means

    def below(self, scores: Array) -> Array:
        """The probability that each source is below a score (S,)."""
        from scipy.special import ndtr

        return self.weights @ ndtr((scores - self.means) / self.spreads)

    def improvement(self) -> Array:
        """By how much each source can be expected to exceed the best run so far (S,)."""
        from scipy.special import ndtr

        ahead = (self.means - max(self.seen.values())) / self.spreads
        density = np.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
        return self.weights @ (self.spreads * (ahead * ndtr(ahead) + density))

    def samples(self, *, seed: int = 0) -> Array:
        """(SAMPLES, S) of what the sources may score: drawn from the prior, then corrected."""
        rng, prior, at = np.random.default_rng(seed), self.prior, list(self.seen)
        which = np.repeat(np.arange(len(self.weights)), rng.multinomial(SAMPLES, self.weights))
        noise = rng.normal(size=(SAMPLES, len(prior.mean)))
        units = prior.mean + noise @ np.linalg.cholesky(prior.covariance).T
        level = prior.level + prior.spread * rng.normal(size=(SAMPLES, 1))
        drawn = level + prior.scales[which, None] * units
        for j in np.unique(which):
            rows = which == j
            drawn[rows] += (list(self.seen.values()) - drawn[rows][:, at]) @ self.gains[j]
        return drawn


def believe(prior: Prior, seen: Mapping[int, float]) -> Belief:
    """Condition the prior on the runs there are: source -> score."""
    at, y = list(seen), np.array(list(seen.values()))
    scales, level = prior.scales[:, None], prior.spread**2
    cross = scales[..., None] ** 2 * prior.covariance[at] + level
    within = cross[:, :, at]
    off = y - prior.level - scales * prior.mean[at]
    gains = np.asarray(np.linalg.solve(within, cross), dtype=np.float64)
    means = prior.level + scales * prior.mean + np.einsum("jk,jks->js", off, gains)
    variances = scales**2 * np.diagonal(prior.covariance) + level - (cross * gains).sum(axis=1)
    fit = (off * np.linalg.solve(within, off[..., None])[..., 0]).sum(axis=1)
    evidence = -0.5 * (fit + np.linalg.slogdet(within)[1])
    weights = np.exp(evidence - evidence.max())
    spreads = np.sqrt(np.maximum(variances, 1e-18))
    return Belief(prior, seen, weights / weights.sum(), means, spreads, gains)


def next_run(prior: Prior, seen: Mapping[int, float], candidates: Sequence[int]) -> int:
    """The source with the largest expected improvement on the best run; at first, the best mean."""
    worth = believe(prior, seen).improvement() if seen else prior.mean
    return int(candidates[int(np.argmax(worth[np.asarray(candidates)]))])


def order(prior: Prior, truth: Array) -> list[int]:
    """The sources in the order they would be run, each with the scores of those before it."""
    seen: dict[int, float] = {}
    known = np.flatnonzero(np.isfinite(truth)).tolist()
    while len(seen) < min(RUNS, len(known)):
        chosen = next_run(prior, seen, [source for source in known if source not in seen])
        seen[chosen] = float(truth[chosen])
    return list(seen)


def regrets(truth: Array, ordered: Sequence[int]) -> Array:
    """After 1, 2, … RUNS runs: best minus best tried, in units of best minus median, 2 at most."""
    best, unit = np.nanmax(truth), np.nanmax(truth) - np.nanmedian(truth)
    tried = np.maximum.accumulate(truth[list(ordered)[:RUNS]])
    full = np.append(tried, np.full(RUNS - len(tried), tried[-1]))
    return np.minimum((best - full) / unit, 2.0) if unit > 0 else np.full(RUNS, np.nan)


def tau(score: Array, truth: Array) -> float:
    """Weighted τ, which counts agreement among the best for most; NaN where it is not defined."""
    from scipy.stats import weightedtau

    if len(truth) < 3 or np.ptp(score) == 0 or np.ptp(truth) == 0:
        return math.nan
    found: Any = weightedtau(score, truth)
    return float(found.statistic)
