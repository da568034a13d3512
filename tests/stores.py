"""Builds a store of as many finished cells as wanted, through the store's own functions."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Outcome,
    PretrainSpec,
    Recipe,
    RunSpec,
    Runtime,
    Split,
)
from benchmark.stats import Estimate
from benchmark.store import Store

if TYPE_CHECKING:
    from benchmark.plan.request import Request

FOLDS = 5
CLASSES = ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC")
METRICS = (
    "auroc", "auroc_weighted", "mcr", "accuracy", "accuracy_ovr", "sensitivity", "specificity",
    "precision", "npv", "f1", "informedness", "markedness", "mcc", "auprc", "worst_class_recall",
    "ece", "brier", "log_loss",
)  # fmt: skip
RECIPE = Recipe(epochs=50)
DRIVER = """
import json, sys
from pathlib import Path
from benchmark.engine import ray, slurm, worker
from benchmark.spec import Runtime
given = json.loads(Path(sys.argv[1]).read_text())
cells = [worker.decode(raw) for raw in given["cells"]]
runtime = Runtime.model_validate(given["runtime"])
def listener(event, cell, facts):
    print(event, cell.key, flush=True)
"""


def ok(cell: Cell, **facts: Any) -> Outcome:
    """The outcome of a cell that went well, or went as the facts say."""
    told = {"key": cell.key, "spec": cell.spec, "versions": cell.versions, "status": "ok"}
    return Outcome(**{**told, **facts})


def results(root: Path) -> dict[str, tuple]:
    """What must be equal bit for bit wherever cells were run; every one went well."""
    store, found = Store(root), {}
    for outcome in store.outcomes():
        assert outcome.status == "ok", outcome.failure
        losses = tuple((h["loss"], h.get("val_auroc")) for h in outcome.history)
        arrays = {name: array.tobytes() for name, array in store.predictions(outcome.key).items()}
        found[outcome.key] = (outcome.metrics, losses, arrays)
    return found


def driver(call: str, cells: Sequence[Cell], runtime: Runtime, *more: str) -> list[str]:
    """A command that runs cells by this call of an executor and prints each event; to be killed."""
    from benchmark.engine import worker

    given = {"cells": [worker.encode(c) for c in cells], "runtime": runtime.model_dump(mode="json")}
    file = runtime.store / "grid.json"
    file.write_text(json.dumps(given))
    return [sys.executable, "-c", DRIVER + call, str(file), *more]


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on this machine that says nothing of what it is asked."""
    handler.log_message = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def run_all(request: "Request", runtime: Runtime) -> list[Outcome]:
    """Run what a request has left, in this process and in its order; nothing may fail."""
    from benchmark.plan import plan
    from benchmark.train import job
    from benchmark.train.context import Memory

    left, memory = plan.make(request, runtime).of("to run"), Memory()
    found = [job.run(planned.cell, runtime, memory=memory) for planned in left]
    assert [outcome.failure for outcome in found] == [None] * len(left)
    return found


def build(
    root: Path,
    *,
    targets: int = 3,
    sources: int = 10,
    fusions: tuple[str, ...] = ("none", "concat"),
    seeds: int = 2,
    epochs: int = 50,
    images: int = 500,
    draws: int = 2000,
) -> Store:
    """A store with a request for each target: pretrainings, runs (1 of 200 failed), distances."""
    store = Store(root)
    store.prepare()
    rng = np.random.default_rng(0)
    files = [_predictions(rng, images, draws) for _ in range(20)]
    pretrained = [
        Cell.of(PretrainSpec(source=f"s{i:02}", recipe=RECIPE), {"core": "2", "source": "1"})
        for i in range(sources)
    ]
    history = [
        {"epoch": i, "loss": 1 / (i + 1.3), "lr": 1e-4, "rate": 51.3, "val_auroc": 0.71 + 1e-3 * i}
        for i in range(1, epochs + 1)
    ]
    with mock.patch.object(os, "fsync", lambda handle: None):
        for cell in pretrained:
            (store.of(cell)).mkdir(parents=True)
            store.finish(cell, _outcome(cell, rng, history))
        for number in range(targets):
            target = f"t{number:02}"
            cells = list(_runs(target, pretrained, fusions, seeds))
            near = [_distance(target, one) for one in pretrained]
            for i, cell in enumerate((*cells, *near)):
                folder = store.of(cell)
                folder.mkdir(parents=True)
                if i % 200 == 199:
                    store.fail(cell, Failure(kind="oom", message="Out of memory."))
                    continue
                if isinstance(cell.spec, RunSpec):
                    (folder / "predictions.npz").write_bytes(files[i % len(files)])
                store.finish(cell, _outcome(cell, rng, history))
            store.record_grid([*pretrained, *cells, *near], f"bench run --target {target}")
    return store


def _runs(
    target: str, pretrained: list[Cell], fusions: tuple[str, ...], seeds: int
) -> Iterator[Cell]:
    versions = {"core": "1", "target": "1", "fusion": "1", "protocol": "1", "source": "1"}
    for made in (None, *pretrained[1:]):
        for fusion in fusions:
            for seed in range(seeds):
                for fold in range(FOLDS):
                    yield Cell.of(
                        RunSpec(
                            source=made.spec.source if made else "none",
                            target=target, fusion=fusion, fold=fold, seed=seed, recipe=RECIPE,
                            split=Split(folds=FOLDS), weights=made.key if made else None,
                            columns=() if fusion == "none" else ("age", "sex", "site"),
                        ),
                        versions,
                    )  # fmt: skip


def _distance(target: str, made: Cell) -> Cell:
    spec = DistanceSpec(source=made.spec.source, target=target, method="task2vec", weights=made.key)
    return Cell.of(spec, {"core": "1", "method": "1"})


def _outcome(cell: Cell, rng: np.random.Generator, history: list[dict]) -> Outcome:
    spec = cell.spec
    value = float(rng.uniform(0.7, 0.8))

    def near(n: int = 500) -> Estimate:
        return Estimate(value, value - 0.03123456789, value + 0.0298765432, n)

    facts = {"digest": "d1", "images": 10015, "train": 7000, "test": 2000, "test_groups": 1500}
    if isinstance(spec, DistanceSpec):
        return _done(cell, metrics={"distance": near(), "floor": near()})
    if isinstance(spec, PretrainSpec):
        return _done(cell, metrics={"test_auroc": near()}, history=history, data=facts)
    groups = {sex: {name: near(250) for name in METRICS[:3]} for sex in ("female", "male")}
    return _done(
        cell,
        metrics={name: near() for name in METRICS},
        classes=CLASSES,
        per_class=[{"auroc": near(70), "recall": near(70)} for _ in CLASSES],
        over_classes={"auroc": 0.05, "sensitivity": 0.04},
        subgroups={"sex": groups},
        history=history,
        data=facts,
        chosen="epoch 37 by val_auroc",
    )


def _done(cell: Cell, **more) -> Outcome:
    return ok(
        cell, seconds={"train": 300.0, "test": 5.0, "total": 321.4},
        environment={"device": "cuda: NVIDIA A100", "torch": "2.11", "python": "3.11"}, **more,
    )  # fmt: skip


def _predictions(rng: np.random.Generator, images: int, draws: int) -> bytes:
    import io

    scores = rng.dirichlet(np.ones(len(CLASSES)), images)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        labels=rng.integers(0, len(CLASSES), images).astype(np.int32),
        scores=scores.astype(np.float32),
        groups=(np.arange(images) // 2).astype(np.int32),
        draws=rng.normal(0.75, 0.01, draws),
    )
    return buffer.getvalue()
