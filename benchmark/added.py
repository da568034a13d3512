"""What a store knows of the images behind weights, by cards of added files and by trainings."""

from typing import Any

from benchmark.files import read_json
from benchmark.store import CARD, PARTS, Store


def behind(store: Store) -> dict[str, dict[str, Any]]:
    """By source, `images` and `origin` of those it was made with, as far as its card says them.

    Of several files under one name that for which the name stands.
    """
    places = (store.root / PARTS["pretrain"] / "current").glob("*.json")
    named = (read_json(path) for path in places)
    current = {(one["source"], one["sha256"]) for one in named}
    found: dict[str, dict[str, Any]] = {}
    for row in store.summaries("pretrain"):
        if not row.versions.get("source", "").startswith("file:"):
            continue
        outcome = store.outcome("pretrain", row.key, brief=True)
        card = read_json(store.kept(outcome, CARD)) if outcome and outcome.status == "ok" else {}
        told = {"images": card.get("images"), "origin": card.get("kind")}
        if card and (card["source"], card["sha256"]) in current:
            found[card["source"]] = {name: fact for name, fact in told.items() if fact}
    return found


def images(store: Store) -> dict[str, float]:
    """How many images were behind each source that was added, where its card says it."""
    return {name: float(told["images"]) for name, told in behind(store).items() if "images" in told}


def seen(store: Store) -> dict[str, float]:
    """How many images each source's weights were made with, be they added or trained here.

    A card tells how many a whole set has, and one may have had a part of it.
    """
    found: dict[str, float] = {}
    for outcome in store.outcomes("pretrain", brief=True):  # of a bundle, they failed: no weights
        if train := outcome.data.get("train"):
            found[outcome.spec.source] = max(float(train), found.get(outcome.spec.source, 0.0))
    return {**found, **images(store)}
