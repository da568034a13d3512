"""A finished run tested once more with records taken away: nothing is trained."""

from dataclasses import replace

import numpy as np
import torch

from benchmark import registry
from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.spec import Cell, Outcome, RunSpec, is_solved, lacking, seed_of, share_of
from benchmark.train import finetune, heads, loop, record_map, trains, weights
from benchmark.train.context import Work
from benchmark.train.softmax import Softmax


def run(work: Work, spec: RunSpec) -> Outcome:
    """The test of the run `spec.base`, with the records that `spec.missing` says gone."""
    there, whole, asked = trained(work, spec)
    runtime = work.runtime
    prepared = work.prepared(asked.target, asked.recipe)
    fold = finetune.Fold(
        asked,
        prepare.source_of(asked.target, runtime),
        registry.load("fusion", asked.fusion, **runtime.where(asked.fusion)),
        prepared,
        parts := finetune.parts_of(work, prepared, asked),
        record=None,
    )
    kept = record_map.kept_map(work.store, whole)
    frame = prepared.frame(asked.columns, parts.test)
    share = share_of(spec.missing)
    if share is None:
        frame[spec.missing.split("+")] = ""
    else:
        frame.loc[lost(fold, share), :] = ""
    seen = np.concatenate([parts.train, parts.val])
    with work.timed("encode"):
        record = np.zeros((len(prepared.labels), len(kept[0].columns_out)), np.float32)
        for rows, cells in ((seen, prepared.frame(asked.columns, seen)), (parts.test, frame)):
            record[rows] = record_map.mapped(kept, cells)
    answer = tested(there, fold._replace(record=record))
    note = f"{lacking(spec.missing)} from the test of {whole.key}: {whole.chosen}"
    return finetune.judge(work, fold, answer._replace(chosen=note, history=[]))


def trained(work: Work, spec: RunSpec) -> tuple[Work, Outcome, RunSpec]:
    """The run `spec.base` with its spec, and the work in its name: so its network is found."""
    assert spec.base is not None
    whole = work.store.outcome("run", spec.base)
    if whole is None or whole.status != "ok" or not isinstance(whole.spec, RunSpec):
        raise BenchError(f"The run {spec.base} is gone.", "Run the same command again.")
    return replace(work, cell=Cell(whole.key, whole.spec, whole.versions)), whole, whole.spec


def lost(fold: finetune.Fold, share: float) -> np.ndarray:
    """Which test rows (n,) have no record: whole groups, the same for every source, arm and seed.

    The smaller share lies inside the larger.
    """
    spec = fold.spec
    groups = split.linked_groups(fold.prepared)[fold.parts.test]
    distinct = np.unique(groups)
    cut = split.partition_seed(spec.target, spec.split, spec.partition)
    order = np.random.default_rng(seed_of("missing", cut, spec.fold)).permutation(distinct)
    return np.isin(groups, order[: round(share * len(distinct))])


def tested(work: Work, fold: finetune.Fold) -> finetune.Answer:
    """The probabilities of the run as it was trained, on the records of this fold."""
    spec, test, arm = fold.spec, fold.parts.test, fold.arm
    if not arm.card.image or arm.needs == "probabilities":
        # The model on the record is fitted again, to the same training part with the same seed.
        return finetune.way(fold)(work, fold)
    kept, many = weights.load(work.store, work.cell.key, kind="run"), fold.prepared.multilabel
    if is_solved(spec):
        weight, bias = (kept[name].double().numpy() for name in ("output.weight", "output.bias"))
        values = finetune.linear_inputs(work, fold)[test]
        found = Softmax(weight, bias, 0.0, 0, converged=True)
        return finetune.Answer(heads.probabilities(found, values, multilabel=many), "", [])
    make, inputs = finetune.network_of(work, fold)
    model = make()
    trains.merge(model)  # as it was kept
    model.load_state_dict(kept)
    with work.timed("test"):
        rows, device = torch.as_tensor(test), work.device
        scores = loop.predict(model, inputs, rows, spec.recipe, device, multilabel=many)
    return finetune.Answer(scores, "", [])
