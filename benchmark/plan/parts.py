"""What a cell names: components, their versions and options, and a source's weights."""

from collections.abc import Callable
from typing import Any

from benchmark import protocols, registry
from benchmark.api import Distance, Fusion, Source, SourceCard
from benchmark.data.label_sets import several
from benchmark.errors import BenchError, unreadable
from benchmark.spec import CORE_VERSION, UNREAD, Cell, PretrainSpec, Runtime, Scalar
from benchmark.store import Store
from benchmark.train import weights

#: Why a cell is not run: the reason to skip it or what is broken; empty where it can be.
Why = str | BenchError


#: What of a recipe a fine-tuning alone heeds.
IDLE = {"trains", "lora_rank", "tune"}


def load(kind: str, name: str, runtime: Runtime) -> Any:
    """A component by its name in keys."""
    return registry.load(kind, name, **runtime.where(name))


def multilabel(component: Source) -> bool:
    """Whether an image bears any number of the labels; of a user's own set, as it was read."""
    return getattr(component.card, "multilabel", False) or several(component.look().labels)


def version_of(kind: str, name: str, runtime: Runtime) -> str:
    """What a key holds of a component."""
    return registry.version(kind, name, **runtime.where(name))


def read_version(
    kind: str, name: str, runtime: Runtime, look: Callable[[], object] = lambda: None
) -> tuple[str, BenchError | None]:
    """A set's version, and why it cannot be used: one of the user's own may be broken."""
    found = UNREAD
    try:
        found = version_of(kind, name, runtime)
        look()
    except Exception as error:
        if name not in runtime.inputs:
            raise
        return found, unreadable(name, error)
    return found, None


def pretrain_cell(
    source: str, arch: str, seed: int, changes: dict[str, Any], runtime: Runtime
) -> Cell:
    """The pretraining that makes a source's weights."""
    name, made = known(source, arch, runtime)
    card = load("source", source, runtime).card
    assert isinstance(card, SourceCard)
    if card.given:
        return weights.given_cell(name, arch, made)
    for idle in changes.keys() & IDLE:
        raise BenchError(
            f"A pretraining trains all of its network: pretrain.{idle} would change nothing.",
            f"Leave it out; recipe.{idle} is what a fine-tuning has.",
        )
    recipe = protocols.change(card.pretrain.model_dump(), changes)
    spec = PretrainSpec(source=name, arch=arch, seed=seed, recipe=recipe)
    return Cell.of(spec, {"core": CORE_VERSION, "source": made})


def known(source: str, arch: str, runtime: Runtime) -> tuple[str, str]:
    """A source's name in a key, and its version: of a file that was added, the file's digest."""
    found = load("source", source, runtime)
    found.check(arch)
    if not found.card.given:
        return source, read_version("source", source, runtime)[0]
    if digest := weights.added(Store(runtime.store), source, arch):
        return source.partition("@")[0], f"file:{digest[:16]}"
    found.need_added(arch)
    return source, version_of("source", source, runtime)


def options_of(
    arm: Fusion | Distance, of_protocol: dict[str, Scalar], asked: dict[str, Scalar]
) -> dict[str, Scalar]:
    """The arm's options: its own defaults, the protocol's, then the user's."""
    usual = dict(arm.card.options)
    return {**usual, **of_protocol, **{k: v for k, v in asked.items() if k in usual}}
