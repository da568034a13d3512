"""What the record adds, network beside network: gains by metric, box plots over classes, stars."""

from pathlib import Path

import boards
import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmark.store import Store
from reports.leaderboard import across, table
from reports.page import write


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("across"))
    made.prepare()
    for arch, mode in (("resnet50", "frozen"), ("vgg16", "tuned")):
        for fusion, skill in (("none", 0.7), ("concat", 1.5)):
            part = boards.predictions("isic", skill, 0, arm=fusion + arch, classes=7)
            boards.run(made, fusion=fusion, folds=1, predictions=part,
                       spec={"arch": arch, "mode": mode})  # fmt: skip
    return made


def test_gains_are_the_differences_of_the_rows_in_points(store: Store):
    (made,) = table.boards(store)
    found = across.of([made])
    assert found is not None
    assert sorted(gain.label for gain in found.gains) == [
        "resnet50 frozen · standard, dtd, concat",
        "vgg16 tuned · standard, dtd, concat",
    ]
    gain = next(gain for gain in found.gains if gain.label.startswith("vgg16"))
    rows = {row.identity.fusion: row for row in made.rows if row.identity.arch == "vgg16"}
    for name, value in zip(across.METRICS, gain.metrics, strict=True):
        expected = 100 * (rows["concat"].metrics[name].value - rows["none"].metrics[name].value)
        assert value == pytest.approx(expected)
    both = zip(rows["concat"].per_class, rows["none"].per_class, strict=True)
    apart = [100 * (one["auroc"].value - other["auroc"].value) for one, other in both]
    assert [value for _, value in gain.classes] == pytest.approx(apart)
    assert gain.p == pytest.approx(float(np.asarray(scipy_stats.wilcoxon(apart))[1]))
    assert gain.stars == "**"


def test_the_page_shows_both_and_a_single_arm_is_not_set_side_by_side(store: Store, tmp_path: Path):
    write.write(store, tmp_path)
    text = (tmp_path / "target-isic.html").read_text()
    assert "What the record adds, across networks" in text
    assert "vgg16 tuned · standard, dtd, concat **" in text
    (made,) = table.boards(store, archs=("vgg16",))
    assert across.of([made]) is None
