"""`bench predict`: class probabilities of a finished run for new images and their records."""

import csv
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
import torch
from torch import nn

from benchmark import registry
from benchmark.api import Sample, read_table
from benchmark.data.dicom import ENDINGS
from benchmark.data.matching import spellings
from benchmark.errors import BenchError
from benchmark.metadata import Encoder
from benchmark.metrics.rates import YES
from benchmark.spec import Cell, Outcome, Recipe, RunSpec, Runtime, is_solved
from benchmark.store import Store
from benchmark.train import features, loop, network, record_map, weights
from benchmark.train.classifier import Classifier, Standardised
from benchmark.train.context import Memory, Work, device_of

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 256  # images decoded at a time


@dataclass(frozen=True)
class Trained:
    """A finished run that can answer for images it has not seen."""

    outcome: Outcome
    spec: RunSpec
    work: Work
    model: nn.Module  # (images, record) -> logits, on the device
    encoder: Encoder | None  # of the record, where the arm reads one
    scale: dict[str, list[float]]

    @property
    def recipe(self) -> Recipe:
        """The run's preprocessing; new images are never augmented."""
        return self.spec.recipe.model_copy(update={"test_augment": None})

    @property
    def head(self) -> nn.Module | None:
        """What decides on pooled features, where the record changes nothing before them."""
        model = self.model
        return model.head if isinstance(model, Classifier) and not model.gate else None

    def record(self, frame: "pd.DataFrame") -> np.ndarray | None:
        """The record float32 (n, M) as the arm was trained on it."""
        if self.encoder is None:
            return None
        return record_map.mapped((self.encoder, self.scale), frame)

    def inputs(self, pixels: np.ndarray, record: np.ndarray | None) -> loop.Pixels:
        """Prepared images uint8 (n, H, W, 3) as the network takes them."""
        backbone = self.model.backbone
        assert isinstance(backbone, network.Backbone)
        return loop.Pixels(
            images=torch.from_numpy(pixels),
            record=self.work.tensor(record),
            recipe=self.recipe,
            mean=backbone.mean,
            std=backbone.std,
            device=self.work.device,
        )

    def features(self, inputs: loop.Pixels) -> torch.Tensor:
        """Pooled features (n, C) for `decide`."""
        backbone = self.model.backbone
        assert isinstance(backbone, network.Backbone)
        backbone.eval()
        return features.extract(self.work, backbone, inputs, np.arange(len(inputs.images)))

    def decide(self, values: torch.Tensor, record: torch.Tensor | None) -> np.ndarray:
        """Probabilities (n, K) of pooled features; only where there is a `head`."""
        assert self.head is not None
        # A head that was solved for is in full precision, on whatever device.
        exact = {"precision": "float32"} if is_solved(self.spec) else {}
        recipe, device = self.recipe.model_copy(update=exact), self.work.device
        found, rows = loop.Features(values.to(device), record), torch.arange(len(values))
        many = self.outcome.multilabel
        return loop.predict(self.head, found, rows, recipe, device, multilabel=many)

    def probabilities(self, inputs: loop.Pixels) -> np.ndarray:
        """Class probabilities float64 (n, K), as the run's own test had them."""
        if self.head is not None:
            return self.decide(self.features(inputs), inputs.record)
        rows, many = torch.arange(len(inputs.images)), self.outcome.multilabel
        device = self.work.device
        return loop.predict(self.model, inputs, rows, self.recipe, device, multilabel=many)


class Prediction(NamedTuple):
    """Probabilities (n, K) of the images named, and what a user should know of the record."""

    images: tuple[str, ...]
    classes: tuple[str, ...]
    scores: np.ndarray
    warnings: tuple[str, ...]
    multilabel: bool = False

    def write(self, file: TextIO) -> None:
        """A CSV: image, a column for each class, and the class with the highest probability.

        Of several labels, those that are likelier than not, joined by `;`.
        """
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["image", *self.classes, "predicted"])
        for name, row in zip(self.images, self.scores, strict=True):
            out.writerow([name, *(f"{p:.6f}" for p in row), self._named(row)])

    def _named(self, row: np.ndarray) -> str:
        if not self.multilabel:
            return self.classes[int(row.argmax())]
        return ";".join(name for name, p in zip(self.classes, row, strict=True) if p >= YES)


def find(store: Store, run: str) -> Outcome:
    """The finished run whose key begins so."""
    keys = [key for key in store.keys("run") if key.startswith(run)] if run else []
    if len(keys) != 1:
        some = f"{len(keys)} runs ({', '.join(keys[:3])}, …)" if keys else "no run"
        raise BenchError(
            f"'{run}' is the beginning of {some} in {store.root}.",
            "Give the key of one run; `bench run … --dry-run` and the folder runs/ show keys.",
        )
    outcome = store.outcome("run", keys[0])
    if outcome is None or outcome.status != "ok":
        how = "damaged" if outcome is None else outcome.status
        raise BenchError(f"The run {keys[0]} is {how}.", "Choose one that has numbers.")
    return outcome


def load(store: Store, outcome: Outcome, runtime: Runtime) -> Trained:
    """The network of a finished run with the map of its record."""
    spec = outcome.spec
    assert isinstance(spec, RunSpec)
    arm = registry.load("fusion", spec.fusion, **runtime.where(spec.fusion))
    if not arm.card.image or arm.needs == "probabilities":
        raise BenchError(
            f"{spec.fusion} keeps no model: it is fitted to the record and used at once.",
            "Take a run of another arm, such as none or concat.",
        )
    kept = state(store, outcome)
    cell = Cell(outcome.key, spec, outcome.versions)
    work = Work(cell, runtime, store, loop.Callbacks(), device_of(runtime), Memory())
    encoder, scale = record_map.kept_map(store, outcome) if spec.record is not None else (None, {})
    width, classes = len(encoder.columns_out) if encoder else 0, len(outcome.classes)
    how = {"dropout": spec.recipe.dropout, "options": spec.options}
    if spec.mode == "finetune":
        model = arm.network(network.build(spec.arch, seed=0), width, classes, **how)
        model.load_state_dict(kept)
    else:
        backbone = features.Extractor.of(spec).build(work)
        head = arm.head(backbone.channels, width, classes, **how)
        if "deviation" in kept:
            head = Standardised(head, kept["mean"], kept["deviation"])
        head.load_state_dict(kept)
        model = Classifier(backbone, head)
    return Trained(outcome, spec, work, work.put(model).eval(), encoder, scale)


def predict(
    trained: Trained, place: Path, *, metadata: Path | None = None, column: str = ""
) -> Prediction:
    """Probabilities of every image below a folder (or of one file), with rows of a table.

    `column` of the table names the images; without it, the column that does is found.
    """
    paths = _images(place)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        record = _records(trained, list(paths), metadata, column)
    scores = []
    files = list(paths.items())
    for start in range(0, len(files), CHUNK):
        pixels = np.stack([_pixels(trained, *file) for file in files[start : start + CHUNK]])
        part = None if record is None else record[start : start + CHUNK]
        scores.append(trained.probabilities(trained.inputs(pixels, part)))
    notes = tuple(dict.fromkeys(str(warning.message) for warning in caught))
    outcome = trained.outcome
    return Prediction(
        tuple(paths), outcome.classes, np.concatenate(scores), notes, outcome.multilabel
    )


def state(store: Store, outcome: Outcome) -> dict[str, torch.Tensor]:
    """The tensors that a finished run kept: of its head, or of the whole network it trained."""
    return weights.load(store, outcome.key, kind="run")


def _pixels(trained: Trained, name: str, path: Path) -> np.ndarray:
    """One image uint8 (H, W, 3), prepared as the run's were."""
    recipe = trained.recipe
    reader = registry.load("target", "folder")  # reads DICOM too, as it does in training
    reader.white = int(trained.outcome.data.get("white") or reader.white)
    return reader.decode(Sample(path, "", name), recipe.size, constancy=recipe.constancy)[0]


def _images(place: Path) -> dict[str, Path]:
    """Every image by its path below the folder."""
    if place.is_file():
        return {place.name: place}
    if not place.is_dir():
        raise BenchError(f"There is no folder {place}.", "Give the folder that holds the images.")
    found = {
        path.relative_to(place).as_posix(): path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() in ENDINGS and not path.name.startswith(".")
    }
    if not found:
        raise BenchError(f"There are no images below {place}.", f"Known: {' '.join(ENDINGS)}.")
    return found


def _records(
    trained: Trained, names: Sequence[str], metadata: Path | None, column: str
) -> np.ndarray | None:
    """The rows of the table in the order of the images, as the arm takes them."""
    import pandas as pd

    columns = trained.spec.columns
    if trained.encoder is None:
        if metadata is not None:
            warnings.warn("This run reads no record: the table is not used.", stacklevel=2)
        return None
    if metadata is None:
        raise BenchError(
            f"This run reads the record ({', '.join(columns)}).", "Give it with --metadata FILE."
        )
    rows = read_table(metadata, need=(*columns, *([column] if column else [])))
    if not rows:
        raise BenchError(f"{metadata.name} has no rows.", "Write one for each image.")
    found = _matched(rows, names, column, metadata.name)
    cells = {name: [found[image][name] for image in names] for name in columns}
    return trained.record(pd.DataFrame(cells, dtype=object))


def _matched(
    rows: list[dict[str, str]], names: Sequence[str], column: str, table: str
) -> dict[str, dict[str, str]]:
    """The row of each image."""
    index: dict[str, set[str]] = {}
    for name in names:
        for spelling in spellings(name):
            index.setdefault(spelling, set()).add(name)
    if not column:
        hits = {c: sum(spellings(row[c])[0] in index for row in rows) for c in rows[0]}
        column = max(hits, key=lambda c: hits[c])
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        whole, plain, *_ = spellings(row[column])
        fits = index.get(whole) or index.get(plain) or set()
        if len(fits) > 1 or fits & found.keys():
            why = f"fits {len(fits)} images" if len(fits) > 1 else "names an image a second time"
            raise BenchError(
                f"'{row[column]}' in {table} {why}.",
                "Give each image one row, named by its path below the folder, with the ending.",
            )
        found.update(dict.fromkeys(fits, row))
    if lost := [name for name in names if name not in found]:
        raise BenchError(
            f"{len(lost)} of {len(names)} images have no row in {table}, {lost[0]} first.",
            "Add them, or name the column of the file names with --image.",
        )
    if more := len(rows) - len(found):
        warnings.warn(f"{more} rows of {table} belong to no image given.", stacklevel=2)
    return found
