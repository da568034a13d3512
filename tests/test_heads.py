"""Heads on frozen features: scaled, solved, their settings chosen without a look at the test."""

from typing import Any

import numpy as np
import pytest
import torch
from stores import run_all
from torch import nn

from benchmark.data.prepare import Prepared
from benchmark.data.split import Parts
from benchmark.spec import Recipe
from benchmark.store import Store
from benchmark.train import choose, heads, loop, objective
from benchmark.train.choose import Rows
from benchmark.train.classifier import Standardised
from benchmark.train.heads import PENALTIES
from benchmark.train.softmax import softmax_path

RECIPE = Recipe(epochs=40, batch=32, lr=1e-3, optimizer="adamw", dropout=0.0, threads=1)


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray]:
    """Features (160, 30) of very different scales; two of them tell the three classes apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 160)
    values = rng.normal(size=(160, 30))
    values[:, 0] += 1.5 * labels
    values[:, 1] -= 2 * (labels == 2)
    return (values * np.geomspace(1e-3, 1e3, 30) + 5).astype(np.float32), labels


def solve(values: np.ndarray, labels: np.ndarray, rows: Rows, **how: Any):
    return heads.solved(values, labels, rows, RECIPE, classes=3, report=loop.Callbacks(), **how)


def rows_with(val: bool) -> Rows:
    seen = np.arange(80)
    return Rows(seen, seen, np.arange(80, 120)) if val else Rows(seen, seen[:60], seen[60:])


def test_the_penalty_is_the_one_that_validation_likes_best(problem):
    values, labels = problem
    found, choice = solve(values, labels, rows_with(True))
    val = np.arange(80, 120)
    balance = objective.class_weights(labels[:80], 3, RECIPE)[labels[:80]]
    path = softmax_path(values[:80], labels[:80], classes=3, sample_weight=balance)
    scores = [objective.auroc(labels[val], heads.probabilities(one, values[val])) for one in path]
    best = PENALTIES.index(float(choice.text.split()[1]))
    assert scores[best] == max(scores)
    assert len(set(scores)) > 3, "the penalty matters here"
    np.testing.assert_array_equal(found.weight, path[best].weight)
    assert choice.text.endswith(", by validation AUROC")


def test_test_rows_and_the_scale_of_features_change_nothing(problem):
    values, labels = problem
    one, _ = solve(values, labels, rows_with(True))
    values[120:] = np.nan
    other, _ = solve(values, labels, rows_with(True))
    np.testing.assert_array_equal(one.weight, other.weight)
    large, _ = solve(values * 1000, labels, rows_with(True))
    chances = [heads.probabilities(h, x[:120]) for h, x in ((one, values), (large, values * 1000))]
    np.testing.assert_allclose(*chances, atol=1e-3)


def test_without_a_validation_part_the_training_part_is_cut_by_group(problem):
    values, labels = problem
    groups = np.arange(160) // 4
    prepared = Prepared(
        "own", np.zeros((160, 1, 1, 3), np.uint8), np.arange(160).astype(str), labels,
        ("a", "b", "c"), groups, np.full(160, ""), np.arange(160).astype(str), {}, "",
    )  # fmt: skip
    parts = Parts(np.arange(120), np.arange(0), np.arange(120, 160), 0.0)
    rows = choose.rows_of(prepared, parts, 3)
    assert sorted([*rows.fit, *rows.val]) == list(range(120))
    assert not set(groups[rows.fit]) & set(groups[rows.val])
    assert 16 <= len(rows.val) <= 32
    found, choice = solve(values, labels, rows)
    best = PENALTIES.index(float(choice.text.split()[1]))
    balance = objective.class_weights(labels[:120], 3, RECIPE)[labels[:120]]
    path = softmax_path(
        values[:120], labels[:120], classes=3, sample_weight=balance,
        penalties=PENALTIES[: best + 1],
    )  # fmt: skip
    np.testing.assert_array_equal(found.weight, path[-1].weight)  # in the end of all of it
    assert choice.text.endswith("by validation AUROC inside the training part")
    kept = parts._replace(val=np.arange(100, 120), train=np.arange(100))
    assert choose.rows_of(prepared, kept, 3).val is kept.val


def test_ends_of_lists_and_heads_short_of_their_optimum_are_told(problem, monkeypatch):
    values, labels = problem
    monkeypatch.setattr(heads, "PENALTIES", (0.1,))
    _, choice = solve(values, labels, rows_with(True))
    assert [w for w in choice.warnings if "0.1, is the largest of its list" in w]
    monkeypatch.setattr(heads, "PENALTIES", PENALTIES)
    monkeypatch.setattr(heads, "MOST_STEPS", 1)
    _, choice = solve(values, labels, rows_with(True))
    assert [w for w in choice.warnings if "not at its optimum" in w]
    labels[80:120] = 1
    _, choice = solve(values, labels, rows_with(True))
    assert [w for w in choice.warnings if "one class" in w]


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(30, 3)

    def forward(self, pooled, record=None):
        return self.output(pooled)


@pytest.mark.parametrize("val", [True, False])
def test_a_trained_head_chooses_its_rate_and_decay(problem, val: bool):
    values, labels = problem
    inputs = loop.Features(torch.from_numpy(values), None)
    seen = inputs.values[:80]

    def make() -> nn.Module:
        torch.manual_seed(0)
        return Standardised(Linear(), seen.mean(0), seen.std(0))

    rows = rows_with(val)
    model, fit, _ = heads.trained(
        make, inputs, torch.as_tensor(labels), rows, RECIPE,
        classes=3, seed=0,
    )  # fmt: skip
    words = fit.chosen.replace(",", "").split()
    assert float(words[2]) > 1e-3 * min(heads.RATES), "forty epochs of the least are too few"
    assert float(words[4]) in heads.DECAYS
    assert fit.chosen.endswith("inside the training part") is not val
    scores = loop.predict(model, inputs, torch.arange(120, 160), RECIPE, torch.device("cpu"))
    solved, _ = solve(values, labels, rows)
    alone = objective.auroc(labels[120:], heads.probabilities(solved, values[120:]))
    assert objective.auroc(labels[120:], scores) > alone - 0.1


def test_no_arm_falls_below_the_image_on_few_images(runtime, request_tiny):
    """Brightness alone tells the classes; gates on raw features lose it."""
    arms = ("none", "concat", "metanet", "metablock")
    recipe = {"epochs": 30, "limit": 60, "head": "chosen"}
    outcomes = run_all(request_tiny(fusions=arms, folds=(0,), recipe=recipe), runtime)
    found = {outcome.spec.fusion: outcome for outcome in outcomes}
    alone = found["none"].metrics["auroc"].value
    assert alone > 0.8
    for arm in arms:
        assert found[arm].metrics["auroc"].value > alone - 0.1, arm
        assert "by validation AUROC" in found[arm].chosen
    kept = Store(runtime.store).folder("run", found["metanet"].key)
    assert (kept / "weights.safetensors").is_file()
