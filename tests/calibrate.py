"""How often the verdicts are right, beside their marks: real runs on synthetic sets, simulations.

`make calibrate` runs it all; `--store FOLDER` keeps the runs, which resume.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import calibrate_distances
import calibrate_ranks
import calibrate_record
import numpy as np

from benchmark import stats
from benchmark.store import Store
from reports.leaderboard import noise, table
from reports.leaderboard.arms import Arm, gather, place_of

Figure = tuple[str, float, float, float]  # what, the figure, at least, at most

SEEDS = range(6)
GRID = [
    "--protocol",
    "demo",
    "--arch",
    "test_resnet",
    "--slots",
    "2",
    "--threads",
    "1",
    "--no-keep",
]
SOURCES = [f"--source=patterns:{kind}" for kind in ("near", "middle", "far")]
CUTS = [f"--partition={cut}" for cut in range(3)]
TRAININGS = [f"--seed={seed}" for seed in SEEDS]
PRETRAININGS = [f"--pretrain-seed={seed}" for seed in SEEDS]
FUSED = ["--target=demo:skin", "--fusion=none", "--fusion=concat"]
GATED = [f"--fusion={arm}" for arm in ("film", "metanet", "metablock")]
SHORT = ["--mode=finetune", "--epochs=3"]
#: Six pretrainings of each source and six trainings on the same weights, frozen and fine-tuned.
RUNS = [
    [*PRETRAININGS, "--mode=frozen", *FUSED],
    [*PRETRAININGS, "--mode=frozen", "--target=demo:grey"],
    [*TRAININGS, "--mode=frozen", "--target=demo:skin", *GATED],
    [*PRETRAININGS, *SHORT, *FUSED],
    [*PRETRAININGS, *SHORT, "--target=demo:grey"],
    [*TRAININGS, *SHORT, *FUSED],
    [*TRAININGS, *SHORT, "--target=demo:grey"],
]


def run(store: Path) -> None:
    """What is missing of the real runs."""
    for more in RUNS:
        command = [sys.executable, "-m", "benchmark.cli", "run", f"--store={store}", *GRID]
        subprocess.run([*command, *SOURCES, *CUTS, *more], check=True)


def told_apart(store: Store) -> Iterator[Figure]:
    """Of pairs that differ in nothing but a seed, the share that one test tells apart."""
    places = defaultdict(list)
    for row in table.cells(store):
        places[place_of(row)].append(row.key)
    found: dict[str, list[bool]] = defaultdict(list)
    for keys in places.values():
        _, arms = gather(store, table.read(store, keys))
        by_seed = {seed: [_cells(store, arm, seed) for arm in arms if seed in arm.seeds]
                   for seed in SEEDS}  # fmt: skip
        first = noise.estimate(by_seed[0])
        alike = defaultdict(list)
        for part in by_seed[0]:
            alike[part.arm.identity._replace(pretrain_seed=0)].append(part)
        for who, parts in alike.items():
            if len(parts) == len(SEEDS):
                found[f"pretrainings of a source, {who.mode}"] += _pairs([first] * 6, parts)
        every = noise.estimate([noise.cells_of(store, arm, arm.runs) for arm in arms])
        single = [noise.estimate(parts) for parts in by_seed.values()]
        for arm in arms:
            if arm.seeds == {*SEEDS}:
                parts = [_cells(store, arm, seed) for seed in SEEDS]
                title = f"trainings on the same weights, {arm.identity.mode}, noise known by"
                found[f"{title} seeds"] += _pairs([every] * 6, parts)
                found[f"{title} folds"] += _pairs(single, parts)
    for name, told in sorted(found.items()):
        yield f"told apart at 5 %: {name} ({len(told)} pairs)", float(np.mean(told)), 0.02, 0.07


def _cells(store: Store, arm: Arm, seed: int) -> noise.Cells:
    """Those of one seed, as an arm of its own."""
    runs = tuple(run for run in arm.runs if run.spec.seed == seed)
    return noise.cells_of(store, replace(arm, runs=runs), runs)


def _pairs(known: Sequence[noise.Noise], parts: Sequence[noise.Cells]) -> Iterator[bool]:
    """Whether the single test of two rows tells them apart, for every two."""
    rows = []
    for made, part in zip(known, parts, strict=True):
        value = np.mean([run.outcome.metrics[run.spec.headline].value for run in part.runs])
        rows.append((made.draws(part), float(value)))
    for (x, a), (y, b) in itertools.combinations(rows, 2):
        yield stats.paired_bootstrap(x, y, a, b).p < 0.05


def tell(figures: Iterable[Figure]) -> bool:
    """Print each figure beside its mark, as rows of a table; whether all were reached."""
    reached = True
    for what, figure, low, high in figures:
        fine = low <= figure <= high
        reached &= fine
        mark = f"{low:.0%} to {high:.0%}" if low > 0 else f"at most {high:.0%}"
        mark = f"at least {low:.0%}" if high >= 1 else mark
        sys.stdout.write(f"| {what} | {figure:.1%} | {mark} |{'' if fine else ' missed'}\n")
        sys.stdout.flush()
    return reached


def main() -> int:
    """0 if every verdict is right as often as it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path, help="where the runs are kept")
    parser.add_argument("--runs", action="store_true", help="the real runs alone")
    parser.add_argument("--simulations", action="store_true", help="all but the real runs")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.monotonic()
    sys.stdout.write("| what | came out | mark |\n|---|---|---|\n")
    reached = True
    with tempfile.TemporaryDirectory() as folder:
        store = asked.store or Path(folder)
        if not asked.simulations:
            run(store)
            reached = tell(told_apart(Store(store)))
    for part in () if asked.runs else (calibrate_ranks, calibrate_distances, calibrate_record):
        reached &= tell(part.shown())
    sys.stderr.write(f"{(time.monotonic() - began) / 60:.0f} minutes\n")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
