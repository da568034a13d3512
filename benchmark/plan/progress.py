"""What is told while cells run: lines for the user, and a live line per cell on a terminal."""

import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmark.errors import plain
from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Outcome,
    PretrainSpec,
    RunSpec,
    lacking,
    trained_on,
)


def say(text: str = "") -> None:
    """A line for the user; results go to stdout, everything else goes here."""
    _write("stderr", plain(text, "\n") + "\n")


def show(text: str) -> None:
    """A result on stdout."""
    _write("stdout", text)


def _write(stream: str, text: str) -> None:
    """Write, or be silent from now on: that nobody reads on (`| head`) is no failure of a cell."""
    try:
        getattr(sys, stream).write(text)
        getattr(sys, stream).flush()
    except BrokenPipeError:
        setattr(sys, stream, Path(os.devnull).open("w"))  # noqa: SIM115


def duration(seconds: float) -> str:
    """A span of time in the unit that fits it."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def title(cell: Cell) -> str:
    """A cell in the user's words."""
    spec = cell.spec
    if isinstance(spec, RunSpec):
        less = lacking(spec.missing) if spec.missing else ""
        on = f"tested on {spec.tested_on}" if spec.tested_on else ""
        words = (spec.fusion, spec.mode, trained_on(spec.train_size), f"fold {spec.fold}", less, on)
        return ", ".join((f"{spec.source} → {spec.target}", *filter(None, words)))
    if isinstance(spec, PretrainSpec):
        return f"pretraining on {spec.source}"
    return f"{spec.method} {spec.source} → {spec.target}"


class Progress:
    """One line per event in logs; on a terminal a live line per running cell."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.finished = 0
        self.failures: list[tuple[Cell, Failure]] = []
        self.live = sys.stderr.isatty() and "CI" not in os.environ
        self.last: dict[str, float] = {}
        self.bars: Any = None
        self.tasks: dict[str, Any] = {}
        if self.live:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[facts]}"),
                TimeRemainingColumn(),
            )
            self.bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self.bars.start()

    def listen(self, event: str, cell: Cell, facts: dict[str, Any]) -> None:
        """What a worker told of its cell."""
        if event == "epoch":
            self._epoch(cell, facts)
        elif event == "waits":
            since = time.strftime("%H:%M:%S", time.localtime(facts["since"]))
            who = f"process {facts['pid']} on {facts['host']} since {since}"
            say(f"  {title(cell)}: run by {who}; waiting for it")
        elif event == "done":
            self._done(cell, facts["outcome"])

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        if self.bars is not None:
            self.bars.stop()

    def _epoch(self, cell: Cell, facts: dict[str, Any]) -> None:
        left = (facts["epochs"] - facts["epoch"]) * facts["seconds"]
        text = (
            f"epoch {facts['epoch']}/{facts['epochs']}  loss {facts['loss']:.4f}  "
            f"{facts['rate']:.0f} img/s"
        )
        if self.bars is not None:
            if cell.key not in self.tasks:
                self.tasks[cell.key] = self.bars.add_task(
                    title(cell), total=facts["epochs"], facts=""
                )
            self.bars.update(self.tasks[cell.key], completed=facts["epoch"], facts=text)
            return
        now = time.monotonic()
        if now - self.last.setdefault(cell.key, now) > 10 or facts["seconds"] > 10:
            self.last[cell.key] = now
            say(f"  {title(cell)}: {text}  {duration(left)} left")

    def _done(self, cell: Cell, outcome: Outcome) -> None:
        self.finished += 1
        if outcome.failure is not None:
            self.failures.append((cell, outcome.failure))
            result = f"failed ({outcome.failure.kind})"
        else:
            result = _headline(outcome)
        line = f"[{self.finished}/{self.total}] {title(cell)}: {result}"
        if self.bars is not None:
            if cell.key in self.tasks:
                self.bars.remove_task(self.tasks.pop(cell.key))
            self.bars.console.print(line, markup=False, highlight=False)
        else:
            say(line)


def _headline(outcome: Outcome) -> str:
    spec = outcome.spec
    if isinstance(spec, DistanceSpec):
        return f"{outcome.metrics['distance'].value:.6g}"
    name = spec.headline if isinstance(spec, RunSpec) else "test_auroc"
    found = outcome.metrics.get(name)
    if found is None:
        return outcome.chosen or "ok"
    seconds = outcome.seconds.get("total", 0.0)
    return f"{name} {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] in {duration(seconds)}"
