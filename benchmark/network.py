"""Backbones: last maps, pooled features, input size and normalisation of any network."""

# First version; a fuller one follows.
import timm
import torch
from torch import nn

from benchmark.errors import BenchError


class Backbone(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.channels = int(net.num_features)
        cfg = net.default_cfg
        self.mean, self.std = tuple(cfg["mean"]), tuple(cfg["std"])
        self.maps_commute = True

    def maps(self, x):
        return self.net.forward_features(x)

    def pool(self, maps):
        return self.net.forward_head(maps, pre_logits=True)

    def pooled(self, x):
        return self.pool(self.maps(x))


def build(arch, *, pretrained=False, seed=0, init="default"):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(timm.create_model(arch, pretrained=pretrained, num_classes=0))


def load_backbone(backbone, state):
    state = {
        k.removeprefix("backbone.").removeprefix("net."): v
        for k, v in state.items()
        if not k.startswith("head.")
    }
    missing, unexpected = backbone.net.load_state_dict(state, strict=False)
    if missing:
        raise BenchError(f"The weights lack {missing[0]}.", "")


class Classifier(nn.Module):
    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images, record=None):
        return self.head(self.backbone.pooled(images), record)
