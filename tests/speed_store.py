"""What readers, plans, the queue and the mirror take on a store of 50,000 cells.

`python tests/speed_store.py`, also a part of `make speed`. Seconds are the processor's, of a whole
command where one is named, so that other work on the machine matters less.
"""

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FUSIONS = ("none", "concat", "film", "metablock", "late")


class Figure(NamedTuple):
    what: str
    value: float
    bound: float
    most: bool = True


def figures(targets: int = 49) -> Iterator[Figure]:
    """A store of 1,020 cells a target, and all that is to stay quick on it."""
    import stores

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.process_time()
        stores.build(root / "store", targets=targets, sources=20, fusions=FUSIONS)
        yield Figure("seconds to build the store", time.process_time() - began, 120)
        first, _ = taken(root / "store", "status")
        yield Figure("seconds of the first `status`, which writes the index", first, 60)
        seconds, _ = taken(root / "store", "status")
        yield Figure("seconds of `status`", seconds, 5)
        seconds, memory = taken(root / "store", "leaderboard", "--target", "t03")
        yield Figure("seconds of `leaderboard --target` of 1,000 cells", seconds, 3)
        yield Figure("MB of it", memory, 400)
        yield from planned(root / "store")
        seconds, memory = taken(root / "store", "leaderboard")
        yield Figure("seconds of the whole `leaderboard`", seconds, 20)
        yield Figure("MB of it", memory, 400)
        yield from mirrored(root / "small")


def planned(root: Path) -> Iterator[Figure]:
    """A dry-run of 10,000 cells on the store, and the parent's share of running them."""
    from benchmark.engine.pending import Queue, shared
    from benchmark.plan import plan, run
    from benchmark.spec import Outcome, Runtime
    from benchmark.store import Store

    request = plan.Request(
        sources=("none", "dtd"), targets=("isic",), fusions=("none", "concat"),
        seeds=tuple(range(500)),
    )  # fmt: skip
    store, began = Store(root), time.process_time()
    made = plan.make(request, Runtime(store=root))
    plan.again(made, store)
    plan.estimate(made, store)
    yield Figure("seconds of a dry-run of 10,000 cells", time.process_time() - began, 4)
    cells = [one.cell for one in made.cells]
    with contextlib.redirect_stderr(io.StringIO()):
        began, pending = time.process_time(), Queue(cells, store)
        with run.Progress(len(cells)) as progress:
            last = None
            while (cell := pending.take(last)) is not None:
                last = shared(cell)
                store.outcome(cell.spec.kind, cell.key)
                done = Outcome(key=cell.key, spec=cell.spec, status="skipped", reason="measured")
                progress.listen("done", cell, {"outcome": done})
                pending.done(cell)
        took = time.process_time() - began
    assert progress.finished == len(cells) >= 10000
    yield Figure("seconds of the parent for a queue of 10,000 cells", took, 10)


def mirrored(root: Path) -> Iterator[Figure]:
    """A first sync with MLflow, and one that has nothing to do."""
    import stores

    from reports import mlflow
    from reports.mlflow.server import client_of, own_uri

    store = stores.build(root, targets=2, sources=20, fusions=("none", "concat"), seeds=1)
    uri = own_uri(store)
    client_of(uri).search_experiments(max_results=1)  # imports, and makes the tables
    began = time.process_time()
    written = mlflow.sync(store, uri=uri).written
    rate = written / (time.process_time() - began)
    yield Figure("runs a second of a first `mlflow sync`", rate, 25, most=False)
    began = time.process_time()
    found = mlflow.sync(store, uri=uri)
    each = 1000 * (time.process_time() - began) / found.unchanged
    assert not found.written
    yield Figure("milliseconds a run of a sync with nothing to do", each, 1)


def taken(store: Path, *words: str) -> tuple[float, float]:
    """Processor seconds and the most megabytes of a command."""
    command = [sys.executable, "-m", "benchmark.cli", *words, "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


if __name__ == "__main__":
    for found in figures():
        sign = "<=" if found.most else ">="
        sys.stdout.write(f"{found.what}: {found.value:.3g} ({sign} {found.bound:g})\n")
        sys.stdout.flush()
