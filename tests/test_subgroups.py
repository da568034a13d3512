"""Subgroups of the record: which values are named, what is refused, what the boards say of them."""

import numpy as np
import pytest

from benchmark.errors import BenchError
from benchmark.metadata.subgroups import DRAWS, OTHER, age_band, by_value
from benchmark.plan import plan
from benchmark.plan import run as running
from benchmark.plan.request import Request
from benchmark.spec import Outcome, Runtime
from benchmark.store import Store
from benchmark.train import job as cells
from reports.leaderboard import subgroups
from reports.leaderboard import table as leaderboard

PATIENTS = np.arange(200) // 2


def test_values_of_few_patients_are_pooled():
    site = np.array(["Leuven"] * 150 + ["Ghent"] * 38 + ["Smith"] * 6 + ["Jones"] * 2 + ["NA"] * 4)
    found = by_value("hospital", site, PATIENTS)
    values, counts = np.unique(found, return_counts=True)
    assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == {
        "": 4, OTHER: 8, "Ghent": 38, "Leuven": 150,
    }  # fmt: skip


def test_a_card_may_name_more_words_for_nothing():
    sex = ["female", "male", "unknown", "female", "male"] * 40
    assert set(by_value("sex", sex, PATIENTS, ["Unknown"])) == {"", "female", "male"}


@pytest.mark.parametrize(
    ("name", "cells", "why"),
    [
        ("visit", ["2021-03-04", "2021-03-05"] * 100, "holds dates"),
        ("visit", ["04.03.2021", "05.03.2021"] * 100, "holds dates"),
        ("report", ["seen by the usual doctor of that ward on duty", "no"] * 100, "free text"),
        ("nickname", [f"n{i // 2}" for i in range(200)], "fewer than 10 patients"),
        ("weight", [str(i % 25) for i in range(1000)], "too many"),
        ("sex", [""] * 200, "no value"),
    ],
)
def test_columns_that_would_tell_of_single_patients_are_refused(name, cells, why):
    with pytest.raises(BenchError, match=why) as caught:
        by_value(name, cells, np.arange(len(cells)) // (len(cells) // 100))
    assert not any(cell and cell in str(caught.value) for cell in cells if len(cell) > 2)


def test_age_bands():
    ages = [0, 29.9, 30, 44, 45, "59", 60, 74.5, 75, 300, None, "", "unknown", np.nan, -1]
    assert age_band(ages).tolist() == [
        *("<30", "<30", "30-44", "30-44", "45-59", "45-59", "60-74", "60-74", "75+", "75+"),
        *[""] * 5,
    ]
    assert age_band([]).tolist() == []


# --- of a run ---------------------------------------------------------------------------------


def ran(request: Request, runtime: Runtime) -> Outcome:
    """The outcome of the one cell asked for, run here and now."""
    (planned,) = plan.make(request, runtime).of("to run")
    return cells.run(planned.cell, runtime)


def test_a_finished_run_is_judged_by_another_column_without_training(request_tiny, runtime):
    done = ran(request_tiny(folds=(0,)), runtime)
    assert set(done.subgroup_sizes) == {"site"}
    store = Store(runtime.store)
    network = store.kept(done, "weights.safetensors").read_bytes()
    asked = request_tiny(folds=(0,), subgroups=("age",))
    assert running.run(asked, runtime) == 0
    found = store.outcome("run", done.key)
    assert found is not None
    assert not store.damage(found)
    assert store.kept(found, "weights.safetensors").read_bytes() == network
    assert set(found.subgroup_sizes) == {"site", "age"}
    for value in ("arm", "leg"):
        then, now = (o.subgroups["site"][value]["auroc"] for o in (done, found))
        assert now == pytest.approx(then, abs=1e-6)
    assert {"30-44", "45-59", OTHER} <= set(found.subgroup_sizes["age"])
    numbers = [v for part in found.subgroups.values() for v in part]
    draws = np.load(store.kept(found, DRAWS))
    assert draws.shape == (len(numbers), runtime.draws)
    for sizes in found.subgroup_sizes.values():
        assert sum(sizes.values()) >= done.data["test_groups"]
    assert str(found.metrics) == str(done.metrics)


def test_draws_that_are_damaged_are_told_and_not_taken_for_few_patients(request_tiny, runtime):
    done, store = ran(request_tiny(folds=(0,)), runtime), Store(runtime.store)
    path = store.kept(done, DRAWS)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="gone or damaged.*Its subgroups have no numbers"):
        (board,) = leaderboard.boards(store)
        (column,) = subgroups.of(store, board.rows[0].runs)
    assert [part.estimate for part in column.parts] == [None, None]
    assert {part.why for part in column.parts} == {"the draws of its interval are not here"}


def test_a_bad_column_is_refused_before_anything_trains(request_tiny, runtime):
    asked = request_tiny(folds=(0,), subgroups=("visit",))
    with pytest.raises(BenchError, match="has no column 'visit'"):
        running.run(asked, runtime)
    assert not Store(runtime.store).summaries()


def test_subgroups_are_in_no_key(request_tiny, runtime):
    plain, asked = request_tiny(), request_tiny(subgroups=("age",))
    keys = [[p.cell.key for p in plan.make(one, runtime).cells] for one in (plain, asked)]
    assert keys[0] == keys[1]
