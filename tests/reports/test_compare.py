"""Two names compared: pairing, class by class, the sentence, and what cannot be compared."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from boards import CLASSES, predictions, run, shared_draws

from benchmark import metrics, stats
from benchmark.errors import BenchError
from benchmark.spec import Augment, Recipe, Split
from benchmark.stats.delong import clustered, normal_p
from benchmark.store import Store
from reports import compare


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def arm(store: Store, value: float, *, folds: int = 3, **cell) -> None:
    for fold in range(folds):
        shared = shared_draws(cell.get("target", "isic"), fold, 0)
        run(store, fold=fold, value=value, draws=value + shared, **cell)


# --- class by class ---------------------------------------------------------------------------


def test_copies_of_an_image_within_a_patient_are_no_new_evidence():
    rng = np.random.default_rng(1)
    labels = rng.random(200) < 0.4
    first, second = labels + rng.normal(0, 1, (2, 200))
    once = clustered(labels, first, second, np.arange(200))
    again = np.repeat(np.arange(200), 3)
    thrice = clustered(labels[again], first[again], second[again], again)
    assert thrice == pytest.approx(once)
    naive = clustered(labels[again], first[again], second[again], np.arange(600))
    assert naive[1] < 0.4 * once[1]


def test_it_agrees_with_the_bootstrap_over_patients():
    labels, a, groups = predictions("isic", 1.0, 0, arm="a", patients=150, classes=2)
    b = predictions("isic", 1.2, 0, arm="b", patients=150, classes=2)[1]
    draws = [metrics.evaluate(labels, s, groups, draws=2000, seed=3).draws["auroc"] for s in (a, b)]
    _, variance = clustered(labels == 1, a[:, 1], b[:, 1], groups)
    assert np.sqrt(variance) == pytest.approx(np.std(draws[0] - draws[1]), rel=0.1)


def test_a_class_that_a_fold_lacks_is_undefined():
    nobody, groups = np.zeros(4, dtype=bool), np.arange(4)
    assert np.isnan(clustered(nobody, groups * 1.0, groups * 1.0, groups)).all()
    assert np.isnan(normal_p(0.1, 0.0)) and normal_p(0.0, 0.0) == 1.0
    assert normal_p(1.959964, 1.0) == pytest.approx(0.05, abs=1e-6)


def test_of_two_classes_the_second_is_shown(store: Store):
    for source, skill in (("dtd", 0.8), ("imagenet", 2.0)):
        part = predictions("isic", skill, 0, arm=source, classes=2)
        run(store, source=source, folds=1, predictions=part, classes=("benign", "malignant"))
    (pair,) = compare.compare(store, "dtd", "imagenet").pairs
    (only,) = pair.classes
    assert only.name == "malignant"
    # AUROC of class 1 is the headline of a binary task.
    assert only.difference.value == pytest.approx(pair.compared.difference.value, abs=1e-6)
    assert only.difference.n == int((part[0] == 1).sum())


# --- pairs ------------------------------------------------------------------------------------


def test_two_sources_are_paired_where_all_else_is_the_same(evaluated: Store):
    found = compare.compare(evaluated, "dtd", "imagenet")
    assert found.kind == "source"
    assert [(p.target, p.shared) for p in found.pairs] == [
        ("isic", "standard, fusion concat, resnet50 finetune"),
        ("isic", "standard, fusion none, resnet50 finetune"),
        ("ptbxl", "standard, fusion concat, resnet50 finetune"),
        ("ptbxl", "standard, fusion none, resnet50 finetune"),
    ]
    for pair in found.pairs:
        assert pair.paired and pair.cells == 2 and pair.notes == ()
        difference = pair.compared.difference
        assert difference.value == pytest.approx(pair.first.value - pair.second.value)
        assert difference.low < difference.value < difference.high
        unpaired = np.hypot(
            pair.first.high - pair.first.low, pair.second.high - pair.second.low
        )  # fmt: skip
        assert difference.high - difference.low < unpaired, "pairing takes the patients' share out"
        assert [c.name for c in pair.classes] == list(CLASSES[4:7])
        classes = np.mean([c.difference.value for c in pair.classes])
        assert classes == pytest.approx(difference.value, abs=1e-6)
        assert all(c.holm >= c.p for c in pair.classes)
    assert [p.holm for p in found.pairs] == pytest.approx(
        stats.holm([p.compared.p for p in found.pairs])
    )


def test_a_source_that_brings_its_network_is_compared_across_networks(store: Store):
    own = "timm:vit_small_patch14_dinov2.lvd142m"
    arm(store, 0.80)
    arm(store, 0.84, source=own, spec={"arch": "vit_small_patch14_dinov2"})
    arm(store, 0.82, source="imagenet", spec={"arch": "resnet18"})
    (pair,) = compare.compare(store, own, "dtd").pairs
    assert pair.paired
    assert pair.shared == "standard, fusion none, vit_small_patch14_dinov2 and resnet50 finetune"
    assert pair.notes == (
        f"the networks differ ({own} has vit_small_patch14_dinov2, dtd resnet50): "
        "what is compared is source and network together",
    )
    with pytest.raises(BenchError, match="no cells in which nothing but dtd and imagenet"):
        compare.compare(store, "dtd", "imagenet")
    arm(store, 0.81, spec={"arch": "vit_small_patch14_dinov2"})
    (alike,) = compare.compare(store, own, "dtd").pairs
    assert alike.notes == (), "where one has the same network, no other is asked"


def test_scratch_says_that_its_schedule_is_another(store: Store):
    long = Recipe(epochs=60, lr=1e-3)
    arm(store, 0.80)
    arm(store, 0.75, source="none", spec={"recipe": long})
    told = "scratch has the schedule that the protocol gives it: "
    (pair,) = compare.compare(store, "none", "dtd").pairs
    assert pair.notes == (f"{told}epochs 60, lr 0.001 (of the other: epochs 30, lr 0.0001)",)
    (turned,) = compare.compare(store, "dtd", "none").pairs
    assert turned.notes == pair.notes
    arm(store, 0.75, source="none", target="ptbxl")
    arm(store, 0.80, target="ptbxl")
    same = compare.compare(store, "none", "dtd", targets=["ptbxl"]).pairs
    assert [one.notes for one in same] == [()]


def test_the_sentence_claims_no_more_than_the_interval(store: Store):
    rng = np.random.default_rng(0)
    arm(store, 0.80)
    arm(store, 0.75, source="stl10")
    for fold in range(3):
        draws = 0.801 + shared_draws("isic", fold, 0) + rng.normal(0, 0.02, 400)
        run(store, source="imagenet", fold=fold, value=0.801, draws=draws)
    clear = compare.compare(store, "dtd", "stl10").conclusion
    assert "dtd is better than stl10: auroc 0.800 against 0.750, a difference of +0.050" in clear
    assert "dtd is worse" not in clear and "stl10 is worse than dtd" not in clear
    assert "stl10 is worse than dtd" in compare.compare(store, "stl10", "dtd").conclusion
    same = compare.compare(store, "dtd", "imagenet").conclusion
    assert "dtd and imagenet cannot be told apart" in same


def test_damaged_predictions_are_no_silent_want_of_pairs(store: Store):
    arm(store, 0.80)
    arm(store, 0.75, source="stl10")
    for path in (store.root / "runs").glob("*/*/predictions.npz"):
        if json.loads((path.parent / "spec.json").read_text())["spec"]["source"] == "dtd":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"gone or damaged.*of dtd.*not paired"):
        (pair,) = compare.compare(store, "dtd", "stl10").pairs
    assert not pair.paired


def test_less_of_an_error_is_better(store: Store):
    arm(store, 0.10, spec={"headline": "ece"})
    arm(store, 0.20, spec={"headline": "ece"}, source="imagenet")
    found = compare.compare(store, "dtd", "imagenet")
    assert "dtd is better than imagenet" in found.conclusion


def test_only_the_cells_of_both_are_compared(store: Store):
    arm(store, 0.7)
    for fold in (0, 2):
        value = 0.6 if fold == 0 else 0.8
        run(
            store,
            source="imagenet",
            fold=fold,
            value=value,
            draws=value + shared_draws("isic", fold, 0),
        )
    (pair,) = compare.compare(store, "dtd", "imagenet").pairs
    assert pair.cells == 2 and pair.notes == ("only 2 of 3 cells are in both",)
    assert pair.second.value == pytest.approx(0.7)


def test_other_recipes_and_other_data_are_no_pair(store: Store):
    arm(store, 0.8)
    arm(store, 0.7, source="imagenet", spec={"recipe": Recipe(epochs=3)})
    with pytest.raises(BenchError, match="nothing but dtd and imagenet differs"):
        compare.compare(store, "dtd", "imagenet")
    arm(store, 0.7, source="imagenet", data={"digest": "another"})
    with pytest.raises(BenchError, match="bench run"):
        compare.compare(store, "dtd", "imagenet")
    arm(store, 0.7, source="imagenet", versions={"source": "2"})
    assert len(compare.compare(store, "dtd", "imagenet").pairs) == 1


def test_two_fusions_and_an_arm_on_the_record_alone(many_kinds: Store):
    store = many_kinds
    found = compare.compare(store, "concat", "none", targets=["isic"])
    assert found.kind == "fusion" and len(found.pairs) == 4
    assert all("fusion" not in pair.shared for pair in found.pairs)
    alone = compare.compare(store, "metadata:boosting", "concat", targets=["oasis1"])
    assert len(alone.pairs) == 4
    assert {pair.shared for pair in alone.pairs} >= {"standard, image by dtd"}


def test_two_protocols_are_not_paired_and_a_leak_is_no_gain(store: Store):
    arm(store, 0.8)
    cats = {"protocol": "cats", "split": Split(kind="image", folds=3)}
    arm(store, 0.9, spec=cats, data={"siblings": 0.35})
    found = compare.compare(store, "cats", "standard")
    (pair,) = found.pairs
    assert not pair.paired and pair.classes == ()
    reach = pair.compared.difference.high - pair.compared.difference.low
    each = [e.high - e.low for e in (pair.first, pair.second)]
    assert reach == pytest.approx(np.linalg.norm(each), rel=0.05)
    assert "cats reads higher than standard" in found.conclusion
    assert any("LEAKY (35% of test images" in note for note in pair.notes)


def test_wilcoxon_is_over_targets_and_warns_of_few(store: Store):
    for target in "abcdef":
        arm(store, 0.8, target=target)
        arm(store, 0.7 + 0.001 * ord(target[0]) / 100, target=target, source="imagenet")
    found = compare.compare(store, "dtd", "imagenet")
    assert found.wilcoxon == pytest.approx(2 / 2**6)
    assert "dtd is better than imagenet in 6" in found.conclusion
    few = compare.compare(store, "dtd", "imagenet", targets=["a", "b"])
    assert "fewer than six cannot reach 0.05" in few.conclusion


# --- names and formats ------------------------------------------------------------------------


def test_names_that_cannot_be_compared_say_why(store: Store):
    with pytest.raises(BenchError, match="bench run"):
        compare.compare(store, "dtd", "imagenet")
    arm(store, 0.8)
    arm(store, 0.8, source="concat")
    arm(store, 0.8, fusion="concat")
    arm(store, 0.8, fusion="dtd")
    with pytest.raises(BenchError, match="compared with itself"):
        compare.compare(store, "dtd", "dtd")
    with pytest.raises(BenchError, match="Did you mean dtd"):
        compare.compare(store, "dtdd", "concat")
    with pytest.raises(BenchError, match="--by source"):
        compare.compare(store, "dtd", "concat")
    with pytest.raises(BenchError, match="Did you mean source"):
        compare.compare(store, "dtd", "concat", by="sauce")
    assert compare.compare(store, "dtd", "concat", by="fusion").kind == "fusion"
    with pytest.raises(BenchError, match="not two sources"):
        compare.compare(store, "dtd", "standard")


@pytest.mark.parametrize(("unit", "units"), [("lesion", "lesions"), ("", "images")])
def test_what_is_tested_and_resampled_has_its_own_word(store: Store, unit: str, units: str):
    for source in ("dtd", "imagenet"):
        run(store, source=source, folds=1, data={"unit": unit, "test_groups": 700})
    text = compare.show(store, "dtd", "imagenet")
    assert f"700 {units}" in text and f"second; {units} are resampled" in text
    assert "patient" not in text


def test_every_format_holds_every_pair(evaluated: Store):
    store = evaluated
    data = json.loads(compare.show(store, "dtd", "imagenet", format="json"))
    assert len(data["pairs"]) == 4 and data["conclusion"]
    assert data["pairs"][0]["compared"]["difference"]["low"] < 0
    lines = list(csv.DictReader(io.StringIO(compare.show(store, "dtd", "imagenet", format="csv"))))
    assert len(lines) == 4 * (1 + 3)
    text = compare.show(store, "dtd", "imagenet")
    assert data["conclusion"] in text and all(pair["sentence"] in text for pair in data["pairs"])
    marked = compare.show(store, "dtd", "imagenet", format="md")
    assert marked.startswith("## dtd against imagenet, by source\n")
    with pytest.raises(BenchError, match="No format"):
        compare.show(store, "dtd", "imagenet", format="yaml")


# --- other kinds, and not worse ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "names", "specs"),
    [
        ("mode", ("frozen", "finetune"), ({"mode": "frozen", "recipe": Recipe(epochs=3)}, {})),
        ("arch", ("resnet18", "resnet50"), ({"arch": "resnet18"}, {})),
        ("train_size", ("100", "all"), ({"train_size": "100"}, {})),
        (
            "augmentation",
            ("on", "off"),
            ({"protocol": "thomas-augmented", "recipe": Recipe(augment=Augment(rotation=90))},
             {"protocol": "thomas"}),
        ),
    ],
)  # fmt: skip
def test_what_else_may_differ(store: Store, kind: str, names: tuple[str, str], specs: tuple):
    for spec, value in zip(specs, (0.7, 0.8), strict=True):
        for source in ("dtd", "imagenet"):
            arm(store, value, source=source, spec=spec)
    found = compare.compare(store, *names, by=kind)
    assert (found.kind, found.names) == (kind, names)
    assert [pair.shared for pair in found.pairs] == sorted(pair.shared for pair in found.pairs)
    assert ["source dtd" in pair.shared for pair in found.pairs] == [True, False]
    assert all(pair.paired and pair.cells == 3 for pair in found.pairs)
    assert found.pairs[0].compared.difference.value == pytest.approx(-0.1)
    assert f"{names[0]} is better than {names[1]} in 0, worse in 2" in found.conclusion
    assert compare.compare(store, *names).kind == kind


def test_not_worse_is_one_sided_by_the_same_draws(store: Store):
    rng = np.random.default_rng(4)
    apart = rng.normal(-0.004, 0.004, 400)
    for fold in range(3):
        shared = 0.8 + shared_draws("isic", fold)
        run(store, fold=fold, value=0.796, draws=shared + apart)
        run(store, source="imagenet", fold=fold, value=0.8, draws=shared)
    (near,) = compare.compare(store, "dtd", "imagenet", margin=0.02).pairs
    (far,) = compare.compare(store, "dtd", "imagenet", margin=0.002).pairs
    assert near.not_worse == pytest.approx((np.sum(apart <= -0.02) + 1) / 401)
    assert far.not_worse == pytest.approx((np.sum(apart <= -0.002) + 1) / 401)
    said = compare.show(store, "dtd", "imagenet", margin=0.02)
    assert "dtd is not worse by more than 0.02, p = 0.002 (one-sided)" in said
    assert "p (not worse)" in said
    assert "dtd may be worse by more than 0.002" in compare.show(
        store, "dtd", "imagenet", margin=0.002
    )
    line, *_ = csv.DictReader(
        io.StringIO(compare.show(store, "dtd", "imagenet", margin=0.02, format="csv"))
    )
    assert float(line["p_not_worse"]) == pytest.approx(near.not_worse)
    data = json.loads(compare.show(store, "dtd", "imagenet", margin=0.02, format="json"))
    assert (data["margin"], data["pairs"][0]["not_worse"]) == (0.02, near.not_worse)
    (plain,) = compare.compare(store, "dtd", "imagenet").pairs
    assert np.isnan(plain.not_worse)


@pytest.mark.parametrize(("margin", "sure"), [(0.05, True), (0.0, False)])
def test_of_an_error_more_is_worse(store: Store, margin: float, sure: bool):
    for source, value in (("dtd", 0.12), ("imagenet", 0.10)):
        arm(store, value, source=source, spec={"headline": "ece"})
    (pair,) = compare.compare(store, "dtd", "imagenet", margin=margin).pairs
    assert (pair.not_worse < 0.05) == sure


def test_not_worse_of_other_patients_is_by_the_normal(store: Store):
    arm(store, 0.8)
    arm(store, 0.9, spec={"protocol": "cats", "split": Split(kind="image", folds=3)})
    (pair,) = compare.compare(store, "cats", "standard", margin=0.01).pairs
    error = (pair.compared.difference.high - pair.compared.difference.low) / (2 * 1.959964)
    assert pair.not_worse == pytest.approx(0.5 * normal_p(0.11, error))
