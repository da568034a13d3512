"""Fixtures that several test files share."""

import os
from collections.abc import Callable
from functools import cache

# Several test processes share few cores: libraries must not start a thread per core in each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Commands under test would each import MLflow; what tests the mirror turns it on.
os.environ.setdefault("BENCH_MLFLOW", "0")
# Plans of large networks would each measure a batch; what tests the estimate gives it its time.
os.environ.setdefault("BENCH_PATIENCE", "0")
# Tables go uncut into a pipe; what tests how they are cut names a width.
os.environ.pop("COLUMNS", None)

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory):
    """What files held is remembered for a user; tests leave the user's memory alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _command_line_built_once():
    """Typer builds all commands anew for each one that is given, though none changes them."""
    import typer.main
    import typer.testing

    built = cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", built)
        patch.setattr(typer.testing, "_get_command", built)
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets, named by BENCH_REAL_DATA or lying beside the checkout."""
    folder = Path(os.environ.get("BENCH_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory):
    """A folder by its name, which the first of the test processes fills for all to read."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def made(name: str, fill: Callable[[Path], object]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                fill(shared / f"{name}.half")
                (shared / f"{name}.half").rename(shared / name)
        return shared / name

    return made


TINY = ROOT / "tests" / "components" / "tiny.py"


@pytest.fixture
def runtime(tmp_path: Path):
    """A runtime on an empty store that knows the tiny target."""
    from benchmark.spec import Runtime

    return Runtime(
        data=tmp_path / "data",
        store=tmp_path / "store",
        device="cpu",
        workers=1,
        offline=True,
        draws=200,
        paths={"tiny": TINY},
    )


@pytest.fixture
def request_tiny():
    """Asks for small cells on the tiny target that last as long as their epochs; keywords change
    it."""
    from benchmark.plan.plan import Request

    def make(**changes: Any) -> Request:
        recipe = {"threads": 1, "epochs": 2, "batch": 16, "head": "trained"}
        recipe |= changes.pop("recipe", {})
        base: dict[str, Any] = {
            "targets": ("tiny",),
            "archs": ("test_resnet",),
            "modes": ("frozen",),
            "protocols": ("demo",),
            "recipe": recipe,
        }
        return Request(**{**base, **changes})

    return make


#: The files that take longest, so that no core waits for one of them at the end.
LONG = (
    "engine", "tracking", "recommend", "fold", "floor", "torture", "explain", "otdd", "leaderboard",
    "components", "slots", "network", "page", "drawing", "batches", "cli", "fusion", "task2vec",
    "heads", "replay", "scores", "data",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first; pytest-xdist hands them out in this order."""
    rank = {f"test_{name}": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))
