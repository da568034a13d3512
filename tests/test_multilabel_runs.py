"""Runs on a target whose images have several labels: every arm, every reader of what it gave."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk
from stores import run_all

from benchmark import trust
from benchmark.data import prepare, split
from benchmark.explain import explain, predict, record_gain
from benchmark.plan.request import Request
from benchmark.spec import Outcome, RunSpec, Runtime
from benchmark.store import Store
from benchmark.train import finetune
from reports import compare
from reports.leaderboard import table
from reports.mlflow import entry
from reports.page import write

SEVERAL = Path(__file__).parent / "components" / "several.py"
ARMS = ("none", "concat", "metanet", "late:mean", "metadata:logistic")
Found = dict[tuple[str, str, str], Outcome]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime(
        store=tmp_path_factory.mktemp("several"), device="cpu", workers=1, offline=True, draws=100,
        paths={"several": SEVERAL},
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(runtime: Runtime) -> Found:
    """One fold of every arm, fine-tuned ones too, by arm, mode and what is missing."""
    recipe = {"threads": 1, "epochs": 2, "size": 32}
    asked = [
        Request(
            targets=("several",), archs=("test_resnet",), protocols=("demo",), folds=(0,),
            modes=(mode,), fusions=arms, missing=missing, options=options, recipe=recipe,
        )
        for mode, arms, missing, options in (
            ("frozen", ARMS, ("0.5",), {}), ("finetune", ("none", "concat"), (), {}),
            ("frozen", ("late:product",), (), {"record": "logistic"}),
        )
    ]  # fmt: skip
    done = [outcome for one in asked for outcome in run_all(one, runtime)]
    return {
        (o.spec.fusion, o.spec.mode, o.spec.missing): o for o in done if isinstance(o.spec, RunSpec)
    }


WHOLE = [
    *((arm, "frozen") for arm in (*ARMS, "late:product")),
    ("none", "finetune"),
    ("concat", "finetune"),
]


@pytest.mark.parametrize(("arm", "mode"), WHOLE)
def test_every_arm_gives_each_label_a_number_with_its_interval(found, runtime, arm, mode):
    outcome = found[arm, mode, ""]
    kept = Store(runtime.store).predictions(outcome.key)
    labels, scores = kept["labels"], kept["scores"].astype(float)
    assert outcome.multilabel and outcome.classes == ("north", "east", "south", "rare")
    assert labels.shape == scores.shape == (outcome.data["test"], 4)
    assert set(np.unique(labels)) == {0, 1} and not np.allclose(scores.sum(1), 1, atol=0.01)
    known = labels.any(0) & ~labels.all(0)
    each = [sk.roc_auc_score(labels[:, k], scores[:, k]) for k in np.flatnonzero(known)]
    value, low, high, n = outcome.metrics["auroc"]
    assert value == pytest.approx(np.mean(each), abs=0.01)  # kept scores have fewer digits
    assert low < value < high or value in (low, high)
    assert n == len(labels)
    exact = ((scores >= 0.5) == labels).all(1).mean()
    assert outcome.metrics["accuracy"].value == pytest.approx(exact, abs=1.5 / n)
    told = {name for row in outcome.per_class for name in row}
    assert {"auroc", "recall", "auprc", "f1", "precision", "specificity"} == told


def test_the_record_helps_with_the_label_that_it_tells_of(found):
    rare = {arm: found[arm, "frozen", ""].per_class[3]["auroc"].value for arm in ARMS}
    assert rare["metadata:logistic"] > 0.6


def test_half_of_the_records_missing_is_asked_of_what_was_kept(found, runtime):
    store = Store(runtime.store)
    for arm in ARMS[1:]:
        whole, less = (store.predictions(found[arm, "frozen", gone].key) for gone in ("", "0.5"))
        changed = ~np.isclose(whole["scores"], less["scores"], atol=1e-5).all(axis=1)
        assert 0 < changed.sum() < len(changed), arm
        assert np.array_equal(whole["labels"], less["labels"])


def test_late_fusion_meets_the_image_label_by_label(found, runtime):
    store = Store(runtime.store)
    image, record, late = (
        store.predictions(found[arm, "frozen", ""].key)["scores"].astype(float)
        for arm in ("none", "metadata:logistic", "late:product")
    )
    odds = image / (1 - image) * record / (1 - record)
    np.testing.assert_allclose(late, odds / (1 + odds), atol=1e-4)
    assert "by validation AUROC" in found["late:mean", "frozen", ""].chosen


def test_a_second_set_is_tested_with_its_labels_in_the_first_ones_order(found, runtime, tmp_path):
    (tmp_path / "turned.py").write_text(
        SEVERAL.read_text().replace("labels=LABELS", "labels=LABELS[::-1]")
    )
    here = runtime.model_copy(update={"paths": {**runtime.paths, "turned": tmp_path / "turned.py"}})
    request = Request(
        targets=("several",), archs=("test_resnet",), protocols=("demo",), folds=(0,),
        modes=("frozen",), fusions=("concat", "late:mean"), test_ons=("turned",),
        recipe={"threads": 1, "epochs": 2, "size": 32},
    )  # fmt: skip
    store, done = Store(runtime.store), run_all(request, here)
    assert len(done) == 2
    for outcome in done:
        first = found[outcome.spec.fusion, "frozen", ""]
        prepared = prepare.prepare("several", 32, here)
        told, known = store.predictions(outcome.key), store.predictions(first.key)
        spec = first.spec
        test = split.split(prepared, spec.split, fold=0).test
        assert outcome.classes == first.classes and len(told["labels"]) == 96
        assert np.array_equal(told["labels"][test], known["labels"])
        np.testing.assert_allclose(told["scores"][test], known["scores"], atol=1e-4)


def test_pretraining_on_several_labels_tells_how_well_it_went(runtime):
    request = Request(
        targets=("several",), sources=("several",), archs=("test_resnet",), protocols=("demo",),
        folds=(0,), fusions=("none",), recipe={"threads": 1, "epochs": 1, "size": 32},
    )  # fmt: skip
    made = next(o for o in run_all(request, runtime) if o.spec.kind == "pretrain")
    assert made.multilabel and 0 < made.metrics["test_auroc"].value < 1


# --- readers ----------------------------------------------------------------------------------


def test_a_bundle_is_checked_by_its_labels(found, runtime, tmp_path):
    outcome = found["concat", "frozen", ""]
    arrays = Store(runtime.store).predictions(outcome.key)
    trust.check_predictions(outcome, arrays)
    turned = {**arrays, "labels": 1 - arrays["labels"]}
    with pytest.raises(trust.Unusable, match="auroc"):
        trust.check_predictions(outcome, turned)
    single = outcome.model_copy(update={"data": {**outcome.data, "multilabel": False}})
    with pytest.raises(trust.Unusable, match="several"):
        trust.check_predictions(single, arrays)


def test_predict_names_every_label_that_is_likelier_than_not(found, runtime, tmp_path):
    outcome = found["none", "frozen", ""]
    trained = predict.load(Store(runtime.store), outcome, runtime)
    prepared = prepare.prepare("several", 32, runtime)
    test = finetune.parts_of(trained.work, prepared, trained.spec).test
    for row in test:
        Image.fromarray(np.asarray(prepared.images[row])).save(tmp_path / f"{row:03}.png")
    said = predict.predict(trained, tmp_path)
    kept = Store(runtime.store).predictions(outcome.key)["scores"]
    np.testing.assert_allclose(said.scores[np.argsort(np.argsort(test))], kept, atol=1e-3)
    text = io.StringIO()
    said.write(text)
    rows = list(csv.DictReader(io.StringIO(text.getvalue())))
    likely = [[n for n in outcome.classes if float(row[n]) >= 0.5] for row in rows]
    assert [row["predicted"].split(";") if row["predicted"] else [] for row in rows] == likely
    assert len({len(names) for names in likely}) > 1, "some have none or several"


def test_explain_draws_what_it_can_and_some_of_many_labels(found, runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(explain, "SHUFFLES", 1)
    monkeypatch.setattr(record_gain, "MOST", 2)
    store, outcome = Store(runtime.store), found["concat", "frozen", ""]
    how = {"out": tmp_path, "images": 1, "figures": True}
    made = explain.explain(store, outcome.key, runtime, **how)
    names = {path.stem for path in made.files}
    by_label = {"weights", "image_weights", "record_weights", "classes"}
    assert names == {"maps", "importance", "gains", *by_label}
    for name in by_label:
        text = (tmp_path / f"{name}.svg").read_text()
        assert "2 of 4 classes: those that the run gives most probability" in text, name
        assert sum(f"{label} -->" in text for label in outcome.classes) == 2, name
    numbers = json.loads((tmp_path / "explain.json").read_text())
    assert set(numbers["weights"]) == {f"for {name}" for name in ("north", "east", "south", "rare")}
    assert len(numbers["classes"]["delong"]) == 4
    apart = [found[arm, "frozen", ""].metrics["auroc"].value for arm in ("concat", "none")]
    gain = numbers["gains"]["AUROC"]["value"]
    assert gain == pytest.approx(apart[0] - apart[1], abs=0.01)


def test_the_board_and_a_comparison_go_label_by_label(found, runtime):
    store = Store(runtime.store)
    boards = json.loads(table.show(store, format="json", targets=("several",)))
    assert "each is a yes or no" in table.show(store, targets=("several",))
    rows = {(r["fusion"], r["mode"], r["missing"]): r for r in boards[0]["rows"]}
    outcome = found["concat", "frozen", ""]
    row = rows["concat", "frozen", ""]
    assert row["classes"] == list(outcome.classes)
    assert row["per_class"][0]["auroc"]["value"] == outcome.per_class[0]["auroc"].value
    pairs = compare.compare(store, "concat", "none", targets=["several"]).pairs
    pair = next(one for one in pairs if "frozen" in one.shared)
    assert [one.name for one in pair.classes] == list(outcome.classes)
    plain = found["none", "frozen", ""]
    apart = [
        a["auroc"].value - b["auroc"].value
        for a, b in zip(outcome.per_class, plain.per_class, strict=True)
    ]
    assert [one.difference.value for one in pair.classes] == pytest.approx(apart, abs=0.01)


def test_the_page_has_curves_of_the_labels(found, runtime, tmp_path):
    write.write(Store(runtime.store), tmp_path)
    page = next(tmp_path.glob("target-several*.html")).read_text()
    assert "probability of a label" in page and "Mean over labels." in page
    assert page.count("south") > 1 and "each is a yes or no" in page


def test_mlflow_has_curves_and_no_confusion_of_labels(found, runtime):
    made = entry.of_cell(Store(runtime.store), found["none", "frozen", ""])
    assert "roc.svg" in made.texts and "confusion.svg" not in made.texts
    names = {name for name, *_ in made.metrics}
    assert {"class/rare/auroc", "class/rare/auroc_low", "auroc", "auroc_high"} <= names


@pytest.mark.real
def test_ptbxl_with_all_its_records(real_data, runtime):
    """Every arm asked for gives numbers with intervals on the real records, none left out."""
    here = runtime.model_copy(update={"data": real_data})
    done = []
    for mode, arms in (("frozen", ("none", "concat")), ("finetune", ("none",))):
        request = Request(
            targets=("ptbxl:super",), archs=("test_resnet",), protocols=("demo",), folds=(0,),
            modes=(mode,), fusions=arms, recipe={"threads": 1, "epochs": 1, "size": 32},
        )  # fmt: skip
        done += run_all(request, here)
    assert len(done) == 3
    for outcome in done:
        assert outcome.classes == ("NORM", "MI", "CD", "HYP", "STTC") and outcome.multilabel
        parts = [outcome.data[part] for part in ("train", "val", "test")]
        assert sum(parts) == 250
        value, low, high, n = outcome.metrics["auroc"]
        assert 0 < low < value < high < 1 and n == outcome.data["test"]
        assert len([row["auroc"] for row in outcome.per_class if row["auroc"].low > 0]) >= 4
