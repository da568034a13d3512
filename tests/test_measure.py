"""A score sees the training part of each fold of the runs it foretells, and nothing else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stores import run_all

from benchmark.data import prepare, split
from benchmark.plan import plan
from benchmark.plan.request import DistanceRequest
from benchmark.protocols import load
from benchmark.spec import Cell, DistanceSpec, Outcome, Recipe, Runtime, Split
from benchmark.store import Store
from benchmark.train import features
from benchmark.train.context import Memory, Work
from benchmark.train.loop import Callbacks
from similarity import scores, task2vec

SEEN = Path(__file__).parent / "components" / "seen.py"


@pytest.fixture
def known(runtime: Runtime) -> Runtime:
    return runtime.model_copy(update={"paths": {**runtime.paths, "seen": SEEN}})


def measured(runtime: Runtime, **changes: Any) -> Outcome:
    """A score of an untrained network on the tiny target."""
    asked: dict[str, Any] = {"methods": ("scores:logme",), "arch": "test_resnet", "size": 32}
    asked |= {"sources": ("tiny",), "targets": ("tiny",), "pretrain": {"epochs": 1}}
    return run_all(DistanceRequest(**{**asked, **changes}), runtime)[-1]


def parts(runtime: Runtime, how: Split) -> list[split.Parts]:
    prepared = prepare.prepare("tiny", 32, runtime)
    return [split.split(prepared, how, fold=k) for k in range(how.folds)]


@pytest.mark.parametrize("protocol", ["standard", "demo", "thomas"])
def test_a_score_is_the_mean_over_the_training_parts_of_the_runs(known: Runtime, protocol: str):
    outcome = measured(known, protocol=protocol)
    spec = outcome.spec
    assert isinstance(spec, DistanceSpec)
    work = Work(
        Cell.of(spec), known, Store(known.store), Callbacks(), torch.device("cpu"), Memory()
    )
    prepared = work.prepared("tiny", Recipe(size=32))
    every = features.pooled(work, prepared, Recipe(size=32)).numpy()
    each = [
        scores.logme(every[part.train], prepared.labels[part.train])
        for part in parts(known, load(protocol).split)
    ]
    assert len(each) == load(protocol).split.folds == outcome.data["folds"]
    assert outcome.metrics["distance"].value == pytest.approx(np.mean(each), rel=1e-4)
    whole = scores.logme(every, prepared.labels)
    assert outcome.metrics["distance"].value != pytest.approx(whole, rel=1e-4)


SEVERAL = Path(__file__).parent / "components" / "several.py"


def test_label_sets_are_measured_or_refused_before_anything_runs(known: Runtime):
    """Each method says its answer in the plan; what remains gives a number."""
    known = known.model_copy(update={"paths": {**known.paths, "several": SEVERAL}})
    every = ("otdd", *(f"scores:{name}" for name in scores.Score.variants), "rivals:classes",
             "rivals:frechet", "rivals:mmd", "task2vec", "expert")  # fmt: skip
    asked: dict[str, Any] = {"sources": ("several", "tiny"), "targets": ("several", "tiny")}
    made = plan.make(DistanceRequest(**asked, methods=every, arch="test_resnet", size=32,
                                     probe="none"), known)  # fmt: skip
    told = {
        (one.cell.spec.method, one.cell.spec.source, one.cell.spec.target): one.why
        for one in made.cells
        if isinstance(one.cell.spec, DistanceSpec)
    }
    why = "takes one class an image, and several is multi-label"
    refused = {sides: {m for m, *s in told if tuple(s) == sides and why in told[m, *sides]}
               for sides in {(s, t) for _, s, t in told}}  # fmt: skip
    one_class = {"otdd", "scores:leep", "scores:nce"}
    of_target = {f"scores:{m}" for m in ("h_score", "transrate", "gbc", "parc", "nleep", "sfda")}
    assert refused["tiny", "tiny"] == set()
    assert refused["several", "tiny"] == one_class
    assert refused["tiny", "several"] == refused["several", "several"] == one_class | of_target


@pytest.mark.parametrize("method", ["scores:logme", "rivals:frechet", "task2vec"])
def test_a_distance_to_a_set_of_several_labels(known: Runtime, method: str, monkeypatch):
    monkeypatch.setattr(task2vec, "EPOCH", 128)
    known = known.model_copy(update={"paths": {**known.paths, "several": SEVERAL}})
    found = measured(known, methods=(method,), targets=("several",), probe="none",
                     limit=24, options={"size": 8, "floor": 0})  # fmt: skip
    assert found.status == "ok" and np.isfinite(found.metrics["distance"].value)


def test_a_limit_holds_for_each_training_part_and_keeps_groups_whole(known: Runtime):
    whole, cut = (measured(known, methods=("seen",), limit=limit) for limit in (None, 40))
    sizes = [len(part.train) for part in parts(known, Split())]
    assert whole.metrics["distance"].value == np.mean(sizes)
    assert 30 < cut.metrics["distance"].value <= 40
    assert cut.metrics["smallest_group"].value == 2
    assert cut.metrics["images"].value == cut.metrics["distance"].value
    assert cut.data["target_images"] <= 40


def test_the_split_is_in_the_key_of_a_score_alone(known: Runtime):
    def keys(method: str) -> set[str]:
        asked = {"methods": (method,), "sources": ("tiny",), "targets": ("tiny",), "probe": "none"}
        made = [DistanceRequest(**asked, protocol=name) for name in ("standard", "yang", "demo")]
        return {plan.make(one, known).cells[-1].cell.key for one in made}

    assert len(keys("scores:logme")) == 3
    assert len(keys("rivals:mmd")) == 1
