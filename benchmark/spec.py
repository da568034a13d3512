"""What is asked and what came out: specs, their keys and seeds, and the outcome of a cell."""

import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from benchmark.errors import BenchError, public
from benchmark.stats import Estimate

SCHEMA_VERSION = 1
#: Raised when the training or test code gives other numbers for the same spec.
CORE_VERSION = "2"

#: Marks a field that says nothing where it has its default: it is then left out of the key, so that
#: a field that comes later changes no key that is there.
NEUTRAL = "neutral"

Size = int | tuple[int, int]  # or (height, width)


def _some(size: Size) -> Size:
    if min((size,) if isinstance(size, int) else size) < 1:
        raise ValueError("a side has at least 1 pixel")
    return size


Sides = Annotated[Size, AfterValidator(_some)]
Scalar = bool | int | float | str


#: A text that lasts: names that may tell a patient's are not in it.
Public = Annotated[str, AfterValidator(public)]


class Frozen(BaseModel):
    """A value that cannot change and knows all its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")


def amount(size: str) -> tuple[float, str]:
    """A size of the training part as number and unit: images (empty), `%` or `/class`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%|/class)?", size.replace(" ", "").lower())
    number, unit = (float(found[1]), found[2] or "") if found else (0.0, "")
    if not number > 0 or (number > 100 if unit == "%" else number % 1):
        raise ValueError("write 100 (images), 5% or 10/class")
    return number, unit


def _spelled(size: str) -> str:
    number, unit = amount(size) if size else (100, "%")
    return "" if (number, unit) == (100, "%") else f"{number:.15g}{unit}"


def trained_on(size: str) -> str:
    """`100 training images`: what of the training part was used; empty for the whole."""
    if not size:
        return ""
    number, unit = amount(size)
    images = "image" if number == 1 and unit != "%" else "images"
    each = {"%": "% of the", "/class": ""}.get(unit, "")
    return f"{number:,.15g}{each} training {images}{' per class' if unit == '/class' else ''}"


def share_of(missing: str) -> float | None:
    """Which share of the records is missing; None where it is columns."""
    try:
        return float(missing)
    except ValueError:
        return None


def lacking(missing: str) -> str:
    """`half of the records missing`, `age, sex missing`; empty where nothing is."""
    if not missing:
        return ""
    share = share_of(missing)
    if share is None:
        return f"{', '.join(missing.split('+'))} missing"
    much = {0.5: "half of the", 1.0: "all"}.get(share, f"{share:.15g} of the")
    return f"{much} records missing"


#: How much of the training part is used, with one spelling for equal sizes; empty: all of it.
TrainSize = Annotated[str, AfterValidator(_spelled)]


def _rates(asked: Any) -> Any:
    """`1e-4,1e-3` as two numbers, each once, from the smallest."""
    found = sorted(
        {float(rate) for rate in (asked.split(",") if isinstance(asked, str) else asked)}
    )
    if len(found) == 1 or (found and found[0] <= 0):
        raise ValueError("give two learning rates or more, as in 1e-4,1e-3")
    return found


class Augment(Frozen):
    """Random changes of an image; each is drawn per image."""

    rotation: float = 0.0  # degrees, uniform in ±rotation
    shift: float = 0.0  # uniform in ±shift of the side; 1 or more means pixels
    scale: tuple[float, float] = (1.0, 1.0)  # uniform
    horizontal: bool = False
    vertical: bool = False
    brightness: float = 0.0  # factor uniform in 1 ± brightness; the two below likewise
    contrast: float = 0.0
    saturation: float = 0.0
    fill: Literal["zeros", "border", "reflection"] = "zeros"


class Recipe(Frozen):
    """How a network is trained: everything that changes its numbers."""

    size: Sides = 224  # the prepared image; (height, width) where not square
    crop: Sides | None = None  # random in training, central in test
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=32, ge=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-4, gt=0)
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    milestones: tuple[int, ...] = ()  # epochs after which `step` multiplies by `factor`
    factor: float = 0.5
    dropout: float = 0.5
    class_weights: Literal["none", "balanced", "complement"] = "balanced"
    augment: Augment = Augment()
    test_augment: Augment | None = None
    constancy: bool = False  # shades of gray before anything else
    precision: Literal["float32", "bf16"] = "bf16"  # bf16 autocast on a GPU; a CPU runs float32
    threads: int = Field(
        default=2, ge=1
    )  # per cell: CPU results differ bitwise between thread counts
    select: Literal["validation", "last"] = "validation"
    init: Literal["default", "he"] = "default"
    # A head on frozen features. chosen: a linear one is a logistic regression at its optimum, its
    # penalty chosen by validation; any other is trained, its learning rate and decay chosen so.
    # trained: by the loop, as the recipe says. optimum, faithful: Thomas's softmax classifier
    # without a choice, solved or by plain gradient descent as the paper ran it.
    head: Literal["chosen", "trained", "optimum", "faithful"] = "trained"
    limit: int | None = Field(default=None, ge=2)  # images used at most, whole groups, seeded
    #: Learning rates of a fine-tuning of which validation chooses, in place of `lr`.
    tune: Annotated[tuple[float, ...], BeforeValidator(_rates), NEUTRAL] = ()
    #: How a set draws its images where not as usual: "boundary=half scaling=joint".
    data: Annotated[str, NEUTRAL] = ""


class Split(Frozen):
    """How a target's images are parted into train, validation and test."""

    kind: Literal["grouped", "image", "official"] = "grouped"
    folds: int = Field(default=5, ge=1)
    validation: float = Field(default=0.1, ge=0, lt=1)  # of what is not test
    test: float | None = None  # a share for a single split (folds = 1)


class RecordMap(Frozen):
    """How the patient's record becomes numbers; fitted on the training part only."""

    encoder: Literal["onehot", "ordinal"] = "onehot"
    standardise: bool = True  # to mean 0 and deviation 1 of the training part
    indicator: bool = False  # a column that says a value was missing


class Protocol(Frozen):
    """A way to evaluate: split, training, selection, metrics. One YAML each in protocols/."""

    title: str
    version: int = 1
    reference: str = ""
    leaky: bool = False  # one patient may be on both sides of the split
    split: Split = Split()
    recipe: Recipe = Recipe()
    frozen: dict[str, Any] = {}  # what `mode: frozen` changes in the recipe
    scratch: dict[str, Any] = {}  # what a fine-tuning without pretrained weights changes in it
    by_target: dict[str, dict[str, Any]] = {}  # what a target changes in the recipe
    fusion: dict[str, dict[str, Scalar]] = {}  # options of an arm
    record: RecordMap = RecordMap()
    by_card: bool = False  # leaves out augmentations that a target's card says it cannot bear
    headline: str = "auroc"
    notes: tuple[str, ...] = ()


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
    #: Key of the image-only run whose network or predictions this one uses; where records are
    #: missing, of the run that has them.
    base: str | None = None
    headline: str = "auroc"
    split: Split = Split()
    recipe: Recipe = Recipe()


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
