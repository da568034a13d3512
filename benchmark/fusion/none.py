"""The image alone."""

from benchmark.api import Fusion, FusionCard


class ImageAlone(Fusion):
    card = FusionCard(title="Image alone", record=False)
