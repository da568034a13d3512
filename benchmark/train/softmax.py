"""Logistic regression on fixed features, solved to its optimum (Thomas 2021, Eq. 4).

Labels (N,) are classes of one softmax; labels (N, K) of 0 and 1 are K sigmoids, each a regression
of its own, side by side.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import svds
from scipy.special import expit

Floats = NDArray[np.floating]

#: The penalties validation chooses from, each the start of the next weaker one.
PENALTIES = tuple(float(f"{value:.3g}") for value in np.geomspace(1e2, 1e-4, 10))

#: Conjugate-gradient steps spent on one Newton step at most.
INNER = 200

#: Rows whose curvature is below this share of the mean are left out of the Newton system: near
#: the optimum most images are classified with certainty and bend nothing.
FLAT = 1e-2


class Softmax(NamedTuple):
    """A fitted classifier: scores are `features @ weight.T + bias`, in the features' own units."""

    weight: Floats  # (K, D)
    bias: Floats  # (K,)
    gradient_norm: float
    iterations: int
    converged: bool


def softmax_optimum(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    classes: int,
    l2: float = 1e-6,
    sample_weight: ArrayLike | None = None,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    faithful: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Softmax:
    """Minimise mean cross-entropy + l2/2 · |W|², the bias free, until the gradient's norm is small.

    Features (N, D) are standardised first, and W and the norm refer to standardised features;
    what comes back is in raw units. Newton steps by preconditioned conjugate gradients.
    `faithful` does as the paper says instead: full-batch gradient descent on raw features from
    zero, its step 1 / Lipschitz constant, `max_iterations` epochs at most. `check` is called
    between steps and may raise.
    """
    problem = _problem(features, labels, classes, sample_weight, raw=faithful)
    problem.penalise(l2)
    solve = _descend if faithful else _newton
    found = solve(problem, problem.zeros(), tolerance, max_iterations, check)
    return problem.answer(*found, tolerance)


def softmax_path(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    sample_weight: ArrayLike | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
    check: Callable[[], None] = lambda: None,
) -> list[Softmax]:
    """The optimum at each penalty, in their order, each begun where the last one ended."""
    problem = _problem(features, labels, classes, sample_weight)
    weights, path = problem.zeros(), []
    for l2 in penalties:
        problem.penalise(l2)
        weights, norm, done = _newton(problem, weights, tolerance, max_iterations, check)
        path.append(problem.answer(weights, norm, done, tolerance))
    return path


def _problem(
    features: ArrayLike,
    labels: ArrayLike,
    classes: int,
    sample_weight: ArrayLike | None,
    *,
    raw: bool = False,
) -> "_Problem":
    kind = _Labels if np.ndim(labels) == 2 else _Problem
    return kind(features, labels, classes, sample_weight, raw=raw)


class _Problem:
    """Loss and gradient at weights (K, R + 1), the bias in the last column.

    Rows (N, R + 1) are standardised features and a one. Where there are fewer images than
    features, they are turned into the N dimensions that the images span: the optimum lies there.
    """

    def __init__(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        classes: int,
        sample_weight: ArrayLike | None,
        *,
        raw: bool = False,
    ) -> None:
        x, self.y = np.asarray(features), np.asarray(labels, np.int64)
        n, width = x.shape
        weights = np.ones(self.y.shape) if sample_weight is None else sample_weight
        weights = np.asarray(weights, np.float64)
        self.share = weights / weights.sum(0)  # of the images (N,), or for each label (N, K)
        self.mean, self.deviation = np.zeros(width), np.ones(width)
        if not raw:
            self.mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
            constant = deviation <= 1e-12 * np.maximum(1, np.abs(self.mean))
            self.deviation = np.where(constant, np.inf, deviation)  # constant: weight 0
        scaled, self.basis = (x - self.mean) / self.deviation, None
        if n < width:
            self.basis, triangle = np.linalg.qr(scaled.T)
            scaled = triangle.T
        self.rows = np.ones((n, scaled.shape[1] + 1))
        self.rows[:, :-1] = scaled
        self.classes = classes
        self.target = self.targets()
        self.penalty = np.zeros(self.rows.shape[1])

    @cached_property
    def gram(self) -> Floats:
        """Second moments (R + 1, R + 1) of the weighted rows."""
        weighted = self.rows * np.sqrt(self.each.mean(1, keepdims=True))
        return weighted.T @ weighted

    @property
    def each(self) -> Floats:
        """The share of an image (N, 1), or in each label (N, K)."""
        return self.share.reshape(len(self.share), -1)

    def targets(self) -> Floats:
        """What the probabilities (N, K) should be."""
        return np.eye(self.classes)[self.y]

    def zeros(self) -> Floats:
        return np.zeros((self.classes, self.rows.shape[1]))

    def penalise(self, l2: float) -> None:
        self.penalty[:-1] = l2

    def at(self, weights: Floats) -> tuple[float, Floats, Floats]:
        """Loss, gradient and class probabilities."""
        scores = self.rows @ weights.T
        scores -= scores.max(1, keepdims=True)
        chances = np.exp(scores)
        total = chances.sum(1, keepdims=True)
        chances /= total
        of_label = scores[np.arange(len(self.y)), self.y] - np.log(total[:, 0])
        loss = -self.share @ of_label + 0.5 * (self.penalty * weights**2).sum()
        residual = (chances - self.target) * self.share[:, None]
        return float(loss), residual.T @ self.rows + self.penalty * weights, chances

    def change(self, chances: NDArray[np.float32], moved: NDArray[np.float32]) -> Any:
        """How probabilities (n, K) change when the scores move."""
        change = chances * moved
        return change - chances * change.sum(1, keepdims=True)

    def answer(self, weights: Floats, norm: float, done: int, tolerance: float) -> Softmax:
        """The classifier in the features' own units."""
        wide = weights[:, :-1] if self.basis is None else weights[:, :-1] @ self.basis.T
        weight = wide / self.deviation
        return Softmax(weight, weights[:, -1] - weight @ self.mean, norm, done, norm < tolerance)


class _Labels(_Problem):
    """The same of K sigmoids: the loss is the sum of the labels', each with weights of its own."""

    def targets(self) -> Floats:
        return self.y.astype(np.float64)

    def at(self, weights: Floats) -> tuple[float, Floats, Floats]:
        """Loss, gradient and each label's probability of yes."""
        scores = self.rows @ weights.T
        loss = (self.share * (np.logaddexp(0, scores) - self.target * scores)).sum()
        loss += 0.5 * (self.penalty * weights**2).sum()
        chances = expit(scores)
        residual = (chances - self.target) * self.share
        return float(loss), residual.T @ self.rows + self.penalty * weights, chances

    def change(self, chances: NDArray[np.float32], moved: NDArray[np.float32]) -> Any:
        """How probabilities (n, K) change when the scores move."""
        return chances * (1 - chances) * moved


def _newton(
    problem: _Problem, weights: Floats, tolerance: float, most: int, check: Callable[[], None]
) -> tuple[Floats, float, int]:
    """Truncated Newton; the Newton system is solved in float32, the gradient is float64."""
    coarse = problem.rows.astype(np.float32)
    loss, gradient, chances = problem.at(weights)
    norm = float(np.linalg.norm(gradient))
    for done in range(most):
        if norm < tolerance:
            return weights, norm, done
        check()
        step = _direction(problem, coarse, gradient, chances, norm)
        slope, length = float((gradient * step).sum()), 1.0
        while True:
            new = problem.at(weights + length * step)
            new_norm = float(np.linalg.norm(new[1]))
            # Near the optimum the loss cannot tell better from worse any more; the gradient can.
            level = abs(new[0] - loss) < 1e-9 * max(1.0, abs(loss)) and new_norm < norm
            if new[0] <= loss + 1e-4 * length * slope or level:
                break
            length /= 2
            if length < 1e-8:  # no progress within the precision of numbers
                return weights, norm, done
        weights = weights + length * step
        (loss, gradient, chances), norm = new, new_norm
    return weights, norm, most


def _direction(
    problem: _Problem, coarse: NDArray[np.float32], gradient: Floats, chances: Floats, norm: float
) -> Floats:
    """Preconditioned conjugate gradients on the Newton system, the finer the smaller the norm."""
    share = problem.each
    bend = chances * (1 - chances) * share
    bent = float(bend.sum(0).mean())
    active = np.flatnonzero(bend.sum(1) > FLAT * bend.sum(1).mean())
    if len(active) < 0.9 * len(bend):
        coarse, chances, share = coarse[active], chances[active], share[active]
    chances, share = chances.astype(np.float32), share.astype(np.float32)

    def curvature(direction: Floats) -> Floats:
        change = problem.change(chances, coarse @ direction.T.astype(np.float32)) * share
        return (change.T @ coarse).astype(np.float64) + problem.penalty * direction

    precondition = _preconditioner(problem, bent)
    step, rest = np.zeros_like(gradient), -gradient
    towards = precondition(rest)
    search, size = towards, float((rest * towards).sum())
    enough = min(0.1, norm**0.5) ** 2 * size
    for _ in range(INNER):
        image = curvature(search)
        bent = float((search * image).sum())
        if bent <= 0:
            break
        step += size / bent * search
        rest = rest - size / bent * image
        towards = precondition(rest)
        before, size = size, float((rest * towards).sum())
        if size < enough:
            break
        search = towards + size / before * search
    return step if step.any() else precondition(-gradient)


def _preconditioner(problem: _Problem, bent: float) -> Callable[[Floats], Floats]:
    """Solves with the Hessian as it were if every image bent alike, one for all classes."""
    block = max(bent, 1e-9) * problem.gram
    ridge = problem.penalty + 1e-12 * np.trace(block) + 1e-15
    block[np.diag_indices_from(block)] += ridge
    factor = cho_factor(block, lower=True, overwrite_a=True, check_finite=False)
    return lambda rest: cho_solve(factor, rest.T, check_finite=False).T


def _descend(
    problem: _Problem, weights: Floats, tolerance: float, most: int, check: Callable[[], None]
) -> tuple[Floats, float, int]:
    """Gradient descent with the largest step that never raises the loss."""
    weighted = problem.rows * np.sqrt(problem.each.max(1, keepdims=True))
    # The Hessian is at most half of the second moment of the features, and the penalty.
    start = np.ones(min(weighted.shape))
    largest = np.asarray(svds(weighted, k=1, v0=start, return_singular_vectors=False))
    rate = 1 / (0.5 * float(largest.max()) ** 2 + problem.penalty.max())
    for done in range(most):
        _, gradient, _ = problem.at(weights)
        norm = float(np.linalg.norm(gradient))
        if norm < tolerance:
            return weights, norm, done
        check()
        weights = weights - rate * gradient
    return weights, float(np.linalg.norm(problem.at(weights)[1])), most
