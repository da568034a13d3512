"""The MLflow mirror: what a run shows, that every cell is there once, and what never gets there."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from stores import ok

from benchmark import cli
from benchmark.errors import BenchError
from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Outcome,
    PretrainSpec,
    Recipe,
    RunSpec,
    Split,
)
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import mlflow, plots
from reports.mlflow import pictures, server

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "tests" / "components" / "tiny.py"
SVG = "{http://www.w3.org/2000/svg}"
VERSIONS = {"core": "1", "source": "1"}
GAINS = {"none": 0.0, "imagenet": 0.1, "dtd": 0.06, "stl10": 0.03, "kimia": 0.01}


@pytest.fixture(autouse=True)
def own_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    server.client_of(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path: Path, empty_database: Path) -> Store:
    made = Store(tmp_path / "a store")
    made.prepare()
    shutil.copy(empty_database, made.root / "mlflow.db")
    return made


def finish(store: Store, spec: Any, *, version: str = "1", **facts: Any) -> Outcome:
    """Store one outcome."""
    cell = Cell.of(spec, {**VERSIONS, "target": version})
    store.begin(cell)
    outcome = ok(cell, **facts)
    store.finish(cell, outcome)
    return outcome


def pretrain(store: Store, source: str = "dtd") -> Outcome:
    spec = PretrainSpec(source=source, recipe=Recipe())
    folder = store.of(Cell.of(spec, {**VERSIONS, "target": "1"}))
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(b"tensors of " + source.encode())
    card = {"license": "research only", "sha256": "ab" * 32, "note": "from P-00471"}
    (folder / "card.json").write_text(json.dumps(card))
    return finish(store, spec, data={"digest": "f3a8469f3c5ec8bb"})


def run(
    store: Store, source: str = "dtd", fold: int = 0, *, folds: int = 2, **facts: Any
) -> Outcome:
    """A tested cell of a target with three classes."""
    value = facts.pop("value", 0.7 + GAINS[source])
    fields = {"target": "isic", "split": Split(folds=folds), **facts.pop("spec", {})}
    spec = RunSpec(source=source, fold=fold, **fields)
    rng = np.random.default_rng(7)  # what the patients do is the same for all
    draws = value + rng.normal(0, 0.01, 200)
    labels = np.arange(60) % 3
    scores = np.eye(3)[labels] + rng.normal(0, 1, (60, 3))
    if facts.get("status", "ok") == "ok":
        cell = Cell.of(spec, {**VERSIONS, "target": facts.get("version", "1")})
        groups = np.arange(60) // 2
        store.save_predictions(cell, labels=labels, scores=scores, groups=groups, draws=draws)
    table = {"auroc": Estimate(0.9, 0.8, math.nan, 20)}
    numbers = {
        "metrics": {"auroc": Estimate(value, value - 0.02, value + 0.02, 60)},
        "per_class": [table] * 3,
        "classes": ("mel", "<30", ">30"),
        "history": [{"epoch": i, "loss": 1 / i, "val_auroc": None} for i in (1, 2, 3)],
        "data": {"digest": "0123456789abcdef", "test": 60},
        "seconds": {"train": 250.0, "total": 262.0},
        "environment": {"device": "cuda (NVIDIA)"},
    }
    return finish(store, spec, **((numbers if facts.get("status", "ok") == "ok" else {}) | facts))


def distance(
    store: Store, source: str, value: float, method: str = "task2vec", target: str = "isic"
) -> Outcome:
    spec = DistanceSpec(source=source, target=target, method=method)
    return finish(store, spec, metrics={"distance": Estimate(value, math.nan, math.nan, 500)})


def grid(store: Store, outcomes: list[Outcome], command: str = "bench run") -> str:
    return store.record_grid([Cell(o.key, o.spec, o.versions) for o in outcomes], command)


def client(store: Store, uri: str | None = None) -> Any:
    return server.client_of(uri or mlflow.default_uri(store))


def runs(store: Store, kind: str, uri: str | None = None) -> list[Any]:
    at = client(store, uri)
    where = [experiment.experiment_id for experiment in at.search_experiments()]
    return list(at.search_runs(where, f"tags.`bench.kind` = '{kind}'", max_results=1000))


def files(store: Store, run_id: str, path: str | None = None) -> set[str]:
    at = client(store)
    found = set()
    for item in at.list_artifacts(run_id, path):
        found |= files(store, run_id, item.path) if item.is_dir else {item.path}
    return found


# --- what a run shows -------------------------------------------------------------------------


def test_a_cell_is_a_run_below_its_grid(store: Store):
    weights = pretrain(store)
    done = run(store, spec={"weights": weights.key})
    pictures = store.folder("run", done.key) / "explain"
    pictures.mkdir()
    for name in ("maps.png", "maps.svg", "weights.png", "explain.json"):
        (pictures / name).write_text("drawn")
    name = grid(store, [weights, done])
    assert mlflow.sync(store) == (4, 0, ())  # and a parent in either experiment

    (found,) = runs(store, "run")
    assert found.info.status == "FINISHED"
    assert found.info.end_time - found.info.start_time == 262_000
    tags, metrics = found.data.tags, found.data.metrics
    assert (tags["bench.key"], tags["bench.status"]) == (done.key, "ok")
    assert tags["bench.environment.device"] == "cuda (NVIDIA)"
    assert found.data.params["recipe.augment.scale"] == "[1.0,1.0]"
    assert (found.data.params["fold"], found.data.params["versions.core"]) == ("0", "1")
    assert [metrics[n] for n in ("auroc", "auroc_low", "auroc_high")] == pytest.approx(
        [0.76, 0.74, 0.78]
    )
    # Two class names become one in MLflow's alphabet: they are told apart by their place.
    assert metrics["class/1 _30/auroc"] == metrics["class/2 _30/auroc"] == 0.9
    assert "class/0 mel/auroc_high" not in metrics  # not defined
    assert metrics["seconds/train"] == 250
    at = client(store)
    losses = at.get_metric_history(found.info.run_id, "epoch/loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1), (2, 0.5), (3, pytest.approx(1 / 3))]
    used = {
        (i.dataset.name, i.dataset.digest, i.tags[0].value) for i in found.inputs.dataset_inputs
    }
    assert used == {("isic", "0123456789abcdef", "target"), ("dtd", "f3a8469f3c5ec8bb", "source")}
    assert files(store, found.info.run_id) == {
        "confusion.svg", "roc.svg", "predictions.npz", "explain/weights.png",
    }  # fmt: skip

    experiment = at.get_experiment(found.info.experiment_id)
    assert experiment.name == "isic"
    parent = at.get_run(tags["mlflow.parentRunId"])
    assert parent.data.tags["bench.grid"] == name
    assert parent.info.experiment_id == found.info.experiment_id
    assert parent.info.status == "FINISHED"
    told = {"folds/isic dtd none resnet50 finetune/auroc": pytest.approx(0.76)}
    assert parent.data.metrics == {"ok": 2, "failed": 0, "skipped": 0, "left": 0} | told
    (source,) = runs(store, "pretrain")
    assert at.get_experiment(source.info.experiment_id).name == "pretraining"
    assert not (Path.cwd() / "mlruns").exists()


def test_failed_and_skipped_cells_are_counted(store: Store):
    failure = Failure(kind="oom", message="Out of memory. Lower --batch.", log_tail="/home/x")
    run(store, status="failed", failure=failure)
    run(store, fold=1, status="skipped", reason="isic has no metadata")
    left = Cell.of(RunSpec(source="dtd", target="isic", fold=2))
    store.record_grid([Cell(o.key, o.spec, o.versions) for o in store.outcomes()] + [left], "bench")
    mlflow.sync(store)
    found = {r.data.tags["bench.status"]: r for r in runs(store, "run")}
    assert found["failed"].info.status == "FAILED"
    assert found["failed"].data.tags["bench.failure.kind"] == "oom"
    assert found["skipped"].info.status == "FINISHED"
    (parent,) = runs(store, "grid")
    assert parent.info.status == "FAILED"
    assert parent.data.metrics == {"ok": 0, "failed": 1, "skipped": 1, "left": 1}


def test_weights_are_one_version_of_a_registered_model(store: Store):
    made = pretrain(store, "pcam:small")
    mlflow.sync(store)
    at = client(store)
    (version,) = at.search_model_versions("name = 'pcam-small-resnet50'")
    (source,) = runs(store, "pretrain")
    assert version.run_id == source.info.run_id
    assert version.tags["bench.key"] == made.key
    assert version.tags["bench.license"] == "research only"
    assert files(store, source.info.run_id) == {"weights/weights.safetensors"}
    place = at.get_model_version_download_uri(version.name, version.version)
    weights = Path(unquote(urlsplit(place).path)) / "weights.safetensors"
    assert weights.read_bytes() == b"tensors of pcam:small"
    # Another training of the same: the version is replaced, not doubled.
    finish(store, made.spec, chosen="last epoch")
    mlflow.sync(store)
    (again,) = at.search_model_versions("name = 'pcam-small-resnet50'")
    assert again.version != version.version
    assert again.run_id == runs(store, "pretrain")[0].info.run_id


def test_the_matrix_counts_and_the_curves_are_of_the_scores():
    labels = np.array([0, 0, 0, 1, 1, 2])
    answers = np.array([0, 0, 1, 1, 1, 0])
    scores = np.eye(3)[answers]
    made = pictures.confusion(labels, scores, ("a", "<b>", "c"))
    told = [title.text for title in ElementTree.fromstring(made).iter(f"{SVG}title")]
    counts = {text.rpartition(": ")[0]: int(text.rpartition(": ")[2]) for text in map(str, told)}
    assert counts.pop("a called a") == 2
    assert {text for text, n in counts.items() if n} == {
        "a called <b>", "<b> called <b>", "c called a",
    }  # fmt: skip
    perfect = pictures.roc(labels, np.eye(3)[labels], ("a", "<b>", "c"))
    assert perfect is not None
    assert [key.label for key in perfect.legend] == ["mean of classes (grey)", "worst: a"]
    drawn = [e.get("class") for e in ElementTree.fromstring(plots.document([perfect])).iter()]
    assert drawn.count("line rest") == 3
    # Two classes have one curve; a test set of one class has none.
    two = pictures.roc(np.array([0, 1, 1]), np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), "ab")
    assert two is not None
    assert [key.label for key in two.legend] == ["b"]
    assert pictures.roc(np.zeros(3, int), np.full((3, 2), 0.5), "ab") is None


# --- once -------------------------------------------------------------------------------------


def test_a_second_sync_writes_nothing_and_a_changed_outcome_replaces_its_run(store: Store):
    first = [run(store, fold=fold) for fold in (0, 1)]
    grid(store, first)
    assert mlflow.sync(store).written == 3
    before = {r.data.tags["bench.key"]: r.info.run_id for r in runs(store, "run")}
    assert mlflow.sync(store) == (0, 3, ())
    changed = run(store, fold=1, value=0.9)
    assert changed.key == first[1].key
    assert mlflow.sync(store).written == 1
    found = {r.data.tags["bench.key"]: r for r in runs(store, "run")}
    assert len(runs(store, "run")) == 2
    assert found[changed.key].data.metrics["auroc"] == 0.9
    assert found[first[0].key].info.run_id == before[first[0].key]
    # New pictures count as a change, too.
    folder = store.folder("run", changed.key) / "explain"
    folder.mkdir()
    (folder / "maps.png").write_bytes(b"drawn")
    assert mlflow.sync(store).written == 1


def test_a_run_left_half_written_and_a_doubled_one_become_one(store: Store):
    done = run(store)
    with mock.patch("mlflow.MlflowClient.log_artifact", side_effect=OSError("No space left")):
        found = mlflow.sync(store)
    assert found.written == 0
    assert "refused" in found.refused[0]
    assert "No space left" in found.refused[0]
    assert len(runs(store, "run")) == 1
    assert mlflow.sync(store).written == 1
    (whole,) = runs(store, "run")
    assert whole.data.tags["bench.complete"]
    client(store).create_run(
        whole.info.experiment_id, tags={"bench.key": done.key, "bench.kind": "run"}
    )
    assert mlflow.sync(store).written == 1
    assert len(runs(store, "run")) == 1


@pytest.mark.parametrize(
    "call", ["log_batch", "log_inputs", "log_text", "set_terminated", "set_tag"]
)
def test_a_sync_that_ends_between_two_calls_is_made_up_for(store: Store, call: str):
    history = [{"epoch": i, "loss": 1 / i} for i in range(1, 1201)]  # more than a request may hold
    run(store, folds=1, history=history)
    with (
        mock.patch(f"mlflow.MlflowClient.{call}", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        mlflow.sync(store)
    (half,) = runs(store, "run")
    assert "bench.complete" not in half.data.tags
    assert mlflow.sync(store).written == 1
    (whole,) = runs(store, "run")
    assert (whole.info.status, whole.data.metrics["auroc"]) == ("FINISHED", 0.76)
    losses = client(store).get_metric_history(whole.info.run_id, "epoch/loss")
    assert sorted(m.step for m in losses) == list(range(1, 1201))
    assert {"confusion.svg", "roc.svg"} < files(store, whole.info.run_id)
    assert mlflow.sync(store) == (0, 1, ())


def test_a_cell_stands_under_the_largest_grid_that_asked_for_it(store: Store):
    some = [run(store, fold=fold) for fold in (0, 1)]
    grid(store, some[:1], "bench run --fold 0")
    mlflow.sync(store)
    whole = grid(store, some, "bench run")
    mlflow.sync(store)
    at = client(store)
    parents = {r.data.tags["mlflow.parentRunId"] for r in runs(store, "run")}
    assert [at.get_run(p).data.tags["bench.grid"] for p in parents] == [whole]


def test_a_deleted_experiment_comes_back_and_a_moved_store_is_told(store: Store, tmp_path: Path):
    run(store)
    mlflow.sync(store)
    at = client(store)
    at.delete_experiment(at.get_experiment_by_name("isic").experiment_id)
    mlflow.sync(store)
    assert len(runs(store, "run")) == 1
    moved = Store(tmp_path / "elsewhere")
    shutil.copytree(store.root, moved.root)
    with pytest.raises(BenchError, match=r"has moved.*Delete mlflow\.db"):
        mlflow.sync(moved)


# --- distance and gain ------------------------------------------------------------------------


def test_a_run_for_each_distance_has_the_numbers_of_the_transfer_report(store: Store):
    from reports import transfer
    from reports.leaderboard import table as leaderboard

    for source in GAINS:
        run(store, source, folds=1)
    order = {"imagenet": 0.1, "dtd": 0.2, "stl10": 0.4, "kimia": 0.3}
    for source, value in order.items():
        distance(store, source, value)
        distance(store, source, -value, "scores:logme")  # of which more is nearer
    mlflow.sync(store)
    found = {r.data.params["distance"]: r for r in runs(store, "correlation")}
    assert set(found) == {"task2vec", "scores:logme"}
    at = client(store)
    assert at.get_experiment(found["task2vec"].info.experiment_id).name == "isic"
    assert mlflow.sync(store).written == 0
    (analysis,) = transfer.analyse(store, leaderboard.boards(store, fusions=("none",)))
    for line in analysis.lines:
        if line.kind == "distance" and line.pairs == "without_self":
            expected = line.correlation._asdict()
            del expected["p"], expected["low"], expected["high"]  # four sources are too few
            assert found[line.name].data.metrics == pytest.approx(expected)
    numbers = found["task2vec"].data.metrics
    assert numbers["spearman"] == pytest.approx(-0.8)
    assert numbers["n"] == 4
    assert files(store, found["task2vec"].info.run_id) == {"scatter.svg"}

    distance(store, "kimia", 0.5)  # now in the order of the gains
    assert mlflow.sync(store).written == 2
    again = {r.data.params["distance"]: r for r in runs(store, "correlation")}
    assert len(runs(store, "correlation")) == 2
    assert again["task2vec"].info.run_id == found["task2vec"].info.run_id
    assert again["task2vec"].data.metrics["spearman"] == pytest.approx(-1)


def test_own_folders_of_one_name_have_experiments_of_their_own(store: Store):
    for version, source in (
        ("1-aaaaaaaaaaaa-11111111", "dtd"),
        ("1-bbbbbbbbbbbb-11111111", "none"),
    ):
        run(store, source, folds=1, spec={"target": "folder:images"}, version=version)
    assert mlflow.sync(store).written == 2
    at = client(store)
    where = {at.get_experiment(r.info.experiment_id).name for r in runs(store, "run")}
    assert where == {"folder:images#aaaaaa-111111", "folder:images#bbbbbb-111111"}


def test_the_pooled_correlation_has_a_run_of_its_own_with_every_pair(store: Store):
    from reports import transfer
    from reports.leaderboard import table as leaderboard

    for target, order in (("isic", (0.1, 0.2, 0.4, 0.3)), ("dtd", (0.2, 0.0, 0.1, 0.3))):
        for source, value in zip(("imagenet", "dtd", "stl10", "kimia"), order, strict=True):
            distance(store, source, value, target=target)
        for source in GAINS:
            run(store, source, folds=1, spec={"target": target})
    mlflow.sync(store)
    where = client(store).get_experiment_by_name("distance and gain")
    (pooled,) = (
        r for r in runs(store, "correlation") if r.info.experiment_id == where.experiment_id
    )
    (analysis,) = transfer.analyse(store, leaderboard.boards(store, fusions=("none",)))
    expected = {
        f"{line.pairs}/{name}": value
        for line in analysis.lines
        if line.kind == "distance"
        for name, value in line.correlation._asdict().items()
        if not math.isnan(value)  # four sources are too few for p and interval
    }
    assert pooled.data.metrics == pytest.approx(expected)
    assert pooled.data.metrics["all/n"] == 8
    assert pooled.data.metrics["without_self/n"] == 7
    assert pooled.data.params["target"] == "dtd, isic"
    assert pooled.data.params["direction"] == "less is nearer"
    assert files(store, pooled.info.run_id) == {"scatter.svg"}
    assert mlflow.sync(store).written == 0


# --- what never gets there --------------------------------------------------------------------


def test_no_path_no_name_and_no_free_text_is_mirrored(store: Store):
    """Whatever an outcome says in words carries a secret; none may be anywhere in what is sent."""
    secret, words = "P-00471", "the image /home/jane/x.png of jane is odd: P-00471"
    spec = {"protocol": "/home/jane doe/protocols/mine.yaml"}
    told = {
        "warnings": [words],
        "chosen": words,
        "data": {"digest": "0123456789abcdef", "test": 60, "overlap": words, secret: 3},
        "environment": {"device": "cpu (x86)", "host": "jane", "imported": words},
        "seconds": {"total": 1.0, words: 2.0},
        "history": [{"epoch": 1, "loss": 0.5, words: 1.0}],
    }
    done = run(store, spec=spec, **told)
    failure = Failure(kind="bad_input", message=words, log_tail=words)
    run(store, fold=1, status="failed", failure=failure, spec=spec, **told)
    run(store, fold=2, folds=3, status="skipped", reason=words, spec=spec, **told)
    grid(store, store.outcomes(), "bench run --data /home/jane doe/data --metadata=jane.csv")
    pretrain(store)
    # A file that somebody put more into stays at home.
    path = store.folder("run", done.key) / "predictions.npz"
    np.savez(path, **store.predictions(done.key), names=np.array([secret]))
    explain = store.folder("run", done.key) / "explain"
    explain.mkdir()
    (explain / "explain.json").write_text(secret)
    (store.folder("run", done.key) / "log.txt").write_text(words)
    assert mlflow.sync(store).written == 5
    sent = [store.root / "mlflow.db", *(store.root / "mlflow-artifacts").rglob("*")]
    for path in sent:
        text = path.read_bytes() if path.is_file() else b""
        for word in (secret, "jane", "is odd"):
            assert word.encode() not in text, path
    found = {r.data.tags["bench.status"]: r.data for r in runs(store, "run")}
    assert {one.params["protocol"] for one in found.values()} == {"mine"}
    shown = {name: text for name, text in found["failed"].tags.items() if "bench." in name}
    assert set(shown) == {
        "bench.kind", "bench.status", "bench.key", "bench.complete", "bench.failure.kind",
        "bench.warnings", "bench.imported", "bench.data.digest", "bench.data.test",
        "bench.environment.device",
    }  # fmt: skip
    assert shown["bench.failure.kind"] == "bad_input"


def test_workers_and_components_know_nothing_of_it():
    found = {
        path.relative_to(ROOT).parent.as_posix()
        for package in ("benchmark", "sources", "targets", "similarity", "reports")
        for path in (ROOT / package).rglob("*.py")
        for word in ("import mlflow", "from mlflow", "reports.mlflow")
        if word in path.read_text(encoding="utf-8")
    }
    assert found == {"benchmark/cli", "reports/mlflow"}


# --- beside a running grid --------------------------------------------------------------------


def test_the_mirror_of_a_grid_takes_outcomes_as_they_come(store: Store):
    said: list[str] = []
    cells = [Cell.of(RunSpec(source="dtd", target="isic", fold=fold)) for fold in (0, 1, 2)]
    store.record_grid(cells, "bench run")
    with mlflow.Mirror(store, say=said.append) as mirror:
        for cell in cells[:2]:
            outcome = ok(cell)
            store.finish(cell, outcome)
            mirror.add(outcome)
    assert [text for text in said if "Warning" in text] == []
    assert Counter(r.data.tags["bench.key"] for r in runs(store, "run")) == Counter(
        cell.key for cell in cells[:2]
    )
    (parent,) = runs(store, "grid")
    assert (parent.info.status, parent.data.metrics["left"]) == ("SCHEDULED", 1)
    assert mlflow.sync(store).written == 0


def test_a_dead_server_is_asked_once_and_costs_one_warning(store: Store, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
    said: list[str] = []
    asked, real = [], socket.socket.connect
    monkeypatch.setattr(
        socket.socket, "connect", lambda self, to: asked.append(to) or real(self, to)
    )
    with mlflow.Mirror(store, say=said.append, uri=uri) as mirror:
        for fold in range(20):
            mirror.add(run(store, fold=fold))
    assert 1 <= len(asked) <= 4, "twenty cells do not wait for it twenty times"
    (warning,) = (text for text in said if "Warning" in text)
    assert "bench mlflow sync" in warning
    assert "secret" not in warning
    with pytest.raises(BenchError, match="does not answer"):
        mlflow.sync(store, uri=uri)
    assert mlflow.sync(store).written == 20  # nothing is lost


def test_a_mirror_that_gets_nothing_ends_at_once(tmp_path: Path):
    with mlflow.Mirror(Store(tmp_path), say=pytest.fail):
        pass
    assert list(tmp_path.iterdir()) == []


def test_mlflow_is_reached_while_cells_run(tmp_path: Path):
    said: list[str] = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    with mlflow.Mirror(Store(tmp_path), say=said.append, uri=uri) as mirror:
        mirror.begin()  # cells start, and none has ended
        until = time.monotonic() + 120
        while not said and time.monotonic() < until:
            time.sleep(0.05)
        assert "could not be written" in said[0]


def test_the_cells_of_a_recommendation_are_mirrored(store: Store, monkeypatch):
    place = store.root
    words = [
        *("recommend", "--target", TINY, "--source", "none", "--budget", "1", "--run", "--mlflow"),
        *("--arch", "test_resnet", "--mode", "frozen", "--protocol", "demo", "--device", "cpu"),
        *("--set", "recipe.epochs=1", "--set", "recipe.size=32", "--slots", "0", "--store", place),
    ]
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    keys = list(store.keys("run"))
    assert len(keys) == 3
    assert sorted(r.data.tags["bench.key"] for r in runs(store, "run")) == sorted(keys)


def test_two_mirrors_at_once_make_each_cell_once(store: Store):
    outcomes = [run(store, fold=fold) for fold in range(4)]
    mirrors = [mlflow.Mirror(store, say=lambda _: None) for _ in range(2)]
    for outcome in outcomes:
        for mirror in mirrors:
            mirror.add(outcome)
    for mirror in mirrors:
        mirror.close()
    found = Counter(r.data.tags["bench.key"] for r in runs(store, "run"))
    assert found == Counter(outcome.key for outcome in outcomes)


CHILD = """
import sys
from pathlib import Path
from benchmark import cli
from reports import mlflow
from benchmark.store import Store
seen = []
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        seen.append((event, str(args[1:])))
sys.addaudithook(hook)
print(mlflow.sync(Store(Path(sys.argv[1]))), seen)
"""


@pytest.mark.slow
def test_two_processes_make_one_database_and_call_nobody(tmp_path: Path):
    store = Store(tmp_path / "store")
    store.prepare()
    outcomes = [run(store, fold=fold) for fold in range(4)]
    hidden = ("PYTEST", "CI", "GITHUB", "MLFLOW", "DO_NOT")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(store.root)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean,
        )
        for _ in range(2)
    ]  # fmt: skip
    told = [child.communicate(timeout=200)[0] for child in children]
    for text in told:
        assert text.startswith("Synced("), text  # and no log line of another library
        assert text.strip().endswith("[]"), text
    found = Counter(r.data.tags["bench.key"] for r in runs(store, "run"))
    assert found == Counter(outcome.key for outcome in outcomes)


# --- a server that dies -----------------------------------------------------------------------


@pytest.fixture
def full_database() -> Iterator[None]:
    """No database may grow by a page, as on a full disk."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def limit(connection: Any, _: object) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # it becomes as many as there are

    event.listen(Engine, "connect", limit)
    yield
    event.remove(Engine, "connect", limit)


def test_a_full_disk_is_one_warning_and_no_traceback(store: Store, full_database: None, capfd: Any):
    outcomes = [run(store, source, folds=1) for source in GAINS]
    kept = {path: path.read_bytes() for path in store.root.rglob("outcome.json")}
    assert len(kept) == len(outcomes)
    said: list[str] = []
    with mlflow.Mirror(store, say=said.append) as mirror:
        mirror.begin()
        for outcome in outcomes:
            mirror.add(outcome)
    (warning,) = (text for text in said if "Warning" in text)
    assert "disk is full" in warning and "bench mlflow sync" in warning
    assert "\n" not in warning
    shown = "".join(capfd.readouterr())
    assert "Traceback" not in shown and "sqlite3" not in shown
    assert {path: path.read_bytes() for path in kept} == kept


class MlflowServer:
    """`mlflow server` on sqlite, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"),
            "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
        ]  # fmt: skip
        still = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                stdout=log, stderr=log, env={**os.environ, **still}, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        for _ in range(1500):
            assert self.process.poll() is None, (self.folder / "log.txt").read_text()
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except OSError:
                time.sleep(0.1)
        raise AssertionError((self.folder / "log.txt").read_text())

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module", autouse=True)
def mlflow_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """Starts while other tests run, for it takes many seconds; not where no test needs it."""
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    if any("a_server_killed" in item.name for item in request.session.items):
        made.start()
    yield made
    made.kill()


@pytest.mark.timeout(400)  # two starts of a server on a busy machine
def test_a_server_killed_in_the_middle_ends_with_each_cell_once(
    store: Store, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch, capfd: Any
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.uri)
    weights = pretrain(store)
    outcomes = [run(store, source, folds=1) for source in GAINS]
    for i, source in enumerate(GAINS):
        distance(store, source, 0.1 * i)
    grid(store, outcomes)
    mlflow_server.wait()

    from mlflow import MlflowClient

    sent, real = [], MlflowClient.log_artifact

    def log_artifact(self: Any, run_id: str, path: str, *args: Any) -> None:
        sent.append(path)
        if len(sent) == 6:
            mlflow_server.kill()  # this run is made, and half written
        real(self, run_id, path, *args)

    said: list[str] = []
    monkeypatch.setattr(MlflowClient, "log_artifact", log_artifact)
    with mlflow.Mirror(store, say=said.append) as mirror:
        for outcome in (weights, *outcomes):
            mirror.add(outcome)
    (warning,) = (text for text in said if "Warning" in text)
    assert mlflow_server.uri in warning
    with pytest.raises(BenchError, match="does not answer"):
        mlflow.sync(store)

    mlflow_server.start()
    mlflow_server.wait()
    uri = mlflow_server.uri
    before = runs(store, "run", uri)
    assert 0 < len(before) < len(outcomes)
    assert any("bench.complete" not in found.data.tags for found in before)
    first = mlflow.sync(store)
    assert first.refused == ()
    found = Counter(r.data.tags["bench.key"] for r in runs(store, "run", uri))
    assert found == Counter(outcome.key for outcome in outcomes)
    second = mlflow.sync(store)
    assert second.written == 0
    assert second.unchanged >= len(outcomes)

    at = client(store, uri)
    where = [at.get_experiment_by_name("isic").experiment_id]
    (line,) = at.search_runs(
        where, "params.distance = 'task2vec' and tags.`bench.kind` = 'correlation'"
    )
    assert line.data.metrics["n"] == 4
    assert {"spearman", "pearson", "kendall"} <= set(line.data.metrics)
    (version,) = at.search_model_versions("name = 'dtd-resnet50'")
    assert version.tags["bench.key"] == weights.key
    some = runs(store, "run", uri)[0].info.run_id
    assert {item.path for item in at.list_artifacts(some)} == {
        "confusion.svg", "roc.svg", "predictions.npz",
    }  # fmt: skip
    assert capfd.readouterr().out == ""  # results alone go to stdout


@pytest.mark.parametrize("secret", ["pw", "p/w", "p@w", "p#w?x", "p%2Fw", "p:w", "//@"])
def test_a_password_is_never_shown_whatever_is_in_it(secret: str):
    uri = f"https://jane:{secret}@tracking.example/mlflow?token=abc"
    assert server.address(uri) == "https://tracking.example/mlflow"
    told = server.gist(OSError(f"could not reach {uri} as jane:{secret} ({secret!r})"), uri)
    assert secret not in told
    assert "tracking.example" in told
    assert server.address("sqlite:////a@b/mlflow.db") == "sqlite:////a@b/mlflow.db"
