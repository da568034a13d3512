"""What trains is blind to the test part, weighs classes, and takes no other network's features."""

from pathlib import Path

import numpy as np
import pytest
from stores import run_all

from benchmark.plan import plan
from benchmark.spec import Cell, Failure, Outcome, Runtime
from benchmark.store import Store
from benchmark.train import job as cells

COMPONENTS = Path(__file__).parent / "components"
BLIND, TINY, OFFICIAL = (COMPONENTS / name for name in ("blind.py", "tiny.py", "official.yaml"))
WAYS = [
    ("finetune", "concat", {}),
    ("frozen", "concat", {}),
    ("frozen", "metanet", {}),
    ("frozen", "concat", {"head": "optimum"}),
]


def runtime_of(store: Path, target: Path) -> Runtime:
    paths = {"blind": target, "tiny": TINY}
    return Runtime(store=store, device="cpu", workers=1, offline=True, draws=20, paths=paths)


def run(store: Path, target: Path = BLIND, *, recipe: dict | None = None, **asked) -> list[Outcome]:
    """The cells of a request on the target, run in this process."""
    runtime = runtime_of(store, target)
    request = plan.Request(
        targets=("blind",), archs=("test_resnet",), protocols=(str(OFFICIAL),), recipe=recipe or {},
        **asked,
    )  # fmt: skip
    return run_all(request, runtime)


def scores(store: Path, outcome: Outcome) -> np.ndarray:
    return Store(store).predictions(outcome.key)["scores"]


def learned(store: Path, outcome: Outcome) -> dict[str, object]:
    """All that training left: network, map of the record, and the way there."""
    folder = Store(store).folder("run", outcome.key)
    names = ("weights.safetensors", "encoder.json", "record.json")
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    history = [(h["loss"], h.get("val_auroc")) for h in outcome.history]
    return {**files, "history": history, "chosen": outcome.chosen}


@pytest.mark.parametrize(("mode", "fusion", "recipe"), WAYS)
def test_nothing_that_trains_sees_the_test_part(tmp_path: Path, mode: str, fusion: str, recipe):
    """Other test images, labels and records: the same network, encoder, scale and checkpoint."""
    changed = tmp_path / "blind.py"
    changed.write_text(BLIND.read_text().replace("CHANGED = False", "CHANGED = True"))
    stores = [tmp_path / "one", tmp_path / "other"]
    one, other = (
        run(store, file, recipe=recipe, modes=(mode,), fusions=(fusion,))[0]
        for store, file in zip(stores, (BLIND, changed), strict=True)
    )
    found = learned(stores[0], one)
    assert {"weights.safetensors", "encoder.json", "record.json"} < set(found)
    assert found == learned(stores[1], other)
    assert not np.allclose(scores(stores[0], one), scores(stores[1], other)), "not tested on it"


@pytest.mark.parametrize(("mode", "fusion", "recipe"), WAYS)
def test_classes_weigh_in_the_loss(tmp_path: Path, mode: str, fusion: str, recipe):
    """One image in five is rare: balanced weights raise the probability of that class."""
    rare = []
    for weighing in ("none", "balanced"):
        (outcome,) = run(
            tmp_path, recipe={**recipe, "class_weights": weighing}, modes=(mode,), fusions=(fusion,)
        )
        rare.append(scores(tmp_path, outcome)[:, outcome.classes.index("rare")].mean())
    assert rare[0] + 0.005 < rare[1], rare


def test_a_network_gets_its_own_features_beside_another_ones(tmp_path: Path):
    """Two sources in one store, and in one process, as each alone."""
    small = {"size": 16, "epochs": 1, "batch": 48, "threads": 1}
    asked = {"modes": ("frozen",), "pretrain": small}
    both = {o.spec.source: o for o in run(tmp_path / "both", sources=("tiny", "blind"), **asked)}
    alone = run(tmp_path / "alone", sources=("blind",), **asked)[-1]
    assert alone.key == both["blind"].key
    assert np.array_equal(scores(tmp_path / "both", alone), scores(tmp_path / "alone", alone))
    other = scores(tmp_path / "both", both["tiny"])
    assert not np.array_equal(other, scores(tmp_path / "alone", alone))


def test_a_finished_cell_is_not_run_again_and_a_failed_one_is(tmp_path: Path):
    (done,) = run(tmp_path, modes=("frozen",))
    store, runtime = Store(tmp_path), runtime_of(tmp_path, BLIND)
    cell = Cell(done.key, done.spec, done.versions)
    before = (store.of(cell) / "outcome.json").stat()
    assert cells.run(cell, runtime).seconds == done.seconds
    after = (store.of(cell) / "outcome.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    store.fail(cell, Failure(kind="killed", message="signal 9"))
    assert cells.run(cell, runtime).status == "ok"
