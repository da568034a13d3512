"""Pretrained weights in the store: safetensors with a card, added, exported and imported.

A file that was added is known by its digest. A name stands for the file added last; `NAME@DIGEST`
(or the digest's beginning) for an earlier one.
"""

import hashlib
import re
import shutil
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from benchmark import registry
from benchmark.errors import BenchError, Damaged
from benchmark.files import read_json, replacing, unsealed, write_json
from benchmark.spec import CORE_VERSION, Cell, Frozen, Outcome, PretrainSpec, Recipe, canonical
from benchmark.store import CARD, FILE, PARTS, Store
from benchmark.train import archs, layouts

if TYPE_CHECKING:
    import numpy as np
    import torch

HASHES = "hashes.npy"  # of the images it was trained on, sorted: overlaps are counted without them


class Card(Frozen):
    """All that a card may say."""

    source: str
    arch: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    title: str = ""
    license: str = ""
    reference: str = ""
    note: str = ""
    origin: str = Field("", alias="from")  # the file that was added
    recipe: Recipe | None = None
    seed: int = 0
    digest: str = ""
    metrics: dict[str, float | None] = Field(default_factory=dict)
    classes: tuple[str, ...] = ()
    named: str = ""  # how its file named the tensors
    left: tuple[str, ...] = ()  # what else the file held
    size: int = Field(0, ge=0)  # pixels of the images it was made with
    images: int = Field(0, ge=0)  # how many they were
    kind: Literal["", "natural", "medical", "synthetic"] = ""  # what they show


def save(folder: Path, state: "dict[str, torch.Tensor]", card: dict[str, Any]) -> None:
    """Write the tensors, then the card that describes them."""
    from safetensors.torch import save as serialise

    tensors = {name: value.detach().contiguous().cpu() for name, value in state.items()}
    content = serialise(tensors)  # in memory: its errors on a full disk are no OSError
    with replacing(folder / FILE) as temporary:
        temporary.write_bytes(content)
    write_json(folder / CARD, {**card, "sha256": hashlib.sha256(content).hexdigest()})


def load(store: Store, key: str, *, kind: str = "pretrain") -> "dict[str, torch.Tensor]":
    """The tensors of a pretraining, or of a run that kept its network."""
    path = store.folder(kind, key) / FILE
    outcome = store.outcome(kind, key)
    if kind == "run" and not path.is_file() and (outcome is None or FILE not in outcome.files):
        spec: Any = outcome and outcome.spec
        if spec and (spec.missing or spec.tested_on):
            what = f"The run {key} is one more test of the network of another."
            raise BenchError(what, f"Name that one: {spec.base}.")
        raise BenchError(
            f"The run {key} did not keep its network.",
            f"Delete {path.parent} and run it again, without --no-keep.",
        )
    if kind == "pretrain" and not path.is_file():
        raise BenchError(
            f"The weights {key} are not in the store.", "Run `bench run` to make them."
        )
    return read(path if outcome is None else store.kept(outcome, FILE))


def save_hashes(folder: Path, hashes: "np.ndarray") -> None:
    """Keep which images (16 hex digits each) weights were made from, to count overlaps later."""
    import numpy as np

    with replacing(folder / HASHES) as temporary, temporary.open("wb") as file:
        np.save(file, np.unique(_numbers(hashes)))


def overlap(store: Store, key: str, hashes: "np.ndarray") -> "int | str":
    """How many of these images weights were made from; "" where nobody can tell."""
    import numpy as np

    outcome = store.outcome("pretrain", key)
    if outcome is None or HASHES not in outcome.files:
        return ""
    seen = np.load(store.kept(outcome, HASHES), allow_pickle=False)
    return int(np.isin(_numbers(hashes), seen).sum())


def _numbers(hashes: "np.ndarray") -> "np.ndarray":
    import numpy as np

    return np.array([int(text, 16) for text in hashes], np.uint64)


def sha256(folder: Path) -> str:
    """The digest of the weights in a cell's folder, as its card has it."""
    try:
        return read_json(folder / CARD)["sha256"]
    except FileNotFoundError as error:
        raise BenchError(
            f"The weights {folder.name} are not in the store.", "Run `bench run` to make them."
        ) from error


def read(path: Path) -> "dict[str, torch.Tensor]":
    """Tensors of a file, never by unpickling objects."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise BenchError(f"There is no file {path}.", "Check the path.") from error
    except (
        SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError,
        LookupError, TypeError, AttributeError,
    ) as error:  # fmt: skip
        raise BenchError(
            f"{path.name} does not hold plain tensors.",
            "Give a .safetensors file or a PyTorch state dict without other objects. Where you "
            "trust the file, save its tensors alone: found = torch.load(FILE, weights_only=False), "
            'then torch.save({"state_dict": found["state_dict"]}, "plain.pt").',
        ) from error
    if not isinstance(found, dict) or not (tensors := layouts.plain(found)):
        raise BenchError(f"{path.name} is not a state dict.", "Save model.state_dict() instead.")
    return tensors


def added(store: Store, source: str, arch: str) -> str:
    """The digest of the file that was added for a source and a network; "" where none was."""
    name, _, wanted = source.partition("@")
    if not wanted:
        path = _current(store, name, arch)
        return read_json(path, source=name, arch=arch)["sha256"] if path.is_file() else ""
    known = {c["sha256"] for c in cards(store) if (c["source"], c["arch"]) == (name, arch)}
    found = [digest for digest in known if digest.startswith(wanted)]
    if len(found) != 1:
        raise BenchError(
            f"{len(found)} files were added as {name} for {arch} whose digest begins so: {wanted}.",
            "`bench weights list` shows their digests.",
        )
    return found[0]


def add(
    store: Store,
    source: str,
    arch: str,
    path: Path,
    *,
    current: bool = True,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    **facts: Any,
) -> Cell:
    """Put a file into the store as weights of a source, for which it stands from now on.

    It is kept by the network's own names, with the mean and deviation that images are normalised
    by; `facts` are what its card says of it.
    """
    from benchmark.train.network import build, load_backbone

    state = read(path)
    _need_finite(state, path.name)
    found = load_backbone(build(arch, seed=0), state)  # refuses what does not fit, before writing
    card = registry.card("source", source)
    inputs = found.inputs | layouts.inputs(mean or card.mean, std or card.std)
    given = {"source": source, "arch": arch, "from": path.name, **facts}
    given |= {"named": found.words, "left": sorted(found.left)}
    temporary = store.root / PARTS["pretrain"] / f"added.tmp-{uuid.uuid4().hex[:8]}"
    try:
        save(temporary, {**found.state, **found.classifier, **inputs}, given)
        return _take(store, temporary, current=current)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def probe(store: Store, name: str, arch: str) -> str:
    """The key of weights by its beginning, or of a file, which is put into the store; or ""."""
    path = Path(name).expanduser()
    if path.suffix == ".safetensors" or (path.is_file() and path.suffix != ".py"):
        return add(store, f"weights:{path.stem}", arch, path, current=False).key
    if not re.fullmatch(r"[0-9a-f]{4,16}", name):
        return ""
    found = [card for card in cards(store) if card["key"].startswith(name)]
    if len(found) == 1 and found[0]["arch"] != arch:
        made = found[0]["arch"]
        raise BenchError(f"The weights {name} are of {made}, not {arch}.", f"Say --arch {made}.")
    return found[0]["key"] if len(found) == 1 else ""


def cards(store: Store) -> list[dict[str, Any]]:
    """The card of every file of weights, with its key; one that is damaged is told."""
    found = []
    for outcome in store.outcomes("pretrain"):
        try:
            if outcome.status == "ok":
                found.append({"key": outcome.key, **read_json(store.kept(outcome, CARD))})
        except Damaged as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def export(store: Store, key: str, out: Path) -> Path:
    """Copy weights, card and outcome into a folder that `import_` reads."""
    folder = store.folder("pretrain", key)
    if not (folder / FILE).is_file():
        raise BenchError(f"There are no weights {key}.", "`bench weights list` shows the keys.")
    out.mkdir(parents=True, exist_ok=True)
    for name in (FILE, CARD, HASHES, "outcome.json"):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, out / name)
    return out


def import_(store: Store, folder: Path) -> str:
    """Take an exported folder into the store, if it holds what its card and outcome name."""
    from benchmark.train.network import build, load_backbone

    card, outcome = _described(folder)
    cell = Cell.of(outcome.spec, outcome.versions)
    if cell.key != outcome.key or digest(folder / FILE) != card.sha256:
        raise BenchError(f"The weights in {folder} were changed after the export.", "Export again.")
    state = read(folder / FILE)
    _need_finite(state, folder.name)
    load_backbone(build(archs.known(card.arch), seed=0), state)  # refuses what does not fit
    if card.origin:
        return _take(store, folder).key
    ours = store.of(cell) / CARD
    if ours.is_file() and sha256(ours.parent) != card.sha256:
        raise BenchError(
            f"The store has other weights under the key {cell.key}: a second training gave them.",
            f"Give these a name: bench weights add {folder / FILE} --name NAME.",
        )
    return _finish(store, cell, folder, outcome)


def _described(folder: Path) -> tuple[Card, Outcome]:
    """Card and outcome of an export, which may come from anyone."""
    import numpy as np

    from benchmark import trust

    try:
        card = Card.model_validate(read_json(folder / CARD))
        outcome = trust.outcome(unsealed((folder / "outcome.json").read_bytes()))
        trust.sound(card.model_dump())
        if not isinstance(outcome.spec, PretrainSpec):
            raise trust.Unusable(f"it is of a {outcome.spec.kind}")
        if (card.source, card.arch) != (outcome.spec.source, outcome.spec.arch):
            raise trust.Unusable("its card is of another pretraining")
        if (folder / HASHES).is_file():
            hashes = np.load(folder / HASHES, mmap_mode="r", allow_pickle=False)
            if hashes.dtype != np.uint64 or hashes.ndim != 1:
                raise trust.Unusable(f"its {HASHES} holds no hashes")
    except (OSError, ValueError, RecursionError, Damaged, trust.Unusable) as error:
        why = f": {error}" if isinstance(error, trust.Unusable) else ""
        raise BenchError(
            f"{folder} is not a whole export of weights{why}.",
            "Export it again with `bench weights export`.",
        ) from error
    return card, outcome


def _take(store: Store, folder: Path, *, current: bool = True) -> Cell:
    """A file that was added, under the key that its digest is part of."""
    card = read_json(folder / CARD)
    cell = _added_cell(card["source"], card["arch"], card["sha256"])
    outcome = Outcome(
        key=cell.key,
        spec=cell.spec,
        versions=cell.versions,
        status="ok",
        chosen=f"added from {card['from']}",
    )
    _finish(store, cell, folder, outcome)
    if current:
        facts = {name: card[name] for name in ("source", "arch", "sha256")}
        write_json(_current(store, card["source"], card["arch"]), facts)
    return cell


def given_cell(source: str, arch: str, version: str) -> Cell:
    """Weights made by others are what they are: no recipe or seed of ours is in their key."""
    spec = PretrainSpec(source=source, arch=arch, seed=0, recipe=Recipe())
    return Cell.of(spec, {"core": CORE_VERSION, "source": version})


def _added_cell(source: str, arch: str, digest: str) -> Cell:
    """What a file of weights is kept as: its digest is part of the key."""
    registry.load("source", source).check(arch)
    return given_cell(source, arch, f"file:{digest[:16]}")


def _finish(store: Store, cell: Cell, folder: Path, outcome: Outcome) -> str:
    to = store.begin(cell)
    for name in (FILE, CARD, HASHES):
        if (folder / name).is_file():
            with replacing(to / name) as temporary:
                shutil.copyfile(folder / name, temporary)
    store.finish(cell, outcome)
    return cell.key


def _current(store: Store, source: str, arch: str) -> Path:
    """Which file a name stands for: a small file for each, so that no two writers meet."""
    name = hashlib.sha256(canonical([source, arch]).encode()).hexdigest()[:16]
    return store.root / PARTS["pretrain"] / "current" / f"{name}.json"


def _need_finite(state: "dict[str, torch.Tensor]", file: str) -> None:
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        raise BenchError(
            f"{file} holds numbers that are not finite, in {wrong[0]} first.",
            "Take weights of a training that did not diverge.",
        )


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
