"""What was finished before still opens, reads the same everywhere and comes out the same again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from floor import FORMS, KEPT, MADE, QUICK, READ, bench, numbers, pages, unpack
from rich.cells import cell_len

#: Readers quick enough for every run of the tests.
OFTEN = ("leaderboard", "compare-fusions", "transfer", "distance")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("kept"))


def calm(value: Any) -> Any:
    """The same without what arithmetic leaves of nothing."""
    if isinstance(value, dict):
        return {name: calm(one) for name, one in value.items()}
    if isinstance(value, list):
        return [calm(one) for one in value]
    return 0.0 if isinstance(value, float) and abs(value) < 1e-12 else value


def same(found: dict[str, Any], kept: dict[str, Any]) -> None:
    """Equal to 1e-9 where the kept numbers were made; loosely where the arithmetic is another."""
    made = json.loads((KEPT / "machine.json").read_text())
    exact = made == {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    near = {"abs": 1e-9, "rel": 1e-9} if exact else {"abs": 0.1, "rel": 0.1}
    for key in found:
        was, now = kept[key], found[key]
        assert (was["cell"], was["status"]) == (now["cell"], now["status"])
        values, expected = (
            {name: one[0] for name, one in cell["metrics"].items() if one[0] is not None}
            for cell in (now, was)
        )
        assert values == pytest.approx(expected, nan_ok=True, **near), now["cell"]
        if exact:
            assert calm(now) == calm(was)


@pytest.mark.parametrize(
    "commands", [QUICK, pytest.param(MADE, marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_cells_come_out_as_before(commands: tuple[str, ...], tmp_path: Path):
    for words in commands:
        bench(words, tmp_path / "store", fails="1e30" in words)
    found, kept = numbers(tmp_path / "store"), json.loads((KEPT / "numbers.json").read_text())
    assert set(found) <= set(kept), "a key has changed: old outcomes would be run again"
    assert commands is QUICK or set(found) == set(kept)
    same(found, kept)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "name", [n if n in OFTEN else pytest.param(n, marks=pytest.mark.slow) for n in READ]
)
def test_every_reader_says_what_it_said(name: str, form: str, store: Path):
    assert bench(READ[name], store, "--format", form) == (KEPT / f"{name}.{form}").read_text()


NARROW = ["leaderboard", "leaderboard-one", "compare-fusions", "compare-sources", "transfer",
          "distance", "recommend"]  # fmt: skip


@pytest.mark.parametrize("name", ["status", *NARROW])
def test_tables_fit_the_terminal_and_name_what_was_left_out(name: str, store: Path):
    words = READ.get(name, name)
    text = bench(words, store, width=100)
    assert max(map(cell_len, text.splitlines())) <= 100
    head = next(
        line for line in bench(words, store, "--format", "md").splitlines() if line.startswith("| ")
    )
    headings = head.replace("|", "").replace("\\", "").split()  # one may be folded
    assert [heading for heading in headings if heading not in text] == []
    assert ("--format md has every column" in text) == (name not in ("status", "distance"))


@pytest.mark.slow
def test_every_page_says_what_it_said(store: Path, tmp_path: Path):
    found = {f"page-{k.replace('/', '-')}.txt": v for k, v in pages(store, tmp_path).items()}
    assert set(found) == {path.name for path in KEPT.glob("page-*")}
    for name, text in found.items():
        assert text + "\n" == (KEPT / name).read_text()


def test_a_finished_store_plans_nothing_new(store: Path):
    for words in MADE:
        if "1e30" not in words:
            told = bench(words, store, "--dry-run")
            assert "done" in told
            assert "to run" not in told


def test_a_bundle_of_before_comes_in_whole(store: Path, tmp_path: Path):
    bench(f"results import {KEPT / 'bundle.zip'}", tmp_path / "store")
    found, kept = numbers(tmp_path / "store"), numbers(store)
    finished = {
        key
        for key, one in kept.items()
        if one["status"] == "ok" and not one["cell"].startswith("pretrain")
    }  # weights do not travel
    assert len(finished) > 100
    assert {key: found[key] for key in finished} == {key: kept[key] for key in finished}
