"""Makes a source's weights: trains on it, or fetches what others made; both get a card."""

import os

import torch

from benchmark import metrics, registry
from benchmark.data import prepare, split
from benchmark.spec import Outcome, PretrainSpec, Split, seed_of
from benchmark.train import loop, network, weights
from benchmark.train.context import Work, bootstrap_seed, facts_of

#: How a source is parted for its own report (Cats Table II): 80/10/10, groups whole.
SOURCE_SPLIT = Split(kind="grouped", folds=1, test=0.1, validation=1 / 9)
#: Of a source on itself; the cats' Table II weights the classes by their priors.
METRICS = ("accuracy", "auroc", "auroc_weighted")


def run(work: Work, spec: PretrainSpec) -> Outcome:
    """Train on a source, or fetch weights that others made, and keep them with a card."""
    source = prepare.source_of(spec.source, work.runtime)
    card = {
        "source": spec.source,
        "arch": spec.arch,
        "title": source.card.title,
        "license": source.card.license,
        "reference": source.card.reference,
        "recipe": spec.recipe.model_dump(mode="json"),
        "seed": spec.seed,
    }
    if work.runtime.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # what timm fetches with would try for a while
    with work.timed("fetch"):
        state = source.pretrained(spec.arch)
    if state is not None:
        network.load_backbone(network.build(spec.arch, seed=0), state)
        weights.save(work.folder, state, card)
        return work.outcome(chosen="weights made by others")
    recipe = spec.recipe
    prepared = work.prepared(spec.source, recipe)
    parts = split.split(prepared, SOURCE_SPLIT, fold=0, limit=recipe.limit)
    init = seed_of("init", spec.source, spec.seed)
    backbone = network.build(spec.arch, seed=init, init=recipe.init)
    arm = registry.load("fusion", "none")
    with network.seeded(seed_of("head", init)):
        model = arm.network(backbone, 0, len(prepared.classes), dropout=recipe.dropout, options={})
    model = work.put(model)
    inputs = work.pixels(prepared, backbone, recipe)
    labels = torch.as_tensor(prepared.labels, device=work.device)
    with work.timed("train"):
        fit = loop.fit(
            model,
            inputs,
            labels,
            parts.train,
            parts.val,
            recipe,
            classes=len(prepared.classes),
            seed=seed_of("train", spec.source, spec.seed),
            checkpoint=work.folder / "last.pt",
            report=work.report,
        )
    found, groups = {}, split.linked_groups(prepared)
    with work.timed("test"):
        for name in ("train", "val", "test"):
            rows = getattr(parts, name)
            seen, many = torch.as_tensor(rows), prepared.multilabel
            scores = loop.predict(model, inputs, seen, recipe, work.device, multilabel=many)
            found[name] = metrics.evaluate(
                prepared.labels[rows],
                scores,
                groups[rows],
                draws=work.runtime.draws if name == "test" else 0,
                seed=bootstrap_seed(spec.source, SOURCE_SPLIT, 0, 0),
            )
    numbers = {
        f"{name}_{metric}": found[name].overall[metric] for name in found for metric in METRICS
    }
    weights.save_hashes(work.folder, prepared.hashes)
    facts = {"digest": prepared.digest, "metrics": {k: v.value for k, v in numbers.items()}}
    weights.save(work.folder, model.state_dict(), {**card, **facts, "classes": prepared.classes})
    return work.outcome(
        metrics=numbers,
        classes=prepared.classes,
        chosen=fit.chosen,
        history=fit.history,
        data=facts_of(prepared, parts),
    )
