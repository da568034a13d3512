"""What is asked and what came out: specs, their keys and seeds, and the outcome of a cell."""

import hashlib
import json
import math
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field

from benchmark.errors import BenchError
from benchmark.spec.recipe import NEUTRAL as NEUTRAL
from benchmark.spec.recipe import Augment as Augment
from benchmark.spec.recipe import Frozen as Frozen
from benchmark.spec.recipe import Protocol as Protocol
from benchmark.spec.recipe import Public as Public
from benchmark.spec.recipe import Recipe as Recipe
from benchmark.spec.recipe import RecordMap as RecordMap
from benchmark.spec.recipe import Scalar as Scalar
from benchmark.spec.recipe import Size as Size
from benchmark.spec.recipe import Split as Split
from benchmark.spec.recipe import TrainSize as TrainSize
from benchmark.spec.recipe import amount as amount
from benchmark.spec.recipe import lacking as lacking
from benchmark.spec.recipe import share_of as share_of
from benchmark.spec.recipe import spelled as spelled
from benchmark.spec.recipe import trained_on as trained_on
from benchmark.stats import Estimate

SCHEMA_VERSION = 1
#: Raised when the training or test code gives other numbers for the same spec.
CORE_VERSION = "2"


class PretrainSpec(Frozen):
    """Train a network on a source; the result is a file of weights."""

    kind: Literal["pretrain"] = "pretrain"
    source: str
    arch: str = "resnet50"
    seed: int = 0  # of the pretraining; a run calls it `pretrain_seed`
    recipe: Recipe


Mode = Literal["finetune", "frozen", "tuned"]


class RunSpec(Frozen):
    """One cell: one training on one fold of a target, and its test."""

    kind: Literal["run"] = "run"
    source: str
    target: str
    fusion: str = "none"
    arch: str = "resnet50"
    mode: Mode = "finetune"
    protocol: str = "standard"
    fold: int = 0
    partition: Annotated[int, NEUTRAL] = 0  # which way the patients are cut
    train_size: Annotated[TrainSize, NEUTRAL] = ""  # validation and test parts stay whole
    seed: int = 0  # of the training: head, order, augmentation, dropout
    pretrain_seed: Annotated[int, NEUTRAL] = 0  # of the source's weights; 0 where others made them
    columns: tuple[str, ...] = ()  # of the patient's record; empty where the arm reads none
    types: Annotated[dict[str, str], NEUTRAL] = {}  # column -> how it is read, if not inferred
    #: Of these, columns that tell the label and were asked for.
    allowed: Annotated[tuple[str, ...], NEUTRAL] = ()
    record: RecordMap | None = None  # None where the arm reads no record
    options: dict[str, Scalar] = {}  # of the fusion arm
    weights: str | None = None  # key of the PretrainSpec; None trains from scratch
    #: Of the test part's records: a share of the groups without any, or columns joined by +.
    missing: Annotated[str, NEUTRAL] = ""
    #: A second set with the same classes, all of which is the test; empty: the target's own part.
    tested_on: Annotated[str, NEUTRAL] = ""
    #: Key of the image-only run whose network or predictions this one uses; of a test once more
    #: (records missing, or on a second set) the run that was trained.
    base: str | None = None
    headline: str = "auroc"
    split: Split = Split()
    recipe: Recipe = Recipe()

    @property
    def again(self) -> bool:
        """Whether the run `base` is only tested once more."""
        return bool(self.missing or self.tested_on)


class DistanceSpec(Frozen):
    """How far a source is from a target by one method."""

    kind: Literal["distance"] = "distance"
    source: str
    target: str
    method: str
    arch: str = "resnet50"
    seed: int = 0
    pretrain_seed: Annotated[int, NEUTRAL] = 0  # of the weights that look
    size: Size | Literal[0] = 224  # 0 where nothing but the cards is looked at
    limit: int | None = None
    options: dict[str, Scalar] = {}
    weights: str | None = None  # of the probe network, where the method uses one
    #: Of a score, which sees the target's labels: it is taken on the training part of each fold.
    split: Annotated[Split | None, NEUTRAL] = None


Spec = Annotated[PretrainSpec | RunSpec | DistanceSpec, Field(discriminator="kind")]


class Input(Frozen):
    """Where a user's own data lie and how to read them."""

    path: Path
    name: str | None = None  # None takes the folder's
    metadata: Path | None = None
    label: str | None = None  # column of the label; None takes the class folders
    group: str | None = None  # column of patient, lesion or slide
    image: str | None = None  # column of the file name
    split: str | None = None  # column of the part: train, val or test
    separator: str | None = None  # between the labels in a cell of the column of labels


#: The version of a user's own set that is broken: no cell of it is run, nor ever done.
UNREAD = "unread"
#: Failures whose cause lies outside the cell: a plain `bench run` tries these again.
UNFINISHED = (
    "killed", "interrupted", "data_missing", "bad_input", "upstream", "disk_full", "damaged",
)  # fmt: skip


class Runtime(Frozen):
    """How a cell runs; never part of a key."""

    data: Path = Path("data")
    store: Path = Path("store")
    device: str = "auto"
    workers: int = 0  # processes that decode images; 0 means one per core
    timeout: float | None = None  # seconds a cell may take
    offline: bool = False
    draws: int = 2000  # of the bootstrap
    fresh: bool = False  # begin each cell anew, whatever checkpoint it left
    keep: bool = True  # the trained network beside the outcome, for prediction and pictures
    inputs: dict[str, Input] = {}  # component name -> the user's folder
    paths: dict[str, Path] = {}  # component name -> its file, for components given by path

    def where(self, name: str) -> dict[str, Any]:
        """Where a component of the user's own lies, as the registry takes it."""
        return {"path": self.paths.get(name), "given": self.inputs.get(name)}


class Cell(NamedTuple):
    """A spec with the versions of what it names, and the key both make."""

    key: str
    spec: PretrainSpec | RunSpec | DistanceSpec
    versions: dict[str, str]

    @classmethod
    def of(
        cls, spec: PretrainSpec | RunSpec | DistanceSpec, versions: dict[str, str] | None = None
    ) -> "Cell":
        """Name the cell by what it asks and by the versions of the parts that answer."""
        return cls(key_of(spec, versions or {}), spec, versions or {})

    @property
    def threads(self) -> int:
        """CPU cores it keeps busy."""
        return 2 if isinstance(self.spec, DistanceSpec) else self.spec.recipe.threads

    def upstream(self) -> list[tuple[str, str]]:
        """(kind, key) of what must be there before this cell can start."""
        base = self.spec.base if isinstance(self.spec, RunSpec) else None
        weights = None if isinstance(self.spec, PretrainSpec) else self.spec.weights
        keys = (("pretrain", weights), ("run", base))
        return [(kind, key) for kind, key in keys if key is not None]


FailureKind = Literal[
    "oom",
    "killed",
    "timeout",
    "data_missing",
    "bad_input",
    "not_finite",
    "interrupted",
    "upstream",
    "disk_full",
    "damaged",
    "bug",
]


class Failure(Frozen):
    """Why a cell has no numbers."""

    kind: FailureKind
    message: Public
    log_tail: Public = ""

    @classmethod
    def of(cls, error: BenchError) -> "Failure":
        """The failure of a cell that this error ends."""
        return cls.model_validate({"kind": error.kind, "message": str(error)})


def _nan_for_null(value: Any) -> Any:
    """JSON has no NaN: an undefined number is written as null."""
    if isinstance(value, dict):
        return {name: _nan_for_null(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        if None not in value and not (value and isinstance(value[0], dict)):
            return value
        return [_nan_for_null(item) for item in value]
    return math.nan if value is None else value


Estimates = Annotated[dict[str, Estimate], BeforeValidator(_nan_for_null)]


class Outcome(Frozen):
    """What one cell gave: its numbers with intervals, or why there are none."""

    schema_version: int = SCHEMA_VERSION
    key: str
    spec: Spec
    versions: dict[str, str] = {}
    status: Literal["ok", "failed", "skipped"]
    reason: Public = ""  # of a skip: an answer, not a failure
    failure: Failure | None = None
    metrics: Estimates = {}
    classes: tuple[str, ...] = ()
    per_class: Annotated[list[dict[str, Estimate]], BeforeValidator(_nan_for_null)] = []
    #: Of a metric that is a mean over classes: its standard deviation over them (ddof 1).
    over_classes: dict[str, float] = {}
    subgroups: Annotated[
        dict[str, dict[str, dict[str, Estimate]]], BeforeValidator(_nan_for_null)
    ] = {}
    #: Of each column of subgroups: the groups tested with each value; empty: with none.
    subgroup_sizes: dict[str, dict[str, int]] = {}
    chosen: str = ""  # which checkpoint, and by what
    history: list[dict[str, float | int | None]] = []
    data: dict[str, Scalar] = {}  # digest, counts, sibling rate, overlap
    warnings: list[Public] = []
    files: dict[str, str] = {}  # size and checksum of what lies beside it
    seconds: dict[str, float] = {}
    joules: float | None = None
    environment: dict[str, str] = {}

    @property
    def multilabel(self) -> bool:
        """Whether its images may have any number of the classes, which are a yes or no each."""
        return bool(self.data.get("multilabel"))


def shortened(text: bytes) -> bytes:
    """An outcome without its two longest fields, each of which ends where its indent does."""
    for begin, end in ((b'\n "subgroups": {\n', b"\n },"), (b'\n "history": [\n', b"\n ],")):
        if (at := text.find(begin)) >= 0 and (until := text.find(end, at)) >= 0:
            text = text[:at] + text[until + len(end) :]
    return text


def canonical(value: Any) -> str:
    """JSON with one spelling for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def key_of(spec: PretrainSpec | RunSpec | DistanceSpec, versions: dict[str, str]) -> str:
    """The first 16 hex digits of the sha256 of a spec and the versions of what it names."""
    asked = _without_neutral(spec, spec.model_dump(mode="json"))
    text = canonical({"spec": asked, "versions": versions})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without_neutral(value: Frozen, dumped: dict[str, Any]) -> dict[str, Any]:
    for name, default in _neutral(type(value)).items():
        if getattr(value, name) == default:
            del dumped[name]
    for name, item in value:
        if isinstance(item, Frozen) and name in dumped:
            _without_neutral(item, dumped[name])
    return dumped


@cache
def _neutral(kind: type[Frozen]) -> dict[str, Any]:
    """The fields that say nothing where they have their default, with it."""
    fields = kind.model_fields.items()
    return {name: field.default for name, field in fields if NEUTRAL in field.metadata}


def seed_of(*parts: object) -> int:
    """A 63-bit seed made from names, the same in every process and on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def is_linear(spec: RunSpec) -> bool:
    """Whether one linear layer on [F(X), G(M)] decides."""
    return spec.fusion in ("none", "concat") and not spec.options.get("layers")


def is_solved(spec: RunSpec) -> bool:
    """Whether that layer was solved for instead of trained."""
    trained = spec.recipe.head == "trained" or spec.options.get("modality_dropout")
    return not trained and spec.mode != "finetune" and is_linear(spec)


RANDOM = "random features"


def origin(source: str, mode: str) -> str:
    """Scratch is a network trained on the target; features that nobody trained are random."""
    if source != "none":
        return source
    return "scratch" if mode == "finetune" else RANDOM
