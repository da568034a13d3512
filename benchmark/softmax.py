"""The softmax classifier on fixed features, solved to its optimum (Thomas 2021, Eq. 4)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import svds

Floats = NDArray[np.floating]

#: Conjugate-gradient steps spent on one Newton step at most.
INNER = 200

#: Rows whose curvature is below this share of the mean are left out of the Newton system: near
#: the optimum most images are classified with certainty and bend nothing.
FLAT = 1e-2

#: Below this width each class gets a preconditioner of its own: it is cheap there.
NARROW = 1024


class Softmax(NamedTuple):
    """A fitted classifier: scores are `features @ weight.T + bias`, in the features' own units."""

    weight: Floats  # (K, D)
    bias: Floats  # (K,)
    gradient_norm: float
    iterations: int


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
) -> Softmax:
    """Minimise mean cross-entropy + l2/2 · |W|², the bias free, until the gradient's norm is small.

    Features (N, D) are standardised first, and W and the norm refer to standardised features;
    what comes back is in raw units. Newton steps by preconditioned conjugate gradients.
    `faithful` does as the paper says instead: full-batch gradient descent on raw features from
    zero, its step 1 / Lipschitz constant, `max_iterations` epochs at most.
    """
    x = np.asarray(features)
    y = np.asarray(labels, np.int64)
    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    share = weights / weights.sum()
    mean, deviation = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if not faithful:
        mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
        deviation[deviation <= 1e-12 * np.maximum(1, np.abs(mean))] = np.inf  # constant: weight 0
    problem = _Problem(x, y, share, mean, deviation, classes, l2)
    solve = _descend if faithful else _newton
    found, norm, iterations = solve(problem, tolerance, max_iterations)
    weight = found[:, :-1] / deviation
    return Softmax(weight, found[:, -1] - weight @ mean, norm, iterations)


class _Problem:
    """Loss and gradient at weights (K, D + 1), the bias in the last column."""

    def __init__(
        self,
        x: Floats,
        y: NDArray[np.int64],
        share: Floats,
        mean: Floats,
        deviation: Floats,
        classes: int,
        l2: float,
    ) -> None:
        self.rows = np.ones((len(y), x.shape[1] + 1))
        self.rows[:, :-1] = (x - mean) / deviation
        self.y, self.share, self.classes = y, share, classes
        self.target = np.eye(classes)[y]
        self.penalty = np.full(x.shape[1] + 1, l2)
        self.penalty[-1] = 0.0

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


def _newton(problem: _Problem, tolerance: float, most: int) -> tuple[Floats, float, int]:
    """Truncated Newton; the Newton system is solved in float32, the gradient is float64."""
    coarse = problem.rows.astype(np.float32)
    weights = np.zeros((problem.classes, problem.rows.shape[1]))
    loss, gradient, chances = problem.at(weights)
    norm = float(np.linalg.norm(gradient))
    for done in range(most):
        if norm < tolerance:
            return weights, norm, done
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
    share = problem.share[:, None]
    bend = chances * (1 - chances) * share
    active = np.flatnonzero(bend.sum(1) > FLAT * bend.sum(1).mean())
    if len(active) < 0.9 * len(bend):
        coarse, chances, bend, share = coarse[active], chances[active], bend[active], share[active]
    chances, share = chances.astype(np.float32), share.astype(np.float32)

    def curvature(direction: Floats) -> Floats:
        change = chances * (coarse @ direction.T.astype(np.float32))
        change = (change - chances * change.sum(1, keepdims=True)) * share
        return (change.T @ coarse).astype(np.float64) + problem.penalty * direction

    precondition = _preconditioner(coarse, bend, problem.penalty)
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


def _preconditioner(coarse: NDArray[np.float32], bend: Floats, penalty: Floats):
    """Solves with the diagonal blocks of the Hessian, or with their mean where they are large."""
    columns = bend.T if len(penalty) <= NARROW else bend.mean(1)[None]
    factors = []
    for column in columns:
        scaled = coarse * np.sqrt(column).astype(np.float32)[:, None]
        block = scaled.T @ scaled
        ridge = penalty + 1e-6 * np.trace(block) / len(penalty) + 1e-12
        block[np.diag_indices_from(block)] += ridge.astype(np.float32)
        factors.append(cho_factor(block, lower=True, overwrite_a=True, check_finite=False))

    def solve(rest: Floats) -> Floats:
        rest32 = rest.astype(np.float32)
        if len(factors) == 1:
            return cho_solve(factors[0], rest32.T, check_finite=False).T.astype(np.float64)
        pairs = zip(factors, rest32, strict=True)
        found = [cho_solve(factor, row, check_finite=False) for factor, row in pairs]
        return np.stack(found).astype(np.float64)

    return solve


def _descend(problem: _Problem, tolerance: float, most: int) -> tuple[Floats, float, int]:
    """Gradient descent with the largest step that never raises the loss."""
    weighted = problem.rows * np.sqrt(problem.share)[:, None]
    # The Hessian is at most half of the second moment of the features, and the penalty.
    start = np.ones(min(weighted.shape))
    largest = np.asarray(svds(weighted, k=1, v0=start, return_singular_vectors=False))
    rate = 1 / (0.5 * float(largest.max()) ** 2 + problem.penalty.max())
    weights = np.zeros((problem.classes, problem.rows.shape[1]))
    for done in range(most):
        _, gradient, _ = problem.at(weights)
        norm = float(np.linalg.norm(gradient))
        if norm < tolerance:
            return weights, norm, done
        weights = weights - rate * gradient
    return weights, float(np.linalg.norm(problem.at(weights)[1])), most
