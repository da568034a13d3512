"""What `bench recommend --budget` prints, and that it runs one source after the other."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from boards import run, shared_draws

from benchmark.cli import advise
from benchmark.cli.advise import Question
from benchmark.errors import BenchError
from benchmark.plan import plan
from benchmark.plan.request import Request
from benchmark.spec import Failure, RunSpec, Runtime
from benchmark.store import Store

SOURCES = ("imagenet", "dtd", "stl10", "kimia", "cifar10")
WORTH = {"imagenet": 0.80, "dtd": 0.75, "stl10": 0.70, "kimia": 0.65, "cifar10": 0.60}


def put(store: Store, source: str, target: str, value: float, **more: Any) -> None:
    draws = value + shared_draws(target, 0, 0)
    run(store, source=source, target=target, folds=1, value=value, draws=draws, **more)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    for i, target in enumerate(("oasis", "chest_xray", "pcam")):
        for j, source in enumerate(SOURCES):
            put(made, source, target, WORTH[source] + 0.01 * i + 0.005 * ((i * j) % 3))
    return made


def question(**asked: Any) -> Question:
    return Question({"target": "isic", **asked})


def test_the_commands_of_a_plan_can_be_typed(store: Store, tmp_path: Path):
    folder = tmp_path / "my images"
    folder.mkdir()
    asked = {"target": str(folder), "label": "dx", "recipe.epochs": 2, "type": {"age": "numeric"}}
    ask = Question(asked, words=["--store", "my store"])
    found = ask.answer(store, budget=2)
    assert found.target == "folder:my images"
    first, second, third, fourth = advise.commands(ask, found).splitlines()
    assert first == "Run now:"
    assert third.startswith("Then, ")
    words = shlex.split(second)
    assert words[:4] == ["bench", "run", "--source", "imagenet"]
    said = dict(zip(words[2::2], words[3::2], strict=True))
    assert said == {
        "--source": "imagenet", "--target": str(folder), "--label": "dx",
        "--set": "recipe.epochs=2",
        "--type": "age=numeric", "--protocol": "standard", "--mode": "finetune",
        "--arch": "resnet50", "--store": "my store",
    }  # fmt: skip
    assert "--source dtd" in fourth


def test_the_cells_are_those_of_the_command(store: Store, tmp_path: Path):
    ask = question(**{"recipe.epochs": 2})
    requests = ask.pinned(ask.answer(store)).requests("none")
    cells = plan.make(requests, Runtime(store=store.root)).of("to run")
    specs = [planned.cell.spec for planned in cells]
    assert {spec.fold for spec in specs if isinstance(spec, RunSpec)} == {0, 1, 2, 3, 4}
    assert all(isinstance(spec, RunSpec) and spec.recipe.epochs == 2 for spec in specs)
    mine = tmp_path / "mine.py"
    mine.write_text("")
    path = Question({"target": "isic"}, sources=[str(mine)])
    assert f"--source {mine}" in path.command("mine")


def spent(
    store: Store, *, budget: int, results: dict[str, Any], ask: Question | None = None
) -> tuple[int, list[str]]:
    """The exit code and the sources run; a source's result is its score, or what goes wrong."""
    order: list[str] = []

    def make(requests: list[Request], command: str) -> int:
        (source,) = requests[0].sources
        assert f"--source {source}" in command
        order.append(source)
        result = results.get(source, 0.5)
        if isinstance(result, BenchError):
            raise result
        if result == 130:
            return 130
        if isinstance(result, Failure):
            run(store, source=source, target="isic", folds=1, failure=result)
            return 2
        put(store, source, "isic", result)
        return 0

    code = advise.spend(ask or question(), store, budget=budget, run=make)
    return code, order


def test_each_result_is_known_to_the_next_choice(store: Store):
    code, order = spent(store, budget=2, results={"imagenet": 0.8, "dtd": 0.85})
    assert (code, order) == (0, ["imagenet", "dtd"])
    found = question().answer(store, tested=False)
    assert found.run == {"imagenet": pytest.approx(0.8), "dtd": pytest.approx(0.85)}
    assert found.next not in order
    # The same command again goes on: what is done is known and not run again.
    code, more = spent(store, budget=9, results={})
    assert code == 0
    assert sorted(order + more) == sorted(SOURCES)


def test_a_source_without_a_result_is_left_out(store: Store, capsys: pytest.CaptureFixture[str]):
    results = {
        "imagenet": BenchError("No weights.", "Get them."),
        "dtd": Failure(kind="oom", message="too large"),
    }
    code, order = spent(store, budget=4, results=results)
    assert code == 2
    assert order[:2] == ["imagenet", "dtd"]
    assert len(order) == len(set(order)) == 4
    said = capsys.readouterr().err
    assert "No weights. Get them." in said
    assert "dtd gave no result" in said


def test_a_stop_says_what_is_left(store: Store, capsys: pytest.CaptureFixture[str]):
    code, order = spent(store, budget=3, results={"imagenet": 0.8, "dtd": 130, "stl10": 130})
    assert code == 130
    assert len(order) == 2
    assert "2 of the budget are left" in capsys.readouterr().err


def test_a_target_that_nobody_knows_is_refused(store: Store):
    with pytest.raises(BenchError, match="Did you mean isic"):
        Question({"target": "isicc"}).answer(store)
    with pytest.raises(BenchError, match="There is no folder"):
        Question({"target": "./nowhere"}).answer(store)
