"""A set is decoded once, whole or not at all, by however many ask; copies and overlap are seen."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark import images, registry
from benchmark.api import Sample
from benchmark.data import contents, prepare
from benchmark.errors import BenchError
from benchmark.plan import run
from benchmark.spec import Cell, DistanceSpec, Input, Runtime
from benchmark.store import Store


def folder(root: Path, n: int = 12, *, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for i in range(n):
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def own(tmp_path: Path, place: Path, **more) -> Runtime:
    inputs = {f"folder:{place.name}": Input(path=place)}
    return Runtime(store=tmp_path / "store", inputs=inputs, **{"workers": 1, **more})


@pytest.mark.parametrize("kept", [False, True], ids=["touched", "times kept"])
def test_a_changed_file_of_the_same_size_is_another_set(tmp_path: Path, kept: bool):
    """Also after its time of change was set back, and where the file had been seen before."""
    place = tmp_path / "mine"
    for i, label in enumerate("aabb"):
        (place / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * i, 0, 0)).save(place / label / f"{i}.bmp")
    runtime, path = own(tmp_path, place), place / "a" / "0.bmp"
    given = runtime.inputs["folder:mine"]
    before = path.stat()
    for _ in range(2):
        first = registry.version("target", "folder:mine", given=given)
    assert first == registry.version("target", "folder:mine", given=given)
    old = prepare.prepare("folder:mine", 8, runtime)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    if kept:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert registry.version("target", "folder:mine", given=given) != first
    new = prepare.prepare("folder:mine", 8, runtime)
    row = old.names.tolist().index("a/0.bmp")
    assert (old.images[row, 0, 0, 0], new.images[row, 0, 0, 0]) == (0, 200)


def test_a_settled_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = folder(tmp_path / "mine")
    files = sorted(place.glob("*/*.png"))
    monkeypatch.setattr(contents, "SETTLED", -1.0)
    first = contents.digests(place, files)
    monkeypatch.setattr(contents.hashlib, "file_digest", None)  # reading would fail
    assert contents.digests(place, files) == first
    assert len({*first}) == len(files)


def test_a_prepared_set_is_what_was_read(tmp_path: Path):
    place = folder(tmp_path / "mine")
    found = prepare.prepare("folder:mine", (10, 15), own(tmp_path, place))
    assert found.images.shape == (12, 10, 15, 3)
    assert found.classes == ("a", "b")
    assert np.bincount(found.labels).tolist() == [6, 6]
    assert len(set(found.groups.tolist())) == 12
    first = next(i for i, name in enumerate(found.names) if name.endswith("0.png"))
    with Image.open(place / "a" / "0.png") as image:
        expected = np.asarray(image.resize((15, 10), Image.Resampling.BILINEAR))
    assert np.abs(found.images[first].astype(int) - expected.astype(int)).max() <= 1


def test_colour_constancy_comes_before_resizing(tmp_path: Path):
    place = folder(tmp_path / "mine")
    runtime = own(tmp_path, place)
    found = prepare.prepare("folder:mine", (10, 15), runtime, constancy=True)
    first = next(i for i, name in enumerate(found.names) if name.endswith("0.png"))
    pixels = images.decode(place / "a" / "0.png")
    expected = images.resize(images.shades_of_gray(pixels), (10, 15))
    assert np.array_equal(found.images[first], expected)
    late = images.shades_of_gray(images.resize(pixels, (10, 15)))
    assert not np.array_equal(expected, late)
    plain = prepare.prepare("folder:mine", (10, 15), runtime)
    assert plain.hashes.tolist() == found.hashes.tolist(), "of the pixels as they are stored"
    assert not np.array_equal(plain.images, found.images)


def test_it_is_decoded_once(tmp_path: Path):
    place = folder(tmp_path / "mine")
    runtime, seen = own(tmp_path, place), []
    prepare.prepare("folder:mine", 8, runtime, progress=lambda done, total: seen.append(done))
    assert seen[-1] == 12
    seen.clear()
    prepare.prepare("folder:mine", 8, runtime, progress=lambda done, total: seen.append(done))
    assert not seen


def test_what_changes_is_decoded_again(tmp_path: Path):
    place = folder(tmp_path / "mine")
    first = prepare.prepare("folder:mine", 8, own(tmp_path, place))
    Image.new("RGB", (20, 30)).save(place / "a" / "more.png")
    again = prepare.prepare("folder:mine", 8, own(tmp_path, place))
    assert len(again.labels) == len(first.labels) + 1
    assert again.digest != first.digest


def test_two_places_of_one_set_do_not_mix(tmp_path: Path):
    """One name and one store, first with these data, then with those."""
    found = []
    for seed in (1, 2, 1):
        place = tmp_path / f"data{seed}"
        registry.load("source", "chest_xray").fake(place / "chest_xray", seed)
        found.append(
            prepare.prepare("chest_xray", 16, Runtime(store=tmp_path / "s", data=place, workers=1))
        )
    one, other, again = (prepared.images.tobytes() for prepared in found)
    assert one == again != other


def _ask(arguments) -> str:
    return prepare.prepare("folder:mine", 16, arguments).digest


def test_two_processes_that_prepare_the_same_set_do_not_meet(tmp_path: Path):
    runtime = own(tmp_path, folder(tmp_path / "mine", 60))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        digests = pool.map(_ask, [runtime] * 3, chunksize=1)
    assert len(set(digests)) == 1
    left = [path.name for path in (tmp_path / "store" / "prepared").iterdir()]
    assert len(left) == 1
    assert ".tmp-" not in left[0]


def test_many_processes_give_what_one_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepare, "FEW", 10)
    place = folder(tmp_path / "mine", 150)
    one = prepare.prepare("folder:mine", 16, own(tmp_path / "one", place))
    two = prepare.prepare("folder:mine", 16, own(tmp_path / "two", place, workers=2))
    assert one.digest == two.digest
    assert np.array_equal(one.images, two.images)


def test_a_broken_image_stops_every_process_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "FEW", 10)
    place = folder(tmp_path / "mine", 150)
    (place / "a" / "88.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(BenchError, match=r"88\.png"):
        prepare.prepare("folder:mine", 16, own(tmp_path, place, workers=2))
    assert not list((tmp_path / "store" / "prepared").iterdir())


def test_copies_are_counted_and_known_at_any_size(tmp_path: Path):
    place = folder(tmp_path / "mine")
    (place / "a" / "copy.png").write_bytes((place / "a" / "0.png").read_bytes())
    other = folder(tmp_path / "other", seed=1)
    (other / "b" / "theirs.png").write_bytes((place / "a" / "2.png").read_bytes())
    one = prepare.prepare("folder:mine", 8, own(tmp_path, place))
    two = prepare.prepare("folder:other", 16, own(tmp_path, other))
    assert prepare.describe(one)["duplicates"] == 1
    assert len({*one.hashes} & {*two.hashes}) == 1, "the hash is of the original pixels"


def test_groups_lose_their_names(tmp_path: Path):
    place = folder(tmp_path / "mine")
    table = tmp_path / "table.csv"
    rows = [f"{i}.png,{'ab'[i % 2]},SECRET-{i // 3}" for i in range(12)]
    table.write_text("image,label,patient\n" + "\n".join(rows) + "\n")
    where = Input(path=place, metadata=table, label="label", group="patient", image="image")
    runtime = Runtime(store=tmp_path / "store", inputs={"folder:mine": where}, workers=1)
    found = prepare.prepare("folder:mine", 8, runtime)
    assert len(set(found.groups.tolist())) == 4
    text = "".join(p.read_text() for p in (tmp_path / "store").rglob("table.csv"))
    assert "SECRET" not in text


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "images", "groups", "classes", "duplicates"),
    [
        pytest.param("isic", 10015, 7470, 7, None, marks=pytest.mark.slow),
        ("dtd", 1200, 1200, 10, None),
        ("chest_xray", 624, None, 2, 6),
        ("oasis", 588, 196, 2, 0),
        pytest.param("cifar10", 9894, 9894, 10, None, marks=pytest.mark.slow),
    ],
)
def test_real_sets(real_data: Path, tmp_path: Path, name, images, groups, classes, duplicates):
    runtime = Runtime(data=real_data, store=tmp_path, offline=True, workers=os.cpu_count() or 1)
    found = prepare.describe(prepare.prepare(name, 16, runtime))
    assert found["images"] == images
    assert len(found["classes"]) == classes
    assert groups is None or found["groups"] == groups
    assert duplicates is None or found["duplicates"] == duplicates


STUMBLES = """
import os, signal, time
from pathlib import Path
from tiny import Tiny

class Stumbles(Tiny):
    card = Tiny.card
    variants = ("reads", "dies", "sleeps")
    def records(self, root):
        if self.variant == "reads":
            raise ValueError("a line that nobody foresaw")
        return super().records(root)
    def decode(self, record, size, **how):
        if self.variant == "sleeps":
            Path(__file__).with_name(f"{os.getpid()}.pid").touch()
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
"""

PREPARES = """
from pathlib import Path
from benchmark.data import prepare
from benchmark.spec import Runtime

if __name__ == "__main__":
    here = Path(__file__).parent
    prepare.FEW, paths = 0, {"stumbles:sleeps": here / "stumbles.py"}
    how = Runtime(store=here / "store", workers=2, offline=True, paths=paths)
    prepare.prepare("stumbles:sleeps", 8, how)
"""


def test_decoders_end_with_the_command_that_started_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "stumbles.py").write_text(STUMBLES)
    (tmp_path / "prepares.py").write_text(PREPARES)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "components"))
    command = subprocess.Popen([sys.executable, str(tmp_path / "prepares.py")])
    while not (found := list(tmp_path.glob("*.pid"))):
        assert command.poll() is None
        time.sleep(0.05)
    assert str(command.pid) not in {path.stem for path in found}
    command.kill()
    command.wait()
    began = time.monotonic()
    while any(Path(f"/proc/{path.stem}").exists() for path in found):
        assert time.monotonic() - began < 60
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [("reads", "bad_input", "ValueError"), ("dies", "killed", "decodes the images")],
)
def test_a_set_that_cannot_be_read_costs_its_own_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, how: str, kind: str, said: str
):
    tiny = Path(__file__).parent / "components" / "tiny.py"
    (tmp_path / "stumbles.py").write_text(STUMBLES)
    monkeypatch.syspath_prepend(str(tiny.parent))
    monkeypatch.setenv("PYTHONPATH", str(tiny.parent))
    monkeypatch.setattr(prepare, "FEW", 97 if how == "reads" else 0)
    name = f"stumbles:{how}"
    runtime = Runtime(
        store=tmp_path / "store", workers=2, offline=True,
        paths={"tiny": tiny, name: tmp_path / "stumbles.py"},
    )  # fmt: skip
    cells = [
        Cell.of(DistanceSpec(source=n, target=n, method="otdd", size=8)) for n in ("tiny", name)
    ]
    if how == "dies":
        cells = cells[1:]
    store = Store(runtime.store)
    good, failures = run._prepare(cells, runtime, store)
    assert good == cells[:-1]
    assert [(cell, failure.kind) for cell, failure in failures] == [(cells[-1], kind)]
    assert said in failures[0][1].message
    outcome = store.outcome("distance", cells[-1].key)
    assert outcome is not None and outcome.failure == failures[0][1]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    place = folder(tmp_path / "mine")
    os.mkfifo(place / "a" / "pipe.png")
    os.mkfifo(place / "a" / "pipe.dcm")
    (place / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    runtime = own(tmp_path, place)
    with pytest.raises(BenchError):
        prepare.prepare("folder:mine", 8, runtime)
    for name in ("pipe.png", "pipe.dcm"):
        with pytest.raises(BenchError):
            registry.load("target", "folder").decode(Sample(place / "a" / name, "a", "x"), 8)
