"""What folds, classes and stages of a row differ by: in tables, JSON, pages, MLflow and tests."""

import csv
import io
import json
from pathlib import Path

import boards
import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmark import metrics, protocols
from benchmark.store import Store
from reports import compare
from reports.leaderboard import table as leaderboard
from reports.mlflow import entry as entries
from reports.page import write
from reports.replay.table import replay

FOLDS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("spread"))
    made.prepare()
    for fold in range(FOLDS):
        for fusion, skill in (("none", 1.0), ("concat", 1.6)):
            part = boards.predictions("isic", skill, fold, arm=fusion)
            # The first cell extracts what all cells share.
            spent = 40.0 if (fusion, fold) == ("none", 0) else 0.1
            seconds = {"features": spent, "train": 2.0 + fold, "total": 50.0}
            boards.run(made, fusion=fusion, fold=fold, predictions=part, seconds=seconds,
                       spec={"mode": "frozen"}, classes=("a", "b", "c"))  # fmt: skip
    return made


def tables_of(store: Store, fusion: str) -> list[metrics.OneVsRest]:
    found = [o for o in store.outcomes() if o.spec.fusion == fusion]  # pyright: ignore[reportAttributeAccessIssue]
    found.sort(key=lambda o: o.spec.fold)  # pyright: ignore[reportAttributeAccessIssue]
    parts = [store.predictions(o.key) for o in found]
    return [metrics.one_vs_rest(p["labels"], p["scores"].astype(float)) for p in parts]


def test_deviations_over_folds_and_classes_stand_in_every_format(store: Store, tmp_path: Path):
    tables = tables_of(store, "concat")
    folds = float(np.std([t["macro"]["auroc"]["mean"] for t in tables], ddof=1))
    classes = float(np.mean([t["macro"]["auroc"]["std"] for t in tables]))
    recalls = float(np.mean([t["macro"]["sensitivity"]["std"] for t in tables]))
    (made,) = json.loads(leaderboard.show(store, format="json"))
    row = next(row for row in made["rows"] if row["fusion"] == "concat")
    assert row["sd_over_folds"]["auroc"] == pytest.approx(folds, abs=1e-6)
    assert row["sd_over_classes"]["auroc"] == pytest.approx(classes, abs=1e-6)
    assert row["sd_over_classes"]["mcr"] == pytest.approx(recalls, abs=1e-6)
    assert {"f1", "mcc", "markedness", "accuracy_ovr"} <= set(row["sd_over_classes"])
    lines = csv.DictReader(io.StringIO(leaderboard.show(store, format="csv")))
    line = next(line for line in lines if line["fusion"] == "concat")
    assert float(line["sd_over_folds"]) == pytest.approx(folds, abs=1e-6)
    assert float(line["sd_over_classes"]) == pytest.approx(classes, abs=1e-6)
    write.write(store, tmp_path)
    for text in (leaderboard.show(store), (tmp_path / "target-isic.html").read_text()):
        assert f"{folds:.3f}" in text
        assert f"{classes:.3f}" in text


def test_mlflow_is_told_of_both(store: Store):
    outcome = store.outcomes()[0]
    told = {name: value for name, value, _ in entries._metrics(outcome)}
    assert told["auroc_sd_classes"] == outcome.over_classes["auroc"]
    cells = [f"run/{key}" for key in store.keys("run")]
    arms = {name: value for name, value, _ in entries.over_folds(store, cells)}
    folds = [t["macro"]["auroc"]["mean"] for t in tables_of(store, "concat")]
    name = "folds/isic dtd concat resnet50 frozen/auroc"
    assert arms[name] == pytest.approx(np.mean(folds), abs=1e-6)
    assert arms[f"{name}_sd"] == pytest.approx(np.std(folds, ddof=1), abs=1e-6)
    assert len(arms) == 4


def test_extraction_is_told_of_every_row_that_used_its_features(store: Store, tmp_path: Path):
    (made,) = json.loads(leaderboard.show(store, format="json"))
    assert len(made["rows"]) == 2
    assert [row["seconds_features"] for row in made["rows"]] == [40.0, 40.0]
    assert [row["seconds_classifier"] for row in made["rows"]] == [9.0, 9.0]
    assert "40.0 s" in leaderboard.show(store)
    write.write(store, tmp_path)
    assert "features 40.0 s" in (tmp_path / "target-isic.html").read_text()


def test_wilcoxon_is_over_the_recalls_of_folds_and_classes(store: Store):
    (pair,) = compare.compare(store, "concat", "none").pairs
    first, second = (
        [rate["sensitivity"] for table in tables_of(store, name) for rate in table["per_class"]]
        for name in ("concat", "none")
    )
    assert len(first) == 9
    expected = np.asarray(scipy_stats.wilcoxon(np.subtract(first, second)))[1]
    assert pair.wilcoxon == pytest.approx(expected)
    assert "p (Wilcoxon)" in compare.show(store, "concat", "none")


def test_the_replay_of_metanet_tests_as_its_table_1_does(tmp_path: Path):
    store, protocol = Store(tmp_path), protocols.load("metanet")
    title = "Table 1: Wilcoxon's p"
    recipe = protocols.recipe_for(protocol, "isic", "finetune", {})
    for fold in range(5):
        for fusion, skill in (("none", 0.8), ("metanet", 1.6)):
            options = {"layers": 2, "modality_dropout": 0.0} if fusion == "metanet" else {}
            columns = ("age", "sex", "localization") if options else ()
            spec = {"protocol": "metanet", "recipe": recipe, "headline": "mcr", "options": options,
                    "split": protocol.split, "columns": columns}  # fmt: skip
            part = boards.predictions("isic", skill, fold, arm=fusion, patients=60, classes=7)
            boards.run(store, source="imagenet", fusion=fusion, fold=fold, spec=spec,
                       predictions=part)  # fmt: skip
    section = next(s for s in replay("metanet", store).sections if s.title.startswith(title))
    assert len(section.rows) == 12
    rows = {row.item: row for row in section.rows}
    over_none, over_concat = (rows[f"ResNet50, metanet over {n}"] for n in ("none", "concat"))
    assert over_none.ours is not None
    assert over_none.ours.n == 35
    assert over_none.ours.value < 0.05
    assert (over_concat.ours, over_concat.note) == (None, "no whole arm concat")
