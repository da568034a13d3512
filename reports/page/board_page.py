"""What a page says of one board: answers, gains, failures, how the numbers were made."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmark.spec import RANDOM
from benchmark.stats import Comparison
from benchmark.store import Store
from reports import plots, render
from reports.leaderboard import table
from reports.leaderboard.arms import Run
from reports.leaderboard.board import UNKNOWN, Board, higher_is_better
from reports.leaderboard.rows import Row
from reports.page import curves, gallery, record

TOP = 6  # rows of a card on the index
GAINS = 14  # rows of a chart of gains
PLAIN = ("scratch", RANDOM)
OVER = {"scratch": "training from scratch", RANDOM: RANDOM, "self": "the target itself"}
SPLITS = {
    "grouped": "no {unit} on two sides",
    "image": "images are split, not {units}",
    "official": "the data set’s own",
}
RANKS = (
    "1 and the rows that beat it, to the last place that the others leave; one 95 % bound for all "
    "pairs of rows"
)
COUNTS = {
    "train": "images in train",
    "val": "images in validation",
    "test": "images in test",
    "test_groups": "{units} in test",
}


@dataclass(frozen=True)
class Failed:
    """Cells of a row that have no numbers for one reason."""

    label: str
    what: str
    why: str
    tail: str  # of the log
    runs: tuple[Run, ...]


@dataclass(frozen=True)
class Gains:
    """What rows gained over one thing."""

    title: str
    rows: tuple[tuple[str, Comparison], ...]
    axis: plots.Axis


@dataclass(frozen=True)
class View:
    """A board with all that its page says of it."""

    id: str
    board: Board
    metric: str
    higher: bool
    leak: str
    answers: tuple[str, ...]
    top: tuple[Row, ...]
    axis: plots.Axis  # of the rows with an image; what lies outside is marked
    top_axis: plots.Axis
    reference: float | None  # training from scratch on the image alone
    gains: dict[str, str]
    beside: dict[str, str]
    gain_charts: tuple[Gains, ...]
    curves: curves.Curves
    plain_last: str  # what the last of the curves' rows is called, if it had no pretraining
    classes: tuple[str, ...]
    record: record.Told  # by subgroups, and without records; of the curves' rows
    looks: tuple[gallery.Album, ...]
    failures: tuple[Failed, ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    recipes: tuple[tuple[str, dict[str, Any]], ...]
    warnings: tuple[tuple[str, int], ...]


def of(store: Store, made: Board, id: str) -> View:
    """The board with its charts and sentences; `id` is its anchor on the page."""
    scratch = [row for row in made.rows if row.name == "scratch"]
    classes = next((row.classes for row in made.rows if row.classes), ())
    drawn = curves.of(store, made)
    fine = [row for row in made.rows if row.done]
    fair = [row for row in fine if row.rank is not None and row.identity.arch != "none"] or fine
    reference = scratch[0].headline.value if scratch and scratch[0].headline else None
    also = [] if reference is None else [reference]
    texts = Counter(w for row in made.rows for run in row.runs for w in run.outcome.warnings)
    return View(
        id=id,
        board=made,
        metric=table.metric_title(made.headline),
        higher=higher_is_better(made.headline),
        leak=table.leak(made),
        answers=tuple(answers(made)),
        top=tuple(fine[:TOP]),
        axis=plots.of_estimates((row.headline for row in fair), *also),
        top_axis=plots.of_estimates((row.headline for row in fine[:TOP]), *also),
        reference=reference,
        gains=table.gain_names(made),
        beside=table.BESIDE,
        gain_charts=tuple(_gains(made)),
        curves=drawn,
        plain_last=next((row.name for row in drawn.rows[-1:] if row.name in PLAIN), ""),
        classes=classes,
        record=record.of(store, made, drawn.rows),
        looks=tuple(gallery.looks(store, made)),
        failures=tuple(_failures(made)),
        facts=tuple(_facts(made)),
        recipes=tuple(_recipes(made)),
        warnings=tuple(texts.most_common()),
    )


def answers(made: Board) -> Iterator[str]:
    """What the board says, in sentences that claim no more than its intervals."""
    ranked = [row for row in made.rows if row.rank is not None]
    if not ranked:
        yield "No row has a rank yet: the reasons stand beside the rows."
        return
    best, ties = ranked[0], [row for row in ranked[1:] if row.rank == 1]
    text = f"{_apart(made.label(best))} comes first with {render.interval(best.headline)}"
    if ties:
        names = [_apart(made.label(row)) for row in ties[:3]]
        more = f" and {len(ties) - 3} more" if len(ties) > 3 else ""
        text += f"; {', '.join(names)}{more} cannot be told apart from it"
    yield f"{text}."
    over = next((name for name in OVER if name in best.gains), "")
    fused = next((row for row in ranked if "fusion" in row.gains), best)
    for row, name, what in (
        (best, over, f"Against {OVER.get(over)}"),
        (fused, "fusion", "Fusing the record"),
    ):
        found = row.gains.get(name)
        if found is not None:
            yield f"{what}, {_apart(made.label(row))} {_verdict(found)}."
    if len(ranked) < len(made.rows):
        yield f"{len(made.rows) - len(ranked)} of {len(made.rows)} rows have no rank."


def _apart(name: str) -> str:
    """A name that runs right to left leaves the order of the sentence around it alone."""
    return f"\N{FIRST STRONG ISOLATE}{name}\N{POP DIRECTIONAL ISOLATE}"


def _verdict(found: Comparison) -> str:
    numbers = f"{render.interval(found.difference, sign=True)} ({render.probability(found.p)})"
    if not found.p < 0.05:
        return f"shows no clear difference: {numbers}"
    return f"{'gains' if found.difference.value > 0 else 'loses'} {numbers}"


def _gains(made: Board) -> Iterator[Gains]:
    titles = {name: f"Pretraining over {text}" for name, text in OVER.items()}
    for name, title in (titles | {"fusion": "Fusing the record over the image alone"}).items():
        found = [(made.label(row), row.gains[name]) for row in made.rows if name in row.gains]
        if found:
            axis = plots.of_estimates((gain.difference for _, gain in found[:GAINS]), 0.0)
            yield Gains(title, tuple(found[:GAINS]), axis)


def _failures(made: Board) -> Iterator[Failed]:
    for row in made.rows:
        causes: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in row.runs:
            failure = run.outcome.failure
            if failure is not None:
                causes[f"failed: {failure.kind}", failure.message].append(run)
            elif run.outcome.status != "ok":
                causes[run.outcome.status, run.outcome.reason].append(run)
        for (what, why), runs in causes.items():
            failure = runs[0].outcome.failure
            tail = failure.log_tail if failure else ""
            yield Failed(made.label(row), what, why, tail, tuple(runs))


def _facts(made: Board) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Terms with their texts: everything a reader needs to judge or repeat the numbers."""
    runs = [run for row in made.rows for run in row.runs if run.outcome.status == "ok"]
    fair = [run for row in made.rows if not row.why for run in row.runs] or runs
    split, versions = made.split, {k: v or "unknown" for k, v in made.versions.items()}
    share = f", {split.validation:.0%} of the rest for validation" if split.validation else ""
    draws = max((len(row.draws) for row in made.rows if row.draws is not None), default=0)
    yield "Protocol", (f"{made.protocol}, version {versions['protocol']}",)
    how = SPLITS[split.kind].format(unit=made.unit, units=made.units if made.unit else "patients")
    how = how if made.unit or split.kind != "grouped" else UNKNOWN
    yield "Split", (f"{split.kind}: {how}; {split.folds} folds{share}",)
    if made.leaky:
        yield "Leak", (table.leak(made),)
    if made.overlaps:
        yield "Known overlaps", tuple(made.overlaps)
    if told := table.labels(made):
        yield "Labels", (told,)
    yield "Seeds", (", ".join(map(str, made.seeds)),)
    yield "Headline", (table.metric_title(made.headline),)
    yield (
        "Intervals",
        (
            f"95 % bootstrap over {made.units}, {draws:,} draws a fold, paired between rows, with "
            "the noise of training and of pretraining",
            "of other metrics: combined from the intervals of the folds, of other patients alone",
        ),
    )
    yield "Noise", tuple(table.doubts(made))
    yield "Ranks", (RANKS,)
    counts = [
        (title.format(units=made.units), [int(run.outcome.data.get(name, 0)) for run in fair])
        for name, title in COUNTS.items()
    ]
    counts = (f"{title}: {_span(found)}" for title, found in counts)
    yield "Data", (f"version {versions['target']}, digest {made.digest or 'unknown'}", *counts)
    yield "Checkpoint", tuple(dict.fromkeys(_chosen(run) for run in fair))
    yield "Code", (f"transfer-bench, numbers of version {versions['core']}",)
    places = Counter(_place(run.outcome.environment) for run in fair)
    yield "Environment", tuple(f"{n:,} cells: {text}" for text, n in places.most_common())


def _chosen(run: Run) -> str:
    """What chose the checkpoint, without the epoch that it was."""
    _, by, what = run.outcome.chosen.partition(" by ")
    return f"the best by {what}" if by else run.outcome.chosen or "unknown"


def _place(environment: dict[str, str]) -> str:
    parts = (
        value if name == "device" else f"{name} {value}" for name, value in environment.items()
    )
    return ", ".join(parts) or "unknown"


def _span(values: Sequence[int]) -> str:
    if not values:
        return "unknown"
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _recipes(made: Board) -> Iterable[tuple[str, dict[str, Any]]]:
    """The usual recipe of each mode and of scratch; rows that depart from it say so."""
    found: dict[str, dict[str, Any]] = {}
    for who in (row.identity for row in made.rows if not row.setting):
        of = f"{who.mode}, scratch" if who.origin == "scratch" else who.mode
        found.setdefault(of, who.recipe.model_dump(mode="json"))
    return found.items()
