"""Concatenation: the record, or layers on it, beside the pooled image features (Thomas 2021)."""

from benchmark.api import Fusion, FusionCard


class Concat(Fusion):
    card = FusionCard(
        title="Concatenation",
        reference="Thomas 2021; with layers, Li et al. 2020 (Table 4)",
        options={"layers": 0, "modality_dropout": 0.0},
    )

    def head(self, channels, record, classes, *, dropout, options):
        """[F(X), G(M)] -> linear; dropout spares the record, which is a few numbers."""
        import torch
        from torch import nn

        from benchmark.train.classifier import record_layers

        layers = int(self.option(options, "layers"))

        class Head(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.dropout = nn.Dropout(dropout)
                self.record = (
                    nn.Sequential(record_layers(record, channels, layers), nn.ReLU())
                    if layers
                    else nn.Identity()
                )
                self.output = nn.Linear(channels + (channels if layers else record), classes)

            def forward(self, pooled: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                return self.output(torch.cat([self.dropout(pooled), self.record(record)], 1))

        return self.forgetting(Head(), options)
