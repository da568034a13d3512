"""`bench explain`: pictures of what a finished run looks at, relies on and gains from the record.

Where the picture of a network looks is its class activation map (Grad-CAM: of a linear head on
pooled maps it is the class's weights times the maps).
"""

import json
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmark import metrics, stats
from benchmark.data import prepare
from benchmark.errors import BenchError
from benchmark.explain import last_layer, pictures, record_gain
from benchmark.explain.predict import Trained, find, load
from benchmark.explain.record_gain import arm_title, digest_of, fold_of
from benchmark.files import broken, write
from benchmark.metrics.rates import truth_of
from benchmark.spec import Outcome, Runtime, is_linear
from benchmark.stats import Estimate, defined
from benchmark.store import Store
from benchmark.train import features, finetune
from benchmark.train.context import bootstrap_seed

#: Maps with fewer rows than this show no place: an earlier layer is taken.
LEAST = 4
DRAWS = 200  # of the bootstrap behind an interval
SHUFFLES = 10


class Tested(NamedTuple):
    """The test part of a run, as its network takes it."""

    trained: Trained
    prepared: prepare.Prepared
    rows: np.ndarray
    labels: np.ndarray
    record: np.ndarray | None


class Explanation(NamedTuple):
    """The files written, and why a picture is not among them."""

    files: list[Path]
    notes: list[str]


def explain(
    store: Store,
    run: str,
    runtime: Runtime,
    *,
    out: Path | None = None,
    images: int = 6,
    figures: bool = False,
) -> Explanation:
    """Write every picture that this run allows, as PNG and SVG, with the numbers as JSON.

    `figures` adds the weights of the image alone beside those of this arm, and the record's beside
    those of the other networks (Thomas 2021, Figs 5 and 6).
    """
    outcome = find(store, run)
    folder = out or store.folder("run", outcome.key) / "explain"
    folder.mkdir(parents=True, exist_ok=True)
    plain, fused = record_gain.arms_of(store, outcome)
    files: list[Path] = []
    numbers: dict[str, Any] = {"run": outcome.key}
    notes: list[str] = []

    def attempt(make: Callable[[], Any]) -> Any:
        try:
            return make()
        except BenchError as error:  # one picture less; the others do not need it
            notes.append(str(error))
            return None

    def draw(name: str, make: Callable[[], tuple[Any, dict[str, Any]]]) -> None:
        figure, numbers[name] = attempt(make) or (None, None)
        files.extend(pictures.save(figure, folder, name) if figure else ())

    some = attempt(lambda: record_gain.shown_of(store, outcome)) or record_gain.ALL
    tested = attempt(lambda: _tested(store, outcome, runtime))
    if tested is not None:
        others = [o for o in plain if fold_of(o) == fold_of(outcome) and o.key != outcome.key]
        beside = attempt(lambda: _tested(store, others[0], runtime)) if others else None
        draw("maps", lambda: maps([beside, tested] if beside else [tested], images))
        if is_linear(tested.trained.spec):
            draw("weights", lambda: last_layer.weights(last_layer.read(store, outcome), some))
            if figures and beside is not None:
                arms = [last_layer.read(store, one.trained.outcome) for one in (beside, tested)]
                draw("image_weights", lambda: last_layer.image_weights(arms[0], arms[1], some))
            if figures and tested.record is not None:
                draw("record_weights", lambda: last_layer.across(store, outcome, some))
        else:
            notes.append(f"{tested.trained.spec.fusion} has no linear layer on the record to show.")
        if tested.record is not None:
            draw("importance", lambda: importance(tested))
    draw("classes", lambda: record_gain.by_class(store, plain, fused, some))
    if plain and fused:
        draw("gains", lambda: record_gain.by_metric(store, plain, fused))
    else:
        notes.append("The store has no second arm on the same folds: no gain is shown.")
    write(folder / "explain.json", json.dumps(defined({**numbers, "notes": notes}), indent=1))
    return Explanation(files, notes)


# --- where the network looks ----------------------------------------------------------------


def maps(tested: Sequence[Tested], count: int) -> tuple[Any, dict[str, Any]]:
    """The evidence for the class named, arm beside arm, on chosen test images."""
    main = tested[-1]
    scores = main.trained.work.store.predictions(main.trained.outcome.key)["scores"]
    chosen = choose(main.labels, scores, count)
    names = main.trained.outcome.classes
    pixels = main.prepared.images[main.rows[chosen]]
    found, layers = [], set()
    for one in tested:
        record = None if one.record is None else one.record[chosen]
        inputs = one.trained.inputs(pixels, record)
        x, of_record = inputs.batch(torch.arange(len(chosen)), torch.Generator(), training=False)
        said = torch.from_numpy(one.trained.probabilities(inputs))
        layer = layer_of(one.trained.model, x, of_record)
        heat = activation_maps(one.trained.model, x, of_record, said.argmax(1), layer=layer)
        found.append((heat, said))
        layers.add(layer or "the last maps")
    seen = _cropped(pixels, main.trained.recipe.crop)
    truth = truth_of(main.labels, len(names))
    looks = [
        pictures.Look(
            title=f"test image {row}, true {pictures.few(np.array(names)[truth[row]].tolist())}",
            image=seen[i],
            maps=tuple(heat[i] for heat, _ in found),
            said=tuple(f"{names[int(p[i].argmax())]} {float(p[i].max()):.2f}" for _, p in found),
            right=tuple(bool(truth[row, int(p[i].argmax())]) for _, p in found),
        )
        for i, row in enumerate(chosen.tolist())
    ]
    side = " × ".join(map(str, found[0][0].shape[1:]))
    note = (
        f"Class activation maps (Grad-CAM) of {', '.join(sorted(layers))}, {side} cells. Images:\n"
        f"those the {arm_title(main.trained.spec)} arm was surest of, right and wrong."
    )
    titles = [arm_title(one.trained.spec) for one in tested]
    return pictures.maps(looks, titles, note=note), {"images": chosen.tolist()}


def choose(labels: np.ndarray, scores: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Test rows: the surest right answer of each class in turn for one half, then the surest wrong.

    Equally sure ones are drawn by the seed.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(-scores.max(1)[order], kind="stable")]
    said = scores.argmax(1)[order]
    right = truth_of(labels, scores.shape[1])[order, said]
    by_class = [order[right & (said == k)].tolist() for k in range(scores.shape[1])]
    turns = [rows[i] for i in range(count) for rows in by_class if i < len(rows)]
    wrong = order[~right].tolist()[: count // 2]
    return np.array([*turns[: count - len(wrong)], *wrong], dtype=int)


def activation_maps(
    model: nn.Module,
    images: torch.Tensor,
    record: torch.Tensor | None,
    wanted: torch.Tensor,
    *,
    layer: str = "",
) -> np.ndarray:
    """Grad-CAM float (n, h, w) of the wanted classes (n,), at the last maps or at a named layer."""
    kept: list[torch.Tensor] = []
    net: Any = model
    inner = net.backbone.net.get_submodule(layer)  # of "": the whole network
    with (
        inner.register_forward_hook(lambda module, given, out: kept.append(out)),
        torch.enable_grad(),
    ):
        last = net.maps(images, record)
        at = kept[0] if layer else last
        logits = net.decide(last, record)
        score = logits.gather(1, wanted.to(logits.device)[:, None]).sum()
        (slope,) = torch.autograd.grad(score, at)
    heat = (slope.mean((2, 3), keepdim=True) * at).sum(1).relu().detach().float().cpu().numpy()
    return _as_grid(heat, getattr(net.backbone.net, "num_prefix_tokens", 0))


def layer_of(model: nn.Module, images: torch.Tensor, record: torch.Tensor | None) -> str:
    """The deepest layer whose maps still show a place; "" where the last maps do."""
    shapes: dict[str, tuple[int, ...]] = {}
    net: Any = model
    backbone = net.backbone

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            if isinstance(out, torch.Tensor) and out.ndim == 4:
                shapes.pop(name, None)  # the order is that of their last use
                shapes[name] = tuple(out.shape)

        return hook

    with ExitStack() as hooks, torch.no_grad():
        for name, module in backbone.net.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(note(name)))
        last = net.maps(images[:1], None if record is None else record[:1])
    if backbone.layout != "NCHW" or min(last.shape[2:]) >= LEAST:
        return ""
    large = [name for name, shape in shapes.items() if min(shape[2:]) >= LEAST]
    return large[-1] if large else ""


def _as_grid(heat: np.ndarray, prefix: int) -> np.ndarray:
    """Tokens (n, tokens, 1) of a transformer as the square of patches they stand for."""
    n, rows, columns = heat.shape
    side = math.isqrt(rows - prefix)
    if columns == 1 and side > 1 and side * side == rows - prefix:
        return heat[:, prefix:, 0].reshape(n, side, side)
    return heat


def _cropped(pixels: np.ndarray, crop: Any) -> np.ndarray:
    """The centre that the network saw."""
    height, width = (crop, crop) if isinstance(crop, int) else crop or pixels.shape[1:3]
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return np.asarray(pixels[:, top : top + height, left : left + width])


# --- what it relies on ----------------------------------------------------------------------


def importance(tested: Tested) -> tuple[Any, dict[str, Any]]:
    """What the headline metric loses when one column of the test part's record is shuffled.

    The mean over some shuffles; its interval resamples the test patients.
    """
    trained, rows = tested.trained, tested.rows
    spec, n = trained.spec, len(rows)
    frame = tested.prepared.frame(spec.columns, rows)
    answer = _answers(tested)
    groups = trained.work.store.predictions(trained.outcome.key)["groups"]
    seed = bootstrap_seed(spec.target, spec.split, spec.partition, spec.fold)
    how: Any = {"draws": DRAWS, "seed": seed, "ordinal": spec.headline == metrics.KAPPA}
    assert tested.record is not None

    def judge(scores: np.ndarray) -> tuple[float, np.ndarray]:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            found = metrics.evaluate(tested.labels, scores, groups, **how)
        return found.overall[spec.headline].value, found.draws[spec.headline]

    same = np.arange(n)
    value, draws = judge(answer(same, tested.record))
    sign = 1 if metrics.NAMES[spec.headline].higher_is_better else -1

    def loss(change: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], name: str) -> Estimate:
        rng = np.random.default_rng(finetune.seed_of("shuffle", name))
        found = [judge(answer(*change(rng.permutation(n)))) for _ in range(SHUFFLES)]
        drop = sign * (value - np.mean([one for one, _ in found]))
        return Estimate(
            float(drop), *stats.interval(sign * (draws - np.mean([d for _, d in found], 0))), n
        )

    def of_column(name: str) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        def change(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            shuffled = frame.assign(**{name: frame[name].to_numpy()[order]})
            with warnings.catch_warnings(action="ignore", category=UserWarning):
                record = trained.record(shuffled)
            assert record is not None
            return same, record

        return change

    found = [(name, loss(of_column(name), name)) for name in spec.columns]
    found.sort(key=lambda item: -item[1].value)
    record = tested.record
    found.append(("the whole record", loss(lambda order: (same, record[order]), "record")))
    found.append(("the image", loss(lambda order: (order, record), "image")))
    note = (
        f"{arm_title(spec)} arm, {spec.headline} {value:.3f} on {n} test images.\nMean of "
        f"{SHUFFLES} shuffles; lines: 95 % interval over resampled groups. Grey: it holds zero."
    )
    title = metrics.NAMES[spec.headline].title.partition(" (")[0]
    drawn = pictures.bars(
        found,
        title="What is lost when the test part's values are shuffled\n"
        f"(permutation importance, {title})",
        x_title="loss in percentage points; to the right of 0: the arm relies on it",
        note=note,
    )
    return drawn, dict(found)


def _answers(tested: Tested) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Probabilities of the test images in some order with some records."""
    trained = tested.trained
    pixels = np.asarray(tested.prepared.images[tested.rows])
    if trained.head is None:  # the record acts inside: the images must pass each time
        return lambda order, record: trained.probabilities(trained.inputs(pixels[order], record))
    values = (
        trained.features(trained.inputs(pixels, None))
        if trained.spec.mode == "finetune"
        else features.pooled(trained.work, tested.prepared, trained.recipe, tested.rows)
    )
    return lambda order, record: trained.decide(values[order], trained.work.tensor(record))


# --- what belongs together ------------------------------------------------------------------


def _tested(store: Store, outcome: Outcome, runtime: Runtime) -> Tested:
    """The run's network and the very test part it was judged on."""
    trained = load(store, outcome, runtime)
    spec = trained.spec
    prepared = _prepared(trained)
    rows = finetune.parts_of(trained.work, prepared, spec).test
    labels = store.predictions(outcome.key)["labels"]
    if not np.array_equal(prepared.labels[rows], labels):
        raise BenchError(
            f"The test images of {outcome.key} are not those it was judged on.", "Run it again."
        )
    # The run has told of unseen values.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        record = trained.record(prepared.frame(spec.columns, rows)) if spec.columns else None
    return Tested(trained, prepared, rows, labels, record)


def _prepared(trained: Trained) -> prepare.Prepared:
    """The decoded set: from the data, or, of a user's own folder, the copy in the store."""
    spec, digest = trained.spec, digest_of(trained.outcome)
    runtime = trained.work.runtime
    size = (spec.recipe.size,) * 2 if isinstance(spec.recipe.size, int) else spec.recipe.size
    asked = digest, prepare.CONSTANCY[spec.recipe.constancy], spec.recipe.data
    for path in sorted((runtime.store / "prepared").glob(f"*-{size[0]}x{size[1]}-*/meta.json")):
        if broken(path.parent):
            continue
        meta = json.loads(path.read_text())
        if (meta["digest"], meta.get("constancy"), meta.get("drawn", "")) == asked:
            return prepare.load(path.parent, spec.target)
    prepared = trained.work.prepared(spec.target, spec.recipe)
    if prepared.digest != digest:
        raise BenchError(f"{spec.target} is not what the run saw: its data changed.", "Run again.")
    return prepared
