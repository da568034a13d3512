"""How a network is trained and a set is cut: recipes, splits, sizes and protocols."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from benchmark.errors import public

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


def spelled(size: str) -> str:
    """One spelling of a size; empty for the whole training part, which is 100% of it."""
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
TrainSize = Annotated[str, AfterValidator(spelled)]


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
    #: Images seen in training, in place of `epochs`: so do small and large sets get equally much.
    images: Annotated[int | None, Field(ge=1), NEUTRAL] = None
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
    #: What a fine-tuning changes of the network beside the arm's own parts: all of it, nothing, its
    #: last block or stage, its norms, its biases, or its attention by low-rank updates.
    trains: Annotated[Literal["all", "head", "last", "norm", "bias", "lora"], NEUTRAL] = "all"
    lora_rank: Annotated[int, Field(ge=1), NEUTRAL] = 8
    #: By what the learning rate falls from block to block, from the head down.
    layer_decay: Annotated[float, Field(gt=0, le=1), NEUTRAL] = 1.0
    #: How a set draws its images where not as usual: "boundary=half scaling=joint".
    data: Annotated[str, NEUTRAL] = ""

    def over(self, rows: int) -> "Recipe":
        """The recipe whose epochs over so many training images see `images` of them."""
        if self.images is None:
            return self
        return self.model_copy(update={"epochs": max(1, round(self.images / max(rows, 1)))})

    @property
    def length(self) -> str:
        """How long it trains, in words."""
        return f"{self.epochs} epochs" if self.images is None else f"{self.images:,} images"


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
