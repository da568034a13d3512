"""DAFT: image and record together scale and shift the last block's maps (Pölsterl et al. 2021)."""

from benchmark.api import BenchError, Fusion, FusionCard


class DAFT(Fusion):
    card = FusionCard(
        title="DAFT",
        reference="Pölsterl et al. 2021, Combining 3D Image and Tabular Data via the Dynamic "
        "Affine Feature Map Transform",
        needs="blocks",
        options={"scale": "delta", "reduction": 7, "modality_dropout": 0.0},
    )
    variants = ("block", "maps")

    @property
    def needs(self) -> str:
        """As published it acts in the last block, after the first batch norm, before the ReLU.

        `daft:maps` acts on the last maps instead. Its factors come from the pooled maps and
        nothing but the pooling follows, so pooled features suffice there.
        """
        return "maps" if self.variant == "maps" else self.card.needs

    def gate(self, channels, record, *, options):
        """[GAP(x), m] -> ReLU bottleneck (C + M)/7 -> scale and shift; starts as the identity."""
        import torch
        from torch import nn

        scale = self.option(options, "scale")
        known = {"delta": lambda s: 1 + s, "linear": lambda s: s}
        known |= {"sigmoid": torch.sigmoid, "tanh": torch.tanh}
        if scale not in known:
            raise BenchError(f"fusion.scale is '{scale}'.", f"Give one of {', '.join(known)}.")
        inner = max(1, (channels + record) // int(self.option(options, "reduction")))

        class Gate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inward = nn.Linear(channels + record, inner, bias=False)
                self.outward = nn.Linear(inner, 2 * channels, bias=False)
                if scale == "delta":
                    nn.init.zeros_(self.outward.weight)

            def forward(self, x: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                pooled = x.flatten(2).mean(2) if x.ndim > 2 else x
                both = self.outward(self.inward(torch.cat([pooled, record], 1)).relu())
                factor, shift = both.view(*both.shape, *(1,) * (x.ndim - 2)).chunk(2, 1)
                return known[scale](factor) * x + shift

        return Gate()
