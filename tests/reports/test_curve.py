"""Scores by the size of the training part, and the size at which two sources cross."""

import csv
import io
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from boards import DRAWS, run, shared_draws
from test_page import Page
from typer.testing import CliRunner

from benchmark.cli import app
from benchmark.errors import BenchError
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import compare, plots
from reports.leaderboard import curve, gains, table
from reports.page import write

#: Score by train size; dtd is ahead of imagenet from 100·4^(2/3) = 252 images on.
LEVELS = {
    "dtd": {"100": 0.60, "400": 0.71, "1600": 0.80, "": 0.84},
    "imagenet": {"100": 0.64, "400": 0.69, "1600": 0.74, "": 0.76},
    "stl10": {"100": 0.50, "400": 0.52, "1600": 0.60},
}
IMAGES = {"100": 100, "400": 398, "1600": 1600, "": 5000}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("curve"))
    store.prepare()
    for source, levels in LEVELS.items():
        for size, value in levels.items():
            for fold in range(2):
                own = np.random.default_rng([len(source), len(size), fold])
                draws = value + shared_draws("isic", fold) + own.normal(0, 0.004, DRAWS)
                run(
                    store, source=source, folds=2, fold=fold, value=value, draws=draws,
                    spec={"train_size": size}, data={"train": IMAGES[size]},
                )  # fmt: skip
    run(store, source="dtd", target="ptbxl", folds=1, value=0.8)  # of one size: no curve
    return store


def crossing(apart: list[float], noise: float = 0.0, sizes=(100, 400, 1600)) -> Estimate:
    rng = np.random.default_rng(0)
    draws = np.array(apart) + rng.normal(0, noise, (2000, len(apart)))
    return curve.crossing(sizes, apart, draws)


def test_lines_cross_where_they_meet_on_a_log_scale():
    found = crossing([-0.02, 0.02, 0.05])
    assert found[:3] == pytest.approx((200, 200, 200))
    assert crossing([-0.04, 0.02, 0.05]).value == pytest.approx(100 * 4 ** (2 / 3))
    assert crossing([0.01, 0.02, 0.05]).value == 0  # ahead from the first size on
    assert crossing([0.02, -0.02, 0.02]).value == pytest.approx(800)  # the last time they meet
    assert crossing([0.02, -0.01, -0.02]).value == math.inf  # behind in the end


def test_the_interval_holds_what_the_draws_leave_open():
    sure = crossing([-0.05, 0.05, 0.10], noise=0.005)
    assert 150 < sure.low < 200 < sure.high < 260
    open_below = crossing([-0.005, 0.05, 0.10], noise=0.01)
    assert open_below.low == 0 and 100 < open_below.value < open_below.high < 400
    unknown = crossing([-0.005, 0.0, 0.005], noise=0.05)
    assert (unknown.low, unknown.high) == (0, math.inf)


def test_what_is_undefined_in_a_draw_is_left_out():
    draws = np.array([[-1.0, 1.0], [np.nan, 1.0]])
    assert curve.crossing((100, 400), (-1.0, 1.0), draws).low == pytest.approx(200)


@pytest.mark.slow
def test_the_interval_of_a_crossing_holds_the_true_one_as_often_as_it_says():
    rng = np.random.default_rng(1)
    true, error = np.array([-0.03, 0.01, 0.03]), 0.01
    size, held = 100 * 4 ** (0.03 / 0.04), []
    for _ in range(400):
        seen = true + rng.normal(0, error, 3)
        if seen[-1] > 0:
            draws = seen + rng.normal(0, error, (1000, 3))
            found = curve.crossing((100, 400, 1600), seen, draws)
            held.append(found.low <= size <= found.high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_a_line_for_each_source_and_every_pair_of_them(store: Store):
    (found,) = curve.of(table.boards(store))
    assert [line.label for line in found.lines] == ["dtd", "imagenet", "stl10"]
    assert [p.images for p in found.lines[0].points] == [100, 398, 1600, 5000]
    assert [p.headline.value for p in found.lines[0].points] == pytest.approx(
        list(LEVELS["dtd"].values())
    )
    pairs = {(c.first.label, c.second.label): c for c in found.crossings}
    assert set(pairs) == {("dtd", "imagenet"), ("dtd", "stl10"), ("imagenet", "stl10")}
    met = pairs["dtd", "imagenet"]
    assert met.at.low < met.at.value < met.at.high
    assert met.at.value == pytest.approx(100 * 3.98 ** (2 / 3), abs=1)
    assert "251 [" in met.text
    assert pairs["dtd", "stl10"].text == "do not cross between 100 and 1,600"


def test_every_format_has_the_crossings(store: Store):
    text = curve.show(store, format="md")
    assert "isic · standard · AUROC" in text and "1,600" in text and "251 [" in text
    (told,) = json.loads(curve.show(store, format="json"))
    assert [line["label"] for line in told["lines"]] == ["dtd", "imagenet", "stl10"]
    (met,) = [c for c in told["crossings"] if c["second"] == "imagenet"]
    assert 100 < met["images_low"] < met["images"] < met["images_high"] < 398
    rows = list(csv.DictReader(io.StringIO(curve.show(store, format="csv"))))
    assert [(r["first"], r["second"]) for r in rows] == [
        ("dtd", "imagenet"), ("dtd", "stl10"), ("imagenet", "stl10")
    ]  # fmt: skip
    assert float(rows[0]["images"]) == met["images"]
    asked = ["curve", "--source", "dtd", "--source", "stl10", "--store", str(store.root)]
    told = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert told.exit_code == 0
    assert "do not cross between 100 and 1,600" in told.stdout
    assert "imagenet" not in told.stdout


def test_without_sizes_there_is_a_sentence(store: Store):
    with pytest.raises(BenchError, match="--train-size"):
        curve.show(store, targets=("ptbxl",))


def test_the_page_of_a_target_draws_its_curve(store: Store, tmp_path: Path):
    write.write(store, tmp_path)
    page = Page(tmp_path / "target-isic.html")
    assert "Learning curve" in page.text and "training images" in page.text
    assert "dtd is ahead of imagenet from 251" in " ".join(page.text.split())
    assert "Learning curve" not in Page(tmp_path / "target-ptbxl.html").text


def test_sizes_stand_on_a_logarithmic_axis():
    scale = plots.sizes([120, 1600])
    assert [scale.text(tick) for tick in scale.ticks] == ["100", "200", "500", "1,000", "2,000"]
    assert scale.at(100) == 0 and scale.at(2000) == 100
    assert scale.at(1000) - scale.at(500) == pytest.approx(scale.at(200) - scale.at(100))


def test_readers_take_the_sizes_that_are_asked_for(store: Store):
    for asked, there in ((["100"], ["100"]), (["100%", "400"], ["", "400"])):
        made = table.boards(store, targets=["isic"], train_sizes=asked)
        assert sorted(one.train_size for one in made) == there
        found = compare.compare(store, "dtd", "imagenet", train_sizes=asked)
        assert len(found.pairs) == len(there)


@pytest.mark.parametrize(
    ("target", "size", "what", "todo"),
    [
        ("isic", "7", "no results of train_size '7'", "100%"),
        ("isic", "foo", "'foo' is no size", "Write 100, 5% or 10/class."),
        ("cut", "100%", "no results of train_size '100%'", "Known: 400."),
    ],
)
def test_readers_say_which_size_there_is_none_of(store, tmp_path, target, size, what, todo):
    if target == "cut":
        store = Store(tmp_path)
        for source in ("dtd", "imagenet"):
            run(store, source=source, folds=1, value=0.7, spec={"train_size": "400"})
    for read in (table.boards, partial(compare.compare, first="dtd", second="imagenet")):
        with pytest.raises(BenchError, match=what) as error:
            read(store, train_sizes=[size])
        assert todo in error.value.todo


def test_where_no_run_had_the_whole_training_part_the_largest_stands(tmp_path: Path):
    store = Store(tmp_path)
    for source, size in (("dtd", "100"), ("none", "100"), ("dtd", "1000"), ("none", "1000")):
        value = 0.6 + 0.1 * (source == "dtd")
        run(store, source=source, folds=1, value=value, spec={"train_size": size})
    ((made, notes),) = gains.of_one_partition(table.boards(store))
    assert made.train_size == "1000"
    text = "Left out: 100 training images on isic: 1,000 training images stands under standard."
    assert gains.told(notes) == [text]


@pytest.mark.parametrize(
    ("images", "stands"),
    [
        ({"1/class": 7, "5%": 900, "5000": 5000}, "5000"),
        ({"1/class": 7, "5%": 900, "200": 200}, "5%"),
        ({"1/class": 7, "5%": 900, "5000": 5000, "": 4000}, ""),
    ],
)
def test_the_largest_size_is_the_one_with_most_images(tmp_path, images, stands):
    store = Store(tmp_path)
    for size, train in images.items():
        run(store, folds=1, value=0.7, spec={"train_size": size}, data={"train": train})
    ((made, _),) = gains.of_one_partition(table.boards(store))
    assert made.train_size == stands
