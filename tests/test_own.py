"""Data of one's own: how tables are spelt, what a record may not hold, what is said of both."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stores import ok

from benchmark import cli, protocols, registry, synthetic
from benchmark.api import Input, Target, read_table
from benchmark.data import prepare
from benchmark.data.contents import digests
from benchmark.data.split import split as cut
from benchmark.errors import BenchError, DataMissing
from benchmark.plan import plan, run
from benchmark.plan.plan import Plan, Request
from benchmark.plan.request import DistanceRequest
from benchmark.spec import RunSpec, Runtime
from benchmark.store import Store

ROWS = [{"image": "a", "age": "3.5", "note": "x, y"}, {"image": "b", "age": "", "note": "1"}]


@pytest.mark.parametrize(
    "text",
    [
        'image,age,note\na,3.5,"x, y"\nb,,1\n',
        "image;age;note\na;3,5;x, y\nb;;1\n",
        "\ufeffimage\tage\tnote\r\na\t3.5\tx, y\r\nb\t\t1\r\n",
        '"image";age;"note"\na;3,5;"x, y"\nb;;1\n',
    ],
)
def test_tables_are_read_whatever_parts_their_cells(text: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    assert read_table(path, need=("age",)) == ROWS


def test_a_long_cell_is_a_cell(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"image,report\na,{'x' * 200_000}\n")
    assert len(read_table(tmp_path / "t.csv")[0]["report"]) == 200_000


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image,ä\n".encode("utf-16"), r"t\.csv is UTF-16 text"),
        ("image,a\n".encode("utf-16-le"), r"t\.csv is UTF-16 text"),
        ("image,a\nx,Müller\n".encode("latin-1"), r"probably Latin-1 .*from line 2"),
        (b"PK\x03\x04\0\0", r"t\.csv is a spreadsheet"),
        (b"image,a\nx,3,5\n", r"Row 1 of t\.csv has more cells than its 2 columns"),
    ],
)
def test_other_tables_are_told_by_name(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=said):
        read_table(path)
    with pytest.raises(DataMissing, match="is not there"):
        read_table(tmp_path)


N = 40
RNG = np.random.default_rng(5)
SEX = [("m", "f")[i] for i in RNG.integers(0, 2, N)]
AGE = [str(i) for i in RNG.integers(30, 80, N)]
KIND = [("ill", "well")[i // 2 % 2] for i in range(N)]  # two images of a patient


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images below one folder; tables name their classes."""
    root = tmp_path_factory.mktemp("own") / "scans"
    for i in range(N):
        synthetic.save(np.full((4, 4, 3), i, np.uint8), root / f"im{i}.png")
    return root


@pytest.fixture
def ask(scans: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Plans runs on the scans with a table of these columns."""

    def make(
        table: dict[str, list[str]], group: str | None = None, label: str = "kind", **more
    ) -> Plan:
        lines = [",".join(["image", *table])]
        lines += [
            ",".join([f"im{i}", *row]) for i, row in enumerate(zip(*table.values(), strict=True))
        ]
        (tmp_path / "t.csv").write_text("\n".join(lines))
        own = Input(path=scans, metadata=tmp_path / "t.csv", label=label, group=group)
        runtime = Runtime(store=tmp_path / "store", inputs={"folder:scans": own})
        asked = {"targets": ["folder:scans"], "fusions": ["concat"], "modes": ["frozen"]}
        return plan.make(Request(**{**asked, **more}), runtime)

    return make


def used(made: Plan) -> tuple[tuple[str, ...], tuple[str, ...]]:
    spec = made.cells[0].cell.spec
    assert isinstance(spec, RunSpec)
    return spec.columns, spec.allowed


def said(made: Plan) -> str:
    return "\n".join(made.notes)


TABLE = {"kind": KIND, "age": AGE, "sex": SEX}
CODE = [{"ill": "7", "well": "4"}[kind] for kind in KIND]
PATIENT = [f"P{i // 2:02d}" for i in range(N)]


def test_a_column_recoded_from_the_label_is_refused(ask: Callable[..., Plan]) -> None:
    with pytest.raises(
        BenchError, match=r"tells the label \(code: one value is one class in 100 %"
    ):
        ask({**TABLE, "code": CODE})
    assert used(ask({**TABLE, "code": CODE}, columns=("age",))) == (("age",), ())
    made = ask({**TABLE, "code": CODE}, allow=("code",))
    assert used(made) == (("age", "sex", "code"), ("code",))
    assert used(ask({**TABLE, "code": CODE}, fusions=["none"], allow=("code",))) == ((), ())
    assert used(ask(TABLE, allow=("sex",))) == (("age", "sex"), ())  # it tells nothing


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--fusion", "concat"], 2, ["code: one value is one class", "--allow-column code"]),
        (["--fusion", "concat", "--mode", "frozen", "--allow-column", "code"], 0,
         ["The record of folder:scans: code (numeric), age (numeric)", "5 cells to run"]),
    ],
    ids=["refused", "allowed"],
)  # fmt: skip
def test_a_dry_run_refuses_a_recoded_label_and_uses_it_where_told(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: list[str],
) -> None:  # fmt: skip
    rows = (f"im{i};{KIND[i]};{CODE[i]};{AGE[i]}" for i in range(N))
    (tmp_path / "t.csv").write_text("\n".join(["image;kind;code;age", *rows]))
    words = ["run", "--target", scans, "--metadata", tmp_path / "t.csv", "--label", "kind",
             "--dry-run", "--store", tmp_path / "store", *more]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr().err
    assert end.value.code == code and "Traceback" not in told and "Measuring" not in told
    assert [text for text in said if text not in told] == []


def test_what_is_left_out_is_said_with_its_reason(ask: Callable[..., Plan]) -> None:
    place = [("left arm", "trunk")[i] for i in RNG.integers(0, 2, N)]
    clinic = [("Bern", "Basel")[i] for i in RNG.integers(0, 2, N)]
    empty, one = [" NA "] * N, ["v2"] * N
    made = ask({**TABLE, "dx": CODE, "site": clinic, "mmse": AGE, "empty": empty, "release": one})
    assert used(made) == (("age", "sex"), ())
    for reason in ("dx (it is the diagnosis itself)", "site (it describes the acquisition",
                   "mmse (this test of cognition", "empty (it has only missing values)",
                   "release (it is 'v2' in every row)"):  # fmt: skip
        assert reason in said(made)
    asked = ask({**TABLE, "site": clinic}, columns=("age", "site"))
    assert used(asked)[0] == ("age", "site") and "column site is used: it desc" in said(asked)
    anatomical = ask({**TABLE, "site": place})
    assert used(anatomical)[0] == ("age", "sex", "site")
    assert "site is used: its values are places on the body" in said(anatomical)
    with pytest.raises(BenchError, match="dx may not be an input"):
        ask({**TABLE, "dx": CODE}, columns=("dx",))
    assert used(ask({**TABLE, "dx": CODE}, allow=("dx",)))[1] == ("dx",)


def test_the_reasons_of_an_official_set_are_said_too(tmp_path: Path) -> None:
    made = plan.make(
        Request(targets=["isic"], fusions=["concat"]), Runtime(store=tmp_path / "store")
    )
    assert "Left out of the record of isic: dx (it is the diagnosis itself); dx_type (" in said(
        made
    )


def test_patients_numbers_stay_out_and_are_suggested_as_groups(ask: Callable[..., Plan]) -> None:
    table = {**TABLE, "patient": [str(1000 + 7 * (i // 2)) for i in range(N)], "exam_no": PATIENT}
    alone = ask(table)
    assert used(alone)[0] == ("age", "sex")
    assert "patient looks as if it did: --group patient" in said(alone)
    assert "exam_no (it only names them" in said(alone)
    grouped = ask(table, group="patient")
    assert used(grouped)[0] == ("age", "sex") and "--group" not in said(grouped)


def test_columns_by_pattern(ask: Callable[..., Plan]) -> None:
    table = {**TABLE, "a_val": AGE[::-1], "b_val": SEX[::-1]}
    assert used(ask(table, columns=("*_val", "age")))[0] == ("a_val", "b_val", "age")
    with pytest.raises(BenchError, match=r"no column '\*_vol'"):
        ask(table, columns=("*_vol",))


HOT = [str(int(kind == "ill")) for kind in KIND]
OFTEN = ["10"[i // 2 % 3 == 0] for i in range(N)]  # one patient in three lacks it


def test_a_table_of_several_labels_is_planned_and_read(ask: Callable[..., Plan]) -> None:
    made = ask({"ill": HOT, "often": OFTEN, "age": AGE, "who": PATIENT}, "who", "ill,often")
    assert used(made) == (("age",), ())
    assert "any number of the 2 labels (multi-label)" in said(made)


def test_a_column_that_tells_one_label_of_several_is_refused(ask: Callable[..., Plan]) -> None:
    with pytest.raises(BenchError, match=r"tells the label \(code: one value is one class"):
        ask({"ill": HOT, "often": OFTEN, "code": CODE}, label="ill,often")


def test_a_label_of_few_patients_is_refused(ask: Callable[..., Plan]) -> None:
    rare = [str(int(i < 6)) for i in range(N)]  # six images of three patients
    with pytest.raises(BenchError, match=r"1 of the 2 labels of .*scans.*'rare' tells 3 values of"):
        ask({"ill": HOT, "rare": rare, "who_": PATIENT}, "who_", "ill,rare")


def test_missing_labels_are_left_out_and_counted(ask: Callable[..., Plan]) -> None:
    kinds = ["nan", " ", *KIND[2:]]
    assert "2 rows have no kind and are left out" in said(ask({**TABLE, "kind": kinds}))
    with pytest.raises(BenchError, match="has a kind"):
        ask({**TABLE, "kind": ["NaN"] * N})


def test_rare_classes_are_told_before_anything_runs(ask: Callable[..., Plan]) -> None:
    with pytest.raises(BenchError, match="40 of 40 classes with fewer images than the 5 folds"):
        ask({**TABLE, "kind": [f"k{i}" for i in range(N)]})
    with pytest.raises(BenchError, match=r"1 of 3 classes .* 'odd' with 1"):
        ask({**TABLE, "kind": ["odd", *KIND[1:]]})
    one = ask({**TABLE, "kind": ["odd", "odd", *KIND[2:]], "who_id": PATIENT}, group="who_id")
    assert "class 'odd' of folder:scans has 1 value of who_id, fewer than the 5 folds" in said(one)


# --- the files ------------------------------------------------------------------------------------


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two class folders with two images each."""
    for i in range(4):
        synthetic.save(np.full((4, 4, 3), i, np.uint8), tmp_path / "set" / "ab"[i % 2] / f"{i}.png")
    return tmp_path / "set"


def opened(place: Path) -> Target:
    component = registry.load("target", "folder:set", given=Input(path=place))
    assert isinstance(component, Target)
    return component


def test_gifs_are_read_and_what_is_not_is_told(classes: Path) -> None:
    from PIL import Image

    Image.new("L", (4, 4)).save(classes / "a" / "x.gif")
    for name in ("a/y.jp2", "b/notes.txt", "b/Z.JP2"):
        (classes / name).touch()
    own = opened(classes)
    assert {sample.name for sample in own.records(classes)} >= {"a/x.gif", "b/1.png"}
    assert own.look().notes[0] == "3 files are not read, by their endings: .jp2 (2), .txt (1)."


def test_a_class_of_which_nothing_can_be_read_is_refused(classes: Path) -> None:
    (classes / "c").mkdir()
    (classes / "c" / "scan.jp2").touch()
    with pytest.raises(BenchError, match="The class folder c holds no image that can be read"):
        list(opened(classes).records(classes))


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_is_a_sentence(classes: Path, kind: str) -> None:
    path = classes / "a" / "x.png"
    path.symlink_to("nowhere.png") if kind == "link" else os.mkfifo(path)
    with pytest.raises(BenchError, match=r"x\.png› below .* is (a link to nothing|no plain file)"):
        list(opened(classes).records(classes))


def latin(place: Path) -> Path:
    table = place.with_suffix(".csv")
    table.write_bytes("image,kind\n1.png,näher\n".encode("latin-1"))
    return table


def pipe(place: Path) -> Path:
    os.mkfifo(place.with_suffix(".csv"))
    return place.with_suffix(".csv")


#: What may be broken already when the plan looks, and what is said of it.
BROKEN: dict[str, tuple[Callable[[Path], Path | None], str, str]] = {
    "link": (lambda place: (place / "a" / "x.png").symlink_to("nowhere"),
             "data_missing", "to nothing"),
    "pipe": (lambda place: os.mkfifo(place / "a" / "x.png"), "bad_input", "no plain file"),
    "name": (lambda place: (place / "a" / "0.png").rename(place / "a" / "\udcff.png") and None,
             "bad_input", "could not be read (UnicodeEncodeError"),
    "no table": (lambda place: place.with_suffix(".csv"), "data_missing", "out of reach"),
    "table": (latin, "bad_input", "probably Latin-1"),
    "table that is a pipe": (pipe, "bad_input", "no plain file"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_a_set_that_is_broken_costs_its_own_cells(
    classes: Path, how: str, runtime: Runtime, request_tiny: Callable[..., Request],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    spoil, kind, cause = BROKEN[how]
    table = spoil(classes)
    given = Input(path=classes, metadata=table, label="kind" if table else None)
    runtime = runtime.model_copy(update={"inputs": {"folder:set": given}})
    asked = request_tiny(targets=("folder:set", "tiny"), fusions=("none", "concat"), folds=(0,))
    store = Store(runtime.store)
    for planned in plan.make(request_tiny(fusions=asked.fusions, folds=(0,)), runtime).cells:
        store.finish(planned.cell, ok(planned.cell))
    assert run.run(asked, runtime) == 2
    said = capsys.readouterr().err
    assert cause in said and "2 cells are done, 2 failed" in said
    failures = [done.failure for done in store.outcomes() if done.failure]
    assert [failure.kind for failure in failures] == [kind, kind]
    assert "x.png" not in repr(failures)
    with pytest.raises(BenchError, match=re.escape(cause)):  # alone: nothing runs
        run.run(asked.model_copy(update={"targets": ("folder:set",)}), runtime)


def test_a_source_that_is_broken_costs_the_cells_that_start_from_it(
    classes: Path, runtime: Runtime, request_tiny: Callable[..., Request]
) -> None:
    (classes / "a" / "x.png").symlink_to("nowhere")
    runtime = runtime.model_copy(update={"inputs": {"folder:set": Input(path=classes)}})
    made = plan.make(request_tiny(sources=("none", "folder:set"), folds=(0,)), runtime)
    assert [(p.cell.spec.source, p.state) for p in made.cells] == [
        ("none", "to run"), ("folder:set", "failed")
    ]  # fmt: skip
    asked = DistanceRequest(
        sources=("folder:set", "patterns:near"), targets=("demo:skin",), methods=("expert",)
    )
    made = plan.make(asked, runtime)
    assert [(p.cell.spec.source, p.state) for p in made.cells] == [
        ("folder:set", "failed"), ("patterns:near", "to run")
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_only_plain_files_are_hashed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    path.symlink_to("nowhere.png") if kind == "link" else os.mkfifo(path)
    with pytest.raises(BenchError, match=r"x\.png› below .* is (a link to nothing|no plain file)"):
        digests(tmp_path, [path])


# --- images of more than eight bits -------------------------------------------------------------


@pytest.mark.parametrize(
    ("highest", "white"), [(4000, 4095), (900, 1023), (70, 255), (50000, 65535)]
)
def test_sixteen_bits_are_scaled_by_what_the_set_holds(
    tmp_path: Path, highest: int, white: int
) -> None:
    from PIL import Image

    for i, share in enumerate((1.0, 0.5, 0.25, 0.125)):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), highest * share, np.uint16)).save(path)
    runtime = Runtime(store=tmp_path / "store", inputs={"folder:set": Input(path=tmp_path / "set")})
    found = prepare.prepare("folder:set", 4, runtime)
    greys = dict(zip(found.names, found.images[:, 0, 0, 0].tolist(), strict=True))
    assert found.white == white
    for i, share in enumerate((1.0, 0.5, 0.25, 0.125)):
        assert greys[f"{'ab'[i % 2]}/{i}.png"] == pytest.approx(
            255 * highest * share / white, abs=1
        )


def scan(place: Path, name: str, values: np.ndarray, **tags: object) -> None:
    pydicom = pytest.importorskip("pydicom")
    made = pydicom.Dataset()
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    made.Rows, made.Columns, made.SamplesPerPixel = *values.shape, 1
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.PhotometricInterpretation = "MONOCHROME2"
    made.PixelData = values.astype("<u2").tobytes()
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    for tag, value in tags.items():
        setattr(made, tag, value)
    made.save_as(place / name, enforce_file_format=True)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, [0, 62, 125, 249]),  # of twelve bits, as the brightest image of the set says
        ({"WindowCenter": "1000", "WindowWidth": "2000"}, [0, 128, 255, 255]),
        ({"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024"}, [0, 62, 125, 249]),
    ],
    ids=["bits", "window", "ct"],
)
def test_dicom_is_not_scaled_image_by_image(
    classes: Path, tags: dict[str, str], expected: list[int]
) -> None:
    for name, values in (("dim", [0, 1000]), ("bright", [2000, 4000])):
        scan(classes / "a", f"{name}.dcm", np.array([values]), **tags)
    own = opened(classes)
    records = {sample.name: sample for sample in own.records(classes)}
    own.white = prepare._white(own, list(records.values()))
    greys = [
        own.read(records[f"a/{name}.dcm"], 2)[0][0, :, 0].tolist() for name in ("dim", "bright")
    ]
    assert np.allclose([*greys[0], *greys[1]], expected, atol=1)


@pytest.mark.parametrize("left", [20, -20, -6])
def test_a_damaged_dicom_is_a_sentence(classes: Path, left: int) -> None:
    scan(classes / "a", "x.dcm", np.arange(16).reshape(4, 4))
    path = classes / "a" / "x.dcm"
    path.write_bytes(path.read_bytes()[:left])
    own = opened(classes)
    record = next(r for r in own.records(classes) if r.name == "a/x.dcm")
    for look in (own.brightest, lambda record: own.read(record, 4)):
        with pytest.raises(BenchError, match=r"x\.dcm› is damaged or cut short"):
            look(record)


def test_no_image_is_named_in_what_lasts(tmp_path: Path):
    """The command says which image it was; the outcome, which goes to others, does not."""
    from benchmark.errors import BenchError
    from benchmark.images import decode
    from benchmark.train.job import failure_of

    broken = tmp_path / "Doe_Jane_1961.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    with pytest.raises(BenchError, match="Doe_Jane_1961") as caught:
        decode(broken)
    failure = failure_of(caught.value, f"log: {caught.value}")
    assert "Doe" not in failure.model_dump_json()
    assert "see the log on this machine" in failure.message


def test_a_table_names_the_parts_of_its_split(scans: Path, tmp_path: Path) -> None:
    parts = [("train", "val", "Test")[0 if i < 24 else 1 + i // 2 % 2] for i in range(N)]
    lines = [f"im{i},{KIND[i]},{parts[i]}" for i in range(N)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["image,kind,part", *lines]))
    own = Input(path=scans, metadata=table, label="kind", split="part")
    runtime = Runtime(store=tmp_path / "store", inputs={"folder:scans": own})
    data = prepare.prepare("folder:scans", 8, runtime)
    found = cut(data, protocols.load("official").split, fold=0)
    assert (len(found.train), len(found.val), len(found.test)) == (24, 8, 8)
    assert "part" not in data.metadata
    whole = registry.version("target", "folder:scans", given=own)
    assert whole != registry.version(
        "target", "folder:scans", given=own.model_copy(update={"split": None})
    )
    table.write_text(table.read_text().replace("Test", "held out"))
    with pytest.raises(BenchError, match="1 values that are no part of a split"):
        registry.load("target", "folder:scans", given=own).look()
