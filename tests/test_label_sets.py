"""Sets of labels: read, stored, split and checked as the yes or no to each name."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import contract
from benchmark.api import Sample
from benchmark.data import label_sets, leaks, prepare
from benchmark.data.split import Parts, fewer, limited, linked_groups, split
from benchmark.errors import BenchError
from benchmark.files import SUMS, read_json, sum_of, write, write_json
from benchmark.spec import Input, Runtime, Split
from tests.test_split import a_set

SEVERAL = Path(__file__).parent / "components" / "several.py"


@pytest.fixture
def several(runtime: Runtime) -> prepare.Prepared:
    runtime = runtime.model_copy(update={"paths": {"several": SEVERAL}})
    return prepare.prepare("several", 32, runtime)


def many(n: int = 400, k: int = 6, *, seed: int = 0) -> prepare.Prepared:
    """Labels from common to rare, three images a patient, of like labels."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) // 3
    likely = 0.6 / 2.0 ** np.arange(k)
    theirs = rng.random((groups.max() + 1, k)) < likely
    labels = (theirs[groups] ^ (rng.random((n, k)) < 0.02)).astype(np.uint8)
    found = a_set(groups, groups)
    return prepare.replace(found, labels=labels, classes=tuple("abcdefghij"[:k]))


def test_a_set_of_labels_is_a_row_of_yes_and_no(several: prepare.Prepared):
    assert several.multilabel and several.labels.dtype == np.uint8
    assert several.classes == ("north", "east", "south", "rare")
    records = list(
        prepare.source_of("several", Runtime(paths={"several": SEVERAL})).records(Path())
    )
    assert label_sets.named(several.labels, several.classes) == [one.label for one in records]
    assert not several.labels.any(1).all() and (several.labels.sum(1) > 1).any()


def test_what_is_told_of_a_set_counts_each_label_and_none(several: prepare.Prepared):
    told = prepare.describe(several)
    assert told["multilabel"] and told["images"] == 96
    counts = dict(zip(several.classes, several.labels.sum(0).tolist(), strict=True))
    assert told["classes"] == {**counts, "none of them": int((~several.labels.any(1)).sum())}


@pytest.mark.parametrize("fold", range(4))
def test_every_fold_has_its_share_of_every_label_and_parts_no_patient(fold: int):
    data = many()
    how = Split(folds=4, validation=0.2)
    parts = split(data, how, fold=fold)
    units = linked_groups(data)
    assert not {*units[parts.train]} & {*units[parts.test]}
    assert not {*units[parts.train]} & {*units[parts.val]}
    assert sorted(np.concatenate(parts[:3])) == list(range(400))
    have = data.labels.sum(0)
    assert have.min() >= 4
    assert np.abs(data.labels[parts.test].sum(0) - have / 4).max() <= 4
    left = have - data.labels[parts.test].sum(0)
    assert np.abs(data.labels[parts.val].sum(0) - left / 5).max() <= 4
    assert abs(len(parts.test) - 100) <= 4


def test_folds_of_label_sets_cover_everything_and_are_the_same_again():
    data, how = many(seed=3), Split(folds=5, validation=0.0)
    tested = [split(data, how, fold=k).test for k in range(5)]
    assert sorted(np.concatenate(tested)) == list(range(400))
    assert all(np.array_equal(split(data, how, fold=k).test, tested[k]) for k in range(5))
    other = split(data, how, fold=0, partition=1).test
    assert not np.array_equal(other, tested[0])


@pytest.mark.parametrize("units", [2, 3, 5])
def test_no_part_is_empty_however_few_the_patients(units: int):
    labels = np.eye(units, dtype=np.uint8)
    part = label_sets.deal(labels, np.arange(units), [1 - 1 / units, 1 / units], seed=0)
    assert set(part.tolist()) == {0, 1}


def test_a_limit_and_a_training_size_keep_rare_labels_and_whole_patients():
    data = many(900)
    rows = limited(data, 200, seed=1)
    assert 150 <= len(rows) <= 220 and data.labels[rows].any(0).all()
    units = linked_groups(data)
    assert not {*units[rows]} & {*np.delete(units, rows)}
    train = split(data, Split(folds=5), fold=0).train
    smaller, larger = (fewer(data, train, units[train], size, 7) for size in ("100", "300"))
    assert {*smaller} < {*larger} <= {*train}
    assert abs(len(smaller) - 100) <= 3 and abs(len(larger) - 300) <= 3
    each = fewer(data, train, units[train], "5/class", 7)
    assert data.labels[each].sum(0).min() >= 4 and (~data.labels[each].any(1)).sum() >= 4
    with pytest.raises(BenchError, match=r"has 6\d\d images, fewer than the 800"):
        fewer(data, train, units[train], "800", 7)


def test_images_of_no_label_are_no_class_that_a_size_asks_for():
    labels = np.repeat(np.array([[1, 0], [0, 1], [0, 0]], np.uint8), (20, 20, 2), axis=0)
    data = prepare.replace(a_set(np.arange(42), np.arange(42)), labels=labels, classes=("a", "b"))
    chosen = fewer(data, np.arange(42), np.arange(42), "5/class", 0)
    assert labels[chosen].sum(0).tolist() == [5, 5]
    with pytest.raises(BenchError, match="has 20 images of the class 'a', fewer than the 21"):
        fewer(data, np.arange(42), np.arange(42), "21/class", 0)


@pytest.mark.parametrize(
    ("size", "told"), [("3", r": with every class it needs about \d"), ("1/class", r"\.")]
)
def test_a_size_that_leaves_a_label_out_is_refused(size: str, told: str):
    labels = np.zeros((60, 3), np.uint8)  # the last label lies beside rarer ones alone
    labels[:10, 0] = labels[10:22, 1] = labels[4:10, 2] = labels[14:22, 2] = 1
    data = prepare.replace(
        a_set(np.arange(60), np.arange(60)), labels=labels, classes=("a", "b", "c")
    )
    refused = 0
    for seed in range(20):
        try:
            chosen = fewer(data, np.arange(60), np.arange(60), size, seed)
        except BenchError as error:
            assert re.search(f"would leave a class out{told}", error.what)
            refused += 1
        else:
            assert labels[chosen].any(0).all()
    assert 0 < refused < 20


def test_one_patient_is_not_cut_in_two():
    data = prepare.replace(many(12), groups=np.arange(12) // 6)
    with pytest.raises(BenchError, match="has 1 group, fewer than the 2 folds"):
        split(data, Split(folds=2, validation=0.15), fold=0)


def test_the_same_table_of_classes_and_of_labels_is_not_one_set(tmp_path: Path):
    (tmp_path / "im").mkdir()
    lines = ["image,kind"]
    for i in range(4):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(tmp_path / "im" / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    own = Input(path=tmp_path / "im", metadata=tmp_path / "t.csv", label="kind")
    digests = []
    for separator in (None, ";"):
        one = own.model_copy(update={"separator": separator})
        where = Runtime(store=tmp_path / "s", data=tmp_path, inputs={"folder:x": one}, workers=1)
        digests.append(prepare.prepare("folder:x", 8, where).digest)
    assert digests[0] != digests[1]


def test_a_set_of_labels_kept_under_the_digest_of_classes_has_its_own(tmp_path: Path):
    where = Runtime(store=tmp_path, workers=1, paths={"several": SEVERAL})
    kept = prepare.prepare("several", 32, where)
    (meta,) = (tmp_path / "prepared").glob("*/meta.json")
    facts = json.loads(meta.read_text())
    write(meta, json.dumps({**facts, "digest": "0" * 16}))
    sums = read_json(meta.parent / SUMS)["files"]
    write_json(meta.parent / SUMS, {"files": {**sums, meta.name: sum_of(meta)}})
    first = meta.stat().st_mtime_ns
    found = prepare.prepare("several", 32, where)
    assert found.digest == kept.digest == facts["digest"]
    assert meta.stat().st_mtime_ns == first, "nothing is decoded anew"


def test_official_parts_are_taken_as_they_are(several: prepare.Prepared):
    parts: Parts = split(several, Split(kind="official"), fold=0)
    assert {*several.parts[parts.train]} == {"train"} and {*several.parts[parts.test]} == {"test"}


def test_a_training_part_of_one_set_only_is_refused():
    data = prepare.replace(many(30), labels=np.ones((30, 6), np.uint8))
    with pytest.raises(BenchError, match="has one class only"):
        split(data, Split(folds=2), fold=0)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([("a",), ("a",), ()], "is multi-label and has 1 labels"),
        ([("a", "b"), ("a",), ("a",)], "Every image of x is labelled 'a'"),
        ([("a", "b"), "a"], "a class and some a set"),
        (["a", "", "b"], "1 images of x have no label"),
        (["a", "a"], "has one class only"),
    ],
)
def test_labels_that_leave_nothing_to_ask_are_refused(labels: list, said: str):
    with pytest.raises(BenchError, match=said):
        label_sets.check("x", labels, [str(i) for i in range(len(labels))])


def test_a_label_of_too_few_patients_is_refused_with_its_name():
    labels = [("common",) * (i % 2) + ("odd",) * (i < 4) for i in range(40)]
    units = np.arange(40) // 2
    with pytest.raises(BenchError, match=r"1 of the 2 labels of x are too rare.*'odd' tells 2 pat"):
        label_sets.check_rare(labels, units, 5, ("x", "patient"))
    label_sets.check_rare(labels, units, 2, ("x", "patient"))


def test_a_column_that_tells_one_of_the_labels_is_refused():
    rng = np.random.default_rng(0)
    yes = rng.random((300, 2)) < 0.4
    labels = label_sets.named(yes.astype(np.uint8), ("edema", "mass"))
    table = {"code": ["x" if m else "y" for _, m in yes], "age": [str(i % 60) for i in range(300)]}
    with pytest.raises(BenchError, match="tells the label \\(code: one value is one class"):
        leaks.check("x", table, labels, np.arange(300))
    assert leaks.check("x", {"age": table["age"]}, labels, np.arange(300)) == []
    level = [f"{m + rng.normal(0, 0.1):.3f}" for _, m in yes]
    look = leaks.judge({"level": leaks.Cells("level", level)}, labels, [str(i) for i in range(300)])
    assert "mass' with an AUROC of 1.000" in look.refused["level"]


def test_the_contract_asks_for_records_of_several_labels_and_of_none():
    said = "\n".join(contract.check(str(SEVERAL)))
    assert "have several labels and" in said and "one training step" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("multilabel=True", "multilabel=False", "disagree"),
        ("labels=LABELS", "labels=LABELS[:3]", "does not list the label 'rare'"),
        ("if yes)", "if yes) or LABELS[:1]", "0 of none"),
    ],
)
def test_the_contract_refuses(old: str, new: str, said: str, tmp_path: Path):
    text = SEVERAL.read_text()
    assert old in text
    (tmp_path / "several.py").write_text(text.replace(old, new))
    with pytest.raises(BenchError, match=said):
        list(contract.check(str(tmp_path / "several.py")))


def test_one_label_an_image_is_stored_as_ever(runtime: Runtime):
    data = prepare.prepare("tiny", 32, runtime)
    assert not data.multilabel and data.labels.dtype == np.int64
    assert "multilabel" not in prepare.describe(data)
    assert isinstance(Sample(np.zeros((1, 1, 3)), "a", "b").label, str)


def test_the_list_of_data_sets_says_which_are_multi_label(tmp_path: Path):
    lines = {line.split()[0]: line for line in contract.data_sets(tmp_path)}
    assert "multi-label: medmnist:chest (14 labels)" in lines["medmnist"]
    assert "ptbxl:super (5 labels)" in lines["ptbxl"] and "ptbxl:all (71 labels)" in lines["ptbxl"]
    assert "demo:signs (3 labels)" in lines["demo"] and "multi-label" not in lines["isic"]
    assert "multilabel   True" in [*contract.card_lines("ptbxl:all")]
