"""Weights of your own, added by `bench weights add` and used as weights:NAME."""

from dataclasses import replace
from typing import NoReturn

from benchmark.api import BenchError, Input, Ready, SourceCard


class Weights(Ready):
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
            self.card = replace(self.card, title=f"weights:{variant}")

    def need_added(self, arch: str) -> NoReturn:
        """They were put into the store by hand, or they are not there."""
        raise BenchError(
            f"No weights named '{self.variant}' were added for {arch}.",
            f"Add them: bench weights add FILE --name {self.variant} --arch {arch}; "
            "`bench weights list` shows what is there.",
        )

    pretrained = need_added
