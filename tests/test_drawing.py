"""How PTB-XL's montages are drawn is asked for by `--set data.…`, and part of every identity."""

from pathlib import Path

import numpy as np
import pytest

from benchmark import registry
from benchmark.cli.options import changes_of
from benchmark.data import prepare
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.plan.request import Request
from benchmark.spec import Cell, RunSpec, Runtime
from benchmark.train.context import Memory, Work


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("drawing")
    registry.load("target", "ptbxl").fake(folder / "data" / "ptbxl", 0)
    return Runtime(data=folder / "data", store=folder / "store", device="cpu", workers=1,
                   offline=True)  # fmt: skip


def cell(runtime: Runtime, **drawing: str) -> Cell:
    asked = Request(targets=("ptbxl",), protocols=("thomas",), modes=("frozen",), data=drawing,
                    recipe={"size": 16})  # fmt: skip
    return plan.make(asked, runtime).cells[0].cell


def test_what_is_usual_keeps_its_key_and_everything_else_has_its_own(runtime: Runtime):
    usual = cell(runtime)
    assert cell(runtime, boundary="reflection", scaling="lead").key == usual.key
    others = [cell(runtime, **{n: v}).key for n, v in (("boundary", "half"), ("wavelet", "morl"),
                                                       ("scaling", "joint"))]  # fmt: skip
    assert len({usual.key, *others}) == 4
    assert changes_of(["data.boundary=half"]) == {"data.boundary": "half"}


@pytest.mark.parametrize(
    ("target", "drawing", "message"),
    [
        ("ptbxl", {"boundry": "half"}, "no setting data.boundry"),
        ("ptbxl", {"boundary": "zero"}, "data.boundary is zero"),
        ("isic", {"boundary": "half"}, "no setting data.boundary"),
    ],
)
def test_unknown_settings_are_refused_in_the_plan(
    target: str, drawing: dict[str, str], message: str, runtime: Runtime
):
    with pytest.raises(BenchError, match=message):
        plan.make(Request(targets=(target,), data=drawing), runtime)


def test_another_drawing_is_another_prepared_array_of_the_same_records(
    runtime: Runtime, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    found: dict[str, prepare.Prepared] = {}
    for value in ("lead", "joint"):
        one = cell(runtime, scaling=value)
        assert isinstance(one.spec, RunSpec)
        work = Work(one, runtime, None, None, None, Memory())  # type: ignore[arg-type]
        found[value] = work.prepared("ptbxl", one.spec.recipe)
    lead, joint = found["lead"], found["joint"]
    assert not np.array_equal(lead.images, joint.images)
    assert lead.digest == joint.digest
    assert lead.made != joint.made
    assert len(lead.labels) == 55
    assert "PTB-XL: 55 of 75 records have one superclass" in capsys.readouterr().err
