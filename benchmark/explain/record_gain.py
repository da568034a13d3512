"""What the record adds to the image, by class and by metric, from stored predictions."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmark import metrics, stats
from benchmark.explain import pictures
from benchmark.metrics.rates import telling, truth_of
from benchmark.spec import Outcome, RunSpec
from benchmark.stats import Estimate
from benchmark.stats.delong import clustered, normal_p
from benchmark.store import Store
from benchmark.train.context import bootstrap_seed

DRAWS = 400  # of the bootstrap behind an interval
MOST = 12  # classes that a picture has room for
#: What the papers tell gains of.
GAINS = (
    "auroc", "accuracy_ovr", "sensitivity", "specificity", "precision", "f1", "informedness",
    "markedness", "mcc",
)  # fmt: skip


def arms_of(store: Store, outcome: Outcome) -> tuple[list[Outcome], list[Outcome]]:
    """The image-only runs and the runs of this arm on the folds that the store has of both."""
    spec = outcome.spec
    assert isinstance(spec, RunSpec)

    def like(other: Outcome, fusion: str) -> bool:
        if not isinstance(other.spec, RunSpec) or other.status != "ok":
            return False
        if other.spec.fusion != fusion or _versions(other) != _versions(outcome):
            return False
        own = fusion == spec.fusion
        return _bare(other.spec, own) == _bare(spec, own) and digest_of(other) == digest_of(outcome)

    found = store.outcomes("run")
    plain = {fold_of(o): o for o in found if like(o, "none")}
    if spec.fusion == "none":
        return [plain[number] for number in sorted(plain)], []
    fused = {fold_of(o): o for o in found if like(o, spec.fusion)}
    both = sorted(plain.keys() & fused.keys())
    if not both:
        return [], [fused[number] for number in sorted(fused)]
    return [plain[number] for number in both], [fused[number] for number in both]


class Shown(NamedTuple):
    """The classes that pictures show, and what a caption says of the others."""

    classes: Any  # an index of arrays by class
    note: str


ALL = Shown(slice(None), "")


def shown_of(store: Store, outcome: Outcome) -> Shown:
    """All classes, or of many those that matter most to the test images and to the run."""
    many = len(outcome.classes)
    if many <= MOST:
        return ALL
    found = store.predictions(outcome.key)
    note = (
        f"{MOST} of {many} classes: those that the run gives most probability\n"
        "and those that most of its test images have."
    )
    return Shown(foremost(found["labels"], found["scores"], MOST), note)


def foremost(labels: np.ndarray, scores: np.ndarray, most: int) -> list[int]:
    """The classes of most probability and the most frequent, turn by turn, in their own order.

    One that all images have, or none, has no AUROC and comes last.
    """
    truth = truth_of(labels, scores.shape[1])
    known = truth.any(0) & ~truth.all(0)
    worth = (np.where(known, table.mean(0), -1) for table in (scores, truth))
    ranked = [np.argsort(-one, kind="stable") for one in worth]
    return sorted(list(dict.fromkeys(np.column_stack(ranked).ravel().tolist()))[:most])


def by_class(
    store: Store, plain: Sequence[Outcome], fused: Sequence[Outcome], some: Shown
) -> tuple[Any, dict[str, Any]]:
    """Box plots of each class's AUROC over folds, and tests of the two arms where there are two."""
    arms = [arm for arm in (plain, fused) if arm]
    tested = [[store.predictions(o.key) for o in arm] for arm in arms]
    names = arms[0][0].classes
    first = telling(len(names), multilabel=arms[0][0].multilabel).start
    shown = [np.array([_aurocs(p)[first:] for p in folds]) for folds in tested]
    many = len(arms[0])
    note = f"Boxes: quartiles over {many} folds (circles)." if many > 1 else "One fold (circles)."
    title, stars = "AUROC by class", [""] * len(names[first:])
    numbers: dict[str, Any] = {}
    if len(arms) == 2:
        p = [_delong(tested[0], tested[1], k) for k in range(first, len(names))]
        stars = [_star(value) for value in p]
        apart = shown[1] - shown[0]
        units = "classes" if apart.shape[1] > 1 else "folds"
        pairs = apart.mean(0) if apart.shape[1] > 1 else apart[:, 0]
        whole = stats.wilcoxon(pairs)
        title = (
            f"AUROC by class: {100 * np.nanmean(apart):+.1f} points with the record\n"
            f"(paired Wilcoxon over {len(pairs)} {units}: p = {whole:.3g}{' ' * bool(_star(whole))}"
            f"{_star(whole)})"
        )
        note += " Stars: DeLong's test over groups,\n* p ≤ 0.10, ** p ≤ 0.05, n. s.: not."
        numbers = {"wilcoxon": whole, "delong": dict(zip(names[first:], p, strict=True))}
        stars = [star or "n. s." for star in stars]
    labels = [arm_title(o.spec) for o in (arm[0] for arm in arms) if isinstance(o.spec, RunSpec)]
    drawn = [values[:, some.classes] for values in shown]
    return pictures.classes(
        np.array(names[first:])[some.classes].tolist(),
        list(zip(labels, drawn, strict=True)),
        np.array(stars)[some.classes].tolist(),
        title=title,
        note="\n".join(filter(None, [note, some.note])),
    ), numbers


def by_metric(
    store: Store, plain: Sequence[Outcome], fused: Sequence[Outcome]
) -> tuple[Any, dict[str, Any]]:
    """Metric by metric what the record adds, the mean over folds, paired by patient."""
    values: dict[str, list[float]] = {name: [] for name in GAINS}
    draws: dict[str, list[np.ndarray]] = {name: [] for name in GAINS}
    for one, other in zip(plain, fused, strict=True):
        spec = one.spec
        assert isinstance(spec, RunSpec)
        seed = bootstrap_seed(spec.target, spec.split, spec.partition, spec.fold)
        a, b = (_evaluated(store.predictions(o.key), seed) for o in (one, other))
        for name in GAINS:
            values[name].append(b.overall[name].value - a.overall[name].value)
            draws[name].append(b.draws[name] - a.draws[name])
    n = sum(len(store.predictions(o.key)["labels"]) for o in plain)
    found = [
        (
            metrics.NAMES[name].title.partition(" (")[0]
            + " (one-vs-rest)" * (name == "accuracy_ovr"),
            Estimate(float(np.mean(values[name])), *stats.interval(np.mean(draws[name], 0)), n),
        )
        for name in GAINS
    ]
    arm = fused[0].spec
    assert isinstance(arm, RunSpec)
    title = f"Gain from the patient's record: {arm_title(arm)} minus image alone"
    note = (
        f"Mean over {len(plain)} folds, {n} test images, means over classes. Lines: 95 % interval "
        "over\nresampled groups, the same for both arms. Grey: it holds zero."
    )
    x_title = "gain in percentage points; to the right of 0: the record helps"
    return pictures.bars(found, title=title, x_title=x_title, note=note), dict(found)


def _evaluated(found: dict[str, np.ndarray], seed: int) -> metrics.Evaluation:
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return metrics.evaluate(
            found["labels"], found["scores"], found["groups"], draws=DRAWS, seed=seed
        )


def _aurocs(found: dict[str, np.ndarray]) -> list[float]:
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        table = metrics.one_vs_rest(found["labels"], found["scores"])
    return [row["auroc"] for row in table["per_class"]]


def _delong(
    plain: Sequence[dict[str, np.ndarray]], fused: Sequence[dict[str, np.ndarray]], k: int
) -> float:
    """The p of one class's AUROC being the same: the folds' patients differ, so variances add."""
    both = zip(plain, fused, strict=True)
    found = np.array(
        [
            clustered(
                truth_of(a["labels"], a["scores"].shape[1])[:, k],
                b["scores"][:, k],
                a["scores"][:, k],
                a["groups"],
            )
            for a, b in both
        ]
    )
    return normal_p(float(found[:, 0].mean()), math.sqrt(found[:, 1].sum()) / len(found))


def _star(p: float) -> str:
    return "**" if p <= 0.05 else "*" if p <= 0.10 else ""


def _bare(spec: RunSpec, own: bool) -> RunSpec:
    """What two cells must share: all but the fold, and, of two arms, all that makes the arm."""
    none = {"fusion": "", "options": {}, "columns": (), "types": {}, "allowed": (), "record": None}
    arm = {} if own else none
    return spec.model_copy(update={"fold": 0, "base": None, **arm})


def _versions(outcome: Outcome) -> dict[str, str]:
    return {name: value for name, value in outcome.versions.items() if name != "fusion"}


def digest_of(outcome: Outcome) -> str:
    return str(outcome.data.get("digest", ""))


def fold_of(outcome: Outcome) -> int:
    assert isinstance(outcome.spec, RunSpec)
    return outcome.spec.fold


def arm_title(spec: RunSpec) -> str:
    """An arm in a reader's words."""
    if spec.fusion == "none":
        return "image alone"
    what = "record alone" if spec.fusion.startswith("metadata") else "image and record"
    return f"{what} ({spec.fusion})"
