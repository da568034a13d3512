"""Image and record side by side."""

from benchmark.api import Fusion, FusionCard


class Concat(Fusion):
    card = FusionCard(title="Concatenation")

    def refuses(self, arch, mode):
        return ""

    def head(self, channels, record, classes, *, dropout, options):
        import torch

        class Head(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.dropout = torch.nn.Dropout(dropout)
                self.linear = torch.nn.Linear(channels + record, classes)

            def forward(self, x, record=None):
                return self.linear(torch.cat([self.dropout(x), record], 1))

        return Head()

    def network(self, backbone, record, classes, *, dropout, options):
        from benchmark.network import Classifier

        return Classifier(
            backbone,
            self.head(backbone.channels, record, classes, dropout=dropout, options=options),
        )
