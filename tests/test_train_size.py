"""A part of the training images: by group, every class, the smaller inside the larger."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from test_split import a_set

from benchmark.data.split import Parts, split
from benchmark.errors import BenchError
from benchmark.plan import plan, request
from benchmark.plan.pace import Foresight
from benchmark.spec import RunSpec, Split, key_of
from benchmark.store import Store
from benchmark.train import job
from benchmark.train.context import Memory
from reports import compare
from reports.leaderboard import table

LARGE = a_set(np.tile([0, 0, 0, 1], 100), np.arange(400) // 2)


def cut(size: str, data=LARGE, how: Split | None = None, **more) -> Parts:
    return split(data, how or Split(), **{"fold": 0, **more}, train_size=size)


@pytest.mark.parametrize(
    ("written", "meant"),
    [(100, "100"), (" 0100", "100"), ("5.0 %", "5%"), ("10 / Class", "10/class"), ("100%", ""),
     ("", ""), ("2.5%", "2.5%"), ("$protocol", ""), (None, "")],
)  # fmt: skip
def test_equal_sizes_have_one_spelling(written, meant: str):
    (asked,) = request.requests({"target": "demo:skin", "train_size": [written]})
    assert asked.train_sizes == (meant,)


@pytest.mark.parametrize("text", ["0", "-5", "2.5", "0%", "101%", "x", "0/class", "5/klass", "1e3"])
def test_what_is_no_size_is_told(text: str):
    with pytest.raises(BenchError, match=r"100 \(images\), 5% or 10/class"):
        request.requests({"target": "demo:skin", "train_size": text})
    with pytest.raises(ValidationError):
        RunSpec(source="dtd", target="isic", train_size=text)


def test_the_whole_leaves_the_key_and_a_size_makes_another():
    whole, few = (RunSpec(source="dtd", target="isic", train_size=size) for size in ("", "5%"))
    assert key_of(whole, {"core": "1"}) == "f998d92966284222"  # as before there were sizes
    assert key_of(few, {"core": "1"}) != key_of(whole, {"core": "1"})


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_smaller_part_lies_in_the_larger_and_nothing_else_moves(seed: int, mixed: bool):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 90, 300)
    labels = np.tile([0, 0, 0, 0, 1, 2], 50) if mixed else np.tile([0, 0, 1], 30)[groups]
    data = a_set(labels, groups)
    whole = cut("", data, Split(folds=3), partition=seed)
    for sizes in (("30", "60", "90", "150"), ("20%", "50%", "90%"), ("4/class", "9/class")):
        parts = [cut(size, data, Split(folds=3), partition=seed) for size in sizes]
        for found, larger in zip(parts, [*parts[1:], whole], strict=True):
            assert set(found.train) <= set(larger.train)
            assert np.array_equal(found.test, whole.test)
            assert np.array_equal(found.val, whole.val)
            assert set(labels[found.train]) == set(labels[whole.train])
            inside = np.isin(groups, groups[found.train])
            assert np.array_equal(np.flatnonzero(inside), found.train)  # groups are whole


def test_the_number_is_met_within_a_group_and_the_classes_keep_their_shares():
    for size, n in (("100", 100), ("25%", 72), ("40", 40)):
        found = cut(size).train
        assert abs(len(found) - n) <= 1
        assert abs(LARGE.labels[found].mean() - 0.25) < 0.03
    alone = a_set([0, 1] * 100, np.arange(200))
    assert [len(cut(str(n), alone).train) for n in (3, 17, 100)] == [3, 17, 100]
    each = LARGE.labels[cut("10/class").train]
    assert np.bincount(each).tolist() == [10, 10]


def test_each_fold_and_partition_draws_its_own():
    alone = a_set([0, 1] * 100, np.arange(200))
    found = [cut("20", alone, fold=f, partition=p).train for f, p in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(rows) for rows in found}) == 3
    assert np.array_equal(found[0], cut("20", alone).train)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("1000", "The training part of set has 288 images, fewer than the 1,000 asked for"),
        (
            "100/class",
            "The training part of set has 72 images of the class '1', fewer than the 100",
        ),
        ("1", "would leave a class out"),
    ],
)
def test_a_size_that_cannot_be_is_refused_in_words(size: str, told: str):
    with pytest.raises(BenchError, match=told):
        cut(size)


def test_without_the_smallest_class_it_would_be_another_task():
    data = replace(LARGE, labels=np.where(np.arange(400) % 100 < 2, 2, LARGE.labels),
                   classes=("a", "b", "c"))  # fmt: skip
    assert set(data.labels[cut("12", data).train]) == {0, 1, 2}
    with pytest.raises(BenchError, match="needs about 6"):
        cut("2", data)


def test_a_size_larger_than_the_set_is_told_before_anything_runs(runtime, request_tiny):
    assert plan.make(request_tiny(train_sizes=("95",)), runtime).of("to run")
    with pytest.raises(BenchError, match="tiny has 96 images in all, so no training part of 96"):
        plan.make(request_tiny(train_sizes=("96",)), runtime)


@pytest.mark.parametrize(("size", "share"), [("24", 0.25), ("50%", 0.5), ("12/class", 0.25)])
def test_a_part_is_foreseen_to_take_its_part_of_the_time(runtime, request_tiny, size, share):
    whole, part = (
        plan.make(
            request_tiny(modes=("finetune",), folds=(0,), train_sizes=(one,), protocols=("yang",)),
            runtime,
        ).of("to run")[0].cell
        for one in ("", size)
    )  # fmt: skip
    every, few = (Foresight(runtime)._passes(cell) for cell in (whole, part))
    assert every and few
    assert every.train == 2 * 96 * 0.8
    assert few.train == pytest.approx(2 * (96 * 0.8 * share if "%" in size else 24))


@pytest.fixture(scope="module")
def sized(tmp_path_factory: pytest.TempPathFactory):
    """Frozen heads on two sizes and the whole of one fold of the tiny target."""
    from benchmark.spec import Runtime

    root = tmp_path_factory.mktemp("sized")
    runtime = Runtime(
        store=root / "store", device="cpu", workers=1, offline=True, draws=100,
        paths={"tiny": Path(__file__).parent / "components" / "tiny.py"},
    )  # fmt: skip
    asked = request.Request(
        targets=("tiny",), archs=("test_resnet",), modes=("frozen",), protocols=("demo",),
        fusions=("none", "concat"), folds=(0,), train_sizes=("12", "50%", ""),
        recipe={"threads": 1},
    )  # fmt: skip
    memory, made = Memory(), plan.make(asked, runtime)
    return Store(runtime.store), [job.run(p.cell, runtime, memory=memory) for p in made.cells]


def test_a_run_tells_how_many_images_it_saw(sized):
    _, found = sized
    assert [o.status for o in found] == ["ok"] * 6
    told = {o.spec.train_size: o.data["train"] for o in found}
    assert told["12"] == 12 < told["50%"] < told[""]
    assert abs(told["50%"] - told[""] / 2) <= 1
    assert len({o.data["test"] for o in found}) == len({o.data["val"] for o in found}) == 1


def test_rows_of_a_size_have_a_board_of_their_own(sized):
    store, _ = sized
    boards = table.boards(store)
    assert [(made.train_size, len(made.rows)) for made in boards] == [
        ("", 2), ("12", 2), ("50%", 2)
    ]  # fmt: skip
    assert [made.under for made in boards] == [
        "demo", "demo, 12 training images", "demo, 50% of the training images"
    ]  # fmt: skip
    assert "tiny · demo, 12 training images" in table.show(store, format="md")
    pairs = compare.compare(store, "none", "concat").pairs
    assert len(pairs) == 3
    assert len({pair.shared for pair in pairs}) == 3
