"""Own sets of one name are told apart by what they hold, wherever results are read."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from benchmark.errors import BenchError
from benchmark.index import Summary
from benchmark.spec import Outcome
from benchmark.store import PARTS, Store

#: What of a spec may name a set of the user's own.
SIDES = ("source", "target", "tested_on")
Found = TypeVar("Found", Outcome, Summary)


def told_apart(store: Store, found: Sequence[Found]) -> list[Found]:
    """What was found; where two sets share a name, each has its fingerprint in it."""
    if not _versions(found):
        return list(found)
    known = _versions(row for part in PARTS for row in store.summaries(part))
    return [_renamed(outcome, known) for outcome in found]


def is_called(name: str, asked: str) -> bool:
    """Whether a set goes by the name asked for, be it with its fingerprint or without."""
    return asked in (name, re.sub(r"#[0-9a-f-]+$", "", name))


def name_in(store: Store, name: str, look: Callable[[], str], *, images_only: bool = False) -> str:
    """What results call a user's folder; `look` gives its version, and `images_only` says that
    its table was not named again."""
    known = _versions(row for kind in PARTS for row in store.summaries(kind))[name]
    if not known:
        return name
    version = look()
    same = {one for one in known if one == version}
    if images_only and not same:
        same = {one for one in known if one.split("-")[:2] == version.split("-")[:2]}
    if len(same) > 1:
        raise BenchError(
            f"The store has {len(same)} sets of these images, read in different ways.",
            "Name table and columns as in their runs: --metadata, --label, --separator, --group.",
        )
    version = next(iter(same), version)
    return _shown(name, version, known | {version})


def _versions(outcomes: Iterable[Outcome | Summary]) -> dict[str, set[str]]:
    """The versions of each user's own set, by its name; an official set's has no fingerprint."""
    found: dict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        if isinstance(outcome, Summary) and "-" not in outcome.parts:
            continue
        versions = outcome.versions
        for side in SIDES:
            version = versions.get(side, "")
            if "-" in version:
                found[getattr(outcome.spec, side)].add(version)
    return found


def _renamed(outcome: Found, known: dict[str, set[str]]) -> Found:
    spec, versions = outcome.spec, outcome.versions
    names = {
        side: _shown(getattr(spec, side), versions[side], known.get(getattr(spec, side), set()))
        for side in SIDES
        if spec.kind != "pretrain" and side in versions
    }
    if all(getattr(spec, side) == name for side, name in names.items()):
        return outcome
    if isinstance(outcome, Summary):
        return outcome._replace(spec=outcome.spec._replace(**names))
    return outcome.model_copy(update={"spec": outcome.spec.model_copy(update=names)})


def _shown(name: str, version: str, known: set[str]) -> str:
    """The name alone where it says which set is meant, else with a short fingerprint."""
    return marked(name, version) if len(known) > 1 else name


def marked(name: str, version: str) -> str:
    """The name of a user's own set with a short fingerprint; of an official set as it is."""
    if "-" not in version or "#" in name:
        return name
    return f"{name}#{'-'.join(part[:6] for part in version.split('-')[1:])}"
