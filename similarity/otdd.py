"""Optimal-transport dataset distance between two labelled sets of features.

Ground cost between labelled points: d² = ‖x − x'‖² + W₂²(α_y, α_y'), α_y the features of class y.
All arithmetic is torch in float64, on the device of the first set: give CUDA tensors to run there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from benchmark.api import BenchError, Distance, DistanceCard, Measured, Side
from similarity._floor import against_halves, labelled

if TYPE_CHECKING:
    import torch

    from benchmark.spec import Scalar

Inner = Literal["gaussian", "exact"]

EXACT_LIMIT = 5_000  # samples a side; the network simplex takes minutes beyond
GAP_LIMIT = 1e-6  # relative duality gap at which the entropic solver stops
ROUNDING = 1e-12  # squared distances below this share of their terms are cancellation noise


class OTDD(NamedTuple):
    """The distance in its three conventions, and how far the solver was from its optimum.

    `half_cost` is the transport value with cost d²/2 (what the public code returns; with epsilon,
    the entropy is counted), `squared` twice that, `distance` the root of `squared` (0 where the
    debiased value is negative). `gap` is the largest relative duality gap and `marginal_error` the
    largest L1 error of a marginal among the transports that were solved.
    """

    half_cost: float
    squared: float
    distance: float
    gap: float
    marginal_error: float


class _Labelled(NamedTuple):
    features: torch.Tensor  # (n, d)
    codes: torch.Tensor  # (n,) index of the class, classes sorted
    classes: int


class _Solution(NamedTuple):
    value: float
    gap: float
    marginal_error: float


def label_distances(x1: Any, y1: Any, x2: Any, y2: Any, inner: Inner = "gaussian") -> np.ndarray:
    """W₂² between every class of one set and every class of the other, (C1, C2).

    x: (n, d) features, y: (n,) labels of any kind; classes are in sorted order. `gaussian` compares
    means and covariances (ddof 1; a class of one sample is a point), `exact` the samples.
    """
    first = _labelled(x1, y1)
    second = first if x2 is x1 and y2 is y1 else _labelled(x2, y2, like=first)
    return _table(first, second, inner).cpu().numpy()


def otdd(
    x1: Any,
    y1: Any,
    x2: Any,
    y2: Any,
    inner: Inner = "gaussian",
    epsilon: float = 0.0,
    debiased: bool = True,
) -> OTDD:
    """Distance between two labelled sets of features, every sample weighing the same.

    epsilon = 0 solves the transport exactly (up to 5,000 samples a side). epsilon > 0 gives
    min ⟨π, d²/2⟩ + ε KL(π‖a⊗b), `debiased` less half of each set's value with itself.
    """
    if epsilon < 0:
        raise BenchError(f"epsilon is {epsilon}.", "Give 0 for exact transport or a positive one.")
    first = _labelled(x1, y1)
    second = first if x2 is x1 and y2 is y1 else _labelled(x2, y2, like=first)
    if epsilon == 0:
        return _report([(1.0, _exact(_half_cost(first, second, inner)))])
    terms = [(1.0, first, second)]
    if debiased:
        terms += [(-0.5, first, first), (-0.5, second, second)]
    return _report([(w, _entropic(_half_cost(a, b, inner), epsilon)) for w, a, b in terms])


def _labelled(x: Any, y: Any, *, like: _Labelled | None = None) -> _Labelled:
    import torch

    tensor = x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, float))
    features = tensor.to(torch.float64)
    labels = np.asarray(y.cpu() if isinstance(y, torch.Tensor) else y)
    if like is not None:
        features = features.to(like.features.device)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        what = f"Features {tuple(features.shape)} and labels {labels.shape} do not go together."
        raise BenchError(what, "Give features (n, d) and labels (n,), n at least 1.")
    if like is not None and features.shape[1] != like.features.shape[1]:
        what = f"One set has {like.features.shape[1]} features, the other {features.shape[1]}."
        raise BenchError(what, "Take the features of both sets from the same network.")
    if not bool(torch.isfinite(features).all()):
        raise BenchError("The features are not all finite.", "Leave out NaN and infinite rows.")
    classes, codes = np.unique(labels, return_inverse=True)
    return _Labelled(features, torch.from_numpy(codes).to(features.device), len(classes))


def _half_cost(first: _Labelled, second: _Labelled, inner: Inner) -> torch.Tensor:
    table = _table(first, second, inner)[first.codes][:, second.codes]
    return (_squared_distances(first.features, second.features) + table) / 2


def _squared_distances(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    middle = a.mean(0)  # near the data the expansion cancels least
    a, b = a - middle, b - middle
    scale = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return _clean(scale - 2 * a @ b.T, scale)


def _clean(squared: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Set to zero what is only the rounding of a difference of terms as large as `scale`."""
    import torch

    return torch.where(squared > ROUNDING * scale, squared, 0.0)


def _table(first: _Labelled, second: _Labelled, inner: Inner) -> torch.Tensor:
    import torch

    if inner not in ("gaussian", "exact"):
        raise BenchError(f"No inner distance named '{inner}'.", "Use gaussian or exact.")
    prepare: Callable[[torch.Tensor], Any] = moments if inner == "gaussian" else torch.clone
    between: Callable[..., Any] = between_gaussians if inner == "gaussian" else _emd
    same = first is second
    a = [prepare(first.features[first.codes == c]) for c in range(first.classes)]
    b = a if same else [prepare(second.features[second.codes == c]) for c in range(second.classes)]
    table = torch.zeros(len(a), len(b), dtype=torch.float64, device=first.features.device)
    for i, one in enumerate(a):
        for j in range(i + 1 if same else 0, len(b)):
            table[i, j] = between(one, b[j])
    return table + table.T if same else table


class Moments(NamedTuple):
    """Mean and covariance of some samples."""

    mean: torch.Tensor
    factor: torch.Tensor  # (≤ min(n, d), d), factorᵀ factor is the covariance
    trace: torch.Tensor


def moments(samples: torch.Tensor) -> Moments:
    """Of samples (n, d) float64, ddof 1; one sample has no spread."""
    import torch

    n, d = samples.shape
    mean = samples.mean(0)
    factor = (samples - mean) / max(n - 1, 1) ** 0.5
    if n > d:
        factor = torch.linalg.qr(factor, mode="r").R
    return Moments(mean, factor, (factor * factor).sum())


def between_gaussians(a: Moments, b: Moments) -> torch.Tensor:
    """W₂² of two Gaussians from factors of their covariances; no d × d matrix where n < d."""
    import torch

    spread = a.trace + b.trace
    fidelity = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    return ((a.mean - b.mean) ** 2).sum() + _clean(spread - 2 * fidelity, spread)


def _emd(a: torch.Tensor, b: torch.Tensor) -> float:
    return _exact(_squared_distances(a, b)).value


def _exact(cost: torch.Tensor) -> _Solution:
    if max(cost.shape) > EXACT_LIMIT:
        what = f"{max(cost.shape):,} samples are too many for exact transport."
        raise BenchError(what, f"Use epsilon > 0, or {EXACT_LIMIT:,} a side at most.")
    import ot
    import torch

    a, b = (torch.full((n,), 1 / n, dtype=cost.dtype, device=cost.device) for n in cost.shape)
    plan, log = ot.emd(a, b, cost, numItermax=100_000_000, log=True)
    value = float((plan * cost).sum())
    dual = float(a @ log["u"] + b @ log["v"])
    gap = abs(value - dual) / value if value else 0.0
    error = max(float((plan.sum(1) - a).abs().sum()), float((plan.sum(0) - b).abs().sum()))
    return _Solution(value, gap, error)


def _entropic(cost: torch.Tensor, epsilon: float) -> _Solution:
    """Minimum of ⟨π, cost⟩ + ε KL(π‖a⊗b) over couplings of uniform marginals.

    A Sinkhorn round, then a Newton step on the semi-dual in g, while epsilon goes down to its end.
    The damping follows the line search: for small epsilon the dual is flat along many directions.
    """
    import torch

    cost = cost if cost.shape[0] >= cost.shape[1] else cost.T  # Newton's matrix is (m, m)
    level = max(float(cost.max() - cost.min()) / 4, epsilon)
    g = torch.zeros(cost.shape[1], dtype=cost.dtype, device=cost.device)
    damping = 1e-10
    for _ in range(1_000):
        g = _soft_minimum(cost.T, _soft_minimum(cost, g, level), level)
        f = _soft_minimum(cost, g, level)
        plan = torch.exp((f[:, None] + g - cost) / level) / cost.numel()
        error = float((plan.sum(0) - 1 / len(g)).abs().sum())
        if level > epsilon and error < 0.01:
            level = max(level / 4, epsilon)
            continue
        if level == epsilon:
            dual = float(f.mean() + g.mean())
            gap = _primal(plan, cost, epsilon) - dual
            gap = max(gap, 0.0) / max(abs(dual), 1e-9 * epsilon)
            if gap <= GAP_LIMIT:
                return _Solution(dual, gap, error)
        g, damping = _newton_step(cost, g, plan, level, damping)
    raise BenchError(f"The transport did not converge at epsilon {epsilon}.", "Use a larger one.")


def _soft_minimum(cost: torch.Tensor, potential: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The potential of the rows that is best for a given one of the columns."""
    import torch

    mean = torch.logsumexp((potential - cost) / epsilon, dim=1) - np.log(len(potential))
    return -epsilon * mean


def _semi_dual(cost: torch.Tensor, g: torch.Tensor, epsilon: float) -> float:
    return float(_soft_minimum(cost, g, epsilon).mean() + g.mean())


def _newton_step(
    cost: torch.Tensor, g: torch.Tensor, plan: torch.Tensor, epsilon: float, damping: float
) -> tuple[torch.Tensor, float]:
    """A damped Newton step with backtracking; returns the new potential and damping."""
    import torch

    columns, weight = plan.sum(0), 1 / len(g)
    residual = weight - columns
    curvature = weight - plan.T @ plan * len(plan)  # + weight lifts the constant null vector
    curvature.diagonal().add_(columns + damping * weight)
    step = epsilon * torch.linalg.solve(curvature, residual)
    start, slope = _semi_dual(cost, g, epsilon), float(residual @ step)
    for cuts in range(30):
        trial = g + step / 4**cuts
        if _semi_dual(cost, trial, epsilon) >= start + 1e-4 * slope / 4**cuts:
            calmer = damping / 10 if cuts == 0 else damping * 10 ** min(cuts, 3)
            return trial, min(max(calmer, 1e-12), 1.0)
    return g, 1.0  # no ascent beyond rounding: leave it to Sinkhorn


def _primal(plan: torch.Tensor, cost: torch.Tensor, epsilon: float) -> float:
    """Value of the feasible coupling nearest to a plan whose rows already sum to 1/n."""
    import torch

    n, m = plan.shape
    plan = plan * (1 / (m * plan.sum(0))).clamp(max=1.0)
    rows, columns = (1 / n - plan.sum(1)).clamp(min=0), (1 / m - plan.sum(0)).clamp(min=0)
    plan = plan + rows[:, None] * columns / rows.sum().clamp(min=1e-300)
    return float((plan * cost).sum() + epsilon * torch.xlogy(plan, plan * (n * m)).sum())


def _report(terms: list[tuple[float, _Solution]]) -> OTDD:
    half = sum(weight * solution.value for weight, solution in terms)
    gap = max(solution.gap for _, solution in terms)
    error = max(solution.marginal_error for _, solution in terms)
    return OTDD(half, 2 * half, max(2 * half, 0.0) ** 0.5, gap, error)


class TransportDistance(Distance):
    """The transport cost between pooled features of halves, as its excess over the floor.

    It is `squared` that counts: to a squared distance sampling adds, to its root it does not.
    """

    card = DistanceCard(
        title="Optimal-transport dataset distance",
        version=3,
        reference="https://arxiv.org/abs/2002.02923",
        by_excess=True,
        one_class=("source", "target"),
        options={"inner": "gaussian", "epsilon": 0.0, "size": 500, "draws": 5},
    )

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        inner: Inner = "exact" if options["inner"] == "exact" else "gaussian"
        epsilon, solved = float(options["epsilon"]), list[OTDD]()

        def between(a: tuple[Any, Any], b: tuple[Any, Any]) -> float:
            solved.append(otdd(*a, *b, inner=inner, epsilon=epsilon))
            return solved[-1].squared

        raw, facts = against_halves(
            source, target, labelled, between, name=f"otdd {inner} {epsilon}",
            size=int(options["size"]), draws=int(options["draws"]), seed=seed,
        )  # fmt: skip
        facts |= {
            "half_cost": raw.value / 2,
            "root": max(raw.value, 0.0) ** 0.5,
            "gap": max(one.gap for one in solved),
            "marginal_error": max(one.marginal_error for one in solved),
        }
        return Measured(*raw[:3], facts)
