"""How files of weights name their tensors: whatever the wrapping and the spelling, by its keys.

The wrapping (`module.`, `state_dict.encoder_q.`, `teacher.backbone.`) is found, not listed: it is
what stands before the names of the network's own tensors. Spellings of other libraries are tried
in turn; a file is taken only if it brings the whole of the network.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from benchmark.errors import BenchError

if TYPE_CHECKING:
    import torch

#: What a classifier is called in the weights of one library or another; a backbone has none.
CLASSIFIERS = (
    "AuxLogits.", "aux1.", "aux2.", "classif.", "classifier.", "fc.", "head.", "head_dist.",
    "heads.", "last_linear.",
)  # fmt: skip
#: How the images have to be normalised, where a file says so itself: (3,) each.
MEAN, STD = "input_mean", "input_std"
COUNTS = "num_batches_tracked"  # of a batch norm; nothing that is computed depends on it

#: Of several copies in one file: the one that is meant to be used, and the ones that are not.
BETTER = re.compile(r"teacher|ema|target")
WORSE = re.compile(r"student|encoder_k|momentum|predictor|optimizer")

PART = r"((?:[A-Za-z_]\w*\.)*)"  # names without numbers, as wrappings are
#: Spellings: of whom, and what becomes of a name. `#2` says where a part of a joint tensor goes.
SPELLINGS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "": (),
    "numbered layers of a ResNet, as RadImageNet's": (
        (rf"^{PART}0\.(\w+)$", r"\1conv1.\2"),
        (rf"^{PART}1\.(\w+)$", r"\1bn1.\2"),
        *((rf"^{PART}{i + 3}\.(\d+\.)", rf"\1layer{i}.\2") for i in range(1, 5)),
    ),
    "a ResNet of transformers": (
        (r"embedder\.embedder\.convolution\.", "conv1."),
        (r"embedder\.embedder\.normalization\.", "bn1."),
        *((rf"encoder\.stages\.{i}\.layers\.", f"layer{i + 1}.") for i in range(4)),
        *((rf"\.layer\.{i}\.convolution\.", f".conv{i + 1}.") for i in range(3)),
        *((rf"\.layer\.{i}\.normalization\.", f".bn{i + 1}.") for i in range(3)),
        (r"\.shortcut\.convolution\.", ".downsample.0."),
        (r"\.shortcut\.normalization\.", ".downsample.1."),
    ),
    "a vision transformer of transformers": (
        (r"embeddings\.cls_token$", "cls_token"),
        (r"embeddings\.position_embeddings$", "pos_embed"),
        (r"embeddings\.register_tokens$", "reg_token"),
        (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"encoder\.layer\.(\d+)\.", r"blocks.\1."),
        (r"attention\.attention\.query\.(\w+)$", r"attn.qkv.\1#0"),
        (r"attention\.attention\.key\.(\w+)$", r"attn.qkv.\1#1"),
        (r"attention\.attention\.value\.(\w+)$", r"attn.qkv.\1#2"),
        (r"attention\.output\.dense\.", "attn.proj."),
        (r"layernorm_before\.", "norm1."),
        (r"layernorm_after\.", "norm2."),
        (r"intermediate\.dense\.", "mlp.fc1."),
        (r"output\.dense\.", "mlp.fc2."),
        (r"layer_scale(\d)\.lambda1$", r"ls\1.gamma"),
        (r"(^|\.)layernorm\.", r"\1norm."),
    ),
    "a vision transformer of torchvision": (
        (r"(^|\.)class_token$", r"\1cls_token"),
        (r"encoder\.pos_embedding$", "pos_embed"),
        (r"(^|\.)conv_proj\.", r"\1patch_embed.proj."),
        (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
        (r"self_attention\.in_proj_(\w+)$", r"attn.qkv.\1"),
        (r"self_attention\.out_proj\.", "attn.proj."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"mlp\.(0|linear_1)\.", "mlp.fc1."),
        (r"mlp\.(3|linear_2)\.", "mlp.fc2."),
        (r"encoder\.ln\.", "norm."),
    ),
    "the image side of a CLIP": (
        (r"(^|\.)class_embedding$", r"\1cls_token"),
        (r"(^|\.)positional_embedding$", r"\1pos_embed"),
        (r"(^|\.)conv1\.", r"\1patch_embed.proj."),
        (r"transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
        (r"attn\.in_proj_(\w+)$", r"attn.qkv.\1"),
        (r"attn\.out_proj\.", "attn.proj."),
        (r"\.ln_(\d)\.", r".norm\1."),
        (r"mlp\.c_fc\.", "mlp.fc1."),
        (r"mlp\.c_proj\.", "mlp.fc2."),
        (r"(^|\.)ln_pre\.", r"\1norm_pre."),
        (r"(^|\.)ln_post\.", r"\1norm."),
    ),
}

Tensors = Mapping[str, "torch.Tensor"]


class Recognised(NamedTuple):
    """What a file holds of a network."""

    state: dict[str, "torch.Tensor"]  # by the network's own names, all of them
    classifier: dict[str, "torch.Tensor"]  # what the file has on top of it
    inputs: dict[str, "torch.Tensor"]  # how images are normalised, where the file says so
    words: str  # how the file names it
    left: tuple[str, ...]  # names of what else there is


def recognise(arch: str, own: Tensors, file: Tensors) -> Recognised:
    """The tensors of a network in a file that may name them otherwise; all of them, or an error.

    `own` is the state dict of the network without a classifier.
    """
    need = {name for name in own if not name.endswith(COUNTS)}
    tries = []
    for title, rules in SPELLINGS.items():
        spelt = _spelt(file, rules)
        wrapping, count = _wrapping(spelt, need)
        if count == len(need):
            return _taken(arch, own, spelt, wrapping, title)
        tries.append((count, wrapping, spelt))
    _, wrapping, spelt = max(tries, key=lambda tried: tried[0])
    missing = [
        f"{name} is missing" for name in own if name in need and wrapping + name not in spelt
    ]
    raise _unfit(arch, [*missing, *_unlike(own, spelt, wrapping), *_more(own, spelt, wrapping)])


def plain(nested: Mapping, before: str = "") -> dict[str, "torch.Tensor"]:
    """All tensors in what a training script saved, by the way to them."""
    import torch

    found: dict[str, torch.Tensor] = {}
    for name, value in nested.items():
        if isinstance(value, torch.Tensor):
            found[f"{before}{name}"] = value
        elif isinstance(value, Mapping) and not str(name).startswith("optim"):
            found |= plain(value, f"{before}{name}.")
    return found


def inputs(mean: Sequence[float], std: Sequence[float]) -> "dict[str, torch.Tensor]":
    """How images are normalised, as tensors: so it is part of the digest and of every copy."""
    import torch

    if bool(mean) != bool(std) or any(len(part) not in (0, 3) for part in (mean, std)):
        raise BenchError(
            "--mean and --std are three numbers each, given together.",
            "Write, for instance, --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5.",
        )
    if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
        raise BenchError(
            "--mean or --std holds a number that no pixels from 0 to 1 are normalised by.",
            "Where your numbers are for pixels from 0 to 255, divide each by 255.",
        )
    named = {MEAN: mean, STD: std}
    return {name: torch.tensor(part) for name, part in named.items() if part}


def _spelt(file: Tensors, rules: Iterable[tuple[str, str]]) -> dict[str, "torch.Tensor"]:
    """The tensors by the names that a spelling gives them, parts of one tensor joined."""
    import torch

    compiled = [(re.compile(pattern), to) for pattern, to in rules]
    found: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in file.items():
        spelt = name
        for pattern, to in compiled:
            spelt = pattern.sub(to, spelt)
        whole, _, part = spelt.partition("#")
        if part:
            parts.setdefault(whole, {})[part] = value
        else:
            found[whole] = value
    return found | {
        name: torch.cat([part[i] for i in sorted(part)]) for name, part in parts.items()
    }


def _wrapping(names: Iterable[str], need: set[str]) -> tuple[str, int]:
    """What stands before most of the needed names, and before how many."""
    counts: Counter[str] = Counter()
    for name in names:
        for at in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
            if name[at:] in need:
                counts[name[:at]] += 1
    if not counts:
        return "", 0

    def worth(wrapping: str) -> tuple:
        copy = bool(BETTER.search(wrapping)) - bool(WORSE.search(wrapping))
        return counts[wrapping], copy, -len(wrapping), wrapping

    best = max(counts, key=worth)
    return best, counts[best]


def _taken(arch: str, own: Tensors, spelt: Tensors, wrapping: str, title: str) -> Recognised:
    state = {name: _shaped(spelt[wrapping + name], own[name], name)
             for name in own if wrapping + name in spelt}  # fmt: skip
    if wrong := [*_unlike(own, {wrapping + k: v for k, v in state.items()}, wrapping),
                 *_more(own, spelt, wrapping)]:  # fmt: skip
        raise _unfit(arch, wrong)
    rest = {name: value for name, value in spelt.items() if name.removeprefix(wrapping) not in own
            or not name.startswith(wrapping)}  # fmt: skip
    classifier, inputs, left = {}, {}, []
    for name, value in rest.items():
        inner = _inner(name, wrapping)
        if inner in (MEAN, STD):
            inputs[inner] = value
        elif inner.startswith(CLASSIFIERS):
            classifier[inner] = value
        else:
            left.append(name)
    words = ", ".join(filter(None, (title, wrapping and f"below {wrapping.rstrip('.')}")))
    return Recognised(state, classifier, inputs, words or "by its own names", tuple(left))


def _inner(name: str, wrapping: str) -> str:
    """The name without the wrapping, or without as much of it as stands before it."""
    while wrapping and not name.startswith(wrapping):
        wrapping = wrapping[: wrapping[:-1].rfind(".") + 1]
    return name.removeprefix(wrapping)


def _shaped(value: "torch.Tensor", like: "torch.Tensor", name: str) -> "torch.Tensor":
    """As the network has it: sides of one pixel added, positions of another size interpolated."""
    sides = [side for side in value.shape if side != 1]
    if value.shape != like.shape and sides == [side for side in like.shape if side != 1]:
        return value.reshape(like.shape)
    if name == "pos_embed" and value.ndim in (2, 3) and value.shape[-1] == like.shape[-1]:
        from timm.layers.pos_embed import resample_abs_pos_embed

        value = value.reshape(1, -1, value.shape[-1])
        prefix = like.shape[1] - int(like.shape[1] ** 0.5) ** 2  # tokens that stand for no patch
        side = int((like.shape[1] - prefix) ** 0.5)
        old = int((value.shape[1] - prefix) ** 0.5)
        if old**2 + prefix == value.shape[1]:
            return resample_abs_pos_embed(value, [side, side], [old, old], prefix)
    return value


def _unlike(own: Tensors, found: Tensors, wrapping: str) -> list[str]:
    pairs = [(name, own[name], found.get(wrapping + name)) for name in own]
    return [
        f"{name} is {_shape(value)} instead of {_shape(like)}"
        for name, like, value in pairs
        if value is not None and value.shape != like.shape
    ]


def _more(own: Tensors, found: Tensors, wrapping: str) -> list[str]:
    """Layers beyond the network's own: the file is of a larger one."""
    tops = {name.partition(".")[0] for name in own if "." in name}
    inner = [name.removeprefix(wrapping) for name in found if name.startswith(wrapping)]
    return [
        f"{name} is unknown"
        for name in inner
        if name not in own and name.partition(".")[0] in tops and not name.endswith(COUNTS)
        and not name.startswith(CLASSIFIERS)
    ]  # fmt: skip


def _unfit(arch: str, wrong: list[str]) -> BenchError:
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return BenchError(
        f"The weights do not fit {arch}: {', '.join(wrong[:3])}{more}.",
        "Take weights of the same network, or name the network they are of (--arch).",
    )


def _shape(tensor: "torch.Tensor") -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
