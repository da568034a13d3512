"""Studies that come with the package: the outcomes of real data, and the plan that made them."""

from pathlib import Path

from benchmark import bundle
from benchmark.store import Store

FOLDER = Path(__file__).parent


def unpack(name: str, out: Path) -> Store:
    """The store of a study below `out`, unpacked there once."""
    return bundle.unpack(FOLDER / name / "bundle.zip", out / "store")
