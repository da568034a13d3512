"""Pictures of a run: their numbers are right, they are written whole, and they name nobody."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stores import run_all

from benchmark.data import prepare
from benchmark.errors import BenchError
from benchmark.explain import explain, last_layer, pictures, record_gain
from benchmark.metadata import OneHotEncoder, OrdinalEncoder
from benchmark.spec import Outcome, RunSpec, Runtime
from benchmark.store import Store
from benchmark.train import network
from benchmark.train.classifier import Classifier, Head
from tests.conftest import ROOT


def finished(runtime: Runtime, request_tiny: Any, **changes: Any) -> dict[tuple[str, int], Outcome]:
    """Every run asked for, by arm and fold."""
    found = run_all(request_tiny(**changes), runtime)
    return {(o.spec.fusion, o.spec.fold): o for o in found if isinstance(o.spec, RunSpec)}


def test_a_fused_run_is_explained_beside_the_image_alone(
    runtime: Runtime, request_tiny: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(explain, "SHUFFLES", 2)
    store = Store(runtime.store)
    runs = finished(runtime, request_tiny, fusions=("none", "concat"))
    outcome = runs["concat", 1]
    found = explain.explain(store, outcome.key[:8], runtime, images=4, figures=True)
    folder = store.folder("run", outcome.key) / "explain"
    names = ("maps", "weights", "image_weights", "importance", "classes", "gains")
    assert {p.name for p in found.files} == {f"{n}.{e}" for n in names for e in ("png", "svg")}
    assert ["one network only" in note for note in found.notes] == [True]
    for path in folder.glob("*.png"):
        with Image.open(path) as picture:
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn
            assert not picture.getexif()
    text = (folder / "explain.json").read_text() + "".join(
        path.read_text() for path in folder.glob("*.svg")
    )
    assert "image-" not in text.replace("image-only", "")
    assert "patient-" not in text
    numbers = json.loads((folder / "explain.json").read_text())
    assert set(numbers["importance"]) == {"age", "site", "the whole record", "the image"}
    auroc = {arm: runs[arm].metrics["auroc"].value for arm in runs}
    expected = np.mean([auroc["concat", k] - auroc["none", k] for k in range(3)])
    gain = numbers["gains"]["AUROC"]
    assert gain["value"] == pytest.approx(expected, abs=1e-6)  # scores are kept as float32
    assert gain["low"] <= gain["value"] <= gain["high"]


@pytest.mark.parametrize("constancy", [True, False])
def test_the_pixels_are_those_of_the_runs_own_colours(
    runtime: Runtime, request_tiny: Any, constancy: bool
):
    recipe = {"epochs": 1, "constancy": constancy}
    outcome = finished(runtime, request_tiny, folds=(0,), recipe=recipe)["none", 0]
    shutil.rmtree(runtime.store / "prepared")
    other = prepare.prepare("tiny", 32, runtime, constancy=not constancy)  # the only one at hand
    tested = explain._tested(Store(runtime.store), outcome, runtime)
    expected = prepare.prepare("tiny", 32, runtime, constancy=constancy)
    assert np.array_equal(tested.prepared.images, expected.images)
    assert not np.array_equal(expected.images, other.images)


def test_what_an_arm_cannot_show_is_said(
    runtime: Runtime, request_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(explain, "SHUFFLES", 1)
    store = Store(runtime.store)
    runs = finished(
        runtime, request_tiny, fusions=("none", "metablock", "metadata:logistic"), folds=(0,)
    )

    def ask(name: str) -> tuple[set[str], str]:
        out = tmp_path / name.replace(":", "-")
        found = explain.explain(store, runs[name, 0].key, runtime, out=out, images=2)
        return {path.stem for path in found.files}, " ".join(found.notes)

    names, notes = ask("none")
    assert names == {"maps", "weights", "classes"}
    assert "no second arm" in notes
    names, notes = ask("metadata:logistic")
    assert names == {"classes"}
    assert "keeps no model" in notes
    names, notes = ask("metablock")
    assert names == {"maps", "importance", "classes", "gains"}
    assert "no linear layer" in notes
    (store.folder("run", runs["none", 0].key) / "weights.safetensors").unlink()
    names, notes = ask("metablock")
    assert "maps" in names  # the fused arm alone
    assert "gone or damaged" in notes
    with pytest.raises(BenchError, match="no run"):
        explain.explain(store, "", runtime)


def test_the_map_of_a_linear_head_is_its_weights_times_the_maps():
    backbone, head = network.build("resnet18", seed=1), Head(512, 3, dropout=0.5)
    model = Classifier(backbone, head).eval()
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([2, 0])
    assert explain.layer_of(model, images, None) == ""
    found = explain.activation_maps(model, images, None, wanted)
    with torch.no_grad():
        maps, weight = backbone.maps(images), head.output.weight
        expected = torch.einsum("nc,nchw->nhw", weight[wanted], maps).relu() / 16
    assert found.shape == (2, 4, 4)
    assert np.allclose(found, expected.numpy(), atol=1e-5)
    small = images[..., :32, :32]
    layer = explain.layer_of(model, small, None)
    assert layer.startswith("layer2")
    assert explain.activation_maps(model, small, None, wanted, layer=layer).shape == (2, 4, 4)


def test_a_transformers_tokens_lie_on_a_grid():
    tokens = np.arange(17.0).reshape(1, 17, 1)
    assert explain._as_grid(tokens, 1)[0, 1].tolist() == [5, 6, 7, 8]
    assert explain._as_grid(tokens, 0).shape == (1, 17, 1)


def test_the_surest_answers_are_chosen_class_by_class():
    labels = np.array([0, 0, 0, 1, 1, 1])
    first = np.array([0.9, 0.8, 0.2, 0.1, 0.4, 0.7])
    scores = np.stack([first, 1 - first], axis=1)
    assert explain.choose(labels, scores, 4).tolist() == [0, 3, 2, 5]
    assert explain.choose(labels, scores, 50).tolist() == [0, 3, 1, 4, 2, 5]
    sure = np.tile([1.0, 0.0], (6, 1))
    same = explain.choose(labels, sure, 2, seed=3)
    assert same.tolist() == explain.choose(labels, sure, 2, seed=3).tolist()


def test_columns_are_named_in_the_order_of_the_encoder():
    import pandas as pd

    frame = pd.DataFrame({"age": ["20", "60"], "site": ["leg", "arm"], "seen": ["2020-01-02", ""]})
    for kind in (OneHotEncoder, OrdinalEncoder):
        for indicator in (False, True):
            encoder = kind(indicator=indicator).fit(frame)
            assert len(last_layer.column_titles(encoder)) == len(encoder.columns_out)
    titles = last_layer.column_titles(OneHotEncoder().fit(frame[["age", "site"]]))
    assert titles == ["age: 20 to 60", "site: arm", "site: leg"]


def test_a_record_without_weight_has_no_importance(runtime: Runtime, request_tiny: Any):
    store = Store(runtime.store)
    outcome = finished(runtime, request_tiny, fusions=("concat",), folds=(0,))["concat", 0]
    tested = explain._tested(store, outcome, runtime)
    model: Any = tested.trained.model
    with torch.no_grad():
        model.head.output.weight[:, -2:] = 0  # of the site's two columns
    _, found = explain.importance(tested)
    assert tuple(found["site"][:3]) == (0, 0, 0)
    assert found["age"].value != 0
    assert found["age"][:3] == pytest.approx(found["the whole record"][:3], abs=0.2)


def test_what_shuffling_costs_grades_is_told_in_their_own_metric(
    runtime: Runtime, request_tiny: Any, tmp_path: Path
):
    graded = tmp_path / "graded.yaml"
    text = (ROOT / "benchmark" / "protocols" / "demo.yaml").read_text()
    graded.write_text(text.replace("headline: auroc", "headline: quadratic_kappa"))
    how = {"fusions": ("concat",), "folds": (0,), "protocols": (str(graded),)}
    outcome = finished(runtime, request_tiny, **how)["concat", 0]
    _, found = explain.importance(explain._tested(Store(runtime.store), outcome, runtime))
    assert np.isfinite(found["the image"].value)


@pytest.mark.parametrize(
    ("head", "options"),
    [("chosen", {}), ("trained", {}), ("chosen", {"modality_dropout": 0.2})],
    ids=["solved", "trained", "trained on standardised features"],
)
def test_weights_are_in_the_units_of_what_the_head_reads(
    runtime: Runtime, request_tiny: Any, head: str, options: dict[str, float]
):
    how = {"fusions": ("concat",), "folds": (0,), "options": options, "recipe": {"head": head}}
    outcome = finished(runtime, request_tiny, **how)["concat", 0]
    store = Store(runtime.store)
    tested = explain._tested(store, outcome, runtime)
    trained, layer = tested.trained, last_layer.read(store, outcome)
    features = trained.features(
        trained.inputs(np.asarray(tested.prepared.images[tested.rows]), None)
    )
    frame = tested.prepared.frame(trained.spec.columns, tested.rows)
    assert trained.encoder is not None
    encoded = trained.encoder.transform(frame).to_numpy(float)
    said = features.numpy() @ layer.image[0] + encoded @ layer.record[0]
    answers = trained.decide(features, torch.from_numpy(tested.record))
    odds = np.log(answers[:, 1] / answers[:, 0])
    assert odds.std() > 0.01
    assert np.ptp(odds - said) < 1e-3 * np.ptp(odds)  # a constant is all that is left


def test_the_records_weights_stand_beside_each_network(
    runtime: Runtime, request_tiny: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(explain, "SHUFFLES", 1)
    store, how = Store(runtime.store), {"fusions": ("concat",), "folds": (0,)}
    frozen = finished(runtime, request_tiny, **how)["concat", 0]
    with pytest.raises(BenchError, match="one network only"):
        last_layer.across(store, frozen, record_gain.shown_of(store, frozen))
    tuned = finished(runtime, request_tiny, modes=("finetune",), **how)["concat", 0]
    finished(runtime, request_tiny, **how, columns=("age",))  # another arm
    part = {**how, "modes": ("tuned",), "train_sizes": ("50%",)}
    finished(runtime, request_tiny, **part, missing=("0.5",))  # another training part
    finished(runtime, request_tiny, **how, missing=("0.5",))
    less = {str(o.spec.base): o for o in store.outcomes() if getattr(o.spec, "missing", "")}
    again = less[frozen.key]
    with pytest.raises(BenchError, match=f"Name that one: {frozen.key}"):
        last_layer.read(store, again)
    found = explain.explain(store, tuned.key, runtime, images=2, figures=True)
    assert {path.suffix for path in found.files if path.stem == "record_weights"} == {
        ".png",
        ".svg",
    }
    folder = store.folder("run", tuned.key) / "explain"
    told = json.loads((folder / "explain.json").read_text())["record_weights"]["low over high"]
    assert list(told) == ["random features · frozen", "scratch · finetune"]
    for outcome, row in zip((frozen, tuned), told.values(), strict=True):
        layer = last_layer.read(store, outcome)
        assert row == pytest.approx(dict(zip(layer.columns, layer.record[0], strict=True)))
    assert told["random features · frozen"] != told["scratch · finetune"]


def test_of_many_classes_the_likeliest_and_the_most_frequent_are_shown():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0, 0.2, (50, 71))
    labels = np.zeros((50, 71), np.uint8)
    labels[0] = 1
    scores[:, [3, 70, 8, 20]] += 0.5
    labels[:40, [5, 8]] = 1
    labels[:20, 41] = 1
    labels[:, 20], labels[:, 21] = 0, 1  # that none and all have
    found = record_gain.foremost(labels, scores, 6)
    assert len(found) == 6 and found == sorted(found)
    assert {3, 70, 8, 5, 41} <= {*found} and not {20, 21} & {*found}
    assert record_gain.foremost(np.arange(71), np.eye(71), 71) == list(range(71))
    assert [pictures.few("abcde"[:n]) for n in (0, 1, 3, 5)] == [
        "none", "a", "a, b, c", "a, b, c and 2 more",
    ]  # fmt: skip


def test_stars_follow_the_p_value():
    assert [record_gain._star(p) for p in (0.05, 0.06, 0.1, 0.11, float("nan"))] == [
        "**",
        "*",
        "*",
        "",
        "",
    ]
