"""Summaries are kept between commands, and tell nothing that the outcomes do not."""

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import stores

from benchmark.plan import plan
from benchmark.spec import Cell, Failure, RunSpec
from benchmark.store import Store
from reports import status
from reports.leaderboard import table

FILE = "runs/index.json"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many") / "store"
    stores.build(root, targets=2, sources=6, fusions=("none", "concat"), seeds=1, epochs=2,
                 images=20, draws=50)  # fmt: skip
    return root


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """A store of two targets whose index was written by a reader."""
    shutil.copytree(built, tmp_path / "store")
    status.show(Store(tmp_path / "store"))
    assert (tmp_path / "store" / FILE).is_file()
    return tmp_path / "store"


def seen(root: Path) -> tuple:
    """What readers make of a store: boards, requests, and the plan of a cell that is new."""
    store = Store(root)
    spec = RunSpec(source="s01", target="t01", seed=0, recipe=stores.RECIPE)
    new = plan.Plan([plan.Planned(Cell.of(spec), "to run")], [])
    return (
        table.show(store, format="json"),
        status.show(store, format="csv"),
        plan.again(new, store),
        plan.estimate(new, store),
    )


def test_what_the_index_tells_a_plan(root: Path):
    _, _, again, estimated = seen(root)
    (why,) = again.values()
    assert "version of core None -> 1" not in why and "version of core 1 -> None" in why
    assert estimated.seconds == pytest.approx(321.4)
    assert estimated.gpu_seconds == pytest.approx(321.4)


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _flipped(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"ok"', b'"no"', 1))


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _older(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 0').split(b',\n "ch')[0])


@pytest.mark.parametrize(
    "harm", [Path.unlink, _text(""), _text("{}"), _text("[]"), _cut, _flipped, _folder, _older]
)
def test_an_index_that_is_gone_or_damaged_changes_nothing(root: Path, harm: Callable):
    before = seen(root)
    harm(root / FILE)
    assert seen(root) == before


def spoil(store: Store, target: str) -> None:
    """Change a digit in every outcome of a target, as a disk might: neither time nor size tell."""
    for row in store.summaries():
        if row.spec.target == target:
            path = store.folder("run", row.key) / "outcome.json"
            facts = path.stat()
            with path.open("r+b") as file:
                file.seek(path.read_bytes().index(b'"metrics"'))
                file.write(b'"metricz"')
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_a_board_reads_the_outcomes_of_its_target_alone_and_checks_them(root: Path):
    before = table.show(Store(root), targets=("t01",))
    spoil(Store(root), "t00")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert table.show(Store(root), targets=("t01",)) == before
        assert "t00" in status.show(Store(root))
    with pytest.warns(UserWarning, match="is damaged"):
        assert "t00" not in table.show(Store(root))


def test_outcomes_that_come_change_and_go_are_seen(root: Path):
    store = Store(root)
    first, second, *_ = [row for row in store.summaries() if row.spec.target == "t01"]
    outcome = store.outcome("run", first.key)
    assert outcome is not None
    store.fail(Cell(first.key, outcome.spec, outcome.versions), Failure(kind="oom", message="Mem."))
    shutil.rmtree(store.folder("run", second.key))
    new = Cell.of(RunSpec(source="new", target="t02"))
    store.fail(new, Failure(kind="bug", message="No."))
    for reader in (store, Store(root)):
        found = {row.key: row for row in reader.summaries()}
        assert found[first.key].failure == "oom"
        assert second.key not in found and reader.summary("run", second.key) is None
        assert found[new.key].message == "No."
        assert reader.summary("run", new.key) == found[new.key]
    assert "Mem. (oom)" in status.show(Store(root))


def test_many_changes_are_written_few_are_not(root: Path):
    store, index = Store(root), root / FILE
    before = index.read_bytes()
    store.fail(Cell.of(RunSpec(source="new", target="t02")), Failure(kind="bug", message="No."))
    assert len(Store(root).summaries()) == 121
    assert index.read_bytes() == before
    index.unlink()
    assert len(Store(root).summaries()) == 121
    assert index.is_file()
