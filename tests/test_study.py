"""The study that comes with the package: its plan, its outcomes and the page on them."""

import json
from pathlib import Path

import pytest
import study as page
from typer.testing import CliRunner

from benchmark import cli
from benchmark.plan import request
from benchmark.store import Store
from reports import studies


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return studies.unpack("small", tmp_path_factory.mktemp("study"))


def run(*words: str) -> str:
    found = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert not found.exit_code, found.output
    return found.stdout


def test_its_outcomes_are_those_that_its_plan_asks_for(store: Store):
    asked = request.requests(request.read(studies.FOLDER / "small" / "plan.yaml"))
    wanted = {(s, t, f, m) for one in asked for s in one.sources for t in one.targets
              for f in one.fusions for m in one.modes if f != "metadata"}  # fmt: skip
    runs = [o.spec for o in store.outcomes("run") if o.spec.fusion != "metadata"]
    assert wanted == {(one.source, one.target, one.fusion, one.mode) for one in runs}
    assert {one.mode for one in runs} == {"frozen", "finetune"}


def test_the_demonstration_opens_with_real_data(tmp_path: Path):
    said = run("demo", "--out", tmp_path, "--no-open")
    first, more = said.splitlines()
    assert "isic" in Path(first).read_text()
    assert "bench recommend" in more
    found = json.loads(run("recommend", "--store", tmp_path / "store", "--target", "isic",
                           "--mode", "frozen", "--format", "json"))  # fmt: skip
    assert len(found["sources"]) > 3


@pytest.mark.slow
def test_every_table_of_the_page_is_what_its_command_prints(store: Store):
    text = page.PAGE.read_text()
    assert page.written(text, lambda command: page.printed(command, store.root)) == text


def test_every_result_in_the_page_was_printed_by_a_command_on_it():
    text = page.PAGE.read_text()
    assert len(page.BLOCK.findall(text)) > 5
    assert page.unfounded(text) == []
    assert page.unfounded(text + "\nIt helps by 0.98765.") == ["0.98765"]
