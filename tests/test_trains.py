"""How much of a network is trained: what moves, what stays, what is kept, and how readers tell."""

import json
import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import registry
from benchmark.errors import BenchError
from benchmark.explain import predict
from benchmark.plan import plan
from benchmark.spec import Recipe, RunSpec, key_of
from benchmark.store import Store
from benchmark.train import finetune, job, loop, network, trains
from reports import compare
from reports.leaderboard import table

LABELS = torch.arange(8) % 2


@cache
def _built(arch: str) -> network.Backbone:
    return network.build(arch, seed=1)


def fitted(arch: str, fusion: str = "none", **how) -> tuple[nn.Module, dict, dict]:
    """A model after one epoch, and its tensors before and after it."""
    recipe = Recipe(epochs=1, batch=4, lr=1e-2, dropout=0.0, threads=1, **how)
    backbone = network.build(arch, seed=1)
    given = {id(p) for p in backbone.parameters()}
    arm = registry.load("fusion", fusion)
    with network.seeded(0):
        options = dict(arm.card.options)
        model = arm.network(backbone, 3, 2, dropout=0.0, options=options)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with network.seeded(0):
        trains.choose(model, backbone, given, recipe)
    images = torch.randint(0, 255, (8, 32, 32, 3), generator=torch.Generator().manual_seed(1))
    record = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
    inputs = loop.Pixels(
        images.to(torch.uint8), record, recipe, backbone.mean, backbone.std, torch.device("cpu")
    )
    loop.fit(model, inputs, LABELS, np.arange(8), np.arange(0), recipe, classes=2, seed=0)
    with torch.no_grad():
        unmerged = model.eval()(*inputs.batch(torch.arange(8), torch.Generator(), training=False))
        trains.merge(model)
        merged = model(*inputs.batch(torch.arange(8), torch.Generator(), training=False))
    assert torch.equal(unmerged, merged)
    return model, before, dict(model.state_dict())


def moved(before: dict, after: dict) -> set[str]:
    """Names of the network's tensors that changed; of the arm's own parts all have to."""
    assert before.keys() == after.keys(), "a kept network has its own names"
    found = {name for name in before if not torch.equal(before[name], after[name])}
    assert "head.output.weight" in found
    return {name.removeprefix("backbone.net.") for name in found if name.startswith("backbone.")}


@pytest.mark.parametrize(
    ("arch", "how", "parts"),
    [
        ("test_resnet", "head", ()),
        ("test_resnet", "last", ("layer4.",)),
        ("test_vit", "head", ()),
        ("test_vit", "last", ("blocks.5.", "norm.", "fc_norm.")),
        ("test_convnext", "last", ("stages.3.", "head.norm.")),
    ],
)
def test_what_is_left_alone_stays_to_the_bit_with_its_statistics(arch, how, parts):
    _, before, after = fitted(arch, trains=how)
    found = moved(before, after)
    assert bool(found) == bool(parts)
    assert {name for name in found if not name.startswith(parts)} == set()
    weights = {n.removeprefix("backbone.net.") for n in before if n.endswith("weight")}
    assert {name for name in weights if name.startswith(parts)} <= found if parts else True


@pytest.mark.parametrize(
    ("arch", "how", "kind"),
    [("test_vit", "norm", "norm"), ("test_vit", "bias", "bias"), ("test_resnet", "norm", "")],
)
def test_norms_and_biases_move_alone(arch, how, kind):
    _, before, after = fitted(arch, trains=how)
    found = moved(before, after)
    assert found
    assert {name for name in found if kind not in name} == set()
    assert not [name for name in found if after[f"backbone.net.{name}"].ndim > 1]
    statistics = {name for name in found if "running" in name}
    assert bool(statistics) == (arch == "test_resnet"), "a norm that learns keeps its statistics"


def test_low_rank_updates_end_as_plain_weights_of_that_rank():
    model, before, after = fitted("test_vit", trains="lora", lora_rank=2)
    found = moved(before, after)
    assert found == {
        f"blocks.{i}.attn.{layer}.weight" for i in range(6) for layer in ("qkv", "proj")
    }
    change = after["backbone.net.blocks.0.attn.qkv.weight"]
    change = change - before["backbone.net.blocks.0.attn.qkv.weight"]
    assert torch.linalg.matrix_rank(change, atol=1e-5) <= 2
    assert not [m for m in model.modules() if isinstance(m, trains.LowRank)]


def test_parts_that_an_arm_puts_into_the_network_are_trained_with_its_head():
    _, before, after = fitted("test_resnet", "film:block", trains="head")
    assert moved(before, after) == set()
    gates = [name for name in before if name.startswith("gate")]
    assert gates
    assert all(not torch.equal(before[name], after[name]) for name in gates)


def test_the_rate_falls_from_the_head_down_and_one_changes_nothing():
    model = registry.load("fusion", "none").network(
        _built("test_resnet"), 0, 2, dropout=0.0, options={}
    )
    of = {id(p): group["share"] for group in trains.groups(model, 0.5) for p in group["params"]}
    shares = {name: of[id(p)] for name, p in model.named_parameters()}
    assert shares["head.output.weight"] == 1
    assert [shares[f"backbone.net.layer{i}.0.conv1.weight"] for i in (4, 3)] == [0.5, 0.25]
    assert shares["backbone.net.conv1.0.weight"] == 0.5**5
    recipe = Recipe(lr=1e-2, optimizer="sgd", layer_decay=0.5)
    assert sorted({g["share"] for g in loop.make_optimizer(model, recipe).param_groups})[-1] == 1
    assert len(loop.make_optimizer(model, Recipe()).param_groups) == 1


def test_what_is_usual_leaves_the_key_and_what_cannot_be_is_refused():
    keys = [
        key_of(RunSpec(source="dtd", target="isic", recipe=recipe), {"core": "1"})
        for recipe in (
            Recipe(),
            Recipe(trains="all", lora_rank=8, layer_decay=1),
            Recipe(trains="last"),
        )
    ]
    assert keys[0] == keys[1] == "f998d92966284222" != keys[2]  # as before there was a choice
    for wrong in ({"trains": "some"}, {"lora_rank": 0}, {"layer_decay": 1.5}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Recipe(**wrong)


def planned(runtime, request_tiny, **asked) -> list[tuple[Any, Any]]:
    found = plan.make(request_tiny(targets=("demo:skin",), folds=(0,), **asked), runtime).cells
    return [(p.cell.spec, p.why) for p in found if isinstance(p.cell.spec, RunSpec)]


@pytest.mark.parametrize("arch", ["test_resnet", "convnext_atto", "vgg11"])
def test_low_rank_updates_without_attention_are_refused_before_the_run(runtime, request_tiny, arch):
    with pytest.raises(BenchError, match=rf"attention, and {arch} has none.*trains=last"):
        planned(
            runtime, request_tiny, archs=(arch,), modes=("finetune",), recipe={"trains": "lora"}
        )


@pytest.mark.parametrize(
    ("arch", "size", "why"),
    [
        ("vit_tiny_patch16_224", 64, ""),
        ("vit_tiny_patch16_224", 60, "patches of 16 pixels.*60 × 60 .*--size 64"),
        ("vit_small_patch14_dinov2", 64, "patches of 14 pixels.*--size 70"),
        ("swin_tiny_patch4_window7_224", 66, "patches of 4 pixels.*--size 64"),
        ("beit_base_patch16_224", 64, "one size alone.*--size 224"),
        ("resnet50", 61, ""),
    ],
)
def test_sizes_that_patches_do_not_fill_are_skipped_with_the_nearest(
    runtime, request_tiny, arch, size, why
):
    (found,) = planned(runtime, request_tiny, archs=(arch,), recipe={"size": size})
    assert bool(found[1]) == bool(why)
    assert re.search(why, str(found[1]))


def ran(runtime, request_tiny, arch, fusion="none", mode="finetune", size=64, **recipe) -> Any:
    """The outcome of one epoch on some images of skin."""
    recipe = {"size": size, "epochs": 1, "limit": 12, "batch": 8, **recipe}
    asked = request_tiny(
        targets=("demo:skin",),
        folds=(0,),
        archs=(arch,),
        modes=(mode,),
        fusions=(fusion,),
        recipe=recipe,
    )
    (cell, why), *rest = [(p.cell, p.why) for p in plan.make(asked, runtime).cells]
    assert not rest
    if why:
        return str(why)
    outcome = job.run(cell, runtime)
    assert outcome.status == "ok", outcome.failure
    return outcome


def test_a_low_rank_run_is_kept_whole_tells_its_size_and_is_an_arm_of_its_own(
    runtime, request_tiny
):
    low = ran(runtime, request_tiny, "test_vit", trains="lora")
    whole = ran(runtime, request_tiny, "test_vit")
    assert (
        whole.data["trained"]
        == whole.data["parameters"]
        == sum(p.numel() for p in _built("test_vit").parameters()) + 65 * len(whole.classes)
    )
    added = 8 * (64 + 3 * 64 + 64 + 64) * 6
    assert low.data["trained"] == added + 65 * len(low.classes)
    assert low.data["parameters"] == whole.data["parameters"] + added
    store = Store(runtime.store)
    found = predict.load(store, low, runtime)
    assert (
        found.model.state_dict().keys()
        == predict.load(store, whole, runtime).model.state_dict().keys()
    )
    prepared = found.work.prepared("demo:skin", found.recipe)
    test = finetune.parts_of(found.work, prepared, found.spec).test
    again = found.probabilities(found.inputs(prepared.images[test], None))
    np.testing.assert_allclose(again, store.predictions(low.key)["scores"], atol=1e-6)
    (board,) = json.loads(table.show(store, format="json"))
    settings = {text for row in board["rows"] for text in row["setting"]}
    assert settings & {"trains lora", "trains all"}
    told = [run for row in board["rows"] for run in row["runs"]]
    assert {run["trained"] for run in told} == {low.data["trained"], whole.data["trained"]}
    (pair,) = compare.compare(store, "lora", "all", by="trains").pairs
    assert pair.names == ("lora", "all")
    assert "trains" not in pair.shared


def test_a_frozen_network_has_no_choice_and_a_tuned_one_says_what_it_was(runtime, request_tiny):
    how = {"trains": "last", "layer_decay": 0.5, "lora_rank": 4}
    modes = ("finetune", "frozen", "tuned")
    found = dict.fromkeys(modes)
    for spec, _ in planned(runtime, request_tiny, modes=modes, recipe=how):
        found[spec.mode] = {name: getattr(spec.recipe, name) for name in how}
    usual = {name: getattr(Recipe(), name) for name in how}
    assert found == {"finetune": how, "frozen": usual, "tuned": how}


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"recipe": {"trains": "last"}}, "recipe.trains would change nothing.*--mode finetune"),
        ({"recipe": {"layer_decay": 0.5}}, "recipe.layer_decay would change nothing"),
        ({"sources": ("tiny",), "pretrain": {"trains": "last"}}, "pretrain.trains would change"),
        ({"sources": ("tiny",), "pretrain": {"lora_rank": 2}}, "pretrain.lora_rank would change"),
    ],
)
def test_what_would_change_nothing_is_refused(runtime, request_tiny, asked, match):
    with pytest.raises(BenchError, match=match):
        planned(runtime, request_tiny, **asked)


ARCHS = ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto")


def test_transformers_are_skipped_only_where_their_features_are_no_mean(runtime, request_tiny):
    arms = ("none", "concat", "film", "cross_attention")
    how = {"archs": ARCHS, "modes": ("frozen", "finetune"), "fusions": arms}
    found = planned(runtime, request_tiny, recipe={"size": 64}, **how)
    why = {(spec.arch, spec.mode, spec.fusion): why for spec, why in found if why}
    assert len(found) == 24
    film = {(arch, "frozen", "film") for arch in (ARCHS[0], ARCHS[2])}
    assert why.keys() == film | {(arch, "frozen", "cross_attention") for arch in ARCHS}
    for (_, _, arm), text in why.items():
        assert ("not the mean" if arm == "film" else "each place of the last maps") in text


@pytest.mark.parametrize(
    ("arch", "fusion", "mode", "how"),
    [
        (ARCHS[0], "film", "finetune", "lora"),
        ("test_vit", "concat", "frozen", "all"),
        ("test_vit", "cross_attention", "finetune", "lora"),
        pytest.param(ARCHS[1], "film", "finetune", "lora", marks=pytest.mark.slow),
        pytest.param(ARCHS[1], "film", "frozen", "all", marks=pytest.mark.slow),
        (ARCHS[2], "film", "finetune", "all"),
        *(
            pytest.param(arch, fusion, mode, how, marks=pytest.mark.slow)
            for arch in ARCHS
            for fusion in ("none", "concat", "film", "cross_attention")
            for mode, how in (("frozen", "all"), ("finetune", "all"), ("finetune", "lora"))
        ),
    ],
)
def test_transformers_run_at_64_pixels(runtime, request_tiny, arch, fusion, mode, how):
    if (arch, how) == (ARCHS[2], "lora"):
        pytest.skip("it has no attention, which is refused above")
    outcome = ran(runtime, request_tiny, arch, fusion, mode, trains=how)
    if isinstance(outcome, str):
        assert mode == "frozen"
        assert ("not the mean" if fusion == "film" else "each place of the last maps") in outcome
        return
    assert 0 <= outcome.metrics["auroc"].value <= 1


def test_a_distance_through_a_probe_that_cannot_take_the_size_is_skipped(runtime):
    asked = plan.DistanceRequest(
        sources=("demo:skin",), targets=("demo:grey",), methods=("task2vec",), probe="none",
        arch="vit_tiny_patch16_224", size=60,
    )  # fmt: skip
    (found,) = plan.make(asked, runtime).cells
    assert "patches of 16 pixels" in str(found.why)
