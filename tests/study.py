"""docs/study.md: every table in it is what the command above it prints on the study's bundle.

`python tests/study.py` writes the tables anew; a test says when that is due.
"""

import re
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "study.md"
#: A fenced block: the command behind a `$`, and below it what it prints.
BLOCK = re.compile(r"^```\n\$ (bench .+)\n((?:.*\n)*?)```$", flags=re.M)
#: A number with a point or per cent, as a result is written.
RESULT = re.compile(r"(?<![\w.])[-+−]?\d+\.\d+|\d+(?= %)")


def written(text: str, run: Callable[[str], str]) -> str:
    """The page with what its commands print now."""
    return BLOCK.sub(lambda block: f"```\n$ {block[1]}\n{run(block[1]).rstrip()}\n```", text)


def unfounded(text: str) -> list[str]:
    """Results in the prose that no command of the page has printed."""
    prose, printed = BLOCK.sub("", text), " ".join(block[2] for block in BLOCK.finditer(text))
    printed = printed.replace("%", " %")
    known = {number.lstrip("+-−") for number in RESULT.findall(printed)}
    return [n for n in RESULT.findall(prose) if n.lstrip("+-−") not in known]


def printed(command: str, store: Path) -> str:
    """What a command prints of this store."""
    from benchmark import cli

    words = shlex.split(command.removeprefix("bench "))
    with warnings.catch_warnings(action="ignore"):
        found = CliRunner().invoke(cli.app, words, env={"BENCH_STORE": str(store)})
    if found.exit_code:
        raise SystemExit(f"{command}: {found.output}") from found.exception
    return "\n".join(line.rstrip() for line in found.stdout.splitlines())


if __name__ == "__main__":
    from reports import studies

    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory() as folder:
        root = studies.unpack("small", Path(folder)).root
        text = written(PAGE.read_text(), lambda command: printed(command, root))
    PAGE.write_text(text)
    sys.stdout.writelines(f"no command printed {number}\n" for number in unfounded(text))
