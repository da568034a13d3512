"""What a user types and sees: one clear sentence for bad input, exit code 2, nothing lost."""

import contextlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from benchmark import cli, contract
from benchmark.engine import local
from benchmark.errors import BenchError
from benchmark.plan import plan, run
from benchmark.spec import Failure
from benchmark.store import Store

TINY = Path(__file__).parent / "components" / "tiny.py"


class Said(NamedTuple):
    """How a command ended and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def bench(*words: str | Path) -> Said:
    """Run the command line in this process; workers of their own are tested with the engine."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["bench", *map(str, words)])
        patch.setenv("CI", "1")
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BenchError:  # --debug lets it through
            code = 1
            traceback.print_exc(file=errors)
    return Said(code, out.getvalue(), errors.getvalue())


def refused(found: Said, *words: str) -> None:
    """Exit code 2, the words are said, and no traceback is shown."""
    assert found.returncode == 2, found.stderr + found.stdout
    assert "Traceback" not in found.stderr
    for word in words:
        assert word in found.stderr, found.stderr


def images(root: Path, counts: dict[str, int], *, size: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for label, n in counts.items():
        (root / label).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{label}{i}.png")
    return root


SMALL = ("--arch", "test_resnet", "--protocol", "demo", "--mode", "frozen", "--epochs", "1",
         "--threads", "1", "--device", "cpu", "--fold", "0", "--slots", "0")  # fmt: skip


def test_unknown_names_say_what_was_meant(tmp_path: Path):
    store = ("--store", tmp_path / "store")
    refused(
        bench("run", "--target", "isik", *store), "No target named 'isik'", "Did you mean isic?"
    )
    refused(bench("run", "--target", "isic", "--source", "dtdd", *store), "Did you mean dtd?")
    refused(bench("run", "--target", "isic", "--fusion", "concart", *store), "Did you mean concat?")
    assert not list((tmp_path / "store").glob("runs/*/*/outcome.json"))
    refused(bench("run", "--target", TINY, "--arch", "resnet5", *store, *SMALL[2:]), "resnet5")


def test_missing_data_says_what_to_do(tmp_path: Path):
    found = bench("run", "--target", "adni", "--data", tmp_path, "--store", tmp_path / "s", *SMALL)
    refused(found, "adni", "data_missing")


def test_the_users_folder_runs_and_its_errors_name_the_file(tmp_path: Path):
    folder = images(tmp_path / "mine", {"a": 12, "b": 12})
    store = ("--store", tmp_path / "store")
    found = bench("run", "--target", folder, *SMALL, *store)
    assert found.returncode == 0, found.stderr
    (folder / "a" / "a3.png").write_bytes((folder / "a" / "a3.png").read_bytes()[:200])
    refused(bench("run", "--target", folder, *SMALL, *store), "a3.png")
    (folder / "a" / "a3.png").write_text("no image at all")
    refused(bench("run", "--target", folder, *SMALL, *store), "a3.png")
    (folder / "a" / "a3.png").unlink()
    found = bench("run", "--target", folder, *SMALL, *store)
    assert found.returncode == 0, found.stderr


def test_a_folder_with_one_class_or_too_few_groups_is_refused(tmp_path: Path):
    store = ("--store", tmp_path / "store")
    one = images(tmp_path / "one", {"a": 8})
    refused(bench("run", "--target", one, *SMALL, *store), "one class only")
    few = images(tmp_path / "few", {"a": 1, "b": 1})
    refused(bench("run", "--target", few, *SMALL, *store), "fewer than the 3 folds")


def test_a_table_without_the_column_is_refused(tmp_path: Path):
    folder = images(tmp_path / "mine", {"a": 6, "b": 6})
    table = tmp_path / "table.csv"
    rows = [
        f"{p.name},{p.parent.name},{i % 5}" for i, p in enumerate(sorted(folder.rglob("*.png")))
    ]
    table.write_text("image,label,age\n" + "\n".join(rows) + "\n")
    words = ("run", "--target", folder, "--metadata", table, *SMALL, "--store", tmp_path / "store")
    refused(bench(*words, "--group", "patient"), "patient")
    refused(bench(*words, "--fusion", "concat", "--column", "weight"), "no column 'weight'")
    found = bench(*words, "--fusion", "concat", "--column", "age")
    assert found.returncode == 0, found.stderr


def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path: Path):
    folder = images(tmp_path / "mine", {"a": 6, "b": 6})
    Image.new("1", (10000, 10000)).save(folder / "a" / "bomb.png")
    found = bench("run", "--target", folder, *SMALL, "--store", tmp_path / "store")
    refused(found, "bomb.png", "megapixel")


def test_a_loss_that_is_not_finite_is_told(tmp_path: Path):
    found = bench(
        "run", "--target", TINY, "--store", tmp_path / "store", *SMALL[:4], *SMALL[6:],
        "--mode", "finetune", "--epochs", "2", "--set", "recipe.optimizer=sgd", "--lr", "1e30",
    )  # fmt: skip
    refused(found, "loss", "not_finite", "--lr")


def test_a_newer_store_is_refused(tmp_path: Path):
    (tmp_path / "store.json").write_text(json.dumps({"schema_version": 99}))
    refused(bench("run", "--target", TINY, "--store", tmp_path, *SMALL), "schema 99", "Upgrade")


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of its own with room for the decoded images and little more."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_told_and_what_is_finished_stays(tmp_path: Path, small_disk: Path):
    store = small_disk / "store"
    first = bench("run", "--target", TINY, "--store", store, *SMALL, "--no-keep")
    assert first.returncode == 0, first.stderr
    outcomes = {path: path.read_bytes() for path in store.glob("runs/*/*/outcome.json")}
    with (small_disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    words = ("run", "--target", TINY, "--store", store, *SMALL, "--seed", "1")
    refused(bench(*words, "--slots", "1"), "Could not write", "No space left")
    assert {path: path.read_bytes() for path in outcomes} == outcomes
    (small_disk / "filler").unlink()
    found = bench(*words, "--no-keep")
    assert found.returncode == 0, found.stderr


def test_settings_are_checked(tmp_path: Path):
    words = ("run", "--target", TINY, "--store", tmp_path / "store", *SMALL)
    refused(bench(*words, "--set", "recipe.learning=1"), "no setting 'learning'")
    refused(bench(*words, "--set", "nothing"), "--set nothing")
    refused(bench(*words, "--set", "other.lr=1"), "changes nothing known")
    refused(bench(*words, "--metadata", "x.csv"), "a folder of your own")
    refused(bench("run", "--target", "./nowhere", "--store", tmp_path), "nowhere")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "0"], "epochs is 0"),
        (["--limit", "0"], "limit is 0"),
        (["--size", "0"], "size is 0"),
        (["--size", "-5"], "size is -5"),
        (["--threads", "0"], "threads is 0"),
        (["--batch", "0"], "batch is 0"),
        (["--lr", "0"], "lr is 0"),
        (["--precision", "bf17"], "precision is bf17"),
        (["--slots", "-1"], "--slots"),
        (["--timeout", "0"], "--timeout"),
        (["--workers", "-1"], "--workers"),
        (["--retry", "omm"], "Did you mean oom?"),
        (["--retry", "oom,kiled"], "Did you mean killed?"),
        (["--device", "cdua"], "Did you mean cuda?"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence(tmp_path: Path, words: list[str], said: str):
    store = tmp_path / "store"
    refused(bench("run", "--target", TINY, "--store", store, *SMALL, *words), said)
    assert not (store / "runs").exists()


def test_distances_check_their_values(tmp_path: Path):
    words = ("distance", "--source", "dtd", "--target", "isic", "--method", "otdd")
    for more in (["--size", "0"], ["--limit", "-1"], ["--device", "gpu0"], ["--slots", "-1"]):
        refused(bench(*words, *more, "--store", tmp_path), more[0].strip("-"))
    refused(bench(*words, "--set", "recipe.lr=1", "--store", tmp_path), "cannot be asked", "recipe")
    for more in (["--metadata", "x.csv"], ["--label", "y"], ["--name", "mine"]):
        refused(bench(*words, *more, "--store", tmp_path), "a folder of your own", "--target ./")


class Closed(io.StringIO):
    """A pipe whose reader has gone after the first line."""

    def write(self, text: str) -> int:
        if self.tell():
            raise BrokenPipeError
        return super().write(text)


def test_a_reader_that_leaves_early_is_no_failure(tmp_path: Path, monkeypatch):
    words = ["run", "--target", TINY, *SMALL, "--store", tmp_path / "store"]
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, words)])
    with (
        contextlib.redirect_stderr(Closed()),
        contextlib.redirect_stdout(Closed()),
        pytest.raises(SystemExit) as end,
    ):
        cli.main()
    assert end.value.code == 0
    outcomes = [json.loads(path.read_text()) for path in tmp_path.rglob("outcome.json")]
    assert [outcome["status"] for outcome in outcomes] == ["ok"]


class Ending(io.StringIO):
    """Where a word written makes someone end the command: a scheduler, a closed terminal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        signal.raise_signal(self.number)
        return super().write(text)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("held", [False, True])  # as `nohup` does
def test_whoever_ends_a_command_ends_it_as_ctrl_c_does(monkeypatch, name: str, held: bool):
    number = getattr(signal, name)
    usual = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, signal.SIG_IGN if held else usual)
    monkeypatch.setattr(sys, "argv", ["bench", "version"])
    try:
        with contextlib.redirect_stdout(Ending(number)), pytest.raises(SystemExit) as end:
            cli.main()
    finally:
        signal.signal(number, before)
    assert end.value.code == (0 if held else 130)


def test_cells_without_an_outcome_are_not_counted_as_done(runtime, request_tiny, capsys):
    def forgetful(cells, runtime, *, listener, **how) -> bool:
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run", forgetful)  # as an executor that loses its cells
        code = run.run(request_tiny(folds=(0,)), runtime)
    said = capsys.readouterr().err
    assert code == 2
    assert "0 cells done" in said
    assert "1 cells ended without an outcome" in said


def test_what_failed_before_is_named_and_is_no_success(runtime, request_tiny, capsys):
    asked = request_tiny(fusions=("metadata:logistic",), folds=(0, 1))
    first, store = plan.make(asked, runtime).cells[0].cell, Store(runtime.store)
    store.fail(first, Failure(kind="oom", message="Out of memory."))
    here = run.Executor(slots=0)
    for done in ("1 cells done", "Nothing to do: 1 cells are done, 1 failed"):
        assert run.run(asked, runtime, executor=here) == 2
        said = capsys.readouterr().err
        assert done in said and "failed before (oom" in said and "--retry all" in said
    assert run.run(asked, runtime, executor=here, retry=("oom",)) == 0
    assert "failed before" not in capsys.readouterr().err


@pytest.mark.skipif(bool(local.visible_gpus()), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_runs(tmp_path: Path):
    words = ("run", "--target", TINY, *SMALL, "--store", tmp_path, "--device", "cuda")
    refused(bench(*words), "no GPU here", "--device cuda")
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_the_plan_and_writes_no_outcome(tmp_path: Path):
    store = tmp_path / "store"
    found = bench("run", "--target", TINY, "--store", store, *SMALL, "--dry-run")
    assert found.returncode == 0
    assert found.stdout.count("to run") == 1
    assert "not known yet" in found.stderr
    assert not (store / "runs").exists()
    assert bench("run", "--target", TINY, "--store", store, *SMALL).returncode == 0
    found = bench("run", "--target", TINY, "--store", store, *SMALL, "--lr", "0.5", "--dry-run")
    assert "recipe.lr 0.002 -> 0.5" in found.stdout
    assert "About" in found.stderr


@pytest.mark.parametrize(
    ("python", "fine"), [("3.9.18", False), ("3.11.0", True), ("3.110.1", True)]
)
def test_the_doctor_compares_versions_as_versions(monkeypatch, python: str, fine: bool):
    monkeypatch.setattr(platform, "python_version", lambda: python)
    monkeypatch.setattr(platform, "python_version_tuple", lambda: tuple(python.split(".")))
    told = dict(reversed(pair) for pair in contract.doctor())
    assert {line: ok for line, ok in told.items() if line.startswith("Python")} == {
        next(line for line in told if line.startswith(f"Python {python}")): fine
    }


def test_the_doctor_looks_at_every_package_that_is_needed(monkeypatch):
    true = metadata.version
    old = {"numpy": "1.9.3", "scipy": "1.100.0"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or true(name))
    wrong = [line for fine, line in contract.doctor() if not fine]
    assert wrong == ["numpy 1.9.3, but >=1.26 is needed"]


def test_debug_shows_the_traceback(tmp_path: Path):
    found = bench("run", "--target", "isik", "--store", tmp_path, "--debug")
    assert "Traceback" in found.stderr


def test_weights_of_the_users_own(tmp_path: Path):
    import timm
    import torch

    store = ("--store", tmp_path / "store")
    state = timm.create_model("test_resnet", pretrained=False).state_dict()
    torch.save({"state_dict": state}, tmp_path / "mine.pt")
    refused(
        bench("run", "--target", TINY, "--source", "weights:mine", *SMALL, *store), "weights add"
    )
    added = bench(
        "weights", "add", tmp_path / "mine.pt", "--name", "mine", "--arch", "test_resnet", *store
    )
    assert added.returncode == 0, added.stderr
    found = bench("run", "--target", TINY, "--source", "weights:mine", *SMALL, *store)
    assert found.returncode == 0, found.stderr
    listed = bench("weights", "list", *store)
    key = listed.stdout.split()[0]
    assert "weights:mine" in listed.stdout
    out = tmp_path / "out"
    assert bench("weights", "export", key, out, *store).returncode == 0
    other = ("--store", tmp_path / "other")
    assert bench("weights", "import", out, *other).returncode == 0
    assert key in bench("weights", "list", *other).stdout
    with (out / "weights.safetensors").open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"tampered")
    refused(
        bench("weights", "import", out, "--store", tmp_path / "third"), "changed after the export"
    )
    torch.save(torch.nn.Linear(1, 1), tmp_path / "object.pt")
    words = (
        "weights",
        "add",
        tmp_path / "object.pt",
        "--name",
        "bad",
        "--arch",
        "test_resnet",
        *store,
    )
    refused(bench(*words), "plain tensors")


def test_the_store_tells_its_size_and_drops_only_caches(tmp_path: Path):
    store = tmp_path / "store"
    assert bench("run", "--target", TINY, "--store", store, *SMALL).returncode == 0
    assert "runs" in bench("store", "du", "--store", store).stdout
    assert bench("store", "du", "--store", tmp_path / "nowhere").returncode == 0
    outcomes = list(store.glob("runs/*/*/outcome.json"))
    assert "features" in bench("store", "gc", "--store", store).stdout
    assert (store / "features").exists()
    bench("store", "gc", "--yes", "--store", store)
    assert not list((store / "features").iterdir())
    assert list(store.glob("runs/*/*/outcome.json")) == outcomes


@pytest.mark.parametrize("words", [["list"], ["data", "list"], ["doctor"], ["version"]])
def test_readers_answer(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = bench(*words)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


ANSWERS = """observer,dataset,property,answer
ann,demo:skin,kind,medical
ann,patterns:near,kind,natural
ann,demo:skin,colour,red
ann,patterns:near,colour,red
bob,demo:skin,kind,medical
bob,patterns:near,kind,medical
bob,demo:skin,colour,red
bob,patterns:near,colour,red
eve,demo:skin,kind,medical
eve,patterns:near,kind,natural
eve,demo:skin,colour,brown
eve,patterns:near,colour,red
"""


def test_raw_answers_take_the_place_of_the_cards(tmp_path: Path):
    table = tmp_path / "answers.csv"
    table.write_text(ANSWERS)
    asked = ("distance", "--method", "expert", "--source", "patterns:near", "--target",
             "demo:skin", "--store", tmp_path / "store", "--slots", "0")  # fmt: skip
    cards = bench(*asked)
    assert cards.returncode == 0, cards.stderr
    assert "3" in cards.stdout
    found = bench(*asked, "--answers", table, "--format", "json")
    assert found.returncode == 0, found.stderr
    (row,) = json.loads(found.stdout)
    # Without bob, red and brown tie, and brown comes first: two properties differ.
    assert (row["method"], row["value"], row["low"], row["high"]) == ("expert:answers", 1, 0, 2)
    table.write_text(ANSWERS.replace("eve,patterns:near,kind,natural", "eve,patterns:near,kind,x"))
    again = bench(*asked, "--answers", table, "--dry-run")
    assert "to run" in again.stdout and "version of method" in again.stdout
    refused(
        bench(*asked[:6], "demo:grey", *asked[7:], "--answers", table), "nothing of", "demo:grey"
    )
    refused(bench(*asked[:2], "otdd", *asked[3:], "--answers", table), "--method expert")


def test_results_go_out_and_come_in_and_are_counted(tmp_path: Path):
    ours, theirs, box = tmp_path / "ours", tmp_path / "theirs", tmp_path / "results.zip"
    found = bench(
        "distance", "--method", "expert", "--source", "patterns:near", "--source", "patterns:far",
        "--target", "demo:skin", "--store", ours, "--slots", "0",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    found = bench("results", "export", box, "--store", ours)
    assert found.returncode == 0, found.stderr
    first, again = (bench("results", "import", box, "--store", theirs) for _ in range(2))
    assert "2 cells added, 0 put in place of failures, 0 were here already." in first.stderr
    assert "0 cells added, 0 put in place of failures, 2 were here already." in again.stderr


def test_linear_algebra_of_a_command_has_one_thread():
    code = (
        "import atexit, sys, threadpoolctl\n"
        "from benchmark import cli\n"
        "def tell():\n"
        "    import numpy, scipy.linalg\n"
        "    print({p['num_threads'] for p in threadpoolctl.threadpool_info()"
        " if p['user_api'] == 'blas'})\n"
        "atexit.register(tell)\n"
        "sys.argv = ['bench', 'version']\n"
        "cli.process()\n"
    )
    plain = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain
    )
    assert found.stdout.splitlines()[-1] == "{1}"
