"""FiLM: the record scales and shifts the last maps, or the last block's (Perez et al. 2018)."""

from benchmark.api import BenchError, Fusion, FusionCard


class FiLM(Fusion):
    card = FusionCard(
        title="FiLM",
        reference="Perez et al. 2018, FiLM: Visual Reasoning with a General Conditioning Layer",
        needs="maps",
        options={"scale": "delta", "modality_dropout": 0.0},
    )
    variants = ("maps", "block")

    @property
    def needs(self) -> str:
        """`film:block` acts in the last block, after its first batch norm and before the ReLU."""
        return "blocks" if self.variant == "block" else self.card.needs

    def gate(self, channels, record, *, options):
        """(1 + Δγ) · x + β, starting as the identity; with scale=linear γ · x + β."""
        import torch
        from torch import nn

        scale = self.option(options, "scale")
        if scale not in ("delta", "linear"):
            raise BenchError(f"fusion.scale is '{scale}'.", "Give delta or linear.")

        class Gate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.affine = nn.Linear(record, 2 * channels)
                if scale == "delta":
                    nn.init.zeros_(self.affine.weight)
                    nn.init.zeros_(self.affine.bias)

            def forward(self, x: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                both = self.affine(record)
                factor, shift = both.view(*both.shape, *(1,) * (x.ndim - 2)).chunk(2, 1)
                return x * (factor + 1 if scale == "delta" else factor) + shift

        return Gate()
