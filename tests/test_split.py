"""No patient and no image on two sides; the same partition for every source and fusion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark import protocols
from benchmark.data.prepare import Prepared
from benchmark.data.split import linked_groups, split
from benchmark.errors import BenchError
from benchmark.spec import Split


def a_set(labels, groups, *, hashes=None, parts=None, name="set") -> Prepared:
    n = len(labels)
    return Prepared(
        name=name,
        images=np.zeros((n, 1, 1, 3), np.uint8),
        names=np.array([str(i) for i in range(n)]),
        labels=np.asarray(labels),
        classes=tuple(str(c) for c in sorted(set(labels))),
        groups=np.asarray(groups),
        parts=np.array(parts if parts is not None else [""] * n),
        hashes=np.array(hashes if hashes is not None else [f"h{i}" for i in range(n)]),
        metadata={},
        digest="d",
    )


def cut(data: Prepared, how: Split, fold: int = 0, partition: int = 0, **more):
    return split(data, how, fold=fold, partition=partition, **more)


def test_many_small_classes_have_a_validation_part_too():
    """Ten folds for a tenth would be more than any class has images."""
    labels = np.repeat(np.arange(20), 6)
    found = cut(a_set(labels, np.arange(120) // 2), Split(folds=5))
    assert len(found.val) and set(labels[found.train]) == set(range(20))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from([0.0, 0.1, 0.25]))
def test_grouped_folds_part_no_group_and_cover_everything(seed: int, folds: int, validation: float):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 40, 120)
    labels = rng.integers(0, 3, 40)[groups]
    labels[:3] = [0, 1, 2]
    hashes = [f"h{i}" for i in rng.integers(0, 1500, 120)]  # some are there twice
    data = a_set(labels, groups, hashes=hashes)
    how = Split(folds=folds, validation=validation)
    units = linked_groups(data)
    if len(np.unique(units)) < folds:
        return
    tested = []
    for fold in range(folds):
        parts = cut(data, how, fold, seed)
        for one, other in (
            (parts.train, parts.test),
            (parts.train, parts.val),
            (parts.val, parts.test),
        ):
            assert not set(units[one]) & set(units[other])
            assert not set(data.hashes[one]) & set(data.hashes[other])
        assert len(parts.train) + len(parts.val) + len(parts.test) == len(labels)
        assert parts.siblings == 0
        tested.extend(parts.test)
    assert sorted(tested) == list(range(len(labels)))


def test_protocols_that_cut_alike_test_the_same_images():
    data = a_set([0, 1] * 50, list(range(100)))
    one, other, own = (
        protocols.load(name).split for name in ("thomas", "thomas-augmented", "standard")
    )
    assert np.array_equal(cut(data, one).test, cut(data, other).test)
    assert not np.array_equal(cut(data, one).test, cut(data, own).test)


def test_the_partition_depends_on_target_split_and_partition_only():
    data = a_set([0, 1] * 50, list(range(100)))
    first, again = cut(data, Split()), cut(data, Split())
    assert np.array_equal(first.test, again.test)
    assert np.array_equal(first.val, again.val)
    assert not np.array_equal(first.test, cut(data, Split(), partition=1).test)
    other = a_set([0, 1] * 50, list(range(100)), name="other")
    assert not np.array_equal(first.test, cut(other, Split()).test)


def test_an_image_split_measures_its_leak():
    groups = np.repeat(np.arange(50), 2)  # every image has one sibling
    parts = cut(a_set([0, 1] * 50, groups), Split(kind="image", folds=5, validation=0))
    assert 0.5 < parts.siblings <= 1


def test_copies_join_their_groups():
    data = a_set([0, 0, 1, 1], [0, 1, 2, 3], hashes=["a", "b", "a", "c"])
    units = linked_groups(data)
    assert units[0] == units[2]
    assert len(set(units)) == 3


def test_a_group_in_two_official_parts_is_refused():
    parts = ["train"] * 3 + ["test"] * 3
    data = a_set([0, 1, 0, 1, 0, 1], [0, 1, 2, 0, 3, 4], parts=parts)
    with pytest.raises(BenchError, match="group or an image in two parts"):
        cut(data, Split(kind="official", folds=1))


def test_official_parts_are_taken_as_they_are():
    parts = ["train", "train", "valid", "test", "test", ""]
    found = cut(a_set([0, 1, 0, 1, 0, 1], range(6), parts=parts), Split(kind="official", folds=1))
    assert [list(x) for x in (found.train, found.val, found.test)] == [[0, 1], [2], [3, 4]]


def test_no_official_parts_is_told():
    with pytest.raises(BenchError, match="no official"):
        cut(a_set([0, 1], [0, 1]), Split(kind="official", folds=1))


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0, 1] * 4, [0, 0, 1, 1, 2, 2, 3, 3], "4 groups, fewer than the 5 folds"),
        (
            [0] * 20 + [1] * 3,
            list(range(23)),
            "1 of 2 classes with fewer images than the 5 folds, with 3",
        ),
    ],
)
def test_too_few_for_the_folds_is_told(labels, groups, message):
    with pytest.raises(BenchError, match=message):
        cut(a_set(labels, groups), Split(folds=5))


@pytest.mark.parametrize(
    ("unit", "told"), [("slide", "4 slides, f"), ("who_id", "4 values of who_id, f")]
)
def test_it_is_told_in_the_sets_own_word(unit, told):
    data = replace(a_set([0, 1] * 4, [0, 0, 1, 1, 2, 2, 3, 3]), unit=unit)
    with pytest.raises(BenchError, match=told):
        cut(data, Split(folds=5))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(80, 150))
def test_a_limit_keeps_whole_groups_and_the_classes(seed: int, limit: int):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 100, 300)
    labels = np.tile([0, 0, 0, 1], 25)[groups]
    parts = cut(a_set(labels, groups), Split(folds=2, validation=0), partition=seed, limit=limit)
    rows = np.concatenate([parts.train, parts.val, parts.test])
    assert len(rows) <= limit + 12
    assert len(rows) >= limit * 0.7
    assert set(labels[rows]) == {0, 1}
    for group in set(groups[rows]):
        assert np.isin(np.flatnonzero(groups == group), rows).all()


def test_one_class_left_is_told(tmp_path: Path):
    data = a_set([0] * 10 + [1], [*range(10), 10], parts=["train"] * 10 + ["test"])
    with pytest.raises(BenchError, match="one class only"):
        cut(data, Split(kind="official", folds=1))
