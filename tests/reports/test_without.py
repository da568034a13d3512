"""Rows of tests that lack some records: beside the whole row, without a rank; their curve."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from boards import quick, run

from benchmark.store import Store
from reports import compare
from reports.leaderboard import missing, table
from reports.page import write

SCORES = {"": 0.9, "0.25": 0.86, "0.5": 0.82, "age": 0.85}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    made = Store(tmp_path_factory.mktemp("without"))
    with quick():
        made.prepare()
        for fold in range(2):
            run(made, fold=fold, folds=2, value=0.8)
            whole = run(made, fusion="concat", fold=fold, folds=2, value=SCORES[""])
            for gone, value in list(SCORES.items())[1:]:
                less = {"missing": gone, "base": whole.key}
                run(made, fusion="concat", fold=fold, folds=2, value=value, spec=less)
    yield made


def test_rows_without_records_have_no_rank_and_are_paired_with_the_whole(store):
    (made,) = table.boards(store)
    rows = {row.identity.missing: row for row in made.rows if row.identity.fusion == "concat"}
    assert set(rows) == set(SCORES)
    half = rows["0.5"]
    assert half.name == "dtd + concat, half of the records missing"
    assert half.rank is None
    assert half.why == ("records are missing from its test",)
    # One training: its noise is in both, and not in their difference.
    assert half.gains["whole"].difference[:3] == pytest.approx((-0.08, -0.08, -0.08))
    assert half.gains["fusion"].difference.value == pytest.approx(0.82 - 0.8)
    assert "whole" not in rows[""].gains
    assert {row.rank for row in made.rows} == {1, 2, None}


def test_csv_and_json_tell_the_share(store):
    rows = list(csv.DictReader(io.StringIO(table.show(store, format="csv"))))
    assert {row["missing"] for row in rows} == set(SCORES)
    half = next(row for row in rows if row["missing"] == "0.5")
    assert float(half["gain_whole_value"]) == pytest.approx(-0.08)
    (made,) = json.loads(table.show(store, format="json"))
    assert {row["missing"] for row in made["rows"]} == set(SCORES)


def test_the_curve_has_a_line_an_arm_and_the_image_alone_as_its_level(store, tmp_path: Path):
    (made,) = table.boards(store)
    (arm, shares, scores), (image, ends, level) = missing.lines(made)
    assert (arm, image) == ("dtd + concat", "dtd, image alone")
    assert (shares, ends) == ([0.0, 0.25, 0.5], [0.0, 0.5])
    assert [score.value for score in scores] == pytest.approx([0.9, 0.86, 0.82])
    assert level == pytest.approx([0.8, 0.8])
    write.write(store, tmp_path)
    page = (tmp_path / "target-isic.html").read_text(encoding="utf-8")
    assert "Records missing in the test" in page


def test_a_comparison_is_of_whole_arms(store):
    (pair,) = compare.compare(store, "concat", "none").pairs
    assert pair.compared.difference.value == pytest.approx(0.1)
