"""Which arms belong together: those that differ in nothing but what is compared."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from benchmark import registry
from benchmark.api import Source
from benchmark.errors import BenchError, did_you_mean
from benchmark.index import Asked, Summary
from benchmark.spec import Augment, Recipe, RunSpec
from reports.leaderboard.arms import Arm, Identity, Place

#: What two names may be names of, with the option that asks for it.
KINDS = {
    "source": "--source",
    "fusion": "--fusion",
    "protocol": "--protocol",
    "mode": "--mode",
    "arch": "--arch",
    "train_size": "--train-size",
    "augmentation": "--set recipe.augment.…",
    "trains": "--set recipe.trains=…",
}
ALL = "all"  # the name of the whole training part
#: What makes an arm, beside its versions.
MADE = ("source", "pretrain_seed", "pretraining", "fusion", "options", "columns", "types",
        "record", "arch", "mode", "recipe", "split", "headline", "digest")  # fmt: skip
#: What goes with a kind: it may differ too.
FREE = {
    "source": ("source", "pretrain_seed", "pretraining", "recipe"),
    "fusion": ("fusion", "options", "columns", "types", "record"),
    "protocol": ("record", "recipe", "split", "headline"),
    "mode": ("mode", "recipe"),
    "arch": ("arch",),
    "augmentation": ("recipe",),
    "trains": ("recipe",),
}
#: What of a recipe is compared by itself, and how it is where there is none of it.
LESS: dict[str, dict[str, Any]] = {
    "augmentation": {"augment": Augment(), "test_augment": None},
    "trains": {"trains": "all", "lora_rank": Recipe().lora_rank},
}


def called(spec: RunSpec | Asked, kind: str) -> str:
    """What a cell is called where cells of this kind are compared."""
    if kind not in LESS:
        return str(getattr(spec, kind)) or ALL
    recipe = spec.recipe
    return _called(recipe if isinstance(recipe, str) else recipe.model_dump_json(), kind)


@cache
def _called(recipe: str, kind: str) -> str:
    found = Recipe.model_validate_json(recipe)
    if kind == "trains":
        return found.trains
    return "off" if without(found, kind) == found else "on"


def without(recipe: Recipe, kind: str) -> Recipe:
    """The recipe without what is compared: images as they are, or all of the network trained."""
    return recipe.model_copy(update=LESS[kind])


def kind_of(first: str, second: str, by: str, rows: Sequence[Summary]) -> str:
    """Of what the two are names in this store; an error that helps where that is not plain."""
    if by and by not in KINDS:
        raise BenchError(f"Nothing is compared by '{by}'.", did_you_mean(by, list(KINDS)))
    if first == second:
        raise BenchError(f"'{first}' is compared with itself.", "Name two different ones.")
    known = {kind: {called(row.spec, kind) for row in rows} for kind in KINDS}
    fits = [kind for kind in KINDS if {first, second} <= known[kind] and by in ("", kind)]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise BenchError(
            f"Both {first} and {second} are names of {' and of '.join(f'a {k}' for k in fits)}.",
            f"Say which with --by {fits[0]}.",
        )
    everything = sorted(set().union(*known.values()))
    for name in (first, second):
        if name not in everything:
            raise BenchError(
                f"The store has no results of '{name}'.", did_you_mean(name, everything)
            )
    kinds = [kind for kind in KINDS if len(known[kind]) > 1]
    raise BenchError(
        f"{first} and {second} are not two {', two '.join(_words(kind) for kind in KINDS)} "
        "of this store.",
        "It has " + "; ".join(f"{_words(k)} {', '.join(sorted(known[k]))}" for k in kinds) + "."
        if kinds
        else "It has one of each.",
    )


def _words(kind: str) -> str:
    return f"{kind.removesuffix('s').replace('_', ' ')}s"


def partners(
    kind: str, names: tuple[str, str], arms: Mapping[Place, Sequence[Arm]]
) -> Iterator[tuple[Arm, Arm]]:
    """Arms of the first name with those of the second that are like them in all else."""
    loose = {kind, "protocol"} if kind == "augmentation" else {kind}
    pools: dict[Place, list[Arm]] = defaultdict(list)
    for place, part in arms.items():
        pools[place._replace(**dict.fromkeys(loose & set(Place._fields), ""))] += part
    for part in pools.values():
        first, second = (
            [arm for arm in part if called(arm.runs[0].spec, kind) == name] for name in names
        )
        every, free = list(product(first, second)), FREE.get(kind, ())
        found = [(a, b) for a, b in every if _alike(kind, a, b, free)]
        if not found and kind == "source" and any(map(brings_network, names)):
            found = [(a, b) for a, b in every if _alike(kind, a, b, (*free, "arch"))]
        yield from found


def patients(who: Identity) -> tuple:
    """What makes the test patients, and which images there are at all."""
    return who.split, who.digest, who.recipe.limit


def brings_network(source: str) -> bool:
    """Whether a source names its network itself, so that no other has the same."""
    family = source.partition(":")[0]
    if family not in registry.names("source"):
        return False
    return type(registry.load("source", family)).network is not Source.network


def _alike(kind: str, a: Arm, b: Arm, free: tuple[str, ...]) -> bool:
    """Whether two arms are the same but for what is free."""
    bare = "none" in (a.identity.arch, b.identity.arch) and kind == "fusion"
    return _rest(kind, a, bare, free) == _rest(kind, b, bare, free)


def _rest(kind: str, arm: Arm, bare: bool, free: tuple[str, ...]) -> tuple:
    """What must be the same; an arm on the record alone shares only the patients with another."""
    who = arm.identity
    if bare:
        return (*patients(who), who.headline)
    same = [getattr(who, name) for name in MADE if name not in free]
    if kind in LESS:
        same.append(without(who.recipe, kind))
    if kind == "source":  # scratch has a schedule of its own
        same.append(arm.departs)
    return (*same, who.recipe.limit)
