"""What is believed of the sources on a target, before and after some runs, and what to run next.

A belief is a Gaussian over their scores; it begins as what other targets say (`recommend.prior`),
and each run on the target corrects it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from benchmark.stats import Array, Z

SAMPLES = 4000  # of a belief: its percentiles are then good to about a hundredth of its spread
REPLAYED = 6  # runs on a peer: what they say of later ones hardly changes


@dataclass(frozen=True)
class Belief:
    """What to expect of each source on a target."""

    mean: Array  # (S,)
    covariance: Array  # (S, S)
    noise: Array  # (S,) variance of a run's score
    least: float = Z  # standard deviations to either end of a 95 % interval; more with few runs
    targets: int = 0  # that it was learnt from
    weights: Mapping[str, float] = field(default_factory=dict)  # of each nearness
    peers: Sequence[tuple["Belief", Array]] = ()  # of other targets, each left out; their scores
    seconds: Array | None = None  # (S,) that a run would take, where they count
    seen: tuple[int, ...] = ()  # the sources that were run

    def after(self, source: int, score: float) -> "Belief":
        """What it becomes by a run."""
        along = self.covariance[source]
        gain = along / max(along[source] + self.noise[source], 1e-18)
        return replace(
            self, mean=self.mean + gain * (score - self.mean[source]),
            covariance=self.covariance - np.outer(gain, along), seen=(*self.seen, source),
        )  # fmt: skip

    @cached_property
    def spread(self) -> Array:
        """Standard deviations (S,)."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance), 1e-18))

    def off(self, truth: Array) -> Array:
        """Standard deviations by which the scores that were not run are above what was expected."""
        off = np.delete((truth - self.mean) / self.spread, self.seen)
        return off[np.isfinite(off)]

    def improvement(self) -> Array:
        """By how much each can be expected to exceed the best run, or else the mean source (S,)."""
        from scipy.special import ndtr

        best = self.mean[list(self.seen)].max() if self.seen else self.mean.mean()
        ahead = (self.mean - best) / self.spread
        density = np.exp(-0.5 * ahead**2) / math.sqrt(2 * math.pi)
        return self.spread * (ahead * ndtr(ahead) + density)

    @cached_property
    def samples(self) -> Array:
        """(SAMPLES, S) of what the sources may score, their tails as heavy as `reach` finds."""
        rng, mean = np.random.default_rng(0), np.zeros(len(self.mean))
        drawn = rng.multivariate_normal(mean, self.covariance, SAMPLES, check_valid="ignore")
        low, high = self.reach()
        wide = np.where(drawn < 0, low, high) / Z
        wide[:, list(self.seen)] = 1.0  # a run is off by its noise alone
        return self.mean + wide * drawn

    def replay(
        self, left: Sequence[int], runs: int, scores: Array | None = None
    ) -> Iterator["Belief"]:
        """What it becomes by each of so many runs, each chosen by those before.

        That is the largest expected improvement on the best run, per second where these count; at
        first else the best mean. Scores (S,) are those given, or each is as expected.
        """
        found, left = self, list(left)
        for _ in range(min(runs, len(left))):
            mean, seconds = found.mean, found.seconds
            worth = mean if seconds is None and not found.seen else found.improvement()
            worth = worth if seconds is None else worth / seconds
            source = max(left, key=lambda s: (worth[s], mean[s]))
            left.remove(source)
            found = found.after(source, float((mean if scores is None else scores)[source]))
            yield found

    def reach(self) -> tuple[float, float]:
        """The standard deviations down and up to the ends of a 95 % interval.

        As far as scores on the other targets were off after as many runs there: tails are heavier
        than a Gaussian's, the lower one most.
        """
        runs = min(max(len(self.seen), 1), REPLAYED)
        off = [
            then.off(scores)
            for peer, scores in self.peers
            for then in peer.replay(np.flatnonzero(np.isfinite(scores)).tolist(), runs, scores)
        ]
        known = np.concatenate([*off, np.zeros(1)])
        above = min(1.0, 0.975 * (1 + 1 / len(known)))
        low, high = np.quantile(known, [1 - above, above])
        return max(self.least, -float(low)), max(self.least, float(high))
