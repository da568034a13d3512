"""Pictures of a report: three images of each data set, and what a run looks at."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark import registry
from benchmark.files import intact
from benchmark.store import Store
from reports.leaderboard.board import Board

#: Pictures that `bench explain` writes, with what they show.
LOOKS = {
    "maps": "Where the network looks",
    "weights": "Weights of the last layer",
    "image_weights": "Size of the weights without and with the record",
    "record_weights": "Weights of the record beside each network",
    "importance": "What is lost when a column is shuffled",
    "classes": "AUROC of the classes over the folds",
    "gains": "Gain of the fused arm over the image alone",
}
RUNS = 2  # explained runs of a board that are shown; a page has to stay light


@dataclass(frozen=True)
class Picture:
    """A PNG that lies in the page itself."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Album:
    """Pictures that belong together."""

    title: str
    about: str
    pictures: tuple[Picture, ...]


def samples(store: Store) -> list[Album]:
    """Three images of every decoded set whose licence allows to show them."""
    found: dict[str, Album] = {}
    for path in sorted((store.root / "prepared").glob("*/samples.json")):
        if not intact(path):
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        files = filter(intact, sorted(path.parent.glob("sample-?.png")))
        pictures = tuple(_picture(file, f"An image of {facts['name']}") for file in files)
        about = f"{facts['title']} · {facts['license']}"
        found.setdefault(facts["name"], Album(facts["name"], about, pictures))
    return [found[name] for name in sorted(found)]


def looks(store: Store, made: Board) -> Iterator[Album]:
    """The pictures of the best runs of a board that were explained."""
    shown, allowed = 0, [name for name in LOOKS if name != "maps" or may_show(made.target)]
    for row in made.rows:
        for run in row.runs:
            folder = store.folder("run", run.outcome.key) / "explain"
            files = {name: folder / f"{name}.png" for name in allowed}
            there = {name: file for name, file in files.items() if file.is_file()}
            if there and shown < RUNS:
                shown += 1
                pictures = (_picture(file, LOOKS[name]) for name, file in there.items())
                yield Album(made.label(row), f"fold {run.spec.fold}", tuple(pictures))
                break


def may_show(target: str) -> bool:
    """Whether images of a set may leave the store; nobody has said so of a user's own folder."""
    card = registry.card("source", target)
    return card is not None and card.show


def _picture(file: Path, alt: str) -> Picture:
    text = base64.b64encode(file.read_bytes()).decode()
    return Picture(f"data:image/png;base64,{text}", alt)
