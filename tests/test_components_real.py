"""The readers on the real sets: counts known from their papers, and images that decode."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmark import registry
from benchmark.api import Sample, Source
from benchmark.data.download import find_root

pytestmark = pytest.mark.real


def read(name: str, data: Path) -> tuple[Source, list[Sample]]:
    component = registry.load("source", name)
    assert isinstance(component, Source)
    root = find_root(component, data, offline=True)
    return component, list(component.records(root))


def test_isic(real_data: Path) -> None:
    component, records = read("isic", real_data)
    assert len(records) == 10015
    assert len({record.group for record in records}) == 7470
    assert Counter(record.label for record in records) == {
        "NV": 6705, "MEL": 1113, "BKL": 1099, "BCC": 514, "AKIEC": 327, "VASC": 142, "DF": 115,
    }  # fmt: skip
    assert all(record.label.lower() == record.metadata["dx"] for record in records)
    assert sum(not record.metadata["age"] for record in records) == 57
    assert Counter(r.metadata["sex"] == "unknown" for r in records)[True] == 57
    assert Counter(r.metadata["localization"] == "unknown" for r in records)[True] == 234
    assert set(component.columns()) <= set(records[0].metadata)
    image, _ = component.decode(records[0], 112)
    assert image.shape == (112, 112, 3) and image.std() > 5


def test_dtd(real_data: Path) -> None:
    component, records = read("dtd", real_data)
    assert len(records) == 1200
    assert set(Counter(record.label for record in records).values()) == {120}
    assert len({record.label for record in records}) == 10
    assert component.decode(records[0], (30, 40))[0].shape == (30, 40, 3)


def test_chest_xray(real_data: Path) -> None:
    component, records = read("chest_xray", real_data)
    assert Counter((r.label, r.part) for r in records) == {
        ("NORMAL", "test"): 234,
        ("PNEUMONIA", "test"): 390,
    }
    assert not any(record.group for record in records)  # the patients' numbers are lost here
    image, _ = component.decode(records[0], 64)
    assert np.ptp(image, axis=-1).max() <= 12  # grey, as far as JPEG keeps it


def test_oasis(real_data: Path) -> None:
    component, records = read("oasis", real_data)
    assert len(records) == 588
    assert set(Counter(record.group for record in records).values()) == {3}
    assert Counter(record.label for record in records) == {"nondemented": 294, "demented": 294}
    for record in records:
        assert (float(record.metadata["CDR"]) > 0) == (record.label == "demented")
    assert component.decode(records[0], 176)[0].shape == (176, 176, 3)


def test_cifar10(real_data: Path) -> None:
    component, records = read("cifar10", real_data)
    assert len(records) == 9894
    assert len({record.label for record in records}) == 10
    assert component.decode(records[0], 32)[0].shape == (32, 32, 3)


def test_ptbxl(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    component, records = read("ptbxl", real_data)
    assert (
        "216 of 250 records have one superclass, 8 none and 26 several" in capsys.readouterr().err
    )
    assert Counter(record.label for record in records) == {
        "NORM": 162, "STTC": 20, "CD": 16, "MI": 14, "HYP": 4,
    }  # fmt: skip
    parts: dict[str, set[str]] = {}
    for record in records:
        assert record.group.isdecimal()
        parts.setdefault(record.group, set()).add(record.part)
    assert all(len(found) == 1 for found in parts.values())  # the folds keep patients whole
    image, text = component.decode(records[0], 96)
    assert image.shape == (96, 96, 3) and len(text) == 16
    assert component.decode(records[1], (48, 96))[0].shape == (48, 96, 3)


def test_ptbxl_as_sets_of_labels(real_data: Path) -> None:
    """Its own list of statements is the card's, and every record is there."""
    table = real_data / "ptbxl" / "scp_statements.csv"
    codes = [row[0] for row in csv.reader(table.open(newline=""))][1:]
    component, records = read("ptbxl:all", real_data)
    assert component.card.labels == tuple(codes) and len(records) == 250
    assert all(records_of.label for records_of in records)
    _, records = read("ptbxl:super", real_data)
    assert len(records) == 250
    assert Counter(min(len(record.label), 2) for record in records) == {1: 216, 0: 8, 2: 26}


def test_folder_reads_isic_with_its_table(real_data: Path) -> None:
    from benchmark.api import Input

    root = real_data / "isic2018"
    given = Input(
        path=root / "ISIC2018_Task3_Training_Input",
        metadata=root / "HAM10000_metadata.csv",
        label="dx",
        group="lesion_id",
    )
    component = registry.load("target", "folder:isic", given=given)
    records = list(component.records(given.path))
    assert len(records) == 10015 and len({record.group for record in records}) == 7470
    assert component.columns() == {
        "age": "numeric", "sex": "categorical", "localization": "categorical",
    }  # fmt: skip
