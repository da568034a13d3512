"""A finished run tested once more on a second set with the same classes: nothing is trained."""

import warnings
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from benchmark import registry
from benchmark.data import prepare, split
from benchmark.spec import Outcome, RunSpec, seed_of
from benchmark.train import finetune, missing, record_map
from benchmark.train.context import Work

NOBODY = np.zeros(0, np.int64)
Base = tuple[Work, Outcome, RunSpec]  # of a finished run: as `missing.trained` gives it


class Both(NamedTuple):
    """The set that a run was trained on with its parts, and the second with the same classes."""

    first: prepare.Prepared
    parts: split.Parts
    second: prepare.Prepared

    @property
    def seen(self) -> np.ndarray:
        """Rows of the first that chose the run's weights."""
        return np.concatenate([self.parts.train, self.parts.val])

    @property
    def shared(self) -> np.ndarray:
        """(n,) whether an image of the second is one of these, pixel for pixel."""
        return np.isin(self.second.hashes, self.first.hashes[self.seen])


def run(work: Work, spec: RunSpec) -> Outcome:
    """The test of the run `spec.base` on all of the set `spec.tested_on`."""
    base = missing.trained(work, spec)
    _, whole, asked = base
    first = work.prepared(asked.target, asked.recipe)
    second = alike(work.prepared(spec.tested_on, asked.recipe), first)
    both = Both(first, finetune.parts_of(work, first, asked), second)
    fold = _fold(work, base, both)
    answer = _answer(work, base, both, fold)
    fold = fold._replace(target=prepare.source_of(spec.tested_on, work.runtime))
    if known := int(both.shared.sum()):
        what = f"{known} of {len(second.labels)} images of {spec.tested_on}"
        warnings.warn(f"{what} are in the training part of {asked.target}.", stacklevel=2)
    told = f"{whole.key}, tested on {spec.tested_on}: {whole.chosen}"
    facts = {"train": len(both.parts.train), "val": len(both.parts.val)}
    facts |= {"siblings": round(float(both.shared.mean()), 6)}
    answer = answer._replace(chosen=told, facts={**(answer.facts or {}), **facts})
    # All folds test the same patients: their draws belong together.
    return finetune.judge(work, fold, answer, seed_of("bootstrap", spec.tested_on))


def alike(second: prepare.Prepared, first: prepare.Prepared) -> prepare.Prepared:
    """The second set with its classes in the order of the first, by their names."""
    kinds = second.multilabel, first.multilabel
    if refused := split.differ(second.name, {*second.classes}, first.name, {*first.classes}, kinds):
        raise refused
    if second.multilabel:
        columns = [second.classes.index(name) for name in first.classes]
        return replace(second, classes=first.classes, labels=second.labels[:, columns])
    place = np.array([first.classes.index(name) for name in second.classes])
    return replace(second, classes=first.classes, labels=place[second.labels])


def _answer(work: Work, base: Base, both: Both, fold: finetune.Fold) -> finetune.Answer:
    """The probabilities of the second set by what the run kept."""
    there, _, asked = base
    if fold.arm.card.image and fold.arm.needs != "probabilities":
        return missing.tested(there, fold)
    # The model on the record is fitted again, to the same training part with the same seed.
    joined = fold._replace(**_joined(work, base, both, fold.record))
    if not fold.arm.card.image:
        return finetune.way(joined)(there, joined)
    alone = missing.trained(work, asked)  # the image-only run that it combines
    image = _answer(work, alone, both, _fold(work, alone, both))
    return finetune.combine(there, joined, image.scores)


def _fold(work: Work, base: Base, both: Both) -> finetune.Fold:
    """The run as it was trained, with the second set as its test."""
    asked, second = base[2], both.second
    return finetune.Fold(
        asked,
        prepare.source_of(asked.target, work.runtime),
        registry.load("fusion", asked.fusion, **work.runtime.where(asked.fusion)),
        second,
        split.Parts(NOBODY, NOBODY, np.arange(len(second.labels)), 0.0),
        None if asked.record is None else _record(work, base, second, np.arange(len(second.names))),
    )


def _record(work: Work, base: Base, prepared: prepare.Prepared, rows: np.ndarray) -> np.ndarray:
    """The records of these rows float32 (N, M) by the map that the run kept, other rows zero."""
    _, whole, asked = base
    absent = [name for name in asked.columns if name not in prepared.metadata]
    if absent:
        text = f"{prepared.name} has no column {', '.join(absent)}: missing in all of its records."
        warnings.warn(text, stacklevel=2)
    kept = record_map.kept_map(work.store, whole)
    frame = prepared.frame([c for c in asked.columns if c not in absent], rows)
    frame = frame.reindex(columns=list(asked.columns), fill_value="")
    words = getattr(prepare.source_of(prepared.name, work.runtime).card, "missing", ())
    record = np.zeros((len(prepared.labels), len(kept[0].columns_out)), np.float32)
    with work.timed("encode"):
        record[rows] = record_map.mapped(kept, frame.replace(list(words), ""))
    return record


def _joined(work: Work, base: Base, both: Both, record: np.ndarray | None) -> dict[str, Any]:
    """A fold's fields with both sets in one table, for arms that look at no image."""
    first, parts, second = both
    after = len(first.labels)
    groups = second.groups + first.groups.max() + 1
    assert record is not None
    return {
        "prepared": replace(
            first,
            labels=np.concatenate([first.labels, second.labels]),
            groups=np.concatenate([first.groups, groups]),
            hashes=np.concatenate([first.hashes, second.hashes]),
            digest=first.digest + second.digest,
        ),
        "parts": parts._replace(test=after + np.arange(len(second.labels))),
        "record": np.concatenate([_record(work, base, first, both.seen), record]),
    }
