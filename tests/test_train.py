"""The loop resumes to the same numbers, selects as its recipe says, and refuses nonsense."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.errors import BenchError, Interrupted, NotFinite
from benchmark.spec import Recipe
from benchmark.train import loop, objective, weights

RECIPE = Recipe(epochs=6, batch=16, lr=0.01, threads=1, dropout=0.3, precision="float32")


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.3), nn.Linear(16, 3))

    def forward(self, features, record=None):
        return self.layers(features)


class PlainHead(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 2)

    def forward(self, features, record=None):
        return super().forward(features)


@pytest.fixture
def problem():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = rng.normal(size=(200, 8)).astype(np.float32) + labels[:, None] * 0.7
    inputs = loop.Features(torch.from_numpy(features.astype(np.float32)), None)
    return inputs, torch.from_numpy(labels), np.arange(120), np.arange(120, 160)


def head() -> Head:
    torch.manual_seed(3)
    return Head()


def fit(problem, recipe=RECIPE, **more):
    inputs, labels, rows, val = problem
    model = head()
    found = loop.fit(model, inputs, labels, rows, val, recipe, classes=3, seed=5, **more)
    return model, found


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(
    problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    whole, first = fit(problem)
    path = tmp_path / "last.pt"
    for stop_after in (3, 17, 30):  # steps: in the first, third and fourth epoch
        steps = iter(range(stop_after))

        def check(steps=steps) -> None:
            if next(steps, None) is None:
                raise Interrupted("stop")

        with pytest.raises(Interrupted):
            fit(problem, checkpoint=path, report=loop.Callbacks(check=check))
    resumed, again = fit(problem, checkpoint=path)
    assert again.resumed > 0
    for one, other in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    plain = [{k: v for k, v in h.items() if k != "rate"} for h in first.history]
    assert plain == [{k: v for k, v in h.items() if k != "rate"} for h in again.history]
    assert first.chosen == again.chosen


def test_the_best_epoch_on_validation_is_kept(problem):
    model, found = fit(problem)
    best = max(found.history, key=lambda h: h["val_auroc"])
    assert found.chosen == f"epoch {found.epoch} of 6 by validation AUROC"
    assert found.history[found.epoch - 1]["val_auroc"] == best["val_auroc"]
    inputs, labels, _, val = problem
    scores = loop.predict(model, inputs, torch.as_tensor(val), RECIPE, torch.device("cpu"))
    assert objective.auroc(labels[val].numpy(), scores) == pytest.approx(
        best["val_auroc"], abs=1e-12
    )


def test_of_epochs_with_equal_ranks_the_surest_is_kept(problem):
    """A few validation images are soon in perfect order, long before the network is trained."""
    inputs, labels, rows, _ = problem
    values = inputs.values + 20 * torch.eye(3)[labels] @ torch.ones(3, 8).tril()
    few = (loop.Features(values, None), labels, rows, np.arange(120, 126))
    found = fit(few, RECIPE.model_copy(update={"lr": 0.03}))[1]
    assert found.history[0]["val_auroc"] == 1.0
    assert found.epoch > 1
    short = fit((inputs, *problem[1:]), RECIPE.model_copy(update={"epochs": 60}), patience=2)[1]
    assert len(short.history) == short.epoch + 2 < 60


def test_the_last_epoch_is_kept_where_the_protocol_says_so(problem):
    _, found = fit(problem, RECIPE.model_copy(update={"select": "last"}))
    assert found.chosen == "last epoch of 6"


def test_equal_seeds_give_equal_numbers_and_other_seeds_do_not(problem):
    inputs, labels, rows, val = problem
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(99 + seed)  # the caller's generator must not matter
        model = head()
        found = loop.fit(model, inputs, labels, rows, val, RECIPE, classes=3, seed=seed)
        losses.append(found.history[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_images_say_how_many_epochs_where_they_are_given(problem):
    longer, by_images = fit(problem, RECIPE.model_copy(update={"epochs": 1, "images": 370}))
    plain, by_epochs = fit(problem, RECIPE.model_copy(update={"epochs": 3}))
    assert len(by_images.history) == 3  # of 120 images, so 360 are seen
    rates = [[epoch["lr"] for epoch in found.history] for found in (by_images, by_epochs)]
    assert rates[0] == rates[1]
    assert torch.equal(longer.layers[2].weight, plain.layers[2].weight)


def test_a_loss_that_is_not_finite_ends_the_run(problem):
    with pytest.raises(NotFinite, match="epoch 1"):
        fit(problem, RECIPE.model_copy(update={"lr": 1e38, "optimizer": "sgd"}))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", [1, 1, 1]),
        ("balanced", [10 / (2 * 8), 10 / (2 * 2), 0]),
        ("complement", [0.25 * 2 / 4.25, 4 * 2 / 4.25, 0]),
    ],
)
def test_class_weights(kind: str, expected: list[float]):
    labels = np.array([0] * 8 + [1] * 2)
    found = objective.class_weights(labels, 3, RECIPE.model_copy(update={"class_weights": kind}))
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "share"), [("none", 0.2), ("balanced", 0.5)])
def test_class_weights_are_in_the_loss(kind: str, share: float):
    """Where the features say nothing, the answer is the weighted share of the class."""
    labels, rows = torch.tensor([1, 0, 0, 0, 0] * 8), np.arange(40)
    recipe = RECIPE.model_copy(update={"class_weights": kind, "epochs": 150, "select": "last"})
    model, inputs = PlainHead(), loop.Features(torch.zeros(40, 1), None)
    loop.fit(model, inputs, labels, rows, rows[:0], recipe, classes=2, seed=5)
    scores = loop.predict(model, inputs, torch.as_tensor(rows), recipe, torch.device("cpu"))
    assert scores[:, 1] == pytest.approx(share, abs=0.03)


def test_schedules():
    cosine = RECIPE.model_copy(update={"schedule": "cosine", "epochs": 10})
    assert loop.rate(cosine, 0, 0.0) == pytest.approx(0.01)
    assert loop.rate(cosine, 5, 0.0) == pytest.approx(0.005)
    assert loop.rate(cosine, 9, 1.0) == pytest.approx(0, abs=1e-12)
    step = RECIPE.model_copy(update={"schedule": "step", "milestones": (2, 4), "factor": 0.1})
    assert [round(loop.rate(step, e, 0.5), 8) for e in range(6)] == [
        0.01, 0.01, 0.001, 0.001, 0.0001, 0.0001,
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "size"), [(33, 16), (32, 16), (1, 16), (17, 16), (5, 2)])
def test_no_batch_of_one_beside_others(n: int, size: int):
    cuts = loop.batches(n, size)
    assert [i for a, b in cuts for i in range(a, b)] == list(range(n))
    assert len(cuts) == 1 or all(b - a > 1 for a, b in cuts)


def test_the_checkpoint_of_another_cell_is_not_gone_on_from(problem, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 0.0)
    theirs, mine = tmp_path / "theirs" / "last.pt", tmp_path / "mine" / "last.pt"
    fit(problem, checkpoint=theirs)
    assert fit(problem, checkpoint=theirs)[1].resumed > 0
    mine.parent.mkdir()
    mine.write_bytes(theirs.read_bytes())
    with pytest.warns(UserWarning, match="checkpoint was not used"):
        assert fit(problem, checkpoint=mine)[1].resumed == 0


class Payload:
    """What a pickle of objects could do to whoever reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("reader", ["checkpoint", "weights"])
def test_no_pickle_of_objects_is_ever_run(problem, tmp_path: Path, reader: str):
    path, struck, content = tmp_path / "last.pt", tmp_path / "struck", io.BytesIO()
    torch.save({"epoch": 1, "model": Payload(struck)}, content)
    if reader == "checkpoint":
        path.write_bytes(loop._check(path, content.getvalue()) + b"\n" + content.getvalue())
        with pytest.warns(UserWarning, match="checkpoint was not used: UnpicklingError"):
            fit(problem, checkpoint=path)
    else:
        path.write_bytes(content.getvalue())
        with pytest.raises(BenchError, match="plain tensors"):
            weights.read(path)
    assert not struck.exists()
    content.seek(0)
    torch.load(content, weights_only=False)
    assert struck.exists(), "the payload does nothing, so that this test would show nothing"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_cell_can_begin_anew_and_one_with_a_broken_checkpoint_does(
    runtime, request_tiny, fresh: bool
):
    from benchmark.plan import plan
    from benchmark.store import Store
    from benchmark.train import job as cells

    (planned,) = plan.make(request_tiny(folds=(0,)), runtime).cells
    folder = Store(runtime.store).begin(planned.cell)
    (folder / "last.pt").write_bytes(b"00000000\nno checkpoint")
    outcome = cells.run(planned.cell, runtime.model_copy(update={"fresh": fresh}))
    assert outcome.status == "ok", outcome.failure
    told = [text for text in outcome.warnings if "checkpoint was not used" in text]
    assert len(told) == (0 if fresh else 1)


def test_a_log_that_cannot_be_written_hides_no_failure(runtime, request_tiny):
    """As on a full disk, which stops a cell and its log alike."""
    from benchmark.plan import plan
    from benchmark.store import Store
    from benchmark.train import job

    broken = Path(__file__).parent / "components" / "broken.py"
    runtime = runtime.model_copy(update={"paths": {**runtime.paths, "broken:explode": broken}})
    asked = request_tiny(fusions=("broken:explode",), folds=(0,))
    cell = plan.make(asked, runtime).cells[0].cell
    (Store(runtime.store).of(cell) / "log.txt").mkdir(parents=True)
    failure = job.run(cell, runtime).failure
    assert failure is not None
    assert (failure.kind, failure.log_tail) == ("bug", "")
