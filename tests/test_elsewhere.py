"""Finished runs tested on a second set: all of it, from what they kept, with the drop told."""

import csv
import io
import json
from dataclasses import replace as copied
from pathlib import Path

import numpy as np
import pytest
from stores import run_all

from benchmark.api import read_table
from benchmark.data import prepare, split
from benchmark.errors import BenchError
from benchmark.index import asked as flat
from benchmark.plan import plan
from benchmark.plan.request import Request, requests, told
from benchmark.spec import Cell, Outcome, RunSpec, Runtime, key_of
from benchmark.store import Store
from benchmark.synthetic import lesions
from benchmark.synthetic import marked as marked_ones
from benchmark.train import elsewhere
from benchmark.train import job as cells
from reports.leaderboard import table
from reports.page import write

HERE = Path(__file__).parent / "components"
ARMS = ("none", "concat", "film", "late:product", "metadata:logistic")
Found = dict[tuple[str, str, int, str], Outcome]

SECOND = '''
"""Another hospital: darker images, its own patients, no column sex."""
from collections.abc import Iterator
from pathlib import Path
import numpy as np
from benchmark.api import Sample, Target, TargetCard

class Other(Target):
    card = TargetCard(
        title="Other", license="none", reference="tests", origin="synthetic", classes=2,
        images=120, columns={{"age": "numeric"}},
    )
    def records(self, root: Path) -> Iterator[Sample]:
        rng = np.random.default_rng({seed})
        for i in range({images}):
            light, age = rng.normal(size=2)
            high = light + age + 0.3 * rng.normal() > 0
            image = rng.normal(120 + 35 * light, 12, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            rng.integers(2)
            yield Sample(image=image, label="{high}" if high else "low", name=f"image-{{i}}",
                         group=f"patient-{{i // 2}}", metadata={{"age": f"{{50 + 12 * age:.1f}}"}})
    @classmethod
    def fake(cls, root: Path, seed: int) -> None:
        """It makes its own images."""
'''


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    root = tmp_path_factory.mktemp("elsewhere")
    sets = {"other": (3, 120, "high"), "copy": (11, 120, "high"), "strange": (3, 60, "tall")}
    for name, (seed, images, high) in sets.items():
        (root / f"{name}.py").write_text(SECOND.format(seed=seed, images=images, high=high))
    paths = {"both": HERE / "both.py", **{name: root / f"{name}.py" for name in sets}}
    return Runtime(
        store=root / "store", device="cpu", workers=1, offline=True, draws=100, paths=paths
    )


def request(**more) -> Request:
    usual = {
        "targets": ("both",), "archs": ("test_resnet",), "protocols": ("demo",), "folds": (0, 1),
        "modes": ("frozen",), "fusions": ARMS, "recipe": {"threads": 1, "epochs": 2},
    }  # fmt: skip
    return Request(**{**usual, **more})


@pytest.fixture(scope="module")
def found(runtime: Runtime) -> Found:
    """Arms of each kind on two folds, on their own test and on the other set."""
    done = run_all(request(test_ons=("other",)), runtime)
    network = request(modes=("finetune", "tuned"), fusions=("concat",), folds=(0,))
    done += run_all(network.model_copy(update={"test_ons": ("other",)}), runtime)
    done += run_all(request(fusions=("none",), test_ons=("copy",)), runtime)
    return {
        (o.spec.fusion, o.spec.mode, o.spec.fold, o.spec.tested_on): o
        for o in done
        if isinstance(o.spec, RunSpec)
    }


@pytest.mark.parametrize(
    ("arm", "mode"),
    [*((arm, "frozen") for arm in ARMS), ("concat", "finetune"), ("concat", "tuned")],
)
def test_the_run_is_asked_for_every_image_of_the_second_set(found, runtime, arm, mode):
    there, whole = found[arm, mode, 0, "other"], found[arm, mode, 0, ""]
    kept = Store(runtime.store).predictions(there.key)
    assert there.spec.base == whole.key
    assert len(kept["labels"]) == there.data["test"] == 120
    assert there.data["train"] == whole.data["train"]
    assert there.metrics["auroc"].value > (0.8 if arm.startswith("metadata") else 0.6)
    assert there.history == []
    if not arm.startswith(("late", "metadata")):
        assert "train" not in there.seconds


@pytest.mark.parametrize(
    ("arm", "mode"),
    [*((arm, "frozen") for arm in ARMS), ("concat", "finetune"), ("concat", "tuned")],
)
def test_on_its_own_set_a_run_says_what_it_said(found, runtime, arm, mode):
    whole = found[arm, mode, 0, ""]
    spec = whole.spec.model_copy(update={"tested_on": "both", "base": whole.key})
    again = cells.run(Cell.of(spec, whole.versions), runtime)
    assert again.status == "ok", again.failure
    rows = own_rows(whole, runtime)
    scores = Store(runtime.store).predictions(again.key)["scores"][rows]
    kept = Store(runtime.store).predictions(whole.key)["scores"]
    np.testing.assert_allclose(scores, kept, atol=1e-5)


def own_rows(whole: Outcome, runtime: Runtime) -> np.ndarray:
    spec = whole.spec
    assert isinstance(spec, RunSpec)
    prepared = prepare.prepare("both", spec.recipe.size, runtime)
    return split.split(prepared, spec.split, fold=spec.fold).test


def test_folds_share_their_draws_and_a_missing_column_is_told(found, runtime):
    first, second = (found["none", "frozen", fold, "other"] for fold in (0, 1))
    kept = [Store(runtime.store).predictions(one.key) for one in (first, second)]
    assert np.array_equal(kept[0]["groups"], kept[1]["groups"])
    assert np.corrcoef(kept[0]["draws"], kept[1]["draws"])[0, 1] > 0.5
    told = found["concat", "frozen", 0, "other"].warnings
    assert "other has no column sex: missing in all of its records." in told
    assert not [text for text in first.warnings if "no column" in text]


def test_images_of_the_training_part_are_counted_and_told(found):
    there = found["none", "frozen", 0, "copy"]
    assert 0.3 < there.data["siblings"] <= 1
    assert any("images of copy are in the training part of both" in w for w in there.warnings)
    assert found["none", "frozen", 0, "other"].data["siblings"] == 0


def test_classes_are_matched_by_name(runtime):
    second = prepare.prepare("other", 32, runtime)
    first = copied(second, classes=second.classes[::-1])
    turned = elsewhere.alike(second, first)
    assert turned.classes == ("low", "high")
    names = [np.array(one.classes)[one.labels] for one in (second, turned)]
    assert (names[0] == names[1]).all()


def test_other_classes_are_refused_in_two_sentences(found, runtime):
    whole = found["none", "frozen", 0, ""]
    spec = whole.spec.model_copy(update={"tested_on": "strange", "base": whole.key})
    failed = cells.run(Cell.of(spec, whole.versions), runtime)
    assert failed.failure is not None
    assert "strange does not have the classes of both" in failed.failure.message
    assert "only both has high; only strange has tall" in failed.failure.message
    with pytest.raises(BenchError, match="demo:skin does not have the classes of isic"):
        plan.make(request(targets=("isic",), test_ons=("demo:skin",)), runtime)


def test_classes_and_label_sets_do_not_test_each_other(runtime):
    for target, second in (("ptbxl", "ptbxl:super"), ("ptbxl:super-500", "ptbxl:500")):
        with pytest.raises(BenchError, match=r"ptbxl:super\S* is multi-label and ptbxl\S* has one"):
            plan.make(request(targets=(target,), test_ons=(second,)), runtime)
    one = prepare.prepare("other", 32, runtime)
    two = copied(one, labels=np.eye(2, dtype=np.uint8)[one.labels])
    for first, second in ((one, two), (two, one)):
        with pytest.raises(BenchError, match="is multi-label and other has one class an image"):
            elsewhere.alike(second, first)


@pytest.mark.parametrize(
    ("asked", "keep", "match"),
    [
        ({"test_ons": ("both",)}, True, "both is the target itself"),
        ({"test_ons": ("other",)}, False, "Leave --no-keep out, or --test-on"),
    ],
)
def test_what_cannot_be_tested_on_is_refused(runtime, asked, keep, match):
    with pytest.raises(BenchError, match=match):
        plan.make(request(**asked), runtime.model_copy(update={"keep": keep}))


def test_keys_are_as_before_and_hold_the_version_of_the_second_set(found, runtime):
    whole, there = found["none", "frozen", 0, ""], found["none", "frozen", 0, "other"]
    assert whole.key == key_of(whole.spec, whole.versions)
    assert "tested_on" not in whole.versions
    assert there.versions["tested_on"].startswith("file:")
    assert Cell(there.key, there.spec, there.versions).upstream()[-1] == ("run", whole.key)
    assert flat(there.spec.model_dump(mode="json")).tested_on == "other"
    assert plan.make(request(test_ons=("other",)), runtime).of("to run") == []


def test_the_plan_tests_what_was_asked_for_and_not_what_it_builds_on(runtime):
    asked = request(fusions=("late:mean",), modes=("frozen",), folds=(0,), seeds=(5,),
                    test_ons=("other",))  # fmt: skip
    made = plan.make(asked, runtime).of("to run")
    specs = [p.cell.spec for p in made if isinstance(p.cell.spec, RunSpec)]
    assert [(spec.fusion, spec.tested_on) for spec in specs] == [
        ("none", ""), ("late:mean", ""), ("late:mean", "other"),
    ]  # fmt: skip


def test_a_board_of_its_own_has_the_drop(found, runtime):
    store = Store(runtime.store)
    own, there = (
        next(m for m in table.boards(store, targets=("both",)) if m.tested_on == name)
        for name in ("", "other")
    )
    assert there.name == "both → other"
    assert not own.tested_on and all(row.drop is None for row in own.rows)
    by_arm = {(r.identity.fusion, r.identity.mode): r for r in own.rows}
    assert len(there.rows) == 7
    for row in there.rows:
        before = by_arm[row.identity.fusion, row.identity.mode].headline
        assert before and row.headline and row.drop and row.headline.n == 120
        value, low, high, _ = row.drop.difference
        assert value == pytest.approx(before.value - row.headline.value)
        assert low < value < high
    ranked = [row for row in there.rows if row.rank is not None]
    assert not any("folds" in text for row in ranked for text in row.why)


def test_every_format_and_the_page_tell_the_drop(found, runtime, tmp_path):
    store = Store(runtime.store)
    shown = {f: table.show(store, format=f, targets=("both",)) for f in ("md", "csv", "json")}
    assert "both → other" in shown["md"]
    assert "drop" in shown["md"].lower()
    rows = [row for row in csv.DictReader(io.StringIO(shown["csv"])) if row["tested_on"] == "other"]
    assert len(rows) == 7 and all(float(row["drop_low"]) < float(row["drop_value"]) for row in rows)
    boards = {made["tested_on"]: made for made in json.loads(shown["json"])}
    assert boards["other"]["rows"][0]["drop"]["difference"]["n"] > 0
    write.write(store, tmp_path)
    page = next(tmp_path.glob("target-both*")).read_text()
    assert "both → other" in page and ">Drop<" in page


def test_a_second_folder_is_read_as_the_target_by_a_table_of_the_same_name(tmp_path):
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    (tmp_path / "there" / "my.csv").write_text("image,dx\n")
    asked = {
        "target": str(tmp_path / "here"), "metadata": str(tmp_path / "my.csv"), "label": "dx",
        "test_on": [str(tmp_path / "there")],
    }  # fmt: skip
    (found,) = requests(asked)
    given = {one.name: one.given for one in found.named if one.given}
    assert found.test_ons == ("folder:there",)
    assert given["folder:here"].metadata == tmp_path / "my.csv"
    assert given["folder:there"].metadata == tmp_path / "there" / "my.csv"
    assert given["folder:there"].label == "dx"


def test_a_planted_shortcut_shows_as_a_drop(runtime):
    asked = request(targets=("demo:shortcut",), test_ons=("demo:clean",), fusions=("none",))
    run_all(asked.model_copy(update={"folds": (0,)}), runtime)
    made = table.boards(Store(runtime.store), targets=("demo:shortcut",))
    row = next(one for one in made if one.tested_on == "demo:clean").rows[0]
    assert row.drop is not None and row.headline is not None
    assert row.drop.difference.low > 0.1
    assert row.headline.n == 900


def test_the_mark_goes_with_the_label_and_only_there():
    plain, marked = lesions(count=900), marked_ones(lesions(count=900))
    changed = (plain.images != marked.images).any((1, 2, 3))
    assert (changed == (plain.labels == 1)).mean() == pytest.approx(0.9, abs=0.03)
    assert np.array_equal(plain.images[:, 8:], marked.images[:, 8:])
    other = lesions(count=900, seed=1)
    seen = [{one.tobytes() for one in found.images} for found in (plain, other)]
    assert not seen[0] & seen[1]


@pytest.mark.real
@pytest.mark.slow
def test_two_halves_of_isic_by_site_have_a_board_with_a_drop(real_data, tmp_path):
    halves = ("back", "lower extremity", "trunk"), ("face", "abdomen", "upper extremity")
    base = real_data / "isic2018"
    rows = read_table(base / "HAM10000_metadata.csv", need=("image_id", "dx", "localization"))
    for name, sites in zip(("first", "second"), halves, strict=True):
        seen, kept = set[str](), dict[str, int]()
        for row in rows:
            label = row["dx"]
            if row["localization"] not in sites or label not in ("nv", "mel", "bkl"):
                continue
            if row["lesion_id"] in seen or kept.get(label, 0) == 100:
                continue
            seen.add(row["lesion_id"])
            kept[label] = kept.get(label, 0) + 1
            link = tmp_path / name / label / f"{row['image_id']}.jpg"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(base / "ISIC2018_Task3_Training_Input" / link.name)
    (asked,) = requests({
        "target": str(tmp_path / "first"), "test_on": str(tmp_path / "second"),
        "arch": "test_resnet", "mode": "frozen", "size": 64, "threads": 1,
    })  # fmt: skip
    how = {"device": "cpu", "workers": 1, "offline": True, "draws": 200}
    runtime = Runtime(store=tmp_path / "store", **how, **told(asked.named))
    run_all(asked, runtime)
    made = {one.tested_on: one for one in table.boards(Store(runtime.store))}
    row = made["folder:second"].rows[0]
    assert made["folder:second"].name == "folder:first → folder:second"
    assert row.drop is not None and row.headline is not None and row.rank == 1
    assert row.drop.difference.low < row.drop.difference.value < row.drop.difference.high
    assert row.headline.n == 300
