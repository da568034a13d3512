"""Published numbers made again, stores looked up honestly, and commands that can be run."""

import csv
import io
import json
import math
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import boards
import pytest
from typer.testing import CliRunner

from benchmark import protocols
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.plan.request import Request
from benchmark.spec import Recipe, RecordMap, RunSpec, Runtime
from benchmark.store import Store
from reports.replay import papers
from reports.replay.papers import Row
from reports.replay.table import Replay, replay, show

NAMES = ("cats", "metanet", "thomas", "yang", "medmnist")


def rows_of(found: Replay, title: str) -> dict[str, Row]:
    """The rows of the section whose title begins so."""
    section = next(s for s in found.sections if s.title.startswith(title))
    return {row.item: row for row in section.rows}


def value(row: Row) -> float:
    assert row.ours is not None
    return row.ours.value


# --- what published values determine ------------------------------------------------------------


def test_cats_shows_pearson_beside_what_was_called_spearman():
    rows = rows_of(replay("cats"), "Fig. 4")
    expected = {"Experts": (0.24, 0.23808, 0.2913), "Task2Vec": (-0.11, -0.10884, 0.0135)}
    for name, (paper, pearson, spearman) in expected.items():
        r, rho = rows[f"{name}, Pearson's r"], rows[f"{name}, Spearman's ρ"]
        assert r.paper == rho.paper == paper
        assert value(r) == pytest.approx(pearson, abs=5e-6)
        assert value(rho) == pytest.approx(spearman, abs=5e-5)
        assert r.ours is not None
        assert rho.ours is not None
        assert r.ours.n == rho.ours.n == 24
        assert rho.ours.low < value(rho) < rho.ours.high
        assert r.gate
        assert not rho.gate
    text = show("cats")
    assert "They are Pearson's r over 24 pairs" in text
    assert "24 pairs cannot tell a correlation of +0.29" in text


def test_cats_within_targets():
    rows = rows_of(replay("cats"), "Within")
    found = {item: (round(value(row), 2), row.ours and row.ours.n) for item, row in rows.items()}
    assert found["raw cosine, all 100 subsets"] == (-0.27, 21)
    assert found["raw cosine, the authors' five draws"] == (-0.23, 21)
    assert found["Task2Vec's own cosine, all 100 subsets"] == (0.68, 21)
    assert found["the same without its 1e-8, ten subsets"] == (0.69, 21)


def test_cats_transferability_follows_from_the_folds():
    rows = rows_of(replay("cats"), "Transferability")
    assert len(rows) == 24
    assert all(abs(row.difference or 0) < 1e-9 for row in rows.values())
    assert value(rows["chest → pcam-middle"]) == pytest.approx(-11.141, abs=5e-4)


def test_medmnist_gives_all_99_weighted_taus_to_six_decimals():
    rows = rows_of(replay("medmnist"), "Weighted")
    assert len(rows) == 99
    missing = {item for item, row in rows.items() if row.paper is None}
    assert missing == {"sfda, breastmnist", "sfda, pneumoniamnist"}
    for item, row in rows.items():
        if item in missing:
            assert row.ours is None
        else:
            assert abs(row.difference or 0) <= 5.1e-7, item
    means = rows_of(replay("medmnist"), "Means")
    assert value(means["static baseline"]) == pytest.approx(0.561, abs=5e-4)
    assert means["static baseline"].paper is None
    assert max(value(row) for item, row in means.items() if item != "static baseline") < 0.524


def test_yang_ppv_and_npv_contradict_the_rest_of_tables_2_and_3():
    found = replay("yang")
    first, second, third = (rows_of(found, f"Table {k}") for k in (1, 2, 3))
    # The implied values were computed independently.
    assert value(first["Image Only, PPV"]) == pytest.approx(53.54, abs=0.005)
    assert value(second["Image Only, PPV"]) == pytest.approx(59.67, abs=0.005)
    assert value(second["Full Model, NPV"]) == pytest.approx(76.10, abs=0.005)
    assert value(third["Image Only, NPV"]) == pytest.approx(58.34, abs=0.005)
    assert all(row.gate for row in first.values())
    assert not any(row.gate for table in (second, third) for row in table.values())
    for section in found.sections:
        for row in section.rows:
            inconsistent = not section.title.startswith("Table 1") and row.item[-3:] in "PPV NPV"
            assert row.gate != inconsistent
    assert "the table contradicts itself" in show("yang")


def test_metanet_table_1_is_the_mean_of_table_2_and_its_deviations_are_not_shown():
    found = replay("metanet")
    rows = rows_of(found, "Table 1 from")
    assert [round(value(row), 2) for row in rows.values()] == [85.38, 86.46, 87.64]
    assert all(row.sd is None for row in rows_of(found, "Table 2").values())
    assert all(row.sd is not None for row in rows_of(found, "Table 3").values())
    assert "12 of its 21 stand in Table 1" in show("metanet")


def test_thomas_counts():
    rows = rows_of(replay("thomas"), "Counts")
    assert rows["ISIC, training images"].difference == -10
    assert rows["PTB-XL, records of one superclass"].difference == 0
    assert len(rows_of(replay("thomas"), "AUROC gained by the record, ISIC")) == 32


# --- what has to be trained ---------------------------------------------------------------------


def metanet_cells(store: Store, fusion: str, folds: range, value: float, **changes: Any) -> None:
    """Cells as `bench run --protocol metanet --arch resnet50` would leave them."""
    protocol = protocols.load("metanet")
    recipe = protocols.recipe_for(protocol, "isic", "finetune", changes)
    record = {} if fusion == "none" else {
        "columns": ("age", "sex", "localization"), "record": RecordMap(standardise=False),
        "options": {"layers": 2 if fusion == "metanet" else 0, "modality_dropout": 0.0},
    }  # fmt: skip
    for fold in folds:
        spec = {"protocol": "metanet", "recipe": recipe, "headline": "mcr", "split": protocol.split}
        given = spec | {"options": {}} | record
        boards.run(store, source="imagenet", fusion=fusion, fold=fold, value=value, spec=given)


def test_a_finished_arm_is_shown_and_a_part_of_one_is_not(tmp_path: Path):
    store = Store(tmp_path)
    metanet_cells(store, "none", range(5), 0.8, threads=1)
    metanet_cells(store, "concat", range(5), 0.7, epochs=3)
    metanet_cells(store, "metanet", range(3), 0.9)
    rows = rows_of(replay("metanet", store), "Table 1: ")
    done, other, part = (rows[f"ResNet50, {name}"] for name in ("none", "concat", "metanet"))
    assert value(done) == pytest.approx(80)
    assert done.ours is not None
    assert done.ours.low < 80 < done.ours.high
    assert done.difference == pytest.approx(80 - 82.5)
    assert (done.cells, done.wanted) == ("5/5", None)
    assert (other.ours, other.cells) == (None, "0/5")
    assert "another recipe" in other.note
    assert (part.ours, part.cells) == (None, "3/5")
    assert rows["SENet154, none"].cells == "0/5"
    lines = [line for line in show("metanet", store=store).splitlines() if "resnet50" in line]
    assert len(lines) == 1  # what is done is not asked for again
    assert "--fusion concat --fusion metanet" in lines[0]


def test_image_and_clinical_of_yang_is_concat_with_two_layers(tmp_path: Path):
    assert "gives concat layers 2" in show("yang")
    store, protocol = Store(tmp_path), protocols.load("yang")
    asked = Request(targets=("adni:ad",), fusions=("concat",), protocols=("yang",))
    cell = plan.make(asked, Runtime(store=tmp_path / "planned")).cells[0].cell.spec
    assert isinstance(cell, RunSpec)
    assert cell.options["layers"] == 2
    for fold, layers in product(range(5), (0, 2)):
        spec = cell.model_dump() | {"fold": fold, "options": cell.options | {"layers": layers}}
        boards.run(store, folds=5, source="none", fusion="concat", fold=fold,
                   value=0.5 + layers / 10, spec=spec)  # fmt: skip
    trained = next(s for s in replay("yang", store).sections if s.rows[0].cells)
    row = next(row for row in trained.rows if row.item == "Image+Clinical, ACC")
    assert (row.cells, protocol.fusion["concat"]) == ("5/5", {"layers": 2})
    assert value(row) == pytest.approx(70)


def test_a_recall_is_that_of_its_class(tmp_path: Path):
    store = Store(tmp_path)
    protocol = protocols.load("metanet")
    recipe = protocols.recipe_for(protocol, "isic", "finetune", {})
    for fold in range(5):
        spec = {"protocol": "metanet", "arch": "senet154", "recipe": recipe, "headline": "mcr",
                "split": protocol.split}  # fmt: skip
        boards.run(store, source="imagenet", fold=fold, value=0.6, spec=spec,
                   classes=("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"))  # fmt: skip
    rows = rows_of(replay("metanet", store), "Table 2")
    assert value(rows["DF, none"]) == pytest.approx(60)
    assert rows["DF, metanet"].ours is None


def test_the_gain_by_the_record_needs_the_image_alone(tmp_path: Path):
    store, protocol = Store(tmp_path), protocols.load("thomas")
    recipe = protocols.recipe_for(protocol, "isic", "frozen", {})
    spec = {"protocol": "thomas", "mode": "frozen", "recipe": recipe, "split": protocol.split}
    fused = spec | {"columns": ("age", "sex", "localization"), "record": protocol.record,
                    "options": {"layers": 0, "modality_dropout": 0.0}}  # fmt: skip
    boards.run(store, source="imagenet", fusion="concat", value=0.85, spec=fused)
    row = rows_of(replay("thomas", store), "AUROC gained by the record, ISIC")["resnet50, BN"]
    assert row.ours is None
    assert "image alone" in row.note
    boards.run(store, source="imagenet", value=0.8, spec=spec)
    row = rows_of(replay("thomas", store), "AUROC gained by the record, ISIC")["resnet50, BN"]
    assert value(row) == pytest.approx(5)


def test_a_source_on_itself_counts_if_trained_as_its_card_says(tmp_path: Path):
    from benchmark import registry

    store = Store(tmp_path)
    boards.pretrain(store, "dtd", recipe=Recipe(epochs=1))
    assert rows_of(replay("cats", store), "Table II")["DTD, test accuracy"].cells == "0/1"
    boards.pretrain(store, "dtd", recipe=registry.load("source", "dtd").card.pretrain)
    row = rows_of(replay("cats", store), "Table II")["DTD, test accuracy"]
    assert row.cells == "1/1"
    assert 0.5 < value(row) < 1


@pytest.mark.parametrize("name", NAMES)
def test_every_command_can_be_planned(name: str, tmp_path: Path):
    from benchmark.cli import app

    commands = {
        note.removeprefix("To run: bench ")
        for section in replay(name).sections
        for note in section.notes
        if note.startswith("To run: bench ")
    }
    assert commands
    for command in sorted(commands)[::4]:
        words = [*command.split(), "--dry-run", "--store", str(tmp_path)]
        found = CliRunner().invoke(app, words)
        assert found.exit_code == 0, (command, found.output, found.exception)
        assert "to run" in found.output


# --- a published matrix beside own runs ---------------------------------------------------------

SETS = ("blood", "breast", "derma", "organa", "path", "pneumonia", "retina")


def published() -> dict[tuple[str, str], float]:
    lines = papers.read("medmnist_scores")
    return {(line["source"], line["target"]): float(line["score"] or "nan") for line in lines}


def own_pairs(
    store: Store, sources: tuple[str, ...], targets: tuple[str, ...], sign: int = 1, **spec: Any
) -> None:
    """Runs whose AUCs are in the published order, or (-1) in its reverse."""
    known = published()
    for source, target in product(sources, targets):
        named = source if source == "imagenet" else f"{source}mnist"
        given = {
            "protocol": "official", "arch": "resnet18", "headline": "auroc", "mode": "frozen",
            "split": protocols.load("official").split, "recipe": Recipe(size=28),
        }  # fmt: skip
        value = 0.5 + sign * 0.4 * (known[named, f"{target}mnist"] - 0.5)
        if source != target:
            boards.run(store, source="imagenet" if named == source else f"medmnist:{source}",
                       target=f"medmnist:{target}", value=value, spec=given | spec)  # fmt: skip


def sections_of(store: Store) -> tuple[dict[str, Row], str, Row | None, str]:
    """The pairs with what is said of them; the agreement with what is said of it."""
    found = {section.title: section for section in replay("medmnist", store).sections}
    pairs, same = (
        found["AUC of each pair"],
        found.get("Sources in the same order, target by target"),
    )
    rows = {row.item: row for row in pairs.rows}
    told = "\n".join(pairs.notes), "\n".join(same.notes if same else ())
    return rows, told[0], same and same.rows[0], told[1]


@pytest.mark.parametrize("sign", [1, -1])
def test_own_runs_stand_beside_the_published_auc_of_their_pair(tmp_path: Path, sign: int):
    store = Store(tmp_path)
    own_pairs(store, ("imagenet", *SETS), SETS[:4], sign)
    own_pairs(store, SETS[:3], SETS[:3], mode="finetune")
    own_pairs(store, ("tissue",), SETS[:4], protocol="standard")
    rows, told, rho, of_rho = sections_of(store)
    ours = {item for item, row in rows.items() if row.ours}
    assert len(rows) == 168
    assert len(ours) == 4 + 4 * 6
    assert not any("tissue →" in item or item.startswith("medmnist ") for item in ours)
    row = rows["dermamnist → bloodmnist"]
    assert row.ours is not None
    assert row.paper == published()["dermamnist", "bloodmnist"]
    assert value(row) == pytest.approx(0.5 + sign * 0.4 * (row.paper - 0.5))
    assert row.ours.low < value(row) < row.ours.high
    assert (row.cells, row.wanted) == ("1/1", None)
    assert "resnet18 frozen, 28 × 28, files of 28 px, all training images" in told
    assert "mode frozen, not finetune; size 28, not 224; file 28, not 224" in told
    assert "images all, not 100 × classes" in told
    assert "Not shown: 6 pairs of resnet18 finetune" in told
    assert rho is not None
    assert rho.ours is not None
    assert value(rho) == pytest.approx(sign)
    assert rho.ours.low <= value(rho) <= rho.ours.high
    assert "Over 28 pairs of 8 sources and 4 targets; 128 that could be trained" in of_rho
    commands = [line for line in told.splitlines() if line.startswith("To run")]
    assert len(commands) == 12
    assert all("--mode frozen --set recipe.size=28" in line for line in commands)
    assert "medmnist:derma " not in next(
        line for line in commands if "target medmnist:blood" in line
    )


def test_runs_as_the_study_made_them_are_told_as_such(tmp_path: Path):
    store = Store(tmp_path)
    rows, told, rho, _ = sections_of(store)
    assert rho is None
    assert not any(row.ours for row in rows.values())
    derma = next(line for line in told.splitlines() if "--target medmnist:derma-224" in line)
    assert "--arch resnet18" in derma
    assert "--mode finetune --train-size 700" in derma
    known = published()
    for target, size in (("derma", "700"), ("breast", "200")):
        for source in ("blood", "path"):
            spec = {"protocol": "official", "arch": "resnet18", "train_size": size,
                    "split": protocols.load("official").split}  # fmt: skip
            value = known[f"{source}mnist", f"{target}mnist"]
            boards.run(store, source=f"medmnist:{source}-224", target=f"medmnist:{target}-224",
                       value=value, spec=spec)  # fmt: skip
    rows, told, rho, of_rho = sections_of(store)
    assert rows["bloodmnist → dermamnist"].difference == pytest.approx(0, abs=1e-9)
    assert "Not as in the study" not in told
    assert rho is not None
    assert rho.ours is not None
    assert math.isnan(rho.ours.low)
    assert "Too few sources: 4 pairs" in of_rho
    assert "4 pairs of 2 sources and 2 targets; 152 that" in of_rho
    assert " nan" not in show("medmnist", store=store)


# --- formats and data ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_all_formats_hold_the_same_numbers(name: str):
    found = replay(name)
    rows = [row for section in found.sections for row in section.rows]
    table = list(csv.DictReader(io.StringIO(show(name, "csv"))))
    plain = json.loads(show(name, "json"))
    flat = [row for section in plain["sections"] for row in section["rows"]]
    assert len(table) == len(flat) == len(rows)
    for row, line, item in zip(rows, table, flat, strict=True):
        assert line["item"] == item["item"] == row.item
        assert item["paper"] == row.paper
        assert (line["paper"] or None) == (None if row.paper is None else str(row.paper))
        assert item["ours"] == (row.ours.value if row.ours else None)
        runs = row.wanted is not None and row.wanted["target"] != ""
        assert item["command"].startswith("bench run ") == runs
    for format in ("table", "md"):
        text = show(name, format)
        assert all(section.title in text.replace("\\", "") for section in found.sections)
        assert " nan" not in text


def test_unknown_names_and_formats_are_refused():
    with pytest.raises(BenchError, match="cat'") as caught:
        replay("cat")
    assert caught.value.todo == "Did you mean cats?"
    with pytest.raises(BenchError, match="xml"):
        show("cats", "xml")


def test_the_command_prints_and_imports_no_heavy_library(tmp_path: Path):
    code = (
        "import sys\n"
        "sys.argv = ['bench', 'replay', 'thomas', '--format', 'csv', "
        f"'--store', {str(tmp_path)!r}]\n"
        "from benchmark.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    code = end.code\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'rich', 'timm', 'sklearn'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)), code)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.startswith("section,item,paper"), found.stderr
    assert found.stdout.splitlines()[-1] == "HEAVY [] 0"


def test_what_is_shipped_is_small_cited_and_not_from_memory():
    citations = (papers.FOLDER / "CITATIONS.md").read_text()
    names = ("cats", "cats_correlations", "cats_pairs", "medmnist_scores", "medmnist_tau",
             "metanet", "thomas", "yang")  # fmt: skip
    for path in (papers.FOLDER / f"{name}.csv" for name in names):
        assert path.name in citations
        assert path.stat().st_size < 50_000
        lines = papers.read(path.stem)
        assert lines, path.name
        for line in lines:
            assert line.get("verified", "") in ("", "paper", papers.REPOSITORY, "figure only")
            if "gate" in line:
                assert line["gate"] in ("yes", "no")
                assert math.isfinite(float(line["paper"] or 0))
