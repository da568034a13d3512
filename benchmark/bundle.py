"""Results to hand on: one checksummed file of outcomes and predictions that names nobody."""

import hashlib
import io
import json
import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field

from benchmark import trust
from benchmark.data.unpack import RATIO, SMALL
from benchmark.errors import FULL, BenchError, Damaged
from benchmark.files import build_folder, read_json, remove, replacing, write_json
from benchmark.spec import (
    Cell,
    Failure,
    Frozen,
    Outcome,
    PretrainSpec,
    RunSpec,
    Scalar,
    canonical,
)
from benchmark.store import Store
from benchmark.trust import Unusable

#: Of the file itself; an outcome has a schema version of its own.
BUNDLE_VERSION = 1
MANIFEST = "manifest.json"
#: Which bundle a store of its own was laid out from.
ORIGIN = "bundle.json"
#: What a cell of each kind consists of. A pretraining is only named: its weights travel apart.
FILES = {
    "distance": ("outcome.json",),
    "pretrain": ("spec.json",),
    "run": ("outcome.json", "predictions.npz"),
}
MEMBER = re.compile(r"([a-z]+)/[0-9a-f]{16}/([a-z]+\.[a-z]+)")
MOST = 200_000  # members
LARGEST = 256 << 20  # bytes of a member
#: To what `short` rounds draws: a power of two, so that their last bytes are zeros, which take no
#: place. Scores are rounded as log-odds: rounded themselves they tie where a class is rare.
SHORT = 2.0**-14
NOTE = "from a study that comes with transfer-bench"


class Manifest(Frozen):
    """What a bundle says of itself."""

    bundle_version: int
    tool: str = Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")
    files: dict[str, str]  # name -> sha256
    short: bool = False  # its predictions are rounded


@dataclass(frozen=True)
class Imported:
    """What became of the cells of a bundle, each as `kind/key`."""

    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)  # ours had no numbers
    same: list[str] = field(default_factory=list)
    differs: list[str] = field(default_factory=list)  # ours has other numbers, and stays
    refused: dict[str, str] = field(default_factory=dict)  # and why


class _Content(NamedTuple):
    cell: Cell
    outcome: Outcome | None = None  # none of a pretraining
    arrays: dict[str, np.ndarray] | None = None  # of a run
    train: int = 0  # images that a pretraining saw


def export(
    store: Store,
    out: Path,
    *,
    targets: Sequence[str] = (),
    keys: Sequence[str] = (),
    short: bool = False,
) -> Path:
    """Write finished runs and distances into one file; the same cells give the same bytes.

    `targets` and `keys` (or their first digits) choose; without them every finished cell goes.
    `short` rounds draws and scores, which makes the file a third as big.
    """
    done = [o for kind in ("distance", "run") for o in store.outcomes(kind) if o.status == "ok"]
    if lost := [key for key in keys if not any(o.key.startswith(key) for o in done)]:
        raise BenchError(f"No finished cell has the key {lost[0]}.", "See the store's folders.")
    chosen = [
        outcome
        for outcome in done
        if (not targets or getattr(outcome.spec, "target", "") in targets)
        and (not keys or outcome.key.startswith(tuple(keys)))
    ]
    if not chosen:
        raise BenchError("There is no such finished cell to export.", "Run some, or choose others.")
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as box:
        files = {}
        for name, content in _contents(store, chosen, short):
            files[name] = hashlib.sha256(content).hexdigest()
            _add(box, name, content)
        tool = version("transfer-bench")
        manifest = Manifest(bundle_version=BUNDLE_VERSION, tool=tool, files=files, short=short)
        _add(box, MANIFEST, manifest.model_dump_json(indent=1, exclude_defaults=True).encode())
    return out


def import_(store: Store, bundle: Path) -> Imported:
    """Take in what can be trusted; a file that is not whole is refused before anything is written.

    A cell that is finished here stays as it is.
    """
    with _reading(bundle) as box:
        manifest = _manifest(box, bundle.stat().st_size)
        places = sorted({name.rpartition("/")[0] for name in manifest.files})
        mark, found = hashlib.sha256(box.read(MANIFEST)).hexdigest()[:8], Imported()
        for place in places:
            try:
                cell, outcome, arrays, _ = _content(box, manifest, place)
                trust.check_versions(cell)
                if outcome is not None and arrays is not None:
                    trust.check_predictions(outcome, arrays, rounded=manifest.short)
            except Unusable as error:
                found.refused[place] = str(error)
    store.prepare()
    note = f"from bundle {mark} of transfer-bench {manifest.tool}"
    with _reading(bundle) as box:  # once more, so that only one cell is held at a time
        for place in (place for place in places if place not in found.refused):
            _merge(store, _content(box, manifest, place), note, found)
    return found


def unpack(bundle: Path, root: Path) -> Store:
    """A store of its own for a bundle that came with this package: whole, but not verified anew."""
    with _reading(bundle) as box:
        own = {"manifest": hashlib.sha256(box.read(MANIFEST)).hexdigest()}
    if root.exists() and not ((root / ORIGIN).is_file() and read_json(root / ORIGIN) == own):
        raise BenchError(
            f"{root} is another store, or of an earlier version of this study.",
            "Name another folder (--out), or move it away.",
        )

    def build(folder: Path) -> None:
        store = Store(folder)
        store.prepare()
        write_json(folder / ORIGIN, own, durable=False)
        with _reading(bundle) as box:
            manifest = _manifest(box, bundle.stat().st_size)
            for place in sorted({name.rpartition("/")[0] for name in manifest.files}):
                kind, _ = place.split("/")
                read = {name: _read(box, manifest, f"{place}/{name}") for name in FILES[kind]}
                if kind == "pretrain":
                    _only_named(store, *trust.pretraining(read["spec.json"]), NOTE)
                    continue
                outcome = Outcome.model_validate_json(read["outcome.json"])
                cell = Cell.of(outcome.spec, outcome.versions)
                store.of(cell).mkdir(parents=True)
                if kind == "run":
                    arrays: dict[str, Any] = trust.predictions(read["predictions.npz"])
                    np.savez(store.of(cell) / "predictions.npz", **arrays)
                store.finish(cell, outcome, durable=False)

    build_folder(root, build, durable=False)  # it can be unpacked again
    return Store(root)


def _contents(store: Store, chosen: Sequence[Outcome], short: bool) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file, without what could name a person or a place."""
    pretrained = set[str]()
    for outcome in chosen:
        place = f"{outcome.spec.kind}/{outcome.key}"
        if word := trust.place_in(outcome.spec):
            raise BenchError(
                f"The cell {outcome.key} names a place on this machine: '{word}'.",
                "Choose other cells.",
            )
        yield f"{place}/outcome.json", trust.public(outcome).model_dump_json(indent=1).encode()
        if isinstance(outcome.spec, RunSpec):
            yield f"{place}/predictions.npz", _packed(store, outcome, short)
        if not isinstance(outcome.spec, PretrainSpec) and outcome.spec.weights:
            pretrained.add(outcome.spec.weights)
    for key in sorted(pretrained):
        made = store.outcome("pretrain", key)
        if made is not None and not trust.place_in(made.spec):
            facts = {"versions": made.versions, "spec": made.spec.model_dump(mode="json"),
                     "train": made.data.get("train", 0)}  # fmt: skip
            yield f"pretrain/{key}/spec.json", canonical(facts).encode()


def _add(box: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Nothing of the machine or the hour goes into the file."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
    box.writestr(info, content, zipfile.ZIP_DEFLATED, 6)


def _packed(store: Store, outcome: Outcome, short: bool) -> bytes:
    """The predictions again: the four arrays and nothing else that may lie in the file."""
    try:
        found = store.predictions(outcome.key)
        arrays: dict[str, Any] = {n: found[n].astype(kind) for n, (kind, _) in trust.ARRAYS.items()}
    except (*trust.DAMAGE, KeyError, Damaged) as error:
        raise BenchError(
            f"The run {outcome.key} has lost its predictions.",
            "Delete its folder and run it again.",
        ) from error
    if short:
        arrays["draws"] = np.round(arrays["draws"] / SHORT) * SHORT
        arrays["scores"] = _rounded(outcome, arrays)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _rounded(outcome: Outcome, arrays: dict[str, Any]) -> np.ndarray:
    """The scores in short; as they are where they lie so close together that it would show."""
    several = arrays["labels"].ndim == 2
    short = trust.shortened(arrays["scores"], several=several)
    again = {**arrays, "scores": trust.lengthened(short, several=several)}
    try:
        trust.check_predictions(outcome, again, rounded=True)
    except Unusable:
        return arrays["scores"]
    return short


@contextmanager
def _reading(bundle: Path) -> Iterator[zipfile.ZipFile]:
    """The open file; whatever is wrong with it is told as one error."""
    try:
        with zipfile.ZipFile(bundle) as box:
            yield box
    except FileNotFoundError as error:
        raise BenchError(f"There is no file {bundle}.", "Check the path.") from error
    except trust.DAMAGE as error:
        if getattr(error, "errno", None) in FULL:  # it is the disk that refuses
            raise
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BenchError(
            f"The bundle {bundle} is refused: {why.rstrip('.')}.", "Get it again from its maker."
        ) from error


def _manifest(box: zipfile.ZipFile, size: int) -> Manifest:
    """What the bundle holds, every name and every byte checked against what it promises."""
    members = box.infolist()
    if len(members) > MOST:
        raise ValueError(f"it has {len(members)} members, more than {MOST}")
    for member in members:
        name, kind = member.orig_filename, stat.S_IFMT(member.external_attr >> 16)
        known = MEMBER.fullmatch(name)
        if name != MANIFEST and not (known and known[2] in FILES.get(known[1], ())):
            raise ValueError(f"no bundle has a member '{name[:80]}'")
        if kind not in (0, stat.S_IFREG) or member.flag_bits & 1:
            raise ValueError(f"its member '{name}' is encrypted or no plain file")
        if member.file_size > LARGEST:
            raise ValueError(f"its member '{name}' is too large")
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise ValueError("a member is there twice")
    if sum(member.file_size for member in members) > max(RATIO * size, SMALL):
        raise ValueError(f"it grows more than {RATIO}-fold")
    if MANIFEST not in names:
        raise ValueError("it has no manifest")
    raw = json.loads(box.read(MANIFEST))
    found = raw.get("bundle_version") if isinstance(raw, dict) else None
    if isinstance(found, int) and found > BUNDLE_VERSION:
        raise ValueError(f"it has version {found}, and this tool knows {BUNDLE_VERSION}: upgrade")
    manifest = Manifest.model_validate(raw)
    if {*manifest.files, MANIFEST} != names:
        raise ValueError("its manifest names other files than it has")
    for name in manifest.files:
        _read(box, manifest, name)
    return manifest


def _read(box: zipfile.ZipFile, manifest: Manifest, name: str) -> bytes:
    content = box.read(name)
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise ValueError(f"{name} was changed")
    return content


def _content(box: zipfile.ZipFile, manifest: Manifest, place: str) -> _Content:
    """A cell as its files tell it, reduced once more: another tool may have made it."""
    kind, key = place.split("/")
    if lost := [name for name in FILES[kind] if f"{place}/{name}" not in manifest.files]:
        raise Unusable(f"it has no {lost[0]}")
    texts = {name: _read(box, manifest, f"{place}/{name}") for name in FILES[kind]}
    if kind == "pretrain":
        cell, train = trust.pretraining(texts["spec.json"])
        content = _Content(cell, train=train)
    else:
        outcome = trust.outcome(texts["outcome.json"])
        if outcome.key != key:
            raise Unusable(f"its outcome has the key {outcome.key[:40]}")
        arrays = trust.predictions(texts["predictions.npz"]) if kind == "run" else None
        content = _Content(Cell.of(outcome.spec, outcome.versions), trust.public(outcome), arrays)
    if (content.cell.spec.kind, content.cell.key) != (kind, key):
        raise Unusable("its key is not that of what it asks")
    if word := trust.place_in(content.cell.spec):
        raise Unusable(f"it names a place on a machine: '{word[:80]}'")
    return content


def _merge(store: Store, content: _Content, note: str, found: Imported) -> None:
    """Write a cell unless it is finished here, its outcome last."""
    cell, outcome = content.cell, content.outcome
    place = f"{cell.spec.kind}/{cell.key}"
    ours = store.outcome(cell.spec.kind, cell.key)
    if outcome is None:
        if ours is None:
            _only_named(store, cell, content.train, note)
        return
    if ours is not None and ours.status == "ok":
        (found.same if _numbers(ours) == _numbers(outcome) else found.differs).append(place)
        return
    left = store.of(cell).glob("*")  # by our failed attempt: a network that gave other numbers
    remove(path for path in left if path.name != "outcome.json")
    store.begin(cell)
    if content.arrays is not None:
        store.save_predictions(cell, **content.arrays)
    rest = "subgroups, times, and intervals other than the headline's"  # no prediction shows them
    unverified = "not verified" if content.arrays is None else f"not verified: {rest}"
    environment = {**outcome.environment, "imported": f"{note}; {unverified}"}
    store.finish(cell, outcome.model_copy(update={"environment": environment}))
    (found.added if ours is None else found.replaced).append(place)


def _only_named(store: Store, cell: Cell, train: int, note: str) -> None:
    """A pretraining's recipe is known from now on; a plain run still makes the weights."""
    why = "Its weights did not come with the results; a run makes them."
    failure = Failure(kind="data_missing", message=why)
    data: dict[str, Scalar] = {"train": train} if train else {}
    store.fail(cell, failure, environment={"imported": note}, data=data)


def _numbers(outcome: Outcome) -> str:
    return outcome.model_dump_json(include={"metrics", "classes", "per_class"})
