"""What is believed of a target after some runs, and which source to run next.

A source's score on the target is level + scale · (mean + deviation), a run's is that and its noise.
Deviations are Gaussian with a covariance between sources that is known up to a factor, the level is
Gaussian, scale and factor are each one of a few; what they are on other targets (`recommend.prior`)
is the prior, and each run on the target corrects it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmark.stats import Array

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
    scales: Array  # that the target may have, each as likely: the score of one unit
    level: float
    spread: float  # standard deviation of the level
    factors: Array = field(default_factory=lambda: np.ones(1))  # of the covariance, as likely each
    noise: Array | float = 0.0  # (S,) variance of a run's score
    evidence: Evidence = Evidence()


@dataclass(frozen=True)
class Belief:
    """The prior, corrected by the runs seen: one Gaussian for each scale and factor (J of them)."""

    prior: Prior
    seen: Mapping[int, float]  # source -> score of its run
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
        """By how much each can be expected to exceed the best run, or else the mean source (S,)."""
        from scipy.special import ndtr

        tried = self.means[:, list(self.seen)]
        best = tried.max(axis=1) if self.seen else self.means.mean(axis=1)
        ahead = (self.means - best[:, None]) / self.spreads
        density = np.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
        return self.weights @ (self.spreads * (ahead * ndtr(ahead) + density))

    def samples(self, *, seed: int = 0) -> Array:
        """(SAMPLES, S) of what the sources may score: drawn from the prior, then corrected."""
        rng, prior, at = np.random.default_rng(seed), self.prior, list(self.seen)
        which = np.repeat(np.arange(len(self.weights)), rng.multinomial(SAMPLES, self.weights))
        scales, factors = (part[which, None] for part in _kinds(prior))
        normal = rng.normal(size=(SAMPLES, len(prior.mean)))
        units = prior.mean + np.sqrt(factors) * (normal @ np.linalg.cholesky(prior.covariance).T)
        drawn = prior.level + prior.spread * rng.normal(size=(SAMPLES, 1)) + scales * units
        runs = drawn[:, at] + np.sqrt(_noise(prior)[at]) * rng.normal(size=(SAMPLES, len(at)))
        for j in np.unique(which):
            rows = which == j
            drawn[rows] += (list(self.seen.values()) - runs[rows]) @ self.gains[j]
        return drawn


def _kinds(prior: Prior) -> tuple[Array, Array]:
    """Each scale with each factor."""
    scales, factors = np.meshgrid(prior.scales, prior.factors)
    return scales.ravel(), factors.ravel()


def _noise(prior: Prior) -> Array:
    return np.broadcast_to(prior.noise, prior.mean.shape)


def believe(prior: Prior, seen: Mapping[int, float]) -> Belief:
    """Condition the prior on the runs there are: source -> score."""
    at, y = list(seen), np.array(list(seen.values()))
    scales, factors = (part[:, None] for part in _kinds(prior))
    unit, level = scales**2 * factors, prior.spread**2
    cross = unit[..., None] * prior.covariance[at] + level
    within = cross[:, :, at] + np.diag(_noise(prior)[at])
    off = y - prior.level - scales * prior.mean[at]
    gains = np.asarray(np.linalg.solve(within, cross), dtype=np.float64)
    means = prior.level + scales * prior.mean + np.einsum("jk,jks->js", off, gains)
    variances = unit * np.diagonal(prior.covariance) + level - (cross * gains).sum(axis=1)
    fit = (off * np.linalg.solve(within, off[..., None])[..., 0]).sum(axis=1)
    evidence = -0.5 * (fit + np.linalg.slogdet(within)[1])
    weights = np.exp(evidence - evidence.max())
    spreads = np.sqrt(np.maximum(variances, 1e-18))
    return Belief(prior, seen, weights / weights.sum(), means, spreads, gains)


def next_run(
    prior: Prior, seen: Mapping[int, float], left: Sequence[int], seconds: Array | None = None
) -> int:
    """The source with the largest expected improvement on the best run; at first, the best mean.

    With the seconds (S,) that each would take, the largest expected improvement per second.
    """
    found = believe(prior, seen)
    worth = found.improvement() if seen or seconds is not None else prior.mean
    worth = worth if seconds is None else worth / seconds
    return int(left[int(np.argmax(worth[np.asarray(left)]))])
