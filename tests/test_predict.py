"""A finished run predicts for new images what its own test had, and says what it cannot use."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stores import run_all
from typer.testing import CliRunner

from benchmark import registry
from benchmark.cli import app
from benchmark.data import prepare
from benchmark.errors import BenchError, Damaged
from benchmark.explain import predict
from benchmark.spec import Runtime
from benchmark.store import Store


def finished(runtime: Runtime, request_tiny: Any, **changes: Any) -> predict.Trained:
    """The last cell asked for, run with all it rests on."""
    outcome, store = run_all(request_tiny(folds=(0,), **changes), runtime)[-1], Store(runtime.store)
    return predict.load(store, predict.find(store, outcome.key[:10]), runtime)


def written(runtime: Runtime, trained: predict.Trained, folder: Path) -> list[dict[str, str]]:
    """The run's test images as PNG, the whole record as a table; its rows in the test's order."""
    from benchmark.train.finetune import parts_of

    prepared = prepare.prepare("tiny", 32, runtime)
    test = parts_of(trained.work, prepared, trained.spec).test
    folder.mkdir()
    rows = []
    tiny = registry.load("source", "tiny", path=runtime.paths["tiny"])
    for i, record in enumerate(tiny.records(folder)):
        assert prepared.names[i] == record.name
        if i in test:
            Image.fromarray(record.image).save(folder / f"{record.name}.png")
        rows.append({"age": record.metadata["age"], "file": record.name, **record.metadata})
    table(folder.parent / "new.csv", rows)
    return [rows[i] for i in test]


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        out = csv.DictWriter(file, rows[0])
        out.writeheader()
        out.writerows(rows)
    return path


ARMS = [
    {"fusions": ("none",)},
    {"fusions": ("concat",)},
    {"fusions": ("concat",), "modes": ("finetune",), "recipe": {"epochs": 1}},
    {"fusions": ("metablock",), "recipe": {"constancy": True, "crop": 28, "head": "chosen"}},
    {"fusions": ("concat",), "recipe": {"head": "chosen"}},
]


@pytest.mark.parametrize("changes", ARMS, ids=str)
def test_the_test_images_get_their_stored_probabilities(
    runtime: Runtime, request_tiny: Any, tmp_path: Path, changes: dict[str, Any]
):
    trained = finished(runtime, request_tiny, **changes)
    rows = written(runtime, trained, tmp_path / "new")
    metadata = tmp_path / "new.csv" if changes["fusions"] != ("none",) else None
    found = predict.predict(trained, tmp_path / "new", metadata=metadata)
    assert found.classes == ("high", "low")
    stored = Store(runtime.store).predictions(trained.outcome.key)["scores"]
    place = {name.removesuffix(".png"): i for i, name in enumerate(found.images)}
    order = [place[row["file"]] for row in rows]
    assert np.abs(found.scores[order] - stored).max() < 1e-5
    assert np.ptp(stored[:, 0]) > 1e-3  # not one answer for all
    text = io.StringIO()
    found.write(text)
    lines = list(csv.DictReader(text.getvalue().splitlines()))
    assert list(lines[0]) == ["image", "high", "low", "predicted"]
    assert float(lines[0]["high"]) == pytest.approx(found.scores[0, 0], abs=1e-6)
    assert all(r["predicted"] == max(("high", "low"), key=lambda c: float(r[c])) for r in lines)


def test_a_table_is_matched_and_judged(runtime: Runtime, request_tiny: Any, tmp_path: Path):
    trained = finished(runtime, request_tiny, fusions=("concat",))
    folder = tmp_path / "new"
    rows = written(runtime, trained, folder)

    def ask(rows: list[dict[str, str]] | None, column: str = "") -> predict.Prediction:
        path = None if rows is None else table(tmp_path / "other.csv", rows)
        return predict.predict(trained, folder, metadata=path, column=column)

    usual = ask(rows)
    assert usual.warnings == ()
    spelt = [{**row, "file": f"./{row['file']}.png"} for row in reversed(rows)]
    assert np.array_equal(ask(spelt).scores, usual.scores)
    strange = ask([{**row, "site": "wing"} for row in rows])
    assert any(f"site ({len(rows)})" in text for text in strange.warnings)
    assert not np.array_equal(strange.scores, usual.scores)
    more = ask([*rows, {**rows[0], "file": "another"}])
    assert any("1 rows" in text for text in more.warnings)
    for wrong, said in (
        (None, "reads the record"),
        ([{k: v for k, v in row.items() if k != "site"} for row in rows], "no column 'site'"),
        (rows[1:], "have no row"),
        ([*rows, rows[0]], "a second time"),
    ):
        with pytest.raises(BenchError, match=said):
            ask(wrong)
    with pytest.raises(BenchError, match="no column 'name'"):
        ask(rows, "name")


@pytest.mark.parametrize("name", ["encoder.json", "record.json", "weights.safetensors"])
def test_a_damaged_file_of_a_run_answers_for_no_image(
    runtime: Runtime, request_tiny: Any, name: str
):
    trained = finished(runtime, request_tiny, fusions=("concat",))
    path = trained.work.folder / name
    path.write_bytes(path.read_bytes()[:-9] + b"\xb5" * 9)
    for _ in range(2):  # changed, then gone
        with pytest.raises(Damaged, match="store verify --mend"):
            predict.load(trained.work.store, trained.outcome, runtime)
        path.unlink(missing_ok=True)


def test_the_command_writes_a_table(runtime: Runtime, request_tiny: Any, tmp_path: Path):
    trained = finished(runtime, request_tiny, fusions=("concat",))
    rows = written(runtime, trained, tmp_path / "new")
    table(tmp_path / "new.csv", [{**row, "site": "wing"} for row in rows])
    words = ["predict", trained.outcome.key[:8], str(tmp_path / "new"), "--device", "cpu"]
    words += ["--metadata", str(tmp_path / "new.csv"), "--store", str(runtime.store)]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0
    assert found.stdout.startswith("image,high,low,predicted\n")
    assert len(found.stdout.splitlines()) == 1 + len(rows)
    assert "Note: Metadata values not seen in training" in found.stderr
    again = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out.csv")])
    assert again.stdout == ""
    assert (tmp_path / "out.csv").read_text() == found.stdout


def test_what_cannot_be_predicted_is_said(runtime: Runtime, request_tiny: Any, tmp_path: Path):
    store = Store(runtime.store)
    with pytest.raises(BenchError, match="keeps no model"):
        finished(runtime, request_tiny, fusions=("metadata:logistic",))
    trained = finished(runtime, request_tiny, fusions=("none",))
    with pytest.raises(BenchError, match="no run"):
        predict.find(store, "xyz")
    with pytest.raises(BenchError, match="no folder"):
        predict.predict(trained, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="no images"):
        predict.predict(trained, tmp_path / "empty")
    (tmp_path / "empty" / "bad.png").write_text("no image")
    with pytest.raises(BenchError, match=r"bad\.png"):
        predict.predict(trained, tmp_path / "empty")
    bare = runtime.model_copy(update={"keep": False})
    with pytest.raises(BenchError, match="did not keep its network"):
        finished(bare, request_tiny, fusions=("none",), seeds=(1,))
