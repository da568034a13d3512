"""A network of the Hugging Face hub in timm's format, with its weights: hub:ORG/NAME[@REVISION]."""

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.api import BenchError, Input, Ready, SourceCard

if TYPE_CHECKING:
    import torch


class Hub(Ready):
    """Its config.json names the network; tensors are read, and nothing of it is ever run."""

    variants = ("*",)
    card = SourceCard(
        title="Weights of the Hugging Face hub",
        origin="natural",
        classes=0,
        images=0,
        license="of each repository",
        reference="https://huggingface.co/models?library=timm",
        given=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant, given)
        if variant:
            repo, _, _ = variant.partition("@")
            if repo.count("/") != 1:
                raise BenchError(f"hub:{variant} is no repository.", "Write hub:ORG/NAME.")
            self.card = replace(
                self.card, title=variant, reference=f"https://huggingface.co/{repo}"
            )

    def network(self, arch: str) -> str:
        return f"hub:{self.variant}"

    def need_fetched(self, arch: str) -> None:
        from benchmark.train.public import HUB, need_fetched

        need_fetched(HUB + self.variant)

    def pretrained(self, arch: str) -> "dict[str, torch.Tensor]":
        from benchmark.train.public import HUB, fetched

        return fetched(HUB + self.variant)
