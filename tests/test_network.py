"""Backbones by every kind of name, their features, seeds and weights, and the classifier on top."""

import copy
import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from benchmark.errors import BenchError, DataMissing
from benchmark.train import archs, network
from benchmark.train.classifier import Classifier, Head
from benchmark.train.network import build, he_init, load_backbone

SLOW = pytest.mark.slow


def pictures(n: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def resnet() -> network.Backbone:
    return build("resnet18", seed=3).eval()


@pytest.mark.parametrize(
    ("arch", "channels", "size"),
    [
        ("alexnet", 4096, 224),
        ("googlenet", 1024, 224),
        ("resnet50", 2048, 224),
        ("densenet161", 2208, 224),
        ("mobilenetV2", 1280, 224),
        ("inceptionresnetv2", 1536, 299),
        pytest.param("densenet201", 1920, 224, marks=SLOW),
        pytest.param("vgg16", 4096, 224, marks=SLOW),
        pytest.param("vgg19", 4096, 224, marks=SLOW),
        pytest.param("senet154", 2048, 224, marks=SLOW),
        pytest.param("pnasnet5", 4320, 331, marks=SLOW),
    ],
)
def test_the_papers_networks_have_the_papers_features(arch: str, channels: int, size: int):
    backbone = build(arch).eval()
    assert (backbone.channels, backbone.size) == (channels, size)
    flattens = arch == "alexnet" or arch.startswith("vgg")
    assert backbone.maps_commute is not flattens
    assert archs.mean_pooled(arch) is not flattens
    with torch.no_grad():
        maps = backbone.maps(pictures(1, 96))
        assert maps.ndim == 4
        assert maps.shape[1] == backbone.map_channels
        assert backbone.pool(maps).shape == (1, channels)
        if not flattens:
            torch.testing.assert_close(backbone.pool(maps), maps.mean((2, 3)))


@pytest.mark.parametrize("arch", ["resnet18", "googlenet", "alexnet", "mobilenet_v2"])
def test_torchvision_weights_give_torchvision_features(arch: str):
    more = {"aux_logits": False, "init_weights": False} if arch == "googlenet" else {}
    theirs = torchvision.models.get_model(arch, **more).eval()
    last = [layer for layer in theirs.modules() if isinstance(layer, nn.Linear)][-1]
    seen = []
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    ours = build(arch).eval()
    load_backbone(ours, theirs.state_dict())
    with torch.no_grad():
        theirs(pictures(size=64))
        torch.testing.assert_close(ours.pooled(pictures(size=64)), seen[0])


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_transformers_have_maps_and_features_too(arch: str):
    backbone = build(arch).eval()
    with torch.no_grad():
        maps = backbone.maps(pictures(1, 224))
        want = backbone.net.forward_head(
            backbone.net.forward_features(pictures(1, 224)), pre_logits=True
        )
        torch.testing.assert_close(backbone.pool(maps), want)
        assert backbone.pooled(pictures(2, 64)).shape == (2, backbone.channels)  # of any size
    assert maps.shape[1] == backbone.channels


def test_a_resnet_takes_32_pixels_and_alexnet_does_not(resnet: network.Backbone):
    assert resnet.pooled(pictures()).shape == (2, 512)
    with pytest.raises(BenchError, match=r"alexnet cannot take images of 32 x 32.*--size 224"):
        build("alexnet").maps(pictures())


@pytest.mark.parametrize(
    "arch",
    ["resnet10t", "regnetx_002", "efficientnet_b0", "mobilenetv2_050", "ghostnet_050",
     "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"],
)  # fmt: skip
def test_whether_gating_maps_is_gating_features_is_known_by_name(arch: str):
    """Gate, then pool, beside pool, then gate; the gate looks at pooled maps, as DAFT's does."""
    backbone = build(arch).eval()
    size = 224 if arch.startswith("vit") else 64
    with torch.no_grad():
        maps = backbone.maps(pictures(2, size))
        pooled, seen = backbone.pool(maps), maps.mean((2, 3))
        factor = torch.rand(maps.shape[1], generator=torch.Generator().manual_seed(2))
        gated = backbone.pool(maps * (factor * seen.sigmoid())[:, :, None, None])
    same = pooled.shape == seen.shape
    same = same and torch.allclose(gated, pooled * factor * pooled.sigmoid(), atol=1e-5)
    assert archs.mean_pooled(arch) is same


@pytest.mark.parametrize("arch", ["resnett50", "mobilenetV3x", "zzzz"])
def test_an_unknown_name_is_refused(arch: str):
    with pytest.raises(BenchError, match=f"No network named '{arch}'"):
        build(arch)


def test_a_near_miss_is_guessed():
    with pytest.raises(BenchError, match=r"Did you mean .*resnet50"):
        build("resnett50")
    with pytest.raises(BenchError, match="not offered"):
        build("vit_b_32")


@pytest.mark.parametrize("init", ["default", "he"])
def test_the_seed_makes_the_weights_and_touches_nothing_else(init):
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, same, other = (build("resnet18", seed=s, init=init).state_dict() for s in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["net.conv1.weight"], other["net.conv1.weight"])


@pytest.mark.parametrize("arch", ["resnet18", "resnet26", "regnetx_002"])
def test_no_block_of_an_untrained_network_is_shut(arch: str):
    """timm starts the last norm of a residual block at zero: it would pass nothing on."""
    norms = [m for m in build(arch).modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all(bool((norm.weight == 1).all()) for norm in norms)


def test_he_initialisation_has_its_spread_and_neutral_norms():
    net: nn.Module = build("resnet18", init="he").net
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            spread = math.sqrt(2 / layer.weight[0].numel())
            assert float(layer.weight.detach().std()) == pytest.approx(spread, rel=0.03)
        if isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all())
    linear = nn.Linear(400, 300)
    he_init(linear)
    assert float(linear.weight.detach().std()) == pytest.approx(math.sqrt(2 / 400), rel=0.03)
    assert not linear.bias.any()


def test_weights_load_as_the_backbones_a_classifiers_or_the_librarys(resnet: network.Backbone):
    want = resnet.pooled(pictures())
    classifier = Classifier(copy.deepcopy(resnet), Head(512, 7, dropout=0.0))
    library = timm.create_model("resnet18", num_classes=9)
    library.load_state_dict({**library.state_dict(), **resnet.net.state_dict()})
    for state in (resnet.state_dict(), classifier.state_dict(), library.state_dict()):
        fresh = build("resnet18", seed=99).eval()
        assert not torch.allclose(fresh.pooled(pictures()), want)
        load_backbone(fresh, state)
        torch.testing.assert_close(fresh.pooled(pictures()), want)
    old = {k: v for k, v in resnet.net.state_dict().items() if not k.endswith("batches_tracked")}
    load_backbone(build("resnet18"), old)


def test_weights_that_do_not_fit_are_named(resnet: network.Backbone):
    state = dict(resnet.net.state_dict())
    with pytest.raises(BenchError, match=r"resnet18: layer4\.1\.conv2\.weight is missing\."):
        load_backbone(resnet, {k: v for k, v in state.items() if k != "layer4.1.conv2.weight"})
    with pytest.raises(BenchError, match=r"layer4\.2\.weight is unknown"):
        load_backbone(resnet, {**state, "layer4.2.weight": torch.zeros(1)})
    narrow = {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}
    with pytest.raises(
        BenchError, match=r"conv1\.weight is 64 x 1 x 7 x 7 instead of 64 x 3 x 7 x 7"
    ):
        load_backbone(resnet, narrow)
    before = resnet.pooled(pictures())
    with pytest.raises(BenchError, match=r"and \d+ more"):
        load_backbone(resnet, build("resnet34").state_dict())
    assert torch.equal(before, resnet.pooled(pictures()))  # a refusal changes nothing


def test_weights_that_cannot_be_fetched_say_so(monkeypatch: pytest.MonkeyPatch):
    def offline(*args, **named):
        raise FileNotFoundError("no such name")

    monkeypatch.setattr(network.timm, "create_model", offline)
    with pytest.raises(DataMissing, match=r"public weights of resnet18\.tv_in1k could"):
        build("resnet18", pretrained=True)


def test_pretrained_means_the_first_release_unless_a_tag_says_more(monkeypatch: pytest.MonkeyPatch):
    asked = []
    real = timm.create_model

    def create(name: str, pretrained: bool, **named):
        asked.append((name, pretrained))
        return real(name, pretrained=False, **named)

    monkeypatch.setattr(network.timm, "create_model", create)
    for arch in ("resnet18", "resnet18.a1_in1k", "mobilenetV2"):
        build(arch, pretrained=True)
    names = ["resnet18.tv_in1k", "resnet18.a1_in1k", "mobilenetv2_100.ra_in1k"]
    assert asked == [(name, True) for name in names]


def test_a_resnet_is_its_stem_and_its_stages(resnet: network.Backbone):
    x = resnet.stem(pictures())
    for stage in resnet.stages():
        x = stage(x)
    torch.testing.assert_close(x, resnet.maps(pictures()))
    assert resnet.width_of(resnet.last_norm()) == 512
    assert build("resnet50").last_norm() == "layer4.2.bn1"
    with pytest.raises(BenchError, match="googlenet is not a ResNet"):
        build("googlenet").stages()


def test_a_classifier_is_the_head_on_the_features(resnet: network.Backbone):
    model = Classifier(resnet, Head(512, 3, dropout=0.5)).eval()
    features = model.features(pictures())
    torch.testing.assert_close(model(pictures()), model.head(features))
    torch.testing.assert_close(model(pictures()), model.decide(model.maps(pictures())))
    model.head.train()
    assert not torch.equal(model.head(features), model.head(features))  # dropout


def test_a_gate_inside_leaves_the_backbone_as_it_was():
    resnet = build("resnet18").eval()

    class Halve(nn.Module):
        def forward(self, x: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
            return x * record.view(-1, 1, 1, 1)

    model = Classifier(
        resnet, Head(512, 3, dropout=0.0), gate=Halve(), inside=resnet.last_norm()
    ).eval()
    want = resnet.pooled(pictures())
    changed = model.backbone.pool(model.maps(pictures(), torch.full((2, 1), 0.5)))
    same = model.backbone.pool(model.maps(pictures(), torch.ones(2, 1)))
    assert not torch.allclose(changed, want)
    torch.testing.assert_close(same, want)
    torch.testing.assert_close(model.features(pictures()), want)
    assert not any(key.startswith("inside") for key in model.state_dict())
