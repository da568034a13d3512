"""Names of networks and of their public weights, read from the libraries' files: no import."""

import difflib
import importlib.util
import re
from functools import cache
from pathlib import Path

from benchmark.errors import BenchError
from benchmark.spec import Size

#: How the papers write the names of networks, in lower case.
PAPER_NAMES = {
    "inceptionresnetv2": "inception_resnet_v2",
    "mobilenetv2": "mobilenetv2_100",
    "pnasnet5": "pnasnet5large",
    "senet154": "legacy_senet154",
}

DEFINED = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
TAGGED = re.compile(r"""^\s*['"](\w+\.\w+)\*?['"]\s*:""", re.MULTILINE)

#: What a tag of timm calls weights that saw no other images than ImageNet-1k's: they end at it,
#: without a first training elsewhere, or have learnt from its images without labels.
OTHERS = re.compile(
    r"in\d\dk|inw21k|ig1b|yfcc|jft|laion|clip|openai|webli|lvd|dfn|swag|seer|m38m|m30m|ssld|mim"
)
ALONE = ("dino", "fb_dino", "mae", "fcmae")

#: Networks whose features are the mean of their last maps, and some whose features are more than
#: that (a norm or a layer after the pooling, a token, the flattened maps); others are built to see.
MEAN = re.compile(
    r"test_resnet|(wide_)?resnet\d+[cdstw]*(_\d)?|(resnext|densenet)\d+\w*|regnet[xy]_\d+|efficientnet_b\d"
    r"|mobilenet_?v2\w*|googlenet|inception_resnet_v2|legacy_senet154|pnasnet5large"
)
PATCH = re.compile(r"patch(\d+)")
MORE = re.compile(r"(alexnet|vgg|convnext|mobilenetv3|vit|deit|beit|eva)\w*")


def known(arch: str) -> str:
    """The name that timm or torchvision have for it, or a sentence that it is unknown."""
    name = PAPER_NAMES.get(arch.lower(), arch)
    if name.startswith("hub:") or name in _names() or _asked(name):
        return name
    names = sorted({*PAPER_NAMES, *(n for n in _names() if "." not in n or "." in arch)})
    close = difflib.get_close_matches(arch, names, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Take any name timm lists."
    raise BenchError(f"No network named '{arch}'.", hint)


@cache
def mean_pooled(arch: str) -> bool:
    """Whether changing the last maps channel by channel is changing the features alike."""
    name = known(arch).partition(".")[0]
    if MEAN.fullmatch(name) or MORE.fullmatch(name):
        return not MORE.fullmatch(name)
    from benchmark.train import network  # seconds that the usual networks need not pay

    return network.build(arch).maps_commute


@cache
def refuses(arch: str, size: Size) -> str:
    """Why a network cannot take images of this size, or an empty text: its patches tell."""
    name = known(arch)
    if name.startswith("hub:") or not (patch := PATCH.search(name)):
        return ""
    from benchmark.train import public

    side, sides = int(patch[1]), (size, size) if isinstance(size, int) else size
    if not public.takes_any_size(name):
        near = public.native_size(name)
        fits, why = sides == (near, near), f"{arch} takes images of one size alone"
    else:
        near = max(1, round(max(sides) / side)) * side
        fits = not any(length % side for length in sides)
        why = f"patches of {side} pixels, as {arch} sees them, do not fill {sides[0]} × {sides[1]}"
    return "" if fits else f"{why} (the nearest: --size {near})"


@cache
def need_attention(arch: str) -> None:
    """Refuse low-rank updates of a network without attention."""
    name = known(arch)
    if not MEAN.fullmatch(name.partition(".")[0]):
        from benchmark.train import public, trains

        if trains.projections(public.outline(name)):
            return
    raise BenchError(
        f"recipe.trains=lora updates a transformer's attention, and {arch} has none.",
        "Take another --arch, vit_small_patch16_224 for instance, or --set recipe.trains=last.",
    )


def need_imagenet(arch: str) -> None:
    """Refuse a name whose public weights of timm are all made with other images."""
    name = known(arch)
    base, _, tag = name.partition(".")
    tags = [tag] if tag else [n.partition(".")[2] for n in _names() if n.startswith(base + ".")]
    if not tags or any(of_imagenet(f"{base}.{one}") for one in tags):
        return
    raise BenchError(
        f"The weights '{tags[0]}' of {base} are not made with ImageNet-1k alone.",
        f"Save their state dict, name them by what made them (bench weights add FILE "
        f"--name {tags[0]} --arch {arch}) and take --source weights:{tags[0]}.",
    )


def of_imagenet(tagged: str) -> bool:
    """Whether the weights of this name, as resnet50.tv_in1k, saw ImageNet-1k alone."""
    tag = tagged.partition(".")[2]
    return tag in ALONE or ("in1k" in tag.split("_") and not OTHERS.search(tag))


@cache
def _names() -> frozenset[str]:
    """Every network by name, and by name and tag where it has public weights."""
    found: set[str] = set()
    for package in ("timm", "torchvision"):
        place = importlib.util.find_spec(package)
        for root in (place.submodule_search_locations or ()) if place else ():
            for path in (Path(root) / "models").glob("*.py"):
                text = path.read_text(encoding="utf-8")
                found.update(DEFINED.findall(text))
                found.update(TAGGED.findall(text) if package == "timm" else ())
    return frozenset(found)


def _asked(name: str) -> bool:
    """Whether timm, asked in person, knows a name that its files do not show."""
    import timm

    return name in timm.list_pretrained() if "." in name else timm.is_model(name)
