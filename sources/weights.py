"""Weights of your own, added by `bench weights add` and used as weights:NAME."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from benchmark.api import BenchError, Input, Sample, Source, SourceCard


class Weights(Source):
    """A file of weights without images: it can be fine-tuned, but not trained on or measured."""

    variants = ("*",)
    card = SourceCard(
        title="Weights of your own",
        origin="natural",
        classes=0,
        images=0,
        license="its maker's; see the card stored with the weights",
        reference="the card stored with the weights",
        given=True,
    )

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        super().__init__(variant, given)
        if variant:
            self.card = replace(self.card, title=f"Weights of your own: {variant}")

    def records(self, root: Path) -> Iterator[Sample]:
        raise BenchError(
            f"weights:{self.variant} is a file of weights and has no images.",
            "Take a source with images for this.",
        )

    def need_added(self, arch: str) -> NoReturn:
        """They were put into the store by hand, or they are not there."""
        raise BenchError(
            f"No weights named '{self.variant}' were added for {arch}.",
            f"Add them: bench weights add FILE --name {self.variant} --arch {arch}; "
            "`bench weights list` shows what is there.",
        )

    pretrained = need_added

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """Nothing to write: there are no images."""
