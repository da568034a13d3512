"""Weights of timm's list and of the hub: they name their network, and nothing of them is run."""

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save_file

from benchmark import registry
from benchmark.errors import BenchError, DataMissing
from benchmark.plan import plan
from benchmark.plan import run as running
from benchmark.store import Store
from benchmark.train import network, weights

REPO = "someone/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub as its client leaves it, with one repository."""
    root = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(root))  # for the workers, which import it themselves
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    place = root / f"models--{REPO.replace('/', '--')}"
    files = place / "snapshots" / ("0" * 40)
    files.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0" * 40)
    config = {
        "architecture": "test_resnet",
        "num_classes": 0,
        "pretrained_cfg": {
            "input_size": [3, 96, 96], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2],
            "first_conv": "conv1", "classifier": "fc", "license": "mit",
        },
    }  # fmt: skip
    (files / "config.json").write_text(json.dumps(config))
    state = network.build("test_resnet", seed=5).net.state_dict()
    save_file({k: v.contiguous() for k, v in state.items()}, files / "model.safetensors")
    return files


def test_a_repository_of_the_hub_runs_without_a_connection(hub, runtime, request_tiny):
    offline = runtime.model_copy(update={"offline": True})
    asked = request_tiny(sources=(f"hub:{REPO}",), archs=("resnet50", "resnet18"), folds=(0,))
    cells = [planned.cell for planned in plan.make(asked, offline).cells]
    assert [cell.spec.arch for cell in cells] == [f"hub:{REPO}"] * 2  # once, whatever was asked
    assert running.run(asked, offline, executor=running.Executor(slots=0)) == 0
    store = Store(runtime.store)
    (card,) = weights.cards(store)
    backbone = network.build(f"hub:{REPO}")
    network.load_backbone(backbone, weights.load(store, card["key"]))
    assert backbone.mean == pytest.approx((0.5, 0.4, 0.3))
    theirs = network.build("test_resnet", seed=5).net.state_dict()
    ours = backbone.net.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_a_repository_that_is_not_here_is_told_before_the_run(hub, runtime, request_tiny):
    (hub / "model.safetensors").unlink()
    offline = runtime.model_copy(update={"offline": True})
    with pytest.raises(DataMissing, match="public weights of someone/tiny are not on this mach"):
        running.run(request_tiny(sources=(f"hub:{REPO}",), folds=(0,)), offline)


def test_timms_weights_name_their_network_and_what_they_saw():
    source = registry.load("source", "timm:vit_small_patch14_dinov2.lvd142m")
    assert source.network("resnet50") == "vit_small_patch14_dinov2"
    assert source.card.images == 142_000_000
    assert source.card.license == "apache-2.0"
    assert source.card.mean == pytest.approx((0.485, 0.456, 0.406))
    assert "518x518" in source.card.title


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("vit_base_patch16_224.mae", 1_281_167),
        ("resnet50.a1_in1k", 1_281_167),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", 14_197_122),
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 2_000_000_000),
        ("resnet50.fb_swsl_ig1b_ft_in1k", 0),  # a thousand million of another set came first
        ("tf_efficientnet_b0.ns_jft_in1k", 0),
        ("regnety_160.swag_ft_in1k", 0),
        ("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k", 0),
    ],
)
def test_the_images_that_weights_saw_are_not_those_of_their_last_training(name, images):
    assert registry.load("source", f"timm:{name}").card.images == images


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm:vit_small_patch14_dinov3.lvd142m", "timm has no weights"),
        ("timm:resnet50.nope", "timm has no weights"),
        ("hub:noslash", "is no repository"),
    ],
)
def test_a_name_that_is_not_there_is_refused(name, said):
    with pytest.raises(BenchError, match=said):
        registry.load("source", name)
