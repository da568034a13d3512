"""Reads evaluation protocols: one YAML each in protocols/, or a file of the user's."""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from benchmark.errors import BenchError, did_you_mean
from benchmark.spec import Augment, Protocol, Recipe

FOLDER = Path(__file__).parent
#: What of a recipe says how a network is trained, and nothing of a head.
TRAINED = ("trains", "lora_rank", "layer_decay")


def names() -> list[str]:
    """The protocols that come with the product."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def load(name: str) -> Protocol:
    """A protocol by its name, or by the path of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise BenchError(f"No protocol named '{name}'.", did_you_mean(name, names()))
    try:
        return Protocol.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise BenchError(
            f"{path.name} is no protocol: {first_line(error)}", "Correct it."
        ) from error


def recipe_for(
    protocol: Protocol,
    target: str,
    mode: str,
    changes: dict[str, Any],
    cannot_bear: Iterable[str] = (),
    *,
    scratch: bool = False,
) -> Recipe:
    """The recipe of a cell: the protocol's, changed by target, by mode, then by the user.

    `scratch`: without pretrained weights, which a network trained on the target takes longer for.

    Augmentations that the target's images cannot bear are left out before the user speaks.
    """
    base = protocol.recipe.model_dump()
    base.update(protocol.by_target.get(target.partition(":")[0], {}))
    if mode in ("frozen", "tuned"):
        base.update({"head": "chosen", **protocol.frozen})
    elif scratch:
        base.update(protocol.scratch)
    known = {name: field.default for name, field in Augment.model_fields.items()}
    for name in cannot_bear:
        if name not in known:
            raise BenchError(
                f"The card of {target} says what '{name}' does to its images: no augmentation.",
                did_you_mean(name, list(known)),
            )
    none = {name: known[name] for name in cannot_bear}
    for name in ("augment", "test_augment") if none else ():
        base[name] = base[name] and {**base[name], **none}
    # Heads choose their own rate; that of a tuned network says what it was fine-tuned as.
    idle = {"finetune": (), "tuned": ("tune",)}.get(mode, ("tune", *TRAINED))
    return change(base, {name: value for name, value in changes.items() if name not in idle})


def left_out(
    protocol: Protocol, target: str, mode: str, cannot_bear: Mapping[str, str]
) -> dict[str, list[str]]:
    """By reason, the augmentations of a protocol's recipe that the target's images cannot bear."""
    usual = recipe_for(protocol, target, mode, {}).augment
    bare = recipe_for(protocol, target, mode, {}, cannot_bear).augment
    found: dict[str, list[str]] = {}
    for name, reason in cannot_bear.items():
        if getattr(usual, name) != getattr(bare, name):
            found.setdefault(reason, []).append(name)
    return found


def change(base: dict[str, Any], changes: dict[str, Any]) -> Recipe:
    """A recipe with some fields replaced; `augment.rotation` reaches inside."""
    merged = dict(base)
    for name, value in changes.items():
        outer, _, inner = name.partition(".")
        merged[outer] = {**(merged.get(outer) or {}), inner: value} if inner else value
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        known = list(Recipe.model_fields)
        unknown = [
            name.partition(".")[0] for name in changes if name.partition(".")[0] not in known
        ]
        if unknown:
            raise BenchError(
                f"A recipe has no setting '{unknown[0]}'.", did_you_mean(unknown[0], known)
            ) from error
        raise BenchError(f"The recipe cannot be: {first_line(error)}", "Correct it.") from error


def first_line(error: Exception) -> str:
    """The gist of a validation or parse error."""
    if isinstance(error, ValidationError):
        item = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in item["loc"])
        said = item["msg"].removeprefix("Value error, ").replace("Input", "it", 1)
        return f"{name} is {item['input']!s:.40}: {said}."
    return str(error).splitlines()[0]
