"""The weights of a linear head, in the units of what it reads (Thomas 2021, Figs 5 and 6)."""

from typing import Any, NamedTuple

import numpy as np

from benchmark.errors import BenchError
from benchmark.explain import pictures, predict, record_gain
from benchmark.explain.record_gain import Shown
from benchmark.metadata import Encoder
from benchmark.spec import Outcome, RunSpec, is_linear, origin
from benchmark.store import Store
from benchmark.train import record_map

#: Where the last layer lies: in a head of its own, and in one within a network.
HEADS = ("output.weight", "head.output.weight")
MOST = 24  # columns of the record that are shown, those of the largest weights


class Layer(NamedTuple):
    """A head's weights in panels: of each class against their mean, or of the second of two.

    Softmax sees differences only; of several labels each has weights of its own.
    """

    panels: list[str]
    image: np.ndarray  # (P, C), of the features as the network gives them
    record: np.ndarray  # (P, M), of the encoded columns before they are standardised
    columns: list[str]


def read(store: Store, outcome: Outcome) -> Layer:
    """The last layer of a finished run with a linear head."""
    state = {name: value.double().numpy() for name, value in predict.state(store, outcome).items()}
    found = next(state[name] for name in HEADS if name in state)
    names = outcome.classes
    panels = [f"for {name}" for name in names]
    if not outcome.multilabel:
        found, panels = (
            (found[1:] - found[:1], [f"{names[1]} over {names[0]}"])
            if len(names) == 2
            else (found - found.mean(0), panels)
        )
    columns, width, deviation = [], 0, np.ones(0)
    assert isinstance(outcome.spec, RunSpec)
    if outcome.spec.record is not None:
        encoder, scale = record_map.kept_map(store, outcome)
        columns, deviation = column_titles(encoder), np.array(scale["deviation"])
        width = len(columns)
    image, record = np.split(found, [found.shape[1] - width], axis=1)
    # A frozen head that was trained reads standardised features; one that was solved for does not.
    return Layer(panels, image / state.get("deviation", 1.0), record / deviation, columns)


def weights(layer: Layer, some: Shown) -> tuple[Any, dict[str, Any]]:
    """The record's weights one by one, and the spread of the image's."""
    shown = _largest(layer.record)
    record, columns = layer.record[:, shown], [layer.columns[i] for i in shown]
    numbers = {panel: _told(columns, row) for panel, row in zip(layer.panels, record, strict=True)}
    part = record[some.classes], columns, layer.image[some.classes], _panels(layer, some)
    return pictures.weights(*part, note=some.note), numbers


def image_weights(plain: Layer, fused: Layer, some: Shown) -> tuple[Any, dict[str, Any]]:
    """How large the image's weights are without and with the record, and the record's own."""
    parts = {
        "image, alone": plain.image,
        "image, with the record": fused.image,
        "the record": fused.record,
    }
    numbers = {
        panel: {name: float(np.median(np.abs(values[i]))) for name, values in parts.items()}
        for i, panel in enumerate(fused.panels)
    }
    drawn = [(name, values[some.classes]) for name, values in parts.items()]
    return pictures.image_weights(drawn, _panels(fused, some), note=some.note), numbers


def across(store: Store, outcome: Outcome, some: Shown) -> tuple[Any, dict[str, Any]]:
    """The record's weights by class, beside each network of the store that has this arm."""
    found = {name: read(store, one) for name, one in _networks(store, outcome).items()}
    if len(found) < 2:
        raise BenchError(
            "The store has this arm beside one network only: no weights to compare.",
            "Run it with a further --arch, --source or --mode.",
        )
    first = next(iter(found.values()))
    shown = _largest(np.concatenate([layer.record for layer in found.values()]))
    columns = [first.columns[i] for i in shown]
    values = np.stack([layer.record[:, shown] for layer in found.values()], 1)
    numbers = {
        panel: {name: _told(columns, row) for name, row in zip(found, rows, strict=True)}
        for panel, rows in zip(first.panels, values, strict=True)
    }
    part = values[some.classes], columns, _panels(first, some), list(found)
    return pictures.record_weights(*part, note=some.note), numbers


def _networks(store: Store, outcome: Outcome) -> dict[str, Outcome]:
    """Runs of one arm on one fold of the same images, by what their networks differ in."""

    def same(one: Outcome) -> tuple[Any, ...]:
        spec = one.spec
        assert isinstance(spec, RunSpec)
        arm = spec.fusion, spec.options, spec.columns, spec.types, spec.allowed, spec.record
        place = spec.target, spec.split, spec.partition, spec.fold, spec.train_size
        once_more = spec.missing, spec.tested_on  # those tests have no network of their own
        return *arm, *place, *once_more, spec.seed, record_gain.digest_of(one)

    found: dict[tuple[str, ...], Outcome] = {}
    for one in (outcome, *store.outcomes("run")):
        spec = one.spec
        if one.status == "ok" and isinstance(spec, RunSpec) and is_linear(spec):
            who = spec.arch, origin(spec.source, spec.mode), spec.mode, spec.protocol
            if same(one) == same(outcome):
                found.setdefault(who, one)
    differ = [len(set(part)) > 1 for part in zip(*found, strict=True)]
    names = {who: [w for w, apart in zip(who, differ, strict=True) if apart] for who in found}
    return {" · ".join(names[who]): found[who] for who in sorted(found)}


def _panels(layer: Layer, some: Shown) -> list[str]:
    return np.array(layer.panels)[some.classes].tolist()


def _largest(record: np.ndarray) -> np.ndarray:
    """The columns (of P, M) with the largest weights, in their own order."""
    return np.sort(np.argsort(-np.abs(record).max(0), kind="stable")[:MOST])


def _told(columns: list[str], values: np.ndarray) -> dict[str, float]:
    return dict(zip(columns, values.tolist(), strict=True))


def column_titles(encoder: Encoder) -> list[str]:
    """What each encoded column says, in the order of `columns_out`."""
    found = []
    for column in encoder.columns or ():
        if encoder.name == "ordinal":
            found += [f"{part}, per step" for part in column.parts]
        elif column.categories:
            found += [f"{column.name}: {category}" for category in column.categories]
        else:
            ends = zip(column.parts, column.low, column.high, strict=True)
            found += [f"{part}: {low:g} to {high:g}" for part, low, high in ends]
        found += [f"{column.name}: missing"] * encoder.indicator
    return found
