"""What decides on a backbone's features: heads, gates by the record, classifiers of both."""

import itertools
from typing import Any

import torch
from torch import nn

from benchmark.errors import BenchError
from benchmark.train.network import Backbone

#: Hidden widths of 1 to 4 layers on the record: MetaNet states them for two and three.
HIDDEN = {1: (), 2: (1024,), 3: (512, 1024), 4: (256, 512, 1024)}


class Head(nn.Module):
    """Gate by the record if there is one, dropout, linear layer: pooled (N, C) -> logits (N, K)."""

    def __init__(
        self, channels: int, classes: int, *, dropout: float, gate: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.gate = gate
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(channels, classes)

    def forward(self, pooled: torch.Tensor, record: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, K)."""
        if self.gate is not None:
            pooled = self.gate(pooled, record)
        return self.output(self.dropout(pooled))


class Standardised(nn.Module):
    """A head on features from which `mean` is taken before they are divided by `deviation`."""

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, head: nn.Module, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """`mean` and `deviation` (C,); a deviation of 0 counts as 1."""
        super().__init__()
        self.head = head
        self.register_buffer("mean", mean.clone())
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0))

    def forward(self, pooled: torch.Tensor, record: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, K)."""
        return self.head((pooled - self.mean) / self.deviation, record)


class Classifier(nn.Module):
    """A backbone and a head; a gate may change the maps, or those at `inside`, by the record."""

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        *,
        gate: nn.Module | None = None,
        inside: str = "",
    ) -> None:
        """`inside` names the layer of `backbone.net` whose output is gated instead of the maps."""
        super().__init__()
        self.backbone, self.head, self.gate, self.inside = backbone, head, gate, inside

    def forward(self, images: torch.Tensor, record: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, K)."""
        return self.decide(self.maps(images, record), record)

    def maps(self, images: torch.Tensor, record: torch.Tensor | None = None) -> torch.Tensor:
        """The last maps (N, C, h, w), as `decide` takes them."""
        if self.gate is None:
            return self.backbone.maps(images)
        if not self.inside:
            return self.gate(self.backbone.maps(images), record)
        gate = self.gate
        layer = self.backbone.net.get_submodule(self.inside)
        hook = layer.register_forward_hook(lambda module, inputs, out: gate(out, record))
        try:
            return self.backbone.maps(images)
        finally:
            hook.remove()

    def decide(self, maps: torch.Tensor, record: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (N, K) of the last maps: their gradient shows where the network looks."""
        return self.head(self.backbone.pool(maps), record)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features (N, channels) of the image alone."""
        return self.backbone.pooled(images)


def record_layers(record: int, out: int, layers: int) -> nn.Sequential:
    """Fully connected layers on the record with ReLU between them, hidden widths as MetaNet's."""
    if layers not in HIDDEN:
        raise BenchError(f"fusion.layers is {layers}.", f"Give {min(HIDDEN)} to {max(HIDDEN)}.")
    widths = (record, *HIDDEN[layers], out)
    stack: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        stack += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*stack[:-1])


def forget_records(module: nn.Module, share: float) -> nn.Module:
    """Replace the record by zeros for this share of a training batch, drawn per sample.

    `module` takes (images or features, record); it stays what it is, with a hook before `forward`.
    """
    if not 0 <= share < 1:
        raise BenchError(f"modality_dropout is {share}.", "Give a share from 0 to below 1.")

    def forget(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if not module.training or len(inputs) < 2 or inputs[1] is None:
            return inputs
        first, record = inputs
        kept = torch.rand(len(record), 1, device=record.device) >= share
        return first, record * kept

    if share:
        module.register_forward_pre_hook(forget)
    return module
