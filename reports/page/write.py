"""`bench report`: an index and one page per target, each a single file that needs no network."""

import base64
import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark import registry
from benchmark.errors import plain
from benchmark.files import write as write_file
from benchmark.store import Store
from reports import distances, plots, render, transfer
from reports.leaderboard import across, curve, table
from reports.leaderboard.board import Board
from reports.page import board_page, gallery, overview

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Page:
    """One target and its boards."""

    target: str
    about: str  # the first line of its component's file
    file: str
    views: tuple[board_page.View, ...]
    across: across.Across | None  # what the record adds, over all of its boards
    learning: tuple[curve.Curve, ...]  # rows by the size of the training part


def write(store: Store, out: Path) -> Path:
    """Write `index.html` and a page per target into `out`; the index's path."""
    boards = table.boards(store, brief=False)
    by_target: dict[str, list[Board]] = defaultdict(list)
    for made in sorted(
        boards,
        key=lambda made: (
            made.target,
            made.leaky,
            made.train_size != "",
            made.tested_on,
            -len(made.rows),
        ),
    ):
        by_target[made.target].append(made)
    about = registry.names("target")
    pages = [
        Page(
            target=target,
            about=about.get(target.partition(":")[0], ""),
            file=file_name(target),
            views=tuple(
                board_page.of(store, made, f"b{i}") for i, made in enumerate(part, start=1)
            ),
            across=across.of(part),
            learning=tuple(curve.of(part)),
        )
        for target, part in by_target.items()
    ]
    environment = _environment()
    template = environment.get_template("target.html")
    for page in pages:
        write_file(out / page.file, template.render(page=page), durable=False)
    pretrained, losses = overview.pretraining(store)
    index = environment.get_template("index.html").render(
        pages=pages,
        dashed=any(view.reference is not None for page in pages for view in page.views),
        heats=overview.heats(boards),
        pretrained=pretrained,
        source_curves=losses,
        counts=overview.counts(boards),
        albums=gallery.samples(store),
        maps=distances.of_store(store),
        map_footer=distances.FOOTER,
        transfers=_transfers(store, boards),
        transfer_footer=transfer.FOOTER,
    )
    write_file(out / "index.html", index)
    return out / "index.html"


def _transfers(store: Store, boards: list[Board]) -> list[dict[str, Any]]:
    """A table and plots for each analysis that has a distance to show."""
    if next(store.keys("distance"), None) is None:
        return []
    return [
        {
            "title": found.title,
            "about": found.about,
            "verdict": transfer.verdict(found),
            "table": transfer.table_of(found),
            "plots": transfer.panels_of(found),
        }
        for found in transfer.analyse(store, boards)
        if found.measures
    ]


def file_name(target: str) -> str:
    """A file name for any target: what a name loses is made up for by its hash."""
    kept = (c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in target.lower())
    plain = "".join(kept)[:60]
    mark = "" if plain == target else "-" + hashlib.sha256(target.encode()).hexdigest()[:8]
    return f"target-{plain}{mark}.html"


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    script = (TEMPLATES / "script.js").read_text(encoding="utf-8")
    # The one script a page may run is named by its hash: text that slipped in would stay text.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: plain(value, "\n\t\u2068\u2069") if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        getattr=getattr,
        spread=table.SPREAD,
        ends=table.ends,
        product=version("transfer-bench"),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )
    environment.filters.update(
        interval=render.interval,
        short=lambda estimate, sign=False: render.interval(estimate, sign=sign).partition(" ")[0],
        limits=lambda estimate, sign=False: render.interval(estimate, sign=sign).partition(" ")[2],
        cost=table.cost,
        record=table.record,
        # Its texts are escaped where it is drawn.
        svg=lambda chart, legend=True: Markup(plots.svg(chart, legend=legend)),
        distance=distances.number,
        title_short=lambda name: table.metric_title(name).partition(" (")[0],
    )
    environment.tests["finite"] = lambda value: value is not None and math.isfinite(value)
    return environment
