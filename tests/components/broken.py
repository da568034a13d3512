"""An arm that fails in the way it is asked to."""

from collections.abc import Mapping

from benchmark.api import Fusion, FusionCard


class Broken(Fusion):
    card = FusionCard(title="Broken", record=False)
    variants = ("explode", "die", "nan", "memory")

    def head(self, channels, record, classes, *, dropout, options: Mapping):
        import os
        import signal

        import torch

        how = self.variant
        if how == "explode":
            raise RuntimeError("this arm always breaks")
        if how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "memory":
            raise MemoryError
        head = torch.nn.Linear(channels, classes)
        torch.nn.init.constant_(head.weight, float("nan"))

        class Head(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = head

            def forward(self, features, record):
                return self.linear(features)

        return Head()
