"""Clinical attention: the record guides every bottleneck of layer2 to layer4 (Yang et al. 2021)."""

import re
from typing import Any

from benchmark.api import Fusion, FusionCard

#: ResNets made of plain bottlenecks, whose halved input is at least as wide as their 3×3.
BOTTLENECKS = re.compile(r"resnet(?!(10|18|34)\D*(\.|$))\d+[dt]?(\.\w+)?$")

#: Widths of the clinical path.
CLINICAL = (1024, 2048)


class Attention(Fusion):
    card = FusionCard(
        title="Clinical attention (RBCA)",
        reference="Yang et al. 2021, Fusing Medical Image Features and Clinical Features with "
        "Deep Learning for Computer-Aided Diagnosis",
        needs="blocks",
        options={"modality_dropout": 0.0},
    )
    #: What the attention gives back: I·σ(s), I' or I·s; the paper does not say.
    variants = ("se", "mul", "raw")

    def refuses(self, arch: str, mode: str) -> str:
        """Basic blocks have no 1×1 convolution to halve."""
        why = super().refuses(arch, mode)
        if not why and not BOTTLENECKS.match(arch):
            return f"{self.card.title} needs the bottlenecks of a ResNet such as resnet50"
        return why

    def network(self, backbone, record, classes, *, dropout, options):
        """The backbone with attention in its blocks; its weights stay in use.

        The blocks are put into `backbone` itself, which cannot run without a record from then on.
        """
        import torch
        from torch import nn

        variant = self.variant or self.variants[0]
        for stage in backbone.stages()[1:]:
            for name, old in list(stage.named_children()):
                setattr(stage, name, block(old, CLINICAL[-1], variant))

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.backbone = backbone
                self.clinical = nn.Sequential(
                    he(nn.Linear(record, CLINICAL[0])),
                    nn.ReLU(),
                    he(nn.Linear(*CLINICAL)),
                    nn.ReLU(),
                )
                self.dropout = nn.Dropout(dropout)
                self.output = nn.Linear(backbone.channels + CLINICAL[-1], classes)

            def forward(self, images: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                return self.decide(self.maps(images, record), record)

            def maps(self, images: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                """The last maps (N, C, h, w)."""
                first, *rest = self.backbone.stages()
                x, clinical = first(self.backbone.stem(images)), self.clinical(record)
                for stage in rest:
                    for layer in stage:
                        x = layer(x, clinical)
                return x

            def decide(self, maps: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                """Logits (N, K) of the last maps and the clinical features."""
                pooled = self.dropout(self.backbone.pool(maps))
                return self.output(torch.cat([pooled, self.clinical(record)], 1))

        return self.forgetting(Network(), options)


def block(old: Any, clinical: int, variant: str) -> Any:
    """A residual block with clinical attention that at first does what the bottleneck `old` did.

    1×1 to half the input's channels, attention, [attended, reduced], 3×3, 1×1, residual. `old`'s
    1×1 becomes the first outputs of the reduced half and its 3×3 acts on those; the 3×3 starts at
    zero on all else. The other rows of the 1×1 are drawn anew: at zero on both sides they would
    never get a gradient.
    """
    import torch
    from torch import nn

    planes, channels = old.conv1.out_channels, old.conv1.in_channels
    half = channels // 2

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = he(nn.Conv2d(channels, half, 1, bias=False))
            self.bn1 = nn.BatchNorm2d(half)
            self.align = nn.Linear(clinical, half)  # a 1×1 convolution of a vector
            self.conv2 = nn.Conv2d(
                2 * half, planes, 3, stride=old.conv2.stride, padding=1, bias=False
            )
            self.bn2, self.conv3, self.bn3 = old.bn2, old.conv3, old.bn3
            self.downsample = old.downsample
            with torch.no_grad():
                self.conv1.weight[:planes] = old.conv1.weight
                for name in ("weight", "bias", "running_mean", "running_var"):
                    getattr(self.bn1, name)[:planes] = getattr(old.bn1, name)
                self.conv2.weight.zero_()
                self.conv2.weight[:, half : half + planes] = old.conv2.weight

        def forward(self, x: torch.Tensor, clinical: torch.Tensor) -> torch.Tensor:
            reduced = self.bn1(self.conv1(x)).relu()
            both = torch.cat([self.attend(reduced, self.align(clinical)), reduced], 1)
            out = self.bn2(self.conv2(both)).relu()
            shortcut = x if self.downsample is None else self.downsample(x)
            return (self.bn3(self.conv3(out)) + shortcut).relu()

        def attend(self, image: torch.Tensor, clinical: torch.Tensor) -> torch.Tensor:
            """The channels of the image weighted by their likeness to the clinical features."""
            product = image * clinical[:, :, None, None]
            if variant == "mul":
                return product
            likeness = product.mean((2, 3), keepdim=True)
            return image * (likeness.sigmoid() if variant == "se" else likeness)

    return Block()


def he(layer: Any) -> Any:
    """The layer with He's normal weights, as the paper initialises."""
    from torch import nn

    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
