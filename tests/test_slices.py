"""Volumes become flat images that the MRI targets and own folders read."""

import builtins
import csv
import gzip
from pathlib import Path
from unittest import mock

import nibabel
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmark import registry
from benchmark.api import Source
from benchmark.cli import app
from benchmark.data import slices
from benchmark.errors import BenchError
from benchmark.plan.record import columns_of
from benchmark.plan.request import Request
from benchmark.spec import Input, Runtime

SHAPE = (12, 150, 16)


def volume(*, bright: int = 0) -> np.ndarray:
    """Grey by how far to the front, and a bright spot at the right of the top."""
    found = np.zeros(SHAPE, np.float32) + np.arange(150, dtype=np.float32)[:, None] / 2
    found[8:, :, 12:] = 200 + bright
    return found


def save(path: Path, voxels: np.ndarray | None = None, *, flip: bool = False) -> Path:
    """A volume in RAS, or stored from front to back with an affine that says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = volume() if voxels is None else voxels
    affine = np.diag([1.0, -1.0 if flip else 1.0, 1.0, 1.0])
    kind = nibabel.Spm99AnalyzeImage if path.suffix == ".img" else nibabel.Nifti1Image
    nibabel.save(kind(voxels[:, ::-1] if flip else voxels, affine), path)
    return path


def bench(*words: object) -> tuple[int, str]:
    found = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    return found.exit_code, str(found.exception) if found.exit_code else found.output


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".img"])
def test_ten_coronal_slices_are_cut_with_the_head_upwards(ending: str, tmp_path: Path):
    save(tmp_path / "in" / f"002_S_0295{ending}")
    code, said = bench("data", "slices", tmp_path / "in", "--out", tmp_path / "out")
    assert code == 0, said
    files = sorted((tmp_path / "out").glob("*.png"))
    assert [path.name for path in files] == [f"002_S_0295_y{y}.png" for y in range(130, 140)]
    image = grey(files[0])
    assert image.shape == (16, 12)
    spot = image[:4, 8:] if ending != ".img" else image[:4]  # plain Analyze does not say the side
    assert spot.max() == 255
    assert image[8:].max() < 255
    # One grey scale for all of a volume: what is further to the front is brighter in every slice.
    levels = [int(grey(path)[-1, 0]) for path in files]
    assert levels == sorted(levels)
    assert levels[0] < levels[-1]


def test_axis_range_and_count_choose_and_orientation_is_canonical(tmp_path: Path):
    written = [
        slices.cut(save(tmp_path / f"{flip}.nii", flip=flip), tmp_path / str(flip),
                   span=(20, 40), count=2)
        for flip in (False, True)
    ]  # fmt: skip
    assert [path.name for path in written[0]] == ["False_y020.png", "False_y030.png"]
    for one, other in zip(*written, strict=True):
        assert np.array_equal(grey(one), grey(other))
    (top,) = slices.cut(tmp_path / "False.nii", tmp_path / "top", axis="axial", span=(14, 15),
                        count=1)  # fmt: skip
    assert top.name == "False_z014.png"
    assert grey(top).shape == (150, 12)


def test_a_table_sorts_into_class_folders_that_own_folders_and_oasis_read(tmp_path: Path):
    rows = []
    columns = "subject,label,CDR,sex,hand,age,educ,ses,mmse,etiv,nwbv,asf"
    for i, label in enumerate(("demented", "nondemented") * 2):
        subject = f"OAS1_{i:04d}_MR1"
        save(tmp_path / "in" / subject / "brain.nii")
        rows.append(f"{subject},{label},0,F,R,70,3,2,29,1400,0.7,1.2")
    table = tmp_path / "table.csv"
    table.write_text("\n".join([columns, *rows]) + "\n")
    out = tmp_path / "data" / "oasis1"
    code, said = bench("data", "slices", tmp_path / "in", "--out", out, "--metadata", table,
                       "--count", 2)  # fmt: skip
    assert code == 0, said
    own = registry.load("target", "folder:mine", given=Input(path=out))
    assert [r.label for r in own.records(out)] == ["demented"] * 4 + ["nondemented"] * 4
    told = registry.load("target", "oasis")
    found = list(told.records(out))
    assert len(found) == 8
    assert {r.group for r in found} == {f"OAS1_{i:04d}_MR1" for i in range(4)}
    assert {r.metadata["plane"] for r in found} == {"coronal"}


def test_slices_feed_adni_whose_table_gives_any_column(tmp_path: Path):
    base = tmp_path / "data" / "adni"
    lines = ["subject,diagnosis,age,sex,education,apoe4,hippocampus,visit"]
    for i, kind in enumerate(("CN", "AD", "CN", "AD")):
        save(tmp_path / "in" / f"00{i}_S_000{i}_brain.nii.gz")
        lines.append(f"00{i}_S_000{i},{kind},70,F,12,1,{3.5 + i},m{i % 2}")
    slices.cut(tmp_path / "in", base / "slices")
    (base / "clinical.csv").write_text("\n".join(lines) + "\n")
    found = list(registry.load("target", "adni:ad").records(base))
    assert len(found) == 40
    assert found[0].metadata["hippocampus"] == "3.5"
    runtime = Runtime(data=tmp_path / "data", store=tmp_path / "store")
    component = registry.load("target", "adni:ad")
    assert isinstance(component, Source)

    def types_of(*columns: str) -> dict[str, str]:
        request = Request(targets=("adni:ad",), columns=columns)
        return columns_of(component, "adni:ad", request, runtime).types

    assert types_of("age", "hippocampus", "visit") == {
        "age": "numeric",
        "hippocampus": "numeric",
        "visit": "categorical",
    }
    assert set(types_of()) == {"age", "sex", "education", "apoe4"}
    with pytest.raises(BenchError, match="no column 'hipocampus'") as caught:
        types_of("hipocampus")
    assert "hippocampus" in caught.value.todo
    with pytest.raises(BenchError, match="diagnosis"):
        types_of("diagnosis")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--axis", "y"), "no axis 'y'"),
        (("--range", "130"), "130 is not FIRST-LAST"),
        (("--range", "140-130"), "do not fit"),
        (("--count", 11), "11 slices do not fit"),
        (("--count", 0), "0 slices do not fit"),
        (("--range", "145-155"), "has 150 coronal slices"),
        (("--label", "kind"), "no table"),
    ],
)
def test_what_cannot_be_cut_is_said(words: tuple[object, ...], message: str, tmp_path: Path):
    save(tmp_path / "a.nii")
    code, said = bench("data", "slices", tmp_path / "a.nii", "--out", tmp_path / "out", *words)
    assert code != 0
    assert message in said


def test_bombs_wrecks_and_series_are_refused(tmp_path: Path):
    places = {name: tmp_path / f"{name}.nii.gz" for name in ("vast", "wreck", "series", "colour")}
    header = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
    header.set_data_shape((30000, 30000, 30000))
    places["vast"].write_bytes(gzip.compress(header.binaryblock + bytes(4)))
    places["wreck"].write_bytes(save(tmp_path / "fine.nii.gz").read_bytes()[:900])
    save(places["series"], np.zeros((4, 150, 4, 3), np.float32))
    colour = np.zeros((4, 150, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), places["colour"])
    told = {"vast": "voxels, more than", "wreck": "cannot be read", "series": "not one volume",
            "colour": "not one volume"}  # fmt: skip
    for name, message in told.items():
        with pytest.raises(BenchError, match=message):
            slices.cut(places[name], tmp_path / "out")
    with pytest.raises(BenchError, match="no volumes"):
        slices.cut(tmp_path / "out", tmp_path / "out2")


def test_the_table_of_classes_names_each_subject_once(tmp_path: Path):
    save(tmp_path / "in" / "P1_brain.nii")
    save(tmp_path / "in" / "P11_brain.nii")
    table = tmp_path / "t.csv"
    for text, message in (
        ("subject,label\nP1,a\n", "names 0 subjects"),  # P1 is not P11
        ("subject,label\nP1,a\nP1,b\nP11,a\n", "a subject twice"),
        ("subject,label\nP1,../a\nP11,a\n", "no name of a folder"),
    ):
        table.write_text(text)
        with pytest.raises(BenchError, match=message):
            slices.cut(tmp_path / "in", tmp_path / "out",
                       classes=slices.Classes(table, "label", "subject"))  # fmt: skip
    table.write_text("subject,label\nP1,a\nP11,b\n")
    slices.cut(tmp_path / "in", tmp_path / "out", count=1,
               classes=slices.Classes(table, "label", "subject"))  # fmt: skip
    with (tmp_path / "out" / "labels.csv").open() as file:
        rows = [(row["filename"], row["subject"]) for row in csv.DictReader(file)]
    assert rows == [("b/P11_brain_y130.png", "P11"), ("a/P1_brain_y130.png", "P1")]


def test_without_nibabel_the_extra_is_named(tmp_path: Path):
    save(tmp_path / "a.nii")
    real = builtins.__import__

    def absent(name: str, *more: object, **named: object):
        if name.split(".")[0] == "nibabel":
            raise ImportError(name)
        return real(name, *more, **named)  # type: ignore[arg-type]

    with mock.patch.object(builtins, "__import__", absent), pytest.raises(BenchError) as caught:
        slices.cut(tmp_path / "a.nii", tmp_path / "out")
    assert "[mri]" in caught.value.todo
