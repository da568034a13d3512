"""Records taken away in the test: the same patients for every arm, from networks that stand."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from stores import run_all

from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.plan.request import Request, requests
from benchmark.spec import Cell, Outcome, RunSpec, Runtime, lacking
from benchmark.store import Store
from benchmark.train import finetune, missing
from benchmark.train import job as cells

BOTH = Path(__file__).parent / "components" / "both.py"
ARMS = ("concat", "film", "late:product", "metadata:logistic")
GONE = ("0.25", "0.5", "1", "age")
Found = dict[tuple[str, str, str], Outcome]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    store = tmp_path_factory.mktemp("missing")
    return Runtime(
        store=store, device="cpu", workers=1, offline=True, draws=100, paths={"both": BOTH}
    )


@pytest.fixture(scope="module")
def found(runtime: Runtime) -> Found:
    """Arms of each kind on one fold, whole and less: by arm, mode and what is missing."""
    frozen, network = (
        Request(
            targets=("both",), archs=("test_resnet",), protocols=("demo",), folds=(0,),
            modes=modes, fusions=arms, missing=gone, recipe={"threads": 1, "epochs": 2},
        )
        for modes, arms, gone in (
            (("frozen",), ("none", *ARMS), GONE), (("finetune", "tuned"), ("concat",), ("0.5",)),
        )
    )  # fmt: skip
    done = [*run_all(frozen, runtime), *run_all(network, runtime)]
    return {
        (o.spec.fusion, o.spec.mode, o.spec.missing): o for o in done if isinstance(o.spec, RunSpec)
    }


def scores(runtime: Runtime, outcome: Outcome) -> np.ndarray:
    return Store(runtime.store).predictions(outcome.key)["scores"]


def changed(runtime: Runtime, found: Found, arm: str, mode: str, gone: str) -> np.ndarray:
    """The groups whose probabilities are others than with all records."""
    kept = Store(runtime.store).predictions(found[arm, mode, ""].key)
    less = scores(runtime, found[arm, mode, gone])
    return np.unique(kept["groups"][~np.isclose(kept["scores"], less, atol=1e-5).all(axis=1)])


@pytest.mark.parametrize(
    ("arm", "mode"),
    [*((arm, "frozen") for arm in ARMS), ("concat", "finetune"), ("concat", "tuned")],
)
def test_half_of_the_patients_lose_their_record_and_no_other_changes(found, runtime, arm, mode):
    groups = Store(runtime.store).predictions(found[arm, mode, ""].key)["groups"]
    lost = changed(runtime, found, arm, mode, "0.5")
    assert 0 < len(lost) <= round(len(np.unique(groups)) / 2)
    assert len(lost) > len(np.unique(groups)) / 3, "that most lose something shows"
    assert found[arm, mode, "0.5"].data["test"] == found[arm, mode, ""].data["test"]


def test_every_arm_loses_the_same_and_the_larger_share_holds_the_smaller(found, runtime):
    both = [set(changed(runtime, found, arm, "frozen", "0.5")) for arm in ARMS]
    lost = missing.lost(fold_of(found, runtime), 0.5)
    truly = set(
        split.linked_groups(fold_of(found, runtime).prepared)[fold_of(found, runtime).parts.test][
            lost
        ]
    )
    assert all(part <= truly for part in both)
    shares = [missing.lost(fold_of(found, runtime), share) for share in (0.0, 0.25, 0.5, 1.0)]
    assert [one.sum() for one in shares] == sorted(one.sum() for one in shares)
    assert not shares[0].any()
    assert shares[-1].all()
    assert all((small <= large).all() for small, large in pairwise(shares))


def fold_of(found: Found, runtime: Runtime) -> finetune.Fold:
    spec = found["concat", "frozen", ""].spec
    assert isinstance(spec, RunSpec)
    prepared = prepare.prepare("both", spec.recipe.size, runtime)
    parts = split.split(prepared, spec.split, fold=spec.fold, partition=spec.partition)
    target = prepare.source_of("both", runtime)
    return finetune.Fold(spec, target, None, prepared, parts, None)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("arm", "mode"),
    [*((arm, "frozen") for arm in ARMS), ("concat", "finetune"), ("concat", "tuned")],
)
def test_with_no_record_missing_the_stored_network_says_what_it_said(found, runtime, arm, mode):
    whole = found[arm, mode, ""]
    spec = whole.spec.model_copy(update={"missing": "0", "base": whole.key})
    again = cells.run(Cell.of(spec, whole.versions), runtime)
    assert again.status == "ok", again.failure
    np.testing.assert_allclose(scores(runtime, again), scores(runtime, whole), atol=1e-5)


def test_a_column_is_taken_from_all(found, runtime):
    groups = Store(runtime.store).predictions(found["concat", "frozen", ""].key)["groups"]
    lost = changed(runtime, found, "concat", "frozen", "age")
    assert len(lost) > 0.9 * len(np.unique(groups))


def test_nothing_is_trained(found):
    for (arm, _, gone), outcome in found.items():
        if gone and not arm.startswith(("late", "metadata")):
            assert "train" not in outcome.seconds
            assert outcome.history == []
    assert found["concat", "frozen", "0.5"].chosen.startswith("half of the records missing from")


def test_the_plan_runs_the_whole_first_and_passes_over_arms_without_a_record(found, runtime):
    asked = Request(
        targets=("both",), archs=("test_resnet",), protocols=("demo",), folds=(0,), seeds=(1,),
        modes=("frozen",), fusions=("none", "concat"), missing=("0.5", "age"),
    )  # fmt: skip
    made = plan.make(asked, runtime)
    titles = [(p.cell.spec.fusion, p.cell.spec.missing) for p in made.of("to run")]
    assert titles == [("concat", ""), ("none", ""), ("concat", "0.5"), ("concat", "age")]
    last = made.of("to run")[-1].cell
    assert last.upstream() == [("run", made.of("to run")[0].cell.key)]
    assert "none: no record is read, so none can be missing." in made.notes


@pytest.mark.parametrize(
    ("gone", "keep", "match"),
    [
        ("1.5", True, "--missing 1.5 is no share"),
        ("0", True, "--missing 0 is no share"),
        ("agee", True, "no column 'agee' to go missing. Did you mean age"),
        ("0.5", False, "Leave --no-keep out, or --missing"),
    ],
)
def test_what_cannot_go_missing_is_refused(runtime, gone, keep, match):
    options = {"target": "both", "fusion": "concat", "mode": "frozen", "missing": [gone]}
    with pytest.raises(BenchError, match=match):
        plan.make(requests(options), runtime.model_copy(update={"keep": keep}))


def test_a_network_that_was_not_kept_says_what_to_do(found, runtime):
    whole = found["concat", "finetune", ""]
    bare = whole.spec.model_copy(update={"seed": 7})
    without = runtime.model_copy(update={"keep": False})
    done = cells.run(Cell.of(bare, whole.versions), without)
    spec = bare.model_copy(update={"missing": "0.5", "base": done.key})
    failed = cells.run(Cell.of(spec, whole.versions), runtime)
    assert failed.failure is not None
    assert "did not keep its network" in failed.failure.message
    assert "without --no-keep" in failed.failure.message


def test_shares_have_one_spelling_and_words():
    (asked,) = requests({"target": "x", "missing": [0.50, "0.5", ".25", "age+sex"]})
    assert asked.missing == ("0.5", "0.25", "age+sex")
    assert [lacking(one) for one in ("", "0.5", "0.25", "1", "age+sex")] == [
        "", "half of the records missing", "0.25 of the records missing",
        "all records missing", "age, sex missing",
    ]  # fmt: skip
