"""What every component keeps, built in or yours; and whether this installation is sound."""

import ast
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark import registry
from benchmark.api import Component, Fusion, Source, Target
from benchmark.data.download import find_root
from benchmark.errors import BenchError, DataMissing, did_you_mean
from benchmark.spec import Recipe, Runtime, Split

if TYPE_CHECKING:
    from packaging.requirements import Requirement

#: Packages that take long to import: a component imports them inside its functions.
HEAVY = ("torch", "torchvision", "timm", "pandas", "h5py", "wfdb", "scipy", "sklearn", "ot")
NAMES = ("benchmark", "sources", "targets", "similarity", "reports")


def check(component: str, kind: str = "") -> Iterator[str]:
    """Hold a component to the contract; a line for each thing that is right, else a BenchError."""
    path = Path(component).resolve() if component.endswith(".py") else None
    name = path.stem if path else component
    kind = kind or _kind_of(name, path)
    found = registry.load(kind, name, path=path)
    file = path or registry.module_file(kind, name.partition(":")[0])
    if file is not None:
        _light(file)
        yield "imports nothing heavy when its card is read"
    _card(found)
    yield f"card: {found.card.title}, version {found.card.version}"
    if isinstance(found, Source):
        yield from _check_source(name, found, path)
    elif isinstance(found, Fusion):
        yield from _check_fusion(found)
    yield f"{kind} '{name}' keeps the contract"


def doctor() -> Iterator[tuple[bool, str]]:
    """Each thing looked at: whether it is right, and what was found."""
    import importlib
    import platform
    from importlib.metadata import metadata, packages_distributions, requires

    from packaging.requirements import Requirement

    python = Requirement(f"Python{metadata('transfer-bench')['Requires-Python']}")
    yield _fits(python, platform.python_version())
    owners = packages_distributions()
    for name in NAMES:
        where = importlib.import_module(name).__file__ or ""
        editable = (
            Path(where).is_relative_to(registry.ROOT)
            and (registry.ROOT / "pyproject.toml").is_file()
        )
        ours = editable or owners.get(name) == ["transfer-bench"]
        yield ours, f"the package `{name}` is ours ({where})"
    for need in map(Requirement, requires("transfer-bench") or ()):
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            yield _fits(need, _installed(need.name))
    yield _torchvision_works()


def _installed(package: str) -> str:
    """Its version, or an empty text."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _fits(need: "Requirement", version: str) -> tuple[bool, str]:
    """Whether what is installed is what is needed, compared as versions are."""
    if not version:
        return False, f"{need.name} is not installed; install transfer-bench again"
    fits = need.specifier.contains(version, prereleases=True)
    return fits, f"{need.name} {version}" + ("" if fits else f", but {need.specifier} is needed")


def data_sets(data: Path) -> Iterator[str]:
    """Every data set, and whether it is there."""
    for kind in ("source", "target"):
        for name in registry.names(kind):
            component = registry.load(kind, name)
            assert isinstance(component, Source)
            yield f"{name:12} {_whereabouts(component, data)}{_of_several_labels(name)}"


def _of_several_labels(name: str) -> str:
    """Which variants of a family are multi-label, and of how many labels."""
    found = registry.load("source", name)
    names = [f"{name}:{one}" for one in found.variants if one != "*"] or [name]
    cards = {one: found.card if one == name else registry.load("source", one).card for one in names}
    told = [f"{n} ({c.classes} labels)" for n, c in cards.items() if getattr(c, "multilabel", 0)]
    return f"; multi-label: {', '.join(told)}" if told else ""


def card_lines(name: str) -> Iterator[str]:
    """A card, field by field."""
    card = registry.load("source", name).card
    for field in card.__dataclass_fields__:
        value = getattr(card, field)
        if value in ("", (), None) or field == "pretrain":
            continue
        if isinstance(value, dict):
            for key, text in value.items():
                yield f"{field:12} {key}: {text}"
        else:
            yield f"{field:12} {value}"


def verify(name: str, data: Path, *, offline: bool = False) -> Iterator[str]:
    """Read a whole set image by image: what cannot be read is named, and copies are counted."""
    component = registry.load("source", name)
    assert isinstance(component, Source)
    root = find_root(component, data, offline=offline)
    total, broken, seen = 0, list[str](), dict[str, str]()
    copies = list[str]()
    for sample in component.records(root):
        total += 1
        try:
            _, pixels = component.decode(sample, 32)
        except BenchError as error:
            broken.append(error.what)
            continue
        if pixels in seen:
            copies.append(f"{sample.name} is {seen[pixels]} again")
        seen.setdefault(pixels, sample.name)
    yield f"{total} images, {len(broken)} cannot be read, {len(copies)} are copies of another"
    yield from broken
    yield from copies
    if broken:
        raise BenchError(f"{name} is not whole.", "Get the files named above again.")


def _kind_of(name: str, path: Path | None) -> str:
    if path is None:
        for kind in ("target", "source", "fusion", "distance"):
            if name.partition(":")[0] in (*registry.names(kind), *registry.plugins(kind)):
                return kind
        known = [n for kind in registry.PACKAGES for n in registry.names(kind)]
        raise BenchError(f"No component named '{name}'.", did_you_mean(name, known))
    found = registry.load("source", name, path=path)
    kinds: tuple[tuple[type[Component], str], ...] = (
        (Target, "target"),
        (Source, "source"),
        (Fusion, "fusion"),
    )
    return next((kind for cls, kind in kinds if isinstance(found, cls)), "distance")


def _light(file: Path) -> None:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        for name in names:
            if name.partition(".")[0] in HEAVY:
                raise BenchError(
                    f"{file.name} imports {name} at its top.",
                    "Import it inside the function that needs it, so that planning stays quick.",
                )


def _card(component: Component) -> None:
    card = component.card
    for field in ("title", "license", "reference") if isinstance(component, Source) else ("title",):
        if not getattr(card, field):
            raise BenchError(f"The card has no {field}.", "A reader must know it: fill it in.")
    if not isinstance(card.version, int) or card.version < 1:
        raise BenchError("The card's version is not a whole number from 1.", "Set it to 1.")
    if isinstance(component, Target):
        both = set(component.card.columns) & set(component.card.forbidden)
        if both:
            raise BenchError(f"The column {both.pop()} is an input and forbidden.", "Choose one.")


def _check_source(name: str, component: Source, path: Path | None) -> Iterator[str]:
    """A miniature is written, read, split and trained on for one step, twice alike."""
    from benchmark.data import prepare, split

    if component.card.given:
        yield "its weights are made by others: there are no images to check"
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        place = root / "data" / (component.card.folders or (name.partition(":")[0],))[0]
        place.mkdir(parents=True)
        component.fake(place, 0)
        runtime = Runtime(data=root / "data", store=root / "store", workers=1, offline=True,
                          paths={name: path} if path else {})  # fmt: skip
        if name.partition(":")[0] == "folder":
            component = registry.load("source", f"folder:{place.name}", given=_own(place))
            name = f"folder:{place.name}"
            runtime = runtime.model_copy(update={"inputs": {name: component.given}})
        prepared = prepare.prepare(name, 32, runtime)
        yield f"{len(prepared.labels)} records of {len(prepared.classes)} classes are read"
        if prepared.multilabel or getattr(component.card, "multilabel", False):
            yield _label_sets(component, prepared)
        again = prepare.prepare(name, 32, runtime.model_copy(update={"store": root / "other"}))
        if again.digest != prepared.digest or not np.array_equal(again.images, prepared.images):
            raise BenchError("Reading the set twice gives two results.", "Seed what is random.")
        yield "reading it twice gives the same"
        how = Split(folds=2, validation=0.0)
        parts = split.split(prepared, how, fold=0)
        yield f"splits by group into {len(parts.train)} and {len(parts.test)}"
        losses = [_one_step(prepared, parts.train[:16]) for _ in range(2)]
        if not np.isfinite(losses[0]) or losses[0] != losses[1]:
            raise BenchError(f"One training step gives the losses {losses}.", "See the images.")
        yield f"one training step: loss {losses[0]:.3f}, the same twice"


def _label_sets(component: Source, prepared: Any) -> str:
    """The card says that labels are sets, and the miniature has every kind of set."""
    said, labels = getattr(component.card, "multilabel", False), prepared.labels
    if not said or not prepared.multilabel:
        raise BenchError(
            "The card and the records disagree on whether an image has one label.",
            "Set `multilabel=True` on the card and give each sample a tuple of its labels.",
        )
    if unknown := {*prepared.classes} - {*getattr(component.card, "labels", ())}:
        raise BenchError(
            f"The card does not list the label '{min(unknown)}'.", "Name all in `labels`."
        )
    several, none = (labels.sum(1) > 1).sum(), (~labels.any(1)).sum()
    if not several or not none:
        raise BenchError(
            f"The miniature has {several} records of several labels and {none} of none.",
            "Let `fake` write both, so that both are tried.",
        )
    return f"multi-label: {several} records have several labels and {none} none"


def _own(place: Path) -> Any:
    from benchmark.spec import Input

    tables = sorted(place.glob("*.csv"))
    return Input(path=place, metadata=tables[0] if tables else None)


def _one_step(prepared, rows: np.ndarray) -> float:
    import torch

    from benchmark.train import loop, network

    torch.manual_seed(0)
    backbone = network.build("resnet18", seed=0)
    arm = registry.load("fusion", "none")
    model = arm.network(backbone, 0, len(prepared.classes), dropout=0.0, options={})
    recipe = Recipe(size=32, epochs=1, batch=len(rows), precision="float32", select="last")
    device = torch.device("cpu")
    inputs = loop.Pixels(
        images=loop.on_device(prepared.images, device),
        record=None,
        recipe=recipe,
        mean=backbone.mean,
        std=backbone.std,
        device=device,
    )
    fit = loop.fit(
        model,
        inputs,
        torch.as_tensor(prepared.labels),
        rows,
        rows[:0],
        recipe,
        classes=len(prepared.classes),
        seed=0,
    )
    return float(fit.history[0]["loss"] or 0.0)


def _check_fusion(arm: Fusion) -> Iterator[str]:
    """A head is built and gives finite logits and gradients, the same for the same seed."""
    import torch

    if arm.card.needs != "pooled":
        yield f"needs {arm.card.needs}: nothing to check on pooled features"
        return
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        options = dict(arm.card.options)
        head = arm.head(64, 5 if arm.card.record else 0, 3, dropout=0.0, options=options)
        features, record = torch.randn(4, 64), torch.randn(4, 5) if arm.card.record else None
        loss = torch.nn.functional.cross_entropy(head(features, record), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        if any(p.grad is None or not p.grad.isfinite().all() for p in head.parameters()):
            raise BenchError("A parameter of the head gets no finite gradient.", "See `head`.")
        found.append(loss.item())
    if not np.isfinite(found[0]) or found[0] != found[1]:
        raise BenchError(f"The head gives the losses {found}.", "Same seed, same numbers.")
    yield f"a head of 64 features and a record: loss {found[0]:.3f}, the same twice"


def _whereabouts(component: Source, data: Path) -> str:
    if component.card.given:
        return "weights made by others"
    if component.given is None and component.variants[:1] == ("*",):
        return "your own"
    try:
        return f"at {find_root(component, data, offline=True)}"
    except DataMissing:
        return (
            "downloads itself" if component.card.files else "not here; `bench data info` says how"
        )


def _torchvision_works() -> tuple[bool, str]:
    """The two must come from one index, or torchvision's operators are not found."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        return False, f"torchvision does not fit this torch ({reason}); install both from one index"
    return True, "torchvision fits this torch"
