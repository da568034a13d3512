"""Which cell is next: none before what it builds on, those that share data and weights together."""

import threading
from collections import deque
from collections.abc import Sequence

from benchmark.spec import Cell, Failure, Outcome, RunSpec
from benchmark.store import Store


class Queue:
    """Cells to run, handed out so that none starts before its weights are there."""

    def __init__(self, cells: Sequence[Cell], store: Store) -> None:
        self.store = store
        self.lock = threading.Condition()
        self.running: dict[str, Cell] = {}
        self.warm: set[tuple] = set()  # whose features are extracted
        self.stopping = False
        self.ready: dict[tuple, deque[Cell]] = {}  # by what they share, in the plan's order
        self.waiting: dict[str, set[str]] = {}  # key -> what must end before it
        self.after: dict[str, list[Cell]] = {}  # key -> who waits for it
        here = {cell.key for cell in cells}
        for cell in cells:
            first = {key for _, key in cell.upstream() if key in here}
            for key in first:
                self.after.setdefault(key, []).append(cell)
            if first:
                self.waiting[cell.key] = first
            else:
                self._offer(cell)

    def _offer(self, cell: Cell) -> None:
        self.ready.setdefault(shared(cell), deque()).append(cell)

    def take(self, last: tuple | None) -> Cell | None:
        """The next cell that can start, best one that shares data and weights with the last;
        waits while others must finish first; None when nothing is left."""
        with self.lock:
            while not self.stopping and (self.ready or self.waiting):
                # One slot at a time extracts features, else two would extract the same.
                busy = {shared(c) for c in self.running.values() if _frozen(c)} - self.warm
                if last in self.ready and last not in busy:
                    return self._hand_out(last)
                free = next((group for group in self.ready if group not in busy), None)
                if free is not None:
                    return self._hand_out(free)
                self.lock.wait(1.0)
            return None

    def _hand_out(self, group: tuple) -> Cell:
        cell = self.ready[group].popleft()
        if not self.ready[group]:
            del self.ready[group]
        self.running[cell.key] = cell
        return cell

    def done(self, cell: Cell) -> None:
        """A cell has its outcome: those that wait for it may go on."""
        with self.lock:
            self.running.pop(cell.key, None)
            if _frozen(cell):
                self.warm.add(shared(cell))
            for other in self.after.pop(cell.key, ()):
                self.waiting[other.key].discard(cell.key)
                if not self.waiting[other.key]:
                    del self.waiting[other.key]
                    self._offer(other)
            self.lock.notify_all()

    def stop(self) -> None:
        """Hand out nothing more."""
        with self.lock:
            self.stopping = True
            self.lock.notify_all()


def without_upstream(store: Store, cell: Cell) -> Outcome | None:
    """The failure of a cell whose pretraining or image-only run is not there."""
    for kind, key in cell.upstream():
        found = store.outcome(kind, key)
        if found is None or found.status != "ok":
            cause = found.failure.message if found and found.failure else "no outcome"
            message = f"The {kind} {key} it builds on failed: {cause}"
            return store.fail(cell, Failure(kind="upstream", message=message))
    return None


def _frozen(cell: Cell) -> bool:
    return isinstance(cell.spec, RunSpec) and cell.spec.mode != "finetune"


def shared(cell: Cell) -> tuple:
    """What cells have in common that makes the second one cheaper in the same process."""
    spec = cell.spec
    target = spec.target if isinstance(spec, RunSpec) else ""
    weights = spec.weights if isinstance(spec, RunSpec) else None
    return (spec.kind, target, spec.arch, weights)
