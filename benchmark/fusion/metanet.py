"""MetaNet: the record's layers multiply every last map by a number in (0, 1) (Li et al. 2020)."""

from benchmark.api import Fusion, FusionCard


class MetaNet(Fusion):
    card = FusionCard(
        title="MetaNet (multiplication)",
        reference="Li et al. 2020, Fusing Metadata and Dermoscopy Images for Skin Disease "
        "Diagnosis",
        needs="maps",
        options={"layers": 2, "modality_dropout": 0.0},
    )

    def gate(self, channels, record, *, options):
        """x · σ(W₂ ReLU(W₁ m)), with 1 to 4 layers."""
        import torch
        from torch import nn

        from benchmark.train.classifier import record_layers

        class Gate(nn.Module):
            def __init__(self, layers: int) -> None:
                super().__init__()
                self.layers = record_layers(record, channels, layers)

            def forward(self, x: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                factor = self.layers(record).sigmoid()
                return x * factor.view(*factor.shape, *(1,) * (x.ndim - 2))

        return Gate(int(self.option(options, "layers")))
