"""Cells are planned once each, know their state and why, and share what they can."""

import json
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from stores import ok

from benchmark import protocols, registry
from benchmark.cli.options import failure_kinds
from benchmark.errors import BenchError
from benchmark.plan import plan, run
from benchmark.plan.pace import Foresight, Pace
from benchmark.plan.request import DistanceRequest, Request
from benchmark.spec import (
    Augment,
    Cell,
    DistanceSpec,
    Failure,
    PretrainSpec,
    RunSpec,
    Runtime,
)
from benchmark.store import Store
from benchmark.train import archs, network, public


def finish(runtime: Runtime, planned: plan.Planned, **changes) -> None:
    Store(runtime.store).finish(planned.cell, ok(planned.cell, **changes))


def runs(made: plan.Plan) -> list[RunSpec]:
    return [p.cell.spec for p in made.cells if isinstance(p.cell.spec, RunSpec)]


def test_one_pretraining_serves_every_cell_that_starts_from_it(runtime, request_tiny):
    made = plan.make(
        request_tiny(sources=("none", "dtd"), fusions=("none", "concat"), seeds=(0,)), runtime
    )
    pretrainings = [p for p in made.cells if isinstance(p.cell.spec, PretrainSpec)]
    assert len(pretrainings) == 1
    assert made.cells[0] == pretrainings[0]
    assert len(runs(made)) == 2 * 2 * 3
    weights = {spec.weights for spec in runs(made) if spec.source == "dtd"}
    assert weights == {pretrainings[0].cell.key}


def changed(runtime, request_tiny, **changes) -> set[str]:
    """The fields of the run and of its pretraining that one change of the request moves."""
    fields = set()
    request = {"sources": ("patterns:near",), "folds": (0,)}
    two = [plan.make(request_tiny(**request, **more), runtime).cells for more in ({}, changes)]
    for one, other in zip(*two, strict=True):
        before, after = one.cell.spec, other.cell.spec
        names = type(before).model_fields
        fields |= {f"{before.kind}.{n}" for n in names if getattr(before, n) != getattr(after, n)}
    return fields


@pytest.mark.parametrize(
    "name, moved",
    [
        ("seeds", {"run.seed"}),
        ("partitions", {"run.partition"}),
        ("pretrain_seeds", {"run.pretrain_seed", "run.weights", "pretrain.seed"}),
    ],
)
def test_three_seeds_move_nothing_of_each_other(runtime, request_tiny, name: str, moved: set[str]):
    assert changed(runtime, request_tiny, **{name: (1,)}) == moved


def test_weights_that_were_not_trained_here_have_one_seed(runtime, request_tiny):
    request = request_tiny(sources=("none", "imagenet"), folds=(0,), pretrain_seeds=(0, 1))
    assert [spec.pretrain_seed for spec in runs(plan.make(request, runtime))] == [0, 0]


def test_the_next_run_takes_away_what_a_kill_left_beside_an_outcome(runtime, request_tiny):
    store, names = Store(runtime.store), ("running.json", "last.pt")
    done, failed = cells = plan.make(request_tiny(folds=(0, 1)), runtime).cells
    finish(runtime, done)
    store.fail(failed.cell, Failure(kind="oom", message="Out of memory."))
    paths = [[store.of(planned.cell) / name for name in names] for planned in cells]
    for path in (*paths[0], *paths[1]):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    again = partial(run.run, request_tiny(folds=(0, 1)), runtime)
    again(dry=True)
    assert all(path.is_file() for path in paths[0]), "looking changes nothing"
    again()
    assert not any(path.exists() for path in paths[0])
    assert all(path.is_file() for path in paths[1]), "with --retry it goes on from there"


def test_a_distance_looks_with_the_weights_of_its_pretraining_seed(runtime):
    request = plan.DistanceRequest(
        sources=("patterns:far",), targets=("demo:skin",), methods=("otdd",), seeds=(0, 1),
        probe="patterns:near", pretrain_seeds=(0, 1),
    )  # fmt: skip
    cells = [p.cell for p in plan.make(request, runtime).cells]
    trained = {c.key: c.spec.seed for c in cells if isinstance(c.spec, PretrainSpec)}
    found = [c.spec for c in cells if not isinstance(c.spec, PretrainSpec)]
    assert sorted(trained.values()) == [0, 1]
    assert sorted((s.seed, s.pretrain_seed, trained[s.weights]) for s in found) == [
        (0, 0, 0), (0, 1, 1), (1, 0, 0), (1, 1, 1),
    ]  # fmt: skip


def test_the_type_of_a_column_is_part_of_the_key(runtime, request_tiny):
    request = {"fusions": ("concat",), "folds": (0,)}
    made = [
        plan.make(request_tiny(**request, types=types), runtime).cells[0].cell
        for types in ({}, {"age": "categorical"}, {"age": "numeric"})
    ]
    types = [cell.spec.types for cell in made if isinstance(cell.spec, RunSpec)]
    assert [found["age"] for found in types] == ["numeric", "categorical", "numeric"]
    assert made[0].key == made[2].key != made[1].key


def test_a_late_cell_is_made_again_when_the_arm_on_the_record_changes(
    runtime, request_tiny, monkeypatch
):
    from benchmark.fusion.metadata import Metadata

    def late() -> Cell:
        made = plan.make(request_tiny(fusions=("late",), folds=(0,)), runtime)
        return next(p.cell for p in made.cells if p.cell.spec.fusion == "late")

    before = late()
    monkeypatch.setattr(Metadata, "card", replace(Metadata.card, version=7))
    after = late()
    assert (before.versions["record"], after.versions["record"]) == ("1", "7")
    assert before.key != after.key


def test_states_follow_the_store(runtime, request_tiny):
    request = request_tiny()
    made = plan.make(request, runtime)
    assert [p.state for p in made.cells] == ["to run"] * 3
    finish(runtime, made.cells[0])
    failure = Failure(kind="oom", message="too large")
    finish(runtime, made.cells[1], status="failed", failure=failure)
    finish(runtime, made.cells[2], status="failed", failure=Failure(kind="killed", message="9"))
    again = plan.make(request, runtime)
    assert [p.state for p in again.cells] == ["done", "failed", "to run"]
    assert "oom" in again.cells[1].why
    assert "killed" in again.cells[2].why
    retried = plan.make(request, runtime, retry=("oom",))
    assert [p.state for p in retried.cells] == ["done", "to run", "to run"]


def test_a_finished_grid_pretrains_nothing(runtime, request_tiny):
    request = request_tiny(sources=("dtd",))
    for planned in plan.make(request, runtime).cells:
        if isinstance(planned.cell.spec, RunSpec):
            finish(runtime, planned)
    assert not plan.make(request, runtime).of("to run")


def test_a_pretraining_that_was_set_aside_is_made_again_though_no_cell_waits(runtime, request_tiny):
    request = request_tiny(sources=("dtd",))
    for planned in plan.make(request, runtime).cells:
        finish(runtime, planned)
    store = Store(runtime.store)
    store.spoil(store.outcomes("pretrain")[0])
    assert [p.cell.spec.kind for p in plan.make(request, runtime).of("to run")] == ["pretrain"]


def test_tuned_heads_need_the_networks_that_a_run_would_not_keep(runtime, request_tiny):
    with pytest.raises(BenchError, match="Mode tuned"):
        plan.make(
            request_tiny(modes=("finetune", "tuned")), runtime.model_copy(update={"keep": False})
        )


def test_why_a_cell_runs_again_is_said(runtime, request_tiny):
    for planned in plan.make(request_tiny(), runtime).cells:
        finish(runtime, planned)
    changed = plan.make(request_tiny(recipe={"lr": 0.5}), runtime)
    reasons = plan.again(changed, Store(runtime.store))
    assert len(reasons) == 3
    assert all("recipe.lr 0.002 -> 0.5" in text for text in reasons.values())


def test_a_changed_component_runs_again_and_says_so(runtime, request_tiny, tmp_path: Path):
    own = tmp_path / "tiny.py"
    own.write_text(runtime.paths["tiny"].read_text())
    moved = runtime.model_copy(update={"paths": {"tiny": own}})
    first = plan.make(request_tiny(), moved)
    assert [p.cell.key for p in first.cells] == [
        p.cell.key for p in plan.make(request_tiny(), runtime).cells
    ], "where a file lies changes no number"
    for planned in first.cells:
        finish(moved, planned)
    own.write_text(own.read_text() + "\n# another rule\n")
    made = plan.make(request_tiny(), moved)
    assert len(made.of("to run")) == 3
    assert "version of target" in next(iter(plan.again(made, Store(moved.store)).values()))


def test_an_estimate_comes_from_cells_that_are_alike(runtime, request_tiny):
    store = Store(runtime.store)
    made = plan.make(request_tiny(), runtime)
    assert plan.estimate(made, store).seconds is None
    finish(runtime, made.cells[0], seconds={"total": 10.0})
    found = plan.estimate(plan.make(request_tiny(), runtime), store)
    assert found.seconds == pytest.approx(20.0)
    assert (found.bytes or 0) > 0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_a_batch_is_measured_where_no_finished_cell_is_alike(runtime, request_tiny, cache: Path):
    small = {"size": 16, "batch": 2}
    asked = request_tiny(modes=("finetune",), recipe={**small, "epochs": 100000})
    made, store = plan.make(asked, runtime), Store(runtime.store)
    found = plan.estimate(made, store, Foresight(runtime, patience=60.0))
    assert found.measured and found.unknown == 0
    assert found.seconds and found.seconds > 1000 * found.frozen > 0
    backbone = network.build("test_resnet", seed=0)
    weights = 4 * sum(p.numel() for p in backbone.parameters())
    assert 3 * weights < (found.bytes or 0) < 3.1 * weights  # and a head, for each of three folds
    (kept,) = cache.rglob("*.json")
    pace = Pace(**json.loads(kept.read_text()))
    kept.write_text(json.dumps(pace._replace(train=2 * pace.train)._asdict()))
    again = plan.estimate(made, store, Foresight(runtime, patience=60.0))
    assert again.seconds > 1.3 * found.seconds  # what was kept is what is told
    finish(runtime, made.cells[0], seconds={"total": 10.0})
    alike = plan.estimate(plan.make(asked, runtime), store, Foresight(runtime, patience=60.0))
    assert (alike.seconds, alike.measured) == (20.0, False)


def test_a_small_run_and_one_on_a_cluster_are_not_measured(runtime, request_tiny, cache: Path):
    made, store = plan.make(request_tiny(), runtime), Store(runtime.store)
    assert plan.estimate(made, store, Foresight(runtime, patience=60.0)).seconds is None
    huge = plan.make(request_tiny(modes=("finetune",), recipe={"epochs": 10**6}), runtime)
    assert plan.estimate(huge, store).seconds is None
    assert not cache.exists()


STAND_IN = """#!/usr/bin/env python3
import json, os, time
time.sleep({sleep})
print(json.dumps({{"train": int(os.getsid(0) == os.getpid()), "test": 1, "bytes": 1}}))
"""


def huge(arch: str) -> Request:
    """Worth a measurement, whatever is measured."""
    recipe = {"threads": 1, "epochs": 10**6, "batch": 16}
    return Request(targets=("tiny",), archs=(arch,), protocols=("demo",), recipe=recipe)


def test_a_measurement_has_a_session_of_its_own(runtime, cache: Path, monkeypatch, tmp_path):
    """So that Ctrl-C in a terminal is the command's, which ends it."""
    other = tmp_path / "other"
    other.write_text(STAND_IN.format(sleep=0))
    other.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(other))
    found = plan.estimate(
        plan.make(huge("test_resnet"), runtime),
        Store(runtime.store),
        Foresight(runtime, patience=60.0),
    )
    (kept,) = cache.rglob("*.json")
    assert found.measured and json.loads(kept.read_text())["train"] == 1


def test_networks_share_the_time_to_measure(runtime, cache: Path, monkeypatch, tmp_path, capfd):
    other = tmp_path / "other"
    other.write_text(STAND_IN.format(sleep=60))
    other.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(other))
    made = plan.make([huge("resnet18"), huge("resnet34")], runtime)
    foresight = Foresight(runtime, patience=0.1)
    assert plan.estimate(made, Store(runtime.store), foresight).seconds is None
    assert capfd.readouterr().err.count("Measuring") == 1 and not cache.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("dtd",)}, "only a source|No target"),
        ({"folds": (7,)}, "no fold 7"),
        ({"protocols": ("standrad",)}, "No protocol named 'standrad'"),
        ({"columns": ("weight",)}, "no column 'weight'"),
        ({"columns": ("dx_type",)}, "dx_type"),
        ({"recipe": {"learning": 1}}, "no setting 'learning'"),
        ({"recipe": {"lr": -1}}, "lr"),
        ({"sources": ("dtdd",)}, "No source named 'dtdd'"),
        ({"archs": ("resnet5O",)}, "No network named 'resnet5O'.*Did you mean resnet50"),
        ({"archs": ("resnet50.tv_in2k",)}, "Did you mean resnet50.tv_in1k"),
        ({"recipe": {"epochs": 0}}, "epochs is 0"),
        ({"recipe": {"size": -5}}, "size is -5"),
        ({"recipe": {"size": (32, 0)}}, "size is"),
        ({"types": {"aeg": "numeric"}}, "no column 'aeg' to give a type"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(runtime, request_tiny, changes, message):
    with pytest.raises(BenchError, match=message):
        plan.make(request_tiny(**changes), runtime)


def test_a_list_of_failure_kinds_bears_blanks(runtime, request_tiny):
    asked = request_tiny(folds=(0,))
    (planned,) = plan.make(asked, runtime).cells
    Store(runtime.store).prepare()
    Store(runtime.store).fail(planned.cell, Failure(kind="not_finite", message="no"))
    assert plan.make(asked, runtime, retry=failure_kinds("oom")).of("failed")
    again = plan.make(asked, runtime, retry=failure_kinds(" oom, not_finite"))
    assert [p.why for p in again.of("to run")] == ["again: not_finite"]


@pytest.mark.parametrize("arch", ["resnet50", "alexnet", "SENet154", "resnet50.a1_in1k", "vgg16"])
def test_networks_are_known_by_the_names_of_either_library_or_the_papers(arch: str):
    assert archs.known(arch)
    archs.need_imagenet(arch)


@pytest.mark.parametrize(
    "arch",
    [
        "vit_small_patch14_dinov2.lvd142m", "vit_base_patch16_dinov3", "resnet50_clip.openai",
        "vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.augreg_in21k_ft_in1k",
        "resnet50.fb_swsl_ig1b_ft_in1k", "convnext_tiny.in12k_ft_in1k",
    ],
)  # fmt: skip
def test_imagenet_is_not_a_name_for_other_data(runtime, request_tiny, arch: str):
    request = request_tiny(sources=("imagenet",), archs=(arch,), folds=(0,))
    with pytest.raises(BenchError, match=r"not made with ImageNet-1k.*bench weights add FILE"):
        plan.make(request, runtime)
    size = {"size": 112}  # whole patches of 14 and of 16
    request = request_tiny(sources=("none",), archs=(arch,), folds=(0,), recipe=size)
    assert len(plan.make(request, runtime).of("to run")) == 1


def test_an_untagged_network_has_weights_of_imagenet_alone():
    archs.need_imagenet("vit_base_patch16_224")
    assert public.tagged("vit_base_patch16_224") == "vit_base_patch16_224.augreg_in1k"
    assert public.tagged("resnet50") == "resnet50.tv_in1k"


def test_a_fusion_without_metadata_is_skipped_with_the_reason(runtime, request_tiny):
    request = request_tiny(targets=("demo:grey",), fusions=("none", "concat"))
    made = plan.make(request, runtime)
    skipped = made.of("skipped")
    assert len(skipped) == 3
    assert skipped[0].why == "demo:grey has no metadata"


def test_every_subset_of_the_columns_is_an_arm(runtime, request_tiny):
    made = plan.make(request_tiny(fusions=("none", "concat"), folds=(0,), subsets=True), runtime)
    found = [(spec.fusion, spec.columns) for spec in runs(made)]
    assert sorted(found) == [
        ("concat", ("age",)), ("concat", ("age", "site")), ("concat", ("site",)), ("none", ()),
    ]  # fmt: skip


def test_every_protocol_is_valid_and_takes_changes():
    assert {"standard", "demo", "cats", "metanet", "thomas", "yang"} <= {*protocols.names()}
    for name in protocols.names():
        found = protocols.load(name)
        recipe = protocols.recipe_for(found, "isic", "finetune", {"augment.rotation": 3, "lr": 0.1})
        assert recipe.augment.rotation == 3
        assert recipe.lr == 0.1
        assert recipe.augment.horizontal == found.recipe.augment.horizontal


@pytest.mark.parametrize(
    ("method", "sources", "targets"),
    [
        ("rivals:frechet", {"dtd", "chest_xray"}, {"chest_xray"}),  # what can be read here
        ("scores:logme", {"dtd", "chest_xray", "imagenet"}, {"chest_xray"}),
    ],
)
def test_all_names_every_set_that_can_be_read_here(runtime, method, sources, targets):
    for name in ("dtd", "chest_xray"):
        (runtime.data / name).mkdir(parents=True)
    asked = DistanceRequest(sources=("all",), targets=("all",), methods=(method,))
    made = plan.make(asked, runtime)
    specs = [p.cell.spec for p in made.cells if isinstance(p.cell.spec, DistanceSpec)]
    assert {spec.source for spec in specs} == sources
    assert {spec.target for spec in specs} == targets
    assert f"All targets: {', '.join(targets)}." in made.notes


def test_all_of_a_method_on_cards_is_every_set_listed(runtime):
    asked = DistanceRequest(sources=("all",), targets=("isic",), methods=("expert",))
    specs = [p.cell.spec for p in plan.make(asked, runtime).cells]
    sources = {spec.source for spec in specs if isinstance(spec, DistanceSpec)}
    listed = {*registry.names("source"), *registry.names("target")}
    assert sources == listed - {"folder", "weights", "timm", "hub", "patterns", "demo"}
    asked = asked.model_copy(update={"methods": ("rivals:frechet",)})
    specs = [p.cell.spec for p in plan.make(asked, runtime).cells]
    assert {s.source for s in specs if isinstance(s, DistanceSpec)} == {"demo", "patterns"}


BEARS = [
    ("ptbxl", "standard", ["horizontal", "rotation", "shift"]),
    ("chest_xray", "standard", ["horizontal"]),
    ("chest_xray", "demo", ["horizontal"]),
    ("chest_xray", "cats", []),
    ("isic", "standard", []),
]


@pytest.mark.parametrize(("target", "name", "out"), BEARS)
def test_what_the_images_cannot_bear_is_left_out_of_the_recipe(runtime, target, name, out):
    usual = protocols.load(name).recipe.augment
    asked = plan.Request(targets=(target,), protocols=(name,), folds=(0,))
    made = plan.make(asked, runtime)
    (spec,) = runs(made)
    changed = [k for k, v in spec.recipe.augment if v != getattr(usual, k)]
    assert sorted(changed) == out
    assert all(getattr(spec.recipe.augment, k) == getattr(Augment(), k) for k in changed)
    told = [note for note in made.notes if note.startswith(f"{name} on {target}: no augmentation")]
    assert bool(told) == bool(out)
    if out:
        assert all(k in told[0] for k in out)
        forced = asked.model_copy(update={"recipe": {"augment.horizontal": True}})
        assert runs(plan.make(forced, runtime))[0].recipe.augment.horizontal, "the user's word"
    frozen = plan.make(asked.model_copy(update={"modes": ("frozen",)}), runtime)
    assert not any("no augmentation" in note for note in frozen.notes), "it has none"


def test_a_card_that_names_no_augmentation_is_told_which_there_are():
    with pytest.raises(BenchError, match="Did you mean rotation"):
        protocols.recipe_for(protocols.load("standard"), "mine", "finetune", {}, ("rotations",))


def test_a_card_names_augmentations_that_there_are():
    found = {
        name: registry.load("source", name).card.cannot_bear
        for kind in ("source", "target")
        for name in registry.names(kind)
    }
    assert set(found["ptbxl"]) == set(Augment.model_fields) - {"fill"}
    for name, reasons in found.items():
        assert set(reasons) <= set(Augment.model_fields), name
        assert all(reasons.values()), name


def test_ten_thousand_cells_are_planned_in_three_seconds(runtime, request_tiny):
    request = request_tiny(
        sources=("none", "dtd"), fusions=("none", "concat"), seeds=tuple(range(834))
    )
    plan.make(request_tiny(), runtime)
    began = time.process_time()
    made = plan.make(request, runtime)
    assert len(made.cells) > 10000
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    ("protocol", "usual", "scratch"),
    [("standard", (30, 1e-4), (60, 1e-3)), ("demo", (6, 5e-4), (15, 3e-3)),
     ("yang", (100, 1e-4), (100, 1e-4))],
)  # fmt: skip
def test_training_from_scratch_has_a_schedule_of_its_own(runtime, protocol, usual, scratch):
    def recipes(**asked):
        request = plan.Request(
            targets=("demo:skin",), protocols=(protocol,), folds=(0,), archs=("test_resnet",),
            **asked,
        )  # fmt: skip
        cells = [p.cell.spec for p in plan.make(request, runtime).cells]
        return {
            (s.source, s.mode): (s.recipe.epochs, s.recipe.lr) for s in cells if s.kind == "run"
        }

    both = {"sources": ("none", "patterns:near")}
    found = recipes(**both, modes=("finetune", "tuned"))
    assert found["none", "finetune"] == scratch
    assert found["patterns:near", "finetune"] == usual
    frozen = recipes(**both, modes=("frozen",))
    assert len(set(frozen.values())) == 1
    asked = recipes(**both, recipe={"epochs": 3, "lr": 0.5})
    assert set(asked.values()) == {(3, 0.5)}  # what the user says wins
