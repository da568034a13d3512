"""Two sets of one name are two: on boards, in comparisons and in what is recommended."""

from pathlib import Path

import pytest
from boards import pretrain, run
from PIL import Image
from stores import ok

from benchmark import registry
from benchmark.cli.advise import Question
from benchmark.errors import BenchError
from benchmark.spec import UNREAD, Cell, DistanceSpec, Failure, Input
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import compare, transfer
from reports.leaderboard import best
from reports.leaderboard import table as leaderboard
from reports.page import overview, write
from reports.recommend import matrix

ONE, TWO = "1-aaaaaaaaaaaa-11111111", "1-bbbbbbbbbbbb-11111111"
NAMES = ["folder:images#aaaaaa-111111", "folder:images#bbbbbb-111111"]
OTHERS = ("isic", "oasis1", "chest_xray")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def put(store: Store, version: str, source: str, value: float, **more) -> None:
    versions = {"target": version}
    run(
        store,
        source=source,
        target="folder:images",
        folds=1,
        value=value,
        versions=versions,
        **more,
    )


def both(store: Store) -> None:
    for version, gain in ((ONE, 0.1), (TWO, -0.1)):
        put(store, version, "none", 0.7)
        put(store, version, "dtd", 0.7 + gain)


def test_one_set_goes_by_its_name(store: Store):
    put(store, ONE, "dtd", 0.8)
    assert [made.target for made in leaderboard.boards(store)] == ["folder:images"]


def test_a_broken_set_is_told_until_it_is_mended(store: Store):
    failure = Failure(kind="data_missing", message="a link to nothing")
    put(store, UNREAD, "dtd", 0.0, failure=failure)
    put(store, UNREAD, "none", 0.0, failure=failure)
    put(store, ONE, "dtd", 0.8)
    (made,) = leaderboard.boards(store)
    found = [(row.identity.source, row.identity.target_version) for row in made.rows]
    assert found == [("dtd", ONE), ("none", UNREAD)]


def test_two_sets_of_one_name_have_a_board_each(store: Store, tmp_path: Path):
    both(store)
    found = leaderboard.boards(store, targets=("folder:images",))
    assert [made.target for made in found] == NAMES
    best = [made.rows[0].identity.source for made in found]
    assert best == ["dtd", "none"]
    assert all(not row.why for made in found for row in made.rows)
    assert [made.target for made in leaderboard.boards(store, targets=NAMES[1:])] == NAMES[1:]
    write.write(store, tmp_path / "report")
    assert len(list((tmp_path / "report").glob("target-*.html"))) == 2


def test_a_comparison_takes_them_apart(store: Store):
    both(store)
    found = compare.compare(store, "dtd", "none", targets=("folder:images",))
    gains = {pair.target: round(pair.compared.difference.value, 3) for pair in found.pairs}
    assert gains == dict(zip(NAMES, (0.1, -0.1), strict=True))


def test_the_best_run_of_a_name_of_two_is_refused(store: Store):
    both(store)
    with pytest.raises(BenchError, match="2 sets are named folder:images"):
        best.best_run(store, "folder:images")


def test_a_distance_to_one_set_is_none_to_the_other(store: Store):
    both(store)
    spec = DistanceSpec(source="dtd", target="folder:images", method="otdd", arch="resnet50")
    cell = Cell.of(spec, {"core": "1", "method": "1", "target": ONE})
    store.begin(cell)
    metrics = {"distance": Estimate(1.0, 0.9, 1.1, 50)}
    store.finish(cell, ok(cell, metrics=metrics))
    (found,) = transfer.analyse(store, leaderboard.boards(store))
    assert {pair.target for pair in found.pairs} == {*NAMES}
    assert {*found.measures[0].values} == {("dtd", NAMES[0])}


def folder(root: Path, colour: int) -> Path:
    for i, label in enumerate("ab"):
        (root / label).mkdir(parents=True)
        Image.new("RGB", (8, 8), (colour, i, 0)).save(root / label / f"{i}.png")
    return root


def test_a_recommendation_heeds_only_runs_of_these_images(store: Store, tmp_path: Path):
    eyes, blood = folder(tmp_path / "a" / "images", 10), folder(tmp_path / "b" / "images", 200)
    table = Input(path=eyes, metadata=eyes / "t.csv", label="dx")
    (eyes / "t.csv").write_text("image,dx\n0,x\n1,y\n")
    version = registry.version("target", "folder:images", given=table)
    for target in OTHERS:
        for i, source in enumerate(("imagenet", "dtd", "stl10", "none")):
            run(store, source=source, target=target, folds=1, value=0.9 - 0.03 * i)
    put(store, version, "dtd", 0.777)
    found = Question({"target": str(blood)}).answer(store, tested=False)
    assert found.run == {}
    assert found.target.startswith("folder:images#")
    # Asked again without the table, the images say which set is meant.
    found = Question({"target": str(eyes)}).answer(store, tested=False)
    assert (found.target, found.run) == ("folder:images", {"dtd": 0.777})


def test_a_partition_has_a_board_of_its_own(store: Store):
    for source, value in (("none", 0.7), ("dtd", 0.75)):
        for partition in (0, 1):
            run(store, source=source, folds=1, value=value, spec={"partition": partition})
    boards = leaderboard.boards(store)
    assert [made.partition for made in boards] == [0, 1]
    assert [len(made.rows) for made in boards] == [2, 2]
    assert [made.under for made in boards] == ["standard", "standard, partition 1"]
    (found,) = transfer.analyse(store, boards)
    assert len(found.pairs) == 1, "a pair of source and target enters once"
    told = "Left out: partition 1 on isic: partition 0 stands under standard."
    (heat,) = overview.heats(boards)
    known = matrix.of_store(store)
    assert [list(notes).count(told) for notes in (found.notes, heat.notes, known[2])] == [1, 1, 1]
    assert not any("partition" in note for note in transfer.analyse(store, boards[:1])[0].notes)


def test_another_pretraining_is_another_row(store: Store):
    for seed in (0, 1):
        key = pretrain(store, "dtd", seed=seed)
        spec = {"weights": key, "pretrain_seed": seed}
        run(store, source="dtd", folds=1, value=0.8, spec=spec)
    (made,) = leaderboard.boards(store)
    assert sorted(row.name for row in made.rows) == ["dtd", "dtd, pretraining seed 1"]
    assert all(row.rank == 1 for row in made.rows)


def test_columns_read_in_two_ways_are_two_rows(store: Store):
    for kind in ("numeric", "categorical"):
        run(store, fusion="concat", folds=1, value=0.8, spec={"types": {"age": kind}})
    (made,) = leaderboard.boards(store)
    assert len({row.name for row in made.rows}) == 2


def test_protocols_that_test_the_same_patients_are_paired(store: Store):
    for protocol in ("standard", "mine"):
        run(store, folds=1, value=0.8, spec={"protocol": protocol})
    (pair,) = compare.compare(store, "standard", "mine").pairs
    assert pair.paired
