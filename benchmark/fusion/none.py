"""The image alone."""

from benchmark.api import Fusion, FusionCard


class NoFusion(Fusion):
    card = FusionCard(title="Image alone", record=False)

    def refuses(self, arch, mode):
        return ""

    def head(self, channels, record, classes, *, dropout, options):
        import torch

        class Head(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.dropout = torch.nn.Dropout(dropout)
                self.linear = torch.nn.Linear(channels, classes)

            def forward(self, x, record=None):
                return self.linear(self.dropout(x))

        return Head()

    def network(self, backbone, record, classes, *, dropout, options):
        from benchmark.network import Classifier

        return Classifier(
            backbone,
            self.head(backbone.channels, record, classes, dropout=dropout, options=options),
        )
