"""Simulated boards whose truth is known: how often pairs, ranks, intervals and winners are wrong.

Plain functions: sizes in, shares out. A cell is a test of patients with several images each: what
makes a patient hard is shared by all networks, another part is a network's own, and training moves
a network's true AUROC by `sigma`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from benchmark import stats
from benchmark.metrics.rates import ranking
from benchmark.stats import Array
from benchmark.stats.noise import Component, over_folds, over_pretrainings, over_seeds

SKILL, OWN, POSITIVE = 1.2, 0.3, 0.35  # distance of the classes; a network's own part; prevalence


class Simulated(NamedTuple):
    """Rows on the same patients: values (R, K, S), draws (R, K, S, D)."""

    values: Array
    draws: Array

    def rows(self, noise: Sequence[Array]) -> tuple[Array, Array]:
        """Value and draws of each row, with its noise."""
        return self.values.mean((1, 2)), self.draws.mean((1, 2)) + np.array(noise)


def skill_of(value: float) -> float:
    """The distance of the classes that has this AUROC on new patients."""
    from scipy.stats import norm

    return float(norm.ppf(value) * math.sqrt(2 * (1 + 2 * OWN**2)))


def board(
    rng: np.random.Generator,
    means: Sequence[float],
    *,
    folds: int = 5,
    seeds: int = 1,
    sigma: float = 0.02,
    patients: int = 80,
    images: int = 2,
    draws: int = 400,
) -> Simulated:
    """Rows of these true AUROCs, each training off by `sigma` of its own."""
    shape = (len(means), folds, seeds)
    values, drawn = np.zeros(shape), np.zeros((*shape, draws))
    of = np.repeat(np.arange(patients), images)
    once = np.ones((patients * images, 1))
    for k in range(folds):
        labels = rng.random(patients) < POSITIVE
        labels[:2] = True, False
        positive, hard = labels[of], rng.normal(size=patients)[of]
        share = np.full(patients, 1 / patients)
        weights = rng.multinomial(patients, share, size=draws).T.astype(np.float32)[of]
        for r, s in np.ndindex(len(means), seeds):
            skill = skill_of(float(np.clip(means[r] + sigma * rng.normal(), 0.05, 0.99)))
            own = OWN * (rng.normal(size=patients)[of] + rng.normal(size=len(of)))
            scores = skill * positive + hard + own
            values[r, k, s] = ranking(positive, scores, once)[0][0]
            drawn[r, k, s] = ranking(positive, scores, weights)[0]
    return Simulated(values, drawn)


def training(found: Simulated) -> Component:
    """As a board estimates it: over seeds where there are several, else over folds."""
    rows, folds, seeds = found.values.shape
    if seeds == 1:
        return over_folds(found.values[..., 0], found.draws[..., 0, :])
    cells = np.ndindex(rows, folds)
    return over_seeds((found.values[cell], found.draws[cell]) for cell in cells)


def _noise(rng: np.random.Generator, found: Simulated) -> list[Array]:
    part, size = training(found), found.draws.shape[-1]
    rows, folds, seeds = found.values.shape
    doubt = part.doubt(size, int(rng.integers(2**62)))
    share = math.sqrt(folds * seeds)
    return [part.drawn(size, int(rng.integers(2**62))) * doubt / share for _ in range(rows)]


def _told(values: Array, draws: Array, pairs: Sequence[tuple[int, int]]) -> list[bool]:
    return [
        stats.paired_bootstrap(draws[i], draws[j], values[i], values[j]).p < 0.05 for i, j in pairs
    ]


def _pairs(rows: int) -> list[tuple[int, int]]:
    return [(i, j) for j in range(rows) for i in range(j)]


def trainings_told_apart(
    boards: int = 30, *, rows: int = 6, seeds: int = 1, sigma: float = 0.02, seed: int = 0
) -> float:
    """Share of pairs told apart at 5 % among rows that differ in the training run alone."""
    rng, told = np.random.default_rng(seed), []
    for _ in range(boards):
        found = board(rng, [0.8] * rows, seeds=seeds, sigma=sigma)
        told += _told(*found.rows(_noise(rng, found)), _pairs(rows))
    return float(np.mean(told))


def pretrainings_told_apart(
    boards: int = 10,
    *,
    sources: int = 3,
    pretrainings: int = 6,
    sigma: float = 0.01,
    spread: float = 0.02,
    seed: int = 0,
) -> tuple[float, float]:
    """Share told apart of one source's pretrainings, and of two other sources with one each."""
    rng = np.random.default_rng(seed)
    same: list[bool] = []
    others: list[bool] = []
    for _ in range(boards):
        means = 0.8 + spread * rng.normal(size=sources * pretrainings + 2)
        found = board(rng, means.tolist(), sigma=sigma)
        values, plain = found.values.mean((1, 2)), found.draws.mean((1, 2))
        of = [np.arange(pretrainings) + pretrainings * i for i in range(sources)]
        less = training(found).deviation ** 2 / found.values[0].size
        freedom = sources * (pretrainings - 1)
        part = over_pretrainings([(values[r], plain[r]) for r in of], [less] * sources, freedom)
        size = plain.shape[1]
        doubt = part.doubt(size, int(rng.integers(2**62)))
        noise = _noise(rng, found)
        for i in range(len(noise)):
            own = part.drawn(size, int(rng.integers(2**62)))
            noise[i] = noise[i] + own * (doubt if i >= sources * pretrainings else 1.0)
        told = found.rows(noise)
        for rows in of:
            same += _told(*told, [(int(rows[i]), int(rows[j])) for i, j in _pairs(pretrainings)])
        others += _told(*told, [(sources * pretrainings, sources * pretrainings + 1)])
    return float(np.mean(same)), float(np.mean(others))


def rank_errors(
    boards: int = 100, *, rows: int = 10, sigma: float = 0.01, effect: float = 3.0, seed: int = 0
) -> tuple[float, float]:
    """Boards of equal rows in which one lacks rank 1; single tests that find `effect` errors."""
    rng, wrong, found = np.random.default_rng(seed), 0, []
    for _ in range(boards):
        made = board(rng, [0.8] * rows, sigma=sigma)
        values, draws = made.rows(_noise(rng, made))
        lowest, _ = stats.simultaneous_ranks(values, list(draws))
        wrong += any(rank != 1 for rank in lowest)
        lead = effect * float(np.std(draws[0] - draws[1]))
        moved = values + lead * np.eye(rows)[0], draws + lead * np.eye(rows)[0][:, None]
        found += _told(*moved, [(0, 1)])
    return wrong / boards, float(np.mean(found))


def coverage(
    boards: int = 400, *, rows: int = 6, sigma: float = 0.01, images: int = 3, seed: int = 0
) -> dict[str, float]:
    """How often 95 % intervals hold the truth: of an AUROC, a paired difference and a gain T."""
    rng = np.random.default_rng(seed)
    means = np.linspace(0.76, 0.84, rows)
    hits: dict[str, list[bool]] = {"auroc": [], "difference": [], "gain": []}
    for _ in range(boards):
        made = board(rng, means.tolist(), sigma=sigma, images=images, patients=60)
        _, draws = made.rows(_noise(rng, made))
        truths = {
            "auroc": (draws[-1], means[-1]),
            "difference": (draws[-1] - draws[0], means[-1] - means[0]),
            "gain": (100 * (draws[-1] / draws[0] - 1), 100 * (means[-1] / means[0] - 1)),
        }
        for name, (drawn, truth) in truths.items():
            low, high = stats.interval(drawn)
            hits[name].append(low <= truth <= high)
    return {name: float(np.mean(part)) for name, part in hits.items()}


def winner(
    boards: int = 200, *, rows: int = 8, sigma: float = 0.02, apart: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Of the best row: how often its interval holds its true score, as shown and corrected."""
    rng = np.random.default_rng(seed)
    shown, corrected, excess, told = [], [], [], []
    means = np.linspace(0.8 - apart, 0.8 + apart, rows)
    for _ in range(boards):
        made = board(rng, means.tolist(), sigma=sigma)
        values, draws = made.rows(_noise(rng, made))
        best = int(np.argmax(values))
        by = stats.chosen_excess(values, list(draws))
        low, high = stats.interval(draws[best])
        shown.append(low <= means[best] <= high)
        corrected.append(low - by <= means[best] <= high - by)
        excess.append(values[best] - means[best])
        told.append(by)
    return {
        "covered": float(np.mean(shown)),
        "covered_corrected": float(np.mean(corrected)),
        "excess": float(np.mean(excess)),
        "excess_told": float(np.mean(told)),
    }


def shown() -> Iterator[tuple[str, float, float, float]]:
    """What is held, the share that came out, and between what marks it has to lie."""
    for seeds in (1, 3):
        share = trainings_told_apart(60, seeds=seeds)
        yield f"simulated trainings told apart, {seeds} seeds a row", share, 0.02, 0.07
    same, others = pretrainings_told_apart(400)
    yield "simulated pretrainings told apart, of those that made the estimate", same, 0.02, 0.07
    yield "simulated pretrainings told apart, of two other sources", others, 0.0, 0.07
    wrong, found = rank_errors(200)
    yield "boards of ten equal rows in which one lacks rank 1", wrong, 0.0, 0.07
    yield "a difference of three standard errors is found", found, 0.8, 1.0
    for name, share in coverage().items():
        yield f"95 % interval of {name} holds the truth", share, 0.93, 0.97
    best = winner(400)
    yield "the best of eight equal rows: its interval holds the truth", best["covered"], 0.0, 1.0
    yield "the same, by what choosing adds", best["covered_corrected"], 0.93, 1.0
