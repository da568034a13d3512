"""Scratch is a network trained on the target; frozen features of none are called random."""

import json
import math
import re
from pathlib import Path

import pytest
from boards import run, shared_draws

from benchmark.errors import BenchError
from benchmark.spec import Recipe
from benchmark.store import Store
from reports import compare, transfer
from reports.leaderboard import table as leaderboard
from reports.leaderboard.gains import gather
from reports.page import write
from reports.recommend import advice as recommendations

LEVELS = {("none", "frozen"): 0.6, ("dtd", "frozen"): 0.72, ("none", "finetune"): 0.8}


def filled(root: Path, levels: dict[tuple[str, str], float] = LEVELS) -> Store:
    store = Store(root)
    store.prepare()
    for (source, mode), value in levels.items():
        draws = value + shared_draws("isic", 0, 0)
        run(store, source=source, folds=1, value=value, draws=draws, spec={"mode": mode})
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return filled(tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Store:
    levels = {place: value for place, value in LEVELS.items() if place[1] == "frozen"}
    return filled(tmp_path_factory.mktemp("frozen"), levels)


def test_a_frozen_row_without_weights_is_of_random_features(store: Store):
    (made,) = leaderboard.boards(store)
    names = {(row.identity.mode, row.identity.source): row.name for row in made.rows}
    assert names == {
        ("frozen", "none"): "random features",
        ("frozen", "dtd"): "dtd",
        ("finetune", "none"): "scratch",
    }
    gains = {row.name: row.gains for row in made.rows}
    assert set(gains["dtd"]) == {"random features"}
    assert gains["dtd"]["random features"].difference.value == pytest.approx(0.12)
    (told,) = json.loads(leaderboard.show(store, format="json"))
    assert {row["origin"] for row in told["rows"]} == {"random features", "dtd", "scratch"}


def test_the_gain_of_a_frozen_row_is_over_the_network_trained_on_the_target(store: Store):
    for modes in ((), ("frozen",)):
        table = transfer.show(store, modes=modes, format="json")
        (found,) = (part for part in json.loads(table) if part["mode"] == "frozen")
        (pair,) = found["pairs"]
        assert pair["source"] == "dtd"
        assert pair["gain"]["value"] == pytest.approx(100 * (0.72 / 0.8 - 1))


def test_without_such_a_network_there_is_no_gain_and_the_reader_is_told(frozen: Store):
    with pytest.raises(BenchError, match="--source none --mode finetune"):
        transfer.show(frozen)
    groups = gather(leaderboard.boards(frozen), "none", "scratch")
    assert [group.pairs for group in groups.values()] == [[]]
    (table,) = json.loads(transfer.show(frozen, baseline="random", format="json"))
    assert table["pairs"][0]["gain"]["value"] == pytest.approx(100 * (0.72 / 0.6 - 1))


def test_scratch_is_the_baseline_although_it_was_trained_on_its_own_schedule(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    rows = (("dtd", 30, 1e-4, 0.7), ("none", 60, 1e-3, 0.6), ("dtd", 90, 1e-4, 0.5),
            ("none", 90, 1e-3, 0.55))  # fmt: skip
    for source, epochs, lr, value in rows:
        recipe, draws = Recipe(epochs=epochs, lr=lr), value + shared_draws("isic", 0, 0)
        run(store, source=source, folds=1, value=value, draws=draws, spec={"recipe": recipe})
    (made,) = leaderboard.boards(store)
    names = {row.name for row in made.rows}
    assert names == {"dtd", "scratch", "dtd, epochs 90", "scratch, epochs 90"}
    gains = {row.name: row.gains for row in made.rows}
    assert gains["dtd"]["scratch"].difference.value == pytest.approx(0.1)
    assert gains["dtd, epochs 90"]["scratch"].difference.value == pytest.approx(-0.05)
    usual, short = compare.compare(store, "dtd", "none").pairs
    assert usual.compared.difference.value == pytest.approx(0.1)
    assert short.compared.difference.value == pytest.approx(-0.05)
    write.write(store, tmp_path / "page")
    text = (tmp_path / "page" / "target-isic.html").read_text()
    assert "Recipe of mode <bdi>finetune, scratch</bdi>" in text


def test_a_page_of_frozen_rows_does_not_speak_of_scratch(frozen: Store, tmp_path: Path):
    texts = [path.read_text() for path in write.write(frozen, tmp_path).parent.glob("*.html")]
    assert len(texts) == 2
    for text in texts:
        assert "random features" in text
        assert not re.search("scratch", text, re.IGNORECASE)
    shown = (
        leaderboard.show(frozen),
        recommendations.text(recommendations.advise(frozen, "isic", {})),
        compare.show(frozen, "dtd", "none"),
    )
    assert [("random features" in text, "scratch" in text) for text in shown] == [(True, False)] * 3


def test_the_page_of_both_draws_its_dashed_line_at_scratch(store: Store, tmp_path: Path):
    write.write(store, tmp_path)
    text = (tmp_path / "target-isic.html").read_text()
    rows = re.findall(r"<tr>\s*<td data-v.*?</tr>", text, re.DOTALL)
    assert len(rows) == 3
    frozen = [row for row in rows if "frozen" in row]
    assert len(frozen) == 2
    assert not [row for row in frozen if "scratch" in row.lower()]
    assert "The dashed line is training from scratch" in text
    assert math.isclose(leaderboard.boards(store)[0].rows[0].headline.value, 0.8)  # pyright: ignore[reportOptionalMemberAccess]
