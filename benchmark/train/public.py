"""Weights that timm, torchvision and the hub hand out: which there are, and their tensors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from benchmark.errors import BenchError, DataMissing
from benchmark.train import archs, layouts

#: What timm calls a repository of the Hugging Face hub.
HUB = "hf-hub:"
FILES = ("model.safetensors", "pytorch_model.bin")
#: Files of timm whose networks take images of any size if they are told so.
ANY_SIZE = (
    "deit", "eva", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr",
    "vision_transformer", "vision_transformer_hybrid", "vitamin",
)  # fmt: skip


def imagenet_weights(arch: str) -> dict[str, torch.Tensor]:
    """Public ImageNet-1k weights, with their classifier where timm has them: scores read it."""
    archs.need_imagenet(arch)
    name = tagged(archs.known(arch))
    if not timm.is_model(name) or vgg_of_torchvision(name):
        from benchmark.train.network import build

        return build(arch, pretrained=True).state_dict()
    if not timm.is_model_pretrained(name):
        raise BenchError(
            f"There are no public ImageNet weights of '{arch}'.",
            "Choose another --arch or add your own with `bench weights add`.",
        )
    with fetching(arch):
        return timm.create_model(name, pretrained=True).state_dict()


def fetched(name: str) -> dict[str, torch.Tensor]:
    """The tensors of weights by timm's name of them, with how they want images normalised."""
    with fetching(name):
        net: Any = timm.create_model(name, pretrained=True)
    cfg = net.pretrained_cfg
    inputs = {layouts.MEAN: torch.tensor(cfg["mean"]), layouts.STD: torch.tensor(cfg["std"])}
    return net.state_dict() | inputs


def need_imagenet(arch: str) -> None:
    """Refuse ImageNet weights that neither timm's nor torchvision's downloads have brought here."""
    name = archs.known(arch)
    if timm.is_model(name) and not vgg_of_torchvision(name):
        need_fetched(tagged(name))
        return
    _need_file(arch, torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url)


def need_fetched(name: str) -> None:
    """Refuse weights by timm's name of them that are not on this machine."""
    from huggingface_hub import try_to_load_from_cache

    hub = name.startswith(HUB)
    cfg = None if hub else timm.get_pretrained_cfg(name)
    repo, _, revision = name.removeprefix(HUB).partition("@")
    repo = repo if hub else cfg and cfg.hf_hub_id
    found = [try_to_load_from_cache(repo, f, revision=revision or None) for f in FILES if repo]
    if not any(isinstance(path, str) for path in found):
        _need_file(name.removeprefix(HUB), str(cfg.url or "") if cfg else "")


def tagged(name: str) -> str:
    """The weights of the first torchvision release, which the papers started from.

    Where there are none: those that timm prefers of the ones made with ImageNet-1k alone.
    """
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    usual = f"{name}.{cfg.tag}" if cfg is not None and cfg.tag else name
    found = [one for one in timm.list_pretrained(f"{name}.*") if archs.of_imagenet(one)]
    return next((one for one in (f"{name}.tv_in1k", usual, *found) if one in found), name)


def vgg_of_torchvision(name: str) -> bool:
    """timm's VGG convolves where the original flattens: the original is torchvision's."""
    known = torchvision.models.list_models(module=torchvision.models)
    return name.startswith("vgg") and name in known


def takes_any_size(name: str) -> bool:
    """Whether a network by timm's name interpolates its positions."""
    if name.startswith(HUB):
        name = timm.models.load_model_config_from_hf(name.removeprefix(HUB))[1]
    made = timm.model_entrypoint(name.partition(".")[0])
    return made.__module__.rpartition(".")[2] in ANY_SIZE


def native_size(name: str) -> int:
    """The side of the images that a network by timm's name was made for."""
    cfg = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return int(cfg.input_size[-1]) if cfg is not None else 224


def outline(name: str) -> torch.nn.Module:
    """A network by timm's name without numbers; an empty one where it is torchvision's."""
    hub = name.startswith("hub:")
    if not hub and (not timm.is_model(name) or vgg_of_torchvision(name)):
        return torch.nn.Module()
    name = HUB + name.removeprefix("hub:") if hub else name
    with fetching(name), torch.device("meta"):
        return timm.create_model(name, num_classes=0)


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Tell what could not be fetched, and what to do."""
    try:
        yield
    except OSError as error:
        raise _missing(name, f"could not be fetched ({type(error).__name__})") from error


def _need_file(name: str, url: str) -> None:
    place = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not url or not place.is_file():
        raise _missing(name, "are not on this machine")


def _missing(name: str, why: str) -> DataMissing:
    return DataMissing(
        f"The public weights of {name.removeprefix(HUB)} {why}.",
        "Connect to the internet once (a repository that needs leave: with HF_TOKEN set), or add "
        "a file with `bench weights add`.",
    )
