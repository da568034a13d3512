"""Any weights that timm lists, which name their network: timm:vit_small_patch14_dinov2.lvd142m."""

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from benchmark.api import BenchError, Input, Ready, SourceCard, did_you_mean

if TYPE_CHECKING:
    import torch

IMAGENET = 1_281_167
#: Images behind a part of a tag, where the makers say how many.
IMAGES = {
    "in12k": 12_000_000,
    "in21k": 14_197_122,
    "in22k": 14_197_122,
    "lvd142m": 142_000_000,
    "lvd1689m": 1_689_000_000,
    "openai": 400_000_000,
    "laion400m": 400_000_000,
    "laion2b": 2_000_000_000,
    "yfcc100m": 100_000_000,
}


class Timm(Ready):
    """A tag says which images the network saw; timm knows its licence and normalisation."""

    variants = ("*",)
    card = SourceCard(
        title="Weights that timm lists",
        origin="natural",
        classes=0,
        images=0,
        license="of each weights' makers",
        reference="https://github.com/huggingface/pytorch-image-models",
        given=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant, given)
        if variant:
            self.card = replace(self.card, **_facts(variant))

    def network(self, arch: str) -> str:
        return self.variant.partition(".")[0]

    def need_fetched(self, arch: str) -> None:
        from benchmark.train.public import need_fetched

        need_fetched(self.variant)

    def pretrained(self, arch: str) -> "dict[str, torch.Tensor]":
        from benchmark.train.public import fetched

        return fetched(self.variant)


@cache
def _facts(variant: str) -> dict[str, Any]:
    """What timm knows of these weights, for the card; a plan asks once for every cell."""
    import timm

    known = timm.list_pretrained()
    if variant not in known and not any(name.startswith(f"{variant}.") for name in known):
        raise BenchError(f"timm has no weights '{variant}'.", did_you_mean(variant, known))
    cfg: Any = timm.get_pretrained_cfg(variant)
    tag = cfg.tag or variant.partition(".")[2]
    size = "x".join(map(str, cfg.input_size[1:]))
    return {
        "title": f"{variant}, made for {size} pixels",
        "images": _images(f"{variant.partition('.')[0]}.{tag}"),
        "license": cfg.license or "not said",
        "reference": cfg.origin_url or cfg.hf_hub_id or Timm.card.reference,
        "mean": tuple(cfg.mean),
        "std": tuple(cfg.std),
    }


def _images(tagged: str) -> int:
    """How many images weights saw, the largest set counts; 0 where one is of unknown size."""
    from benchmark.train.archs import OTHERS, of_imagenet

    if of_imagenet(tagged):
        return IMAGENET
    parts = tagged.partition(".")[2].split("_")
    known = [IMAGES[part] for part in parts if part in IMAGES]
    unknown = [p for p in parts if OTHERS.search(p) and p not in (*IMAGES, "clip", "mim")]
    return 0 if unknown else max(known, default=0)
