"""A file of weights is taken by whatever layout names all of a network, and by no other."""

import re
import shlex

import pytest
import torch
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.errors import BenchError
from benchmark.files import read_json
from benchmark.store import CARD, Store
from benchmark.train import layouts, network, weights
from benchmark.train.classifier import Classifier

RESNET, VIT = "resnet18", "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def own():
    """The state of each network, its values unlike those of a new one."""
    made = {}
    for arch in (RESNET, VIT):
        state = network.build(arch, seed=3).net.state_dict()
        made[arch] = {name: value.clone() for name, value in state.items()}
    return made


def below(state: dict, wrapping: str) -> dict:
    return {wrapping + name: value for name, value in state.items()}


def renamed(state: dict, *rules: tuple[str, str]) -> dict:
    found = {}
    for name, value in state.items():
        for pattern, to in rules:
            name = re.sub(pattern, to, name)
        found[name] = value
    return found


def other(state: dict) -> dict:
    """Another network of the same names, which has to be left alone."""
    return {name: torch.zeros_like(value) for name, value in state.items()}


def numbered(state: dict) -> dict:
    """`nn.Sequential(*resnet.children())`, as the authors of RadImageNet save it."""
    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return renamed(state, *((rf"^{name}\.", f"backbone.{at}.") for name, at in children.items()))


def transformers_resnet(state: dict) -> dict:
    return below(
        renamed(
            state,
            (r"\.downsample\.0\.", ".shortcut.convolution."),
            (r"\.downsample\.1\.", ".shortcut.normalization."),
            (r"^conv1\.", "embedder.embedder.convolution."),
            (r"^bn1\.", "embedder.embedder.normalization."),
            (r"\.conv1\.", ".layer.0.convolution."),
            (r"\.conv2\.", ".layer.1.convolution."),
            (r"\.bn1\.", ".layer.0.normalization."),
            (r"\.bn2\.", ".layer.1.normalization."),
            *((rf"^layer{i}\.", f"encoder.stages.{i - 1}.layers.") for i in range(1, 5)),
        ),
        "resnet.",
    ) | {"classifier.1.weight": torch.zeros(7, 512)}


def transformers_vit(state: dict) -> dict:
    found = {}
    for name, value in state.items():
        if ".qkv." in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            found |= {name.replace("attn.qkv", f"attention.attention.{p}"): v for p, v in parts}
        else:
            found[name] = value
    return below(
        renamed(
            found,
            (r"^cls_token$", "embeddings.cls_token"),
            (r"^pos_embed$", "embeddings.position_embeddings"),
            (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
            (r"^norm\.", "layernorm."),
            (r"^blocks\.", "encoder.layer."),
            (r"attn\.proj\.", "attention.output.dense."),
            (r"norm1\.", "layernorm_before."),
            (r"norm2\.", "layernorm_after."),
            (r"mlp\.fc1\.", "intermediate.dense."),
            (r"mlp\.fc2\.", "output.dense."),
        ),
        "vit.",
    )


def torchvision_vit(state: dict) -> dict:
    return renamed(
        state,
        (r"^cls_token$", "class_token"),
        (r"^pos_embed$", "encoder.pos_embedding"),
        (r"^patch_embed\.proj\.", "conv_proj."),
        (r"^norm\.", "encoder.ln."),
        (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
        (r"attn\.qkv\.", "self_attention.in_proj_"),
        (r"attn\.proj\.", "self_attention.out_proj."),
        (r"norm(\d)\.", r"ln_\1."),
        (r"mlp\.fc1\.", "mlp.0."),
        (r"mlp\.fc2\.", "mlp.3."),
    ) | {"heads.head.weight": torch.zeros(3, 192)}


def clip(state: dict) -> dict:
    """open_clip's: two towers, the tokens without the sides of one that timm's have."""
    image = renamed(
        state,
        (r"^cls_token$", "class_embedding"),
        (r"^pos_embed$", "positional_embedding"),
        (r"^patch_embed\.proj\.", "conv1."),
        (r"^norm\.", "ln_post."),
        (r"^blocks\.", "transformer.resblocks."),
        (r"attn\.qkv\.", "attn.in_proj_"),
        (r"attn\.proj\.", "attn.out_proj."),
        (r"norm(\d)\.", r"ln_\1."),
        (r"mlp\.fc1\.", "mlp.c_fc."),
        (r"mlp\.fc2\.", "mlp.c_proj."),
    )
    image = {k: v.squeeze() if v.ndim == 3 else v for k, v in image.items()}
    text = other({k: v for k, v in image.items() if "resblocks" in k})
    return below(image, "visual.") | text | {"logit_scale": torch.tensor(1.0)}


LAYOUTS = {
    "its own": (RESNET, lambda s: s, "by its own names", ()),
    "a classifier's": (RESNET, lambda s: s | {"fc.weight": torch.zeros(9, 512)}, "own names", ()),
    "parallel": (RESNET, lambda s: below(s, "module."), "below module", ()),
    "MoCo": (
        RESNET,
        lambda s: {"epoch": 200, "arch": "resnet18", "optimizer": {"state": {}}, "state_dict": {
            **below(other(s), "module.encoder_k."), **below(s, "module.encoder_q."),
            "module.queue": torch.zeros(128, 16),
        }},
        "below state_dict.module.encoder_q",
        ("state_dict.module.queue", "state_dict.module.encoder_k.conv1.weight"),
    ),
    "MoCo v3": (
        VIT,
        lambda s: {"state_dict": below(s, "module.base_encoder.")
                   | below(other(s), "module.momentum_encoder.")},
        "below state_dict.module.base_encoder",
        (),
    ),
    "DINO": (
        VIT,
        lambda s: {
            "student": below(other(s), "module.backbone."),
            "teacher": below(s, "backbone.") | {"head.mlp.0.weight": torch.zeros(8, 192)},
        },
        "below teacher.backbone",
        ("student.module.backbone.norm.bias",),
    ),
    "MAE": (
        VIT,
        lambda s: {"model": s | {"mask_token": torch.zeros(1, 1, 16),
                                 "decoder_blocks.0.norm1.weight": torch.zeros(16)}},
        "below model",
        ("model.decoder_blocks.0.norm1.weight", "model.mask_token"),
    ),
    "Lightning": (
        RESNET,
        lambda s: {"pytorch-lightning_version": "2", "state_dict": below(s, "model.net."),
                   "hyper_parameters": {"lr": 0.1}},
        "below state_dict.model.net",
        (),
    ),
    "RadImageNet": (RESNET, numbered, "RadImageNet", ()),
    "ResNet of transformers": (RESNET, transformers_resnet, "a ResNet of transformers", ()),
    "ViT of transformers": (VIT, transformers_vit, "a vision transformer of transformers", ()),
    "ViT of torchvision": (VIT, torchvision_vit, "a vision transformer of torchvision", ()),
    "CLIP": (VIT, clip, "CLIP, below visual", ("logit_scale",)),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_recognised_by_its_keys(own, layout):
    arch, wrap, words, left = LAYOUTS[layout]
    found = layouts.recognise(arch, own[arch], layouts.plain(wrap(own[arch])))
    assert found.state.keys() == own[arch].keys()
    assert all(torch.equal(found.state[name], value) for name, value in own[arch].items())
    assert words in found.words
    assert set(left) <= set(found.left)


def test_the_authors_resnet50_of_radimagenet_loads_whole(tmp_path):
    """`resnet50_torch.pt`: `Backbone.backbone = nn.Sequential(*resnet50().children()[:9])`."""
    from torchvision.models import resnet50

    made = torch.nn.Sequential(*list(resnet50().children())[:9])
    file = tmp_path / "resnet50_torch.pt"
    torch.save(below(made.state_dict(), "backbone."), file)
    store = Store(tmp_path / "store")
    cell = weights.add(store, "radimagenet", "resnet50", file)
    assert "RadImageNet" in read_json(store.of(cell) / CARD)["named"]
    backbone = network.build("resnet50", seed=0)
    network.load_backbone(backbone, weights.load(store, cell.key))
    assert backbone.mean == backbone.std == (0.5, 0.5, 0.5)  # (image − 127.5) · 2 / 255
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        theirs = made.eval()(image).flatten(1)
        assert torch.allclose(backbone.eval().pooled(image), theirs, rtol=1e-3, atol=1e-4)


def test_positions_of_another_size_are_interpolated(own):
    state = own[VIT] | {"pos_embed": torch.rand(1, 1 + 7 * 7, 192)}
    found = layouts.recognise(VIT, own[VIT], state)
    assert found.state["pos_embed"].shape == (1, 1 + 14 * 14, 192)
    assert torch.equal(found.state["pos_embed"][:, 0], state["pos_embed"][:, 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn1.bias"}, "bn1.bias is missing"),
        (lambda s: s | {"layer4.2.conv1.weight": torch.zeros(1)}, "layer4.2.conv1.weight is unkn"),
        (lambda s: s | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, "conv1.weight is 64 x 1 x 7 x"),
        (lambda s: {"a": torch.zeros(2)}, "conv1.weight is missing"),
    ],
)
def test_less_than_all_of_a_network_is_refused(own, change, said):
    with pytest.raises(BenchError, match=re.escape(said)):
        layouts.recognise(RESNET, own[RESNET], below(change(own[RESNET]), "module."))


def test_what_is_said_of_weights_is_listed(own, tmp_path):
    file, store = tmp_path / "mine.pt", ["--store", str(tmp_path / "store")]
    torch.save(own[RESNET], file)
    said = shlex.split("--size 64 --images 1000 --origin medical --license MIT --note ours")
    add = ["weights", "add", str(file), "--name", "mine", "--arch", RESNET, *said, *store]
    assert CliRunner().invoke(app, add).exit_code == 0
    listed = CliRunner().invoke(app, ["weights", "list", *store]).output
    assert "MIT; medical; 1,000 images; 64 pixels; ours" in listed


def test_normalisation_goes_with_the_weights(own, tmp_path):
    file, store = tmp_path / "mine.pt", Store(tmp_path / "store")
    torch.save(own[RESNET], file)
    plain = weights.add(store, "weights:plain", RESNET, file)
    cell = weights.add(store, "weights:mine", RESNET, file, mean=(0.1, 0.2, 0.3), std=(1, 1, 0.5))
    assert cell.versions != plain.versions
    whole = Classifier(network.build(RESNET), torch.nn.Identity())
    network.load_backbone(whole.backbone, weights.load(store, cell.key))
    assert whole.backbone.std == (1, 1, 0.5)
    again = Classifier(network.build(RESNET), torch.nn.Identity())
    again.load_state_dict(whole.state_dict())  # as a run keeps and reads it
    assert again.backbone.mean == pytest.approx((0.1, 0.2, 0.3))
    with pytest.raises(BenchError, match="three numbers each"):
        weights.add(store, "weights:half", RESNET, file, mean=(0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("mean", "std"),
    [((123.7, 116.3, 103.5), (58.4, 57.1, 57.4)), ((0, 0, 0), (255, 255, 255)),
     ((float("nan"), 0, 0), (1, 1, 1)), ((0, 0, 0), (0, 1, 1))],
)  # fmt: skip
def test_numbers_for_pixels_up_to_255_are_refused(mean, std):
    with pytest.raises(BenchError, match="no pixels from 0 to 1"):
        layouts.inputs(mean, std)
