"""Axes: where a number lies, in per cent, and the round ones to write beside it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from benchmark.stats import Estimate


@dataclass(frozen=True)
class Axis:
    """A range with round ticks, of counts on a logarithmic scale."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, in per cent of the axis; outside values lie on its ends."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(max(value, low))
        share = (value - low) / (high - low)
        return round(100 * min(max(share, 0.0), 1.0), 3)

    def beyond(self, value: float) -> int:
        """-1 or 1 where a value lies left or right of the axis, else 0."""
        return (value > self.high) - (value < self.low)

    @property
    def named(self) -> tuple[float, ...]:
        """The ticks with room for a number, zero among them."""
        every = 2 if len(self.ticks) > 5 else 1
        return self.ticks[self.ticks.index(0.0) % every if 0.0 in self.ticks else 0 :: every]

    def text(self, tick: float) -> str:
        """The tick with as many digits as its neighbours need."""
        if self.log:
            return f"{tick:,.0f}"
        step = self.ticks[1] - self.ticks[0]
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{tick:.{digits}f}"


def axis(values: Iterable[float], *, ticks: int = 4) -> Axis:
    """An axis around the finite values, its ends on round numbers."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / ticks
    base = 10 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    marks = tuple(round(k * step, 12) for k in range(first, last + 1))
    return Axis(marks[0], marks[-1], marks)


def sizes(counts: Iterable[float]) -> Axis:
    """A logarithmic axis around counts from 1 on."""
    known = list(counts)
    round_ones = [m * 10.0**k for k in range(9) for m in (1, 2, 5)]
    first = max((n for n in round_ones if n <= min(known)), default=1.0)
    last = min(n for n in round_ones if n >= max(known) and n > first)
    return Axis(first, last, tuple(n for n in round_ones if first <= n <= last), log=True)


def of_estimates(estimates: Iterable[Estimate | None], *also: float) -> Axis:
    """An axis that holds every interval, and what else is to be seen."""
    return axis([*(number for e in estimates if e is not None for number in e[:3]), *also])
