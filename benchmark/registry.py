"""Finds components by the names of their files; lists them without importing any."""

import ast
import hashlib
import importlib
import importlib.util
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.errors import BenchError, did_you_mean

if TYPE_CHECKING:
    from benchmark.api import Component
    from benchmark.spec import Input

#: kind -> the package that holds it; a target can serve as a source too.
PACKAGES = {
    "source": "sources",
    "target": "targets",
    "fusion": "benchmark.fusion",
    "distance": "similarity",
}
ROOT = Path(__file__).resolve().parent.parent


def names(kind: str) -> dict[str, str]:
    """Every built-in component of a kind with the first line of its file, importing none."""
    return {path.stem: _first_line(path) for path in _files(kind)}


def plugins(kind: str) -> dict[str, str]:
    """Components that other installed packages offer: name -> where they are."""
    return {entry.name: entry.value for entry in _offered(f"bench.{kind}")}


def load(kind: str, name: str, *, path: Path | None = None, given: "Input | None" = None) -> Any:
    """The component of that name, e.g. `isic`, `pcam:small`; `path` names its own file."""
    base, _, variant = name.partition(":")
    found = _class(kind, base, path)
    if variant and found.variants and variant not in found.variants and "*" not in found.variants:
        raise BenchError(
            f"The {kind} '{base}' has no variant '{variant}'.",
            did_you_mean(variant, [v for v in found.variants if v]),
        )
    if variant and not found.variants:
        raise BenchError(f"The {kind} '{base}' takes no variant.", f"Say just '{base}'.")
    if not variant and found.variants:
        variant = found.variants[0]
    return found(variant if variant != "*" else "", given)


def card(kind: str, name: str) -> Any:
    """The card of that component; None where it is not installed or cannot be loaded."""
    try:
        return load(kind, name).card
    except (BenchError, ImportError, SyntaxError):
        return None


def version(kind: str, name: str, *, path: Path | None = None, given: "Input | None" = None) -> str:
    """What a key holds of a component: its card's version, or its file's hash."""
    if path is not None:
        return "file:" + hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    component = load(kind, name, given=given)
    fingerprint = getattr(component, "fingerprint", None)
    return fingerprint() if given is not None and fingerprint else str(component.card.version)


def module_file(kind: str, name: str) -> Path | None:
    """The file of a built-in component; a source may be a target."""
    for package in (PACKAGES[kind], "targets") if kind == "source" else (PACKAGES[kind],):
        path = ROOT.joinpath(*package.split("."), f"{name}.py")
        if path.is_file() and not name.startswith("_"):
            return path
    return None


@cache
def _class(kind: str, name: str, path: Path | None) -> "type[Component]":
    if path is not None:
        return _only_component(_import_path(path), str(path))
    file = module_file(kind, name)
    if file is not None:
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        return _only_component(importlib.import_module(dotted), name)
    for group in (f"bench.{kind}", "bench.target") if kind == "source" else (f"bench.{kind}",):
        for entry in _offered(group).select(name=name):
            return entry.load()
    files = [*_files(kind), *(_files("target") if kind == "source" else ())]
    known = [*(path.stem for path in files), *plugins(kind)]
    raise BenchError(f"No {kind} named '{name}'.", did_you_mean(name, known))


def _files(kind: str) -> list[Path]:
    folder = ROOT.joinpath(*PACKAGES[kind].split("."))
    return [path for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]


@cache
def _offered(group: str) -> EntryPoints:
    """What installed packages offer: to look through them all takes long."""
    return entry_points(group=group)


def _import_path(path: Path):
    spec = importlib.util.spec_from_file_location(f"bench_component_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise BenchError(f"There is no Python file at {path}.", "Check the path.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _only_component(module, name: str) -> "type[Component]":
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and "card" in vars(value)
    ]
    if len(own) == 1:
        return own[0]
    raise BenchError(
        f"The component file '{name}' defines {len(own)} classes with a card.",
        "It must define exactly one.",
    )


@cache
def _first_line(path: Path) -> str:
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except SyntaxError as error:
        return f"(broken: {error.msg}, line {error.lineno})"
    return (text or "").partition("\n")[0]
