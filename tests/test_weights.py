"""Weights are known by what is in their file; what cannot be had or used is told before a run."""

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import save as serialise
from stores import ok
from typer.testing import CliRunner

from benchmark import added, cli
from benchmark.errors import BenchError, Damaged, DataMissing
from benchmark.files import read_json, write_json
from benchmark.plan import parts, plan
from benchmark.plan import run as running
from benchmark.plan.request import DistanceRequest
from benchmark.spec import Cell, DistanceSpec, Outcome, PretrainSpec, Recipe, RunSpec, Runtime
from benchmark.stats import Estimate
from benchmark.store import Store
from benchmark.train import job as cells
from benchmark.train import network, weights
from reports.leaderboard.gains import Pair
from reports.recommend import matrix
from reports.recommend.matrix import images_of
from reports.transfer import correlations
from tests.conftest import TINY

COPIES = TINY.with_name("copies.py")


@pytest.fixture
def file(tmp_path: Path):
    """Writes a file of weights that the seed determines."""

    def make(seed: int, *, spoil: float | None = None) -> Path:
        from safetensors.torch import save_file

        state = {
            k: v.contiguous()
            for k, v in network.build("test_resnet", seed=seed).state_dict().items()
        }
        if spoil is not None:
            next(iter(state.values())).view(-1)[0] = spoil
        path = tmp_path / f"seed{seed}.safetensors"
        save_file(state, path)
        return path

    return make


def add(runtime: Runtime, path: Path, **changes: Any) -> str:
    """Add a file as weights:mine; the beginning of its digest."""
    store = Store(runtime.store)
    made = weights.add(store, "weights:mine", "test_resnet", path, **changes)
    return weights.sha256(store.of(made))[:8]


def planned(runtime: Runtime, request_tiny: Any, source: str = "weights:mine") -> Cell:
    request = request_tiny(sources=(source,), folds=(0,))
    (found,) = (
        p.cell for p in plan.make(request, runtime).cells if isinstance(p.cell.spec, RunSpec)
    )
    return found


def test_another_file_under_a_name_is_another_version(runtime, request_tiny, file):
    first = add(runtime, file(1))
    old = planned(runtime, request_tiny)
    Store(runtime.store).finish(old, ok(old))
    second = add(runtime, file(2))
    new = planned(runtime, request_tiny)
    assert new.key != old.key
    assert new.spec.weights != old.spec.weights
    assert planned(runtime, request_tiny, f"weights:mine@{first}") == old
    assert planned(runtime, request_tiny, f"weights:mine@{second}") == new
    with pytest.raises(BenchError, match="0 files were added"):
        planned(runtime, request_tiny, "weights:mine@ffffffffffff")
    made = plan.make(request_tiny(sources=("weights:mine",), folds=(0,)), runtime)
    assert "version of source" in plan.again(made, Store(runtime.store))[new.key]
    assert add(runtime, file(1)) == first  # back again
    assert planned(runtime, request_tiny) == old


def test_an_imported_file_takes_the_name_and_mixes_with_none(runtime, request_tiny, file, tmp_path):
    other = runtime.model_copy(update={"store": tmp_path / "other"})
    add(other, file(1))
    theirs = planned(other, request_tiny)
    weights.export(Store(other.store), theirs.spec.weights, tmp_path / "out")
    add(runtime, file(2))
    ours = planned(runtime, request_tiny)
    weights.import_(Store(runtime.store), tmp_path / "out")
    assert planned(runtime, request_tiny) == theirs != ours
    for key in (theirs.spec.weights, ours.spec.weights):
        assert (Store(runtime.store).folder("pretrain", key) / weights.FILE).is_file()


def _card(out: Path, **changes: Any) -> None:
    facts = read_json(out / weights.CARD)
    write_json(out / weights.CARD, {**facts, **changes})


def _outcome(out: Path, **changes: Any) -> None:
    found = Outcome.model_validate(read_json(out / "outcome.json"))
    spec = changes.pop("spec", found.spec)
    cell = Cell.of(spec, found.versions)
    whole = {**found.model_dump(mode="json"), "key": cell.key, "spec": spec.model_dump(mode="json")}
    write_json(out / "outcome.json", {**whole, **changes})


def _tensors(out: Path, **more: torch.Tensor) -> None:
    content = serialise({**weights.read(out / weights.FILE), **more})
    (out / weights.FILE).write_bytes(content)
    _card(out, sha256=hashlib.sha256(content).hexdigest())


HOSTILE = {
    "a run": (
        lambda out: _outcome(out, spec=RunSpec(source="weights:mine", target="isic")),
        "it is of a run",
    ),
    "unfinished": (lambda out: _outcome(out, status="skipped"), "it is not finished"),
    "another field of the card": (lambda out: _card(out, script="x"), "not a whole export"),
    "another field": (lambda out: _outcome(out, script="x"), "its outcome cannot be read"),
    "no digest": (lambda out: _card(out, sha256="../../x"), "not a whole export"),
    "escapes on the card": (lambda out: _card(out, note="\x1b[2J"), "control characters"),
    "a text turned round": (lambda out: _outcome(out, chosen="\u202egnp"), "control characters"),
    "another network": (lambda out: _card(out, arch="resnet50"), "of another pretraining"),
    "a network from elsewhere": (
        lambda out: [
            _outcome(
                out, spec=PretrainSpec(source="weights:mine", arch=ELSEWHERE, recipe=Recipe())
            ),
            _card(out, arch=ELSEWHERE),
        ],
        "No network named",
    ),
    "other shapes": (
        lambda out: _tensors(out, **{"conv1.weight": torch.zeros(1)}),
        "do not fit test_resnet: conv1.weight is",
    ),
    "not finite": (
        lambda out: _tensors(out, **{"head.weight": torch.tensor([float("nan")])}),
        "not finite",
    ),
    "objects for hashes": (
        lambda out: np.save(out / weights.HASHES, np.array([{}]), allow_pickle=True),
        "not a whole export",
    ),
    "words for hashes": (lambda out: np.save(out / weights.HASHES, np.array(["x"])), "no hashes"),
}
ELSEWHERE = "hf-hub:someone/net"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_export_is_a_sentence_and_writes_nothing(name: str, runtime, file, tmp_path):
    change, told = HOSTILE[name]
    add(runtime, file(1))
    (key,) = Store(runtime.store).keys("pretrain")
    out, here = tmp_path / "out", Store(tmp_path / "here")
    weights.export(Store(runtime.store), key, out)
    change(out)
    with pytest.raises(BenchError, match=told):
        weights.import_(here, out)
    assert not here.root.exists() or [*here.root.rglob("weights*")] == []


def test_two_trainings_of_one_pretraining_do_not_take_each_others_place(runtime, tmp_path):
    there, keys = {"copies": COPIES}, []
    for name, seed in (("a", 1), ("b", 2)):
        store = Store(tmp_path / name)
        made = parts.pretrain_cell(
            "copies", "test_resnet", 0, {}, Runtime(store=store.root, paths=there)
        )
        state = network.build("test_resnet", seed=seed).state_dict()
        weights.save(store.of(made), state, {"source": "copies", "arch": "test_resnet"})
        store.finish(made, ok(made))
        weights.export(store, made.key, tmp_path / f"out-{name}")
        keys.append(made.key)
    assert keys[0] == keys[1]
    with pytest.raises(BenchError, match="a second training"):
        weights.import_(Store(tmp_path / "b"), tmp_path / "out-a")
    assert weights.import_(Store(tmp_path / "b"), tmp_path / "out-b") == keys[0]


@pytest.mark.parametrize("how", ["remove", "swap"])
def test_a_card_that_is_not_its_own_is_told_and_hides_no_other(runtime, file, how: str):
    store = Store(runtime.store)
    add(runtime, file(1)), add(runtime, file(2))
    one, other = (store.folder("pretrain", key) / weights.CARD for key in store.keys("pretrain"))
    one.unlink() if how == "remove" else one.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match=r"card.json of the pretrain .* is gone or damaged"):
        assert [card["key"] for card in weights.cards(store)] == [other.parent.name]


def test_what_a_name_stands_for_is_believed_for_that_name_alone(runtime, file):
    store = Store(runtime.store)
    add(runtime, file(1))
    weights.add(store, "weights:other", "test_resnet", file(2))
    one, other = (store.root / "weights" / "current").glob("*.json")
    one.write_bytes(other.read_bytes())
    with pytest.raises(Damaged):
        [weights.added(store, f"weights:{name}", "test_resnet") for name in ("mine", "other")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(runtime, file, value: float):
    with pytest.raises(BenchError, match="not finite"):
        add(runtime, file(1, spoil=value))
    assert not weights.cards(Store(runtime.store))


@pytest.mark.parametrize("name", ["notes.txt", "notes.safetensors", "notes.pt", "empty", "folder"])
def test_what_is_no_file_of_weights_is_a_sentence(runtime, tmp_path: Path, name: str):
    path = tmp_path / name
    path.mkdir() if name == "folder" else path.write_text(
        "" if name == "empty" else "weights?\n" * 9
    )
    with pytest.raises(BenchError, match=r"plain tensors|state dict"):
        add(runtime, path)


@pytest.mark.parametrize("arch", ["resnet18", "resnet26"])
def test_weights_that_are_not_there_are_told_in_the_plan(runtime, request_tiny, file, arch: str):
    if arch == "resnet26":
        add(runtime, file(1))  # for another network
    with pytest.raises(BenchError, match=rf"No weights named 'mine' .* {arch}"):
        plan.make(request_tiny(sources=("weights:mine",), archs=(arch,)), runtime)


def test_public_weights_that_were_never_fetched_are_told_before_the_run(
    runtime, request_tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    request = request_tiny(sources=("imagenet",), archs=("resnet50",), folds=(0,))
    with pytest.raises(DataMissing, match=r"public weights of resnet50\.tv_in1k are not"):
        running.run(request, runtime, dry=True)
    assert not list(Store(runtime.store).keys("pretrain"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet50-0676ba61.pth").touch()
    assert running.run(request, runtime, dry=True) == 0


def test_a_probe_is_a_key_or_a_file(runtime, file):
    path, store = file(1), Store(runtime.store)
    key = weights.probe(store, str(path), "test_resnet")
    assert weights.probe(store, key[:8], "test_resnet") == key
    assert weights.probe(store, "imagenet", "test_resnet") == ""
    assert weights.added(store, f"weights:{path.stem}", "test_resnet") == "", "it takes no name"
    with pytest.raises(BenchError, match="are of test_resnet, not resnet50"):
        weights.probe(store, key, "resnet50")
    request = DistanceRequest(
        sources=["tiny"], targets=["tiny"], methods=["otdd"], arch="test_resnet", key=key
    )
    (found,) = plan.make(request, runtime).of("to run")
    assert isinstance(found.cell.spec, DistanceSpec)
    assert found.cell.spec.weights == key


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runtime, Outcome]:
    """A pretraining on a source whose patients share images."""
    runtime = Runtime(
        store=tmp_path_factory.mktemp("pretrained"), device="cpu", workers=1, offline=True,
        draws=200, paths={"tiny": TINY, "copies": COPIES},
    )  # fmt: skip
    made = parts.pretrain_cell("copies", "test_resnet", 0, {}, runtime)
    outcome = cells.run(made, runtime)
    assert outcome.status == "ok", outcome.failure
    return runtime, outcome


def test_a_source_on_itself_has_both_aurocs(pretrained):
    _, outcome = pretrained
    for part in ("train", "val", "test"):
        assert {f"{part}_auroc", f"{part}_auroc_weighted"} <= set(outcome.metrics)


def test_intervals_of_a_pretraining_resample_copies_together(pretrained):
    # Two pictures are in the test part, five times each, and the network says one class for both:
    # ten patients would give 0.5 ± 0.3, but two pictures give anything.
    _, outcome = pretrained
    found = outcome.metrics["test_accuracy"]
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)


def test_overlaps_are_counted_without_the_sources_images(pretrained, request_tiny, tmp_path: Path):
    there, outcome = pretrained
    folder = weights.export(Store(there.store), outcome.key, tmp_path / "out")
    here = there.model_copy(update={"store": tmp_path / "here", "paths": {"tiny": TINY}})
    store = Store(here.store)
    key = weights.import_(store, folder)
    known = np.load(store.folder("pretrain", key) / weights.HASHES)
    assert len(known) == 20
    hashes = np.array([f"{known[0]:016x}", f"{known[1]:016x}", "0" * 16])
    assert weights.overlap(store, key, hashes) == 2
    (store.folder("pretrain", key) / weights.HASHES).unlink()
    with pytest.raises(Damaged, match="gone or damaged"):
        weights.overlap(store, key, hashes)
    (folder / weights.HASHES).unlink()  # of an older version, that kept none
    older = Store(tmp_path / "older")
    assert weights.overlap(older, weights.import_(older, folder), hashes) == ""


def test_a_run_on_imported_weights_asks_for_no_image_of_their_source(
    pretrained, request_tiny, tmp_path: Path
):
    there, outcome = pretrained
    here = there.model_copy(update={"store": tmp_path / "here"})
    weights.import_(
        Store(here.store), weights.export(Store(there.store), outcome.key, tmp_path / "out")
    )
    made = plan.make(request_tiny(sources=("copies",), folds=(0,)), here)
    (run,) = [cells.run(p.cell, here) for p in made.of("to run")]
    assert run.status == "ok", run.failure
    assert run.data["overlap"] == 0
    assert [path.name[:4] for path in (here.store / "prepared").iterdir()] == ["tiny"]


def test_baselines_know_how_many_images_a_training_saw(pretrained):
    there, outcome = pretrained
    store, source = Store(there.store), outcome.spec.source
    assert added.seen(store) == {source: outcome.data["train"]} != {source: images_of(source)}
    assert correlations.plain([Pair(source, "tiny", Estimate(1, 0, 2, 9))], added.seen(store))[
        "log size"
    ] == -np.log(outcome.data["train"])
    _, known, *_ = matrix.of_store(store, "tiny", sources=(source, "none"))
    assert dict(zip(known.sources, known.images, strict=True))[source] == outcome.data["train"]


def test_baselines_know_how_many_images_added_weights_saw(runtime: Runtime, file: Any):
    store = Store(runtime.store)
    add(runtime, file(1), images=70)
    assert added.images(store) == {"weights:mine": 70}
    add(runtime, file(2), images=900, kind="medical")
    add(runtime, file(3))
    weights.add(store, "weights:bare", "test_resnet", file(1))
    add(runtime, file(2), images=900, kind="medical")  # for which the name stands again
    assert added.images(store) == {"weights:mine": 900}
    _, known, *_ = matrix.of_store(store, "tiny", sources=("weights:mine", "weights:bare"))
    found = dict(zip(known.sources, known.images, strict=True))
    assert found["weights:mine"] == 900
    assert np.isnan(found["weights:bare"])
    pair = Pair("weights:mine", "tiny", Estimate(1, 0, 2, 9))
    assert correlations.plain([pair], added.seen(store))["log size"] == -np.log(900)
    asked = DistanceRequest(
        sources=("weights:mine", "weights:bare"), targets=("tiny",), methods=("rivals:size",)
    )

    def planned_by_source() -> dict[str, Cell]:
        return {p.cell.spec.source: p.cell for p in plan.make(asked, runtime).cells}

    made = planned_by_source()
    sizes, bare = made["weights:mine"], made["weights:bare"]
    outcome = cells.run(sizes, runtime)
    assert outcome.failure is None
    assert outcome.metrics["distance"].value == -np.log(900)
    assert "number of images" in str(cells.run(bare, runtime).failure)
    add(runtime, file(2), images=901)
    later = planned_by_source()
    assert later["weights:mine"].key != sizes.key
    assert later["weights:bare"].key == bare.key


@pytest.mark.parametrize("name", ["mine@2", "lab/mine", "", "weights:mine"])
def test_a_name_that_no_run_could_ask_for_is_refused(name: str, runtime: Runtime, file: Any):
    words = ["weights", "add", str(file(1)), "--name", name, "--arch", "test_resnet"]
    found = CliRunner().invoke(cli.app, [*words, "--store", str(runtime.store)])
    assert isinstance(found.exception, BenchError)
    assert "is no name" in str(found.exception)
    assert not runtime.store.exists()
