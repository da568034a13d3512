"""Draws of rows: averaged over seeds, with the noise of training and of pretraining."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from boards import DRAWS, pretrain, run, shared_draws

from benchmark import stats
from benchmark.spec import Recipe
from benchmark.stats import Estimate
from benchmark.stats.noise import Component, over_folds, over_pretrainings, over_seeds
from benchmark.store import Store
from reports import compare
from reports.distances import Measure
from reports.leaderboard import gains
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import Board
from reports.leaderboard.rows import Row
from reports.mlflow import entry as entries
from reports.page import board_page

SOLVED = {"mode": "frozen", "recipe": Recipe(head="chosen")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def arm(store: Store, values: np.ndarray, source: str = "dtd", **cell) -> None:
    """Cells of an arm: values (seeds, folds), all with the draws of the same patients."""
    spec = cell.pop("spec", {})
    for (seed, fold), value in np.ndenumerate(values):
        draws = value + shared_draws("isic", fold)
        run(store, source=source, seed=seed, fold=fold, folds=values.shape[1], value=float(value),
            draws=draws, spec=spec, **cell)  # fmt: skip


def only(store: Store) -> Board:
    (made,) = leaderboard.boards(store)
    return made


def rows_of(made: Board) -> dict[str, Row]:
    return {row.name: row for row in made.rows}


def noise_in(row: Row) -> np.ndarray:
    """What a row's draws hold beside its patients."""
    patients = np.mean([shared_draws("isic", fold) for fold in range(3)], axis=0)
    assert row.draws is not None and row.headline is not None
    return row.draws - patients - row.headline.value


# --- estimates --------------------------------------------------------------------------------


def simulated(
    rng: np.random.Generator, rows: int, folds: int, seeds: int, sigma: float, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Values (rows, folds, seeds) and draws: patients move a network by `share` beside the rest."""
    shape = (rows, folds, seeds)
    common = rng.normal(0, 0.03, (1, folds, 1))
    values = 0.8 + common + sigma * rng.normal(size=shape) + share * rng.normal(size=shape)
    shared = rng.normal(0, 0.03, (1, folds, 1, 300))
    return values, values[..., None] + shared + share * rng.normal(size=(*shape, 300))


@pytest.mark.parametrize("sigma", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("over", ["seeds", "folds"])
def test_the_share_of_the_patients_is_not_counted_twice(sigma: float, over: str):
    rng = np.random.default_rng(5)
    found = []
    for _ in range(30):
        values, draws = simulated(rng, 6, 5, 3 if over == "seeds" else 1, sigma, share=0.02)
        if over == "seeds":
            parts = [(values[r, k], draws[r, k]) for r in range(6) for k in range(5)]
            found.append(over_seeds(parts).deviation)
        else:
            found.append(over_folds(values[..., 0], draws[..., 0, :]).deviation)
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(sigma, abs=0.008)


def test_the_noise_of_training_is_taken_off_that_of_pretraining():
    rng = np.random.default_rng(6)
    parts = []
    for _ in range(200):
        values = 0.8 + 0.02 * rng.normal(size=6) + 0.01 * rng.normal(size=6)
        parts.append((values, values[:, None] + np.zeros((6, 50))))
    found = over_pretrainings(parts, [0.01**2] * 200, 1000)
    assert found.deviation == pytest.approx(0.02, rel=0.05)
    assert (found.freedom, found.over) == (1000, "pretrainings")


def test_few_degrees_of_freedom_widen_the_noise():
    many, few = (Component(0.01, freedom, "seeds") for freedom in (1000, 4))
    normal, wide = (one.drawn(20_000, 1) * one.doubt(20_000, 2) for one in (many, few))
    assert np.quantile(np.abs(normal), 0.95) == pytest.approx(0.0196, rel=0.05)
    assert np.quantile(np.abs(wide), 0.95) == pytest.approx(0.0278, rel=0.05)  # t of 4


def test_draws_that_leave_a_number_undefined_are_left_out():
    rng = np.random.default_rng(7)
    values, draws = simulated(rng, 6, 5, 1, 0.02, share=0.01)
    gaps = draws.copy()
    gaps[..., :20] = np.nan
    whole, some = (over_folds(values[..., 0], part[..., 0, :]) for part in (draws, gaps))
    assert some.deviation == pytest.approx(whole.deviation, rel=0.1)


# --- rows -------------------------------------------------------------------------------------


def test_seeds_are_averaged_draw_by_draw_and_not_laid_end_to_end(store: Store):
    values = np.tile([0.7, 0.8, 0.9], (2, 1))
    arm(store, values)
    (row,) = only(store).rows
    assert row.draws is not None and row.draws.shape == (DRAWS,)
    assert np.allclose(noise_in(row), 0, atol=1e-12), "seeds that agree have no noise"


def test_seeds_that_differ_widen_a_row_by_its_share_of_their_noise(store: Store):
    rng = np.random.default_rng(1)
    arm(store, 0.8 + 0.05 * rng.normal(size=(8, 3)))
    arm(store, 0.8 + 0.05 * rng.normal(size=(8, 3)), source="imagenet")
    made = only(store)
    ((_, found),) = made.noise.training.items()
    assert isinstance(found, Component)
    assert (found.over, found.freedom) == ("seeds", 42)
    assert found.deviation == pytest.approx(0.05, rel=0.3)
    one, other = (noise_in(row) for row in made.rows)
    assert one.std() == pytest.approx(found.deviation / np.sqrt(24), rel=0.15)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.15
    assert np.array_equal(one, noise_in(only(store).rows[0])), "seeded"


def test_no_interval_goes_beyond_what_the_metric_can_be(store: Store):
    rng = np.random.default_rng(1)
    arm(store, 0.99 - 0.05 * rng.random(size=(8, 3)))
    arm(store, 0.999 - 0.001 * rng.random(size=(8, 3)), source="imagenet")
    highs = [row.headline.high for row in only(store).rows if row.headline]
    assert len(highs) == 2 and max(highs) == 1.0


def test_rows_of_one_file_of_weights_share_its_noise_and_others_do_not(store: Store):
    rng = np.random.default_rng(2)
    keys = {}
    for source in ("dtd", "stl10"):
        for number in range(4 if source == "dtd" else 1):
            key = pretrain(store, source, seed=number)
            keys[source, number] = key
            spec = {"weights": key, "pretrain_seed": number} | SOLVED
            values = np.full((1, 3), 0.8 + 0.05 * rng.normal())
            arm(store, values, source, spec=spec)
            arm(store, values + 0.01, source, fusion="concat", spec=spec)
    arm(store, np.full((1, 3), 0.7), "imagenet", spec=SOLVED)
    made = only(store)
    ((_, found),) = made.noise.pretraining.items()
    assert (found.over, found.freedom) == ("pretrainings", 3)
    noise = {name: noise_in(row) for name, row in rows_of(made).items()}
    assert noise["dtd"].std() == pytest.approx(found.deviation, rel=0.15)
    assert np.array_equal(noise["dtd"].round(9), noise["dtd + concat"].round(9))
    assert np.allclose(noise["imagenet"], 0, atol=1e-12), "weights made by others"
    assert not made.noise.single
    apart = np.corrcoef([noise["dtd"], noise["dtd, pretraining seed 1"], noise["stl10"]])
    assert np.abs(apart[np.triu_indices(3, 1)]).max() < 0.2
    gain = rows_of(made)["dtd + concat"].gains["fusion"].difference
    assert gain.high - gain.low == pytest.approx(0, abs=1e-9)


def test_compare_and_board_tell_the_same_of_the_same_rows(store: Store):
    rng = np.random.default_rng(3)
    for source in ("dtd", "imagenet", "stl10"):
        arm(store, 0.8 + 0.02 * rng.normal(size=(2, 3)), source)
    (pair,) = compare.compare(store, "dtd", "imagenet", sources=["dtd"]).pairs
    gain = rows_of(only(store))["dtd"].gains["imagenet"]
    assert pair.compared == gain
    assert pair.compared.difference.high > pair.compared.difference.value


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "folds", "said"),
    [
        (("dtd",), 1, "unknown: one seed, one fold"),
        (("dtd", "stl10"), 1, "unknown: one seed, one fold"),
        (("dtd",), 3, "unknown: one seed, one row"),
        (("dtd", "stl10"), 3, r"0\.\d{3} over folds"),
    ],
)
def test_noise_that_cannot_be_estimated_is_unknown_and_never_zero(
    store: Store, sources: tuple[str, ...], folds: int, said: str
):
    rng = np.random.default_rng(4)
    for source in sources:
        arm(store, 0.8 + 0.03 * rng.normal(size=(1, folds)), source)
    text = leaderboard.show(store)
    assert re.search(rf"Training noise {said}", text)
    (told,) = json.loads(leaderboard.show(store, format="json"))[0]["noise"]["training"]
    assert (told["deviation"] is None) == said.startswith("unknown")
    assert told["why_unknown"] == said.partition("unknown: ")[2]


def test_both_components_stand_below_the_board_in_json_and_on_the_page(store: Store):
    rng = np.random.default_rng(8)
    for number in range(3):
        key = pretrain(store, "dtd", seed=number)
        spec = {"weights": key, "pretrain_seed": number}
        arm(store, 0.8 + 0.03 * rng.normal(size=(2, 3)), spec=spec)
    text = leaderboard.show(store, format="md")
    found = re.search(
        r"Training noise (\d\.\d{3}) over seeds, pretraining noise (\d\.\d{3}) over pretrainings "
        r"\(standard deviations of AUROC\)\.", text
    )  # fmt: skip
    assert found
    (told,) = json.loads(leaderboard.show(store, format="json"))
    for name, shown in zip(("training", "pretraining"), found.groups(), strict=True):
        (one,) = told["noise"][name]
        assert one["deviation"] == pytest.approx(float(shown), abs=6e-4)
    facts = dict(board_page.of(store, only(store), "x").facts)
    assert facts["Noise"][0] in text.replace("\\", "")


def test_mlflow_is_told_of_the_components_beside_a_correlation(store: Store):
    rng = np.random.default_rng(10)
    for number in range(2):
        spec = {"weights": pretrain(store, "dtd", seed=number), "pretrain_seed": number}
        arm(store, 0.8 + 0.03 * rng.normal(size=(2, 3)), spec=spec)
    for source in ("none", "stl10", "imagenet"):
        arm(store, 0.8 + 0.03 * rng.normal(size=(2, 3)), source)
    made = only(store)
    ((place, group),) = gains.gather([made], "none", "scratch").items()
    near = {(pair.source, "isic"): Estimate(i, i, i, 1) for i, pair in enumerate(group.pairs)}
    how = Measure("otdd", more_is_near=False, values=near, noise=np.nan, about="")
    entry = entries.of_correlation("isic", place, group.pairs, how, group.noise)
    told = {name: value for name, value, _ in entry.metrics}
    ((_, training),), ((_, pretraining),) = (
        part.items() for part in (made.noise.training, made.noise.pretraining)
    )
    assert isinstance(training, Component) and isinstance(pretraining, Component)
    assert training.deviation > 0
    assert told["noise_training"] == pytest.approx(training.deviation)
    assert told["noise_pretraining"] == pytest.approx(pretraining.deviation)


def test_one_pretraining_of_each_source_is_told(store: Store):
    said = "One pretraining of each source: rows rank weights, not sources."
    arm(store, np.full((1, 3), 0.8), "imagenet")
    assert said not in leaderboard.show(store)
    arm(store, np.full((1, 3), 0.8), spec={"weights": pretrain(store, "dtd")})
    assert said in leaderboard.show(store)
    other = pretrain(store, "dtd", seed=1)
    arm(store, np.full((1, 3), 0.7), spec={"weights": other, "pretrain_seed": 1})
    assert said not in leaderboard.show(store)
    long = pretrain(store, "stl10", recipe=Recipe(epochs=99))
    arm(store, np.full((1, 3), 0.6), "stl10", spec={"weights": long})
    assert "One pretraining of stl10, and none of that recipe twice" in leaderboard.show(store)


def test_other_numbers_of_draws_are_not_called_damage(store: Store, recwarn):
    arm(store, np.full((1, 3), 0.8), "imagenet")
    arm(store, np.full((1, 2), 0.8), spec={"split": {"folds": 3}})
    run(store, fold=2, folds=3, value=0.8, draws=np.full(20, 0.8))
    (pair,) = compare.compare(store, "dtd", "imagenet").pairs
    said = f"its cells have 20 and {DRAWS} bootstrap draws"
    assert not pair.paired and said in pair.notes[-1]
    assert not [w for w in recwarn if "damaged" in str(w.message)]
    assert rows_of(only(store))["dtd"].why == (said,)


def test_solved_heads_lend_their_zero_to_no_trained_one(store: Store):
    key = pretrain(store, "dtd")
    rng = np.random.default_rng(9)
    arm(store, np.full((2, 3), 0.8), spec={"weights": key} | SOLVED)
    for fusion in ("film", "metablock"):
        values = 0.8 + 0.05 * rng.normal(size=(1, 3))
        arm(store, values, fusion=fusion, spec={"weights": key} | SOLVED)
    found = {fixed: part for (_, _, fixed), part in only(store).noise.training.items()}
    solved, trained = found[True], found[False]
    assert isinstance(solved, Component) and isinstance(trained, Component)
    assert (solved.deviation, solved.over) == (0.0, "seeds")
    assert trained.deviation > 0.005 and trained.over == "folds"


def test_components_and_ranks_take_arrays_of_any_length():
    values = np.linspace(0.7, 0.8, 4)
    draws = values[:, None] + np.random.default_rng(0).normal(0, 0.002, (4, 50))
    lowest, highest = stats.simultaneous_ranks(values, list(draws))
    assert (lowest, highest) == ([4, 3, 2, 1], [4, 3, 2, 1])


# --- choosing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("headline", ["auroc", "ece"])
def test_the_best_of_equal_rows_reads_too_well_and_its_number_is_corrected(
    store: Store, headline: str
):
    rng = np.random.default_rng(11)
    sign = 1 if headline == "auroc" else -1
    for i in range(8):
        value = 0.5 + 0.002 * i
        for fold in range(3):
            draws = value + shared_draws("isic", fold) + rng.normal(0, 0.03, DRAWS)
            run(store, source=f"s{i}", fold=fold, value=value, draws=draws,
                spec={"headline": headline} | SOLVED)  # fmt: skip
    found = only(store).winner
    assert found is not None and found.name == ("s7" if sign > 0 else "s0")
    # The mean of the largest of eight is 1.42 deviations, of a mean over three folds.
    assert found.excess == pytest.approx(1.42 * 0.03 / np.sqrt(3), rel=0.15)
    best = only(store).rows[0].headline
    assert best is not None
    assert sign * (best.value - found.corrected.value) == pytest.approx(found.excess)
    told = json.loads(leaderboard.show(store, format="json"))[0]["winner"]
    assert told["corrected"]["value"] == pytest.approx(found.corrected.value)
    assert f"best of 8 rows, so its {headline} reads about" in leaderboard.show(store)


def test_a_row_that_is_far_ahead_was_not_chosen_by_chance():
    rng = np.random.default_rng(12)
    values = np.array([0.6, 0.7, 0.9])
    draws = values[:, None] + rng.normal(0, 0.005, (3, 2000))
    assert stats.chosen_excess(values, list(draws)) < 5e-4
    assert stats.chosen_excess(values[:1], list(draws[:1])) == 0
