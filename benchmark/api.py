"""What a component file may use: the base classes, their cards, and helpers to read data.

A file `sources/dtd.py` defines one class with a `card`; its name is the file's. Nothing here
imports torch, so that planning can read every card.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from benchmark import ecg, images, synthetic
from benchmark.cards import (
    Card,
    DistanceCard,
    Experts,
    FusionCard,
    Measured,
    Record,
    Sample,
    SourceCard,
    TargetCard,
    cats_recipe,
)
from benchmark.data import dicom, leaks
from benchmark.data.contents import digests, plain_file
from benchmark.data.download import File, locate
from benchmark.data.label_sets import Label
from benchmark.data.leaks import Look
from benchmark.data.matching import check_pairs
from benchmark.data.tables import class_folders, column_types, read_table
from benchmark.errors import BenchError, DataMissing, did_you_mean, private
from benchmark.metadata import FORBIDDEN, WARN, is_missing
from benchmark.spec import Augment, Input, Recipe, Scalar, Size
from benchmark.stats import Estimate
from benchmark.train import archs

if TYPE_CHECKING:
    import torch

    from benchmark.train.network import Backbone

__all__ = [
    "FORBIDDEN",
    "WARN",
    "Augment",
    "BenchError",
    "Card",
    "Component",
    "DataMissing",
    "Distance",
    "DistanceCard",
    "Estimate",
    "Experts",
    "File",
    "Fusion",
    "FusionCard",
    "Input",
    "Label",
    "Look",
    "Measured",
    "Ready",
    "Recipe",
    "Record",
    "Sample",
    "Side",
    "Size",
    "Source",
    "SourceCard",
    "Target",
    "TargetCard",
    "cats_recipe",
    "check_pairs",
    "class_folders",
    "column_types",
    "dicom",
    "did_you_mean",
    "digests",
    "ecg",
    "images",
    "is_missing",
    "leaks",
    "locate",
    "plain_file",
    "private",
    "read_table",
    "synthetic",
]

#: Networks whose bottleneck or basic blocks an arm can reach into, by their timm names.
RESNET = re.compile(r"(wide_)?resnet\d+[cdstw]*(_\d)?(\.\w+)?$")
#: Where an arm works of which pooled features tell nothing.
INSIDE = {"blocks": "inside the network", "places": "on each place of the last maps"}


class Side(Protocol):
    """One of two data sets as a distance sees it; what is costly is made when asked for."""

    name: str
    card: SourceCard

    @property
    def labels(self) -> np.ndarray:
        """Class numbers (n,) of a seeded, stratified subset; of label sets 0 and 1 (n, K)."""
        ...

    @property
    def groups(self) -> np.ndarray:
        """Group numbers (n,) of the same images."""
        ...

    @property
    def features(self) -> np.ndarray:
        """Pooled features float32 (n, C) of the probe, or of the source's own network."""
        ...

    @property
    def probabilities(self) -> np.ndarray:
        """Class probabilities (n, K) that the source's own network gives."""
        ...

    def images(self, rows: np.ndarray) -> "torch.Tensor":
        """Normalised images float32 (len(rows), 3, H, W), by their places in `labels`."""
        ...

    @property
    def network(self) -> "torch.nn.Module":
        """A copy of the probe network that may be changed."""
        ...

    def cached(self, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """An array made once for this set, subset, probe and name; `name` says all options."""
        ...


class Component:
    """Anything with a card that the registry finds by its file's name."""

    #: Names after a colon that this family knows, the default first; empty: takes none.
    variants: ClassVar[tuple[str, ...]] = ()
    card: Any  # each kind narrows it to its own card

    def __init__(self, variant: str = "", given: Input | None = None) -> None:
        self.variant = variant
        self.given = given


class Source(Component):
    """A set of labelled images."""

    card: SourceCard
    white: int = images.WHITE  # of its images of 16 bits, found over the whole set
    drawn: str = ""  # as `Recipe.data`

    def drawing(self) -> dict[str, str]:
        """How the images are drawn: what the card calls usual, and what was asked for."""
        usual = {name: choices[0] for name, choices in self.card.drawing.items()}
        return usual | dict(text.split("=") for text in self.drawn.split())

    def records(self, root: Path) -> Iterator[Sample]:
        """Every image of the set, read from its official files below `root`."""
        raise NotImplementedError

    def place(self, data: Path, *, offline: bool = False) -> Path:
        """Where a set without a folder of its own lies; a family that fetches does so here."""
        return data

    def read(self, sample: Sample, size: Size) -> tuple[np.ndarray, str]:
        """The image as uint8 (H, W, 3) and the hash of what is stored.

        It has its own size; one that is drawn from something else is drawn for `size`.
        """
        image = images.decode(sample.image, what=sample.name, white=self.white)
        return image, images.pixel_hash(image)

    def brightest(self, sample: Sample) -> int:
        """The largest value of an image that has more than 8 bits, else 0."""
        return images.brightest(sample.image) if isinstance(sample.image, Path) else 0

    def decode(
        self, sample: Sample, size: Size, *, constancy: bool = False
    ) -> tuple[np.ndarray, str]:
        """The image as uint8 (H, W, 3) at `size`, and the hash of `read`."""
        image, text = self.read(sample, size)
        # Before resizing: a mean of powers is that of the camera's pixels, not of their averages.
        return images.resize(images.shades_of_gray(image) if constancy else image, size), text

    def fingerprint(self) -> str:
        """What a key holds of a user's own data; an official set is named by its version."""
        return str(self.card.version)

    def columns(self) -> dict[str, str]:
        """The columns of the record that are inputs, with their types."""
        return dict(getattr(self.card, "columns", {}))

    def check(self, arch: str) -> None:
        """Refuse, before anything runs, a network that this source can give no weights of."""

    def look(self) -> Look:
        """Which columns are no inputs, and what else a user must hear before a run."""
        card = self.card
        return Look({**getattr(card, "forbidden", {}), **getattr(card, "warned", {})})

    def need_added(self, arch: str) -> None:
        """Refuse, before anything runs, weights that have to be added by hand and were not."""

    def need_fetched(self, arch: str) -> None:
        """Refuse, before a run without a connection, weights that are not on this machine."""

    def network(self, arch: str) -> str:
        """The network whose weights it gives, where `arch` was asked for; some bring their own."""
        return arch

    def pretrained(self, arch: str) -> "dict[str, torch.Tensor] | None":
        """Weights made by others, where this source is such; None trains on the records."""
        return None

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """Write a miniature of the set in its own on-disk format."""
        raise NotImplementedError


class Ready(Source):
    """Weights that others made, without the images they come from."""

    def records(self, root: Path) -> Iterator[Sample]:
        raise BenchError(
            f"{self.card.title} is a file of weights here and has no images.",
            "Take a source with images for this.",
        )

    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """Nothing to write: there are no images."""


class Target(Source):
    """A medical task with patients: a source whose records carry groups and metadata."""

    card: TargetCard  # pyright: ignore[reportIncompatibleVariableOverride]

    def further(self, root: Path) -> dict[str, str]:
        """Columns of its table below `root` that are inputs where they are named, with types."""
        return {}


class Fusion(Component):
    """A way to use the patient's record beside the image.

    An arm on pooled features gives a `head`. One that changes maps by the record gives a `gate`,
    which is then used on pooled features where that is the same, and inside the network where not.
    """

    card: FusionCard

    @property
    def needs(self) -> str:
        """What of the network this arm, or this variant of it, works on."""
        return self.card.needs

    def option(self, options: Mapping[str, Scalar], name: str) -> Any:
        """The value of an option, its default where it is not set."""
        return options.get(name, self.card.options.get(name))

    def takes_gaps(self, options: Mapping[str, Scalar]) -> bool:
        """Whether a missing value comes to it as NaN, with no value made up for it."""
        return False

    def refuses(self, arch: str, mode: str) -> str:
        """Why this arm cannot run there, or an empty text."""
        if self.needs == "blocks" and not RESNET.match(arch):
            return f"{self.card.title} works inside the blocks of a ResNet, and {arch} is none"
        if self.needs in INSIDE and mode != "finetune":
            where = INSIDE[self.needs]
            return f"{self.card.title} works {where}, and mode {mode} keeps only features"
        if self.needs == "maps" and mode != "finetune" and not archs.mean_pooled(arch):
            return (
                f"{self.card.title} changes the last maps, of which the features of {arch} are "
                f"not the mean, and mode {mode} keeps only features"
            )
        return ""

    def gate(
        self, channels: int, record: int, *, options: Mapping[str, Scalar]
    ) -> "torch.nn.Module | None":
        """A module (x (N, channels, ...), record (N, record)) -> x changed per channel."""
        return None

    def head(
        self,
        channels: int,
        record: int,
        classes: int,
        *,
        dropout: float,
        options: Mapping[str, Scalar],
    ) -> "torch.nn.Module":
        """A module (pooled (N, channels), record (N, record)) -> logits (N, classes)."""
        from benchmark.train.classifier import Head

        if self.needs in INSIDE:
            raise BenchError(f"{self.card.title} has no head on features.", "Use mode finetune.")
        gate = self.gate(channels, record, options=options)
        return self.forgetting(Head(channels, classes, dropout=dropout, gate=gate), options)

    def network(
        self,
        backbone: "Backbone",
        record: int,
        classes: int,
        *,
        dropout: float,
        options: Mapping[str, Scalar],
    ) -> "torch.nn.Module":
        """A module (images (N, 3, H, W), record (N, record)) -> logits (N, classes)."""
        from benchmark.train.classifier import Classifier, Head

        if self.needs in INSIDE or (self.needs == "maps" and not backbone.maps_commute):
            inside = backbone.last_norm() if self.needs == "blocks" else ""
            channels = backbone.width_of(inside) if inside else backbone.map_channels
            gate = self.gate(channels, record, options=options)
            head = Head(backbone.channels, classes, dropout=dropout)
            return self.forgetting(Classifier(backbone, head, gate=gate, inside=inside), options)
        head = self.head(backbone.channels, record, classes, dropout=dropout, options=options)
        return Classifier(backbone, head)

    def forgetting(
        self, module: "torch.nn.Module", options: Mapping[str, Scalar]
    ) -> "torch.nn.Module":
        """The module, its records replaced by zeros in training as `modality_dropout` asks."""
        from benchmark.train.classifier import forget_records

        return forget_records(module, float(self.option(options, "modality_dropout") or 0.0))


class Distance(Component):
    """How far a source is from a target, or how well its weights suit it."""

    card: DistanceCard

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        """The distance of two sides."""
        raise NotImplementedError
