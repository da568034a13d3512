"""From distances asked for to cells, each after the pretraining of the network it looks with."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import product

from benchmark import added, protocols, registry
from benchmark.api import Distance, Ready, SourceCard
from benchmark.data.download import find_root
from benchmark.errors import BenchError
from benchmark.plan.parts import (
    Why,
    known,
    load,
    multilabel,
    options_of,
    pretrain_cell,
    read_version,
    version_of,
)
from benchmark.plan.request import DistanceRequest
from benchmark.spec import CORE_VERSION, Cell, DistanceSpec, Runtime
from benchmark.store import Store
from benchmark.train import archs


def every(kind: str, needs: set[str], arch: str, runtime: Runtime) -> list[str]:
    """The listed sets that methods with these needs can use on this machine.

    Synthetic ones are among them only where there is no other.
    """
    found: list[tuple[str, SourceCard]] = []
    for name in [*registry.names(kind), *(registry.names("target") if kind == "source" else ())]:
        with suppress(BenchError, ImportError, SyntaxError):  # not here, or broken
            one = load(kind, name, runtime)
            looked_at = needs & {"features", "network"} or (kind == "target" and needs != {"card"})
            trained_on = "weights" in needs and kind == "source" and not one.card.given
            if one.variants[:1] == ("*",):  # a user's own, which has to be named
                continue
            if isinstance(one, Ready):  # weights without images, perhaps not added
                if looked_at:
                    continue
                if "weights" in needs:
                    known(name, arch, runtime)
            elif looked_at or trained_on:
                find_root(one, runtime.data, offline=True)
            found.append((name, one.card))
    if not found:
        raise BenchError(
            f"No {kind} can be read on this machine.", "`bench data list` says what is missing."
        )
    real = [name for name, card in found if card.origin != "synthetic"]
    return real or [name for name, _ in found]


def _need_one_class(name: str, method: Distance, sides: dict[str, str], runtime: Runtime) -> str:
    """Why the method cannot take a side whose images have sets of labels, or an empty text."""
    for kind in method.card.one_class:
        if multilabel(load(kind, sides[kind], runtime)):
            return f"{name} takes one class an image, and {sides[kind]} is multi-label"
    return ""


def cells(
    request: DistanceRequest, runtime: Runtime, notes: list[str]
) -> Iterator[tuple[Cell, Why]]:
    """Each distance after the pretraining of the network it looks with; `all` names every set."""
    archs.known(request.arch)
    needs = {load("distance", name, runtime).card.needs for name in request.methods}
    sides = {"source": list(request.sources), "target": list(request.targets)}
    for kind, names in sides.items():
        if "all" in names:
            sides[kind] = every(kind, needs, request.arch, runtime)
            notes.append(f"All {kind}s: {', '.join(sides[kind])}.")
    behind = added.images(Store(runtime.store))
    for name, source, target, seed, pretrain_seed in product(
        request.methods,
        sides["source"],
        sides["target"],
        request.seeds,
        request.pretrain_seeds,
    ):
        method = load("distance", name, runtime)
        assert isinstance(method, Distance)
        versions, why = {"core": CORE_VERSION, "method": version_of("distance", name, runtime)}, ""
        for kind, one in (("source", source), ("target", target)):
            versions[kind], broken = read_version(kind, one, runtime)
            why = why or broken or ""
        # A score looks with the source's own network, a distance with the probe, and some with
        # nothing but the cards.
        own, cards_only = method.card.needs == "weights", method.card.needs == "card"
        named, weights, made = source, None if own or cards_only else request.key or None, 0
        if cards_only and source in behind:
            versions["source"] += f":{behind[source]:.0f}"
        if own:
            arch = load("source", source, runtime).network(request.arch)
            named, versions["source"] = known(source, arch, runtime)
        looks = source if own else "none" if cards_only else request.probe
        arch = "none" if cards_only else request.arch
        if looks != "none":
            arch = load("source", looks, runtime).network(arch)
        if not cards_only:
            why = why or archs.refuses(arch, request.size)
        why = why or _need_one_class(name, method, {"source": source, "target": target}, runtime)
        if weights is None and looks != "none":
            first = pretrain_cell(looks, arch, pretrain_seed, request.pretrain, runtime)
            weights, made = first.key, first.spec.seed
            if not why:
                yield first, ""
        spec = DistanceSpec(
            source=named,
            target=target,
            method=name,
            arch=arch,
            seed=0 if cards_only else seed,
            pretrain_seed=made,
            size=DistanceSpec.model_fields["size"].default if cards_only else request.size,
            limit=None if cards_only else request.limit,
            options=options_of(method, {}, request.options),
            weights=weights,
            split=protocols.load(request.protocol).split if own else None,
        )
        yield Cell.of(spec, versions), why
