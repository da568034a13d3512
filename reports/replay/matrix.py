"""The published AUCs of the MedMNIST study beside those of own runs on the same pairs."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from benchmark import registry, stats
from benchmark.spec import Size
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import render
from reports.leaderboard import board, gains
from reports.leaderboard import table as leaderboard
from reports.leaderboard.arms import Place, place_of
from reports.leaderboard.rows import Row as BoardRow
from reports.replay.papers import REPOSITORY, Row, Section, read

STUDIED = "medmnist"  # as `bench replay` calls the study
PROTOCOL, FAMILY = "official", "medmnist:"
#: Training images for each class of the target, drawn from all: so do rare classes have fewer.
DRAWN = 100
EACH = f"{DRAWN} × classes"
#: Source of the study that has to be added before any line of it can run; one that nobody has here.
ASKED, OTHERS = "radimagenet", "medmnist"

Pair = tuple[str, str]  # source and target, as the study names them


class Setting(NamedTuple):
    """What the runs of all pairs share, so that their AUCs can be held against each other."""

    network: str
    mode: str
    size: Size
    file: str  # pixels of the target's file
    images: str  # of the training part; empty: whole

    def unlike(self, other: "Setting") -> list[str]:
        """`network resnet50, not resnet18`: each thing in which it is another."""
        sides = zip(self._fields, self, other, strict=True)
        return [f"{name} {a or 'all'}, not {b or 'all'}" for name, a, b in sides if a != b]

    @property
    def words(self) -> str:
        height, width = (self.size,) * 2 if isinstance(self.size, int) else self.size
        used = f"{self.images or 'all'} training images"
        return f"{self.network} {self.mode}, {height} × {width}, files of {self.file} px, {used}"


#: As the authors' repository has it: the mean over five draws of the training images.
STUDY = Setting("resnet18", "finetune", 224, "224", EACH)


def sections(store: Store | None) -> Iterator[Section]:
    """Each published AUC with ours, and whether both put the sources in the same order."""
    known = {
        (line["source"], line["target"]): float(line["score"])
        for line in read("medmnist_scores")
        if line["score"]
    }
    found, left = _own(store, known) if store else ({}, [])
    setting = max(
        found, key=lambda s: (len(found[s]), -len(s.unlike(STUDY)), s.words), default=STUDY
    )
    ours = found.get(setting, {})
    notes = [f"Ours: protocol {PROTOCOL}, {setting.words}."] if ours else []
    if ours and (unlike := setting.unlike(STUDY)):
        notes.append(f"Not as in the study: {'; '.join(unlike)}.")
    notes += [
        "The study's AUCs are means over five draws of its training images.",
        *(f"Not shown: {len(found[s])} pairs of {s.words}." for s in found if s != setting),
        *left,
    ]
    rows = [_row(pair, auc, ours.get(pair), setting) for pair, auc in known.items()]
    yield Section("AUC of each pair", tuple(rows), tuple(notes), 3)
    if ours:
        yield _agreement(known, ours)


def _own(
    store: Store, known: Mapping[Pair, float]
) -> tuple[dict[Setting, dict[Pair, BoardRow]], list[str]]:
    """The whole rows of the image alone by setting and pair; why others are left out."""
    keys: dict[Place, list[str]] = defaultdict(list)
    for cell in store.summaries():
        place = place_of(cell)
        plain = not (place.partition or place.tested_on)
        if place.protocol == PROTOCOL and place.target.startswith(FAMILY) and plain:
            keys[place].append(cell.key)
    found: dict[Setting, dict[Pair, BoardRow]] = defaultdict(dict)
    left = []
    for place in sorted(keys, key=lambda place: place.order):
        made = board.make(store, leaderboard.read(store, keys[place]))
        if made is None:
            continue
        for rows in gains.by_place(made, "none").values():
            fair, why = gains.fair(made, rows)
            left += why
            for source, row in fair.items():
                pair = _named(source), _named(place.target)
                who, file = row.identity, place.target.partition("-")[2] or "28"
                images = EACH if place.train_size == _images(pair[1]) else place.train_size
                setting = Setting(who.arch, who.mode, who.recipe.size, file, images)
                if pair in known:
                    found[setting].setdefault(pair, row)
    return dict(found), left


def _agreement(known: Mapping[Pair, float], ours: Mapping[Pair, BoardRow]) -> Section:
    """Spearman's ρ over all pairs of the places of sources on their target."""
    sources, targets = (sorted({pair[side] for pair in ours}) for side in (0, 1))
    both = np.full((2, len(sources), len(targets)), np.nan)
    for (source, target), row in ours.items():
        at = sources.index(source), targets.index(target)
        both[(slice(None), *at)] = known[source, target], row.metrics["auroc"].value
    paper, mine = (stats.places(table).ravel() for table in both)
    target, source = np.tile(targets, len(sources)), np.repeat(sources, len(targets))
    found = stats.correlate(paper, mine, target, source, pairs="within_target")
    defined = not math.isnan(found.spearman)
    rho = Estimate(found.spearman, found.low, found.high, found.n) if defined else None
    note = render.probability(found.p) if found.p == found.p else ""
    rows = (Row("Spearman's ρ of the sources' places", None, rho, gate=False, note=note),)
    missing = sum(source != OTHERS for source, _ in known) - len(ours)
    notes = [
        f"Over {len(ours)} pairs of {len(sources)} sources and {len(targets)} targets; {missing} "
        "that could be trained here are missing.",
        "Each source's place on a target, in both matrices among the sources that both have; the "
        "interval resamples sources and targets, p moves sources.",
    ]
    notes += filter(None, [stats.power_warning(found)])
    return Section("Sources in the same order, target by target", rows, tuple(notes), 2)


def _row(pair: Pair, auc: float, ours: BoardRow | None, setting: Setting) -> Row:
    source, target = pair
    item, shared = f"{source} → {target}", {"paper": auc, "verified": REPOSITORY}
    if ours is not None:
        cells = f"{ours.done}/{ours.expected}"
        return Row(item, ours=ours.metrics.get("auroc"), cells=cells, **shared)
    if source == OTHERS:
        return Row(item, note="the other eleven sets at once: no source here", **shared)
    if source == ASKED:
        asked = f"bench weights add FILE --name {ASKED} --arch {setting.network}"
        return Row(item, cells="0/1", note=f"its weights come first: {asked}", **shared)
    images = _images(target) if setting.images == EACH else setting.images
    wanted = {
        "protocol": PROTOCOL, "target": _called(target, setting), "mode": setting.mode,
        "layers": "", "recipe": "" if setting.size == 224 else f"size={setting.size}",
        "columns": "", "fusion": "none", "arch": setting.network, "metric": "auroc",
        "source": _called(source, setting), "train_size": images,
    }  # fmt: skip
    return Row(item, cells="0/1", wanted=wanted, **shared)


def _named(name: str) -> str:
    """`bloodmnist` of medmnist:blood-64; other sources have the study's names."""
    return f"{name.removeprefix(FAMILY).partition('-')[0]}mnist" if FAMILY in name else name


def _called(name: str, setting: Setting) -> str:
    """A set of the study as `bench run` calls it."""
    if not name.endswith("mnist"):
        return name
    pixels = "" if setting.file == "28" else f"-{setting.file}"
    return f"{FAMILY}{name.removesuffix('mnist')}{pixels}"


def _images(target: str) -> str:
    """How many images the study trained on."""
    card = registry.load("target", f"{FAMILY}{target.removesuffix('mnist')}").card
    return str(DRAWN * card.classes)
