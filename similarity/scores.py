"""Transferability scores: higher is better, natural logarithms, all arithmetic in float64.

Each takes features (n, d) and labels (n,) of any kind, NumPy or torch; LEEP and NCE take what the
source's classifier says about the target's images instead of features. LogME and the two that are
cross-validated also take labels (n, K) of 0 and 1 and give the mean over them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from benchmark.api import BenchError, Distance, DistanceCard, Input, Measured, Side
from benchmark.spec import Scalar
from similarity._labelled import array, class_means, in_order, once, one_hot, prepare, yes_no
from similarity._probes import SEED, knn, linear_probe

VARIANCE_FLOOR = 1e-4  # GBC: keeps one-sample and constant classes finite
DISTORTION = 1e-4  # TransRate's ε


def leep(source_probabilities: Any, labels: Any) -> float:
    """Log expected empirical prediction; source_probabilities (n, Z) sum to one in each row."""
    probabilities, codes = prepare(source_probabilities, labels)
    if (probabilities < 0).any() or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-2:
        what = "The source's probabilities are negative or do not sum to one."
        raise BenchError(what, "Give the softmax of its logits.")
    return float(np.log(_empirical_prediction(probabilities, codes)).mean())


def _empirical_prediction(z: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Probability (n,) of each sample's own label by way of Z, whose probabilities are z (n, Z)."""
    joint = one_hot(codes).T @ z / len(codes)  # P(y, z)
    mass = joint.sum(axis=0)
    given = joint / np.where(mass > 0, mass, 1.0)  # P(y | z)
    return (given[codes] * z).sum(axis=1)


def nce(source_labels: Any, labels: Any) -> float:
    """Negative conditional entropy −H(Y|Z) of the labels given the source's predicted classes."""
    source = np.unique(array(source_labels), return_inverse=True)[1]
    indicator, codes = prepare(one_hot(source), labels)
    joint = one_hot(codes).T @ indicator / len(codes)
    ratio = np.where(joint > 0, joint / joint.sum(axis=0), 1.0)
    return float((joint * np.log(ratio)).sum())


def logme(features: Any, labels: Any) -> float:
    """Maximised log evidence of a Bayesian linear model of the one-hot labels, per sample.

    Exact also for n < d. Infinite where fewer than n directions reproduce a class exactly.
    """
    x, targets = yes_no(features, labels)
    n, d = x.shape
    if n > d + targets.shape[1]:  # the evidence needs no more than the inner products
        r: Any = np.linalg.qr(np.hstack([x, targets]), mode="r")
        x, targets = r[:, :d], r[:, d:]
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = s > s.max(initial=0.0) * max(x.shape) * np.finfo(float).eps
    s2 = s[kept] ** 2
    aligned = (u[:, kept].T @ targets) ** 2
    rest = np.maximum((targets**2).sum(axis=0) - aligned.sum(axis=0), 0.0)
    return float(np.mean([_evidence(s2, a, r, n) for a, r in zip(aligned.T, rest, strict=True)]))


def _evidence(s2: np.ndarray, aligned: np.ndarray, rest: float, n: int) -> float:
    """Maximum over α and β: β is known for a given t = α/β, and log t is searched."""
    from scipy.optimize import minimize_scalar

    total = float(aligned.sum()) + rest
    if len(s2) == n:
        rest = 0.0  # the features span everything, what is left is rounding
    elif rest <= 1e-12 * total:
        return math.inf
    constant = math.log(2 * math.pi) + 1

    def negative(log_t: float) -> float:
        ratio = s2 * math.exp(-log_t)
        residual = float((aligned / (1 + ratio)).sum()) + rest
        return (constant + math.log(residual / n) + float(np.log1p(ratio).sum()) / n) / 2

    if not len(s2):
        return -negative(0.0)
    grid = np.linspace(math.log(s2.min()) - 30, math.log(s2.max()) + 30, 241)
    values = np.array([negative(log_t) for log_t in grid])
    best = math.inf
    dips = np.flatnonzero((values <= np.roll(values, 1)) & (values <= np.roll(values, -1)))
    for dip in {*dips.tolist(), int(values.argmin())}:
        bounds = grid[max(dip - 1, 0)], grid[min(dip + 1, len(grid) - 1)]
        found: Any = minimize_scalar(
            negative, bounds=bounds, method="bounded", options={"xatol": 1e-7}
        )
        best = min(best, float(found.fun), float(values[dip]))
    return -best


def h_score(features: Any, labels: Any, *, shrinkage: bool = True) -> float:
    """Trace of pinv(cov(f)) · cov(E[f|y]), by default with Ledoit–Wolf shrinkage α.

    With shrinkage the second factor is weighted 1 − α, as its authors do, so that 0 ≤ H ≤ C − 1.
    Without it the value is C − 1 whatever the features once n ≤ d: there it is NaN.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    x, codes = prepare(features, labels)
    n, d = x.shape
    if not shrinkage and n <= d:
        return math.nan
    x = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    kept = s > s.max(initial=0.0) * max(n, d) * np.finfo(float).eps
    if not kept.any():
        return 0.0
    variance = s[kept] ** 2 / n
    alpha = float(ledoit_wolf_shrinkage(x, assume_centered=True)) if shrinkage else 0.0
    hot = one_hot(codes)
    explained = ((hot.T @ u[:, kept]) ** 2 / hot.sum(axis=0)[:, None]).sum(axis=0)
    between = (1 - alpha) * variance * explained
    return float((between / ((1 - alpha) * variance + alpha * variance.sum() / d)).sum())


def transrate(features: Any, labels: Any, *, weighted: bool = False) -> float:
    """Coding rate of the features less the mean rate of a class (`weighted`: by frequency)."""
    x, codes = prepare(features, labels)
    x = x - x.mean(axis=0)
    counts = np.bincount(codes)
    rates = np.array([_coding_rate(x[codes == code]) for code in range(len(counts))])
    return _coding_rate(x) - float(np.average(rates, weights=counts if weighted else None))


def _coding_rate(z: np.ndarray) -> float:
    n, d = z.shape
    gram = z @ z.T if n < d else z.T @ z
    return float(np.linalg.slogdet(np.eye(len(gram)) + gram / (n * DISTORTION))[1]) / 2


def gbc(
    features: Any, labels: Any, *, covariance: Literal["diagonal", "spherical"] = "diagonal"
) -> float:
    """Minus the Bhattacharyya overlap of Gaussian classes, summed over ordered pairs.

    `spherical` gives a class one variance, the mean over its features, counted d times.
    """
    if covariance not in ("diagonal", "spherical"):
        raise BenchError(f"No covariance named '{covariance}'.", "Use diagonal or spherical.")
    x, codes = prepare(features, labels)
    means = class_means(x, codes)
    variances = class_means((x - means[codes]) ** 2, codes)
    if covariance == "spherical":
        variances = np.broadcast_to(variances.mean(axis=1, keepdims=True), variances.shape)
    variances = np.maximum(variances, VARIANCE_FLOOR)
    total = 0.0
    for i in range(len(means)):
        for j in range(i):
            both = (variances[i] + variances[j]) / 2
            logs = np.log(both) - (np.log(variances[i]) + np.log(variances[j])) / 2
            total += math.exp(-float(((means[i] - means[j]) ** 2 / both / 8 + logs / 2).sum()))
    return -2 * total


def parc(features: Any, labels: Any) -> float:
    """Spearman's ρ × 100 between 1 − Pearson of pairs of features and of their one-hot labels.

    A sample whose features are all equal correlates with none (0). NaN where all pairs are alike.
    Takes n² memory: give it a few thousand samples at most.
    """
    from scipy.stats import rankdata

    x, codes = prepare(features, labels)
    x = x - x.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    x = np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
    upper = np.triu_indices(len(x), 1)
    distances = 1 - (x @ x.T)[upper]
    differ = (codes[:, None] != codes)[upper]  # the one-hot distance has but two values
    if np.ptp(distances) < 1e-12 or differ.all():
        return math.nan
    return 100 * float(np.corrcoef(rankdata(distances), differ)[0, 1])


def nleep(features: Any, labels: Any, *, seed: int = SEED, log: bool = True) -> float:
    """LEEP with a Gaussian mixture in the source's place: PCA to 80 % energy, 5 C components.

    `log=False` gives the mean probability instead, which some published tables call N-LEEP.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    x, codes, _ = in_order(features, labels)
    components = 5 * (int(codes.max()) + 1)
    if len(x) < components:
        what = f"N-LEEP's mixture has {components} components and there are {len(x)} samples."
        raise BenchError(what, "Give at least five samples per class.")
    if not np.ptp(x, axis=0).any():
        z = np.ones((len(x), 1))  # constant features: one component says all
    else:
        reduced = PCA(0.8, svd_solver="full").fit_transform(x)
        z = GaussianMixture(components, random_state=seed).fit(reduced).predict_proba(reduced)
    likelihood = _empirical_prediction(z, codes)
    return float(np.log(likelihood).mean() if log else likelihood.mean())


def sfda(features: Any, labels: Any, *, log: bool = True) -> float:
    """Self-challenging Fisher score: mean log posterior of regularised discriminant analysis.

    Fitted twice, the second time on features drawn towards the other classes' mean in proportion
    to the first fit's doubt. `log=False`: mean posterior, as the public code and tables have it.
    Blind where n ≤ d and λ is small: any labels can then be told apart and the score is 0.
    """
    x, codes = prepare(features, labels)
    x = x - x.mean(axis=0)
    log_posterior, shrinkage = _fisher(x, codes, None)
    doubt = np.exp(np.exp(log_posterior))
    sure = (doubt / doubt.sum(axis=1, keepdims=True))[np.arange(len(codes)), codes][:, None]
    means = class_means(x, codes)
    others = (means.sum(axis=0) - means) / (len(means) - 1)
    log_posterior, _ = _fisher(sure * x + (1 - sure) * others[codes], codes, shrinkage)
    own = log_posterior[np.arange(len(codes)), codes]
    return float(own.mean() if log else np.exp(own).mean())


def _fisher(x: np.ndarray, codes: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, float]:
    """Log posteriors (n, C) with within-class scatter shrunk by λ = exp(−5 σ), σ its largest value.

    All of the Fisher directions together are the inverse of the scatter, so no eigenproblem of d
    by d is solved: the inverse comes from the singular values of the centred samples.
    """
    means = class_means(x, codes)
    _, s, vt = np.linalg.svd(x - means[codes], full_matrices=False)
    scatter = s**2 / len(x)
    if shrinkage is None:
        shrinkage = max(math.exp(-5 * float(scatter[0])), 1e-10)
    floor = shrinkage * float(scatter.sum()) / x.shape[1] or 1.0  # 1 where classes are points
    inside = means @ vt.T
    weights = (inside / ((1 - shrinkage) * scatter + floor)) @ vt  # (C, d): means · scatter⁻¹
    if len(vt) < x.shape[1]:
        weights += (means - inside @ vt) / floor
    prior = np.log(np.bincount(codes) / len(codes))
    logits = x @ weights.T - (weights * means).sum(axis=1) / 2 + prior
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), shrinkage


class Score(Distance):
    """How well a source's network suits a target, from its features and outputs there."""

    card = DistanceCard(
        title="Transferability score", version=2, needs="weights", more_is_near=True
    )
    variants = ("logme", "leep", "nce", "h_score", "transrate", "gbc", "parc", "nleep", "sfda",
                "knn", "linear_probe")  # fmt: skip

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant, given)
        if self.variant in ("leep", "nce"):  # the source's classifier is a softmax too
            self.card = replace(self.card, one_class=("source", "target"))
        elif self.variant not in ("logme", "knn", "linear_probe"):
            self.card = replace(self.card, one_class=("target",))

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        if self.variant == "leep":
            return Measured(leep(target.probabilities, target.labels))
        if self.variant == "nce":
            return Measured(nce(target.probabilities.argmax(axis=1), target.labels))
        if self.variant in ("knn", "linear_probe"):
            check = knn if self.variant == "knn" else linear_probe
            return Measured(check(target.features, target.labels, groups=target.groups))
        if self.variant == "logme":
            value = logme(target.features, target.labels)
            if math.isinf(value):  # a copy of an image is reproduced whatever the other rows ask
                value = logme(*once(target.features, target.labels))
            return Measured(value)
        simple = { "h_score": h_score, "transrate": transrate, "gbc": gbc,
                  "parc": parc, "nleep": nleep, "sfda": sfda}  # fmt: skip
        return Measured(simple[self.variant](target.features, target.labels))
