"""Cached features are those of the network, the images and the rows that were asked for."""

from typing import Any

import numpy as np
import pytest
import torch
from stores import ok, run_all

from benchmark.explain import explain
from benchmark.plan import plan
from benchmark.plan.request import DistanceRequest
from benchmark.spec import Cell, DistanceSpec, Outcome, Recipe, Runtime
from benchmark.store import Store
from benchmark.train import features, network, weights
from benchmark.train.context import Memory, Work
from benchmark.train.loop import Callbacks
from tests.conftest import TINY


def scores(runtime: Runtime, request_tiny: Any, **changes: Any) -> np.ndarray:
    """Test probabilities of one frozen cell on the tiny target."""
    found = run_all(request_tiny(folds=(0,), **changes), runtime)
    return Store(runtime.store).predictions(found[-1].key)["scores"]


def measured(runtime: Runtime, **changes: Any) -> Outcome:
    """One distance between the tiny target and its copy."""
    asked: dict[str, Any] = {
        "methods": ("rivals:frechet",),
        "arch": "test_resnet",
        "probe": "none",
        "size": 32,
    }
    request = DistanceRequest(**{**asked, "sources": ("copy",), "targets": ("tiny",), **changes})
    return run_all(request, runtime)[-1]


@pytest.fixture
def twice(runtime: Runtime) -> Runtime:
    """A runtime that knows the tiny target by two names."""
    return runtime.model_copy(update={"paths": {"tiny": TINY, "copy": TINY}})


def pooled(runtime: Runtime) -> set[str]:
    return {path.parent.name for path in (runtime.store / "features").glob("*/pooled.npy")}


def elsewhere(runtime: Runtime) -> Runtime:
    return runtime.model_copy(update={"store": runtime.store.with_name("alone")})


def test_an_initialisation_has_features_of_its_own(runtime, request_tiny):
    scores(runtime, request_tiny)
    after = scores(runtime, request_tiny, recipe={"init": "he"})
    alone = scores(elsewhere(runtime), request_tiny, recipe={"init": "he"})
    assert np.array_equal(after, alone)


def test_features_follow_the_weights_behind_a_key(runtime, request_tiny):
    first = plan.make(request_tiny(sources=("tiny",)), runtime).cells[0].cell
    store, found = Store(runtime.store), []
    for seed in (1, 2):  # one pretraining, as two machines made it
        state = network.build("test_resnet", seed=seed).state_dict()
        weights.save(store.of(first), state, {"source": "tiny", "arch": "test_resnet"})
        store.finish(first, ok(first))
        found.append(scores(runtime, request_tiny, sources=("tiny",), recipe={"lr": seed / 100}))
    alone = elsewhere(runtime)
    weights.save(Store(alone.store).of(first), state, {"source": "tiny", "arch": "test_resnet"})
    Store(alone.store).finish(first, ok(first))
    assert np.array_equal(
        found[1], scores(alone, request_tiny, sources=("tiny",), recipe={"lr": 0.02})
    )


def test_a_distance_and_a_frozen_run_share_features(twice, request_tiny):
    scores(twice, request_tiny, recipe={"threads": 2})
    before = pooled(twice)
    measured(twice)  # of all images
    assert len(before) == 1
    assert pooled(twice) == before


def test_rows_are_cut_from_the_features_of_the_whole(runtime):
    def of(there: Runtime, rows: np.ndarray | None) -> np.ndarray:
        spec = DistanceSpec(
            source="tiny", target="tiny", method="otdd", arch="test_resnet", size=32
        )
        work = Work(
            Cell.of(spec), there, Store(there.store), Callbacks(), torch.device("cpu"), Memory()
        )
        recipe = Recipe(size=32)
        return features.pooled(work, work.prepared("tiny", recipe), recipe, rows).numpy()

    rows = np.array([3, 40, 41, 90])
    whole, before = of(runtime, None), pooled(runtime)
    cut = of(runtime, rows)
    assert pooled(runtime) == before
    assert np.array_equal(cut, whole[rows])
    assert np.allclose(cut, of(elsewhere(runtime), rows), atol=1e-4)
    assert len(pooled(elsewhere(runtime))) == 1


def test_a_copy_under_another_name_has_labels_that_fit_its_features(twice):
    asked = {"methods": ("otdd",), "limit": 40, "options": {"draws": 2}}
    one = measured(twice, sources=("tiny",), targets=("tiny",), **asked)
    other = measured(twice, sources=("copy",), targets=("copy",), **asked)
    assert other.metrics["distance"].value == one.metrics["distance"].value


def test_explain_reads_the_features_of_the_run(runtime, request_tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(explain, "SHUFFLES", 1)
    (outcome,) = run_all(request_tiny(fusions=("concat",), folds=(0,)), runtime)
    before = pooled(runtime)
    explain.explain(Store(runtime.store), outcome.key, runtime, out=tmp_path / "pictures")
    assert pooled(runtime) == before
