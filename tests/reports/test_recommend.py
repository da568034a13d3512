"""The recommendation: what it learns, what it says of itself, and the published study."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from boards import run, shared_draws

from benchmark.errors import BenchError, DataMissing
from benchmark.store import Store
from reports import belief, evaluate, matrix, recommend
from reports.matrix import Matrix

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


def column(known: Matrix, source: str) -> int:
    return known.sources.index(source)


# --- learning -----------------------------------------------------------------------------------


def test_sources_that_do_well_elsewhere_come_first():
    known = invented(noise=0.2)
    prior = belief.learn(known, 0)
    order = [known.sources[s] for s in np.argsort(-prior.mean)]
    assert order[0] == "imagenet"
    assert order[-1] == "cifar10"


def test_the_targets_own_scores_are_not_used():
    known = invented(noise=0.2)
    scores = known.scores.copy()
    scores[:, 0] = np.random.default_rng(1).normal(size=len(SOURCES))
    other = Matrix(known.sources, known.targets, scores, known.images, known.near, known.methods)
    np.testing.assert_array_equal(belief.learn(known, 0).mean, belief.learn(other, 0).mean)


def test_scale_and_level_of_other_targets_do_not_matter():
    known = invented(noise=0.2)
    scores = known.scores * np.linspace(1, 9, 8) + np.arange(8)
    other = Matrix(known.sources, known.targets, scores, known.images, known.near, known.methods)
    np.testing.assert_allclose(belief.learn(known, 0).mean, belief.learn(other, 0).mean)


def test_a_distance_that_foretells_is_heeded():
    known = invented(noise=1.0, near=True, targets=12)
    taus = {trial.rule: evaluate.summary(trial)["tau"].value for trial in evaluate.trials(known)}
    assert taus["recommend"] > taus["static"] + 0.1


def test_one_scale_gives_the_textbook_posterior():
    # Ordinary kriging of two sources, worked by hand: covariance [[1, r], [r, 1]], flat level.
    r, mean = 0.5, np.array([0.2, -0.1, 0.0])
    covariance = np.array([[1, r, 0], [r, 1, 0], [0, 0, 1.0]])
    prior = belief.Prior(mean, covariance, np.array([2.0]))
    found = belief.believe(prior, {0: 5.0})
    level = 5.0 - 2 * 0.2
    np.testing.assert_allclose(found.mean, [5.0, level - 0.2, level], atol=1e-12)
    # What is left of a source's spread given one run at an unknown level: of the difference.
    spread = np.diagonal(found.covariances[0])
    np.testing.assert_allclose(spread, [0, 4 * (2 - 2 * r), 4 * 2], atol=1e-12)


def test_runs_pick_the_scale():
    prior = belief.Prior(np.array([1.0, 0.0, -1.0, 0.0]), 0.01 * np.eye(4), np.array([0.01, 1.0]))
    wide = belief.believe(prior, {0: 6.0, 1: 5.0, 2: 4.0})
    fine = belief.believe(prior, {0: 5.01, 1: 5.0, 2: 4.99})
    assert wide.weights[1] > 0.99
    assert fine.weights[0] > 0.99
    none = belief.believe(prior, {})
    np.testing.assert_allclose(none.weights, 0.5)


def test_improvement_agrees_with_samples():
    prior = belief.learn(invented(noise=0.5), 0)
    found = belief.believe(prior, {0: 0.8, 3: 0.79})
    drawn = np.maximum(found.samples() - 0.8, 0).mean(axis=0)
    np.testing.assert_allclose(found.improvement(0.8), drawn, rtol=0.15, atol=2e-4)
    np.testing.assert_allclose(found.samples()[:, 0], 0.8, atol=1e-6)


def test_too_few_targets_to_learn_from():
    with pytest.raises(BenchError, match="at least two other targets"):
        belief.learn(invented(targets=2), 0)


# --- evaluation ---------------------------------------------------------------------------------


def test_regret_and_hits_worked_by_hand():
    truth = np.array([0.9, 0.8, 0.7, 0.6, 0.5])  # best minus median is 0.2
    numbers = evaluate._plain(truth, np.array([0.0, 1.0, 4.0, 3.0, 2.0]), 0)
    found = dict(zip(evaluate.METRICS, numbers, strict=True))
    assert (found["hit1"], found["hit3"]) == (0, 0)
    assert [found[f"regret{k}"] for k in range(1, 7)] == pytest.approx([1, 1, 1, 0.5, 0, 0])


def test_a_random_order_has_its_expected_hits():
    numbers = evaluate._plain(np.arange(5.0), np.zeros(5), 0)
    found = dict(zip(evaluate.METRICS, numbers, strict=True))
    assert found["tau"] == 0
    assert found["hit1"] == pytest.approx(0.2, abs=0.06)
    assert found["hit3"] == pytest.approx(0.6, abs=0.08)


@pytest.fixture(scope="module")
def study() -> list[evaluate.Trial]:
    return evaluate.trials(matrix.published())


def test_static_baseline_of_the_published_study(study: list[evaluate.Trial]):
    known = matrix.published()
    assert known.scores.shape == (15, 12)
    static = next(trial for trial in study if trial.rule == "static")
    scored = [i for i, target in enumerate(known.targets) if target != "chestmnist"]
    assert static.numbers[scored, 0].mean() == pytest.approx(0.561, abs=5e-4)


def test_published_scores_are_rules_of_their_own(study: list[evaluate.Trial]):
    taus = {trial.rule: evaluate.summary(trial)["tau"] for trial in study}
    # The published means over the 11 targets.
    assert taus["distance lp"].value == pytest.approx(0.4404, abs=5e-4)
    assert taus["distance fu"].value == pytest.approx(0.4101, abs=5e-4)
    assert taus["distance logme"].n == 11
    assert taus["static"].n == 12


def test_a_worse_recommendation_says_so(study: list[evaluate.Trial]):
    ours, static = (next(t for t in study if t.rule == name) for name in ("recommend", "static"))
    gap = evaluate.summary(ours, less=static)
    text = " ".join(evaluate.verdict(study))
    assert (gap["regret2"].value > 1e-12) == (
        "regret 2" in text.partition("worse than the static baseline in:")[2].partition("better")[0]
    )
    bad = [evaluate.Trial("recommend", np.zeros((4, 9))), evaluate.Trial("static", np.ones((4, 9)))]
    assert evaluate.verdict(bad)[0].startswith(
        "The recommendation is worse than the static baseline in: weighted τ -1.000"
    )


def test_it_does_not_depend_on_the_order_of_the_sources(study: list[evaluate.Trial]):
    known = matrix.published()
    turned = Matrix(
        known.sources[::-1], known.targets, known.scores[::-1], known.images[::-1],
        known.near[:, ::-1], known.methods,
    )  # fmt: skip
    again = [evaluate._ours(turned, t) for t in range(4)]
    np.testing.assert_allclose(again, study[0].numbers[:4], atol=1e-9)


# --- files --------------------------------------------------------------------------------------


def written(path: Path, rows: list[tuple[object, ...]]) -> Path:
    path.write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def test_a_users_matrix_and_distances(tmp_path: Path):
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
    text = recommend.show_evaluation(results=results, distances=distances, format="csv")
    rules = {row["rule"] for row in csv.DictReader(io.StringIO(text))}
    assert {"recommend", "recommend without distances", "static", "distance x"} <= rules


def test_files_that_cannot_be_used(tmp_path: Path):
    with pytest.raises(DataMissing, match="source, target, score"):
        matrix.of_files(tmp_path / "none.csv")
    with pytest.raises(BenchError, match="lacks score"):
        matrix.of_files(written(tmp_path / "a.csv", [("source", "target"), ("a", "b")]))
    with pytest.raises(BenchError, match="is 'x'"):
        rows = [("source", "target", "score"), ("a", "b", "x")]
        matrix.of_files(written(tmp_path / "b.csv", rows))
    with pytest.raises(BenchError, match="twice"):
        rows = [("source", "target", "score"), ("a", "b", 1), ("a", "b", 2)]
        matrix.of_files(written(tmp_path / "c.csv", rows))
    with pytest.raises(BenchError, match="--results"):
        recommend.show_evaluation(distances=tmp_path / "d.csv")


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


def test_a_target_with_no_run(store: Store):
    (text,) = [recommend.show(store, "pcam", format="json")]
    found = json.loads(text)
    assert found["relative"]
    assert found["next"] == "imagenet"
    assert found["sources"][0]["source"] == "imagenet"
    # The target itself would leak: it is no candidate.
    assert {one["source"] for one in found["sources"]} == {*SOURCES, "none"} - {"pcam"}


def test_runs_on_the_target_are_taken_in(store: Store):
    found = json.loads(recommend.show(store, "ptbxl", format="json"))
    assert not found["relative"]
    by_name = {one["source"]: one for one in found["sources"]}
    assert by_name["dtd"]["run"] == pytest.approx(0.7)
    assert by_name["dtd"]["expected"]["low"] == pytest.approx(0.7, abs=1e-4)
    assert by_name["imagenet"]["expected"]["value"] > 0.7
    assert by_name["imagenet"]["expected"]["low"] < by_name["imagenet"]["expected"]["high"]
    assert sum(one["best"] for one in found["sources"]) == pytest.approx(1)
    assert found["next"] == "imagenet"


def test_the_table_says_what_to_run_and_how_far_to_trust_it(store: Store):
    text = recommend.show(store, "ptbxl")
    assert "Run next: imagenet." in text
    assert "by leaving each out" in text
    assert recommend.show(store, "ptbxl", format="md").startswith("## Sources for ptbxl")
    rows = list(csv.DictReader(io.StringIO(recommend.show(store, "ptbxl", format="csv"))))
    assert [row["source"] for row in rows if row["next"] == "True"] == ["imagenet"]
