"""What every source and target keeps, shown on miniatures in the sets' own formats."""

import csv
import hashlib
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark import contract, registry, synthetic
from benchmark.api import FORBIDDEN, Experts, Input, Sample, Source, SourceCard, Target, TargetCard
from benchmark.data import label_sets
from benchmark.data.download import find_root
from benchmark.errors import BenchError, DataMissing

ROOT = Path(__file__).resolve().parent.parent


def _names() -> list[str]:
    found = []
    for package in ("sources", "targets"):
        for path in sorted((ROOT / package).glob("[a-z]*.py")):
            variants = registry.load("source", path.stem).variants or ("",)
            found += [f"{path.stem}:{v}" if v not in ("", "*") else path.stem for v in variants]
    return found


NAMES = _names()
FAMILIES = ("folder", "hub", "openml", "timm", "weights")  # a user names one of them
WITH_IMAGES = [name for name in NAMES if name not in ("hub", "radimagenet", "timm", "weights")]


@cache
def load(name: str) -> Source:
    component = registry.load("source", name)
    assert isinstance(component, Source)
    return component


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The data folder with the miniature of a set, written once; it must be left as it is."""

    @cache
    def write(base: str) -> Path:
        component, data = load(base), tmp_path_factory.mktemp(base)
        own = "openml" if base == "openml" else "own"
        root = data / (component.card.folders or (own,))[0]
        root.mkdir()
        component.fake(root, 0)
        return data

    return lambda name: write(name.partition(":")[0])


def opened(name: str, data: Path) -> tuple[Source, Path]:
    """The component and its root; a user's folder needs to be named."""
    if name != "folder":
        return load(name), find_root(load(name), data, offline=True)
    given = Input(path=data / "own", metadata=data / "own" / "table.csv", group="patient")
    component = registry.load("target", f"folder:{data / 'own'}", given=given)
    return component, find_root(component, data)


@pytest.fixture(scope="module")
def read(miniature: Callable[[str], Path]) -> Callable[[str], list[Sample]]:
    @cache
    def records(name: str) -> list[Sample]:
        component, root = opened(name, miniature(name))
        return list(component.records(root))

    return records


def test_every_file_is_found() -> None:
    assert {"imagenet:scratch", "stl10", "sti10", "dtd", "kimia", "cifar10", "patterns:near",
            "weights"} < {*NAMES}  # fmt: skip
    assert {"isic", "chest_xray", "pcam:middle", "pcam:small", "ptbxl:100", "adni:ad", "adni:mci",
            "oasis", "folder", "demo:skin", "demo:grey"} < {*NAMES}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_card(name: str) -> None:
    component = load(name)
    card = component.card
    assert isinstance(card, SourceCard)
    contract._card(component)  # as `bench check` holds everybody's
    assert card.origin in ("natural", "medical", "synthetic")
    assert card.channels in (1, 3)
    base = name.partition(":")[0]
    if base not in FAMILIES:
        assert card.classes > 1 and card.images > 10
        assert isinstance(card.experts, Experts)
        assert card.experts.medical in ("medical", "natural")
        assert card.experts.colour in ("grey", "colour")
        assert card.experts.content in ("objects", "textures", "both")
        assert card.experts.diversity in ("low", "medium", "high")
        assert card.experts.classes in ("binary", "many")
        assert (card.experts.colour == "grey") == (card.channels == 1)
    if card.folders:  # a set that lies somewhere can be had somewhere
        assert card.files or "account" in card.steps or "Ask" in card.steps
    for file in card.files:
        assert file.url.startswith("http")
        assert file.hash.startswith(("md5:", "sha256:")) or "no hash" in file.note
    assert isinstance(component, Target) == (ROOT / "targets" / f"{base}.py").is_file()
    if isinstance(card, TargetCard):
        assert not card.columns.keys() & card.warned.keys()
        assert all(reason for reason in (*card.forbidden.values(), *card.warned.values()))
        assert card.task and (not card.labels or len(card.labels) == card.classes)
        assert not set(card.columns) & {"dx", "dx_type", "CDR", "scp_codes", "strat_fold"}


@pytest.mark.parametrize("name", WITH_IMAGES)
def test_records(name: str, read: Callable[[str], list[Sample]]) -> None:
    component, records = load(name), read(name)
    assert len(records) >= 40
    assert len({record.name for record in records}) == len(records)
    several = isinstance(component.card, TargetCard) and component.card.multilabel
    assert all(isinstance(record.label, tuple) == several for record in records)
    labels = {*label_sets.names_of([record.label for record in records])}
    assert len(labels) >= 2 and all(labels)
    if isinstance(component.card, TargetCard) and component.card.labels:
        assert labels <= set(component.card.labels)
    for record in records:
        assert isinstance(record.group, str) and record.group == record.group.strip()
        assert record.part in ("", "train", "val", "valid", "validation", "test")
        assert all(isinstance(cell, str) for cell in record.metadata.values())
    groups = defaultdict(set)
    for i, record in enumerate(records):
        for label in record.label if isinstance(record.label, tuple) else (record.label,):
            groups[label].add(record.group or i)
    assert min(len(found) for found in groups.values()) >= 8  # five folds can be made


@pytest.mark.parametrize("name", [n for n in WITH_IMAGES if isinstance(load(n), Target)])
def test_the_record_has_what_the_card_says(name: str, read: Callable[[str], list[Sample]]) -> None:
    component, records = load(name), read(name)
    card = component.card
    assert isinstance(card, TargetCard)
    for column in (*card.columns, *card.subgroups):
        assert all(column in record.metadata for record in records)
    assert bool(card.group) == any(record.group for record in records) or name == "folder"
    if card.group:
        assert len({record.group for record in records}) < len(records)


#: As ptbxl:100 and ptbxl:500 are read.
ALIKE = ("ptbxl:super", "ptbxl:super-500", "ptbxl:all", "ptbxl:all-500")


@pytest.mark.parametrize("name", [name for name in WITH_IMAGES if name not in ALIKE])
def test_decode(
    name: str, read: Callable[[str], list[Sample]], miniature: Callable[[str], Path]
) -> None:
    component, _ = opened(name, miniature(name))
    few = read(name)[:3]
    size = (20, 28)
    first = [component.decode(record, size) for record in few]
    for image, text in first:
        assert image.shape == (20, 28, 3) and image.dtype == np.uint8
        assert len(text) == 16 and int(text, 16) >= 0
    again = [component.decode(record, size) for record in few]
    assert all(
        np.array_equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, again, strict=True)
    )
    assert len({text for _, text in first}) == 3
    square, text = component.decode(few[0], 24)
    assert square.shape == (24, 24, 3) and text == first[0][1]  # the hash knows no size


def _digest(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("base", sorted({name.partition(":")[0] for name in NAMES}))
def test_fake_is_the_same_for_the_same_seed(
    base: str, miniature: Callable[[str], Path], tmp_path: Path
) -> None:
    component = load(base)
    component.fake(tmp_path, 0)
    assert _digest(tmp_path) == _digest(next(miniature(base).iterdir()))


@pytest.mark.parametrize("name", ["patterns:middle", "demo:skin", "demo:grey"])
def test_what_is_made_on_the_spot_is_always_the_same(
    name: str, read: Callable[[str], list[Sample]]
) -> None:
    first, second = read(name), list(load(name).records(Path("absent")))
    assert len(first) > 50
    for a, b in zip(first, second, strict=True):
        assert isinstance(a.image, np.ndarray) and np.array_equal(a.image, np.asarray(b.image))
        assert (a.label, a.group, a.metadata) == (b.label, b.group, b.metadata)


# van den Brandt et al. 2021, published/cats/expert_distances.csv; see kimia.py about its 3.
EXPERTS = {
    "chest_xray": "chest_xray 0, isic 2, kimia 3, pcam 4, sti10 6, stl10 6, dtd 6, imagenet 6",
    "isic": "chest_xray 2, isic 0, kimia 3, pcam 3, sti10 5, stl10 5, dtd 5, imagenet 5",
    "pcam": "chest_xray 4, isic 3, kimia 0, pcam 0, sti10 3, stl10 4, dtd 3, imagenet 4",
}


@pytest.mark.parametrize("target", EXPERTS)
def test_the_cards_give_the_published_expert_distances(target: str) -> None:
    for pair in EXPERTS[target].split(", "):
        source, published = pair.split()
        a, b = load(target).card.experts, load(source).card.experts
        assert a is not None and b is not None
        found = sum(x != y for x, y in zip(vars(a).values(), vars(b).values(), strict=True))
        assert found == (4 if (target, source) == ("chest_xray", "kimia") else int(published))


# --- what cannot be read is named -------------------------------------------------------------


@pytest.fixture
def copied(miniature: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a miniature's root that a test may spoil."""

    def copy(name: str) -> Path:
        folder = load(name).card.folders[0]
        return Path(shutil.copytree(miniature(name) / folder, tmp_path / folder))

    return copy


def _fails(name: str, root: Path, match: str, kind: type[BenchError] = BenchError) -> None:
    with pytest.raises(kind, match=match):
        list(load(name).records(root))


def _edit(path: Path, change: Callable[[list[list[str]]], object]) -> None:
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


TRUTH = "ISIC2018_Task3_Training_GroundTruth"


@pytest.mark.parametrize(
    ("name", "table", "image"),
    [
        ("isic", f"{TRUTH}/{TRUTH}.csv", "ISIC2018_Task3_Training_Input/ISIC_0024310.jpg"),
        ("isic", "HAM10000_metadata.csv", "ISIC2018_Task3_Training_Input/ISIC_0024310.jpg"),
        ("oasis", "labels.csv", "images/OAS1_0002_MR1_c.jpg"),
    ],
)
def test_a_table_and_its_images_must_fit(
    name: str, table: str, image: str, copied: Callable[[str], Path]
) -> None:
    root = copied(name)
    (root / image).rename(root / "kept.tmp")
    _fails(name, root, rf"1 rows without an image \(.*{Path(image).stem}")
    (root / "kept.tmp").rename(root / image)
    _edit(root / table, lambda rows: rows.pop(5))
    _fails(name, root, rf"{Path(table).name} does not fit its images: 1 images without a row")


@pytest.mark.parametrize(
    ("name", "table", "column"),
    [
        ("isic", f"{TRUTH}/{TRUTH}.csv", "BKL"),
        ("isic", "HAM10000_metadata.csv", "lesion_id"),
        ("oasis", "labels.csv", "subject"),
        ("ptbxl", "ptbxl_database.csv", "patient_id"),
        ("ptbxl", "scp_statements.csv", "diagnostic_class"),
        ("adni", "clinical.csv", "apoe4"),
        ("pcam", "camelyonpatch_level_2_split_test_meta.csv", "wsi"),
    ],
)
def test_a_missing_column_is_named(
    name: str, table: str, column: str, copied: Callable[[str], Path]
) -> None:
    root = copied(name)
    _edit(root / table, lambda rows: rows[0].__setitem__(rows[0].index(column), "x"))
    _fails(name, root, f"{Path(table).name} has no column '{column}'")


@pytest.mark.parametrize(
    ("name", "lost", "what"),
    [
        ("stl10", "train_y.bin", r"train_y\.bin"),
        ("cifar10", "data_batch_3.bin", r"data_batch_3\.bin"),
        ("dtd", "images", "images/banded"),
        ("imagenet:scratch", "train", "train"),
        ("sti10", "n09376198", "1 of the ten synsets"),
        ("chest_xray", "train/NORMAL", "train/NORMAL"),
        ("pcam", "camelyonpatch_level_2_split_train_x.h5", "train_x"),
        ("ptbxl", "scp_statements.csv", r"scp_statements\.csv"),
        ("adni", "clinical.csv", r"clinical\.csv"),
        ("oasis", "labels.csv", r"labels\.csv"),
        ("isic", f"{TRUTH}", r"GroundTruth\.csv is not there"),
    ],
)
def test_a_missing_part_is_data_missing(
    name: str, lost: str, what: str, copied: Callable[[str], Path]
) -> None:
    root = copied(name.partition(":")[0])
    shutil.rmtree(root / lost) if (root / lost).is_dir() else (root / lost).unlink()
    _fails(name, root, what, DataMissing)


def test_a_cut_image_is_named(copied: Callable[[str], Path]) -> None:
    root = copied("isic")
    path = root / "ISIC2018_Task3_Training_Input" / "ISIC_0024310.jpg"
    path.write_bytes(path.read_bytes()[:300])
    record = next(r for r in load("isic").records(root) if r.name == "ISIC_0024310")
    with pytest.raises(BenchError, match="ISIC_0024310"):
        load("isic").decode(record, 24)


@pytest.mark.parametrize("left", [0, -700])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("stl10", "test_X.bin"),
        ("cifar10", "test_batch.bin"),
        ("pcam", "camelyonpatch_level_2_split_valid_y.h5"),
    ],
)
def test_a_cut_file_is_named(
    name: str, file: str, left: int, copied: Callable[[str], Path]
) -> None:
    root = copied(name)
    (root / file).write_bytes((root / file).read_bytes()[:left])
    _fails(name, root, Path(file).stem.removesuffix("_X"))


def test_cifar10_pickles_are_never_read(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04.")
    _fails("cifar10", tmp_path, "pickles", DataMissing)


def test_isic_without_metadata_has_lesions_or_warns(
    copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = copied("isic")
    with (root / "HAM10000_metadata.csv").open() as file:
        rows = [(row["image_id"], row["lesion_id"]) for row in csv.DictReader(file)]
    (root / "HAM10000_metadata.csv").unlink()
    records = list(load("isic").records(root))
    assert len(records) == 84 and not any(r.group or r.metadata for r in records)
    assert "images of one lesion may part" in caplog.text
    table = root / "ISIC2018_Task3_Training_LesionGroupings.csv"
    lines = [f"{image},{lesion},histo" for image, lesion in rows]
    table.write_text("\n".join(["image,lesion_id,diagnosis_confirm_type", *lines]) + "\n")
    groups = {r.name: r.group for r in load("isic").records(root)}
    assert groups == dict(rows)


def test_isic_keeps_what_leaks_out_of_the_inputs(read: Callable[[str], list[Sample]]) -> None:
    card = load("isic").card
    assert isinstance(card, TargetCard)
    assert set(card.columns) == {"age", "sex", "localization"}
    assert {"dx", "dx_type"} <= set(card.forbidden) & set(read("isic")[0].metadata)


def test_isic_with_two_labels(copied: Callable[[str], Path]) -> None:
    root = copied("isic")
    _edit(root / TRUTH / f"{TRUTH}.csv", lambda rows: rows[3].__setitem__(slice(1, 4), ["1.0"] * 3))
    _fails("isic", root, "gives ‹ISIC_0024308› 3 labels")


def test_chest_xray_patients(read: Callable[[str], list[Sample]]) -> None:
    groups = Counter(record.group for record in read("chest_xray"))
    assert groups["person0"] == 2  # a bacterial and a viral image of one child
    assert groups["IM-0100"] == 1 and groups["NORMAL2-IM-0102"] == 1


@pytest.mark.parametrize(
    ("file", "group"),
    [
        ("person1949_bacteria_4880.jpeg", "person1949"),
        ("person1_virus_6.jpeg", "person1"),
        ("BACTERIA-1008087-0001.jpeg", "BACTERIA-1008087"),
        ("NORMAL-1003233-0002.jpeg", "NORMAL-1003233"),
        ("IM-0115-0001.jpeg", "IM-0115"),
        ("NORMAL2-IM-1427-0001-0002.jpeg", "NORMAL2-IM-1427"),
        ("chest_7.jpeg", ""),
    ],
)
def test_chest_xray_file_names(file: str, group: str, tmp_path: Path) -> None:
    for label, name in (("PNEUMONIA", file), ("NORMAL", "other.jpeg")):
        (tmp_path / "test" / label).mkdir(parents=True)
        (tmp_path / "test" / label / name).touch()
    records = {r.label: r for r in load("chest_xray").records(tmp_path)}
    assert records["PNEUMONIA"].group == group


def test_pcam_samples_are_stratified_and_seeded(
    miniature: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = find_root(load("pcam"), miniature("pcam"), offline=True)
    module = sys.modules["targets.pcam"]
    monkeypatch.setattr(module, "SAMPLES", {"middle": (40, 2, 50), "small": (20, 22, 70)})
    found = {}
    for variant in ("middle", "small"):
        records = list(registry.load("target", f"pcam:{variant}").records(root))
        names = [record.name for record in records]
        again = [r.name for r in registry.load("target", f"pcam:{variant}").records(root)]
        assert names == again
        assert len(set(names)) == len(names)
        assert set(Counter(r.label for r in records).values()) == {len(records) // 2}
        found[variant] = set(names)
    assert (len(found["middle"]), len(found["small"])) == (40, 20)
    assert 0 < len(found["middle"] & found["small"]) < 20


def test_pcam_with_a_cut_table_of_slides(copied: Callable[[str], Path]) -> None:
    root = copied("pcam")
    _edit(root / "camelyonpatch_level_2_split_valid_meta.csv", lambda rows: rows.pop())
    _fails("pcam:full", root, r"The valid meta\.csv of .* does not fit")


def test_pcam_without_slides_warns(
    copied: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = copied("pcam")
    for table in root.glob("*_meta.csv"):
        table.unlink()
    assert not any(sample.group for sample in load("pcam:small").records(root))
    assert "patches of a slide may part" in caplog.text


def test_ptbxl_labels_and_folds(copied: Callable[[str], Path]) -> None:
    root = copied("ptbxl")

    def change(rows: list[list[str]]) -> None:
        codes = rows[0].index("scp_codes")
        rows[1][codes] = "{'NORM': 80.0, 'IMI': 15.0}"  # two superclasses: left out
        rows[2][codes] = "{'SR': 0.0}"  # none: left out
        rows[3][codes] = "{'IMI': 0.0}"  # the likelihood does not count

    _edit(root / "ptbxl_database.csv", change)
    records = {sample.name: sample for sample in load("ptbxl").records(root)}
    assert len(records) == 53 and "ecg-1" not in records and "ecg-2" not in records
    assert records["ecg-3"].label == "MI"
    assert records["ecg-7"].metadata["age"] == "300.0"
    assert records["ecg-5"].group == records["ecg-6"].group == "5"
    # strat_fold is the patient's number modulo 10, plus 1.
    assert Counter(r.part for r in records.values()) == {"train": 44, "val": 3, "test": 6}
    _edit(root / "ptbxl_database.csv", lambda rows: rows[4].__setitem__(8, "__import__('os')"))
    _fails("ptbxl", root, "Record 4 of ptbxl_database.csv has unreadable scp_codes")


def test_ptbxl_as_sets_of_labels(copied: Callable[[str], Path]) -> None:
    root = copied("ptbxl")

    def change(rows: list[list[str]]) -> None:
        codes = rows[0].index("scp_codes")
        rows[1][codes] = "{'NORM': 80.0, 'IMI': 0.0, 'NDT': 15.0}"  # the likelihood does not count
        rows[2][codes] = "{'SR': 0.0}"

    _edit(root / "ptbxl_database.csv", change)
    records = {one.name: one for one in load("ptbxl:super").records(root)}
    assert len(records) == 75
    assert records["ecg-1"].label == ("MI", "NORM", "STTC") and records["ecg-2"].label == ()
    assert {one.part for one in records.values() if not one.label} == {"train", "val", "test"}
    every = {one.name: one for one in load("ptbxl:all-500").records(root)}
    assert every["ecg-1"].label == ("IMI", "NDT", "NORM") and every["ecg-2"].label == ("SR",)
    assert "records500" in str(every["ecg-1"].image)
    assert len(load("ptbxl:all").card.labels) == len({*load("ptbxl:all").card.labels}) == 71


def test_ptbxl_missing_record(copied: Callable[[str], Path]) -> None:
    root = copied("ptbxl")
    (root / "records500/00000/00007_hr.hea").unlink()
    assert len(list(load("ptbxl:100").records(root))) == 55
    _fails("ptbxl:500", root, r"1 rows without an image \(‹records500/00000/00007_hr›\)")


def test_adni_needs_the_subject_in_the_path(copied: Callable[[str], Path]) -> None:
    root = copied("adni")
    (root / "slices" / "stray.png").write_bytes(b"")
    _fails("adni:ad", root, r"stray\.png has no subject's id")


def test_oasis_without_subject(copied: Callable[[str], Path]) -> None:
    root = copied("oasis")
    _edit(root / "labels.csv", lambda rows: rows[1].__setitem__(2, ""))
    _fails("oasis", root, "no usable label or subject for ‹images/OAS1_0001_MR1_a.jpg›")


def test_weights_of_ones_own_have_no_images() -> None:
    component = registry.load("source", "weights:mine")
    assert component.card.given and "mine" in component.card.title
    with pytest.raises(BenchError, match="weights:mine is a file of weights"):
        component.records(Path())


def test_imagenet_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.train import network

    def unreachable(*args: object, **kwargs: object) -> None:
        raise FileNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr(network.timm, "create_model", unreachable)
    component = registry.load("source", "imagenet")
    with pytest.raises(DataMissing, match="bench weights add"):
        component.pretrained("resnet18")
    with pytest.raises(BenchError, match="No network named 'resnet7'"):
        component.pretrained("resnet7")
    assert registry.load("source", "imagenet:scratch").pretrained("resnet18") is None


def test_the_demo_depends_on_image_and_record() -> None:
    """An oracle that reads both evidences perfectly; the numbers are the task's upper bounds."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    found = synthetic.lesions()

    def auroc(*columns: np.ndarray) -> float:
        x = np.stack(columns, axis=1)
        scores = cross_val_predict(
            LogisticRegression(), x, found.labels, groups=found.lesions, cv=GroupKFold(5),
            method="decision_function",
        )  # fmt: skip
        return float(roc_auc_score(found.labels, np.asarray(scores)))

    assert 0.75 < auroc(found.image_evidence) < 0.82
    assert 0.67 < auroc(found.record_evidence) < 0.75
    assert 0.85 < auroc(found.image_evidence, found.record_evidence) < 0.90
    assert set(np.bincount(found.lesions)) == {1, 2, 3}
    assert 0.3 < found.labels.mean() < 0.7
    assert any(not row["age"] for row in found.rows)
    assert any(row["site"] == "unknown" for row in found.rows)


def test_the_signs_of_the_demo_are_told_by_the_record_the_look_or_both(tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    made, found = list(load("demo:signs").records(tmp_path)), synthetic.lesions()
    has = {
        name: np.array([name in one.label for one in made])
        for name in ("malignant", "dotted", "weathered")
    }
    read = {"look": found.image_evidence, "record": found.record_evidence}
    told = {(n, w): float(roc_auc_score(y, x)) for n, y in has.items() for w, x in read.items()}
    assert told["dotted", "look"] == told["weathered", "record"] == 1
    assert all(0.4 < told[one] < 0.6 for one in (("dotted", "record"), ("weathered", "look")))
    assert min(told["malignant", what] for what in read) > 0.65
    count = np.sum([*has.values()], axis=0)
    assert set(count) == {0, 1, 2, 3}, "none, some and all"


# --- a folder of one's own ------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Six images, in no folder of a class."""
    for i in range(6):
        folder = tmp_path / "own" / ("x", "y")[i % 2]
        image = np.full((8, 8, 3), 40 * i, np.uint8)
        synthetic.save(image, folder / f"im{i}.png")
    return tmp_path / "own"


def _table(own: Path, text: str, **more: Any) -> Target:
    (own / "t.csv").write_text(text)
    given = Input(path=own, metadata=own / "t.csv", **more)
    component = registry.load("target", f"folder:{own}", given=given)
    assert isinstance(component, Target)
    return component


def _rows(component: Source, own: Path) -> list[Sample]:
    return list(component.records(find_root(component, Path("data"))))


LINES = [
    f"im{i}.png,{'ab'[i // 2 % 2]},P{i // 2},{20.5 + i},{('red', 'blue')[i % 2]}" for i in range(6)
]


def test_folder_by_class(own: Path) -> None:
    records = _rows(registry.load("target", f"folder:{own}"), own)
    assert [(r.name, r.label) for r in records][:2] == [("x/im0.png", "x"), ("x/im2.png", "x")]
    assert len(records) == 6 and {r.part for r in records} == {""}


def test_folder_with_official_parts(own: Path) -> None:
    for part in ("train", "test"):
        shutil.copytree(own, own.parent / "parted" / part)
    records = _rows(registry.load("target", f"folder:{own.parent / 'parted'}"), own)
    assert Counter((r.part, r.label) for r in records) == Counter(
        {("train", "x"): 3, ("train", "y"): 3, ("test", "x"): 3, ("test", "y"): 3}
    )


@pytest.mark.parametrize("spelling", ["{0}/im{1}.png", "{0}/im{1}", "im{1}.png", "im{1}", "./{0}/im{1}.png", "{0}\\im{1}.png"])  # fmt: skip # noqa: E501
def test_folder_by_table_however_images_are_spelt(own: Path, spelling: str) -> None:
    lines = ["colour,pic,grade,who,age"]
    for i in reversed(range(6)):
        colour, grade = ("red", "blue")[i % 2], "ab"[i // 2 % 2]
        lines.append(f"{colour},{spelling.format('xy'[i % 2], i)},{grade},P{i // 2},{30 + i}")
    component = _table(own, "\n".join(lines), label="grade", group="who")
    records = _rows(component, own)
    assert (records[0].name, records[0].label, records[0].group) == ("y/im5.png", "a", "P2")
    assert records[0].metadata == {"colour": "blue", "age": "35"}
    assert component.columns() == {"colour": "categorical", "age": "numeric"}


def test_folder_columns_leave_out_what_leaks(own: Path) -> None:
    header = "image,kind,who,age,colour,Diagnosis_2,CDR,site,mmse,id,cls"
    lines = [f"{line},d,0,s,3,{i}z,{'xy'[i % 2]}" for i, line in enumerate(LINES)]
    component = _table(own, "\n".join([header, *lines]), group="who")
    assert component.columns() == {"kind": "categorical", "age": "numeric", "colour": "categorical"}
    assert component.card.group == "who" and "cdr" in FORBIDDEN
    assert {"CDR", "site", "cls"} <= set(_rows(component, own)[0].metadata)


def test_folder_one_hot(own: Path) -> None:
    lines = ["image,a,b,c", *(f"im{i},{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}" for i in range(6))]  # fmt: skip # noqa: E501
    records = _rows(_table(own, "\n".join(lines), label="a, b,c"), own)
    assert sorted((r.name[-7:-4], r.label) for r in records)[:3] == [
        ("im0", "a"), ("im1", "b"), ("im2", "c"),
    ]  # fmt: skip


def test_folder_of_label_sets(own: Path) -> None:
    """Columns of 0 and 1, or one column with a separator: the same sets."""
    sets = ["a;b", "b", ";", "a; b ;c", "c", "b;c"]
    hot = [",".join(str(int(name in text)) for name in "abc") for text in sets]
    lines = ["image,a,b,c", *(f"im{i},{hot[i]}" for i in range(6))]
    columns = _table(own, "\n".join(lines), label="a,b,c")
    want = {f"im{i}": tuple(name for name in "abc" if name in sets[i]) for i in range(6)}
    assert {r.name[2:5]: r.label for r in _rows(columns, own)} == want
    (said,) = (note for note in columns.look().notes if "multi-label" in note)
    assert "any number of the 3 labels" in said and "3 have several and 1 none" in said
    lines = ["image,find", *(f'im{i},"{sets[i]}"' for i in range(6))]
    column = _table(own, "\n".join(lines), label="find", separator=";")
    assert {r.name[2:5]: r.label for r in _rows(column, own)} == want
    other = _table(own, "\n".join(lines), label="find", separator="|").fingerprint()
    assert column.fingerprint() != other
    lines[3] = "im2,"
    gone = _table(own, "\n".join(lines), label="find", separator=";")
    assert len(_rows(gone, own)) == 5 and "1 rows have no find" in gone.look().notes[0]


ONES = ["im0,1,0", "im1,1,1", "im2,0,0", "im3,0,1", "im4,1,0", "im5,0,1"]


@pytest.mark.parametrize(
    ("lines", "more", "match"),
    [
        ([*ONES[:-1], "im5,1,maybe"], {}, r"‹im5\.png› has neither 0 nor 1 in the column b"),
        ([*ONES[:-1], "im5,,1"], {}, r"‹im5\.png› has neither 0 nor 1 in the column a"),
        ([line[:-1] + "0" for line in ONES], {}, "No image has a 1 in the column b"),
        ([ONES[0], *ONES[2:], "im1,0,0"], {}, "2 images have no 1 in the columns a, b, and none"),
        ([f"im{i},1,{i % 2}" for i in range(6)], {}, "Every image of t.csv is labelled 'a'"),
        (ONES, {"separator": ";"}, "--separator parts the labels in the cells of one column"),
        ([f"im{i},;x," for i in range(6)], {"label": "a", "separator": ";"}, "and has 1 labels"),
        (ONES, {"label": None, "separator": ";"}, "--separator parts"),
    ],
)  # fmt: skip
def test_folder_refuses_what_is_no_set_of_labels(
    own: Path, lines: list[str], more: dict[str, Any], match: str
) -> None:
    _own_fails(own, "\n".join(["image,a,b", *lines]), match, **{"label": "a,b", **more})


def _own_fails(own: Path, text: str, match: str, **more: Any) -> None:
    with pytest.raises(BenchError, match=match):
        _rows(_table(own, text, **more), own)


HEAD = "image,grade,who,age,colour"


@pytest.mark.parametrize(
    ("lines", "more", "match"),
    [
        ([*LINES, "im9.png,a,P9,1,red"], {}, r"1 rows without an image \(‹im9\.png›\)"),
        (LINES[:-2], {}, r"2 images without a row \(‹x/im4\.png›, ‹y/im5\.png›\) of 4 rows and 6"),
        ([*LINES, LINES[0]], {}, r"two rows for ‹x/im0\.png›"),
        ([*LINES, LINES[0].replace("im0.png", "x/im0")], {}, r"two rows for ‹x/im0\.png›"),
        ([], {}, "has no rows"),
        (LINES, {"label": "grad"}, r"t\.csv has no column 'grad'"),
        (LINES, {"group": "patient"}, r"t\.csv has no column 'patient'"),
        (LINES, {"image": "file"}, r"t\.csv has no column 'file'"),
        (LINES, {"label": "age"}, "that is a measurement"),
        ([line.replace(",a,", ", NaN,").replace(",b,", ",,") for line in LINES], {}, "has a grade"),
        (
            [*LINES[:-1], "im5.png,a|b,P2,1,red"],
            {},
            r"grade 'a\|b' names several .*--separator '\|'",
        ),
        ([*LINES[:-1], "im5.png,a;b,P2,1,red"], {}, "names several classes"),
        ([*LINES[:-1], "im5.png,a,,1,red"], {"group": "who"}, r"row of ‹im5\.png› has no who"),
        ([f"q{line}" for line in LINES], {}, "No column of the table names the images"),
    ],
)
def test_folder_refuses(own: Path, lines: list[str], more: dict[str, str], match: str) -> None:
    _own_fails(own, "\n".join([HEAD, *lines]) + "\n", match, **{"label": "grade", **more})


def test_folder_takes_few_whole_numbers_as_classes(own: Path) -> None:
    lines = [line.replace(",a,", ",0,").replace(",b,", ",1.0,") for line in LINES]
    records = _rows(_table(own, "\n".join([HEAD, *lines]), label="grade"), own)
    assert {record.label for record in records} == {"0", "1.0"}


def test_folder_named_in_the_table_from_further_up(own: Path) -> None:
    plain = _rows(_table(own, "\n".join([HEAD, *LINES]), label="grade"), own)
    above = "\n".join([HEAD, *(f"data/set/{line}" for line in LINES)])
    assert [row.name for row in _rows(_table(own, above, label="grade"), own)] == [
        row.name for row in plain
    ]
    apart = "\n".join([HEAD, *(f"{'ab'[i % 2]}/{line}" for i, line in enumerate(LINES))])
    _own_fails(own, apart, "No column of the table names the images", label="grade")


def test_folder_with_two_images_of_one_name(own: Path) -> None:
    shutil.copy(own / "x/im0.png", own / "y/im0.png")
    _own_fails(own, "\n".join([HEAD, *LINES]), r"‹im0\.png› in t\.csv fits 2 images", label="grade")


def test_folder_needs_a_label(own: Path) -> None:
    shutil.rmtree(own / "y")
    lines = [line for i, line in enumerate(LINES) if i % 2 == 0]
    _own_fails(own, "\n".join([HEAD, *lines]), "No label was named.*one of: image, grade")
    with pytest.raises(BenchError, match="no table"):
        given = Input(path=own, label="grade")
        list(registry.load("target", "folder:x", given=given).records(own))


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz", "v.npy"])
def test_folder_refuses_volumes(own: Path, name: str) -> None:
    (own / "x" / name).touch()
    with pytest.raises(BenchError, match=rf"{name}› is a volume or an array, and only flat images"):
        _rows(registry.load("target", f"folder:{own}"), own)


def test_folder_refuses_images_in_no_class_and_empty_folders(own: Path, tmp_path: Path) -> None:
    shutil.copy(own / "x/im0.png", own / "loose.png")
    with pytest.raises(BenchError, match="1 images lie in no class folder"):
        _rows(registry.load("target", f"folder:{own}"), own)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="There are no images below"):
        _rows(registry.load("target", f"folder:{tmp_path / 'empty'}"), own)
    with pytest.raises(DataMissing, match="There is no"):
        _rows(registry.load("target", f"folder:{tmp_path / 'absent'}"), own)


@pytest.mark.parametrize("frames", [1, 3])
def test_folder_dicom(own: Path, frames: int) -> None:
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.Rows, data.Columns, data.SamplesPerPixel, data.NumberOfFrames = 4, 5, 1, frames
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 0
    data.PhotometricInterpretation = "MONOCHROME1"
    data.PixelData = np.arange(20 * frames, dtype="<u2").tobytes()
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.save_as(own / "x" / "scan.dcm", enforce_file_format=True)
    component = registry.load("target", f"folder:{own}")
    record = next(r for r in _rows(component, own) if r.name == "x/scan.dcm")
    if frames == 1:
        component.white = 19
        image, _ = component.decode(record, (4, 5))
        assert image[0, 0].tolist() == [255] * 3 and image[3, 4].tolist() == [0] * 3
    else:
        with pytest.raises(BenchError, match="holds several frames"):
            component.decode(record, (4, 5))


def test_folder_fingerprint_tells_the_data_apart(own: Path) -> None:
    text = "\n".join([HEAD, *LINES])
    first = _table(own, text, label="grade").fingerprint()
    assert _table(own, text, label="grade").fingerprint() == first
    assert _table(own, text, label="colour").fingerprint() != first
    assert _table(own, text + "\n", label="grade").fingerprint() != first
    moved = Path(shutil.copytree(own, own.parent / "moved"))
    assert _table(moved, text, label="grade").fingerprint() == first
    Image.new("RGB", (30, 30)).save(own / "x" / "im0.png")
    assert _table(own, text, label="grade").fingerprint() != first
