"""An outcome is whole or not there; what is damaged, newer or unwritable is told plainly."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import stores

from benchmark import files
from benchmark.data import prepare
from benchmark.errors import BenchError, Damaged
from benchmark.files import build_folder, replacing
from benchmark.spec import Cell, Failure, Outcome, RunSpec, Runtime
from benchmark.stats import Estimate
from benchmark.store import Store


def a_cell(fold: int = 0) -> Cell:
    return Cell.of(RunSpec(source="a", target="b", fold=fold), {"core": "1"})


def ok(cell: Cell) -> Outcome:
    return stores.ok(cell, metrics={"auroc": Estimate(0.7, 0.6, 0.8, 50)})


def test_round_trip(tmp_path: Path):
    store, cell = Store(tmp_path), a_cell()
    assert store.outcome("run", cell.key) is None
    store.begin(cell)
    assert store.outcome("run", cell.key) is None
    store.finish(cell, ok(cell))
    assert store.outcome("run", cell.key) == ok(cell)
    assert [o.key for o in store.outcomes()] == [cell.key]
    assert not (store.of(cell) / "running.json").exists()


def test_predictions_hold_no_names(tmp_path: Path):
    store, cell = Store(tmp_path), a_cell()
    labels, scores = np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]])
    store.save_predictions(
        cell, labels=labels, scores=scores, groups=np.array([3, 4]), draws=np.zeros(5)
    )
    found = store.predictions(cell.key)
    assert {name: array.dtype.kind for name, array in found.items()} == {
        "labels": "i",
        "scores": "f",
        "groups": "i",
        "draws": "f",
    }
    assert found["scores"] == pytest.approx(scores)


def test_a_damaged_outcome_counts_as_not_done(tmp_path: Path):
    store, cell = Store(tmp_path), a_cell()
    store.finish(cell, ok(cell))
    path = store.of(cell) / "outcome.json"
    path.write_text(path.read_text()[:40])
    with pytest.warns(UserWarning, match="damaged"):
        assert store.outcome("run", cell.key) is None


def test_a_newer_schema_is_refused(tmp_path: Path):
    store, cell = Store(tmp_path), a_cell()
    store.finish(cell, ok(cell))
    path = store.of(cell) / "outcome.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(BenchError, match="schema 99"):
        store.outcome("run", cell.key)
    (tmp_path / "store.json").write_text('{"schema_version": 99}')
    with pytest.raises(BenchError, match="Upgrade"):
        store.prepare()


def test_what_must_last_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch):
    """Of each file that is flushed: how long it was, and whether it had its last name yet."""
    store, cell, flushed, real = Store(tmp_path), a_cell(), {}, os.fsync

    def note(descriptor: int) -> None:
        real(descriptor)
        found = Path(f"/proc/self/fd/{descriptor}").readlink()
        path = Path(str(found).partition(".tmp-")[0])
        if found.is_file():
            flushed[path.name] = (os.fstat(descriptor).st_size, path.exists())

    monkeypatch.setattr(os, "fsync", note)
    folder = store.begin(cell)
    assert (folder / "running.json").is_file()
    arrays = np.zeros(3), np.zeros((3, 2)), np.zeros(3), np.zeros(5)
    store.save_predictions(
        cell, **dict(zip(("labels", "scores", "groups", "draws"), arrays, strict=True))
    )
    store.finish(cell, ok(cell))
    for name in ("predictions.npz", "outcome.json"):
        assert flushed[name] == ((folder / name).stat().st_size, False)
    assert "running.json" not in flushed, "a mark is worth no wait for the disk"


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path):
    """A real full file system would need root: a file size limit gives the same OSError path."""
    code = """
import resource, sys
from pathlib import Path
from benchmark.errors import BenchError
from benchmark.files import write
path = Path(sys.argv[1])
write(path, "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    write(path, "x" * 100000)
except BenchError as error:
    print(error)
"""
    path = tmp_path / "file"
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "Could not write" in found.stdout
    assert str(path) in found.stdout
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_told(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(BenchError, match="Permission denied"):
        Store(tmp_path / "store").prepare()


def test_a_file_in_the_way_is_told(tmp_path: Path):
    (tmp_path / "store").write_text("not a folder")
    with pytest.raises(BenchError, match="Could not write"):
        Store(tmp_path / "store").prepare()


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_two_builders_of_one_folder_do_not_meet(tmp_path: Path):
    final, barrier = tmp_path / "prepared", threading.Barrier(4)

    def build(folder: Path) -> None:
        (folder / "one").write_text("1")
        barrier.wait(5)
        (folder / "two").write_text("2")

    threads = [threading.Thread(target=build_folder, args=(final, build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in final.iterdir()) == ["one", "two"]
    assert [p.name for p in tmp_path.iterdir()] == ["prepared"]


def test_a_failure_keeps_its_cause_and_its_checkpoint_and_a_success_does_not(tmp_path: Path):
    store, cell = Store(tmp_path), a_cell()
    folder = store.begin(cell)
    (folder / "last.pt").write_bytes(b"state")
    store.fail(cell, Failure(kind="killed", message="signal 9"))
    outcome = store.outcome("run", cell.key)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == "killed"
    assert (folder / "last.pt").exists()
    assert not store.garbage()  # the run that goes on needs it
    store.finish(cell, ok(cell))
    assert [path.name for path in folder.iterdir() if path.name != "spec.json"] == ["outcome.json"]


def test_garbage_is_never_a_result(tmp_path: Path):
    store, cell = Store(tmp_path), a_cell()
    folder = store.begin(cell)
    store.finish(cell, ok(cell))
    (folder / "outcome.json.tmp-12345678").write_text("half")
    (tmp_path / "features" / "abc").mkdir(parents=True)
    assert {p.name for p in store.garbage()} == {"outcome.json.tmp-12345678", "abc"}


def finished(store: Store, fold: int = 0) -> Outcome:
    cell = a_cell(fold)
    store.begin(cell)
    store.save_predictions(
        cell, labels=np.array([0, 1]), scores=np.eye(2), groups=np.arange(2), draws=np.zeros(5)
    )
    store.finish(cell, stores.ok(cell))
    found = store.outcome("run", cell.key)
    assert found is not None
    return found


def test_a_result_that_was_damaged_is_told_and_made_again(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    one, other = finished(store), finished(store, fold=1)
    assert not list(store.verify())
    ours, theirs = (store.folder("run", o.key) / "predictions.npz" for o in (one, other))
    ours.write_bytes(theirs.read_bytes() + b"\0")  # whole as a zip, but not ours
    with pytest.raises(Damaged, match="gone or damaged"):
        store.predictions(one.key)
    ((path, _, outcome),) = store.verify()
    assert path == ours
    store.mend(path, outcome)
    assert store.outcome("run", one.key) is None  # a plain run makes it again
    assert store.outcome("run", other.key) == other


@pytest.mark.parametrize("at", [8, 10])  # says that it is encrypted; packed in an unknown way
def test_a_damaged_directory_of_an_outcome_without_checksums_is_told(tmp_path: Path, at: int):
    store = Store(tmp_path)
    store.prepare()
    one = finished(store)
    folder = store.folder("run", one.key)
    text = one.model_copy(update={"files": {}}).model_dump_json()
    (folder / "outcome.json").write_text(text)  # as earlier versions wrote it
    data = bytearray((folder / "predictions.npz").read_bytes())
    data[data.index(b"PK\1\2") + at] ^= 1
    (folder / "predictions.npz").write_bytes(data)
    with pytest.raises(Damaged, match="gone or damaged"):
        store.predictions(one.key)


def test_an_outcome_in_another_cells_folder_is_refused(tmp_path: Path):
    store = Store(tmp_path)
    one, other = finished(store), finished(store, fold=1)
    path = store.folder("run", one.key) / "outcome.json"
    path.write_bytes((store.folder("run", other.key) / "outcome.json").read_bytes())
    with pytest.warns(UserWarning, match="is that of the cell"):
        assert store.outcome("run", one.key) is None


def test_a_request_under_anothers_name_is_told(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    names = [store.record_grid([a_cell(fold)], f"bench run --fold {fold}") for fold in (0, 1)]
    one, other = (tmp_path / "grids" / f"{name}.json" for name in names)
    one.write_bytes(other.read_bytes())
    with pytest.warns(UserWarning, match="not shown"):
        assert [facts["grid"] for facts in store.grids()] == [names[1]]
    ((path, why, _),) = store.verify()
    assert path == one and f"its grid is {names[1]}" in why


def test_damaged_notes_of_the_store_cost_a_note(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    cell = a_cell()
    store.record_grid([cell], "bench run --target b")
    store.record_grid([cell, a_cell(fold=1)], "bench run --target c")
    (tmp_path / "store.json").write_text('{"schema')
    with pytest.warns(UserWarning, match="written anew"):
        store.prepare()
    next((tmp_path / "grids").iterdir()).write_bytes(b"\0\0")
    with pytest.warns(UserWarning, match="not shown"):
        assert len(store.grids()) == 1


def test_a_store_is_swept_of_what_killed_writers_left(tmp_path: Path):
    store = Store(tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    marks = [f"x.json.tmp-{files._host()}-{pid}-01234567" for pid in (dead.pid, os.getpid())]
    places = [store.root / part / marks[0] for part in ("", "prepared", "grids", "runs")]
    living = store.root / "grids" / marks[1]
    for path in (*places, living):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    store.sweep()
    assert [path for path in (*places, living) if path.exists()] == [living]


def test_a_store_in_use_is_not_cleaned(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    with store.in_use(), store.in_use() as free:
        assert free
        with store.in_use(alone=True) as free:
            assert not free
    with store.in_use(alone=True) as free:
        assert free


def test_decoded_sets_are_their_owners_unless_the_store_is_shared(runtime: Runtime):
    def prepared(size: int) -> Path:
        prepare.prepare("tiny", size, runtime)
        (folder,) = runtime.store.glob(f"prepared/tiny-{size}x{size}-*")
        return folder

    def mode(path: Path) -> int:
        return path.stat().st_mode & 0o777

    store, before = Store(runtime.store), os.umask(0o022)
    try:
        store.prepare()
        alone = prepared(4)
        assert mode(alone) == 0o700
        store.share(True)
        assert mode(alone) & 0o070 == 0o070
        assert mode(alone / "table.csv") & 0o060 == 0o060
        store.prepare()  # as each process of a run does
        ours = prepared(5)
        assert mode(ours) == 0o775
        assert mode(ours / "table.csv") == 0o664
        store.share(False)
        assert mode(alone) == mode(ours) == 0o700
    finally:
        os.umask(before)
