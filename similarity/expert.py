"""Expert distance: how many properties of two datasets people answer differently.

Several observers answer the same questions about each dataset; the majority's answers are the
dataset's profile and the Hamming distance of two profiles their distance.
"""

from __future__ import annotations

import csv
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from benchmark.api import BenchError, DataMissing, Distance, DistanceCard, Measured, Side
from benchmark.spec import Scalar

Profiles = Mapping[str, Mapping[str, str]]  # dataset -> property -> the majority's answer


class Answer(NamedTuple):
    observer: str
    dataset: str
    property: str
    answer: str


class LeaveOneOut(NamedTuple):
    """A statistic with all observers, and its range when each in turn is left out."""

    value: float
    low: float
    high: float
    without: dict[str, float]


def majority(answers: Iterable[str]) -> str:
    """The most frequent answer; of those that tie, the first by code point.

    The rule needs no order of the observers, so a shuffled file gives the same profile.
    """
    counts = Counter(answers)
    if not counts:
        raise BenchError("There is no answer to take the majority of.", "Give at least one.")
    return min(counts, key=lambda answer: (-counts[answer], answer))


def hamming(a: Sequence[str], b: Sequence[str]) -> int:
    """Number of places in which two equally long sequences of answers differ."""
    if len(a) != len(b):
        what = f"{len(a)} answers cannot be compared with {len(b)}."
        raise BenchError(what, "Answer the same questions for both datasets.")
    return sum(one != other for one, other in zip(a, b, strict=True))


def read_answers(path: Path) -> list[Answer]:
    """Raw answers from a CSV with the columns observer, dataset, property (or question), answer.

    Blanks around a cell are stripped; a row with an empty answer is an observer who gave none.
    """
    if not path.is_file():
        raise DataMissing(f"No file {path}.", "Give a CSV of observer, dataset, property, answer.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        names = {name.strip().lower(): name for name in reader.fieldnames or ()}
        names.setdefault("property", names.get("question", ""))
        missing = [field for field in Answer._fields if not names.get(field)]
        if missing:
            what = f"{path} has no column {', '.join(missing)}."
            raise BenchError(what, "Name the columns observer, dataset, property and answer.")
        rows = [
            Answer(*((row[names[field]] or "").strip() for field in Answer._fields))
            for row in reader
        ]
    answers = [row for row in rows if row.answer]
    for (observer, dataset, name), count in Counter(row[:3] for row in answers).items():
        if count > 1:
            what = f"Observer {observer} answers {name} of {dataset} {count} times in {path}."
            raise BenchError(what, "Keep one answer each.")
    return answers


def profiles(answers: Iterable[Answer]) -> dict[str, dict[str, str]]:
    """The majority's answer to every property of every dataset."""
    votes: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in answers:
        votes[row.dataset, row.property].append(row.answer)
    result: dict[str, dict[str, str]] = defaultdict(dict)
    for (dataset, name), given in votes.items():
        result[dataset][name] = majority(given)
    return dict(result)


def distances(known: Profiles) -> dict[tuple[str, str], int]:
    """Hamming distance of every ordered pair of datasets, themselves included."""
    names = sorted({name for profile in known.values() for name in profile})
    for dataset, profile in known.items():
        if len(profile) < len(names):
            lacking = ", ".join(name for name in names if name not in profile)
            raise BenchError(f"Nobody answered {lacking} of {dataset}.", "Add the answers.")
    rows = {dataset: [profile[name] for name in names] for dataset, profile in known.items()}
    return {(a, b): hamming(rows[a], rows[b]) for a in rows for b in rows}


def fleiss_kappa(answers: Iterable[Iterable[str]]) -> float:
    """Agreement beyond chance on one property: an inner sequence holds one dataset's answers.

    Datasets may have unequal numbers of observers; one with fewer than two is left out. NaN where
    every answer is the same, for then chance agreement is complete.
    """
    counts = [Counter(row) for row in answers]
    counts = [row for row in counts if row.total() > 1]
    if not counts:
        raise BenchError("Kappa needs two answers to one dataset.", "Ask more observers.")
    pooled = sum(counts, Counter())
    chance = sum((n / pooled.total()) ** 2 for n in pooled.values())
    if len(pooled) == 1:
        return math.nan
    pairs = [
        sum(n * (n - 1) for n in row.values()) / (row.total() * (row.total() - 1)) for row in counts
    ]
    return (math.fsum(pairs) / len(pairs) - chance) / (1 - chance)


def kappas(answers: Iterable[Answer]) -> dict[str, float]:
    """Fleiss' kappa of every property."""
    table: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in answers:
        table[row.property][row.dataset].append(row.answer)
    return {name: fleiss_kappa(datasets.values()) for name, datasets in table.items()}


def leave_one_out(
    answers: Sequence[Answer], statistic: Callable[[list[Answer]], float]
) -> LeaveOneOut:
    """Range of a statistic of the answers, such as a correlation, over leaving out one observer."""
    observers = sorted({row.observer for row in answers})
    if len(observers) < 2:
        what = f"Leaving one of {len(observers)} observers out leaves nobody."
        raise BenchError(what, "Give the answers of at least two.")
    without = {
        observer: statistic([row for row in answers if row.observer != observer])
        for observer in observers
    }
    low, high = min(without.values()), max(without.values())
    return LeaveOneOut(statistic(list(answers)), low, high, without)


def between(answers: Iterable[Answer], a: str, b: str) -> LeaveOneOut:
    """The distance of two datasets with its range; of one observer's answers it has none."""
    answers = list(answers)
    there = sorted({row.dataset for row in answers})
    for name in (a, b):
        if name not in there:
            what = f"The answers say nothing of the dataset '{name}'."
            raise BenchError(what, f"Theirs are: {', '.join(there)}.")
    rows = [row for row in answers if row.dataset in (a, b)]

    def apart(some: Sequence[Answer]) -> float:
        return distances(profiles(some))[a, b]

    if len({row.observer for row in rows}) < 2:
        return LeaveOneOut(apart(rows), math.nan, math.nan, {})
    return leave_one_out(rows, apart)


class ExpertDistance(Distance):
    """How many properties the majority of the observers answers differently for two sets.

    Without a file of raw answers those on the cards count. With one, the interval is the range of
    the distance when each observer in turn is left out.
    """

    variants = ("cards", "*")  # or the name of a file of answers
    card = DistanceCard(title="Expert distance", needs="card")

    def fingerprint(self) -> str:
        """Other answers are another distance."""
        assert self.given is not None
        return "file:" + hashlib.sha256(self.given.path.read_bytes()).hexdigest()[:16]

    def measure(
        self, source: Side, target: Side, *, seed: int, options: Mapping[str, Scalar]
    ) -> Measured:
        if self.given is None:
            return Measured(hamming(_on_card(source), _on_card(target)))
        found = between(read_answers(self.given.path), source.name, target.name)
        # Observers are people: they are numbered, in the order of their names.
        facts = {f"without observer {i}": v for i, v in enumerate(found.without.values(), start=1)}
        return Measured(found.value, found.low, found.high, facts)


def _on_card(side: Side) -> tuple[str, ...]:
    if side.card.experts is None:
        raise BenchError(
            f"Nobody answered the expert questions for {side.name}.",
            "Put the answers on its card, or give --answers FILE; `bench expert sheet` makes one.",
        )
    return astuple(side.card.experts)
