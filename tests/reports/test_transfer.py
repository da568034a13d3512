"""Distance and gain: which pairs enter, which distances, and what is claimed of them."""

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from xml.etree import ElementTree

import numpy as np
import pytest
from boards import fill, pretrain, quick, run, shared_draws
from stores import ok

from benchmark import stats
from benchmark.errors import BenchError
from benchmark.spec import Cell, DistanceSpec, Recipe, Split
from benchmark.stats import Estimate
from benchmark.store import Store
from reports import distances, transfer
from reports.leaderboard import table
from reports.page import write
from reports.transfer import Analysis

SOURCES = ("imagenet", "dtd", "stl10", "kimia", "pcam")
TARGETS = ("isic", "ptbxl", "oasis1")
#: The gain in AUROC of each source, the same on every target but for a little.
GAINS = dict(zip(SOURCES, (0.10, 0.08, 0.05, 0.02, -0.01), strict=True))


def measure(
    store: Store,
    source: str,
    target: str,
    value: float,
    *,
    method: str = "task2vec",
    low: float = math.nan,
    high: float = math.nan,
    version: str = "1",
    more: Mapping[str, Estimate] = MappingProxyType({}),
    **fields: object,
) -> None:
    """Store one distance."""
    spec = DistanceSpec.model_validate(
        {"source": source, "target": target, "method": method, **fields}
    )
    cell = Cell.of(spec, {"core": "1", "method": version, "source": "1", "target": "1"})
    with quick():
        store.begin(cell)
        found = {"distance": Estimate(value, low, high, 500), **more}
        store.finish(cell, ok(cell, metrics=found))


def level(source: str, target: str) -> float:
    base = {"isic": 0.8, "ptbxl": 0.7, "oasis1": 0.75}[target]
    return base + (GAINS.get(source, 0.0) if source != target else 0.12)


def grid(root: Path, *, sources: tuple[str, ...] = SOURCES, folds: int = 1) -> Store:
    """Runs of every source and scratch; draws share what the patients do."""
    store = Store(root)
    store.prepare()
    for target in TARGETS:
        for source in ("none", *sources):
            for fold in range(folds):
                value = level(source, target)
                draws = value + shared_draws(target, fold, 0)
                run(store, source=source, target=target, fold=fold, folds=folds, value=value,
                    draws=draws)  # fmt: skip
    return store


def measured(store: Store, sources: tuple[str, ...] = SOURCES, **more: object) -> None:
    """Distances that order the sources as their gains do."""
    for i, source in enumerate(sources):
        for target in TARGETS:
            measure(store, source, target, 0.1 + 0.1 * i, **more)  # type: ignore[arg-type]


def analyse(store: Store, **more: object) -> list[Analysis]:
    boards = table.boards(store, fusions=("none",))
    return transfer.analyse(store, boards, **more)  # type: ignore[arg-type]


def lines(found: Analysis, pairs: str) -> Mapping[str, transfer.Line]:
    return {line.name: line for line in found.lines if line.pairs == pairs}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = grid(tmp_path_factory.mktemp("transfer") / "store")
    measured(made)
    return made


def test_gain_is_in_per_cent_of_scratch_with_a_paired_interval(store: Store):
    (found,) = analyse(store)
    pair = next(p for p in found.pairs if (p.source, p.target) == ("dtd", "ptbxl"))
    assert pair.gain.value == pytest.approx(100 * 0.08 / 0.7)
    noise = shared_draws("ptbxl", 0, 0)
    expected = np.percentile(100 * ((0.78 + noise) / (0.7 + noise) - 1), [2.5, 97.5])
    assert pair.gain[1:3] == pytest.approx(tuple(expected))
    # Unpaired draws would give an interval many times as wide.
    assert pair.gain.high - pair.gain.low < 1.5


def test_nearer_sources_that_gain_more_correlate_negatively(store: Store):
    (found,) = analyse(store)
    line = lines(found, "within_target")["task2vec"]
    assert line.correlation.spearman == pytest.approx(-1, abs=0.05)
    assert line.by_target == pytest.approx(-1)
    assert line.correlation.n == 15
    assert line.correlation.p < 0.05
    assert line.warning == ""
    assert transfer.verdict(found).startswith("task2vec foretells the gain best")


def test_numbers_are_those_of_stats(store: Store):
    (found,) = analyse(store)
    pairs = found.pairs
    distance = [0.1 + 0.1 * SOURCES.index(pair.source) for pair in pairs]
    names = [p.target for p in pairs], [p.source for p in pairs]
    plain = stats.correlate(distance, [p.gain.value for p in pairs], *names)
    line = lines(found, "all")["task2vec"].correlation
    assert line.spearman == pytest.approx(plain.spearman)
    assert line.pearson == pytest.approx(plain.pearson)
    assert line.kendall == pytest.approx(plain.kendall)
    assert (line.low, line.high) == pytest.approx((plain.low, plain.high))


def test_baselines_stand_in_the_same_table(store: Store):
    (found,) = analyse(store)
    within = lines(found, "within_target")
    assert set(within) == {"task2vec", "log size", "static", "imagenet first"}
    assert within["static"].correlation.spearman == pytest.approx(-1, abs=0.05)
    assert within["imagenet first"].correlation.spearman < 0
    assert "the best baseline, static" in transfer.verdict(found)
    size = transfer.plain(found.pairs)["log size"]
    row = next(i for i, pair in enumerate(found.pairs) if pair.source == "dtd")
    assert size[row] == pytest.approx(-math.log(5640))


def test_a_score_is_negated_and_the_table_says_so(tmp_path: Path):
    store = grid(tmp_path)
    for i, source in enumerate(SOURCES):
        for target in TARGETS:
            measure(store, source, target, -0.1 * i, method="scores:logme")
    (found,) = analyse(store)
    assert found.measures[0].more_is_near
    assert lines(found, "all")["scores:logme"].correlation.spearman < -0.8
    text = transfer.show(store)
    assert "−scores:logme" in text
    assert "scores:logme (more is nearer)" in text


@pytest.mark.parametrize(("method", "word"), [("scores:logme", "more"), ("task2vec", "less")])
def test_a_method_points_one_way_wherever_it_is_shown(tmp_path: Path, method: str, word: str):
    store = grid(tmp_path)
    measured(store, method=method)
    (found,) = analyse(store)
    (panel,) = transfer.panels_of(found)
    shown = [
        " ".join(transfer.show(store).split()),
        distances.show(store, list(store.outcomes("distance"))),
        write.write(store, tmp_path / "out").read_text(),
        panel.x_title,
    ]
    other = {"more": "less", "less": "more"}[word]
    for text in shown:
        assert f"{method} ({word} is nearer)" in text
        assert f"{other} is nearer" not in text


def test_sets_known_to_share_images_are_flagged_in_tables_pages_and_json(tmp_path: Path):
    store = grid(tmp_path)
    measured(store)
    measure(store, "isic", "isic", 0.0)
    measure(store, "folder:HAM10000", "isic", 0.01)
    flags = {"isic": "source = target", "dtd": "",
             "folder:HAM10000": "folder:HAM10000 and isic are known to share images"}  # fmt: skip
    rows = json.loads(distances.show(store, list(store.outcomes("distance")), format="json"))
    found = {row["source"]: row["overlap"] for row in rows if row["target"] == "isic"}
    assert {name: found[name] for name in flags} == flags
    known = "Known overlap: imagenet and stl10 share images."
    for text in (
        distances.show(store, list(store.outcomes("distance"))),
        write.write(store, tmp_path / "out").read_text(),
    ):
        assert "† 0.01" in text
        assert known in " ".join(text.split())
    assert known in " ".join(transfer.show(store).split())
    (analysis,) = json.loads(transfer.show(store, format="json"))
    assert {pair["overlap"] for pair in analysis["pairs"]} == {""}


def test_a_self_pair_is_marked_beside_its_gain(tmp_path: Path):
    store = grid(tmp_path, sources=("imagenet", "isic"))
    measured(store, ("imagenet", "isic"))
    assert "† isic" in transfer.show(store)
    (analysis,) = json.loads(transfer.show(store, format="json"))
    found = {(p["source"], p["target"]): p["overlap"] for p in analysis["pairs"]}
    assert found["isic", "isic"] == "source = target"
    assert found["isic", "ptbxl"] == ""


def test_self_pairs_are_counted_with_and_without(tmp_path: Path):
    sources = (*SOURCES, *TARGETS)
    store = Store(tmp_path)
    store.prepare()
    for target in TARGETS:
        for source in ("none", *SOURCES, target):
            value = level(source, target)
            run(store, source=source, target=target, folds=1, value=value,
                draws=value + shared_draws(target, 0, 0))  # fmt: skip
    measured(store, sources)
    (found,) = analyse(store)
    assert lines(found, "all")["task2vec"].correlation.n == 18
    assert lines(found, "without_self")["task2vec"].correlation.n == 15
    assert lines(found, "within_target")["task2vec"].correlation.n == 15
    (found,) = analyse(store, baseline="self")
    gains = {(pair.source, pair.target): pair.gain.value for pair in found.pairs}
    assert gains["isic", "isic"] == 0
    assert gains["dtd", "isic"] == pytest.approx(100 * (0.88 / 0.92 - 1))


def test_partial_limited_and_unpaired_rows_stay_out_and_are_named(tmp_path: Path):
    store = grid(tmp_path, folds=2)
    measured(store)
    run(store, source="cifar10", target="isic", folds=2, fold=0, value=0.9)
    for fold in range(2):
        run(store, source="sti10", target="isic", folds=2, fold=fold, value=0.9,
            spec={"recipe": Recipe(limit=100)})  # fmt: skip
    (found,) = analyse(store)
    assert {pair.source for pair in found.pairs} == set(SOURCES)
    text = " ".join(found.notes)
    assert "cifar10 on isic: 1/2 cells" in text
    assert "limited to 100 images" in text


def test_without_scratch_there_is_no_gain(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    run(store, source="dtd", target="isic", folds=1, value=0.8)
    with pytest.raises(BenchError, match="source none"):
        transfer.show(store)


def test_two_pairs_are_too_few_and_that_is_said(tmp_path: Path):
    store = Store(tmp_path)
    store.prepare()
    for source in ("none", "dtd", "imagenet"):
        run(store, source=source, target="isic", folds=1, value=0.8)
        measure(store, source, "isic", 0.3)
    text = transfer.show(store)
    assert "There are 2 pairs of source and target, and no correlation has fewer than 3" in text


def test_few_pairs_bring_the_power_warning(tmp_path: Path):
    store = grid(tmp_path, sources=SOURCES[:2])
    rng = np.random.default_rng(0)
    for source in SOURCES[:2]:
        for target in TARGETS:
            measure(store, source, target, float(rng.normal()))
    text = transfer.show(store)
    assert "Fewer than 5 sources cannot say" in text
    assert "too few sources" in text
    assert "nan" not in text


def test_seeds_are_averaged_and_their_noise_is_told(tmp_path: Path):
    store = grid(tmp_path)
    for seed in (0, 1):
        for i, source in enumerate(SOURCES):
            for target in TARGETS:
                measure(store, source, target, 0.1 * i + 0.02 * seed, seed=seed)
    (found,) = analyse(store)
    (only,) = found.measures
    assert only.values["dtd", "isic"] == Estimate(
        pytest.approx(0.11), pytest.approx(0.10), pytest.approx(0.12), 2
    )
    assert only.noise == pytest.approx(0.02 / math.sqrt(2) / np.std(0.1 * np.arange(5)))
    assert "2 seeds, whose noise is 10% of the spread" in only.about


def test_distances_of_the_runs_network_come_before_others(tmp_path: Path):
    store = grid(tmp_path)
    measured(store)
    measured(store, arch="resnet18")
    (found,) = analyse(store)
    assert [measure.label for measure in found.measures] == ["task2vec"]
    assert "another network" not in found.measures[0].about
    other = grid(tmp_path / "other")
    measured(other, arch="resnet18")
    (found,) = analyse(other)
    assert "resnet18" in found.measures[0].about
    assert "another network than the runs'" in found.measures[0].about


def test_other_options_and_probes_get_lines_of_their_own(tmp_path: Path):
    store = grid(tmp_path)
    probe = pretrain(store, "dtd")
    measured(store, options={"n": 1})
    measured(store, options={"n": 2}, sources=SOURCES[:3])
    measured(store, options={"n": 1}, weights=probe, sources=SOURCES[:4])
    (found,) = analyse(store)
    labels = [measure.label for measure in found.measures]
    assert sorted(labels) == ["task2vec", "task2vec (n 2)", "task2vec (probe dtd)"]
    assert any("known for 9 of 15 pairs" in note for note in found.notes)


def test_older_versions_of_a_distance_are_left_out(tmp_path: Path):
    store = grid(tmp_path)
    measured(store, version="1")
    measured(store, version="2", limit=None)
    (found,) = analyse(store)
    assert len(found.measures) == 1
    assert any("older versions" in note for note in found.notes)


def test_a_score_that_may_have_seen_the_test_images_is_said_to(tmp_path: Path):
    store = grid(tmp_path)
    runs = Split(folds=1)  # as those of the grid
    measured(store, method="scores:logme", split=Split(folds=3))
    (found,) = analyse(store)
    assert any("may have seen their test images" in note for note in found.notes)
    measured(store, method="scores:logme", split=runs)
    (found,) = analyse(store)
    assert [measure.label for measure in found.measures] == ["scores:logme"]
    assert "on the training parts of 1 grouped fold" in found.measures[0].about
    assert not any("test images" in note for note in found.notes)


def test_one_of_many_distances_is_told_from_0_by_holm(tmp_path: Path):
    store = grid(tmp_path)
    measured(store)
    rng = np.random.default_rng(1)
    for k in range(12):
        for source in SOURCES:
            for target in TARGETS:
                measure(store, source, target, rng.normal(), options={"n": k}, method="otdd")
    (found,) = analyse(store)
    distances_of = [x for x in found.lines if x.pairs == "within_target" and x.kind == "distance"]
    assert len(distances_of) == 13
    expected = stats.holm([line.correlation.p for line in distances_of])
    assert [line.p_holm for line in distances_of] == pytest.approx(expected.tolist())
    best = lines(found, "within_target")["task2vec"]
    assert best.correlation.p < 0.05 < best.p_holm
    assert "by Holm, being one of several" in best.warning
    assert transfer.verdict(found).startswith(
        "No distance can be said to foretell the gain; task2v"
    )
    told = csv.DictReader(io.StringIO(transfer.show(store, format="csv")))
    rows = {row["name"]: row for row in told if row["pairs"] == "within_target"}
    assert float(rows["task2vec"]["p_holm"]) == best.p_holm
    assert rows["static"]["p_holm"] == ""


def test_excesses_count_and_pairs_under_their_floor_are_marked_everywhere(tmp_path: Path):
    store = grid(tmp_path)
    for i, source in enumerate(SOURCES):
        for target in TARGETS:
            excess = Estimate(i - 1.0, i - 1.5, i - 0.5, 90)
            more = {"floor": Estimate(7.0, math.nan, math.nan, 90), "excess": excess}
            measure(store, source, target, 6.0 + i, method="otdd", more=more)
            measure(store, source, target, 0.4, more=more)
    found = {measure.label: measure for measure in analyse(store)[0].measures}
    assert found["otdd"].values["stl10", "isic"] == Estimate(1.0, 0.5, 1.5, 1)
    assert found["task2vec"].values["stl10", "isic"].value == 0.4, "what counts is the card's word"
    under = {(s, t) for s in ("imagenet", "dtd") for t in TARGETS}
    assert found["otdd"].under == found["task2vec"].under == under
    rows = json.loads(distances.show(store, list(store.outcomes("distance")), format="json"))
    (row,) = (r for r in rows if (r["method"], r["source"], r["target"]) == ("otdd", "dtd", "isic"))
    assert (row["value"], row["raw"], row["floor"], row["under_floor"]) == (0, 7, 7, True)
    assert sum(row["under_floor"] for row in rows) == 2 * len(under)
    (analysis,) = json.loads(transfer.show(store, format="json"))
    told = {v["under_floor"]: v for d in analysis["distances"] for v in d["values"]}
    assert (told[True]["floor"], told[False]["floor"]) == (7, 7)
    page = write.write(store, tmp_path / "out").read_text()
    table_of = " ".join(distances.show(store, list(store.outcomes("distance"))).split())
    for text in (page, table_of, " ".join(transfer.show(store, format="md").split())):
        assert "‡ -1" in text or r"‡ \-1" in text
        assert "‡ 1" not in text
        assert "‡ not told from its floor" in text
    assert "otdd excess (less is nearer)" in table_of
    assert "task2vec (less is nearer)" in table_of


def test_an_infinite_score_is_left_out_of_the_correlation(tmp_path: Path):
    store = grid(tmp_path)
    measured(store)
    measure(store, "dtd", "isic", math.inf, method="scores:logme")
    (found,) = analyse(store)
    assert lines(found, "all")["scores:logme"].correlation.n == 0
    json.loads(transfer.show(store, format="json"))


def test_only_the_distance_asked_for(store: Store):
    with pytest.raises(BenchError, match="Did you mean task2vec"):
        transfer.show(store, distances=("task2vek",))
    assert "task2vec" in transfer.show(store, distances=("task2vec",))
    with pytest.raises(BenchError, match="baseline"):
        transfer.show(store, baseline="imagenet")


def test_formats_agree(store: Store):
    (found,) = json.loads(transfer.show(store, format="json"))
    rows = list(csv.DictReader(io.StringIO(transfer.show(store, format="csv"))))
    assert len(rows) == len(found["correlations"]) == 4 * 3
    for row, line in zip(rows, found["correlations"], strict=True):
        assert row["name"] == line["name"]
        assert float(row["spearman"]) == line["spearman"]
    assert found["pairs"][0]["gain"]["value"] is not None
    text = transfer.show(store, format="md")
    assert "| baseline: static |" in text
    assert "without self" not in text  # there is no self pair, so it would say the same again


def test_the_plot_is_whole_xml_and_shows_every_pair(store: Store, tmp_path: Path):
    transfer.show(store, plot=tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    titles = [e.text or "" for e in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 15
    assert any(title.startswith("dtd on isic: T +10") or "dtd on isic: T 10" in title
               for title in titles)  # fmt: skip


def test_names_cannot_break_out_of_the_plot():
    from reports import plots

    nasty = '</svg><script>x</script>\x1b&"'
    point = plots.Point(nasty, nasty, Estimate(1, 0, 2, 1), Estimate(1, 0, 2, 1))
    made = plots.scatter(nasty, [point], x_title=nasty, y_title="T")
    assert made is not None
    assert "<script" not in plots.svg(made)
    ElementTree.fromstring(plots.document([made]))


def test_the_index_page_shows_table_and_scatter(store: Store, tmp_path: Path):
    text = write.write(store, tmp_path).read_text()
    assert "Does distance foretell transfer?" in text
    assert text.count("<title>dtd on") == 3
    assert "baseline: static" in text


def test_a_page_without_distances_has_no_such_section(tmp_path: Path):
    store = fill(tmp_path / "store", targets=("isic",), folds=1)
    text = write.write(store, tmp_path / "out").read_text()
    assert "Does distance foretell" not in text


def test_what_stays_out_for_one_reason_is_said_once(tmp_path: Path):
    store = Store(tmp_path)
    usual, other = Recipe(epochs=30), Recipe(epochs=30, lr=0.1)
    for target, sources in {"isic": ("dtd", "stl10"), "oasis": ("dtd", "kimia", "stl10")}.items():
        run(store, source="none", target=target, folds=1, value=0.6, spec={"recipe": usual})
        for source in sources:
            for recipe in (usual, other):
                how = {"folds": 1, "value": 0.7, "spec": {"recipe": recipe}}
                run(store, source=source, target=target, **how)
    (found,) = analyse(store)
    assert [note for note in found.notes if "Left out" in note] == [
        "Left out: dtd, stl10 on isic, oasis; kimia on oasis: another setting (lr 0.1)."
    ]
