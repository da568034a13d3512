"""Which data sets are known to share images: by their cards, or because they are one."""

from collections.abc import Iterable
from functools import cache
from itertools import combinations

from benchmark import registry

NOTE = "† source and target share images: such a pair says nothing of transfer."


@cache
def between(source: str, target: str) -> str:
    """What makes a pair doubtful before anything is measured; empty where nothing is known."""
    if source == target:
        return "source = target"
    for one, other in ((source, target), (target, source)):
        if any(_same(name, other) for name in _declared(one)):
            return f"{source} and {target} are known to share images"
    return ""


def among(names: Iterable[str]) -> list[str]:
    """A sentence for every pair of different sets that are known to share images."""
    pairs = combinations(sorted(set(names) - {"none"}), 2)
    return [
        f"Known overlap: {' and '.join(pair)} share images." for pair in pairs if between(*pair)
    ]


@cache
def _declared(name: str) -> tuple[str, ...]:
    card = registry.card("source", name)
    return card.overlaps if card else ()


def _same(declared: str, name: str) -> bool:
    """`ham10000` is also a user's folder HAM10000, and `pcam:small` also plain `pcam`."""
    plain = name.removeprefix("folder:").casefold()
    return declared == plain or declared == plain.partition(":")[0]
