"""What the pages tell a reader to write and type works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import contract

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str) -> list[str]:
    """The indented blocks of a page."""
    text = (ROOT / page).read_text()
    found = re.findall(r"(?:^    .*\n|^\n(?=\n*    ))+", text, flags=re.M)
    return [re.sub(r"^    ", "", block, flags=re.M).strip("\n") for block in found]


def bench(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, "-m", "benchmark.cli", *map(str, words)],
        capture_output=True, text=True, cwd=cwd, timeout=200, env={**os.environ, "CI": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found


@pytest.mark.parametrize(
    ("first", "kind"), [("Beans", "source"), ("Sum", "fusion"), ("Gap", "distance")]
)
def test_the_components_of_the_page_keep_the_contract(tmp_path: Path, first: str, kind: str):
    code = next(b for b in blocks("docs/extending.md") if b.startswith(f'"""{first}'))
    path = tmp_path / f"{first.lower()}.py"
    path.write_text(code + "\n")
    assert list(contract.check(str(path)))[-1] == f"{kind} '{first.lower()}' keeps the contract"


NAMES = ("extending", "store", "own-data", "papers", "mlflow", "security")
PAGES = ["README.md", *(f"docs/{name}.md" for name in NAMES)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_of_a_page_exist(page: str):
    """Every `bench …` of a page is a command with those options."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"(?:^    |`)bench ([^`\n#]+)", text, flags=re.M)
    known: dict[str, str] = {}
    for line in lines:
        words = line.split()
        name = words[0]
        if name in ("data", "weights", "store", "results", "expert", "mlflow") and len(words) > 1:
            name = f"{name} {words[1]}"
        if name not in known:
            known[name] = bench(*name.split(), "--help", cwd=ROOT).stdout
        for option in re.findall(r"--[a-z-]+", line):
            assert re.search(rf"{option}\b", known[name]), (name, option)
