"""Runs one cell: from a spec to a stored outcome, or to a stored reason why there is none."""

import hashlib
import math
import platform
import time
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmark import data, metrics, registry, split, train, weights
from benchmark.api import Fusion, Source
from benchmark.errors import BenchError, Interrupted
from benchmark.metadata import OneHotEncoder, OrdinalEncoder
from benchmark.spec import (
    Cell,
    DistanceSpec,
    Failure,
    Outcome,
    PretrainSpec,
    Recipe,
    RunSpec,
    Runtime,
    Scalar,
    Split,
    canonical,
    seed_of,
)
from benchmark.stats import Estimate
from benchmark.store import Store, build_folder, write

if TYPE_CHECKING:
    from benchmark import network

#: How a source is parted for its own report (Cats Table II): 80/10/10, groups whole.
SOURCE_SPLIT = Split(kind="grouped", folds=1, test=0.1, validation=1 / 9)


class Memory:
    """What the cells of one process share: the last few sets, splits, features and weights."""

    def __init__(self, size: int = 24) -> None:
        self.size = size
        self.items: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The thing of that key, made now if it is not at hand."""
        if key not in self.items:
            self.items[key] = make()
        self.items.move_to_end(key)
        while len(self.items) > self.size:
            self.items.popitem(last=False)
        return self.items[key]


@dataclass
class Work:
    """A cell being run: where its things are, and what it has noted so far."""

    cell: Cell
    runtime: Runtime
    store: Store
    report: train.Report
    device: torch.device
    memory: "Memory"
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.store.of(self.cell)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a stage to the outcome."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began

    def log(self, text: str) -> None:
        """A line for whoever opens the cell's folder."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def outcome(self, **facts: Any) -> Outcome:
        """A success with all that was noted."""
        return Outcome(
            key=self.cell.key,
            spec=self.cell.spec,
            versions=self.cell.versions,
            status="ok",
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            warnings=self.warnings,
            environment=environment(self.device),
            **facts,
        )


def run(
    cell: Cell,
    runtime: Runtime,
    report: train.Report | None = None,
    memory: Memory | None = None,
) -> Outcome:
    """Run a cell unless it is done; whatever happens, the store says how it ended."""
    store = Store(runtime.store)
    done = store.outcome(cell.spec.kind, cell.key)
    if done is not None and done.status != "failed":
        return done
    store.begin(cell)
    work = Work(
        cell, runtime, store, report or train.Report(), device_of(runtime), memory or Memory()
    )
    torch.set_num_threads(_threads(cell))
    began = time.perf_counter()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            outcome = _dispatch(work, cell.spec)
        outcome.seconds["total"] = round(time.perf_counter() - began, 4)
        outcome.warnings.extend(dict.fromkeys(str(warning.message) for warning in caught))
        store.finish(cell, outcome)
    except Exception as error:  # one failure costs one cell: its cause is written down
        work.log(traceback.format_exc())
        return store.fail(cell, failure_of(error, store.log_tail(cell)), seconds=work.seconds)
    return outcome


def _dispatch(work: Work, spec: PretrainSpec | RunSpec | DistanceSpec) -> Outcome:
    if isinstance(spec, PretrainSpec):
        return _pretrain(work, spec)
    if isinstance(spec, RunSpec):
        return _run(work, spec)
    return _distance(work, spec)


def failure_of(error: Exception, log_tail: str = "") -> Failure:
    """The kind of a failure, and a sentence for the user."""
    if isinstance(error, Interrupted):
        return Failure(kind="interrupted", message=str(error))
    if isinstance(error, BenchError):
        return Failure.model_validate({"kind": error.kind, "message": str(error)})
    text = f"{type(error).__name__}: {error}"
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "alloc" in text.lower()
    if memory and (isinstance(error, MemoryError) or "memory" in text.lower()):
        text = f"Out of memory. Lower --batch or --size, or take a larger device. ({text[:200]})"
        return Failure(kind="oom", message=text, log_tail=log_tail)
    return Failure(kind="bug", message=text[:500], log_tail=log_tail)


def _pretrain(work: Work, spec: PretrainSpec) -> Outcome:
    """Train on a source, or fetch weights that others made, and keep them with a card."""
    from benchmark import network

    source = data.source_of(spec.source, work.runtime)
    card = {
        "source": spec.source,
        "arch": spec.arch,
        "title": source.card.title,
        "license": source.card.license,
        "reference": source.card.reference,
        "recipe": spec.recipe.model_dump(mode="json"),
        "seed": spec.seed,
    }
    with work.timed("fetch"):
        state = source.pretrained(spec.arch)
    if state is not None:
        network.load_backbone(network.build(spec.arch, seed=0), state)
        weights.save(work.folder, state, card)
        return work.outcome(chosen="weights made by others")
    recipe = spec.recipe
    prepared = _prepared(work, spec.source, recipe)
    parts = split.split(
        prepared, SOURCE_SPLIT, protocol="pretrain", fold=0, seed=spec.seed, limit=recipe.limit
    )
    backbone = network.build(
        spec.arch, seed=seed_of("init", spec.source, spec.seed), init=recipe.init
    )
    arm = registry.load("fusion", "none")
    model = _on(
        arm.network(backbone, 0, len(prepared.classes), dropout=recipe.dropout, options={}), work
    )
    inputs = _pixels(work, prepared, backbone, recipe, None)
    labels = torch.as_tensor(prepared.labels, device=work.device)
    with work.timed("train"):
        fit = train.fit(
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
    found = {}
    with work.timed("test"):
        for name in ("train", "val", "test"):
            rows = getattr(parts, name)
            scores = train.predict(model, inputs, torch.as_tensor(rows), recipe, work.device)
            found[name] = metrics.evaluate(
                prepared.labels[rows],
                scores,
                prepared.groups[rows],
                draws=work.runtime.draws if name == "test" else 0,
                seed=_bootstrap_seed(spec.source, "pretrain", spec.seed, 0),
            )
    numbers = {
        f"{name}_{metric}": found[name].overall[metric]
        for name in found
        for metric in ("accuracy", "auroc")
    }
    facts = {"digest": prepared.digest, "metrics": {k: v.value for k, v in numbers.items()}}
    weights.save(work.folder, model.state_dict(), {**card, **facts, "classes": prepared.classes})
    return work.outcome(
        metrics=numbers,
        classes=prepared.classes,
        chosen=fit.chosen,
        history=fit.history,
        data=_facts(prepared, parts),
    )


def _run(work: Work, spec: RunSpec) -> Outcome:
    """Train on one fold of a target, and test."""
    target = data.source_of(spec.target, work.runtime)
    arm = registry.load("fusion", spec.fusion, path=work.runtime.paths.get(spec.fusion))
    assert isinstance(arm, Fusion)
    prepared = _prepared(work, spec.target, spec.recipe)
    parts = _split(work, prepared, spec)
    record = None
    if spec.record is not None:
        with work.timed("encode"):
            record = _encode(work, spec, target, prepared, parts)
    options: dict[str, Any] = dict(spec.options)
    facts = _facts(prepared, parts)
    seed = seed_of("train", spec.target, spec.protocol, spec.fold, spec.seed)
    labels = torch.as_tensor(prepared.labels, device=work.device)
    width = 0 if record is None else record.shape[1]
    recipe, classes = spec.recipe, len(prepared.classes)
    init = seed_of("init", spec.target, spec.fold, spec.seed)
    if spec.weights is not None:
        facts["overlap"] = _overlap(work, spec, prepared, parts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("head", init))
        if spec.mode != "finetune":
            with work.timed("features"):
                values = _features(work, spec, prepared)
            inputs: train.Inputs = train.Features(values, _tensor(record, work.device))
            model = arm.head(
                values.shape[1], width, classes, dropout=recipe.dropout, options=options
            ).to(work.device)
        else:
            backbone = _backbone(work, spec, init)
            model = _on(
                arm.network(backbone, width, classes, dropout=recipe.dropout, options=options), work
            )
            inputs = _pixels(work, prepared, backbone, recipe, _tensor(record, work.device))
    with work.timed("train"):
        fit = train.fit(
            model,
            inputs,
            labels,
            parts.train,
            parts.val,
            recipe,
            classes=classes,
            seed=seed,
            checkpoint=work.folder / "last.pt",
            report=work.report,
        )
    with work.timed("test"):
        scores = train.predict(model, inputs, torch.as_tensor(parts.test), recipe, work.device)
    if fit.resumed:
        work.log(f"resumed after epoch {fit.resumed}")
    if work.runtime.keep:
        card = {"key": work.cell.key, "classes": prepared.classes}
        weights.save(work.folder, model.state_dict(), card)
    return _judge(
        work,
        spec,
        target,
        prepared,
        parts,
        scores,
        chosen=fit.chosen,
        history=fit.history,
        data=facts,
    )


def _judge(work, spec: RunSpec, target, prepared, parts, scores, **facts) -> Outcome:
    """Metrics with intervals from the test predictions, which are kept."""
    test = parts.test
    labels, groups = prepared.labels[test], split.linked_groups(prepared)[test]
    seed = _bootstrap_seed(spec.target, spec.protocol, spec.seed, spec.fold)
    with work.timed("bootstrap"):
        found = metrics.evaluate(labels, scores, groups, draws=work.runtime.draws, seed=seed)
        columns = {}
        for name in getattr(target.card, "subgroups", ()):
            if name in prepared.metadata:
                values = prepared.metadata[name][test]
                columns[name] = metrics.age_band(values) if "age" in name else values
        by_group = metrics.subgroups(
            labels, scores, groups, columns, draws=work.runtime.draws, seed=seed
        )
    work.store.save_predictions(
        work.cell, labels=labels, scores=scores, groups=groups, draws=found.draws[spec.headline]
    )
    return work.outcome(
        metrics=found.overall,
        per_class=found.per_class,
        subgroups=by_group,
        classes=prepared.classes,
        **facts,
    )


def _distance(work: Work, spec: DistanceSpec) -> Outcome:
    """Measure how far a source is from a target."""
    from benchmark import distance

    with work.timed("measure"):
        found, facts = distance.measure(spec, work.runtime, work.device, work.memory.get)
    n = int(facts.get("target_images", 0))
    numbers = {"distance": Estimate(found.value, found.low, found.high, n)}
    numbers.update({k: Estimate(v, math.nan, math.nan, n) for k, v in found.facts.items()})
    return work.outcome(metrics=numbers, data=facts, chosen="")


def _prepared(work: Work, name: str, recipe: Recipe) -> data.Prepared:
    def make() -> data.Prepared:
        return data.prepare(name, recipe.size, work.runtime, constancy=recipe.constancy)

    with work.timed("data"):
        return work.memory.get(("set", name, recipe.size, recipe.constancy), make)


def _split(work: Work, prepared: data.Prepared, spec: RunSpec) -> split.Parts:
    def make() -> split.Parts:
        return split.split(
            prepared,
            spec.split,
            protocol=spec.protocol,
            fold=spec.fold,
            seed=spec.seed,
            limit=spec.recipe.limit,
        )

    with work.timed("data"):
        identity = (prepared.digest, spec.protocol, spec.split, spec.fold, spec.seed)
        return work.memory.get(("split", *identity, spec.recipe.limit), make)


def _encode(
    work: Work, spec: RunSpec, target: Source, prepared: data.Prepared, parts: split.Parts
) -> np.ndarray:
    """The record as float32 (N, M), the map fitted on the training part and kept."""
    assert spec.record is not None
    card = target.card
    types = {**target.columns(), **_forced(work, spec.target)}
    schema = {
        "types": {c: types[c] for c in spec.columns if c in types},
        "missing_extra": list(getattr(card, "missing", ())),
    }
    kind = OneHotEncoder if spec.record.encoder == "onehot" else OrdinalEncoder
    encoder = kind(schema, indicator=spec.record.indicator).fit(
        prepared.frame(spec.columns, parts.train)
    )
    rows = np.concatenate([parts.train, parts.val, parts.test])
    found = encoder.transform(prepared.frame(spec.columns, rows)).to_numpy(float)
    if spec.record.standardise:
        seen = found[: len(parts.train)]
        found = (found - seen.mean(0)) / np.where(seen.std(0) > 0, seen.std(0), 1.0)
    write(work.folder / "encoder.json", encoder.to_json())
    values = np.zeros((len(prepared.labels), found.shape[1]), np.float32)
    values[rows] = found
    return values


def _forced(work: Work, target: str) -> dict[str, str]:
    given = work.runtime.inputs.get(target)
    return given.forced if given is not None else {}


def _features(work: Work, spec: RunSpec, prepared: data.Prepared) -> torch.Tensor:
    """Pooled features (N, C) of the frozen network, extracted once and shared by all heads."""
    recipe = spec.recipe
    seed = seed_of("init", spec.seed)  # of a network without weights: one for all folds
    identity = {
        "weights": spec.base or spec.weights or f"random:{seed}",
        "arch": spec.arch,
        "data": prepared.digest,
        "size": recipe.size,
        "crop": recipe.crop,
        "constancy": recipe.constancy,
        "augment": recipe.test_augment and recipe.test_augment.model_dump(mode="json"),
        "precision": recipe.precision,
        "threads": recipe.threads,
    }
    name = hashlib.sha256(canonical(identity).encode()).hexdigest()[:16]
    path = work.store.root / "features" / name / "pooled.npy"

    def build(folder: Path) -> None:
        network_ = _on(_backbone(work, spec, seed), work).eval()
        inputs = _pixels(work, prepared, network_, recipe, None)
        found, generator = [], torch.Generator().manual_seed(train.TEST_SEED)
        with torch.inference_mode():
            for rows in torch.arange(len(prepared.labels)).split(max(recipe.batch, 64)):
                work.report.check()
                x, _ = inputs.batch(rows, generator, training=False)
                with train.autocast(work.device, recipe):
                    found.append(network_.pooled(x).float().cpu())
        np.save(folder / path.name, torch.cat(found).numpy())

    def make() -> torch.Tensor:
        build_folder(path.parent, build)
        return torch.from_numpy(np.load(path)).to(work.device)

    return work.memory.get(("features", name), make)


def _backbone(work: Work, spec: RunSpec, seed: int) -> "network.Backbone":
    """The image network, with the source's weights where there are any."""
    from benchmark import network  # brings timm: seconds that heads on cached features need not pay

    backbone = network.build(spec.arch, seed=seed, init=spec.recipe.init)
    if spec.mode == "tuned":
        assert spec.base is not None
        network.load_backbone(backbone, weights.load(work.store, spec.base, kind="run"))
    elif spec.weights is not None:
        key = spec.weights
        state = work.memory.get(("weights", key), lambda: weights.load(work.store, key))
        network.load_backbone(backbone, state)
    return backbone


def _overlap(work: Work, spec: RunSpec, prepared: data.Prepared, parts: split.Parts) -> int | str:
    """Test images that the source was pretrained on, pixel for pixel; "" where nobody can tell."""
    assert spec.weights is not None
    done = work.store.outcome("pretrain", spec.weights)
    if done is None or not isinstance(done.spec, PretrainSpec) or not done.history:
        return ""

    recipe = done.spec.recipe

    def make() -> np.ndarray:
        source = data.prepare(spec.source, recipe.size, work.runtime, constancy=recipe.constancy)
        return np.unique(source.hashes)

    hashes = work.memory.get(("hashes", spec.weights), make)
    return int(np.isin(prepared.hashes[parts.test], hashes).sum())


def _pixels(
    work: Work,
    prepared: data.Prepared,
    backbone: "network.Backbone",
    recipe: Recipe,
    record: torch.Tensor | None,
) -> train.Pixels:
    return train.Pixels(
        images=work.memory.get(
            ("pixels", prepared.digest, recipe.size, recipe.constancy),
            lambda: train.on_device(prepared.images, work.device),
        ),
        record=record,
        recipe=recipe,
        mean=backbone.mean,
        std=backbone.std,
        device=work.device,
    )


def _facts(prepared: data.Prepared, parts: split.Parts) -> dict[str, Scalar]:
    """What a reader must know of the data behind the numbers."""
    return {
        "digest": prepared.digest,
        "train": len(parts.train),
        "val": len(parts.val),
        "test": len(parts.test),
        "test_groups": len(np.unique(prepared.groups[parts.test])),
        "siblings": round(parts.siblings, 6),
    }


def environment(device: torch.device) -> dict[str, str]:
    """What the numbers were made with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": platform.system(),
    }


def device_of(runtime: Runtime) -> torch.device:
    """The device asked for, or the GPU where there is one."""
    if runtime.device != "auto":
        return torch.device(runtime.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _on(model: torch.nn.Module, work: Work) -> torch.nn.Module:
    """The model on its device; channels_last is how a GPU's convolutions are fastest."""
    if work.device.type == "cuda":
        return model.to(work.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model.to(work.device)


def _tensor(record: np.ndarray | None, device: torch.device) -> torch.Tensor | None:
    return None if record is None else torch.from_numpy(record).to(device)


def _threads(cell: Cell) -> int:
    return 2 if isinstance(cell.spec, DistanceSpec) else cell.spec.recipe.threads


def _bootstrap_seed(target: str, protocol: str, seed: int, fold: int) -> int:
    """Leaves out source and fusion: the draws of two arms belong together."""
    return seed_of("bootstrap", target, protocol, seed, fold)
