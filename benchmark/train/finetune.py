"""One training on one fold of a target, and its test: how each arm comes to its probabilities."""

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmark import metrics, registry
from benchmark.api import Fusion, Source
from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.files import cached_folder
from benchmark.spec import Outcome, RunSpec, canonical, is_solved, seed_of
from benchmark.train import (
    choose,
    features,
    heads,
    loop,
    record_map,
    record_side,
    subgroups,
    trains,
    weights,
)
from benchmark.train.context import Work, bootstrap_seed, facts_of


class Fold(NamedTuple):
    """What every arm of a fold starts from."""

    spec: RunSpec
    target: Source
    arm: Fusion
    prepared: prepare.Prepared
    parts: split.Parts
    record: np.ndarray | None  # float32 (N, M), filled for the rows of the three parts

    @property
    def seed(self) -> int:
        spec = self.spec
        name = Path(spec.protocol).stem  # a file of the user's has its name, not its place
        return seed_of("train", spec.target, name, spec.fold, spec.seed)

    @property
    def init(self) -> int:
        spec = self.spec
        return seed_of("init", spec.target, spec.fold, spec.seed)

    @property
    def inner_seed(self) -> int:
        """Of a cut of the training part: the same for every source, arm and seed."""
        return seed_of("inner", self.spec.target, self.spec.fold)

    @property
    def how(self) -> dict[str, Any]:
        """What the arm's parts are built with."""
        return {"dropout": self.spec.recipe.dropout, "options": self.spec.options}

    @property
    def width(self) -> int:
        return 0 if self.record is None else self.record.shape[1]


class Answer(NamedTuple):
    """Test probabilities (n, K), how they were chosen, the history and the size of training."""

    scores: np.ndarray
    chosen: str
    history: list[dict[str, float | int | None]]
    facts: dict[str, float] | None = None  # numbers trained, of how many; where a network was


def run(work: Work, spec: RunSpec) -> Outcome:
    """Train on one fold of a target, and test."""
    target = prepare.source_of(spec.target, work.runtime)
    arm = registry.load("fusion", spec.fusion, **work.runtime.where(spec.fusion))
    prepared = work.prepared(spec.target, spec.recipe)
    parts = parts_of(work, prepared, spec)
    record = None
    if spec.record is not None:
        with work.timed("encode"):
            gaps = arm.takes_gaps(spec.options)
            record = record_map.encode(work, spec, target, prepared, parts, gaps=gaps)
    fold = Fold(spec, target, arm, prepared, parts, record)
    return judge(work, fold, way(fold)(work, fold))


def way(fold: Fold) -> Callable[[Work, Fold], Answer]:
    """How this arm comes to its probabilities."""
    spec = fold.spec
    if not fold.arm.card.image:
        return _record_alone
    if fold.arm.needs == "probabilities":
        return _combined
    return _solved if is_solved(spec) else _trained


def _trained(work: Work, fold: Fold) -> Answer:
    """The training loop: on the whole network, or on a head over its features."""
    spec, prepared, parts = fold.spec, fold.prepared, fold.parts
    recipe, labels = spec.recipe, torch.as_tensor(prepared.labels, device=work.device)
    make, inputs = network_of(work, fold)
    how: dict[str, Any] = {
        "classes": len(prepared.classes),
        "seed": fold.seed,
        "report": work.report,
    }
    with work.timed("train"):
        if recipe.tune:
            rows = choose.rows_of(prepared, parts, fold.inner_seed)
            model, fit, doubts = choose.rate(
                make, inputs, labels, rows, recipe, folder=work.folder, **how
            )
            work.warnings.extend(doubts)
        elif spec.mode == "finetune" or recipe.head == "trained":
            model, path = make(), work.folder / "last.pt"
            fit = loop.fit(
                model, inputs, labels, parts.train, parts.val, recipe, checkpoint=path, **how
            )
        else:
            rows = choose.rows_of(prepared, parts, fold.inner_seed)
            model, fit, doubts = heads.trained(make, inputs, labels, rows, recipe, **how)
            work.warnings.extend(doubts)
    if fit.resumed:
        work.log(f"resumed after epoch {fit.resumed}")
    facts = trains.counts(model) if spec.mode == "finetune" else None
    trains.merge(model)
    with work.timed("test"):
        test, many = torch.as_tensor(parts.test), prepared.multilabel
        scores = loop.predict(model, inputs, test, recipe, work.device, multilabel=many)
    _keep(work, fold, model.state_dict())
    return Answer(scores, fit.chosen, fit.history, facts)


def network_of(work: Work, fold: Fold) -> tuple[Callable[[], nn.Module], loop.Inputs]:
    """A maker of what this arm trains, and what that is fed with."""
    return (_network if fold.spec.mode == "finetune" else _head)(work, fold)


def _network(work: Work, fold: Fold) -> tuple[Callable[[], nn.Module], loop.Inputs]:
    """A maker of the arm with its image network, and what that is fed with."""
    from benchmark.train.network import seeded

    spec, init = fold.spec, fold.init
    backbone = features.Extractor.of(spec)._replace(seed=init).build(work)

    def make() -> nn.Module:
        # Several are made to choose a learning rate: each begins where the first did.
        own = copy.deepcopy(backbone) if spec.recipe.tune else backbone
        given = {id(parameter) for parameter in own.parameters()}
        with seeded(seed_of("head", init)):
            model = fold.arm.network(own, fold.width, len(fold.prepared.classes), **fold.how)
            trains.choose(model, own, given, spec.recipe)
        return work.put(model)

    return make, work.pixels(fold.prepared, backbone, spec.recipe, fold.record)


def _head(work: Work, fold: Fold) -> tuple[Callable[[], nn.Module], loop.Inputs]:
    """A maker of the arm's head, and the features it is fed with."""
    from benchmark.train.classifier import Standardised
    from benchmark.train.network import seeded

    values = features.pooled(work, fold.prepared, fold.spec.recipe)
    seen = values[torch.as_tensor(fold.parts.train)].double()
    mean, deviation = seen.mean(0).float(), seen.std(0, correction=0).float()
    raw = fold.spec.recipe.head == "trained"

    def make() -> nn.Module:
        with seeded(seed_of("head", fold.init)):
            width, classes = values.shape[1], len(fold.prepared.classes)
            head = fold.arm.head(width, fold.width, classes, **fold.how)
        # To a mean of one: a gate that multiplies tells nothing by features around zero.
        return work.put(head if raw else Standardised(head, mean - deviation, deviation))

    return make, loop.Features(values, work.tensor(fold.record))


def _solved(work: Work, fold: Fold) -> Answer:
    """A logistic regression on [F(X), G(M)], solved on the training part."""
    recipe, prepared, parts = fold.spec.recipe, fold.prepared, fold.parts
    values = linear_inputs(work, fold)
    how: dict[str, Any] = {"classes": len(prepared.classes), "report": work.report}
    with work.timed("train"):
        if recipe.head == "chosen":
            rows = choose.rows_of(prepared, parts, fold.inner_seed)
            found, choice = heads.solved(values, prepared.labels, rows, recipe, **how)
        else:
            found, choice = heads.optimum(values, prepared.labels, parts.train, recipe, **how)
    work.warnings.extend(choice.warnings)
    with work.timed("test"):
        many = prepared.multilabel
        scores = heads.probabilities(found, values[parts.test], multilabel=many)
    # In the form of the trained heads, so that prediction and pictures read one form.
    state = {"output.weight": found.weight, "output.bias": found.bias}
    _keep(work, fold, {name: torch.from_numpy(value).float() for name, value in state.items()})
    return Answer(scores, choice.text, [])


def linear_inputs(work: Work, fold: Fold) -> np.ndarray:
    """[F(X), G(M)] (N, D) of the whole set."""
    values = features.pooled(work, fold.prepared, fold.spec.recipe).cpu().numpy()
    return values if fold.record is None else np.concatenate([values, fold.record], axis=1)


def _record_alone(work: Work, fold: Fold) -> Answer:
    """A model on the record without any image."""
    parts, labels, record = fold.parts, fold.prepared.labels, fold.record
    if record is None:
        raise BenchError(f"{fold.spec.target} has no record.", "Give it one with --metadata.")
    rows = None
    if record_side.chooses(fold.arm):
        rows = choose.rows_of(fold.prepared, parts, fold.inner_seed)
    how = {"classes": len(fold.prepared.classes), "recipe": fold.spec.recipe}
    with work.timed("train"):
        scores, said = record_side.answered(
            fold.arm, record, labels, parts, rows, fold.seed % 2**32, **how
        )
    return Answer(scores, f"{fold.arm.variant} on the record, {said}", [])


def _combined(work: Work, fold: Fold) -> Answer:
    """The image-only run's test probabilities with those of a model on the record."""
    assert fold.spec.base is not None
    return combine(work, fold, work.store.predictions(fold.spec.base)["scores"].astype(np.float64))


def combine(work: Work, fold: Fold, image: np.ndarray) -> Answer:
    """Test probabilities (n, K) of the image with those of a model on the record."""
    side, why = _beside(work, fold)
    record = _record_alone(work, fold._replace(arm=side)).scores
    labels = fold.prepared.labels[fold.parts.train]
    scores = record_side.combined(fold.arm, image, record, side, labels, fold.spec.recipe)
    how = f"{fold.arm.variant} of image {fold.spec.base} and {side.variant} on the record"
    return Answer(scores, f"{how} ({why})", [])


def _beside(work: Work, fold: Fold) -> tuple[Any, str]:
    """The record's arm of a late fusion and why it is this one; test data have no say in it."""
    family, asked = fold.arm.card.beside, str(fold.arm.option(fold.spec.options, "record"))
    if asked != "best":
        return registry.load("fusion", f"{family}:{asked}"), "as asked"
    default = registry.load("fusion", family)
    variants = getattr(default, "candidates", default.variants)
    sides = [registry.load("fusion", f"{family}:{variant}") for variant in variants]
    spec, prepared = fold.spec, fold.prepared
    fit = (family, prepared.digest, spec.record, spec.columns, tuple(spec.types.items()))
    assert fold.record is not None
    record = fold.record
    with work.timed("train"):
        found = work.memory.get(
            ("beside", *fit, fold.parts.train.tobytes(), fold.seed),
            lambda: [
                record_side.held_out(side, prepared, fold.parts.train, record, fold.seed)
                for side in sides
            ],
        )
    if np.isnan(found).any():
        return sides[-1], "too few records to choose by"
    best = int(np.argmax(found))
    told = ", ".join(f"{v} {score:.3f}" for v, score in zip(variants, found, strict=True))
    return sides[best], f"the better by validation AUROC inside the training part: {told}"


def _keep(work: Work, fold: Fold, state: dict[str, torch.Tensor]) -> None:
    """Keep what was trained, for prediction, pictures and `mode: tuned`."""
    if work.runtime.keep:
        card = {"key": work.cell.key, "classes": fold.prepared.classes}
        weights.save(work.folder, state, card)


def judge(work: Work, fold: Fold, answer: Answer, seed: int | None = None) -> Outcome:
    """Metrics with intervals from the kept test predictions; `seed` draws patients not its own."""
    spec, prepared, test = fold.spec, fold.prepared, fold.parts.test
    facts = facts_of(prepared, fold.parts) | (answer.facts or {})
    if spec.weights is not None:
        facts["overlap"] = weights.overlap(work.store, spec.weights, prepared.hashes[test])
    labels, groups = prepared.labels[test], split.linked_groups(prepared)[test]
    if seed is None:
        seed = bootstrap_seed(spec.target, spec.split, spec.partition, spec.fold)
    draws = work.runtime.draws
    with work.timed("bootstrap"):
        how = {"draws": draws, "seed": seed, "ordinal": spec.headline == metrics.KAPPA}
        found = metrics.evaluate(labels, answer.scores, groups, **how)
        columns, doubts = subgroups.of_card(prepared, fold.target)
        tested = subgroups.Tested(test, answer.scores, seed)
        apart = subgroups.measure(prepared, tested, columns, spec.headline, draws)
    work.warnings.extend(doubts)
    subgroups.keep(work.store, work.cell, apart.draws)
    work.store.save_predictions(
        work.cell,
        labels=labels,
        scores=answer.scores,
        groups=groups,
        draws=found.draws[spec.headline],
    )
    return work.outcome(
        metrics=found.overall,
        per_class=found.per_class,
        over_classes=found.over_classes(),
        subgroups=apart.numbers,
        subgroup_sizes=apart.sizes,
        classes=prepared.classes,
        chosen=answer.chosen,
        history=answer.history,
        data=facts,
    )


def parts_of(work: Work, prepared: prepare.Prepared, spec: RunSpec) -> split.Parts:
    """The rows of this fold, cut once for all arms: thousands of groups take seconds to part."""
    identity = {
        "data": prepared.digest,
        "name": prepared.name,
        "split": spec.split.model_dump(mode="json"),
        "partition": spec.partition,
        "fold": spec.fold,
        "train_size": spec.train_size,
        "limit": spec.recipe.limit,
    }
    name = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
    path = work.store.root / "splits" / name / "parts.npz"

    def build(folder: Path) -> None:
        cut = {"fold": spec.fold, "partition": spec.partition, "train_size": spec.train_size}
        found = split.split(prepared, spec.split, limit=spec.recipe.limit, **cut)
        np.savez(folder / path.name, **found._asdict())

    def make() -> split.Parts:
        cached_folder(path.parent, build)
        with np.load(path, allow_pickle=False) as file:
            train_, val, test = (file[part] for part in ("train", "val", "test"))
            return split.Parts(train_, val, test, float(file["siblings"]))

    with work.timed("data"):
        return work.memory.get(("split", name), make)
