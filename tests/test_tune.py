"""A list of learning rates: validation takes the best, once per arm and fold; test data never."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from benchmark.errors import Interrupted, NotFinite
from benchmark.plan import plan, request
from benchmark.spec import Recipe, RunSpec, key_of
from benchmark.store import Store
from benchmark.train import choose, job, loop, objective
from benchmark.train.choose import Rows
from reports.leaderboard import table

RECIPE = Recipe(
    epochs=4, batch=32, optimizer="adamw", dropout=0.0, threads=1, tune=(1e-7, 1e-2, 1e-1)
)


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(10, 2)

    def forward(self, pooled, record=None):
        return self.output(pooled)


def make() -> nn.Module:
    torch.manual_seed(0)
    return Linear()


@pytest.fixture
def problem():
    """The answer lies in one feature, its sign in a second: the weights must grow to tell."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    values = rng.normal(size=(200, 10)).astype(np.float32)
    values[:, 0] += 2 * labels
    return loop.Features(torch.from_numpy(values), None), torch.from_numpy(labels)


def tuned(problem, folder: Path, recipe: Recipe = RECIPE, rows: Rows | None = None, **how):
    seen = np.arange(100)
    rows = rows or Rows(seen, seen, np.arange(100, 150))
    return choose.rate(
        make, *problem, rows, recipe, folder=folder, classes=2, seed=3, **how
    )  # fmt: skip


def test_the_last_training_keeps_the_schedule_of_its_epochs(problem):
    recipe = RECIPE.model_copy(update={"images": 800, "batch": 50, "select": "last", "tune": ()})
    seen = np.arange(100)
    rows, told = Rows(seen, seen[:80], seen[80:]), []
    how = {"classes": 2, "seed": 0}
    best = choose.attempt(make, *problem, rows, recipe, **how)
    said = loop.Callbacks(epoch=told.append)
    choose.settled(best, make, *problem, rows, report=said, **how)
    assert [facts["lr"] for facts in told] == [facts["lr"] for facts in best.fit.history]
    assert {facts["epochs"] for facts in told} == {10}


@pytest.mark.parametrize(
    ("asked", "meant"), [("1e-3, 1e-4", (1e-4, 1e-3)), ([1e-3, 1e-4, 1e-3], (1e-4, 1e-3))]
)
def test_equal_lists_have_one_spelling_and_none_leaves_the_key(asked, meant):
    assert Recipe(tune=asked).tune == meant
    keys = [
        key_of(RunSpec(source="dtd", target="isic", recipe=recipe), {"core": "1"})
        for recipe in (Recipe(), Recipe(tune=asked))
    ]
    assert keys[0] == "f998d92966284222" != keys[1]  # as before there were lists
    with pytest.raises(ValidationError, match="two learning rates or more"):
        Recipe(tune="1e-3")


@pytest.mark.parametrize("options", [{"tune": [1e-4, 1e-3]}, {"recipe.tune": "1e-4,1e-3"}])
def test_a_list_is_one_request_and_frozen_heads_choose_for_themselves(options, runtime):
    (asked,) = request.requests(
        {"target": "demo:skin", "arch": "test_resnet", "mode": ["finetune", "frozen"], **options}
    )
    specs = [p.cell.spec for p in plan.make(asked, runtime).cells]
    found = {spec.mode: spec.recipe.tune for spec in specs if isinstance(spec, RunSpec)}
    assert found == {"finetune": (1e-4, 1e-3), "frozen": ()}


def test_the_rate_is_the_one_that_validation_likes_best_and_the_test_has_no_say(problem, tmp_path):
    inputs, labels = problem
    judged = {}
    for lr in RECIPE.tune:
        model, one = make(), RECIPE.model_copy(update={"lr": lr})
        seen, val = np.arange(100), np.arange(100, 150)
        loop.fit(model, inputs, labels, seen, val, one, classes=2, seed=3)
        scores = loop.predict(model, inputs, torch.arange(100, 150), one, labels.device)
        judged[lr] = objective.quality(labels.numpy()[100:150], scores), model.state_dict()
    best = max(judged, key=lambda lr: judged[lr][0])
    inputs.values[150:] = torch.nan
    model, fit, _ = tuned(problem, tmp_path)
    assert fit.chosen.startswith(f"learning rate {best:g}, epoch ")
    assert fit.chosen.endswith(" of 4 by validation AUROC")
    assert torch.equal(model.state_dict()["output.weight"], judged[best][1]["output.weight"])


def test_an_end_of_the_list_is_told(problem, tmp_path: Path):
    low = RECIPE.model_copy(update={"tune": (1e-9, 1e-8)})
    _, _, doubts = tuned(problem, tmp_path, low)
    assert doubts == ["The learning rate chosen, 1e-08, is the largest of its list."]


def test_without_a_validation_part_the_rate_is_chosen_inside_the_training_part(problem, tmp_path):
    rows = Rows(np.arange(150), np.arange(100), np.arange(100, 150))
    recipe = RECIPE.model_copy(update={"select": "last"})
    model, fit, _ = tuned(problem, tmp_path, recipe, rows)
    lr = float(fit.chosen.split()[2])
    assert fit.chosen == (
        f"learning rate {lr:g} by validation AUROC inside the training part, last epoch of 4"
    )
    whole = make()
    loop.fit(
        whole, *problem, np.arange(150), np.arange(0), recipe.model_copy(update={"lr": lr}),
        classes=2, seed=3,
    )  # fmt: skip
    assert torch.equal(model.state_dict()["output.weight"], whole.state_dict()["output.weight"])


def test_a_rate_that_runs_away_is_not_chosen_and_all_of_them_end_the_cell(problem, tmp_path: Path):
    wild = RECIPE.model_copy(update={"optimizer": "sgd", "tune": (1e-3, 1e38)})
    _, fit, _ = tuned(problem, tmp_path / "one", wild)
    assert fit.chosen.startswith("learning rate 0.001")
    none = wild.model_copy(update={"tune": (1e37, 1e38)})
    with pytest.raises(NotFinite):
        tuned(problem, tmp_path / "none", none)


def test_a_killed_run_goes_on_at_the_rate_it_was_in(problem, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    whole, first, _ = tuned(problem, tmp_path / "whole")
    told: list[float] = []
    for stop_after in (6, 18):  # steps, four to an epoch: in the first rate, then in the second
        steps = iter(range(stop_after))

        def check(steps=steps) -> None:
            if next(steps, None) is None:
                raise Interrupted("stop")

        with pytest.raises(Interrupted):
            tuned(problem, tmp_path / "cut", report=loop.Callbacks(check=check))
    report = loop.Callbacks(epoch=lambda facts: told.append(facts["lr"]))
    model, again, _ = tuned(problem, tmp_path / "cut", report=report)
    assert 1e-7 not in told, "the first rate was finished and is not trained again"
    assert (told.count(1e-2), told.count(1e-1)) == (3, 4)
    assert again.chosen == first.chosen
    assert torch.equal(model.state_dict()["output.weight"], whole.state_dict()["output.weight"])


def test_a_cell_tells_what_it_chose_on_boards(runtime, request_tiny):
    asked = request_tiny(
        modes=("finetune",), folds=(0,), recipe={"epochs": 1, "tune": (1e-6, 1e-3)}
    )
    (planned,) = plan.make(asked, runtime).cells
    outcome = job.run(planned.cell, runtime)
    assert outcome.status == "ok", outcome.failure
    assert outcome.chosen.startswith("learning rate ")
    assert [w for w in outcome.warnings if "of its list" in w]
    store = Store(runtime.store)
    assert not list(store.of(planned.cell).glob("last*.pt"))
    (board,) = json.loads(table.show(store, format="json"))
    assert board["rows"][0]["runs"][0]["chosen"] == outcome.chosen
    shown = table.show(store)
    assert "at an end of its list, so a better value may lie beyond: scratch (1 cell)" in shown
