"""Own sets of one name are told apart by what they hold, wherever results are read."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from benchmark.errors import BenchError
from benchmark.spec import DistanceSpec, Outcome, RunSpec
from benchmark.store import PARTS, Store


def told_apart(store: Store, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of one kind; where two sets share a name, each has its fingerprint in it."""
    if not _versions(outcomes):
        return list(outcomes)
    kind = outcomes[0].spec.kind
    others = (o for part in PARTS if part != kind for o in store.outcomes(part))
    known = _versions([*outcomes, *others])
    return [_renamed(outcome, known) for outcome in outcomes]


def is_called(name: str, asked: str) -> bool:
    """Whether a set goes by the name asked for, be it with its fingerprint or without."""
    return asked in (name, re.sub(r"#[0-9a-f-]+$", "", name))


def name_in(store: Store, name: str, look: Callable[[], str], *, images_only: bool = False) -> str:
    """What results call a user's folder; `look` gives its version, and `images_only` says that
    its table was not named again."""
    known = _versions([o for kind in PARTS for o in store.outcomes(kind)])[name]
    if not known:
        return name
    version = look()
    same = {one for one in known if one == version}
    if images_only and not same:
        same = {one for one in known if one.split("-")[:2] == version.split("-")[:2]}
    if len(same) > 1:
        raise BenchError(
            f"The store has {len(same)} sets of these images, read in different ways.",
            "Name table and columns as in their runs: --metadata, --label, --group.",
        )
    version = next(iter(same), version)
    return _shown(name, version, known | {version})


def _versions(outcomes: Iterable[Outcome]) -> dict[str, set[str]]:
    """The versions of each user's own set, by its name; an official set's has no fingerprint."""
    found: dict[str, set[str]] = defaultdict(set)
    for outcome in outcomes:
        for side in ("source", "target"):
            version = outcome.versions.get(side, "")
            if "-" in version:
                found[getattr(outcome.spec, side)].add(version)
    return found


def _renamed(outcome: Outcome, known: dict[str, set[str]]) -> Outcome:
    spec, versions = outcome.spec, outcome.versions
    names = {
        side: _shown(getattr(spec, side), versions[side], known.get(getattr(spec, side), set()))
        for side in ("source", "target")
        if isinstance(spec, RunSpec | DistanceSpec) and side in versions
    }
    if all(getattr(spec, side) == name for side, name in names.items()):
        return outcome
    return outcome.model_copy(update={"spec": spec.model_copy(update=names)})


def _shown(name: str, version: str, known: set[str]) -> str:
    """The name alone where it says which set is meant, else with a short fingerprint."""
    if len(known) < 2 or "-" not in version:
        return name
    return f"{name}#{'-'.join(part[:6] for part in version.split('-')[1:])}"
