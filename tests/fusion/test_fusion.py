"""Every arm: known values, where it may work, how it starts, what it makes of records."""

import copy
import re
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from hypothesis import given, settings
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from timm.models.resnet import Bottleneck
from torch import nn

from benchmark import registry
from benchmark.errors import BenchError
from benchmark.fusion import attention
from benchmark.spec import Recipe
from benchmark.train.choose import Rows
from benchmark.train.network import Backbone, build, he_init, seeded
from benchmark.train.objective import class_weights, quality

DATA = Path(__file__).parent.parent / "data"
NETWORK_ARMS = (
    "none", "concat", "metanet", "metablock", "film", "film:block", "daft", "daft:maps",
    "attention", "cross_attention", "cross_attention:record", "late",
)  # fmt: skip
POOLED_ARMS = ("none", "concat", "metanet", "metablock", "film", "daft:maps", "late")
M, K = 5, 3


def maps_case(name: str) -> dict[str, torch.Tensor]:
    """A case of `fusion_maps.npz`, whose x and m all cases share."""
    known = np.load(DATA / "fusion_maps.npz")
    found = {k: torch.tensor(known[k]) for k in ("x", "m")}
    return found | {
        k.removeprefix(f"{name}__"): torch.tensor(v)
        for k, v in known.items()
        if k.startswith(f"{name}__")
    }


def arm_case(name: str) -> dict[str, torch.Tensor]:
    known = np.load(DATA / "fusion_arms.npz")
    return {
        k.removeprefix(f"{name}__"): torch.tensor(v)
        for k, v in known.items()
        if k.startswith(f"{name}__")
    }


def put(module: Any, **values: torch.Tensor) -> None:
    """Set parameters or buffers; a smaller value fills the first corner of a zeroed tensor."""
    with torch.no_grad():
        for name, value in values.items():
            where = module
            *path, last = name.split(".")
            for step in path:
                where = getattr(where, step)
            tensor = getattr(where, last)
            tensor.zero_()
            tensor[tuple(slice(0, side) for side in value.shape)] = value


def close(found: torch.Tensor, want: torch.Tensor) -> None:
    torch.testing.assert_close(found, want, atol=1e-10, rtol=0)


def named(**values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): value for name, value in values.items()}


def pictures(n: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def records(n: int = 4, m: int = M) -> torch.Tensor:
    return torch.randn(n, m, generator=torch.Generator().manual_seed(2))


def network_of(name: str, backbone: Backbone, *, dropout: float = 0.0, **options: Any) -> Any:
    torch.manual_seed(0)
    arm = registry.load("fusion", name)
    record = M if arm.card.record else 0
    return arm.network(backbone, record, K, dropout=dropout, options=options)


@pytest.fixture(scope="module")
def resnet26() -> Backbone:
    """A narrow bottleneck ResNet whose batch norms have seen something."""
    with seeded(1):
        net = timm.create_model("resnet26", channels=(8, 16, 24, 32), num_classes=0)
        backbone = Backbone("resnet26", net)
        he_init(backbone)
    backbone.train()
    with torch.no_grad():
        for _ in range(3):
            backbone.pooled(pictures(8))
    return backbone.eval()


# Known values ------------------------------------------------------------------------------------


def test_concatenation_gives_the_known_probabilities():
    case = arm_case("concat_softmax")
    head = registry.load("fusion", "concat").head(64, 3, 7, dropout=0.5, options={}).double().eval()
    put(head, **named(output__weight=case["W"], output__bias=case["b"]))
    close(head(case["F"], case["G"]).softmax(1), case["P"])


@pytest.mark.parametrize(("name", "layers"), [("metanet", 2), ("metanet_code", 1)])
def test_metanet_gives_the_known_maps_and_logits(name: str, layers: int):
    case = maps_case(name)
    arm = registry.load("fusion", "metanet")
    head = arm.head(32, 17, 7, dropout=0.5, options={"layers": layers}).double().eval()
    if layers == 2:
        put(head.gate.layers, **{"0.weight": case["W1"], "0.bias": case["b1"]})
        put(head.gate.layers, **{"2.weight": case["W2"], "2.bias": case["b2"]})
    else:
        put(head.gate.layers, **{"0.weight": case["W"], "0.bias": case["b"]})
    put(head.output, weight=case["Wh"], bias=case["bh"])
    y = head.gate(case["x"], case["m"])
    close(y, case["gate"][:, :, None, None] * case["x"])
    if "y" in case:
        close(y, case["y"])
    close(head.output(y.mean((2, 3))), case["logits"])
    close(head(case["x"].mean((2, 3)), case["m"]), case["logits"])  # it commutes with the pooling


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_metablock_gives_the_known_features(mode: str):
    case = arm_case(f"metablock_{mode}")
    arm = registry.load("fusion", "metablock")
    gate = arm.gate(32, 17, options={"groups": 8}).double().train(mode == "train")
    for part, letter in ((gate.factor, "f"), (gate.shift, "g")):
        put(part[0], weight=case[f"W{letter}"], bias=case[f"b{letter}"])
        norm = {"weight": "w", "bias": "b", "running_mean": "rm", "running_var": "rv"}
        put(part[1], **{name: case[f"bn{letter}_{short}"] for name, short in norm.items()})
    close(gate(case["V"].flatten(1), case["m"]), case["y"].flatten(1))


@pytest.mark.parametrize(("scale", "output"), [("delta", "y_delta"), ("linear", "y")])
def test_film_gives_the_known_maps(scale: str, output: str):
    case = maps_case("film")
    gate = registry.load("fusion", "film").gate(32, 17, options={"scale": scale}).double()
    put(gate.affine, weight=case["W"], bias=case["b"])
    close(gate(case["x"], case["m"]), case[output])
    close(gate(case["x"].mean((2, 3)), case["m"]), case[output].mean((2, 3)))


@pytest.mark.parametrize(("scale", "output"), [("linear", "y"), ("sigmoid", "y_sigmoid")])
def test_daft_gives_the_known_maps(scale: str, output: str):
    case = maps_case("daft")
    gate = registry.load("fusion", "daft:maps").gate(32, 17, options={"scale": scale}).double()
    assert gate.inward.weight.shape == case["W1"].shape  # (C + M) / 7
    put(gate, **{"inward.weight": case["W1"], "outward.weight": case["W2"]})
    close(gate(case["x"], case["m"]), case[output])
    close(gate(case["x"].mean((2, 3)), case["m"]), case[output].mean((2, 3)))


def test_daft_adds_one_to_the_scale_by_default():
    case = maps_case("daft")
    gate = registry.load("fusion", "daft").gate(32, 17, options={}).double()
    close(gate(case["x"], case["m"]), case["x"])  # starts as the identity
    put(gate, **{"inward.weight": case["W1"], "outward.weight": case["W2"]})
    close(gate(case["x"], case["m"]), case["y"] + case["x"])


@pytest.mark.parametrize("variant", ["image", "record"])
def test_cross_attention_is_softmax_of_products_over_the_other_sides_tokens(variant: str):
    arm = registry.load("fusion", f"cross_attention:{variant}")
    torch.manual_seed(0)
    gate = arm.gate(8, M, options={"heads": 1, "width": 6}).double().eval()
    with torch.no_grad():
        gate.outward.weight.normal_()
    x, m = torch.randn(4, 8, 3, 2).double(), records().double()
    columns = torch.stack([m[:, [j]] * gate.direction[j] + gate.point[j] for j in range(M)], 1)
    tokens = x.flatten(2).transpose(1, 2)
    scaled = (tokens - tokens.mean(2, keepdim=True)) / (
        tokens.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    places = gate.places(scaled)
    asks, told = (columns, places) if variant == "record" else (places, columns)
    of = [asks, told, told]
    wide, bias = gate.attention.in_proj_weight.chunk(3), gate.attention.in_proj_bias.chunk(3)
    q, k, v = (part @ w.T + b for part, w, b in zip(of, wide, bias, strict=True))
    found = gate.attention.out_proj((q @ k.transpose(1, 2) / 6**0.5).softmax(2) @ v)
    if variant == "record":
        found = (columns + found).mean(1, keepdim=True).expand(-1, 6, -1)
    close(gate(x, m), x + gate.outward(found).transpose(1, 2).view(x.shape))


@pytest.mark.parametrize("variant", ["se", "mul", "raw"])
def test_clinical_attention_gives_the_known_maps(variant: str):
    case = arm_case(f"rbca_{variant}")
    block = attention.block(Bottleneck(16, 4), 20, variant).double().train()
    put(
        block, **named(conv1__weight=case["c1"], conv2__weight=case["c2"], conv3__weight=case["c3"])
    )
    put(block.align, weight=case["Wt"], bias=case["bt"])
    for i in (1, 2, 3):
        put(getattr(block, f"bn{i}"), weight=case[f"g{i}"], bias=case[f"b{i}"])
    close(block(case["x"], case["t"]), case["y"])


def test_a_record_that_knows_nothing_changes_nothing():
    """Whatever the priors are that the two sides were trained under."""
    prior = np.array([0.7, 0.2, 0.1])
    image = np.random.default_rng(0).dirichlet(np.ones(3), 8)
    product = registry.load("fusion", "late:product")
    np.testing.assert_allclose(product.combine(image, np.tile(prior, (8, 1)), prior), image)
    balanced = registry.load("fusion", "metadata").prior(np.array([0, 0, 0, 2]), 3)
    assert balanced.tolist() == [0.5, 0.0, 0.5]


def test_late_fusion_gives_the_known_probabilities():
    case = {name: value.numpy() for name, value in arm_case("late").items()}
    pi, pt, prior = case["pi"], case["pt"], case["prior"]
    np.testing.assert_allclose(registry.load("fusion", "late").combine(pi, pt), case["mean"])
    product = registry.load("fusion", "late:product")
    np.testing.assert_allclose(product.combine(pi, pt, prior), case["bayes"], atol=1e-12)
    uniform = pi * pt / (pi * pt).sum(1, keepdims=True)
    np.testing.assert_allclose(product.combine(pi, pt), uniform, atol=1e-12)


# How they start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["se", "mul", "raw"])
@pytest.mark.parametrize("training", [False, True])
def test_attention_starts_as_the_pretrained_network(
    variant: str, training: bool, resnet26: Backbone
):
    backbone = copy.deepcopy(resnet26).train(training)
    with torch.no_grad():
        want = backbone.pooled(pictures())
    backbone = copy.deepcopy(resnet26)
    model = network_of(f"attention:{variant}", backbone).train(training)
    with torch.no_grad():
        found = backbone.pool(model.maps(pictures(), records()))
        other = backbone.pool(model.maps(pictures(), -3 * records()))
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other, want, rtol=1e-4, atol=1e-4)


def test_attention_wakes_all_of_its_weights(resnet26: Backbone):
    """The 3×3 gets gradients on the attended half and on the new rows, then everything does."""
    model = network_of("attention", copy.deepcopy(resnet26)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    labels = torch.tensor([0, 1, 2, 0])
    for step in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pictures(), records()), labels).backward()
        block = model.backbone.stages()[1][1]  # its input is four times as wide as its 3×3
        half, planes = block.conv1.out_channels, block.conv2.out_channels
        assert half == 2 * planes
        assert block.conv2.weight.grad[:, :half].abs().max() > 0
        assert block.conv2.weight.grad[:, half + planes :].abs().max() > 0
        if step == 1:
            assert block.conv1.weight.grad[planes:].abs().amax((1, 2, 3)).min() > 0
            assert block.align.weight.grad.abs().max() > 0
        optimizer.step()


@pytest.mark.parametrize(
    "name",
    ["film", "film:block", "daft", "daft:maps", "cross_attention", "cross_attention:record"],
)
def test_arms_that_add_to_maps_start_as_the_image_alone(name: str, resnet26: Backbone):
    want = resnet26.pooled(pictures())
    model = network_of(name, copy.deepcopy(resnet26)).eval()
    alone = network_of("none", copy.deepcopy(resnet26)).eval()
    head = model.head.output
    torch.testing.assert_close(model(pictures(), records()), head(want))
    assert torch.equal(alone(pictures()), alone(pictures(), records()))
    with torch.no_grad():
        for parameter in (model.gate or model.head.gate).parameters():
            parameter.normal_(std=0.1)
    assert not torch.allclose(model(pictures(), records()), head(want), atol=1e-3)


@pytest.mark.parametrize("name", ["film:block", "daft"])
def test_arms_inside_the_block_act_before_its_first_relu(name: str, resnet26: Backbone):
    model = network_of(name, copy.deepcopy(resnet26)).eval()
    with torch.no_grad():
        for parameter in model.gate.parameters():
            parameter.normal_(std=0.05)
    net = model.backbone.net
    x = net.layer3(net.layer2(net.layer1(model.backbone.stem(pictures()))))
    last = net.layer4[-1]
    for block in net.layer4[:-1]:
        x = block(x)
    out = last.act1(model.gate(last.bn1(last.conv1(x)), records()))
    out = last.bn3(last.conv3(last.act2(last.bn2(last.conv2(out)))))
    torch.testing.assert_close(model.maps(pictures(), records()), last.act3(out + x))


# All arms ----------------------------------------------------------------------------------------


def trained(name: str, backbone: Backbone) -> tuple[Any, float]:
    """The arm's network after two steps, and the loss of the second."""
    model = network_of(name, copy.deepcopy(backbone), dropout=0.5).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss = torch.zeros(())
    for _ in range(2):
        logits = model(pictures(), records())
        assert logits.shape == (4, K)
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    return model.eval(), float(loss.detach())


@pytest.mark.parametrize("name", NETWORK_ARMS)
def test_every_arm_trains_and_repeats_itself(name: str, resnet26: Backbone):
    model, loss = trained(name, resnet26)
    assert np.isfinite(loss)
    assert trained(name, resnet26)[1] == loss
    other = copy.deepcopy(model)
    other.load_state_dict(model.state_dict())
    want = model(pictures(), records())
    assert torch.equal(other(pictures(), records()), want)
    assert torch.equal(model.decide(model.maps(pictures(), records()), records()), want)
    reads = not torch.equal(model(pictures(), records() + 1), want)
    assert reads == (name not in ("none", "late"))


@pytest.mark.parametrize("name", POOLED_ARMS)
def test_a_head_on_cached_features_is_the_whole_network(name: str, resnet26: Backbone):
    backbone = resnet26
    model = network_of(name, backbone).eval()
    arm = registry.load("fusion", name)
    head = arm.head(backbone.channels, M if arm.card.record else 0, K, dropout=0.0, options={})
    head.load_state_dict(model.head.state_dict())
    features = backbone.pooled(pictures())
    torch.testing.assert_close(head.eval()(features, records()), model(pictures(), records()))


@pytest.mark.parametrize("name", ["metanet", "film", "daft:maps"])
def test_maps_are_gated_before_they_are_flattened(name: str):
    backbone = build("alexnet", seed=1).eval()
    model = network_of(name, backbone).eval()
    with torch.no_grad():
        for parameter in model.gate.parameters():
            parameter.normal_(std=0.1)
    maps = backbone.maps(pictures(2, 64))
    want = model.head(backbone.pool(model.gate(maps, records(2))))
    torch.testing.assert_close(model(pictures(2, 64), records(2)), want)
    assert model.gate(maps, records(2)).shape[1] == 256


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
def test_layers_on_the_record_are_as_wide_as_published(layers: int):
    head = registry.load("fusion", "concat").head(
        64, 17, 7, dropout=0.0, options={"layers": layers}
    )
    widths = [m.out_features for m in head.record.modules() if isinstance(m, nn.Linear)]
    hidden: list[list[int]] = [[], [64], [1024, 64], [512, 1024, 64], [256, 512, 1024, 64]]
    assert widths == hidden[layers]
    assert head.output.in_features == 64 + (64 if layers else 17)
    if layers:
        gate = registry.load("fusion", "metanet").gate(64, 17, options={"layers": layers})
        assert [m.out_features for m in gate.modules() if isinstance(m, nn.Linear)] == widths


@pytest.mark.parametrize(
    ("name", "arch", "mode", "why"),
    [
        ("concat", "alexnet", "frozen", ""),
        ("metablock", "vgg16", "tuned", ""),
        ("metanet", "resnet50", "frozen", ""),
        ("metanet", "vgg19", "finetune", ""),
        ("metanet", "vgg19", "frozen", "not the mean"),
        ("film", "convnext_tiny", "frozen", "not the mean"),
        ("daft:maps", "vit_base_patch16_224", "tuned", "not the mean"),
        ("metanet", "convnext_tiny", "finetune", ""),
        ("film", "alexnet", "tuned", "not the mean"),
        ("film", "densenet201", "frozen", ""),
        ("film:block", "resnet50.tv_in1k", "finetune", ""),
        ("film:block", "resnet50", "frozen", "keeps only features"),
        ("daft", "resnet18", "finetune", ""),
        ("daft", "resnet18", "tuned", "keeps only features"),
        ("daft", "googlenet", "finetune", "blocks of a ResNet"),
        ("daft:maps", "googlenet", "frozen", ""),
        ("attention", "resnet50", "finetune", ""),
        ("attention:mul", "resnet101.tv_in1k", "finetune", ""),
        ("attention", "resnet18", "finetune", "bottlenecks"),
        ("attention", "resnet34.tv_in1k", "finetune", "bottlenecks"),
        ("attention", "wide_resnet50_2", "finetune", "bottlenecks"),
        ("attention", "densenet161", "finetune", "blocks of a ResNet"),
        ("attention", "resnet50", "frozen", "keeps only features"),
        ("cross_attention", "alexnet", "finetune", ""),
        ("cross_attention:record", "vit_tiny_patch16_224", "finetune", ""),
        ("cross_attention", "resnet50", "frozen", "each place of the last maps"),
        ("cross_attention", "convnext_tiny", "tuned", "each place of the last maps"),
        ("late", "vgg16", "frozen", ""),
        ("none", "alexnet", "tuned", ""),
    ],
)
def test_an_arm_says_where_it_cannot_work(name: str, arch: str, mode: str, why: str):
    found = registry.load("fusion", name).refuses(arch, mode)
    assert bool(found) == bool(why)
    assert why in found


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("concat", {"layers": 5}, "fusion.layers is 5"),
        ("metanet", {"layers": 0}, "fusion.layers is 0"),
        ("metablock", {"groups": 7}, "cannot be parted into 7 groups"),
        ("film", {"scale": "tanh"}, "fusion.scale is 'tanh'"),
        ("daft:maps", {"scale": "cubic"}, "fusion.scale is 'cubic'"),
        ("concat", {"modality_dropout": 1.0}, "modality_dropout is 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], what: str):
    with pytest.raises(BenchError, match=what):
        registry.load("fusion", name).head(64, M, K, dropout=0.0, options=options)


@pytest.mark.parametrize("name", [n for n in NETWORK_ARMS if n not in ("none", "late")])
def test_records_are_forgotten_in_training_alone(name: str, resnet26: Backbone):
    model = network_of(name, copy.deepcopy(resnet26), modality_dropout=0.9)
    seen: list[torch.Tensor] = []
    reader = model if hasattr(model, "clinical") or model.gate is not None else model.head
    reader.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    torch.manual_seed(0)
    ones = torch.ones(40, M)
    model.train()(pictures(40), ones)
    forgotten = seen[-1] == 0
    assert forgotten.all(1).eq(forgotten.any(1)).all()  # whole records
    assert 28 <= int(forgotten.all(1).sum()) < 40
    model.eval()(pictures(2), ones[:2])
    assert torch.equal(seen[-1], ones[:2])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"heads": 3}, "width of 64 cannot be parted into 3 heads"),
        ({"heads": 0}, "into 0 heads"),
        ({"width": 0}, "width of 0"),
        ({"dropout": 1.0}, "fusion.dropout is 1"),
        ({"modality_dropout": 1.0}, "modality_dropout is 1"),
    ],
)
def test_attention_that_cannot_be_built_is_refused(options, what, resnet26: Backbone):
    with pytest.raises(BenchError, match=what):
        registry.load("fusion", "cross_attention").network(
            resnet26, M, K, dropout=0.0, options=options
        )


@pytest.mark.parametrize("name", ["attention", "cross_attention", "daft", "film:block", "metadata"])
def test_what_needs_the_network_has_no_head_on_features(name: str):
    with pytest.raises(BenchError):
        registry.load("fusion", name).head(64, M, K, dropout=0.0, options={})


def test_heads_forget_records_too():
    torch.manual_seed(0)
    arm = registry.load("fusion", "concat")
    head = arm.head(4, M, K, dropout=0.0, options={"modality_dropout": 0.5}).train()
    logits = head(torch.zeros(200, 4), torch.ones(200, M))
    alone = (logits == head.output.bias).all(1)
    assert 70 < int(alone.sum()) < 130


# Probabilities -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(float, (2, 5, K), elements=st.floats(0, 1)), st.sampled_from(["mean", "product"]))
def test_late_fusion_gives_probabilities(raw: np.ndarray, variant: str):
    raw = np.where(raw < 1e-3, 0.0, raw)
    raw[..., 0] += raw.sum(2) == 0
    image, record = raw / raw.sum(2, keepdims=True)
    prior = np.array([0.7, 0.3, 0.0])
    found = registry.load("fusion", f"late:{variant}").combine(image, record, prior)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1)


def test_sides_that_exclude_each_other_are_averaged():
    found = registry.load("fusion", "late:product").combine(
        np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    )
    np.testing.assert_allclose(found, [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize("variant", ["boosting", "logistic"])
def test_a_record_alone_takes_missing_values_and_missing_classes(variant: str):
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2], 200, p=[0.8, 0.2])
    record = np.c_[labels + rng.normal(0, 0.3, 200), rng.normal(size=200)]
    record[::7, 1] = np.nan
    arm = registry.load("fusion", f"metadata:{variant}")
    found = arm.fit_predict(record, labels, record, 0, classes=4)
    assert found.shape == (200, 4)
    assert not found[:, [1, 3]].any()
    np.testing.assert_allclose(found.sum(1), 1)
    assert balanced_accuracy_score(labels, found.argmax(1)) > 0.95
    np.testing.assert_array_equal(found, arm.fit_predict(record, labels, record, 0, classes=4))
    np.testing.assert_array_equal(
        arm.fit_predict(record, labels * 0 + 2, record[:3], 0), [[0, 0, 1]] * 3
    )
    assert arm.fit_predict(
        np.c_[record, record[:, 0] * np.nan], labels, np.c_[record, record[:, :1]], 0
    ).shape == (200, 3)


def boosted(labels: np.ndarray, record: np.ndarray, rows: Rows, **changes: Any) -> tuple[Any, str]:
    """What boosted trees say of all records, and their settings."""
    weight = class_weights(labels[rows.train], 4, Recipe(**changes))
    arm = registry.load("fusion", "metadata:boosted")
    return arm.choose(record, labels, rows, record, 0, weight=weight, quality=quality)


@pytest.fixture(scope="module")
def steps() -> tuple[np.ndarray, np.ndarray, Rows]:
    """Two classes of four parted by one column of two with gaps; of a third there is validation."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 2], 400, p=[0.8, 0.2])
    record = np.c_[labels + rng.normal(0, 1.5, 400), rng.normal(size=400)]
    record[rng.random(400) < np.where(labels == 2, 0.8, 0.1), 1] = np.nan
    labels[395:] = 3
    return labels, record, Rows(np.arange(300), np.arange(300), np.arange(300, 400))


def test_boosted_trees_read_gaps_and_stop_by_validation(steps):
    labels, record, rows = steps
    found, how = boosted(labels, record, rows)
    assert not found[:, [1, 3]].any()
    np.testing.assert_allclose(found.sum(1), 1)
    test = slice(300, 395)
    filled = np.where(np.isnan(record), np.random.default_rng(1).normal(size=(400, 2)), record)
    blind, _ = boosted(labels, filled, rows)
    read, missed = (roc_auc_score(labels[test] == 2, one[test, 2]) for one in (found, blind))
    assert read > 0.9 > missed
    np.testing.assert_array_equal(found, boosted(labels, record, rows)[0])
    assert re.fullmatch(r"\d{1,2} trees of (2|4|16) leaves at a learning rate of 0.(03|1)", how)


def test_boosted_trees_are_chosen_by_no_row_beyond_their_own(steps):
    """Rows outside train and validation have no say; a part cut for the choice is fitted then."""
    labels, record, rows = steps
    few = Rows(rows.train[:200], rows.train[:200], rows.train[200:])
    turned, other = labels.copy(), record.copy()
    turned[300:], other[300:] = 0, 7
    arm, how = registry.load("fusion", "metadata:boosted"), {"weight": np.ones(4)}
    said = [
        arm.choose(values, y, few, record[:9], 0, **how, quality=quality)
        for y, values in ((labels, record), (turned, other))
    ]
    np.testing.assert_array_equal(said[0][0], said[1][0])
    inner = Rows(rows.train, few.fit, few.val)
    assert not np.array_equal(boosted(labels, record, inner)[0], boosted(labels, record, few)[0])


def test_boosted_trees_weigh_classes_as_the_recipe_says(steps):
    labels, record, rows = steps
    plain, even = (
        boosted(labels, record, rows, class_weights=how)[0][:300, 2].mean()
        for how in ("none", "balanced")
    )
    share = (labels[:300] == 2).mean()
    assert abs(plain - share) < 0.05 < even - share
    arm = registry.load("fusion", "metadata:boosted")
    weight = class_weights(labels[rows.train], 4, Recipe(class_weights="none"))
    np.testing.assert_allclose(
        arm.prior(labels[:300], 4, weight=weight), np.bincount(labels[:300], minlength=4) / 300
    )
    with pytest.raises(BenchError, match="validation"):
        arm.fit_predict(record, labels, record, 0)


@pytest.mark.real
@pytest.mark.parametrize(
    ("variant", "auroc", "recall"),
    [
        pytest.param("boosting", 0.741, 0.315, marks=pytest.mark.slow),
        ("logistic", 0.756, 0.348),
    ],
)
def test_what_the_record_alone_knows_of_skin_lesions(
    variant: str, auroc: float, recall: float, real_data: Path
):
    table = pd.read_csv(real_data / "isic2018" / "HAM10000_metadata.csv").replace("unknown", None)
    columns = [table["age"].to_numpy(float) / 85]
    for name in ("sex", "localization"):
        columns += [
            (table[name] == value).to_numpy(float)
            for value in sorted(table[name].dropna().unique())
        ]
    record, labels = np.stack(columns, 1), pd.Categorical(table["dx"]).codes.astype(int)
    arm = registry.load("fusion", f"metadata:{variant}")
    found = []
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in folds.split(record, labels, table["lesion_id"]):
        scores = arm.fit_predict(record[train], labels[train], record[test], 0, classes=7)
        found.append(
            (
                roc_auc_score(labels[test], scores, multi_class="ovr"),
                balanced_accuracy_score(labels[test], scores.argmax(1)),
            )
        )
    np.testing.assert_allclose(np.mean(found, 0), (auroc, recall), atol=0.02)
