"""How much of a network is trained: all of it, a part of it, or low-rank updates of attention."""

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from benchmark.spec import Recipe

#: Linear layers of attention, whatever a library calls the module that holds them.
PROJECTION = re.compile(r"\w*attn\w*\.(qkv|kv|q|k|v|[qkv]_proj|proj|out_proj)$")


def choose(model: nn.Module, backbone: Any, given: set[int], recipe: Recipe) -> None:
    """Leave to training what the recipe says of the backbone, and all that is the arm's own.

    `given` are the parameters, by id, that the backbone had before the arm came to it.
    """
    if recipe.trains == "all":
        return
    net = backbone.net
    names = _named(net, recipe.trains)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in given)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or name in names)
    if recipe.trains == "lora":
        for layer in projections(net):
            parametrize.register_parametrization(layer, "weight", LowRank(layer, recipe.lora_rank))
    backbone.still = tuple(_still(nn.ModuleList([net])))


class LowRank(nn.Module):
    """W + B A of a layer's weight; B begins at zero, so that the network begins as it was."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, layer.in_features))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=5**0.5)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with its update."""
        return weight + self.b @ self.a


def merge(model: nn.Module) -> None:
    """Put low-rank updates into the weights: the network has its own names and tensors again."""
    for layer in [layer for layer in model.modules() if parametrize.is_parametrized(layer)]:
        parametrize.remove_parametrizations(layer, "weight")


def counts(model: nn.Module) -> dict[str, float]:
    """How many numbers are trained, of how many."""
    every = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {"trained": sum(n for n, on in every if on), "parameters": sum(n for n, _ in every)}


def groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """What trains by its share of the learning rate, which falls by `decay` a block from the top.

    The arm's own parts have all of it, the last block `decay` of it; heads alone have no blocks.
    """
    share: dict[int, float] = {}
    if (backbone := getattr(model, "backbone", None)) is not None:
        depths = _depths(backbone.net, coarse=False)
        top = max(depths.values())
        found = backbone.net.named_parameters()
        share = {id(p): decay ** (top + 1 - depths[name]) for name, p in found}
    parts: dict[float, list[nn.Parameter]] = defaultdict(list)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parts[share.get(id(parameter), 1.0)].append(parameter)
    return [{"params": part, "share": rate} for rate, part in parts.items()]


def projections(net: nn.Module) -> list[nn.Linear]:
    """The linear layers of a network's attention; none of a network without."""
    found = net.named_modules()
    return [m for name, m in found if isinstance(m, nn.Linear) and PROJECTION.search(name)]


def _named(net: nn.Module, part: str) -> set[str]:
    """The names of the network's parameters that are trained."""
    if part == "last":
        depths = _depths(net, coarse=True)
        return {name for name, depth in depths.items() if depth == max(depths.values())}
    if part == "bias":
        return {name for name, _ in net.named_parameters() if name.endswith("bias")}
    if part == "norm":
        norms = [(name, m) for name, m in net.named_modules() if "norm" in type(m).__name__.lower()]
        return {f"{name}.{p}" for name, m in norms for p, _ in m.named_parameters(recurse=False)}
    return set()


def _depths(net: Any, *, coarse: bool) -> dict[str, int]:
    """In which block each parameter lies, counted from the input; with `coarse`, in which stage.

    Norms after the last block count as of it.
    """
    from timm.models import group_parameters

    names = [name for name, _ in net.named_parameters()]
    if hasattr(net, "group_matcher"):
        found: Any = group_parameters(net, net.group_matcher(coarse=coarse), reverse=True)
    else:  # torchvision's: children, and the layers of a numbered one
        blocks = [re.sub(r"^(\w+(\.\d+)?).*", r"\1", name) for name in names]
        order = list(dict.fromkeys(blocks))
        found = {name: order.index(block) for name, block in zip(names, blocks, strict=True)}
    top = max(int(found[name]) for name, p in net.named_parameters() if p.ndim > 1)
    return {name: min(int(found[name]), top) for name in names}


def _still(layer: nn.Module) -> Iterator[nn.Module]:
    """The layers below this one of which nothing is trained."""
    for child in layer.children():
        each = [p.requires_grad for p in child.parameters()]
        if each and not any(each):
            yield from child.modules()
        else:
            yield from _still(child)
