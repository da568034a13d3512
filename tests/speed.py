"""`make speed`: ratios measured side by side in one run, against what they must reach.

A ratio holds when the machine's speed drifts; a bare second does not. Name checks to run only
those: `python tests/speed.py plan lookup`.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))


class Measured(NamedTuple):
    """A figure and what it must reach: at least `bound`, or at most where `most`."""

    what: str
    value: float
    bound: float
    most: bool = False

    @property
    def reached(self) -> bool:
        return self.value <= self.bound if self.most else self.value >= self.bound


def loop() -> Iterator[Measured]:
    """Our training loop beside a bare loop fed with one ready tensor (ResNet50, 64 px, CPU)."""
    import numpy as np
    import torch

    from benchmark import registry
    from benchmark.spec import Augment, Recipe
    from benchmark.train import loop as train
    from benchmark.train import network

    torch.set_num_threads(2)
    augment = Augment(rotation=10, shift=0.1, horizontal=True)
    recipe = Recipe(size=64, epochs=1, batch=32, threads=2, select="last", augment=augment)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (128, 64, 64, 3), dtype=np.uint8)
    labels = torch.as_tensor(rng.integers(0, 2, 128))
    backbone = network.build("resnet50", seed=0)
    arm = registry.load("fusion", "none")
    model = arm.network(backbone, 0, 2, dropout=0.5, options={})
    inputs = train.Pixels(
        images=torch.from_numpy(pixels),
        record=None,
        recipe=recipe,
        mean=backbone.mean,
        std=backbone.std,
        device=torch.device("cpu"),
    )
    rows = np.arange(128)

    def ours() -> None:
        train.fit(model, inputs, labels, rows, rows[:0], recipe, classes=2, seed=0)

    x, _ = inputs.batch(torch.arange(32), torch.Generator(), training=False)
    optimizer = train.make_optimizer(model, recipe)

    def bare() -> None:
        model.train()
        for _ in range(4):
            loss = torch.nn.functional.cross_entropy(model(x, None), labels[:32])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    yield Measured("training loop over a bare loop (img/s)", ratio(bare, ours, 7), 0.95)


def prepare() -> Iterator[Measured]:
    """Decoding 10,015 JPEGs of 112 px: processors kept busy, as a share of all there are."""
    import resource

    from benchmark.data import prepare as data
    from benchmark.spec import Runtime

    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _lesions(root / "data" / "many", 10015)
        from benchmark.spec import Input

        where = Input(path=root / "data" / "many")
        runtime = Runtime(store=root / "store", inputs={"folder:many": where})
        before = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        began = time.perf_counter()
        data.prepare("folder:many", 112, runtime)
        wall = time.perf_counter() - began
        after = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(
            a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime
            for a, b in zip(after, before, strict=True)
        )
        yield Measured("images prepared a second", 10015 / wall, 1000)
        yield Measured("processors busy while preparing", cpu / wall / (os.cpu_count() or 1), 0.75)


def plan() -> Iterator[Measured]:
    """A plan of 10,000 cells."""
    from benchmark.plan import plan as plans
    from benchmark.spec import Runtime

    with tempfile.TemporaryDirectory() as folder:
        request = plans.Request(
            sources=("none", "dtd"),
            targets=("isic",),
            fusions=("none", "concat"),
            seeds=tuple(range(500)),
        )
        began = time.perf_counter()
        made = plans.make(request, Runtime(store=Path(folder)))
        took = time.perf_counter() - began
        assert len(made.cells) >= 10000
        yield Measured("seconds to plan 10,000 cells", took, 3.0, most=True)


def lookup() -> Iterator[Measured]:
    """A second look at 1,000 finished cells of usual length."""
    from benchmark.spec import Cell, Outcome, RunSpec
    from benchmark.stats import Estimate
    from benchmark.store import Store

    names = [f"metric{i}" for i in range(24)]
    numbers = {name: Estimate(0.7, 0.6, 0.8, 2000) for name in names}
    history = [{"epoch": i, "loss": 0.5, "lr": 1e-4, "rate": 50.0} for i in range(50)]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for fold in range(1000):
            cell = Cell.of(RunSpec(source="a", target="b", fold=fold), {})
            outcome = Outcome(
                key=cell.key, spec=cell.spec, status="ok", metrics=numbers, history=history,
                per_class=[{"auroc": Estimate(0.7, 0.6, 0.8, 10)}] * 7,
            )  # fmt: skip
            store.finish(cell, outcome)
        began = time.perf_counter()
        assert len(store.outcomes()) == 1000
        took = time.perf_counter() - began
        yield Measured("seconds to look up 1,000 finished cells", took, 1.0, most=True)


def start() -> Iterator[Measured]:
    """The command line's start, in seconds of processor time."""
    for words in (("--help",), ("list",)):
        yield Measured(f"seconds of `bench {words[0]}`", cpu_of(*words), 0.5, most=True)


def heads() -> Iterator[Measured]:
    """Fusion arms on cached features: four more beside the first, which extracts them."""
    import numpy as np

    from benchmark.plan import plan as plans
    from benchmark.spec import Runtime
    from benchmark.train import job as cells
    from benchmark.train.context import Memory

    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(store=Path(folder), device="cpu", workers=1, offline=True)
        request = plans.Request(
            targets=("demo:skin",),
            fusions=("none", "concat", "metanet", "film", "metablock"),
            modes=("frozen",),
            protocols=("demo",),
            folds=(0,),
            recipe={"size": 112, "epochs": 20},
        )
        memory, took = Memory(), {}
        for planned in plans.make(request, runtime).cells:
            outcome = cells.run(planned.cell, runtime, memory=memory)
            assert outcome.status == "ok", outcome.failure
            seconds = outcome.seconds
            took[outcome.spec.fusion] = sum(
                seconds.get(stage, 0.0) for stage in ("features", "encode", "train", "test")
            )
        first, *rest = sorted(took.values(), reverse=True)
        yield Measured(
            "a further arm's time over the first's", float(np.mean(rest)) / first, 0.1, True
        )


def path() -> Iterator[Measured]:
    """Ten penalties beside a trained head: 10,015 images, 2,048 features, 7 classes, a fold."""
    import numpy as np
    import torch

    from benchmark import registry
    from benchmark.spec import Recipe
    from benchmark.train import loop as train
    from benchmark.train.softmax import softmax_path

    rng, n = np.random.default_rng(0), 10015
    labels = rng.choice(7, n, p=np.array([1113, 6705, 514, 327, 1099, 115, 142]) / n)
    hidden = rng.normal(size=(n, 300)) + 0.25 * rng.normal(size=(7, 300))[labels]
    mixing = rng.normal(size=(300, 2048)) * np.arange(1, 301)[:, None] ** -0.6
    values = np.maximum(hidden @ mixing + rng.normal(size=(n, 2048)), 0).astype(np.float32)
    rows, val = np.arange(7200), np.arange(7200, 8012)
    recipe = Recipe(epochs=100, batch=128, optimizer="adamw", lr=1e-3, weight_decay=0.01,
                    schedule="cosine", precision="float32")  # fmt: skip
    balance = train.class_weights(labels[rows], 7, recipe)[labels[rows]]
    head = registry.load("fusion", "none").head(2048, 0, 7, dropout=0.5, options={})
    inputs = train.Features(torch.from_numpy(values), None)
    began = time.process_time()
    train.fit(head, inputs, torch.as_tensor(labels), rows, val, recipe, classes=7, seed=0)
    trained = time.process_time() - began
    began = time.process_time()
    found = softmax_path(values[rows], labels[rows], classes=7, sample_weight=balance)
    for one in found:
        logits = torch.from_numpy(values[val] @ one.weight.T + one.bias)
        train.auroc(labels[val], logits.softmax(1).numpy())
    assert all(one.converged for one in found)
    took = time.process_time() - began
    yield Measured("ten penalties over a trained head (processor time)", took / trained, 2, True)


def batch() -> Iterator[Measured]:
    """Two hundred heads on cached features: what a cell costs beside its training."""
    from benchmark.engine import local
    from benchmark.plan import plan as plans
    from benchmark.spec import Runtime
    from benchmark.store import Store
    from benchmark.train import job as cells
    from benchmark.train.context import Memory

    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(store=Path(folder), device="cpu", workers=1, offline=True)
        requests = [
            plans.Request(
                targets=("demo:skin",), fusions=("concat",), modes=("frozen",), folds=(0,),
                protocols=("demo",), archs=("resnet18",),
                recipe={"epochs": 5, "threads": 1, "lr": 1e-3 * (1 + i / 1000)},
            )
            for i in range(405)
        ]  # fmt: skip
        found = [planned.cell for planned in plans.make(requests, runtime).cells]
        first, alone, here, slotted = found[0], found[1:5], found[5:205], found[205:]
        memory = Memory()
        cells.run(first, runtime, memory=memory)  # extracts the features
        began = time.perf_counter()
        outcomes = [cells.run(cell, runtime, memory=memory) for cell in here]
        wall = time.perf_counter() - began
        taken = {name: sum(o.seconds[name] for o in outcomes) for name in ("train", "bootstrap")}
        rest = 1000 * (wall - sum(taken.values())) / len(here)
        yield Measured("milliseconds a cell of 200 costs beside training", rest, 50, most=True)
        spent = 1000 * taken["bootstrap"] / len(here)
        yield Measured("milliseconds of its bootstrap, not counted there", spent, 1000, most=True)
        began = time.perf_counter()
        assert local.run(slotted, runtime, slots=2, gpus=[])
        batched = time.perf_counter() - began
        assert all(Store(runtime.store).outcome("run", cell.key) for cell in slotted)
        began = time.perf_counter()
        workers = [threading.Thread(target=local.run, args=([cell], runtime)) for cell in alone]
        for pair in (workers[:2], workers[2:]):
            for worker in pair:
                worker.start()
            for worker in pair:
                worker.join()
        each = (time.perf_counter() - began) / len(alone)
        yield Measured("200 cells, a process each over two slots", 200 * each / batched, 5)


def scalograms() -> Iterator[Measured]:
    """ECG scalograms on one core at float32, beside pywt's transform in the same run."""
    import numpy as np
    import pywt

    from benchmark import ecg

    leads = np.random.default_rng(0).normal(size=(12, 1000)).astype(np.float32)

    def transform() -> None:
        ecg.morse_cwt(leads, 100.0)

    def montage() -> None:
        ecg.montage(leads, 100.0, 224)

    rows = len(ecg.morse_cwt(leads[:1], 100.0)[1])
    scales = np.geomspace(2, 200, rows)

    def peer() -> None:
        pywt.cwt(leads, scales, "cmor1.5-1.0", method="fft", axis=-1)

    for name, run, bound in (("transforms", transform, 120), ("montages", montage, 60)):
        run()
        began = time.perf_counter()
        for _ in range(20):
            run()
        yield Measured(f"12-lead {name} a second", 20 / (time.perf_counter() - began), bound)
    yield Measured("transforms over pywt's", ratio(peer, transform, 5), 1.0)


def transport() -> Iterator[Measured]:
    """Gaussian label distances beside dense code of the same mathematics."""
    import speed_similarity

    for name, value in speed_similarity.bench_otdd().items():
        yield Measured(f"label distances: {name}", value, 1000)


def task2vec() -> Iterator[Measured]:
    """Seconds to an embedding within 1e-3 of the exact one, beside the reference's estimator."""
    import speed_similarity

    found = speed_similarity.bench_task2vec()
    yield Measured("the reference's seconds over ours to the exact Fisher", found["task2vec"], 5)


def stores() -> Iterator[Measured]:
    """Readers, plans, the queue and the mirror on a store of 50,000 cells."""
    import speed_store

    for found in speed_store.figures():
        yield Measured(*found)


def cpu_of(*words: str) -> float:
    """The least processor seconds of three runs of `bench`."""
    import resource
    import subprocess

    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "benchmark.cli", *words], check=True, capture_output=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(took)


def ratio(one: Callable[[], None], other: Callable[[], None], pairs: int) -> float:
    """Median over pairs of the time of `one` over that of `other`, run in turn after a warm-up."""
    one()
    other()
    found = []
    for _ in range(pairs):
        times = []
        for run in (one, other):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
        found.append(times[0] / times[1])
    return statistics.median(found)


def _lesions(root: Path, n: int) -> None:
    """n small JPEGs in two class folders."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (root / label).mkdir(parents=True)
    for i in range(n):
        coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
        coarse.resize((112, 112)).save(root / "ab"[i % 2] / f"{i}.jpg", quality=88)


ALL = (
    loop, prepare, plan, lookup, start, heads, path, batch, scalograms, transport, task2vec, stores,
)  # fmt: skip
CHECKS = {check.__name__: check for check in ALL}


def main() -> int:
    missed = 0
    for name in sys.argv[1:] or CHECKS:
        for found in CHECKS[name]():
            sign = "<=" if found.most else ">="
            state = "ok    " if found.reached else "MISSED"
            missed += not found.reached
            sys.stdout.write(f"{state} {found.what}: {found.value:.3g} ({sign} {found.bound:g})\n")
            sys.stdout.flush()
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
