"""A small share of `make torture`: kills, damages and full disks lose and change nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TORTURE = Path(__file__).parent / "torture.py"


@pytest.mark.timeout(600)
def test_nothing_is_lost_by_a_few_kills_damages_and_full_disks(tmp_path: Path):
    words = ["--kills", "2", "--damages", "2", "--disks", "1", "--light", "--seed", "845"]
    done = subprocess.run(
        [sys.executable, str(TORTURE), *words], capture_output=True, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 lost 0 changed" in done.stdout
    assert "damages 0 silent 0 traceback 0 stuck" in done.stdout
