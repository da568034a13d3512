"""Subgroups as boards and comparisons tell them: worst, gap, differences of two arms."""

import json
from collections.abc import Iterator
from pathlib import Path

import boards
import numpy as np
import pytest

from benchmark import metrics, stats
from benchmark.metadata.subgroups import DRAWS
from benchmark.spec import Cell
from benchmark.store import Store
from benchmark.train.context import bootstrap_seed
from reports import compare
from reports.leaderboard import subgroups, table
from reports.page import write

FOLDS = 2


def judged(store: Store, arm: str, skill: tuple[float, float], fold: int) -> None:
    """A cell whose network is of different skill for women and for men; three patients have no
    sex."""
    one, other = (boards.predictions("isic", s, fold, arm=arm) for s in skill)
    labels, _, groups = one
    sex = np.where(groups % 2, "female", "male")
    sex[:6] = ""
    hospital = np.where(groups < 8, "small", "large")
    scores = np.where((sex == "female")[:, None], one[1], other[1])
    outcome = boards.run(
        store,
        fusion=arm,
        fold=fold,
        folds=FOLDS,
        classes="abc",
        predictions=(labels, scores, groups),
    )
    seed = bootstrap_seed("isic", outcome.spec.split, 0, fold)
    columns = {"sex": sex, "hospital": hospital}
    found = metrics.subgroups(
        labels, scores, groups, columns, draws=boards.DRAWS, seed=seed, minimum=10
    )
    cell = Cell(outcome.key, outcome.spec, outcome.versions)
    draws = [one.draws["auroc"] for part in found.values() for one in part.values()]
    np.save(store.of(cell) / DRAWS, np.array(draws, np.float32))
    facts = {
        "subgroups": {
            c: {v: {"auroc": one.overall["auroc"]} for v, one in part.items()}
            for c, part in found.items()
        },
        "subgroup_sizes": {
            c: {v: len(np.unique(groups[cells == v])) for v in np.unique(cells).tolist()}
            for c, cells in columns.items()
        },
    }
    store.finish(cell, outcome.model_copy(update=facts))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """`none` is as good for both sexes, `concat` better for women alone."""
    made = Store(tmp_path_factory.mktemp("subgroups"))
    with boards.quick():
        made.prepare()
        for fold in range(FOLDS):
            judged(made, "none", (1.0, 1.0), fold)
            judged(made, "concat", (3.5, 1.0), fold)
    yield made


def test_a_row_tells_its_worst_subgroup_and_the_gap(store):
    (made,) = json.loads(table.show(store, format="json"))
    rows = {row["fusion"]: {s["column"]: s for s in row["subgroups"]} for row in made["rows"]}
    sex = rows["concat"]["sex"]
    numbers = {one["name"]: one for one in sex["values"]}
    assert set(numbers) == {"female", "male"}
    assert sex["worst"]["name"] == "male"
    assert sex["worst"]["value"] == numbers["male"]["value"]
    assert sex["gap"]["value"] == pytest.approx(
        numbers["female"]["value"] - numbers["male"]["value"]
    )
    assert 0 < sex["gap"]["low"] < sex["gap"]["value"] < sex["gap"]["high"]
    assert sex["gap"]["n"] == 2
    assert rows["none"]["sex"]["gap"]["low"] == 0, "equal groups cannot be told apart"
    assert sex["not_given"] == 3 * FOLDS


def test_too_few_patients_have_no_number_and_say_so(store):
    (made,) = json.loads(table.show(store, format="json"))
    hospital = next(s for s in made["rows"][0]["subgroups"] if s["column"] == "hospital")
    small = next(one for one in hospital["values"] if one["name"] == "small")
    assert small["value"] is None
    assert small["why"] == "16 in all, in some fold fewer than 10"
    assert hospital["gap"] is None, "one number has no gap"


def test_two_arms_are_compared_value_by_value(store):
    found = compare.compare(store, "concat", "none", subgroups=True)
    (pair,) = found.pairs
    changes = {(c.column, c.value): c for c in pair.subgroups}
    female, male, gap = (changes["sex", name] for name in ("female", "male", subgroups.GAP))
    assert female.compared.difference.low > 0 > male.compared.difference.low
    assert female.holm >= female.compared.p
    assert gap.compared.difference.value == pytest.approx(gap.first.value - gap.second.value)
    assert gap.compared.difference.low > 0
    assert changes["hospital", "small"].compared is None
    text = compare.show(store, "concat", "none", subgroups=True)
    assert "3 differences were looked at" in text
    assert "subgroup" not in compare.show(store, "concat", "none")


def test_the_page_shows_worst_and_gap(store, tmp_path: Path):
    write.write(store, tmp_path)
    page = (tmp_path / "target-isic.html").read_text(encoding="utf-8")
    part = page[page.index('-subgroups"') :]
    assert "<bdi>male</bdi>" in part
    assert "fewer than two values have a number" in part
    assert "16 in all, in some fold fewer than 10" in part


def test_a_damaged_file_of_draws_takes_the_intervals_alone(store, tmp_path: Path):
    import shutil

    copy = Store(Path(shutil.copytree(store.root, tmp_path / "store")))
    for path in copy.root.rglob(DRAWS):
        path.write_bytes(b"")
    runs = table.read(copy, list(copy.keys("run")))
    for one in subgroups.of(copy, runs[:FOLDS]):
        assert one.gap is None


def test_no_two_equal_subgroups_are_told_apart_more_often_than_one_in_twenty():
    rng = np.random.default_rng(0)
    error = np.linspace(1, 1.5, 5)
    apart = worst = 0
    for _ in range(200):
        values = error * rng.normal(size=5)
        found = stats.extremes(values, values[:, None] + error[:, None] * rng.normal(size=(5, 300)))
        apart += found.spread_bounds[0] > 0
        worst += found.bounds[0] <= 0 <= found.bounds[1]
    assert apart <= 200 * 0.09  # 5 % and what 200 boards leave to chance
    assert worst >= 200 * 0.92
