"""What a component says of itself, and what it hands over: frozen data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.download import File
from benchmark.data.label_sets import Label
from benchmark.spec import Augment, Recipe, Scalar
from benchmark.stats import Estimate


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image with what is known about it."""

    image: Path | np.ndarray | bytes
    label: Label  # a tuple: every name it bears, none where it is empty
    name: str  # unique within the set, not a patient's name
    group: str = ""  # patient, lesion or slide; empty: the image stands alone
    metadata: Mapping[str, str] = field(default_factory=dict)
    part: str = ""  # official split, where there is one


Record = Sample  # its name until 0.2; components written for it still load


def cats_recipe(**settings: Any) -> Recipe:
    """How van den Brandt et al. 2021 pretrain: images moved a little, the last epoch kept."""
    augment = Augment(rotation=10, shift=0.1, horizontal=True)
    return Recipe(augment=augment, select="last", **settings)


@dataclass(frozen=True)
class Experts:
    """What observers say of a set: the six properties of the expert distance."""

    medical: str  # "medical" or "natural"
    colour: str  # "grey" or "colour"
    content: str  # "objects", "textures" or "both"
    type: str  # of object or texture
    diversity: str  # "low", "medium" or "high"
    classes: str  # "binary" or "many"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a reader must know of any component; a change of its numbers raises `version`."""

    title: str
    version: int = 1
    license: str = ""
    reference: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceCard(Card):
    """A set of labelled images to pretrain on."""

    origin: str  # "natural", "medical" or "synthetic"
    classes: int
    images: int
    channels: int = 3
    experts: Experts | None = None
    pretrain: Recipe = field(default_factory=Recipe)
    given: bool = False  # its weights are made by others: no recipe of ours is in their key
    mean: tuple[float, ...] = ()  # that its weights were made with, if not the network's usual
    std: tuple[float, ...] = ()
    folders: tuple[str, ...] = ()  # names its folder may have below the data folder
    files: tuple[File, ...] = ()  # open downloads
    steps: str = ""  # how to get it where it lies behind an account
    drawing: Mapping[str, tuple[str, ...]] = field(
        default_factory=dict
    )  # --set data.NAME, first: usual
    overlaps: tuple[str, ...] = ()  # sets known to share images with it
    show: bool = False  # the licence allows sample images in a report
    cannot_bear: Mapping[str, str] = field(default_factory=dict)  # augmentation -> why not


@dataclass(frozen=True, kw_only=True)
class TargetCard(SourceCard):
    """A medical task; it can serve as a source too."""

    task: str = ""
    group: str = ""  # what a group is: "lesion", "patient", ...
    labels: tuple[str, ...] = ()  # class order; empty: sorted by code point
    multilabel: bool = False  # an image bears any number of the labels, or none
    ordinal: bool = False  # the labels are grades in this order: judged by quadratic kappa
    columns: Mapping[str, str] = field(default_factory=dict)  # inputs: name -> type
    forbidden: Mapping[str, str] = field(default_factory=dict)  # name -> why it leaks
    warned: Mapping[str, str] = field(default_factory=dict)  # name -> why it is doubtful
    missing: tuple[str, ...] = ()  # extra words that mean missing
    subgroups: tuple[str, ...] = ()  # columns to report metrics by


@dataclass(frozen=True, kw_only=True)
class FusionCard(Card):
    """A way to use the patient's record."""

    #: "pooled" features, last "maps" channel by channel or their "places" one by one, inner
    #: "blocks", the "record" alone, or "probabilities".
    needs: str = "pooled"
    beside: str = ""  # the arm on the record alone whose probabilities it takes
    record: bool = True  # reads the patient's record
    image: bool = True  # reads the image
    options: Mapping[str, Scalar] = field(default_factory=dict)  # name -> default


@dataclass(frozen=True, kw_only=True)
class DistanceCard(Card):
    """A distance between data sets, or a score of how well a source's weights suit a target."""

    needs: str = "features"  # "card", "features" or "network" of a probe; "weights" of the source
    more_is_near: bool = False  # a score: higher is better
    by_excess: bool = False  # what counts is its excess over the floor
    one_class: tuple[str, ...] = ()  # of "source" and "target": whose images must have one class
    options: Mapping[str, Scalar] = field(default_factory=dict)  # name -> default


@dataclass(frozen=True)
class Measured:
    """A distance with its 95 % interval where one can be had, and what else is worth knowing."""

    value: float
    low: float = math.nan
    high: float = math.nan
    #: Of these `floor` and `excess` are known everywhere: the latter is D(a, b) less what halves of
    #: a side are apart, at the same size.
    facts: Mapping[str, float | Estimate] = field(default_factory=dict)
