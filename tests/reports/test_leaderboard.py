"""Boards: what may be averaged, what may be ranked, and what a reader is told of the rest."""

import csv
import io
import json
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from boards import CLASSES, DRAWS, fill, pretrain, run, shared_draws

from benchmark import stats
from benchmark.errors import BenchError, plain
from benchmark.files import write
from benchmark.spec import Cell, Failure, Recipe, RunSpec, Split
from benchmark.stats import Estimate
from benchmark.store import FILE, Store
from reports.leaderboard import best
from reports.leaderboard import table as leaderboard
from reports.leaderboard.board import Board, ranked
from reports.leaderboard.rows import Row, pool


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def arm(
    store: Store, value: float, *, folds: int = 3, seeds: tuple[int, ...] = (0,), **cell
) -> None:
    """All cells of an arm whose headline is `value` on every fold, paired with every other arm."""
    for seed in seeds:
        for fold in range(folds):
            shared = shared_draws(cell.get("target", "isic"), fold)
            cell.setdefault("source", "dtd")
            run(store, fold=fold, folds=folds, seed=seed, value=value, draws=value + shared, **cell)


def only(store: Store, **filters) -> Board:
    found = leaderboard.boards(store, **filters)
    assert len(found) == 1
    return found[0]


def row(board: Board, source: str, fusion: str = "none", setting: tuple[str, ...] = ()) -> Row:
    found = [
        r for r in board.rows
        if (r.identity.source, r.identity.fusion, r.setting) == (source, fusion, setting)
    ]  # fmt: skip
    assert len(found) == 1, [(r.name, r.why) for r in board.rows]
    return found[0]


def test_the_best_run_to_explain_is_not_one_that_leaks(store: Store):
    cats = {"protocol": "cats", "split": Split(kind="image", folds=3)}
    arm(store, 0.9, spec=cats, data={"siblings": 0.3})
    arm(store, 0.8, spec={"protocol": "demo"})
    arm(store, 0.7)
    arm(store, 0.95, source="isic")  # pretrained on the target itself

    runs = {o.key: o.spec for o in store.outcomes("run") if isinstance(o.spec, RunSpec)}

    def best_with(protocol: str, source: str) -> tuple[str, str]:
        """Only networks that were kept can be explained."""
        for key, spec in runs.items():
            if (spec.protocol, spec.source) == (protocol, source):
                (store.folder("run", key) / FILE).write_bytes(b"")
        spec = runs[best.best_run(store, "isic")]
        return spec.protocol, spec.source

    assert best_with("cats", "dtd") == ("cats", "dtd")
    assert best_with("standard", "isic") == ("standard", "isic"), "of two that leak, ours"
    assert best_with("demo", "dtd") == ("demo", "dtd"), "another protocol, but clean"
    assert best_with("standard", "dtd") == ("standard", "dtd")


def test_known_overlaps_bar_a_source_and_stand_below_the_board(store: Store):
    for source in ("none", "imagenet", "stl10", "folder:HAM10000", "isic"):
        arm(store, 0.7, source=source)
    (made,) = json.loads(leaderboard.show(store, format="json"))
    rows = {row["source"]: row for row in made["rows"]}
    assert rows["folder:HAM10000"]["rank"] is None
    assert (
        "LEAKY: folder:HAM10000 and isic are known to share images"
        in rows["folder:HAM10000"]["why_no_rank"]
    )
    assert rows["isic"]["rank"] is None
    assert rows["stl10"]["rank"] == 1
    assert "Known overlap: imagenet and stl10 share images." in made["overlaps"]
    text = " ".join(leaderboard.show(store).split())
    assert "Known overlap: imagenet and stl10 share images." in text


# --- numbers ----------------------------------------------------------------------------------


def test_a_row_is_the_mean_over_folds_with_the_interval_of_the_averaged_draws(store: Store):
    rng = np.random.default_rng(0)
    draws = [rng.normal(0.8, 0.02, DRAWS) for _ in range(3)]
    made = [run(store, fold=i, value=0.7 + 0.1 * i, draws=draws[i]) for i in range(3)]
    found = only(store).rows[0].headline
    assert found is not None and found.value == pytest.approx(0.8)
    assert found[1:3] == stats.interval(np.mean(draws, axis=0))
    assert found.n == sum(outcome.metrics["auroc"].n for outcome in made)


def test_gains_are_paired_differences_to_scratch_to_imagenet_and_to_the_image_alone(store: Store):
    arm(store, 0.70, source="none")
    arm(store, 0.75, source="imagenet")
    arm(store, 0.78)
    arm(store, 0.80, fusion="concat")
    board = only(store)
    gains = row(board, "dtd").gains
    # The arms share their draws, so the difference has no spread at all.
    assert gains["scratch"].difference[:3] == pytest.approx((0.08, 0.08, 0.08))
    assert gains["imagenet"].difference.value == pytest.approx(0.03)
    assert "fusion" not in gains
    fused = row(board, "dtd", "concat").gains
    assert fused["fusion"].difference.value == pytest.approx(0.02)
    assert set(fused) == {"fusion"}, "no scratch + concat was run to compare it with"
    assert "scratch" not in row(board, "none").gains


def test_the_baseline_can_be_the_target_as_its_own_source(store: Store):
    arm(store, 0.70, source="isic")
    arm(store, 0.78)
    board = only(store, baseline="self")
    assert row(board, "dtd").gains["self"].difference.value == pytest.approx(0.08)
    with pytest.raises(BenchError, match="scratch, self"):
        leaderboard.boards(store, baseline="zero")  # pyright: ignore[reportArgumentType]


def test_folds_narrow_an_interval_of_another_metric_and_seeds_do_not():
    one = {"ece": Estimate(0.10, 0.08, 0.14, 50)}
    folds = pool([0, 0, 0, 0], [one] * 4)["ece"]
    assert folds == pytest.approx((0.10, 0.10 - 0.02 / 2, 0.10 + 0.04 / 2, 200))
    seeds = pool([0, 1, 2, 3], [one] * 4)["ece"]
    assert seeds == pytest.approx((0.10, 0.08, 0.14, 50))


def test_a_second_seed_makes_the_headline_no_narrower(store: Store):
    arm(store, 0.8, source="imagenet", seeds=(0, 1, 2))
    three = only(store).rows[0]
    one = only(store, seeds=[0]).rows[0]
    assert (three.done, one.done) == (9, 3)
    assert three.headline and one.headline
    assert three.headline.n == one.headline.n
    wide, narrow = (e.high - e.low for e in (three.headline, one.headline))
    assert wide == pytest.approx(narrow, rel=0.2)


def test_an_undefined_fold_leaves_the_row_without_value_and_rank(store: Store):
    run(store, fold=0, value=float("nan"), draws=np.full(DRAWS, np.nan))
    arm(store, 0.8, folds=3, source="imagenet")
    run(store, fold=1, value=0.8, draws=shared_draws("isic", 1, 0) + 0.8)
    run(store, fold=2, value=0.8, draws=shared_draws("isic", 2, 0) + 0.8)
    found = row(only(store), "dtd")
    assert found.rank is None and "undefined on a fold" in found.why[0]
    assert (
        json.loads(leaderboard.show(store, format="json"))[0]["rows"][1]["headline"]["value"]
        is None
    )


# --- who may be ranked ------------------------------------------------------------------------


def test_rows_that_cannot_be_told_apart_share_a_rank(store: Store):
    rng = np.random.default_rng(1)
    for source, value in (("a", 0.800), ("b", 0.799), ("c", 0.7)):
        for fold in range(3):
            draws = value + shared_draws("isic", fold, 0) + rng.normal(0, 0.01, DRAWS)
            run(store, source=source, fold=fold, value=value, draws=draws)
    assert [(r.identity.source, r.rank) for r in only(store).rows] == [("a", 1), ("b", 1), ("c", 3)]


def test_a_row_that_lacks_cells_shows_them_and_has_no_rank(store: Store):
    arm(store, 0.7, source="imagenet")
    run(store, fold=0, value=0.99)
    run(store, fold=1, failure=Failure(kind="oom", message="Out of memory."))
    board = only(store)
    found = row(board, "dtd")
    assert (found.done, found.expected, found.rank) == (1, 3, None)
    assert found.why == ("1/3 cells: 1 failed (oom), 1 not run",)
    assert found.gains == {}
    assert board.rows[0].identity.source == "imagenet" and board.rows[0].rank == 1
    assert "1/3" in leaderboard.show(store)


def test_a_skip_is_shown_with_its_reason(store: Store):
    arm(store, 0.7)
    for fold in range(3):
        run(store, fold=fold, fusion="film", skip="isic has no metadata")
    found = row(only(store), "dtd", "film")
    assert found.rank is None and found.headline is None
    assert found.why == ("0/3 cells: 3 skipped (isic has no metadata)",)


def test_limited_runs_have_no_rank_even_among_themselves(store: Store):
    for source in ("imagenet", "dtd"):
        arm(store, 0.8, source=source, spec={"recipe": Recipe(limit=200)})
    board = only(store)
    assert [r.rank for r in board.rows] == [None, None]
    assert all(r.setting == ("limit 200",) for r in board.rows)
    assert all("limited to 200 images" in r.why for r in board.rows)


def test_another_recipe_is_a_row_of_its_own_that_says_what_differs(store: Store):
    arm(store, 0.8)
    arm(store, 0.7, source="imagenet")
    arm(store, 0.9, spec={"recipe": Recipe(epochs=3, lr=0.01)})
    board = only(store)
    found = row(board, "dtd", setting=("epochs 3", "lr 0.01"))
    assert found.rank == 1 and found.headline and found.headline.value == pytest.approx(0.9)
    assert row(board, "dtd").headline.value == pytest.approx(0.8)  # pyright: ignore[reportOptionalMemberAccess]
    assert "scratch" not in found.gains and "imagenet" not in found.gains


def test_options_and_columns_of_a_fusion_make_rows(store: Store):
    arm(store, 0.80, fusion="concat", spec={"options": {"layers": 1}})
    arm(store, 0.79, fusion="concat", spec={"options": {"layers": 1}}, source="imagenet")
    arm(store, 0.81, fusion="concat", spec={"options": {"layers": 2}})
    arm(store, 0.78, fusion="concat", spec={"options": {"layers": 1}, "columns": ("age",)})
    board = only(store)
    assert row(board, "dtd", "concat", ("layers 2",)).rank == 1
    assert row(board, "dtd", "concat", ("columns age",)).done == 3


NINE = tuple(f"examination {i} of the eye" for i in range(9))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (NINE[:8], f"without {NINE[8]}"),
        (NINE[:2], f"columns {NINE[0]}, {NINE[1]}"),
        (("other",), "columns other"),
    ],
)
def test_the_usual_columns_are_named_once_and_rows_by_what_differs(store: Store, columns, said):
    arm(store, 0.80, fusion="concat", spec={"columns": NINE})
    arm(store, 0.79, fusion="film", spec={"columns": NINE})
    arm(store, 0.90, fusion="concat", spec={"columns": columns})
    arm(store, 0.91, fusion="concat", source="imagenet", spec={"columns": columns})
    board = only(store)
    assert board.columns == NINE
    assert row(board, "dtd", "film").setting == row(board, "dtd", "concat").setting == ()
    assert row(board, "dtd", "concat", (said,)).done == 3
    text = leaderboard.show(store, format="md")
    assert text.count(", ".join(NINE)) == 1
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) < 200


def test_an_older_target_version_or_other_data_are_shown_without_a_rank(store: Store):
    arm(store, 0.9, versions={"target": "1"})
    arm(store, 0.9, source="imagenet", versions={"target": "1"})
    arm(store, 0.7, versions={"target": "10"})
    arm(store, 0.8, source="stl10", versions={"target": "10"}, data={"digest": "ffff000011112222"})
    arm(store, 0.6, source="none", versions={"target": "10"})
    board = only(store)
    assert [(r.identity.source, r.rank) for r in board.rows[:2]] == [("dtd", 1), ("none", 2)]
    old = next(r for r in board.rows if r.identity.source == "imagenet")
    assert old.why == ("target version 1, not 10",) and old.gains == {}
    other = row(board, "stl10")
    assert other.why == ("other data (ffff0000, not 01234567)",) and other.gains == {}
    assert board.versions["target"] == "10"


def test_an_older_fusion_or_source_does_not_mix_with_the_newer(store: Store):
    arm(store, 0.8, fusion="film", versions={"fusion": "1"})
    arm(store, 0.7, fusion="film", versions={"fusion": "2"})
    ranks = {r.identity.fusion_version: (r.rank, r.why) for r in only(store).rows}
    assert ranks == {"1": (None, ("fusion version 1, not 2",)), "2": (1, ())}


def test_a_source_that_is_the_target_or_holds_its_test_images_is_leaky(store: Store):
    arm(store, 0.95, source="isic")
    arm(store, 0.94, source="ham", data={"overlap": 4})
    arm(store, 0.80, source="imagenet", data={"overlap": ""})
    board = only(store)
    assert row(board, "isic").why == ("LEAKY: pretrained on the target itself",)
    assert row(board, "ham").why == ("LEAKY: 12 test images are in the source",)
    assert row(board, "imagenet").rank == 1


def test_a_column_that_was_allowed_is_leaky(store: Store):
    arm(store, 0.99, fusion="concat", spec={"columns": ("code",), "allowed": ("code",)})
    arm(store, 0.80, fusion="concat", spec={"columns": ("age",)})
    found = {r.identity.allowed: (r.rank, r.leaky, r.why) for r in only(store).rows}
    told = ("LEAKY: code tells the label (--allow-column)",)
    assert found == {("code",): (None, True, told), (): (1, False, ())}


def test_a_leaky_protocol_has_a_board_of_its_own_with_its_sibling_rate(store: Store):
    arm(store, 0.8)
    cats = {"protocol": "cats", "split": Split(kind="image", folds=3)}
    arm(store, 0.9, source="imagenet", spec=cats, data={"siblings": 0.35})
    leaky, clean = leaderboard.boards(store)
    assert (leaky.protocol, leaky.leaky, leaky.siblings) == ("cats", True, pytest.approx(0.35))
    assert (clean.protocol, clean.leaky) == ("standard", False)
    assert [len(board.rows) for board in (leaky, clean)] == [1, 1]
    text = leaderboard.show(store)
    assert "LEAKY: 35% of test images have a sibling in train" in text


def test_an_arm_on_the_record_alone_is_one_row_for_all_sources(store: Store):
    arm(store, 0.6, source="none", fusion="metadata:boosting")
    arm(store, 0.7, source="none")
    arm(store, 0.8, source="imagenet")
    found = row(only(store), "none", "metadata:boosting")
    assert found.rank == 3 and found.gains == {} and found.name == "metadata:boosting"


def test_a_seed_that_one_row_lacks_costs_its_rank_and_a_filter_brings_it_back(store: Store):
    arm(store, 0.8, source="imagenet", seeds=(0, 1))
    arm(store, 0.7, seeds=(0,))
    found = row(only(store), "dtd")
    assert found.rank is None and found.why == ("3/6 cells: 3 not run",)
    assert row(only(store, seeds=[0]), "dtd").rank == 2


def test_another_pretraining_of_a_source_is_a_row_of_its_own(store: Store):
    usual, short = pretrain(store, "dtd"), pretrain(store, "dtd", recipe=Recipe(epochs=2))
    arm(store, 0.8, spec={"weights": usual})
    arm(store, 0.8, spec={"weights": usual}, fusion="concat")
    arm(store, 0.7, spec={"weights": short})
    board = only(store)
    assert row(board, "dtd", setting=("pretrained with epochs 2",)).rank == 3
    assert row(board, "dtd").setting == ()


def test_seeds_pretrain_apart_and_are_still_one_row(store: Store):
    for seed in (0, 1):
        key = pretrain(store, "dtd", seed=seed)
        arm(store, 0.8, seeds=(seed,), spec={"weights": key})
    assert only(store).rows[0].done == 6


def test_cells_that_differ_in_nothing_known_are_never_averaged(store: Store):
    arm(store, 0.8, spec={"weights": "gone-1"})
    arm(store, 0.6, spec={"weights": "gone-2"})
    values = [r.headline.value for r in only(store).rows if r.headline]
    assert values == pytest.approx([0.8, 0.6])


def test_lost_predictions_and_other_numbers_of_draws_cannot_be_ranked(store: Store):
    arm(store, 0.8, source="imagenet")
    arm(store, 0.8, source="stl10")
    arm(store, 0.9)
    for path in (store.root / "runs").glob("*/*/predictions.npz"):
        spec = json.loads((path.parent / "spec.json").read_text())["spec"]
        if spec["source"] == "dtd" and spec["fold"] == 1:
            path.write_bytes(b"not a zip")
    for fold in range(3):
        run(store, source="pcam", fold=fold, value=0.8, draws=np.full(20, 0.8))
    board = only(store)
    (why,) = row(board, "dtd").why
    assert why.startswith("its predictions are gone or damaged")
    assert row(board, "dtd").headline is not None
    assert row(board, "pcam").why == (f"20 bootstrap draws, not {DRAWS}",)
    assert [row(board, s).rank for s in ("imagenet", "stl10")] == [1, 1]


def test_one_changed_number_of_an_outcome_without_checksums_costs_the_rank(store: Store):
    arm(store, 0.9)
    first = store.outcomes()[0].model_copy(update={"files": {}})  # as earlier versions wrote it
    folder = store.folder("run", first.key)
    write(folder / "outcome.json", first.model_dump_json(), durable=False)
    path = folder / "predictions.npz"
    arrays = store.predictions(first.key)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=0) as file:
        for name, array in arrays.items():  # a byte of the file is one of a number
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    assert only(store).rows[0].rank == 1
    data = bytearray(path.read_bytes())
    data[data.index(arrays["draws"].tobytes()[80:88]) + 6] ^= 1
    path.write_bytes(data)
    (made,) = only(store).rows
    assert made.rank is None
    assert made.why == ("its predictions are gone or damaged: see `bench store verify`",)


def test_less_is_better_for_an_error(store: Store):
    spec = {"headline": "ece"}
    arm(store, 0.1, source="imagenet", spec=spec)
    arm(store, 0.2, spec=spec)
    board = only(store)
    assert [(r.identity.source, r.rank) for r in board.rows] == [("imagenet", 1), ("dtd", 2)]
    assert row(board, "dtd").gains["imagenet"].difference.value == pytest.approx(-0.1)


@pytest.mark.parametrize("effect, at_least", [(0.0, 0.91), (3.0, 0.80)])
def test_two_rows_share_a_rank_unless_they_differ(store: Store, effect: float, at_least: float):
    """200 boards of two arms tested on the same 300 patients; the effect is in standard errors."""
    rng = np.random.default_rng(20240501)
    arm(store, 0.8)
    template = only(store).rows[0]
    weights = rng.multinomial(300, np.full(300, 1 / 300), size=500) / 300
    right = 0
    for _ in range(200):
        patients = rng.normal(0, 1, 300)
        scores = patients + rng.normal(0, 0.7, (2, 300))
        scores[0] += effect * 0.7 * np.sqrt(2 / 300)
        rows = [
            _replaced(template, float(one.mean()), weights @ one) for one in scores
        ]  # fmt: skip
        ranks = [r.rank for r in ranked(rows)]
        right += ranks == ([1, 1] if effect == 0 else [1, 2])
    assert right / 200 >= at_least


def _replaced(template: Row, value: float, draws: np.ndarray) -> Row:
    from dataclasses import replace

    return replace(
        template, why=(), draws=draws, headline=Estimate(value, *stats.interval(draws), 300)
    )


# --- what is written --------------------------------------------------------------------------

NASTY = "<script>alert('x')</script>|`\"\u202e\U0001f9ec\x1b[31m\n" + "long" * 60


def test_filters_keep_rows_and_never_lose_their_baselines(store: Store):
    arm(store, 0.70, source="none")
    arm(store, 0.78)
    arm(store, 0.9, source="imagenet")
    arm(store, 0.9, target="ptbxl")
    board = only(store, targets=["isic"], sources=["dtd"])
    assert [r.identity.source for r in board.rows] == ["dtd"]
    assert board.rows[0].rank == 1
    assert board.rows[0].gains["scratch"].difference.value == pytest.approx(0.08)


def test_unknown_names_and_empty_stores_say_what_to_do(store: Store):
    with pytest.raises(BenchError, match="bench run"):
        leaderboard.boards(store)
    arm(store, 0.8)
    with pytest.raises(BenchError, match="Did you mean isic"):
        leaderboard.boards(store, targets=["isik"])
    with pytest.raises(BenchError, match="Did you mean json"):
        leaderboard.show(store, format="jason")


def test_every_format_holds_every_row(many_kinds: Store):
    store = many_kinds
    boards = leaderboard.boards(store)
    rows = [(b, r) for b in boards for r in b.rows]
    data = json.loads(leaderboard.show(store, format="json"))
    assert [len(b["rows"]) for b in data] == [len(b.rows) for b in boards]
    first = data[1]["rows"][0]
    assert {"rank", "headline", "gains", "metrics", "per_class", "runs", "recipe"} <= set(first)
    assert first["gains"]["fusion"]["p"] < 0.05
    assert list(first["classes"]) == list(CLASSES[4:7])
    table = list(csv.DictReader(io.StringIO(leaderboard.show(store, format="csv"))))
    assert len(table) == len(rows)
    for line, (board, r) in zip(table, rows, strict=True):
        assert line["source"] == r.identity.source and line["target"] == board.target
        assert line["rank"] == ("" if r.rank is None else str(r.rank))
        assert not r.headline or float(line["value"]) == pytest.approx(r.headline.value)
    text, marked = leaderboard.show(store), leaderboard.show(store, format="md")
    for _, r in rows:
        assert r.identity.source in text and r.identity.source in marked
    assert "3 skipped (needs the blocks of a ResNet)" in text
    assert "worst recall" in text and "ECE" in text and "GPU-s" in text and "kJ" in text


def test_names_are_text_in_every_format(store: Store):
    arm(store, 0.8, source=NASTY)
    arm(store, 0.7, source="=1+1")
    assert "\x1b" not in leaderboard.show(store) and "alert" in leaderboard.show(store)
    marked = leaderboard.show(store, format="md")
    assert "<script>" not in marked and "\\|" in marked
    assert len([line for line in marked.splitlines() if line.startswith("| ")]) == 4
    table = list(csv.DictReader(io.StringIO(leaderboard.show(store, format="csv"))))
    assert [row["source"] for row in table] == [plain(NASTY), "'=1+1"]
    text = leaderboard.show(store, format="json")
    assert json.loads(text)[0]["rows"][0]["source"] == NASTY
    assert "\u202e" not in text


def test_the_order_of_the_cells_does_not_matter(many_kinds: Store):
    store = many_kinds
    rows = store.summaries()
    first = leaderboard.show(store, format="json")
    store.summaries = lambda kind="run": rows[::-1]  # pyright: ignore[reportAttributeAccessIssue]
    assert leaderboard.show(store, format="json") == first


# --- speed ------------------------------------------------------------------------------------


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-X", "importtime", "-m", "benchmark.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def test_a_first_board_reads_each_outcome_once(store: Store, monkeypatch: pytest.MonkeyPatch):
    arm(store, 0.8)
    arm(store, 0.7, source="imagenet")
    seen, read = list[str](), Path.read_bytes

    def counted(path: Path) -> bytes:
        seen.extend([path.parent.name] * ("runs" in path.parts and path.name == "outcome.json"))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    fresh = Store(store.root)
    leaderboard.show(fresh)
    assert sorted(seen) == sorted(store.keys("run"))
    (key, *_) = store.keys("run")
    kept = store.outcome("run", key)
    assert kept is not None
    changed = kept.model_copy(update={"chosen": "another"})
    again = Store(store.root)  # what is replaced after its summary was made is read again
    again.summaries()
    store.finish(Cell.of(kept.spec, kept.versions), changed)
    (found,) = again.outcomes("run", [key], brief=True)
    assert found.chosen == "another"


def test_the_command_imports_nothing_heavy(tmp_path: Path):
    store = fill(tmp_path, folds=1)
    done = bench("leaderboard", "--format", "json", "--store", str(store.root))
    assert len(json.loads(done.stdout)) == 2
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    heavy = {"torch", "pandas", "matplotlib", "scipy", "sklearn", "rich.table", "jinja2", "yaml"}
    assert "benchmark.store" in imported
    assert not imported & heavy


@pytest.mark.slow
def test_2000_outcomes_as_json_in_two_seconds(tmp_path: Path):
    sources = ["none", "imagenet", *(f"s{i}" for i in range(18))]
    fusions = ["none", "concat", "film", "metanet", "late"]
    store = fill(tmp_path, targets=["a", "b", "c", "d"], sources=sources, fusions=fusions, folds=5)
    command = [sys.executable, "-m", "benchmark.cli", "leaderboard", "--format", "json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--store", str(store.root)], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor, not of the clock: other processes may be at work here.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


@pytest.mark.parametrize(
    ("unit", "units"), [("lesion", "lesions"), ("who_id", "values of who_id"), ("", "images")]
)
def test_the_unit_is_the_cards_word(tmp_path: Path, unit: str, units: str):
    from reports.page import board_page

    store = Store(tmp_path)
    for fold in range(5):
        run(store, fold=fold, data={"unit": unit})
    (made,) = leaderboard.boards(store)
    facts = dict(board_page._facts(made))
    assert f"bootstrap over {units}," in facts["Intervals"][0]
    assert any(text == f"{units} in test: 700" for text in facts["Data"])
    unknown = "patients unknown, images taken as independent: intervals are too narrow if they are"
    assert (unknown in facts["Split"][0]) == (not unit)
    assert (unknown[1:] in leaderboard.show(store)) == (not unit)
    assert (f"no {unit} on two sides" in facts["Split"][0]) == bool(unit)
    assert f"(paired bootstrap over {units}, one" in leaderboard.show(store)
