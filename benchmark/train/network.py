"""Backbones: last maps and pooled features of any timm or torchvision network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import timm
import torch
import torchvision
from timm.models.resnet import ResNet
from torch import nn

from benchmark.errors import BenchError
from benchmark.train import archs, layouts, public


class Backbone(nn.Module):
    """A network without its classifier, fed with normalised images (N, 3, H, W)."""

    def __init__(self, arch: str, net: nn.Module, trunk: tuple[str, ...] = ()) -> None:
        """`trunk` names the children before the pooling; timm networks know theirs."""
        super().__init__()
        self.arch = arch
        self.net: Any = net
        self.trunk = trunk
        self.still: tuple[nn.Module, ...] = ()  # layers of which nothing is trained
        self.flattens = bool(trunk) and isinstance(self.net.classifier, nn.Sequential)
        config = _config(self.net, arch)
        self.size: int = config["size"]  # of the images it was made for
        self.usual: tuple[tuple[float, ...], ...] = config["mean"], config["std"]
        self.layout = getattr(net, "output_fmt", "NCHW")
        self.map_channels, self.channels, self.maps_commute = self._measure()

    @property
    def mean(self) -> tuple[float, ...]:
        """Of `benchmark.augment.normalise`: what its weights say, or else its library."""
        return self._input(layouts.MEAN, self.usual[0])

    @property
    def std(self) -> tuple[float, ...]:
        """Of `benchmark.augment.normalise`, too."""
        return self._input(layouts.STD, self.usual[1])

    def _input(self, name: str, usual: tuple[float, ...]) -> tuple[float, ...]:
        given = getattr(self, name, None)
        return usual if given is None else tuple(given.tolist())

    def take(self, state: Mapping[str, torch.Tensor]) -> None:
        """How its weights want images, which is kept with them from now on."""
        for name in (layouts.MEAN, layouts.STD):
            if name in state:
                self.register_buffer(name, state[name].clone())

    def _load_from_state_dict(
        self, state_dict: Mapping[str, torch.Tensor], prefix: str, *args: Any, **more: Any
    ) -> None:
        self.take({k.removeprefix(prefix): v for k, v in state_dict.items()})
        super()._load_from_state_dict(state_dict, prefix, *args, **more)

    def train(self, mode: bool = True) -> "Backbone":
        """Layers of which nothing is trained stay as they are in a test."""
        super().train(mode)
        for layer in self.still:
            layer.training = False
        return self

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """The last maps (N, C, h, w); of a transformer its tokens (N, C, tokens, 1)."""
        try:
            found = self._features(images)
        except (AssertionError, RuntimeError) as error:
            height, width = images.shape[-2:]
            other = "memory" in str(error).lower() or "CUDA" in str(error)
            if other or (height, width) == (self.size, self.size):
                raise
            raise BenchError(
                f"{self.arch} cannot take images of {height} x {width}.",
                f"It was made for {self.size} x {self.size} (--size {self.size}).",
            ) from error
        if self.layout == "NLC":
            return found.transpose(1, 2).unsqueeze(-1)
        return found.permute(0, 3, 1, 2) if self.layout == "NHWC" else found

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Features (N, channels) of the last maps."""
        if self.flattens:
            return self.net.classifier(self.net.avgpool(maps).flatten(1))
        if self.trunk:
            return maps.mean((2, 3))
        if self.layout == "NLC":
            maps = maps.squeeze(-1).transpose(1, 2)
        elif self.layout == "NHWC":
            maps = maps.permute(0, 2, 3, 1)
        return self.net.forward_head(maps, pre_logits=True)

    def pooled(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, channels): the deepest layer before a classifier."""
        return self.pool(self.maps(images))

    def stem(self, images: torch.Tensor) -> torch.Tensor:
        """What enters the first stage of a ResNet."""
        net = self.net
        return net.maxpool(net.act1(net.bn1(net.conv1(images))))

    def stages(self) -> list[nn.Sequential]:
        """layer1 to layer4 of a ResNet; blocks put in their place are used from then on."""
        if not isinstance(self.net, ResNet):
            raise BenchError(f"{self.arch} is not a ResNet.", "Take resnet50, for instance.")
        net: Any = self.net
        return [net.layer1, net.layer2, net.layer3, net.layer4]

    def last_norm(self) -> str:
        """Name of the first batch norm of the last block of a ResNet."""
        return f"layer4.{len(self.stages()[-1]) - 1}.bn1"

    def width_of(self, name: str) -> int:
        """Channels of that batch norm."""
        return int(self.net.get_submodule(name).num_features)

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        if not self.trunk:
            return self.net.forward_features(images)
        for name in self.trunk:
            child = getattr(self.net, name)
            for layer in child if isinstance(child, nn.ModuleList) else (child,):
                images = layer(images)
        return images

    def _measure(self) -> tuple[int, int, bool]:
        """Width of the maps and of the features, and whether the mean of the maps is the feature.

        Where it is, changing a map by the record is changing its feature by the record.
        """
        size = 32 if isinstance(self.net, ResNet) else self.size
        training = self.net.training
        self.net.eval()  # a look that leaves no trace in the batch norms
        with torch.no_grad():
            found = self._features(torch.zeros(1, 3, size, size))
            self.layout = "NLC" if found.ndim == 3 else self.layout
            maps = torch.rand_like(self.maps(torch.zeros(1, 3, size, size)))
            pooled, mean = self.pool(maps), maps.mean((2, 3))
        self.net.train(training)
        same = pooled.shape == mean.shape and torch.allclose(pooled, mean, atol=1e-4)
        return maps.shape[1], pooled.shape[1], same


def build(
    arch: str,
    *,
    pretrained: bool = False,
    seed: int = 0,
    init: Literal["default", "he"] = "default",
) -> Backbone:
    """A backbone by its timm, torchvision or paper name, its random weights made by the seed.

    `pretrained` fetches the ImageNet weights of the first torchvision release where timm has them,
    those the papers started from, unless the name carries another tag.
    """
    with seeded(seed):
        backbone = _create(arch, archs.known(arch), pretrained=pretrained)
        if not pretrained:
            (he_init if init == "he" else open_blocks)(backbone)
    # The order of memory in which convolutions are fastest, on a CPU by a seventh.
    return backbone.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from this seed on the CPU, and leave the global generators as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def open_blocks(module: nn.Module) -> None:
    """Norms that begin at zero begin at one: else an untrained residual block passes nothing on."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any():
            nn.init.ones_(layer.weight)


def he_init(module: nn.Module) -> None:
    """Draw convolutions and linear layers anew as He et al. 2015; batch norms become neutral."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()


def load_backbone(backbone: Backbone, state: Mapping[str, torch.Tensor]) -> layouts.Recognised:
    """Put weights into the backbone, however their file names them; all of it must fit.

    A classifier among them is left out.
    """
    found = layouts.recognise(backbone.arch, backbone.net.state_dict(), state)
    backbone.net.load_state_dict(found.state, strict=False)
    backbone.take(found.inputs)
    return found


def _create(arch: str, name: str, *, pretrained: bool) -> Backbone:
    hub = name.startswith("hub:")
    if not hub and (not timm.is_model(name) or public.vgg_of_torchvision(name)):
        return _torchvision(arch, name, pretrained=pretrained)
    name = public.HUB + name.removeprefix("hub:") if hub else public.tagged(name)
    with public.fetching(name):
        # A transformer that can takes images of any size, its positions interpolated.
        more: dict[str, Any] = {"dynamic_img_size": True} if public.takes_any_size(name) else {}
        net = timm.create_model(name, pretrained=pretrained, num_classes=0, **more)
    return Backbone(arch, net)


def _torchvision(arch: str, name: str, *, pretrained: bool) -> Backbone:
    """A torchvision network that is a plain chain up to its pooling, its classifier cut off."""
    more = {"aux_logits": False, "init_weights": True} if name == "googlenet" else {}
    weights = "IMAGENET1K_V1" if pretrained else None
    with public.fetching(arch):
        net: Any = torchvision.models.get_model(name, weights=weights, **more)
    children = dict(net.named_children())
    ends = ("avgpool", "classifier", "fc", "head", "heads")
    first = next(i for i, child in enumerate(children) if child in ends)
    if "heads" in children:
        raise BenchError(
            f"{arch} of torchvision is not offered.", "Take a vision transformer of timm."
        )
    if name == "alexnet" or name.startswith("vgg"):
        layers = list(net.classifier)[:-1]
        while isinstance(layers[-1], nn.Dropout):  # the head brings its own
            layers.pop()
        net.classifier = nn.Sequential(*layers)
    else:
        for child in list(children)[first:]:
            setattr(net, child, nn.Identity())
    net.classifier = getattr(net, "classifier", nn.Identity())
    return Backbone(arch, net, tuple(children)[:first])


def _config(net: Any, arch: str) -> dict[str, Any]:
    """Native size and normalisation."""
    known = getattr(net, "pretrained_cfg", None)
    if known is not None:
        return {
            "size": int(known["input_size"][-1]),
            "mean": tuple(known["mean"]),
            "std": tuple(known["std"]),
        }
    if arch == "googlenet":  # its weights came from TensorFlow, with images in ±1
        return {"size": 224, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    weights = torchvision.models.get_model_weights(arch)
    size = int(weights["IMAGENET1K_V1"].transforms().crop_size[0])
    return {"size": size, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
