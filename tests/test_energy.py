"""Energy is what a counter says, and nothing where none can be read."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark import metrics
from benchmark.plan import plan
from benchmark.store import Store
from benchmark.train import energy, job


def counter(root: Path, *joules: float) -> None:
    for i, value in enumerate(joules):
        for name in (f"intel-rapl:{i}", f"intel-rapl:{i}:0"):  # a part is counted in its package
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / "energy_uj").write_text(f"{int(value * 1e6)}\n")
            (root / name / "max_energy_range_uj").write_text("100000000\n")


def test_the_packages_of_a_cpu_are_added_and_a_turn_of_the_counter_is_known(tmp_path: Path):
    counter(tmp_path, 10, 95)
    taken = energy.meter(torch.device("cpu"), rapl=tmp_path)
    counter(tmp_path, 12, 98)
    assert taken() == pytest.approx(5)
    counter(tmp_path, 12, 3)  # the second began again at 100
    assert taken() == pytest.approx(10)


def test_where_nothing_counts_there_is_no_number(tmp_path: Path):
    assert energy.meter(torch.device("cpu"), rapl=tmp_path)() is None
    counter(tmp_path, 10)
    taken = energy.meter(torch.device("cpu"), rapl=tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert taken() is None
    assert energy.meter(torch.device("cuda", 7))() is None or torch.cuda.device_count() > 7


def test_a_cell_notes_its_energy_and_what_classes_differ_by(
    runtime: Any, request_tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = request_tiny(fusions=("metadata:logistic",), folds=(0, 1))
    first, second = (planned.cell for planned in plan.make(asked, runtime).cells)
    assert job.run(first, runtime).joules is None
    counter(tmp_path / "rapl", 10)
    monkeypatch.setattr(energy, "RAPL", tmp_path / "rapl")
    outcome = job.run(second, runtime)
    assert outcome.joules == 0
    found = Store(runtime.store).predictions(outcome.key)
    table = metrics.one_vs_rest(found["labels"], found["scores"].astype(float))["macro"]
    assert outcome.over_classes["mcr"] == pytest.approx(table["sensitivity"]["std"], abs=1e-6)
    assert "auroc" not in outcome.over_classes  # of two classes it is no mean


@pytest.mark.gpu
def test_a_gpu_that_works_takes_joules():
    taken = energy.meter(torch.device("cuda"))
    x = torch.randn(4096, 4096, device="cuda")
    for _ in range(200):
        x = (x @ x).clamp(-1, 1)
    torch.cuda.synchronize()
    joules = taken()
    assert joules is not None
    assert 1 < joules < 100_000
