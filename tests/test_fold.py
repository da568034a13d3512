"""Every arm comes to its numbers: features shared, records fused, papers' heads solved."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stores import run_all

from benchmark import registry
from benchmark.data import prepare, split
from benchmark.plan import plan
from benchmark.spec import Outcome, RunSpec, Runtime
from benchmark.store import Store
from benchmark.train import finetune, loop, weights
from benchmark.train import job as cells
from benchmark.train.context import Memory, Work

BOTH = Path(__file__).parent / "components" / "both.py"
FUSED = ("concat", "metanet", "metablock", "film", "late:product")


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runtime, dict[str, Outcome]]:
    """One fold of every arm that works on pooled features, on the target that needs both."""
    store = tmp_path_factory.mktemp("fused")
    runtime = Runtime(
        store=store, device="cpu", workers=1, offline=True, draws=500, paths={"both": BOTH}
    )
    request = plan.Request(
        targets=("both",),
        fusions=("none", "metadata:boosting", "metadata:logistic", *FUSED),
        archs=("test_resnet",),
        modes=("frozen",),
        protocols=("demo",),
        folds=(0,),
        recipe={"threads": 1, "epochs": 20},
    )
    found = {o.spec.fusion: o for o in run_all(request, runtime) if isinstance(o.spec, RunSpec)}
    return runtime, found


def test_features_are_extracted_once_for_all_arms(fused):
    runtime, found = fused
    assert set(found) == {"none", "metadata:boosting", "metadata:logistic", *FUSED}
    assert len(list((runtime.store / "features").iterdir())) == 1


def test_arms_see_the_same_patients(fused):
    runtime, found = fused
    kept = [Store(runtime.store).predictions(o.key) for o in found.values()]
    assert len(kept) == 8
    for arrays in kept:
        assert np.array_equal(arrays["labels"], kept[0]["labels"])
        assert np.array_equal(arrays["groups"], kept[0]["groups"])


@pytest.mark.parametrize("arm", sorted({*FUSED} - {"late:product"}))
def test_fused_arms_beat_both_single_arms_outside_their_intervals(fused, arm: str):
    _, found = fused
    singles = [found[name].metrics["auroc"] for name in ("none", "metadata:logistic")]
    assert all(0.6 < single.value < 0.9 for single in singles)
    assert found[arm].metrics["auroc"].low > max(single.high for single in singles)


def test_late_fusion_builds_on_the_image_run(fused):
    _, found = fused
    late = found["late:product"]
    assert isinstance(late.spec, RunSpec) and late.spec.base == found["none"].key
    assert "features" not in late.seconds


def test_late_fusion_takes_the_better_arm_on_the_record_and_says_why(fused):
    runtime, found = fused
    late = found["late:product"]
    assert "and logistic on the record (the better by validation AUROC" in late.chosen
    store = Store(runtime.store)
    image, record, both = (
        store.predictions(found[name].key)["scores"].astype(float)
        for name in ("none", "metadata:logistic", "late:product")
    )
    values = [found[name].metrics["auroc"].value for name in ("none", "metadata:logistic")]
    assert late.metrics["auroc"].value > max(values) + 0.03
    product = image * record
    np.testing.assert_allclose(both, product / product.sum(1, keepdims=True), atol=1e-5)


def test_test_data_do_not_choose_the_arm_on_the_record(runtime, request_tiny):
    """Whatever labels and records the test part has, the choice and its reason are the same."""
    told = []
    for turned in (False, True):
        there = runtime.model_copy(update={"store": runtime.store / str(turned)})
        made = plan.make(request_tiny(fusions=("late",), folds=(0,)), there)
        cell = next(p.cell for p in made.cells if p.cell.spec.fusion == "late")
        spec = cell.spec
        prepared = prepare.prepare("tiny", spec.recipe.size, there)
        parts = split.split(prepared, spec.split, fold=0)
        labels = prepared.labels.copy()
        record = np.random.default_rng(3).normal(size=(len(labels), 2)).astype(np.float32)
        record[:, 0] += labels
        if turned:
            labels[parts.test], record[parts.test] = labels[parts.test][::-1], 9
        one = finetune.Fold(
            spec, prepare.source_of("tiny", there), registry.load("fusion", "late"),
            replace(prepared, labels=labels), parts, record,
        )  # fmt: skip
        work = Work(
            cell, there, Store(there.store), loop.Callbacks(), torch.device("cpu"), Memory()
        )
        told.append(finetune._beside(work, one)[1])
    assert told[0] == told[1]
    assert "boosting 0." in told[0] and "logistic 0." in told[0]
    assert "boosted" not in told[0], "a further candidate would change finished runs"


@pytest.mark.parametrize("protocol", ["demo", "yang"])
def test_boosted_trees_choose_by_validation_patients_and_stand_beside_an_image(
    runtime, request_tiny, protocol
):
    found = run_all(
        request_tiny(
            fusions=("metadata:boosted", "late"), protocols=(protocol,), folds=(0,),
            options={"record": "boosted"}, missing=("1",), recipe={"size": 32},
        ),
        runtime,
    )  # fmt: skip
    alone, late = ({o.spec.missing: o for o in found if o.spec.fusion == name}
                   for name in ("metadata:boosted", "late"))  # fmt: skip
    judge = "validation AUROC" + (" inside the training part" if protocol == "yang" else "")
    assert re.fullmatch(rf"boosted on the record, .* trees of .*, by {judge}", alone[""].chosen)
    assert late[""].chosen.endswith("and boosted on the record (as asked)")
    store = Store(runtime.store)
    image, record, both = (
        store.predictions(o.key)["scores"].astype(float)
        for o in (next(o for o in found if o.spec.fusion == "none"), alone[""], late[""])
    )
    np.testing.assert_allclose(both, (image + record) / 2, atol=1e-5)
    gone = store.predictions(alone["1"].key)["scores"]
    assert np.ptp(gone, axis=0).max() < 1e-6 < np.ptp(record, axis=0).max(), "gaps alone"


def test_an_encoder_is_kept_and_numbers_are_explained(fused):
    runtime, found = fused
    folder = Store(runtime.store).folder("run", found["concat"].key)
    assert (folder / "encoder.json").is_file()
    assert (folder / "weights.safetensors").is_file()
    assert found["concat"].data["digest"] == found["none"].data["digest"]


def test_arms_inside_the_network_are_skipped_on_features(runtime, request_tiny):
    asked = request_tiny(fusions=("attention", "film:block", "film"), archs=("resnet50",))
    made = plan.make(asked, runtime)
    reasons = {p.cell.spec.fusion: p.why for p in made.of("skipped")}
    assert set(reasons) == {"attention", "film:block"}
    assert all("mode frozen" in why for why in reasons.values())


def test_arms_inside_the_network_train_with_it(runtime, request_tiny):
    once = {"modes": ("finetune",), "folds": (0,), "recipe": {"epochs": 1}}
    thin = request_tiny(fusions=("film:block", "daft"), archs=("resnet10t",), **once)
    assert len(run_all(thin, runtime)) == 2
    deep = request_tiny(fusions=("attention",), archs=("resnet14t",), **once)
    assert len(run_all(deep, runtime)) == 1


def test_thomas_solves_the_softmax_on_tuned_features(runtime, request_tiny):
    request = request_tiny(
        fusions=("none", "concat"), modes=("tuned",), protocols=("thomas",),
        recipe={"epochs": 1, "size": 32, "head": "optimum"},
    )  # fmt: skip
    found = run_all(request, runtime)
    assert [o.spec.mode for o in found] == ["finetune", "tuned", "tuned"]
    tuned = found[1:]
    assert {o.spec.base for o in tuned} == {found[0].key}
    assert all("gradient norm" in o.chosen for o in tuned)
    assert all(o.data["siblings"] > 0 for o in tuned), "images are split: siblings leak"


def test_a_source_is_pretrained_and_its_overlap_measured(runtime, request_tiny):
    request = request_tiny(sources=("tiny",), folds=(0,), recipe={"epochs": 1}, fusions=("none",))
    found = run_all(request, runtime)
    pretrained, run = found
    assert {"train_auroc", "val_auroc", "test_auroc"} <= set(pretrained.metrics)
    assert run.spec.weights == pretrained.key
    assert run.data["overlap"] == run.data["test"], "the source is the target: all is known"


def test_pretraining_depends_on_its_seed_and_on_nothing_before_it(runtime, request_tiny, tmp_path):
    states = []
    for i in range(2):
        torch.manual_seed(100 + i)  # whatever ran before in this process
        there = runtime.model_copy(update={"store": tmp_path / str(i)})
        made = plan.make(request_tiny(sources=("tiny",), folds=(0,)), there)
        outcome = cells.run(made.cells[0].cell, there)
        states.append(weights.load(Store(there.store), outcome.key))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_record_in_mode_frozen_and_finetune_is_the_same_record(runtime, request_tiny):
    request = request_tiny(
        fusions=("concat",), modes=("frozen", "finetune"), folds=(0,), recipe={"epochs": 1}
    )
    texts = {
        (Store(runtime.store).folder("run", o.key) / "encoder.json").read_text()
        for o in run_all(request, runtime)
    }
    assert len(texts) == 1
