"""MetaBlock: the record gates groups of pooled features (Pacheco and Krohling 2021)."""

from benchmark.api import BenchError, Fusion, FusionCard


class MetaBlock(Fusion):
    card = FusionCard(
        title="MetaBlock",
        version=2,
        reference="Pacheco and Krohling 2021, An attention-based mechanism to combine images and "
        "metadata in deep learning models applied to skin cancer classification",
        options={"groups": 32, "modality_dropout": 0.0},
    )

    def gate(self, channels, record, *, options):
        """σ(tanh(V · BN(W_f m)) + BN(W_g m)), V the features in groups of equal length.

        It starts as σ(tanh(V)): factors drawn around zero would turn the features of every second
        patient about, and few images never mend that.
        """
        import torch
        from torch import nn

        groups = int(self.option(options, "groups"))
        if groups < 1 or channels % groups:
            raise BenchError(
                f"{channels} features cannot be parted into {groups} groups.",
                "Set fusion.groups to a number that divides them, such as 32.",
            )

        class Gate(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.factor = nn.Sequential(nn.Linear(record, groups), nn.BatchNorm1d(groups))
                self.shift = nn.Sequential(nn.Linear(record, groups), nn.BatchNorm1d(groups))
                nn.init.ones_(self.factor[1].bias)  # pyright: ignore[reportArgumentType]
                for path in (self.factor, self.shift):
                    nn.init.zeros_(path[1].weight)  # pyright: ignore[reportArgumentType]

            def forward(self, x: torch.Tensor, record: torch.Tensor) -> torch.Tensor:
                values = x.view(len(x), groups, -1)
                factor, shift = self.factor(record)[:, :, None], self.shift(record)[:, :, None]
                return ((values * factor).tanh() + shift).sigmoid().view(x.shape)

        return Gate()
