"""Cross-attention: places of the last maps and columns of the record attend to each other."""

from benchmark.api import BenchError, Fusion, FusionCard


class CrossAttention(Fusion):
    """Each place of a network's last maps, or token of a transformer, looks at the columns.

    `cross_attention:record` turns it about: the columns look at the places, and the mean of the
    columns with what they found is added to every place.
    """

    card = FusionCard(
        title="Cross-attention",
        reference="After Ou et al. 2022, A deep learning based multimodal fusion model for skin "
        "lesion diagnosis using smartphone collected clinical images and metadata; columns as "
        "tokens: Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data",
        needs="places",
        options={"heads": 4, "width": 64, "dropout": 0.0, "modality_dropout": 0.0},
    )
    variants = ("image", "record")

    def gate(self, channels, record, *, options):
        """x + W_o · attention(queries, keys, values), starting as the identity."""
        import torch
        from torch import nn

        heads, width = (int(self.option(options, name)) for name in ("heads", "width"))
        dropout, of_record = float(self.option(options, "dropout")), self.variant == "record"
        if heads < 1 or width < 1 or width % heads:
            raise BenchError(
                f"A width of {width} cannot be parted into {heads} heads.",
                "Set fusion.width to a multiple of fusion.heads, such as 64 of 4.",
            )
        if not 0 <= dropout < 1:
            raise BenchError(f"fusion.dropout is {dropout}.", "Give a share from 0 to below 1.")

        class Gate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                # A value is its column's direction times the value, from its column's own point.
                self.direction = nn.Parameter(torch.randn(record, width) / width**0.5)
                self.point = nn.Parameter(torch.randn(record, width) / width**0.5)
                self.norm = nn.LayerNorm(channels)
                self.places = nn.Linear(channels, width)
                self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
                self.outward = nn.Linear(width, channels)
                nn.init.zeros_(self.outward.weight)
                nn.init.zeros_(self.outward.bias)

            def forward(self, x: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                columns = record[:, :, None] * self.direction + self.point
                places = self.places(self.norm(x.flatten(2).transpose(1, 2)))
                asks, told = (columns, places) if of_record else (places, columns)
                found, _ = self.attention(asks, told, told, need_weights=False)
                found = (columns + found).mean(1, keepdim=True) if of_record else found
                change = self.outward(found).transpose(1, 2)
                return x + (change[..., None] if of_record else change.reshape(x.shape))

        return Gate()
