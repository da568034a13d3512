"""A column that tells the label, where only the prepared table shows it."""

from pathlib import Path

import numpy as np
import pytest

from benchmark.data import leaks
from benchmark.errors import BenchError
from benchmark.plan import plan, run
from benchmark.spec import RunSpec
from benchmark.store import Store
from tests.conftest import TINY

SITE = '"arm" if rng.random() < 0.5 else "leg"'
AGE = 'f"{age:.0f}", '


@pytest.fixture
def change(runtime, tmp_path: Path):
    """The tiny target with other metadata, given by path."""

    def make(old: str, new: str):
        text = TINY.read_text()
        assert old in text
        (tmp_path / "tiny.py").write_text(text.replace(old, new))
        return runtime.model_copy(update={"paths": {"tiny": tmp_path / "tiny.py"}})

    return make


def test_a_recoded_label_ends_the_run_before_any_worker(change, request_tiny) -> None:
    runtime = change(SITE, '("leg", "arm")[label]')
    asked = request_tiny(fusions=("none", "concat"), folds=(0,))
    with pytest.raises(BenchError, match=r"tells the label \(site: one value is one class") as told:
        run.run(asked, runtime)
    assert "--allow-column site" in told.value.todo
    assert [*Store(runtime.store).outcomes("run")] == []


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [({"allow": ("site",)}, ("site",)), ({"columns": ("age",)}, ()), ({"fusions": ("none",)}, ())],
    ids=["allowed", "not read", "no record"],
)
def test_it_is_used_where_told_and_no_matter_where_it_is_no_input(
    change, request_tiny, changes, allowed
) -> None:
    runtime = change(SITE, '("leg", "arm")[label]')
    made = plan.make(request_tiny(**{"fusions": ("concat",), "folds": (0,), **changes}), runtime)
    (cell,) = [planned.cell for planned in made.cells]
    assert isinstance(cell.spec, RunSpec) and cell.spec.allowed == allowed
    assert run._prepare([cell], runtime, Store(runtime.store)) == ([cell], [])


def test_what_nearly_tells_it_is_said(change, request_tiny, capsys) -> None:
    runtime = change(AGE, 'f"{age + 27 * label:.0f}", ')
    made = plan.make(request_tiny(fusions=("concat",)), runtime)
    cells = [planned.cell for planned in made.cells]
    assert run._prepare(cells, runtime, Store(runtime.store))[0] == cells
    assert capsys.readouterr().err.count("Note: The column age is doubtful: it tells") == 1


def test_a_table_of_innocent_columns_passes() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.choice(list("abcdefg"), 10015), np.arange(10015) // 2
    table = {"age": rng.integers(0, 90, 10015).astype(str), "sex": rng.choice(["f", "m"], 10015)}
    assert leaks.check("isic", table, labels, groups) == []
