"""MedMNIST: a family of one file, official parts, sizes as files of their own."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from benchmark import contract, protocols, registry
from benchmark.data import prepare, split
from benchmark.errors import BenchError, DataMissing
from benchmark.plan import run as run_plan
from benchmark.store import Store
from reports import overlaps
from reports.leaderboard import table


@pytest.fixture
def place(tmp_path):
    """Where a user puts the files, and the runtime that finds them there."""
    folder = tmp_path / "data" / "medmnist"
    folder.mkdir(parents=True)
    registry.load("target", "medmnist").fake(folder, 0)
    return folder


def test_the_official_parts_are_the_files_own(place, runtime):
    runtime = runtime.model_copy(update={"data": place.parent})
    data = prepare.prepare("medmnist:derma", 28, runtime)
    parts = split.split(data, protocols.load("official").split, fold=0)
    with np.load(place / "dermamnist.npz") as file:
        sizes = [len(file[f"{part}_labels"]) for part in ("train", "val", "test")]
        assert [len(parts.train), len(parts.val), len(parts.test)] == sizes
        assert np.array_equal(data.images[parts.test], file["test_images"])
        names = [data.classes[label] for label in data.labels[parts.val]]
        card = registry.card("target", "medmnist:derma")
        assert names == [card.labels[label] for label in file["val_labels"].ravel()]


@pytest.mark.parametrize(
    "name",
    [
        one if one == "chest" else pytest.param(one, marks=pytest.mark.slow)
        for one in registry.load("target", "medmnist").variants[:-1]
    ],
)
def test_every_set_keeps_the_contract(name):
    said = list(contract.check(f"medmnist:{name}"))
    assert said[-1] == f"target 'medmnist:{name}' keeps the contract"
    assert any("one training step" in line for line in said)


def test_a_size_is_a_file_of_its_own(place):
    large = registry.load("target", "medmnist:derma-224")
    assert "224 pixels" in large.card.title
    assert large.card.files[0].name == "dermamnist_224.npz"
    with pytest.raises(DataMissing, match="dermamnist_224"):
        list(large.records(place))


def test_sets_that_share_images_are_known():
    assert overlaps.between("isic", "medmnist:derma-64")
    assert overlaps.between("medmnist:organa", "medmnist:organs-128")
    assert not overlaps.between("medmnist:blood", "medmnist:path")


@pytest.mark.parametrize("name", ["nodule", "derma-32", "skin"])
def test_a_set_that_is_not_there_is_refused(name):
    with pytest.raises(BenchError, match="no flat set"):
        registry.load("target", f"medmnist:{name}")


def test_the_chests_have_any_number_of_labels(place, runtime):
    runtime = runtime.model_copy(update={"data": place.parent})
    data = prepare.prepare("medmnist:chest", 28, runtime)
    parts = split.split(data, protocols.load("official").split, fold=0)
    with np.load(place / "chestmnist.npz") as file:
        for part, rows in zip(("train", "val", "test"), parts, strict=False):
            assert np.array_equal(data.labels[rows], file[f"{part}_labels"])
    assert data.classes == registry.card("target", "medmnist:chest").labels
    assert overlaps.between("medmnist:chest", "medmnist:chest-64")


def test_labels_of_another_kind_are_refused(place):
    np.savez(place / "chestmnist.npz", train_labels=np.zeros((4, 1), np.uint8))
    with pytest.raises(BenchError, match="labels that it should not"):
        list(registry.load("target", "medmnist:chest").records(place))


def test_grades_are_judged_by_quadratic_kappa(place, runtime, request_tiny):
    runtime = runtime.model_copy(update={"data": place.parent})
    asked = request_tiny(targets=("medmnist:retina",), sources=("none",), protocols=("official",),
                         modes=("frozen",), recipe={"size": 28, "threads": 1})  # fmt: skip
    assert run_plan.run(asked, runtime, executor=run_plan.Executor(slots=0)) == 0
    store = Store(runtime.store)
    (outcome,) = store.outcomes("run")
    assert outcome.spec.headline == "quadratic_kappa"
    kept = store.predictions(outcome.key)
    want = cohen_kappa_score(kept["labels"], kept["scores"].argmax(1), weights="quadratic")
    assert outcome.metrics["quadratic_kappa"].value == pytest.approx(want)
    assert "Quadratic weighted kappa" in table.show(store)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_is_not_whole_is_a_sentence(share, place):
    path = place / "dermamnist.npz"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)] or b"<html>")
    with pytest.raises(BenchError, match="is damaged"):
        list(registry.load("target", "medmnist:derma").records(place))
