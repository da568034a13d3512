"""What each source gained on each target: over scratch, random features or the target itself."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from benchmark import stats
from benchmark.spec import RANDOM, Split, amount, trained_on
from benchmark.stats import Array, Estimate
from reports.leaderboard.board import Baseline, Board, higher_is_better
from reports.leaderboard.rows import Row, paired

#: What a gain is over, in words.
OVER: dict[str, str] = {
    "scratch": "training from scratch",
    "random": RANDOM,
    "self": "the target as its own source",
}


@dataclass(frozen=True)
class Pair:
    """What a source gained on a target: T = (AUC(S→T) − AUC(T)) / AUC(T) × 100."""

    source: str
    target: str
    gain: Estimate


class Place(NamedTuple):
    """Within it gains are of one kind."""

    protocol: str
    mode: str
    arch: str
    metric: str


class Left(NamedTuple):
    """What stays out on a target."""

    what: str
    target: str
    why: str


@dataclass
class Group:
    """The pairs of one place, what had to stay out, and the weights that the runs began from."""

    pairs: list[Pair] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    weights: set[str] = field(default_factory=set)
    noise: dict[str, dict[str, float]] = field(default_factory=dict)  # of each target, as known
    split: Split | None = None  # of the runs


def gather(boards: Sequence[Board], fusion: str, baseline: Baseline) -> dict[Place, Group]:
    """The gains of the whole rows of one arm; only rows of one board are compared."""
    groups: dict[Place, Group] = defaultdict(Group)
    for made, others in of_one_partition(boards):
        places = by_place(made, fusion)
        for place, part in places.items():
            whole, why = fair(made, part)
            bases = whole
            if baseline == "scratch":  # trained on the target, whatever the others' mode
                bases, _ = fair(made, places.get(place._replace(mode="finetune"), ()))
            base = bases.get(made.target if baseline == "self" else "none")
            found, more = _gains(made, whole, base, baseline)
            groups[place].pairs += found
            groups[place].left += [*others, *why, *more]
            groups[place].noise[made.target] = made.noise.known(place.arch, place.mode)
            groups[place].split = made.split
            groups[place].weights |= {run.spec.weights or "" for row in part for run in row.runs}
    return dict(groups)


def of_one_partition(boards: Sequence[Board]) -> list[tuple[Board, list[Left]]]:
    """The first partition of each target and protocol, as a pair enters once, on the whole training
    part or the largest; what stays out."""
    cuts: dict[tuple[str, str], list[Board]] = defaultdict(list)
    for made in (one for one in boards if not one.tested_on):
        cuts[made.target, made.protocol].append(made)
    found = []
    for (target, protocol), part in cuts.items():
        size = max(part, key=_how_much).train_size
        largest = [made for made in part if made.train_size == size]
        for first in sorted(largest, key=lambda made: made.partition)[:1]:
            cut = [made.partition for made in largest if made is not first]
            others = [f"partition{'s' * (len(cut) > 1)} {', '.join(map(str, cut))}"] if cut else []
            others += sorted({trained_on(made.train_size) for made in part} - {trained_on(size)})
            used = trained_on(size) or "the whole training part"
            stands = f"partition {first.partition}" if cut else used
            left = Left("; ".join(others), target, f"{stands} stands under {protocol}")
            found.append((first, [left] if others else []))
    return found


def _how_much(made: Board) -> tuple[bool, float, str, float]:
    """How many images a board's runs were trained on; the whole training part is most."""
    images = [float(run.outcome.data.get("train", 0)) for row in made.rows for run in row.runs]
    number, unit = amount(made.train_size) if made.train_size else (0.0, "")
    return not made.train_size, float(np.median(images or [0])), unit, number


def by_place(made: Board, fusion: str) -> dict[Place, list[Row]]:
    """A board's rows of one arm, by what they have to share."""
    rows: dict[Place, list[Row]] = defaultdict(list)
    for row in made.rows:
        who = row.identity
        if who.fusion == fusion and who.arch != "none" and not who.missing:
            rows[Place(made.protocol, who.mode, who.arch, made.headline)].append(row)
    return dict(rows)


def fair(made: Board, rows: Sequence[Row]) -> tuple[dict[str, Row], list[Left]]:
    """The row of each source that may enter, and why the others do not."""
    fair: dict[str, Row] = {}
    why = []
    for row in sorted(rows, key=lambda row: len(row.setting)):
        itself = row.identity.source == made.target
        # A self pair leaks by its nature: it enters, and is counted with and without.
        reasons = [text for text in row.why if not (itself and text.startswith("LEAKY"))]
        reasons += [] if row.headline and row.draws is not None else ["it has no number"]
        if row.setting:
            reasons.append(f"another setting ({'; '.join(row.setting)})")
        elif row.identity.source in fair:
            reasons.append("a second row of this source")
        if reasons:
            why.append(Left(row.identity.origin, made.target, "; ".join(reasons)))
        else:
            fair[row.identity.source] = row
    return fair, why


def told(left: Iterable[Left]) -> list[str]:
    """Each reason once, with what stays out for it; together what does so on the same targets."""
    reasons: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for what, target, why in dict.fromkeys(left):
        reasons[why][what].append(target)
    texts = []
    for why, found in reasons.items():
        alike: dict[str, list[str]] = defaultdict(list)
        for what, targets in sorted(found.items()):
            alike[", ".join(sorted(targets))].append(what)
        parts = [f"{', '.join(what)} on {targets}" for targets, what in alike.items()]
        texts.append(f"Left out: {'; '.join(parts)}: {why}.")
    return texts


def _gains(
    made: Board, fair: dict[str, Row], base: Row | None, baseline: Baseline
) -> tuple[list[Pair], list[Left]]:
    if base is None:
        return [], [Left("all", made.target, f"{OVER[baseline]} has no whole row there")]
    pairs, why = [], []
    for source, row in fair.items():
        if source == "none":
            continue
        if paired(row) != paired(base):
            why.append(Left(source, made.target, "not the cells of its baseline"))
            continue
        pairs.append(Pair(source, made.target, _gain(row, base, made.headline)))
    return sorted(pairs, key=lambda pair: -pair.gain.value), why


def _gain(row: Row, base: Row, metric: str) -> Estimate:
    """T in per cent; its interval from the paired draws of both rows."""
    assert row.headline and base.headline and row.draws is not None and base.draws is not None
    sign = 1 if higher_is_better(metric) else -1

    def gain(mine: Any, other: Any) -> Array:
        mine, other = np.asarray(mine, dtype=float), np.asarray(other, dtype=float)
        share = np.full(mine.shape, np.nan)
        return 100 * sign * np.divide(mine - other, np.abs(other), out=share, where=other != 0)

    value = float(gain(row.headline.value, base.headline.value))
    return Estimate(value, *stats.interval(gain(row.draws, base.draws)), row.headline.n)
