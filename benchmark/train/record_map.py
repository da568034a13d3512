"""The patient's record as an arm takes it: a map fitted on the training part, kept with the run."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmark.api import Source
from benchmark.data import prepare, split
from benchmark.files import write
from benchmark.metadata import Encoder, OneHotEncoder, OrdinalEncoder
from benchmark.spec import Outcome, RunSpec
from benchmark.store import Store
from benchmark.train.context import Work

if TYPE_CHECKING:
    import pandas as pd

#: A run keeps the encoder, and mean and deviation of its columns.
ENCODER, SCALE = "encoder.json", "record.json"


def encode(
    work: Work,
    spec: RunSpec,
    target: Source,
    prepared: prepare.Prepared,
    parts: split.Parts,
    *,
    gaps: bool = False,
) -> np.ndarray:
    """The record as float32 (N, M), the map fitted on the training part and kept.

    With `gaps` missing values are NaN.
    """
    assert spec.record is not None
    fit = ("record", prepared.digest, spec.record, spec.columns, tuple(spec.types.items()), gaps)
    encoder, scale, values = work.memory.get(
        (*fit, parts.train.tobytes(), parts.test.tobytes()),
        lambda: _fitted(spec, target, prepared, parts, gaps),
    )
    write(work.folder / ENCODER, encoder)
    write(work.folder / SCALE, scale)
    return values


def _fitted(
    spec: RunSpec,
    target: Source,
    prepared: prepare.Prepared,
    parts: split.Parts,
    gaps: bool,
) -> tuple[str, str, np.ndarray]:
    """The encoder and the scale as JSON, and the record as they map it."""
    assert spec.record is not None
    schema = {"types": spec.types, "missing_extra": list(getattr(target.card, "missing", ()))}
    schema |= {"gaps": True} if gaps else {}
    kind = OneHotEncoder if spec.record.encoder == "onehot" else OrdinalEncoder
    encoder = kind(schema, indicator=spec.record.indicator).fit(
        prepared.frame(spec.columns, parts.train)
    )
    rows = np.concatenate([parts.train, parts.val, parts.test])
    found = encoder.transform(prepared.frame(spec.columns, rows)).to_numpy(float)
    seen = found[: len(parts.train)]
    scale = {"mean": [0.0] * found.shape[1], "deviation": [1.0] * found.shape[1]}
    if spec.record.standardise and not gaps:  # what takes gaps asks for the order alone
        deviation = np.where(seen.std(0) > 0, seen.std(0), 1.0)
        scale = {"mean": seen.mean(0).tolist(), "deviation": deviation.tolist()}
    values = np.zeros((len(prepared.labels), found.shape[1]), np.float32)
    values[rows] = standardised(found, scale)
    return encoder.to_json(), json.dumps(scale), values


def standardised(encoded: np.ndarray, scale: Mapping[str, Sequence[float]]) -> np.ndarray:
    """The encoded record (n, M) as the arm takes it, in training and in prediction alike."""
    return ((encoded - scale["mean"]) / scale["deviation"]).astype(np.float32)


def mapped(
    kept: tuple[Encoder, Mapping[str, Sequence[float]]], frame: "pd.DataFrame"
) -> np.ndarray:
    """The rows of a table as the arm takes them, float32 (n, M), by the map that a run kept."""
    encoder, scale = kept
    return standardised(encoder.transform(frame).to_numpy(float), scale)


def kept_map(store: Store, outcome: Outcome) -> tuple[Encoder, dict[str, list[float]]]:
    """The encoder of a run's record, and its columns' means and deviations."""
    encoder, scale = (store.kept(outcome, name) for name in (ENCODER, SCALE))
    return Encoder.from_json(encoder.read_text("utf-8")), json.loads(scale.read_text("utf-8"))
