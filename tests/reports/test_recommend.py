"""The recommendation: what it learns, what it says of itself, and the published study."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards import pretrain, run, shared_draws

from benchmark.errors import BenchError, DataMissing
from benchmark.stats import Z
from benchmark.store import Store
from reports.recommend import advice, evaluate, matrix, prior
from reports.recommend.belief import Belief
from reports.recommend.matrix import Matrix

SOURCES = ("imagenet", "dtd", "stl10", "kimia", "pcam", "cifar10")
#: Six numbers on each target: AUC of the source = level + scale * quality + noise.
QUALITY = np.array([1.0, 0.6, 0.3, 0.0, -0.4, -1.0])


def invented(*, targets: int = 8, noise: float = 0.0, seed: int = 0, near: bool = False) -> Matrix:
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(len(SOURCES), targets))
    levels, scales = rng.uniform(0.6, 0.9, targets), rng.uniform(0.005, 0.08, targets)
    values = levels + scales * (QUALITY[:, None] + noise * own)
    names = [f"target{t}" for t in range(targets)]
    pairs = [(s, t) for s in SOURCES for t in names]
    scores = dict(zip(pairs, values.ravel().tolist(), strict=True))
    told = {"told": dict(zip(pairs, own.ravel().tolist(), strict=True))} if near else {}
    return matrix.build(scores, near=told, images=dict.fromkeys(SOURCES, math.nan))


def means_of(found: evaluate.Trials, metric: str) -> dict[str, float]:
    return {rule: evaluate.summary(numbers)[metric].value for rule, numbers in found.items()}


# --- learning -----------------------------------------------------------------------------------


def learnt(known: Matrix, target: int = 0) -> Belief:
    return prior.learn(known, [target])[0]


def test_sources_that_do_well_elsewhere_come_first():
    known = invented(noise=0.2)
    order = [known.sources[s] for s in np.argsort(-learnt(known).mean)]
    assert order[0] == "imagenet"
    assert order[-1] == "cifar10"


@pytest.mark.parametrize("near", [False, True])
def test_the_targets_own_scores_are_not_used(near: bool):
    known = invented(noise=0.4, near=near, targets=9)
    scores = known.scores.copy()
    scores[:, 0] = np.random.default_rng(1).normal(size=len(SOURCES))
    one, other = learnt(known), learnt(replace(known, scores=scores))
    for name in ("mean", "covariance", "least"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    together = (
        prior.learn(known, [0, 5])[0],
        prior.learn(replace(known, scores=scores), [0, 5])[0],
    )
    np.testing.assert_array_equal(together[0].mean, together[1].mean)


def test_how_high_and_how_far_apart_other_targets_are_does_not_change_the_order():
    known = invented(noise=0.2)
    other = replace(known, scores=known.scores * np.linspace(1, 9, 8) + np.arange(8))
    one, two = (prior.unit(learnt(held).mean) for held in (known, other))
    np.testing.assert_allclose(one, two, atol=1e-9)


def test_a_distance_that_foretells_is_heeded_and_noise_is_not():
    known = invented(noise=1.0, near=True, targets=12)
    assert learnt(known).weights["told"] > 0.3
    taus = means_of(evaluate.trials(known), "tau")
    assert taus["recommend"] > taus["static"] + 0.1
    noise = np.random.default_rng(2).normal(size=known.near.shape)
    assert abs(learnt(replace(known, near=noise)).weights["told"]) < 0.1


def test_short_lists_do_not_turn_the_order_round():
    """Whoever is in a list of the best is good, the last of them too."""
    scores = np.tile(np.linspace(1, 0, 12)[:, None], 8) + 0.02 * np.arange(8)
    scores += 0.05 * np.random.default_rng(0).normal(size=scores.shape)
    short = scores.copy()
    short[4:, 1:6] = np.nan  # five targets know their best four alone
    mean = learnt(of(short)).mean
    assert np.corrcoef(mean, scores[:, 0])[0, 1] > 0.95
    assert mean[:3].min() > mean[3:].max()


def test_a_source_run_once_is_trusted_less_than_one_run_everywhere():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(10, 1)) + 0.7 * rng.normal(size=(10, 12))
    scores[0], scores[1] = scores.max(axis=0) + 0.1, scores.max(axis=0) + 0.2
    scores[1, 2:] = np.nan  # the best of all, on the one other target that has it
    found = learnt(of(scores))
    assert found.mean[0] > found.mean[1] > 0
    assert found.covariance[1, 1] > found.covariance[0, 0]


def test_near_targets_count_more():
    """Nearness has no sign that foretells a score, but shows which targets are of one kind."""
    rng = np.random.default_rng(3)
    kind = np.arange(16) % 2
    scores = rng.normal(size=(12, 2))[:, kind] + 0.3 * rng.normal(size=(12, 16))
    near = rng.normal(size=(12, 2))[:, kind] + 0.3 * rng.normal(size=(12, 16))
    taus = means_of(evaluate.trials(of(scores, near)), "tau")
    assert taus["recommend"] > taus["static"] + 0.3
    voices = prior._voices(near[None])[1:, 0]
    assert voices[1::2].min() > 3 * voices[::2].max()  # of its kind, and of the other


def test_how_near_a_source_is_to_itself_says_nothing():
    """It was not run on itself, and is no measure of how near the others are."""
    rng = np.random.default_rng(0)
    pairs = [(s, t) for s in SOURCES for t in ("one", "two", "three", "dtd")]
    near = {pair: float(rng.normal()) for pair in pairs}
    scores = {pair: near[pair] + 0.1 * float(rng.normal()) for pair in pairs}
    one, other = (
        matrix.build(scores, near={"told": near | {("dtd", "dtd"): value}, "self": itself})
        for value, itself in ((10.0, {("dtd", "dtd"): 1.0}), (-3.0, {}))
    )
    assert one.methods == other.methods == ("told",)
    at = one.targets.index("dtd")
    np.testing.assert_array_equal(learnt(one, at).mean, learnt(other, at).mean)


def test_a_source_that_is_not_known_here_ends_no_recommendation(tmp_path: Path):
    """As of an imported bundle, whose plugin is elsewhere."""
    store = Store(tmp_path)
    store.prepare()
    for source in ("colleagues", "dtd"):
        run(store, source=source, target="isic", folds=1, value=0.8)
    _, known, *_ = matrix.of_store(store, "isic")
    assert known.sources == ("colleagues", "dtd")


def test_too_few_targets_to_learn_from():
    with pytest.raises(BenchError, match="at least two other targets"):
        learnt(invented(targets=2))


# --- belief -------------------------------------------------------------------------------------


def gaussian(mean: Sequence[float], covariance: np.ndarray, **more: Any) -> Belief:
    return Belief(np.array(mean), covariance, more.pop("noise", np.zeros(len(mean))), **more)


def test_a_run_gives_the_textbook_posterior():
    # Worked by hand: unit variances and one correlation r.
    r, level = 0.5, 4.0
    covariance = np.array([[1, r, 0], [r, 1, 0], [0, 0, 1.0]])
    found = gaussian([level + 0.4, level - 0.2, level], covariance).after(0, 5.0)
    np.testing.assert_allclose(found.mean, [5.0, level - 0.2 + r * 0.6, level])
    np.testing.assert_allclose(found.spread**2, [0, 1 - r**2, 1], atol=1e-12)
    # Nothing known of the level beforehand: a run speaks of the target, not of its source.
    vague = gaussian([0.4, -0.2, 0.0], covariance + 1e8).after(0, 5.0)
    np.testing.assert_allclose(vague.mean, [5.0, 4.4, 4.6], atol=1e-5)
    np.testing.assert_allclose(vague.spread**2, [0, 2 - 2 * r, 2], atol=1e-5)


def test_a_noisy_run_is_believed_as_far_as_it_goes():
    # Worked by hand: a variance of 1 beforehand and a noise as large halve the way to the run.
    exact = gaussian([0, 0], np.eye(2))
    found = replace(exact, noise=np.array([1.0, 0.0])).after(0, 2.0)
    np.testing.assert_allclose(found.mean, [1.0, 0.0])
    np.testing.assert_allclose(found.spread**2, [0.5, 1.0])
    drawn = found.samples
    np.testing.assert_allclose(drawn.mean(axis=0), [1, 0], atol=0.05)
    np.testing.assert_allclose(drawn.var(axis=0), [0.5, 1], atol=0.05)
    # The other has to exceed what is believed of the best, not what it happened to score.
    assert found.improvement()[1] > exact.after(0, 2.0).improvement()[1]


def test_expected_improvement_is_that_of_the_samples():
    found = gaussian([0.3, 0.1, 0.0], np.diag([0.2, 1.0, 0.5])).after(0, 0.4)
    gain = np.maximum(found.samples - 0.4, 0).mean(axis=0)
    np.testing.assert_allclose(found.improvement(), gain, rtol=0.1, atol=1e-8)


def test_intervals_are_as_wide_as_other_targets_asked_for():
    calm = gaussian([0, 0, 0, 0], np.eye(4))
    assert calm.reach() == (Z, Z)
    # On a peer the three that were not run are up to four deviations below what was expected.
    peer = (calm, np.array([0.0, -4.0, -4.0, 1.0]))
    low, high = replace(calm, peers=[peer]).after(0, 0.0).reach()
    assert low == pytest.approx(4.0, abs=0.1)
    assert high == Z
    drawn = replace(calm, peers=[peer]).after(0, 0.0).samples
    assert np.percentile(drawn[:, 1], 2.5) == pytest.approx(-4, abs=0.25)
    assert np.ptp(drawn[:, 0]) < 1e-6, "what was run is off by its noise alone"


def test_few_runs_to_learn_from_make_intervals_wide():
    many, few = (learnt(invented(noise=0.3, targets=count)).least for count in (30, 3))
    assert few > 4 > 2.1 > many > Z


@pytest.mark.parametrize("short", [False, True])
def test_intervals_hold_what_they_promise(short: bool):
    """Scores with one tail, as near a ceiling, of which a Gaussian's intervals miss a sixth."""
    rng = np.random.default_rng(0)
    scores = -np.exp(rng.normal(size=(16, 1)) + 0.7 * rng.normal(size=(16, 20)))
    if short:
        scores[:, 6:] = np.nan
    inside = evaluate.trials(of(scores))["recommend"][:, -1]
    assert 0.9 < inside.mean() <= 1


def test_a_scale_learnt_from_the_best_alone_is_that_of_all():
    rng, known = np.random.default_rng(0), np.ones((40, 2), bool)
    known[10:, 1] = False
    scores = np.where(
        known, np.linspace(1, 0, 40)[:, None] + 0.01 * rng.normal(size=(40, 1)), np.nan
    )
    fitted = np.linspace([1.7, 1.7], [-1.7, -1.7], 40)
    whole, short = prior._scales(scores, fitted, np.stack([1e-4 * np.eye(40)] * 2), known)
    assert short == pytest.approx(whole, rel=0.1)
    # By hand: squares sum to 0.5, and 2 - 3 / 2 is expected of two that share a half.
    together = np.array([[[1.0, 0.5], [0.5, 1.0]]])
    pair = np.array([[1.0], [0.0]])
    found = prior._scales(pair, np.zeros((2, 1)), together, np.ones((2, 1), bool))
    assert found == pytest.approx([1.0])


# --- evaluation ---------------------------------------------------------------------------------


def of(scores: np.ndarray, near: np.ndarray | None = None) -> Matrix:
    sources, targets = scores.shape
    return Matrix(
        tuple(f"s{i:03}" for i in range(sources)),
        tuple(f"t{i:03}" for i in range(targets)),
        scores,
        np.full(sources, np.nan),
        np.empty((0, sources, targets)) if near is None else near[None],
        () if near is None else ("told",),
        np.full(scores.shape, np.nan),
        np.full(sources, np.nan),
    )


def low_rank(rng: np.random.Generator, sources: int, targets: int) -> np.ndarray:
    main = rng.normal(size=(sources, 1))
    shared = rng.normal(size=(sources, 3)) @ rng.normal(size=(3, targets)) / math.sqrt(3)
    return main + shared + 0.5 * rng.normal(size=(sources, targets))


def clustered(rng: np.random.Generator, sources: int, targets: int) -> np.ndarray:
    quality, kind = rng.normal(size=(sources, 3)), rng.integers(3, size=targets)
    main = 0.5 * rng.normal(size=(sources, 1))
    return quality[:, kind] + main + 0.4 * rng.normal(size=(sources, targets))


def dominated(rng: np.random.Generator, sources: int, targets: int) -> np.ndarray:
    scores = 0.5 * rng.normal(size=(sources, targets))
    scores[0] += 2
    return scores


def exchangeable(rng: np.random.Generator, sources: int, targets: int) -> np.ndarray:
    return rng.normal(size=(sources, 1)) + rng.normal(size=(sources, targets))


def scattered(scores: np.ndarray, *, share: float, seed: int = 0) -> Matrix:
    """Each target at a level and a scale of its own, a share of the pairs not run."""
    rng = np.random.default_rng(seed)
    targets = scores.shape[1]
    values = rng.uniform(0.5, 0.9, targets) + 0.03 * np.exp(rng.normal(size=targets)) * scores
    return of(np.where(rng.random(scores.shape) < share, np.nan, values))


@pytest.mark.parametrize(
    ("family", "share", "better"),
    [
        (low_rank, 0.3, True), (clustered, 0.0, True), (clustered, 0.3, True),
        (dominated, 0.0, False), (exchangeable, 0.2, False),
    ],
)  # fmt: skip
def test_it_is_no_worse_than_static_and_better_where_targets_are_of_kinds(
    family, share: float, better: bool
):
    gaps = []
    for seed in range(2):
        scores = family(np.random.default_rng(seed), 20, 20)
        trials = evaluate.trials(scattered(scores, share=share, seed=seed))
        gaps.append(trials["recommend"] - trials["static"])
    gap = evaluate.summary(np.concatenate(gaps))
    assert gap["tau"].value > -0.04
    assert all(gap[f"regret{k}"].low <= 0.03 for k in range(1, 7))
    if better:
        assert sum(gap[f"regret{k}"].value for k in range(2, 7)) < 0


@pytest.mark.parametrize("setting", evaluate.SETTINGS)
def test_with_less_to_learn_from_it_is_no_worse_than_static(
    setting: str,
):
    known = scattered(low_rank(np.random.default_rng(0), 16, 14), share=0.0)
    found = evaluate.trials(known, evaluate.SETTINGS[setting])
    ours, static = (evaluate.summary(found[rule]) for rule in ("recommend", "static"))
    assert ours["tau"].high > static["tau"].value
    assert all(ours[f"regret{k}"].low < static[f"regret{k}"].value for k in range(1, 7))


def test_of_many_targets_some_are_left_out_together(monkeypatch: pytest.MonkeyPatch):
    known = scattered(low_rank(np.random.default_rng(0), 12, 15), share=0.3)
    one_by_one = evaluate.trials(known)["recommend"]
    monkeypatch.setattr(evaluate, "BLOCKS", 5)
    blocks = evaluate.trials(known)["recommend"]
    assert len(blocks) == len(one_by_one) == 15
    assert blocks[:, 0].mean() == pytest.approx(one_by_one[:, 0].mean(), abs=0.05)
    assert not np.array_equal(blocks, one_by_one)


def test_regret_and_hits_worked_by_hand():
    truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5])  # best minus median is 0.2
    numbers = evaluate._fixed(truth, np.array([0.0, 1.0, 4.0, 3.0, 2.0]))
    found = dict(zip(evaluate.METRICS, numbers, strict=True))
    assert [found[f"regret{k}"] for k in range(1, 7)] == pytest.approx([1, 1, 1, 0.5, 0, 0])
    some = np.append(truth, np.nan)  # never run, whatever the rule says of it
    again = evaluate._fixed(some, np.array([0.0, 1.0, 4.0, 3.0, 2.0, 9.0]))
    np.testing.assert_array_equal(again, numbers)


def test_a_random_order_has_its_expected_numbers():
    numbers = evaluate._fixed(np.arange(5.0), np.zeros(5))
    found = dict(zip(evaluate.METRICS, numbers, strict=True))
    assert found["tau"] == 0
    # The best of one is 2 on average, of two 3: regrets in units of two.
    assert [found["regret1"], found["regret2"]] == pytest.approx([1, 0.5], abs=0.03)
    # Two sure ones first, then one of three: of 0, 1 and 4 the mean of the best with 3 is 10/3.
    numbers = evaluate._fixed(np.array([0, 1, 2, 3, 4.0]), np.array([0, 0, 1, 2, 0.0]))
    found = dict(zip(evaluate.METRICS, numbers, strict=True))
    regrets = [found[f"regret{k}"] for k in range(1, 7)]
    assert regrets == pytest.approx([0.5, 0.5, 1 / 3, 1 / 6, 0, 0], abs=0.03)


@pytest.fixture(scope="module")
def study() -> evaluate.Trials:
    return evaluate.trials(matrix.of_files(matrix.MEDMNIST))


def test_static_baseline_of_the_published_study(study: evaluate.Trials):
    known = matrix.of_files(matrix.MEDMNIST)
    assert known.scores.shape == (15, 12)
    scored = [i for i, target in enumerate(known.targets) if target != "chestmnist"]
    assert study["static"][scored, 0].mean() == pytest.approx(0.561, abs=5e-4)


def test_published_scores_are_rules_of_their_own(study: evaluate.Trials):
    taus = {rule: evaluate.summary(numbers)["tau"] for rule, numbers in study.items()}
    # The published means over the 11 targets.
    assert taus["distance lp"].value == pytest.approx(0.4404, abs=5e-4)
    assert taus["distance fu"].value == pytest.approx(0.4101, abs=5e-4)
    assert taus["distance logme"].n == 11
    assert taus["static"].n == 12


def test_the_study_is_no_worse_than_its_static_baseline(study: evaluate.Trials):
    gap = evaluate.summary(study["recommend"] - study["static"])
    assert gap["tau"].value > -0.01
    assert all(gap[f"regret{k}"].low <= 1e-12 for k in range(1, 7))
    assert means_of(study, "inside")["recommend"] > 0.9


def against(**rules: Sequence[float]) -> list[str]:
    """The verdict on trials of which τ alone is known, one a target."""
    found = {rule: np.full((4, len(evaluate.METRICS)), np.nan) for rule in rules}
    for rule, taus in rules.items():
        found[rule][: len(taus), 0] = taus
    return evaluate.verdict(found)


def test_a_worse_recommendation_says_so(study: evaluate.Trials):
    text = " ".join(evaluate.verdict(study))
    assert "weighted τ" in text and "than static" in text
    assert against(recommend=[0] * 4, static=[1] * 4, random=[0.5] * 4) == [
        "The recommendation against the best other rule: weighted τ -1.000 [-1.000, -1.000] "
        "(worse than static)."
    ]
    (same,) = against(recommend=[0.5] * 4, static=[0.5] * 4)
    assert "weighted τ +0.000 [+0.000, +0.000] (not told from static)" in same


def test_less_regret_is_better():
    ours, static = (np.full((4, len(evaluate.METRICS)), value) for value in (0.1, 0.2))
    said = evaluate.verdict({"recommend": ours, "static": static})[0]
    assert "weighted τ -0.100 [-0.100, -0.100] (worse than static); " in said
    assert "regret 1 -0.100 [-0.100, -0.100] (better than static); " in said


def test_the_verdict_is_on_the_targets_that_all_rules_have():
    """A distance that is known of the easy targets alone does not win by them."""
    ours, static = [0.9, 0.9, 0.1, 0.1], [0.8, 0.7, 0.3, 0.3]
    # 0.6 is on average more than static's 0.525, but on these two static has 0.75.
    (said,) = against(recommend=ours, static=static, distance=[0.6, 0.6])
    assert said.endswith("weighted τ +0.150 [+0.100, +0.200] (better than static).")


def test_one_target_that_all_rules_have_is_no_verdict():
    assert against(recommend=[0.1, 0.9, 0.9, 0.9], distance=[0.6]) == []


def test_it_does_not_depend_on_the_order_of_the_sources(study: evaluate.Trials):
    known = matrix.of_files(matrix.MEDMNIST)
    turned = replace(
        known, sources=known.sources[::-1], scores=known.scores[::-1], images=known.images[::-1],
        near=known.near[:, ::-1],
    )  # fmt: skip
    for one, other in zip(prior.learn(known, [0, 1]), prior.learn(turned, [0, 1]), strict=True):
        np.testing.assert_allclose(one.mean, other.mean[::-1], atol=1e-9)
        np.testing.assert_allclose(one.covariance, other.covariance[::-1, ::-1], atol=1e-9)


# --- files --------------------------------------------------------------------------------------


def written(path: Path, rows: Sequence[tuple[object, ...]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def test_a_users_matrix_and_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate, "SETTINGS", {"three targets": 3})
    known = invented(noise=0.3, near=True)
    cells = [
        (s, t, known.scores[i, j], known.near[0, i, j])
        for i, s in enumerate(known.sources)
        for j, t in enumerate(known.targets)
    ]
    results = written(
        tmp_path / "m.csv", [("source", "target", "score"), *[cell[:3] for cell in cells]]
    )
    distances = written(
        tmp_path / "d.csv",
        [("source", "target", "distance", "method"), *[(s, t, -d, "x") for s, t, _, d in cells]],
    )
    read = matrix.of_files(results, distances)
    np.testing.assert_allclose(read.scores, known.scores)
    np.testing.assert_allclose(read.near, known.near)
    text = evaluate.show(results=results, distances=distances, format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {"recommend", "recommend without distances", "static", "distance x"} <= {
        row["rule"] for row in rows
    }
    assert {row["rule"] for row in rows if row["known"] == "three targets"} == {
        "recommend", "static",
    }  # fmt: skip


def test_pairs_that_were_not_run_may_have_rows(tmp_path: Path):
    rows = [("source", "target", "score"), ("a", "b", 1), ("c", "b", ""), ("c", "d", "NA")]
    read = matrix.of_files(written(tmp_path / "m.csv", rows))
    np.testing.assert_array_equal(read.scores, [[1, np.nan], [np.nan, np.nan]])


def test_files_that_cannot_be_used(tmp_path: Path):
    with pytest.raises(DataMissing, match="is not there"):
        matrix.of_files(tmp_path / "none.csv")
    with pytest.raises(BenchError, match="no column 'score'"):
        matrix.of_files(written(tmp_path / "a.csv", [("source", "target"), ("a", "b")]))
    with pytest.raises(BenchError, match="is 'x'"):
        rows = [("source", "target", "score"), ("a", "b", "x")]
        matrix.of_files(written(tmp_path / "b.csv", rows))
    with pytest.raises(BenchError, match="twice"):
        rows = [("source", "target", "score"), ("a", "b", 1), ("a", "b", 2)]
        matrix.of_files(written(tmp_path / "c.csv", rows))
    with pytest.raises(BenchError, match="--results"):
        evaluate.show(distances=tmp_path / "d.csv")


# --- store --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("recommend") / "store")
    made.prepare()
    for target in ("isic", "oasis1", "chest_xray"):
        for i, source in enumerate((*SOURCES, "none")):
            value = 0.85 - 0.02 * i + (0.003 * len(target) if i % 2 else 0)
            run(made, source=source, target=target, folds=1, value=value,
                draws=value + shared_draws(target, 0, 0))  # fmt: skip
    for source, value in (("dtd", 0.7), ("none", 0.6)):
        run(made, source=source, target="ptbxl", folds=1, value=value,
            draws=value + shared_draws("ptbxl", 0, 0))  # fmt: skip
    return made


def told(store: Store, target: str, format: str = "table") -> str:
    return advice.text(advice.advise(store, target, {}), format=format)


def test_a_target_with_no_run(store: Store):
    found = json.loads(told(store, "pcam", "json"))
    assert found["relative"]
    assert found["next"] == "imagenet"
    assert found["sources"][0]["source"] == "imagenet"
    # The target itself would leak: it is no candidate.
    assert {one["source"] for one in found["sources"]} == {*SOURCES, "none"} - {"pcam"}


def test_runs_on_the_target_are_taken_in(store: Store):
    found = json.loads(told(store, "ptbxl", "json"))
    assert not found["relative"]
    by_name = {one["source"]: one for one in found["sources"]}
    assert by_name["dtd"]["run"]["value"] == pytest.approx(0.7)
    assert by_name["dtd"]["expected"]["low"] == pytest.approx(0.7, abs=1e-4)  # draws without noise
    assert by_name["imagenet"]["expected"]["value"] > 0.7
    assert by_name["imagenet"]["expected"]["low"] < by_name["imagenet"]["expected"]["high"]
    assert sum(one["best"] for one in found["sources"]) == pytest.approx(1)
    assert found["next"] == "imagenet"


def test_the_table_says_what_to_run_and_how_far_to_trust_it(store: Store):
    text = told(store, "ptbxl")
    assert "Run next: imagenet." in text
    assert "by leaving each out" in text
    assert told(store, "ptbxl", "md").startswith("## Sources for ptbxl")
    rows = list(csv.DictReader(io.StringIO(told(store, "ptbxl", "csv"))))
    assert [row["source"] for row in rows if row["next"] == "True"] == ["imagenet"]


def test_a_plan_holds_if_the_results_are_as_expected(store: Store):
    found = advice.advise(store, "ptbxl", {}, budget=9, tested=False)
    assert found.next == found.plan[0] == "imagenet"
    # What was run is in no plan, nor what failed.
    assert sorted(found.plan) == sorted({*SOURCES, "none"} - {"dtd", "none"})
    other = advice.advise(store, "ptbxl", {}, budget=9, without=["imagenet"], tested=False)
    assert "imagenet" not in other.plan
    few = advice.advise(store, "ptbxl", {"sources": ["dtd", "kimia", "pcam"]}, tested=False)
    assert {one.source for one in few.sources} == {"dtd", "kimia", "pcam"}
    assert few.run == {"dtd": pytest.approx(0.7)}


def test_the_runs_enter_with_their_noise_and_a_gain_below_it_says_stop():
    known = invented(noise=0.3)
    scores = known.scores.copy()
    scores[1:, 0] = np.nan  # one run, of the first by name
    errors = np.full(scores.shape, np.nan)
    exact = advice.recommend(replace(known, scores=scores), "target0")
    errors[0, 0] = 0.01
    little = advice.recommend(replace(known, scores=scores, errors=errors), "target0")
    ran = next(one for one in little.sources if one.run)
    assert ran.run is not None and ran.run.high - ran.run.low == pytest.approx(2 * Z * 0.01)
    assert ran.expected.low < ran.run.value < ran.expected.high
    assert not exact.stop and "Stop" not in advice.text(exact)
    errors[0, 0] = 1.0
    much = advice.recommend(replace(known, scores=scores, errors=errors), "target0")
    assert much.stop and much.gain < much.noise == pytest.approx(Z)
    assert "Stop: one more run can be expected to gain" in advice.text(much)
    said = json.loads(advice.text(much, format="json"))
    assert (said["stop"], said["noise"]) == (True, pytest.approx(Z))
    assert said["gain"] == pytest.approx(much.gain)


def test_two_targets_that_agree_promise_nothing_impossible_of_a_source_that_was_never_run():
    widths = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        level = rng.normal(size=5)
        scores = {(f"s{s}", t): 0.8 + 0.03 * level[s] + 0.01 * rng.normal()
                  for t in "ab" for s in range(5)}  # fmt: skip
        known = matrix.build({**scores, ("s1", "x"): 0.8}, sources=["q"])
        found = advice.recommend(known, "x")
        widths += [one.expected.high - one.expected.low for one in found.sources]
    assert max(widths) < 1


def test_an_error_that_is_unknown_is_as_large_as_the_others_not_none():
    known = invented(noise=0.3)
    scores = known.scores.copy()
    scores[2:, 0] = np.nan
    errors = np.full(scores.shape, np.nan)
    errors[:2, 0] = 1.0, np.nan
    unknown = advice.recommend(replace(known, scores=scores, errors=errors), "target0")
    errors[1, 0] = 1.0
    both = advice.recommend(replace(known, scores=scores, errors=errors), "target0")
    assert [one.expected for one in unknown.sources] == [one.expected for one in both.sources]


def test_a_draw_that_is_undefined_takes_no_error_away(tmp_path: Path):
    made = Store(tmp_path / "store")
    made.prepare()
    for seed, source in enumerate(SOURCES[:3]):
        draws = 0.8 + 0.01 * np.random.default_rng(seed).normal(size=400)
        draws[:1] = np.nan if seed == 0 else draws[:1]
        run(made, source=source, target="isic", folds=1, value=0.8, draws=draws)
    _, known, *_ = matrix.of_store(made, "isic")
    np.testing.assert_allclose(known.errors[:, 0], 0.01, rtol=0.15)


def test_a_time_that_is_unknown_is_the_usual_one_and_none_at_all_is_said():
    known = invented(noise=0.4)
    scores = known.scores.copy()
    scores[1:, 0] = np.nan
    held = replace(known, scores=scores)
    plain = advice.recommend(held, "target0")
    slow = np.where(np.array(known.sources) == plain.plan[0], 1e6, 1.0)
    slow[0] = np.nan  # of one that was run
    assert advice.recommend(replace(held, seconds=slow), "target0", per_second=True).plan != plain.plan  # fmt: skip # noqa: E501
    never = replace(held, seconds=np.full(len(slow), np.nan))
    assert "Nothing is known of the time" in advice.recommend(never, "target0", per_second=True).notes[0]  # fmt: skip # noqa: E501


def test_what_patients_move_alike_is_no_noise_of_one_run(tmp_path: Path):
    made = Store(tmp_path / "store")
    made.prepare()
    own = np.random.default_rng(0).normal(size=(3, 400))
    for source, part in zip(SOURCES[:3], own, strict=True):
        draws = 0.8 + 0.1 * shared_draws("isic", 0, 0) / shared_draws("isic", 0, 0).std()
        run(made, source=source, target="isic", folds=1, value=0.8, draws=draws + 0.01 * part)
    _, known, *_ = matrix.of_store(made, "isic")
    np.testing.assert_allclose(known.errors[:, 0], 0.01, rtol=0.15)


def test_a_source_whose_weights_are_ready_is_cheaper(tmp_path: Path):
    known = invented(noise=0.4)
    scores = known.scores.copy()
    scores[[0, 2, 4, 5], 0] = np.nan
    held = replace(known, scores=scores)
    best, *_ = [one.source for one in advice.recommend(held, "target0", budget=4).sources]
    assert best == "imagenet"
    seconds = np.where(np.array(known.sources) == "imagenet", 1e6, 10.0)
    timed = replace(held, seconds=seconds)
    plain = advice.recommend(timed, "target0")
    cheap = advice.recommend(timed, "target0", per_second=True)
    assert plain.next == "imagenet" != cheap.next
    # Of one whose cost is unknown nothing can be said by the second.
    unknown = replace(held, seconds=np.where(seconds == 10, np.nan, seconds))
    assert advice.recommend(unknown, "target0", per_second=True).next == plain.next
    made = Store(tmp_path / "store")
    made.prepare()
    pretrain(made, "dtd")  # which took 320 s
    for source in ("dtd", "none"):
        run(made, source=source, target="isic", folds=1, value=0.8, seconds={"total": 30.0},
            draws=0.8 + shared_draws("isic", 0, 0))  # fmt: skip
    found = advice.advise(made, "ptbxl", {"sources": ["dtd", "none", "kimia"]}, tested=False)
    took = {one.source: one.seconds for one in found.sources}
    assert took == {"dtd": 30, "none": 30, "kimia": 350}


def test_with_no_other_target_distance_place_and_size_give_an_order(tmp_path: Path):
    empty = Store(tmp_path / "empty")
    empty.prepare()
    found = advice.advise(empty, "isic", {})
    assert found.next == "imagenet"  # it has the most images
    assert "in the order of the mean of nearness, place elsewhere and images" in found.notes[0]
    assert math.isnan(found.sources[0].expected.value)
    assert "two sources or more: 0." in advice.text(found)
    assert json.loads(advice.text(found, format="json"))["sources"][0]["regret"] is None
    pairs = {("dtd", "mine"): -0.1, ("imagenet", "mine"): -0.9, ("kimia", "mine"): -0.5}
    known = matrix.build(
        {("kimia", "mine"): 0.7}, near={"task2vec": pairs}, sources=["dtd", "imagenet", "pcam"],
        images=dict.fromkeys(("dtd", "imagenet", "kimia", "pcam"), 1000.0),
    )  # fmt: skip
    found = advice.recommend(known, "mine", budget=3)
    assert [one.source for one in found.sources] == ["kimia", "dtd", "imagenet", "pcam"]
    assert found.plan == ("dtd", "imagenet", "pcam")
    assert found.run == {"kimia": 0.7}


def test_the_stores_own_targets_can_be_left_out_too(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate, "SETTINGS", {})
    found = json.loads(evaluate.show(results=store.root, format="json"))
    ours = [row for row in found["rules"] if row["rule"] == "recommend"]
    assert {row["targets"] for row in ours if row["known"] == "all"} == {3}


def test_a_source_that_was_run_nowhere_is_judged_by_its_size_and_less_well_known():
    known = invented(noise=0.3)
    scores = known.scores.copy()
    scores[2] = np.nan
    prior = learnt(replace(known, scores=scores))
    spread = np.sqrt(np.diagonal(prior.covariance))
    assert spread[2] == spread.max()
    assert sorted(prior.mean)[1] < prior.mean[2] < sorted(prior.mean)[-2]  # no size is known
    rank = QUALITY[[SOURCES.index(source) for source in known.sources]]
    for size in (1.0, -1.0):
        rank[2] = size
        means = learnt(replace(known, scores=scores, images=np.exp(rank))).mean
        assert (means[2] - np.median(means)) * size > 0.3 * np.ptp(means)
