"""Pretrained weights in the store: safetensors with a card, added, exported and imported."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchError, Damaged
from benchmark.files import read_json, replacing, write_json
from benchmark.spec import Cell, Outcome, PretrainSpec
from benchmark.store import Store

if TYPE_CHECKING:
    import torch

FILE = "weights.safetensors"
CARD = "card.json"


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
    if not path.is_file():
        raise BenchError(
            f"The weights {key} are not in the store.", "Run `bench run` to make them."
        )
    outcome = store.outcome(kind, key)
    return read(path if outcome is None else store.kept(outcome, FILE))


def sha256(folder: Path) -> str:
    """The digest of the weights in a cell's folder, as its card has it."""
    try:
        return json.loads((folder / CARD).read_text())["sha256"]
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
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BenchError(
            f"{path.name} does not hold plain tensors.",
            "Give a .safetensors file or a PyTorch state dict without other objects.",
        ) from error
    for wrapper in ("state_dict", "model"):  # where training scripts commonly put the tensors
        found = found.get(wrapper, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise BenchError(f"{path.name} is not a state dict.", "Save model.state_dict() instead.")
    return {name.removeprefix("module."): value for name, value in found.items()}


def add(store: Store, cell: Cell, path: Path, *, license: str = "", note: str = "") -> Path:
    """Put a file of weights into the store as the pretraining `cell` would."""
    from benchmark.network import build, load_backbone

    assert isinstance(cell.spec, PretrainSpec)
    state = read(path)
    load_backbone(build(cell.spec.arch, seed=0), state)  # refuses what does not fit, before writing
    folder = store.begin(cell)
    card = {
        "source": cell.spec.source,
        "arch": cell.spec.arch,
        "from": path.name,
        "license": license,
        "note": note,
    }
    save(folder, state, card)
    outcome = Outcome(
        key=cell.key,
        spec=cell.spec,
        versions=cell.versions,
        status="ok",
        chosen=f"added from {path.name}",
    )
    store.finish(cell, outcome)
    return folder


def cards(store: Store) -> list[dict[str, Any]]:
    """The card of every file of weights, with its key."""
    found = []
    for key in store.keys("pretrain"):
        path = store.folder("pretrain", key) / CARD
        if path.is_file():
            found.append({"key": key, **json.loads(path.read_text())})
    return found


def export(store: Store, key: str, out: Path) -> Path:
    """Copy weights, card and outcome into a folder that `import_` reads."""
    folder = store.folder("pretrain", key)
    if not (folder / FILE).is_file():
        raise BenchError(f"There are no weights {key}.", "`bench weights list` shows the keys.")
    out.mkdir(parents=True, exist_ok=True)
    for name in (FILE, CARD, "outcome.json"):
        shutil.copyfile(folder / name, out / name)
    return out


def import_(store: Store, folder: Path) -> str:
    """Take an exported folder into the store, if its tensors are the ones its card names."""
    try:
        card = read_json(folder / CARD)
        outcome = Outcome.model_validate(read_json(folder / "outcome.json"))
    except (OSError, ValueError, Damaged) as error:
        raise BenchError(
            f"{folder} is not a whole export of weights.",
            "Export it again with `bench weights export`.",
        ) from error
    cell = Cell.of(outcome.spec, outcome.versions)
    if cell.key != outcome.key or digest(folder / FILE) != card.get("sha256"):
        raise BenchError(f"The weights in {folder} were changed after the export.", "Export again.")
    read(folder / FILE)
    to = store.begin(cell)
    with replacing(to / FILE) as temporary:
        shutil.copyfile(folder / FILE, temporary)
    write_json(to / CARD, card)
    store.finish(cell, outcome)
    return cell.key


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
