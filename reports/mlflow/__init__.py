"""The MLflow mirror: what the store holds, as runs that others can browse.

The store is the truth. A run carries the key of its cell; the tag `bench.complete` is set last and
names what the run was made from, and a run without it, or with another, is made anew. Only the
process that started a grid comes here, never a worker.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

from benchmark.errors import BenchError
from benchmark.spec import Outcome
from benchmark.store import Store
from reports.mlflow.server import default_uri, reached
from reports.mlflow.writer import KINDS, Writer

__all__ = ["Mirror", "Synced", "default_uri", "mirrored", "sync"]


class Synced(NamedTuple):
    """How many runs were written, how many were there already, and what MLflow refused."""

    written: int
    unchanged: int
    refused: tuple[str, ...]


def sync(
    store: Store, *, uri: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Synced:
    """Make MLflow show what the store holds; what it shows already is left alone.

    `uri` goes before MLFLOW_TRACKING_URI, and that before a database in the store.
    """
    uri = uri or default_uri(store)
    keys = [(kind, row.key) for kind in KINDS for row in store.summaries(kind)]
    with reached(uri):
        writer = Writer(store, uri)
        for i, (kind, key) in enumerate(keys, start=1):
            writer.cell(kind, key, listed=True)
            if progress is not None:
                progress(i, len(keys))
        writer.finish()
    return Synced(writer.written, writer.unchanged, tuple(writer.refused))


def mirrored(
    store: Store, wanted: bool, *, say: Callable[[str], None]
) -> "AbstractContextManager[Mirror | None]":
    """A mirror that is up to date when the block ends, where one is wanted."""
    return Mirror(store, say=say) if wanted else nullcontext()


class Mirror:
    """Mirrors outcomes beside a running grid, which neither waits for it nor fails with it.

    An MLflow that cannot be reached is one warning; `sync` makes up for what it missed.
    """

    def __init__(self, store: Store, *, say: Callable[[str], None], uri: str | None = None) -> None:
        self.store = store
        self.say = say
        self.uri = uri or default_uri(store)
        self.waiting: SimpleQueue[tuple[str, str] | str | None] = SimpleQueue()
        self.thread = Thread(target=self._serve, name="mlflow mirror", daemon=True)
        self.thread.start()

    def begin(self) -> None:
        """Cells start now: reach MLflow while they run, not when they have ended."""
        self.waiting.put("begin")

    def add(self, outcome: Outcome) -> None:
        """Mirror this outcome, which is in the store, soon."""
        self.waiting.put((outcome.spec.kind, outcome.key))

    def close(self) -> None:
        """Wait until everything is mirrored, or known not to be."""
        self.waiting.put(None)
        self.thread.join(2.0)
        if self.thread.is_alive():
            self.say("Bringing MLflow up to date; Ctrl-C leaves that to `bench mlflow sync`.")
            self.thread.join()

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _serve(self) -> None:
        item = self.waiting.get()
        if item is None:
            return  # nothing came, so nobody waits for MLflow to be imported
        try:
            with reached(self.uri):
                writer = Writer(self.store, self.uri)
                while item is not None:
                    if not isinstance(item, str):
                        writer.cell(*item)
                    item = self.waiting.get()
                writer.finish(every=False)
        except BenchError as error:
            self.say(f"Warning: {error}")
            return
        for text in writer.refused:
            self.say(f"Warning: {text}")
