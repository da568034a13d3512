"""What observers see before they say how near two data sets are: nine images and blank answers."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from benchmark import images
from benchmark.api import Experts
from benchmark.data import prepare
from benchmark.data.download import find_root
from benchmark.errors import BenchError
from benchmark.files import replacing
from benchmark.spec import Runtime, seed_of

SIDE, GAP, ROWS = 224, 8, 3
QUESTIONS = {
    "medical": "medical or natural",
    "colour": "grey or colour",
    "content": "objects, textures or both",
    "type": "type of object or texture, in a word or two",
    "diversity": "low, medium or high",
    "classes": "binary or many",
}
assert tuple(QUESTIONS) == tuple(field.name for field in fields(Experts))


def make(names: Sequence[str], runtime: Runtime, out: Path, *, seed: int = 0) -> Iterator[Path]:
    """A picture of nine random images per set, and a CSV to copy for each observer."""
    answers = out / "answers.csv"
    if answers.exists():
        raise BenchError(f"{answers} is there already.", "Choose another --out; answers are work.")
    for name in names:
        label = "".join(c if c.isalnum() else "-" for c in name)
        picture = out / f"{label}.png"
        with replacing(picture) as temporary:
            temporary.write_bytes(images.to_png_bytes(_nine(name, runtime, seed)))
        yield picture
    with (
        replacing(answers) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["observer", "dataset", "property", "answer", "question"])
        rows.writerows(["", name, *(p, "", q)] for name in names for p, q in QUESTIONS.items())
    yield answers


def _nine(name: str, runtime: Runtime, seed: int) -> np.ndarray:
    """Nine images, drawn without looking at their classes, side by side on white."""
    component = prepare.source_of(name, runtime)
    records = list(component.records(find_root(component, runtime.data, offline=runtime.offline)))
    rng = np.random.default_rng(seed_of("sheet", name, seed))
    chosen = rng.permutation(len(records))[: ROWS * ROWS]
    step = SIDE + GAP
    sheet = np.full((ROWS * step + GAP, ROWS * step + GAP, 3), 255, dtype=np.uint8)
    for place, i in enumerate(chosen):
        image, _ = component.decode(records[i], SIDE)
        y, x = (GAP + step * k for k in divmod(place, ROWS))
        sheet[y : y + SIDE, x : x + SIDE] = image
    return sheet
