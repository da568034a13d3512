"""The HTML report: whole, self-contained, safe, and sound in a real browser."""

import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from boards import fill, pretrain, run, varied
from sklearn import metrics as sk

from benchmark import metrics
from benchmark.errors import BenchError, plain
from benchmark.metrics.rates import GRID, roc_curve
from benchmark.spec import Failure
from benchmark.store import Store
from reports import plots
from reports.leaderboard import table
from reports.page import curves, write

NASTY = "<script>alert('x')</script>\"&'<b>\U0001f9ec\u05d0\u05d1\u202e" + "long" * 75
VOID = {"meta", "link", "br", "input", "img", "hr"}
#: The page's own console among what a browser logs of itself.
CONSOLE = re.compile(r":CONSOLE[:(]\d+")


class Page(HTMLParser):
    """A page as a list of elements, its text, and whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open and self.open[-1] not in ("script", "style") else ""

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report(made_once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    write.write(Store(made_once("many-kinds", varied)), out)
    return out


# --- what a page holds ------------------------------------------------------------------------


def test_there_is_an_index_and_a_page_per_target(report: Path):
    assert sorted(p.name for p in report.iterdir()) == [
        "index.html", "target-isic.html", "target-oasis1.html",
    ]  # fmt: skip
    index = Page(report / "index.html")
    links = {a["href"].partition("#")[0] for a in index.all("a")} - {""}
    assert links == {"target-isic.html", "target-oasis1.html"}
    for text in ("Source × target", "The sources’ own pretraining", "openml:40927", "LEAKY"):
        assert text in index.text


def test_the_board_the_failures_and_the_making_of_the_numbers_are_told(
    report: Path, many_kinds: Store
):
    text = Page(report / "target-isic.html").text
    boards = table.boards(many_kinds, targets=["isic"])
    rows = [row for board in boards for row in board.rows]
    assert len(rows) > 10
    usual = [made.columns for made in boards if any(row.identity.columns for row in made.rows)]
    assert usual
    for columns in usual:
        assert f"The record, if a row says no other: {', '.join(columns)}." in text
    for row in rows:
        assert row.identity.source in text and row.identity.fusion in text
        assert all(why in text for why in row.why)
        assert not row.headline or f"{row.headline.value:.3f}" in text
    for words in (
        "imagenet + concat\u2069 comes first with", "Out of memory. Lower", "Tried to allocate",
        "needs the blocks of a ResNet", "limited to 200 images", "How the numbers were made",
        "no patient on two sides", "400 draws a fold", "digest 0123456789abcdef", "torch 2.11",
        "the best by validation AUROC", "Recipe of mode", "Class 3 is rare: 4 test images.",
        "images are split, not patients", "35% of test images have a sibling in train",
    ):  # fmt: skip
        assert words in text, words


PAGES = ("index.html", "target-isic.html", "target-oasis1.html")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_needs_nothing_but_itself(report: Path, name: str):
    path = report / name
    source = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp", source), path.name
    found = Page(path)
    assert not [a for _, a in found.elements if "src" in a or "srcset" in a]
    assert [link["href"] for link in found.all("link")] == ["data:,"]
    assert len(found.all("script")) == 1


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_sound_for_keyboards_and_screen_readers(report: Path, name: str):
    path = report / name
    found = Page(path)
    ids = [a["id"] for _, a in found.elements if "id" in a]
    assert len(ids) == len(set(ids))
    refer = ("for", "aria-labelledby", "aria-describedby")
    assert {a[r] for _, a in found.elements for r in refer if r in a} <= set(ids)
    assert {a["href"][1:] for a in found.all("a") if a["href"].startswith("#")} <= set(ids)
    labels = {label["for"] for label in found.all("label")}
    assert all(field["id"] in labels for field in found.all("input"))
    assert found.all("html")[0]["lang"] == "en" and len(found.all("h1")) == 1
    assert all("scope" in head for head in found.all("th"))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in pairwise(levels))
    for svg in found.all("svg"):
        hidden, named = svg.get("aria-hidden") == "true", svg.get("aria-label")
        assert hidden or (svg.get("role") == "img" and named) or svg.get("overflow")


def test_names_are_text_wherever_they_come_from(tmp_path: Path):
    store = Store(tmp_path / "store")
    spec = {"columns": (NASTY,)}
    pretrain(store, NASTY)
    for fold in range(3):
        names = {"source": NASTY, "target": NASTY, "fold": fold, "classes": (NASTY, "b", "c")}
        run(store, **names, warnings=[NASTY], environment={"device": NASTY})
        run(store, **names, fusion=NASTY, spec=spec, skip=NASTY)
        bad = Failure(kind="bug", message=NASTY, log_tail=NASTY)
        run(store, **names, fusion="concat", failure=bad, spec={"arch": NASTY})
    write.write(store, tmp_path / "out")
    paths = sorted((tmp_path / "out").iterdir())
    assert [len(path.name) < 120 for path in paths] == [True, True]
    for path in paths:
        found = Page(path)
        assert len(found.all("script")) == 1 and not found.all("b")
        assert plain(NASTY) in found.text and "\u202e" not in found.text
        assert not [name for _, a in found.elements for name in a if name.startswith("on")]


def test_file_names_stay_apart():
    names = ["isic", "ISIC", "pcam:small", "pcam-small", "../../etc", "ä", "é", "x" * 300]
    files = [write.file_name(name) for name in names]
    assert files[0] == "target-isic.html"
    assert len({file.lower() for file in files}) == len(names)
    assert all(re.fullmatch(r"target-[a-z0-9_-]{1,80}\.html", file) for file in files)


def test_an_empty_store_says_what_to_do(tmp_path: Path):
    with pytest.raises(BenchError, match="bench run"):
        write.write(Store(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_store_without_predictions_pretraining_or_a_second_source_still_reports(tmp_path: Path):
    store = Store(tmp_path)
    for fold in range(2):
        run(store, fold=fold, folds=2, source="none", environment={}, data={}, joules=None)
    for path in (tmp_path / "runs").glob("*/*/predictions.npz"):
        path.unlink()
    with pytest.warns(UserWarning, match="curves are left out"):
        text = Page(write.write(store, tmp_path / "out").parent / "target-isic.html").text
    assert "its predictions are gone or damaged" in text and "No row has a rank yet" in text


def test_a_store_where_all_failed_still_reports(tmp_path: Path):
    store = Store(tmp_path)
    run(store, failure=Failure(kind="data_missing", message="The data of isic are not here."))
    text = Page(write.write(store, tmp_path / "out").parent / "target-isic.html").text
    assert "0/3 cells: 1 failed (data_missing), 2 not run" in text
    assert "The data of isic are not here." in text


# --- the charts -------------------------------------------------------------------------------


def test_an_axis_holds_its_values_between_round_ticks():
    axis = plots.axis([0.812, 0.874])
    assert (axis.low, axis.high) == (0.8, 0.88)
    assert [axis.text(t) for t in axis.ticks] == ["0.80", "0.82", "0.84", "0.86", "0.88"]
    assert axis.at(0.84) == pytest.approx(50) and axis.at(2) == 100 and axis.beyond(2) == 1
    assert plots.axis([-0.15, 0.1], ticks=6).named == (-0.1, 0.0, 0.1)
    assert plots.axis([float("nan")]).ticks and plots.axis([0.5, 0.5]).low < 0.5


def test_the_curve_is_the_receivers():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=4000)
    score = 1 / (1 + np.exp(-(labels + rng.normal(0, 1, 4000))))
    scores = np.stack([1 - score, score], axis=1)
    area = np.trapezoid(roc_curve([(labels, scores)]), GRID)
    known = metrics.evaluate(labels, scores, np.arange(4000), draws=0, seed=0).overall["auroc"]
    assert area == pytest.approx(known.value, abs=0.002)
    rough = scores.round(1)  # many are equal
    false, true, _ = sk.roc_curve(labels, rough[:, 1])
    curve = roc_curve([(labels, rough)])
    np.testing.assert_allclose(curve, np.interp(GRID, false, true), atol=1e-12)
    tied = np.full((4000, 2), 0.5)
    assert np.trapezoid(roc_curve([(labels, tied)]), GRID) == pytest.approx(0.5)


def test_a_calibrated_network_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, 50_000)
    labels = (rng.random(50_000) > top).astype(int)
    confidence, accuracy = curves.calibration([(labels, np.stack([top, 1 - top], axis=1))])
    assert confidence == pytest.approx(accuracy, abs=0.02)
    assert curves.calibration([(labels, np.stack([top, top], axis=1))])[0].size == 0


# --- in a browser -----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    return found


def visit(chromium: str, path: Path, profile: Path, *options: str) -> tuple[str, str]:
    """The page's DOM after its script ran, and what the console said."""
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", "--enable-logging=stderr", *options, "--dump-dom",
        path.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    said = [line for line in done.stderr.splitlines() if CONSOLE.search(line)]
    return done.stdout, "\n".join(said)


def act(path: Path, script: str) -> Path:
    """A copy of a page with a script of ours after its own; else its policy would refuse it."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    copy = path.with_name("act-" + path.name)
    copy.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    return copy


def test_every_page_opens_without_a_word_from_the_console(
    chromium: str, report: Path, tmp_path: Path
):
    for name in PAGES:
        dom, said = visit(chromium, report / name, tmp_path / name)
        assert said == ""
        assert "<button" in dom, "the script made the headings into buttons"


def test_a_script_that_slipped_in_would_not_run(chromium: str, report: Path, tmp_path: Path):
    text = (report / "index.html").read_text(encoding="utf-8")
    copy = tmp_path / "injected.html"
    copy.write_text(text.replace("</body>", "<script>document.title='ran'</script></body>"))
    dom, said = visit(chromium, copy, tmp_path / "profile")
    assert "<title>ran</title>" not in dom
    assert "Content Security Policy" in said


def test_tables_sort_and_search(chromium: str, report: Path, tmp_path: Path):
    script = """
      const table = document.querySelector("table.sortable");
      const names = () => [...table.tBodies[0].rows].filter((r) => !r.hidden)
        .map((r) => r.cells[1].dataset.v + "+" + r.cells[2].dataset.v).join(" ");
      const heads = [...table.tHead.rows[0].cells];
      const click = (text) => heads.find((h) => h.textContent.startsWith(text))
        .querySelector("button").click();
      const said = [];
      click("AUROC"); said.push(names());
      click("AUROC"); said.push(names());
      click("Source"); said.push(heads[1].getAttribute("aria-sort") + " " + names());
      const input = document.querySelector("input[data-table]");
      input.value = "DTD concat"; input.dispatchEvent(new Event("input"));
      said.push(names());
      said.push(document.querySelector("[role=status]").textContent);
      document.title = said.join("|");
    """
    dom, said = visit(chromium, act(report / "target-isic.html", script), tmp_path / "profile")
    assert said == ""
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None
    down, up, by_name, found, status = title[1].split("|")
    assert down.startswith("isic+none imagenet+concat pcam:small+none imagenet+none")
    assert down.endswith("dtd+attention:mul"), "a row without a number comes last"
    numbers = down.split()[:-1]
    assert up.split() == [*numbers[::-1], "dtd+attention:mul"]
    assert by_name.startswith("ascending dtd+") and "pcam:small" in by_name.split()[-1]
    assert (found, status) == ("dtd+concat", "1 of 13 rows")


def test_nasty_names_make_no_noise(chromium: str, tmp_path: Path):
    store = Store(tmp_path / "store")
    for fold in range(3):
        run(store, source=NASTY, target=NASTY, fold=fold)
    pages = list(write.write(store, tmp_path / "out").parent.iterdir())
    assert len(pages) == 2
    for path in pages:
        dom, said = visit(chromium, path, tmp_path / path.stem[-8:])
        assert said == "" and "&lt;script&gt;alert" in dom


@pytest.mark.slow
def test_1000_outcomes_open_in_three_seconds(chromium: str, tmp_path: Path):
    sources = ["none", "imagenet", *(f"s{i}" for i in range(18))]
    store = fill(tmp_path / "store", targets=["a", "b"], sources=sources, folds=5,
                 fusions=["none", "concat", "film", "metanet", "late"])  # fmt: skip
    began = time.perf_counter()
    index = write.write(store, tmp_path / "out")
    assert time.perf_counter() - began < 60
    for path in index.parent.iterdir():
        script = """
          const [entry] = performance.getEntriesByType("navigation");
          document.title = String(performance.now() - entry.startTime);
        """
        dom, said = visit(chromium, act(path, script), tmp_path / path.stem)
        title = re.search(r"<title>(.*?)</title>", dom)
        assert said == "" and title is not None and float(title[1]) < 3000
