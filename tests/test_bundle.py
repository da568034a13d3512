"""Results that are handed on come back equal and name nobody; what was tampered with is refused."""

import errno
import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stores import ok

from benchmark import added, bundle, metrics, trust
from benchmark.errors import BenchError, DiskFull
from benchmark.metrics.rates import guess_of
from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Outcome,
    PretrainSpec,
    Recipe,
    RunSpec,
    key_of,
)
from benchmark.stats import Estimate
from benchmark.store import Store
from reports.leaderboard import table as leaderboard

VERSIONS = {"core": "1", "target": "1", "fusion": "1", "source": "1", "protocol": "1"}
FIXTURES = [HealthCheck.function_scoped_fixture]  # none of them is changed by the examples
SECRET = "/home/jane/patients/P0815"
MADE = Cell.of(PretrainSpec(source="dtd", recipe=Recipe(epochs=3)), {"core": "1", "source": "1"})
APART = Cell.of(DistanceSpec(source="dtd", target="isic", method="expert"), {"core": "1"})


def a_run(fold: int = 0, target: str = "isic", **more: Any) -> Cell:
    spec = RunSpec(source="dtd", target=target, fold=fold, weights=MADE.key, **more)
    return Cell.of(spec, VERSIONS)


def finish(store: Store, cell: Cell, *, seed: int = 0, classes: int = 3, **more: Any) -> Outcome:
    """A run with predictions, its metrics as a real run makes them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 80)
    logits = rng.normal(size=(80, classes)) + 1.5 * np.eye(classes)[labels]
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    groups = np.arange(80) // 2
    found = metrics.evaluate(labels, scores, groups, draws=50, seed=1)
    store.begin(cell)
    store.save_predictions(
        cell, labels=labels, scores=scores, groups=groups, draws=found.draws["auroc"]
    )
    facts: dict[str, Any] = {
        "metrics": found.overall,
        "per_class": found.per_class,
        "subgroups": {"sex": {"female": {"auroc": Estimate(0.7, 0.6, float("nan"), 40)}}},
        "classes": tuple("abc"[:classes]),
        "chosen": "epoch 2 of 3 by validation AUROC",
        "history": [{"epoch": 1, "loss": 0.5, "val_auroc": None}],
        "data": {"digest": "0123456789abcdef", "test": 80, "siblings": 0.25, "overlap": ""},
        "seconds": {"train": 1.5, "total": 2.0},
        "environment": {"device": "cuda (A100/SXM)", "python": "3.11.7"},
    }  # fmt: skip
    outcome = ok(cell, **{**facts, **more})
    store.finish(cell, outcome)
    return outcome


@pytest.fixture
def ours(tmp_path: Path) -> Store:
    """Two runs on isic, one on pcam, a failed one, a distance and the pretraining of all."""
    store = Store(tmp_path / "ours")
    store.prepare()
    for cell in (a_run(0), a_run(1), a_run(target="pcam:small")):
        finish(store, cell, seed=cell.spec.fold if isinstance(cell.spec, RunSpec) else 0)
    store.fail(a_run(2), Failure(kind="bug", message=SECRET, log_tail=SECRET))
    number = {"distance": Estimate(3.0, float("nan"), float("nan"), 0)}
    store.finish(APART, ok(APART, metrics=number))
    store.finish(MADE, ok(MADE, chosen=f"added from {SECRET}", data={"train": 90}))
    return store


@pytest.fixture
def theirs(tmp_path: Path) -> Store:
    return Store(tmp_path / "theirs")


@pytest.fixture
def made(ours: Store, tmp_path: Path) -> Path:
    return bundle.export(ours, tmp_path / "results.zip")


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as box:
        return {name: box.read(name) for name in box.namelist()}


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def rewrite(path: Path, change: Callable[[dict[str, bytes]], object], *, sums: bool = True) -> Path:
    """The bundle after a change of its files, its manifest made to fit again."""
    files = contents(path)
    change(files)
    if sums and bundle.MANIFEST in files:
        manifest = json.loads(files[bundle.MANIFEST])
        names = [name for name in files if name != bundle.MANIFEST]
        manifest["files"] = {name: hashlib.sha256(files[name]).hexdigest() for name in names}
        files[bundle.MANIFEST] = json.dumps(manifest).encode()
    out = path.with_name("changed.zip")
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as box:
        for name, content in files.items():
            box.writestr(name, content)
    return out


def edit(cell: Cell, *, same_key: bool = False, **changes: Any) -> Callable[[dict[str, bytes]], None]:  # fmt: skip # noqa: E501
    """A change of an outcome in a bundle; its key and place follow, unless `same_key`."""

    def change(files: dict[str, bytes]) -> None:
        old = f"{cell.spec.kind}/{cell.key}"
        raw = json.loads(files.pop(f"{old}/outcome.json"))
        raw.update(changes)
        try:
            found = Outcome.model_validate(raw)
            raw["key"] = raw["key"] if same_key else key_of(found.spec, found.versions)
        except ValueError:
            pass
        place = old if same_key else f"{cell.spec.kind}/{raw['key']}"
        files[f"{place}/outcome.json"] = json.dumps(raw).encode()
        if cell.spec.kind == "run":
            files[f"{place}/predictions.npz"] = files.pop(f"{old}/predictions.npz")

    return change


def predictions(cell: Cell, **arrays: Any) -> Callable[[dict[str, bytes]], None]:
    """Other predictions in a bundle; an array that is None goes."""

    def change(files: dict[str, bytes]) -> None:
        name = f"run/{cell.key}/predictions.npz"
        with np.load(io.BytesIO(files[name])) as file:
            found = {**file, **arrays}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{k: v for k, v in found.items() if v is not None})
        files[name] = buffer.getvalue()

    return change


def finish_again(store: Store, cell: Cell) -> None:
    """What lies in the cell's folder is its result from now on."""
    outcome = store.outcome(cell.spec.kind, cell.key)
    assert outcome is not None
    store.finish(cell, outcome)


# --- the way there and back -----------------------------------------------------------------------


def test_round_trip(ours: Store, theirs: Store, made: Path, tmp_path: Path):
    found = bundle.import_(theirs, made)
    names = {f"run/{a_run(0).key}", f"run/{a_run(1).key}", f"run/{a_run(target='pcam:small').key}"}
    assert set(found.added) == names | {f"distance/{APART.key}"}
    assert not (found.replaced or found.same or found.differs or found.refused)
    for kind in ("run", "distance"):
        for there in theirs.outcomes(kind):
            here = ours.outcome(kind, there.key)
            assert here is not None
            note = there.environment.pop("imported")
            assert (
                note.startswith("from bundle ") and "of transfer-bench 0.1.0; not verified" in note
            )
            assert there.model_dump_json() == here.model_dump_json()
    for key in theirs.keys("run"):
        here, there = ours.predictions(key), theirs.predictions(key)
        assert here.keys() == there.keys()
        assert all(np.array_equal(here[n], there[n]) and here[n].dtype == there[n].dtype for n in here)  # fmt: skip # noqa: E501
        assert not (theirs.folder("run", key) / "running.json").exists()
    again = bundle.export(theirs, tmp_path / "again.zip")
    assert again.read_bytes() == made.read_bytes()


def test_the_same_cells_give_the_same_bytes(ours: Store, made: Path, tmp_path: Path):
    assert bundle.export(ours, tmp_path / "b.zip").read_bytes() == made.read_bytes()
    with zipfile.ZipFile(made) as box:
        assert {info.date_time for info in box.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_rounded_predictions_are_smaller_and_believed(ours: Store, theirs: Store, tmp_path: Path):
    few = bundle.export(ours, tmp_path / "few.zip", short=True)
    assert few.stat().st_size < bundle.export(ours, tmp_path / "all.zip").stat().st_size
    assert len(bundle.import_(theirs, few).added) == 4
    for key in theirs.keys("run"):
        here, there = ours.predictions(key), theirs.predictions(key)
        assert np.allclose(here["scores"], there["scores"], rtol=0.01, atol=1e-9)
        assert there["scores"].sum(axis=1) == pytest.approx(1, abs=1e-6)
        assert here["draws"] == pytest.approx(there["draws"], abs=2.0**-15, nan_ok=True)


def test_a_bundle_of_our_own_is_laid_out_as_a_store(theirs: Store, made: Path, tmp_path: Path):
    bundle.import_(theirs, made)
    found = bundle.unpack(made, tmp_path / "study")
    for kind in ("run", "distance", "pretrain"):
        assert sorted(found.keys(kind)) == sorted(theirs.keys(kind))
        for there in theirs.outcomes(kind):
            here = found.outcome(kind, there.key)
            assert here is not None
            apart = {"environment", "files"}
            assert here.model_dump_json(exclude=apart) == there.model_dump_json(exclude=apart)
    for key in theirs.keys("run"):
        assert np.array_equal(found.predictions(key)["draws"], theirs.predictions(key)["draws"])
    assert bundle.unpack(made, tmp_path / "study").root == found.root  # once


def test_another_store_is_not_taken_for_that_of_a_bundle(ours: Store, made: Path, tmp_path: Path):
    before = tree(ours.root)
    with pytest.raises(BenchError, match="is another store, or of an earlier version"):
        bundle.unpack(made, ours.root)
    assert tree(ours.root) == before
    bundle.unpack(made, tmp_path / "study")
    later = rewrite(made, lambda files: files.pop(f"run/{a_run(1).key}/outcome.json"))
    with pytest.raises(BenchError, match="earlier version"):
        bundle.unpack(later, tmp_path / "study")


def test_a_full_disk_is_no_fault_of_the_bundle(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DiskFull, match="No space left"):
        bundle.unpack(made, tmp_path / "study")
    assert not list(tmp_path.glob("study*"))


def test_a_recipe_travels_without_weights_and_a_run_still_makes_them(theirs: Store, made: Path):
    bundle.import_(theirs, made)
    there = theirs.outcome("pretrain", MADE.key)
    assert there is not None and there.failure is not None
    assert there.spec == MADE.spec
    assert there.failure.kind == "data_missing"  # which a plain run tries again
    assert "imported" in there.environment
    assert added.seen(theirs) == {MADE.spec.source: 90}


def test_pretrainings_of_our_own_stay(ours: Store, made: Path):
    before = ours.outcome("pretrain", MADE.key)
    bundle.import_(ours, made)
    assert ours.outcome("pretrain", MADE.key) == before


def test_targets_and_keys_choose(ours: Store, tmp_path: Path):
    def cells(**choice: Any) -> set[str]:
        files = contents(bundle.export(ours, tmp_path / "b.zip", **choice))
        return {name.split("/")[1] for name in files if name.startswith(("run", "distance"))}

    assert cells(targets=["pcam:small"]) == {a_run(target="pcam:small").key}
    assert cells(keys=[a_run(1).key[:9]]) == {a_run(1).key}
    assert cells(targets=["isic"]) == {a_run(0).key, a_run(1).key, APART.key}
    with pytest.raises(BenchError, match="No finished cell has the key ffff"):
        bundle.export(ours, tmp_path / "b.zip", keys=["ffff"])
    with pytest.raises(BenchError, match="no such finished cell"):
        bundle.export(ours, tmp_path / "b.zip", targets=["oasis"])
    with pytest.raises(BenchError, match="no such finished cell"):
        bundle.export(Store(tmp_path / "empty"), tmp_path / "b.zip")


# --- it names nobody ------------------------------------------------------------------------------


def test_nothing_of_the_person_and_the_machine_goes_along(theirs: Store, tmp_path: Path):
    store = Store(tmp_path / "private")
    finish(
        store,
        a_run(),
        warnings=[f"{SECRET} is damaged"],
        chosen=f"added from {SECRET}",
        data={
            "digest": SECRET,
            "test": 80,
            "overlap": SECRET,
            "hospital": "jane",
            "train": 9,
            "unit": SECRET,
        },
        environment={"device": f"cpu ({SECRET})", "host": "jane", "torch": "2.6.0+cpu"},
        history=[{"epoch": 1, SECRET: 0.5}],
        seconds={"train": 1.0, SECRET: 1.0},
    )
    name = store.folder("run", a_run().key) / "predictions.npz"
    with np.load(name) as file:
        np.savez(name, **file, names=np.array(["jane"] * 80))  # pyright: ignore[reportArgumentType]
    finish_again(store, a_run())
    out = bundle.export(store, tmp_path / "b.zip")
    assert all(b"jane" not in content and b"P0815" not in content for content in contents(out).values())  # fmt: skip # noqa: E501
    assert "failed" not in str(contents(out))
    bundle.import_(theirs, out)
    there = theirs.outcomes()[0]
    assert there.data == {"test": 80, "train": 9}
    assert there.environment.keys() == {"torch", "imported"}
    assert there.history == [{"epoch": 1}] and there.seconds == {"train": 1.0}


@pytest.mark.parametrize("unit", ["", "lesion"])
def test_a_board_knows_of_a_bundle_what_was_resampled(unit: str, theirs: Store, tmp_path: Path):
    store = Store(tmp_path / "here")
    finish(store, a_run(), data={"test": 80, "unit": unit})
    bundle.import_(theirs, bundle.export(store, tmp_path / "b.zip"))
    said = [leaderboard.show(one, format="md") for one in (store, theirs)]
    assert said[0] == said[1]
    assert ("Patients unknown" in said[0]) == (unit == "")


def test_what_a_maker_did_not_strip_is_stripped_here(theirs: Store, made: Path):
    told = {
        "environment": {"device": "cpu", "host": "jane"},
        "warnings": ["jane"],
        "chosen": SECRET,
    }
    found = bundle.import_(theirs, rewrite(made, edit(a_run(), **told)))
    assert not found.refused
    there = theirs.outcome("run", a_run().key)
    assert there is not None
    assert "jane" not in there.model_dump_json()
    assert not there.warnings


@pytest.mark.parametrize("name", ["folder:/home/jane/scans", "~/scans", "scans\\jane"])
def test_a_cell_that_names_a_place_is_not_exported(name: str, ours: Store, tmp_path: Path):
    finish(ours, a_run(target=name))
    with pytest.raises(BenchError, match="names a place on this machine"):
        bundle.export(ours, tmp_path / "b.zip")
    assert not (tmp_path / "b.zip").exists()
    assert bundle.export(ours, tmp_path / "b.zip", targets=["isic"]).is_file()


def test_a_repository_of_the_hub_is_no_place_on_a_machine(theirs: Store, tmp_path: Path):
    store, name = Store(tmp_path / "store"), "hub:lab/uni-2.h@v1"
    spec = RunSpec(source=name, target="isic", arch=name)
    finish(store, Cell.of(spec, VERSIONS))
    taken = bundle.import_(theirs, bundle.export(store, tmp_path / "b.zip"))
    assert len(taken.added) == 1 and not taken.refused


def test_a_run_without_predictions_is_not_exported(ours: Store, tmp_path: Path):
    path = ours.folder("run", a_run().key) / "predictions.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BenchError, match=f"The run {a_run().key} has lost its predictions"):
        bundle.export(ours, tmp_path / "b.zip")


# --- merging --------------------------------------------------------------------------------------


def test_what_is_finished_here_stays(theirs: Store, made: Path):
    finish(theirs, a_run(0), seed=0, seconds={"total": 99.0})
    finish(theirs, a_run(1), seed=7)
    theirs.fail(a_run(target="pcam:small"), Failure(kind="oom", message="Out of memory."))
    before = tree(theirs.root)
    found = bundle.import_(theirs, made)
    assert found.same == [f"run/{a_run(0).key}"]
    assert found.differs == [f"run/{a_run(1).key}"]
    assert found.replaced == [f"run/{a_run(target='pcam:small').key}"]
    assert found.added == [f"distance/{APART.key}"]
    after = tree(theirs.root)
    assert before.keys() <= after.keys()
    assert all(after[n] == content for n, content in before.items() if a_run(target="pcam:small").key not in n)  # fmt: skip # noqa: E501


def test_a_failed_attempt_leaves_no_network_beside_the_numbers(theirs: Store, made: Path):
    folder = theirs.begin(a_run())
    for name in ("weights.safetensors", "last.pt", "encoder.json"):
        (folder / name).write_bytes(b"ours")
    theirs.fail(a_run(), Failure(kind="killed", message=""))
    bundle.import_(theirs, made)
    assert {path.name for path in folder.iterdir()} == {"spec.json", "outcome.json", "predictions.npz"}  # fmt: skip # noqa: E501


def test_importing_twice_changes_nothing(theirs: Store, made: Path):
    bundle.import_(theirs, made)
    before = tree(theirs.root)
    found = bundle.import_(theirs, made)
    assert len(found.same) == 4 and not found.added
    assert tree(theirs.root) == before


# --- a file that is not whole is refused, and the store is as it was ------------------------------


def refused(store: Store, path: Path, match: str) -> None:
    before = tree(store.root)
    with pytest.raises(BenchError, match=match):
        bundle.import_(store, path)
    assert tree(store.root) == before
    assert store.root.exists() == bool(before)


def test_what_is_no_bundle(theirs: Store, tmp_path: Path):
    refused(theirs, tmp_path / "absent.zip", "There is no file")
    (tmp_path / "text.zip").write_text("text")
    refused(theirs, tmp_path / "text.zip", r"text\.zip is refused: File is not a zip file")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    refused(theirs, tmp_path / "empty.zip", "has no manifest")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_bundle(share: float, theirs: Store, made: Path):
    made.write_bytes(made.read_bytes()[: int(share * made.stat().st_size)])
    refused(theirs, made, "is refused")


def test_a_changed_file(theirs: Store, made: Path):
    name = f"run/{a_run().key}/outcome.json"

    def change(files: dict[str, bytes]) -> None:
        files[name] = files[name].replace(b"0.", b"1.", 1)

    refused(theirs, rewrite(made, change, sums=False), f"{name} was changed")


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_changed_byte(data: st.DataObject, ours: Store, made: Path, tmp_path: Path):
    """Whatever byte changes, it is one plain error, or the same cells as before."""
    whole = made.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    bad = bytearray(whole)
    bad[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "bad.zip").write_bytes(bad)
    before = tree(ours.root)
    try:
        found = bundle.import_(ours, tmp_path / "bad.zip")
    except BenchError:
        found = None
    assert found is None or (len(found.same) == 4 and not found.refused)
    assert tree(ours.root) == before


@pytest.mark.parametrize(
    "name",
    [
        "../outcome.json",
        "/etc/passwd",
        "run/../../outcome.json",
        "run/0123456789abcdef/../outcome.json",
        "RUN/0123456789abcdef/outcome.json",
        "run/0123456789ABCDEF/outcome.json",
        "run/0123456789abcdef/Outcome.json",
        "run/0123456789abcdef/model.safetensors",
        "run/0123456789abcdef/spec.json",
        "distance/0123456789abcdef/predictions.npz",
        "weights/0123456789abcdef/outcome.json",
        "run/0123456789abcdef/outcome.json/",
        "run\\0123456789abcdef\\outcome.json",
        "C:/run/0123456789abcdef/outcome.json",
        "run/0123456789abcdef/outcome.json\n",
        "run/0123456789abcdé/outcome.json",
        "Manifest.json",
    ],
)
def test_a_name_that_no_bundle_has(name: str, theirs: Store, made: Path):
    refused(theirs, rewrite(made, lambda files: files.update({name: b"{}"})), "no bundle has a member")  # fmt: skip # noqa: E501


def test_members_that_are_links_encrypted_or_twice(theirs: Store, made: Path, tmp_path: Path):
    name = f"run/{a_run().key}/outcome.json"

    def write(path: Path, change: Callable[[zipfile.ZipInfo], object], *more: str) -> Path:
        with zipfile.ZipFile(path, "w") as box:
            for member, content in contents(made).items():
                info = zipfile.ZipInfo(member)
                if member == name:
                    change(info)
                box.writestr(info, content)
            for member in more:
                box.writestr(member, b"{}")
        return path

    def link(info: zipfile.ZipInfo) -> None:
        info.external_attr = (stat.S_IFLNK | 0o777) << 16

    refused(theirs, write(tmp_path / "link.zip", link), "encrypted or no plain file")
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = write(tmp_path / "twice.zip", lambda info: None, name)
    refused(theirs, twice, "a member is there twice")
    locked = bytearray(made.read_bytes())
    at = locked.rindex(b"PK\x01\x02")
    locked[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(locked)
    refused(theirs, tmp_path / "locked.zip", "encrypted or no plain file")


def test_a_manifest_that_does_not_fit(theirs: Store, made: Path):
    def manifest(**changes: Any) -> Callable[[dict[str, bytes]], None]:
        def change(files: dict[str, bytes]) -> None:
            raw = {**json.loads(files[bundle.MANIFEST]), **changes}
            files[bundle.MANIFEST] = json.dumps(raw).encode()

        return change

    refused(theirs, rewrite(made, lambda files: files.pop(bundle.MANIFEST)), "has no manifest")
    refused(theirs, rewrite(made, manifest(bundle_version=2)), "version 2.*knows 1: upgrade")
    refused(theirs, rewrite(made, manifest(more=1)), "is refused")
    refused(theirs, rewrite(made, manifest(tool="x\x1b[2J")), "is refused")
    refused(theirs, rewrite(made, manifest(files={}), sums=False), "names other files than it has")
    gone = f"run/{a_run().key}/outcome.json"
    refused(theirs, rewrite(made, lambda f: f.pop(gone), sums=False), "names other files than")
    for text in (b"[" * 100_000, b"[]", b"{", b"\xff"):
        change = {bundle.MANIFEST: text}
        refused(theirs, rewrite(made, lambda f, c=change: f.update(c), sums=False), "is refused")


def test_bombs(theirs: Store, made: Path, monkeypatch: pytest.MonkeyPatch):
    zeros = {f"run/{a_run().key}/outcome.json": bytes(30 << 20)}
    refused(theirs, rewrite(made, lambda files: files.update(zeros)), "grows more than 200-fold")
    monkeypatch.setattr(bundle, "LARGEST", 1 << 20)
    refused(theirs, rewrite(made, lambda files: files.update(zeros)), "is too large")
    monkeypatch.setattr(bundle, "MOST", 3)
    refused(theirs, made, "more than 3")


# --- a single cell that cannot be trusted is left out ---------------------------------------------


def left_out(store: Store, path: Path, match: str) -> None:
    """One cell is refused with the reason; the other three are taken."""
    found = bundle.import_(store, path)
    assert len(found.refused) == 1 and len(found.added) == 3
    (place, why), = found.refused.items()  # fmt: skip
    assert match in why
    kind, key = place.split("/")
    assert store.outcome(kind, key) is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema_version": 2}, "it has schema 2, and this version knows 1"),
        ({"key": "0123456789abcdef"}, "its outcome has the key 0123456789abcdef"),
        ({"versions": {**VERSIONS, "core": "0"}}, "its key is not that of what it asks"),
        ({"status": "failed", "failure": {"kind": "oom", "message": ""}}, "it is not finished"),
        ({"status": "done"}, "its outcome cannot be read"),
        ({"more": 1}, "its outcome cannot be read"),
        ({"metrics": {"auroc": [1e999, 0, 0, 80]}}, "it holds an infinite number"),
        ({"classes": ["a", "b\x1b[2J", "c"]}, "it holds control characters"),
        ({"classes": ["a", "b"]}, "do not fit each other or its classes"),
        ({"per_class": [{}]}, "its classes and their numbers do not fit"),
        ({"data": {"test": 81}}, "it has 80 predictions for 81 test images"),
        ({"metrics": {"accuracy": [0.5, 0.4, 0.6, 80]}}, "it does not have its headline metric"),
        ({"metrics": {"auroc": [0.99, 0.4, 0.6, 80]}}, "its auroc is 0.9900, but its predictions"),
    ],
)
def test_an_outcome_that_cannot_be_trusted(
    changes: dict[str, Any], match: str, theirs: Store, made: Path
):
    left_out(theirs, rewrite(made, edit(a_run(), same_key=True, **changes)), match)


@pytest.mark.parametrize("where", ["metrics", "per_class"])
def test_every_number_must_come_out_of_the_predictions(
    where: str, ours: Store, theirs: Store, made: Path
):
    outcome = ours.outcome("run", a_run().key)
    assert outcome is not None
    raw = outcome.model_dump(mode="json")
    table = raw["metrics"] if where == "metrics" else raw["per_class"][1]
    name = sorted(table)[-1]
    table[name][0] += 0.1
    changed = rewrite(made, edit(a_run(), same_key=True, **{where: raw[where]}))
    left_out(theirs, changed, f"its {name} is not that of its predictions")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURES)
def test_whatever_an_outcome_says_is_taken_or_refused(
    data: st.DataObject, made: Path, tmp_path_factory: pytest.TempPathFactory
):
    """Nothing but the one cell is lost, and what is taken can be read again."""
    raw = json.loads(contents(made)[f"run/{a_run().key}/outcome.json"])
    name = data.draw(st.sampled_from(sorted(raw)))
    value = data.draw(JSON)
    if isinstance(raw[name], dict) and raw[name] and data.draw(st.booleans()):
        value = {**raw[name], data.draw(st.sampled_from(sorted(raw[name]))): value}
    store = Store(tmp_path_factory.mktemp("theirs"))
    changes: dict[str, Any] = {name: value}
    found = bundle.import_(store, rewrite(made, edit(a_run(), same_key=name == "key", **changes)))
    assert len(found.added) + len(found.refused) == 4
    assert len(store.outcomes("run")) + len(store.outcomes("distance")) == len(found.added) >= 3


def test_an_interval_that_is_not_that_of_the_draws(ours: Store, theirs: Store, made: Path):
    found = ours.outcome("run", a_run().key)
    assert found is not None
    value, low, high, n = found.metrics["auroc"]
    metric = {**found.model_dump(mode="json")["metrics"], "auroc": [value, low + 0.01, high, n]}
    left_out(theirs, rewrite(made, edit(a_run(), same_key=True, metrics=metric)), "the interval of")


@pytest.mark.parametrize("part", ["core", "target", "fusion", "source", "protocol"])
def test_what_a_newer_version_made(part: str, theirs: Store, made: Path):
    newer = {**VERSIONS, part: "99"}
    left_out(theirs, rewrite(made, edit(a_run(), versions=newer)), f"its {part} has version 99")


@pytest.mark.parametrize("part", ["core", "target"])
def test_what_an_older_version_made_is_taken(part: str, theirs: Store, made: Path):
    """Its key is another, so that it never mixes with cells of this version."""
    found = bundle.import_(theirs, rewrite(made, edit(a_run(), versions={**VERSIONS, part: "0"})))
    assert len(found.added) == 4 and not found.refused


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("../../evil", "it names a place on a machine: '../../evil'"),
        ("pcam:huge", "The target 'pcam' has no variant 'huge'"),
        ("folder:scans", ""),
        ("theirs:own", ""),
    ],
)
def test_names_of_others(name: str, match: str, theirs: Store, made: Path):
    spec = a_run().spec.model_copy(update={"target": name}).model_dump(mode="json")
    path = rewrite(made, edit(a_run(), spec=spec))
    if match:
        left_out(theirs, path, match)
    else:
        assert len(bundle.import_(theirs, path).added) == 4


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"labels": None}, "its predictions cannot be read"),
        ({"names": np.zeros(80)}, "its predictions cannot be read"),
        ({"scores": np.zeros((80, 3))}, "its predictions cannot be read"),  # float64
        ({"labels": np.array([{}] * 80)}, "its predictions cannot be read"),  # a pickle
        ({"draws": np.zeros((2, 25))}, "its predictions cannot be read"),
        ({"scores": np.zeros((80, 2), np.float32)}, "do not fit each other or its classes"),
        ({"groups": np.zeros(79, np.int32)}, "do not fit each other or its classes"),
        ({"groups": np.full(80, -1, np.int32)}, "out of range"),
        ({"draws": np.full(50, np.inf)}, "out of range"),
        ({"draws": np.zeros(50)}, "the interval of its auroc is not that of its draws"),
        ({"labels": np.full(80, 3, np.int32)}, "The labels are not whole numbers from 0 to 2"),
        ({"scores": np.full((80, 3), np.nan, np.float32)}, "scores are NaN or infinite"),
        ({"scores": np.full((80, 3), 1 / 3, np.float32)}, "but its predictions give 0.5000"),
    ],
)
def test_predictions_that_cannot_be_trusted(
    arrays: dict[str, Any], match: str, theirs: Store, made: Path
):
    left_out(theirs, rewrite(made, predictions(a_run(), **arrays)), match)


@pytest.mark.parametrize("shape", ["(80, 1000000000000)", "(80, -3)", "80", "__import__('os')"])
def test_a_header_that_promises_another_array(shape: str, theirs: Store, made: Path):
    name = f"run/{a_run().key}/predictions.npz"

    def change(files: dict[str, bytes]) -> None:
        with zipfile.ZipFile(io.BytesIO(files[name])) as box:
            arrays = {info: box.read(info) for info in box.namelist()}
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
        body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
        arrays["scores.npy"] = body + arrays["scores.npy"][128:]
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as box:
            for info, content in arrays.items():
                box.writestr(info, content)
        files[name] = buffer.getvalue()

    left_out(theirs, rewrite(made, change), "its predictions cannot be read")


def test_a_cell_with_a_file_less(theirs: Store, made: Path):
    name = f"run/{a_run().key}/predictions.npz"
    left_out(theirs, rewrite(made, lambda files: files.pop(name)), "it has no predictions.npz")


def test_a_pretraining_that_cannot_be_trusted(theirs: Store, made: Path):
    name = f"pretrain/{MADE.key}/spec.json"
    for text, match in ((b"[]", "its spec cannot be read"), (b'{"spec": 1', "cannot be read")):
        found = bundle.import_(theirs, rewrite(made, lambda f, t=text: f.update({name: t})))
        assert match in found.refused[f"pretrain/{MADE.key}"]
    raw = {"versions": {"core": "1"}, "spec": MADE.spec.model_dump(mode="json")}
    found = bundle.import_(theirs, rewrite(made, lambda f: f.update({name: json.dumps(raw).encode()})))  # fmt: skip # noqa: E501
    assert found.refused == {f"pretrain/{MADE.key}": "its key is not that of what it asks"}
    assert theirs.outcome("pretrain", MADE.key) is None


def test_a_newer_store_is_left_alone(theirs: Store, made: Path):
    theirs.root.mkdir()
    (theirs.root / "store.json").write_text('{"schema_version": 99}')
    refused(theirs, made, "has schema 99")


@pytest.mark.parametrize("headline", ["auroc", "mcr", "accuracy"])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_headline_of_a_protocol_is_found_again(
    headline: str, classes: int, theirs: Store, tmp_path: Path
):
    store, cell = Store(tmp_path / "store"), a_run(headline=headline)
    finish(store, cell, classes=classes)
    arrays = store.predictions(cell.key)
    found = metrics.evaluate(arrays["labels"], arrays["scores"], arrays["groups"], draws=50, seed=1)
    store.save_predictions(cell, **{**arrays, "draws": found.draws[headline]})
    finish_again(store, cell)
    taken = bundle.import_(theirs, bundle.export(store, tmp_path / "b.zip"))
    assert len(taken.added) == 1 and not taken.refused


def test_rounded_scores_keep_the_order_of_rare_and_of_certain_ones():
    odds = np.array([-40.0, -12.5, -12.4, -0.1, 0.0, 0.1, 9.3, 9.4])
    scores = 1 / (1 + np.exp(-np.stack([odds, -odds], axis=1)))
    short = trust.shortened(scores.astype("<f4"), several=False)
    again = trust.lengthened(short, several=False)
    assert (np.diff(again[:, 0]) > 0).all()
    assert np.allclose(again, scores, rtol=0.01, atol=1e-7)


@pytest.mark.parametrize("several", [False, True])
def test_a_rounded_score_predicts_what_it_did(several: bool):
    near = np.array([[0.3334, 0.3333, 0.3333], [0.3333, 0.3334, 0.3333], [0.3333, 0.3333, 0.3334]])
    near = np.array([[0.4999, 0.5, 0.4981], [0.5001, 0.2, 0.9]]) if several else near
    again = trust.lengthened(trust.shortened(near.astype("<f4"), several=several), several=several)
    labels = np.zeros((2, 3), int) if several else np.zeros(3, int)
    assert np.array_equal(guess_of(labels, again), guess_of(labels, near))
    assert np.allclose(again, near, atol=0.01)


def test_a_short_bundle_of_a_rare_label_is_taken(theirs: Store, tmp_path: Path):
    store, cell = Store(tmp_path / "store"), a_run()
    labels = np.zeros((40, 2), int)
    labels[:20, 0], labels[:3, 1] = 1, 1
    scores = np.where(labels == 1, 0.4995, 0.2)  # no image is told to have a label
    groups = np.arange(40)
    found = metrics.evaluate(labels, scores, groups, draws=50, seed=1)
    facts = {"data": {"test": 40, "multilabel": True}, "per_class": found.per_class}
    store.begin(cell)
    store.save_predictions(
        cell, labels=labels, scores=scores, groups=groups, draws=found.draws["auroc"]
    )
    store.finish(cell, ok(cell, **facts, metrics=found.overall, classes=("a", "b")))
    taken = bundle.import_(theirs, bundle.export(store, tmp_path / "b.zip", short=True))
    assert len(taken.added) == 1 and not taken.refused


def test_scores_that_are_close_together_are_not_rounded(theirs: Store, tmp_path: Path):
    store, cell = Store(tmp_path / "store"), a_run()
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 80), np.arange(80)
    odds = 0.01 * (rng.normal(size=80) + labels)  # of a network that has hardly learnt
    scores = 1 / (1 + np.exp(-np.stack([-odds, odds], axis=1)))
    found = metrics.evaluate(labels, scores, groups, draws=50, seed=1)
    store.begin(cell)
    store.save_predictions(
        cell, labels=labels, scores=scores, groups=groups, draws=found.draws["auroc"]
    )
    store.finish(cell, ok(cell, metrics=found.overall, classes=("a", "b"), data={"test": 80}))
    taken = bundle.import_(theirs, bundle.export(store, tmp_path / "b.zip", short=True))
    assert len(taken.added) == 1 and not taken.refused
    assert np.allclose(theirs.predictions(cell.key)["scores"], scores, atol=1e-7)
