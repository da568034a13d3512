"""Columns that tell the label, or only name rows and patients, are found by what they hold."""

import numpy as np
import pytest

from benchmark.data import leaks
from benchmark.data.leaks import Cells, Rows, Told

N = 240
RNG = np.random.default_rng(3)
GROUPS = np.arange(N) // 3
LABELS = [("benign", "malignant", "rare")[i] for i in RNG.choice(3, N // 3, p=[0.6, 0.3, 0.1])]
LABELS = [LABELS[g] for g in GROUPS]
AGES = [str(round(50 + 12 * RNG.normal())) for _ in range(N // 3)]


def told(cells: list[str], labels: list[str] = LABELS, groups: np.ndarray = GROUPS) -> Told:
    return leaks.told(Cells("x", cells), Rows(labels, groups))


def noisy(shift: float) -> list[str]:
    rng = np.random.default_rng(0)
    return [f"{shift * (label == 'malignant') + rng.normal():.4f}" for label in LABELS]


@pytest.mark.parametrize(
    "cells",
    [
        [{"benign": "B", "malignant": "M", "rare": "R"}[label] for label in LABELS],
        [str(int(label == "malignant")) for label in LABELS],
        [f"{label[:3]} lump {i % 4}" for i, label in enumerate(LABELS)],
        ["given" if label == "malignant" else "" for label in LABELS],
        [label.upper() if i % 3 else "n/a" for i, label in enumerate(LABELS)],
        ["seen" * (LABELS[i] == "rare" and i // 3 % 2) for i in range(N)],
        noisy(9),
        [str(-float(cell)) for cell in noisy(9)],
        [f"{(i % 60) / 10 + 10 * (label == 'malignant') + 20 * (label == 'rare') - 5:.1f}"
         for i, label in enumerate(LABELS)],
    ],
    ids=["recoded", "0/1", "keywords", "given", "gaps", "some of one", "high", "low", "bands"],
)  # fmt: skip
def test_a_column_that_tells_the_label_is_refused(cells: list[str]) -> None:
    assert told(cells).refused


@pytest.mark.parametrize(
    "cells",
    [
        [AGES[g] for g in GROUPS],
        [("m", "f")[g % 2] for g in GROUPS],
        ["yes"] * N,
        [""] * N,
        [f"{i}" for i in range(N)],
        [f"{100 + g}" for g in GROUPS],  # constant in the group and different in each
        noisy(1.2),
    ],
    ids=["age", "sex", "constant", "missing", "row", "per group", "evidence"],
)
def test_what_only_speaks_for_a_class_is_taken(cells: list[str]) -> None:
    found = told(cells)
    assert not found.refused and not found.doubted


def test_between_the_two_it_is_doubted() -> None:
    found = told(noisy(2.6))
    assert found.doubted and 0.95 <= found.auroc < 0.99 and found.label == "malignant"
    assert "tells 'malignant' with an AUROC of 0.9" in str(found)


def test_the_auroc_is_the_real_one() -> None:
    from sklearn.metrics import roc_auc_score

    scores = noisy(2.6)
    expected = roc_auc_score([label == "malignant" for label in LABELS], np.array(scores, float))
    assert told(scores).auroc == pytest.approx(expected, abs=1e-9)


def test_rows_of_one_patient_are_no_evidence() -> None:
    """Each value is one patient's, so of one class: only ungrouped it would tell the label."""
    cells = [f"{170 + g / 10}" for g in GROUPS]
    assert not told(cells).refused
    assert told(cells, groups=np.arange(N)).refused


def test_few_rows_prove_nothing() -> None:
    labels = ["a", "b"] * 4
    assert not told(labels, labels, np.arange(8)).refused
    assert told(labels * 2, labels * 2, np.arange(16)).refused


def test_no_column_of_noise_is_refused() -> None:
    rng = np.random.default_rng(1)
    labels = [str(i) for i in rng.choice(12, 90, p=[0.45] + [0.05] * 11)]
    columns = [
        [str(v) for v in rng.integers(0, k, 90)] for k in (2, 5, 40, 10**6) for _ in range(60)
    ]
    found = [told(cells, labels, np.arange(90)) for cells in columns]
    assert len(found) == 240 and not any(one.refused for one in found)


@pytest.mark.parametrize(
    ("name", "cells", "is_one"),
    [
        ("patient_id", [f"{1000 + 7 * g}" for g in GROUPS], True),
        ("PatientID", [f"P{g:03d}" for g in GROUPS], True),
        ("Patient Age", [AGES[g] for g in GROUPS], False),
        ("stage", [f"T{g % 4}" for g in GROUPS], False),
        ("case", [("case", "control")[g % 2] for g in GROUPS], False),
        ("note", [f"text of {i}" for i in range(N)], True),
        ("who", [f"text of {g}" for g in GROUPS], True),
        ("Unnamed: 0", [str(i) for i in range(N)], True),
        ("n", [f"{i:05d}" for i in range(0, 7 * N, 7)], True),
        ("bmi", [f"{20 + i / 17:.3f}" for i in range(N)], False),
        ("platelets", [str(150000 + 999 * i) for i in range(N)], False),
        ("day", [f"2020-01-{i % 28 + 1:02d}" for i in range(N)], False),
    ],
)
def test_identifiers_are_found(name: str, cells: list[str], is_one: bool) -> None:
    assert bool(leaks.identifies(Cells(name, cells), Rows(LABELS, GROUPS))) == is_one


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"PatientID": 3, "lesion_id": 2}, "PatientID"),
        ({"code": 3}, "code"),
        ({"id": 1}, ""),
        ({"age": 3}, ""),
    ],
)
def test_the_column_to_group_by_is_suggested(names: dict[str, int], expected: str) -> None:
    def cells(name: str, size: int) -> list[str]:
        return [str(20 + i // size) if name == "age" else f"Q{i // size:03d}" for i in range(N)]

    columns = [Cells(name, cells(name, size)) for name, size in names.items()]
    assert leaks.grouping([*columns, Cells("sex", ["m", "f"] * (N // 2))]) == expected


def test_columns_that_say_nothing() -> None:
    assert "only missing" in leaks.nothing(Cells("x", ["", " NaN ", "n/a"]))
    assert "in every row" in leaks.nothing(Cells("x", ["1", " 1"]))
    assert not leaks.nothing(Cells("x", ["1", ""]))
