"""A whole store, copies of it, and commands on them, each in a fork of one process.

That process imports everything and computes nothing, so that a command costs a fraction of a
second instead of several.
"""

import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

TINY = Path(__file__).resolve().parent / "components" / "tiny.py"
STUCK = 300.0  # seconds: longer than any command takes
#: Files that nobody writes in: a copy of a store links them.
LINKED = (".safetensors", ".npy", ".npz", ".html", ".png")
PRETRAIN = [w for k in ("size=32", "epochs=2", "threads=1") for w in ("--set", f"pretrain.{k}")]
HOW = [*PRETRAIN, "--arch", "test_resnet", "--device", "cpu", "--offline", "--slots", "0",
       "--no-mlflow"]  # fmt: skip
#: Heads that are solved for, a gated one trained by choice, and two trained in a loop.
PLAN = """
target: tiny
mode: frozen
recipe.head: chosen
fusion: [none, concat, late:product]
include:
- {source: other, fusion: film}
- {source: none, fusion: [concat, film], recipe.head: trained}
"""
#: Its small share: one head of either kind on each source.
SMALL = """
target: tiny
mode: frozen
recipe.head: chosen
fusion: none
include:
- {source: other, fusion: film, recipe.head: trained}
"""
COMMANDS = {
    "run": ["run", "@/plan.yaml", "--target", "@/tiny.py", "--source", "none",
            "--source", "@/other.py", "--protocol", "demo", "--fold", "0", "--epochs", "4",
            "--batch", "16", "--threads", "1", *HOW],
    "distance": ["distance", "--source", "@/other.py", "--target", "@/tiny.py",
                 "--method", "scores:logme", "--method", "rivals:frechet",
                 "--probe", "@/other.py", "--size", "32", *HOW],
    "decode": ["data", "prepare", "@/tiny.py", "--size", "32", "--workers", "2"],
    "verify": ["store", "verify"],
    "mend": ["store", "verify", "--mend"],
    "leaderboard": ["leaderboard", "--format", "json"],
    "status": ["status", "--format", "json"],
    "compare": ["compare", "concat", "none", "--format", "json"],
    "weights": ["weights", "list"],
    "transfer": ["transfer", "--mode", "frozen", "--baseline", "random", "--format", "json"],
    "du": ["store", "du"],
    "export": ["results", "export", "@/out.zip"],
    "import": ["results", "import", "@/whole.zip"],
    "predict": ["predict", "KEY", "@/images", "--device", "cpu", "--metadata", "@/table.csv"],
    "report": ["report", "--out", "@/report"],
    "sync": ["mlflow", "sync"],
}  # fmt: skip
#: Commands that only read, with how often a damage is looked at by each.
READERS = {"leaderboard": 1.0, "status": 1.0, "predict": 1.0, "weights": 0.5, "export": 0.5,
           "transfer": 0.3, "compare": 0.2, "sync": 0.2, "report": 0.15}  # fmt: skip
#: What is left out of the small share of it all that runs among the other tests.
SLOW = ("distance", "sync", "report", "compare", "transfer", "decode", "worker")
#: What its commands import.
HEAVY = ("benchmark.train.job", "benchmark.train.finetune", "benchmark.train.features",
         "benchmark.train.pretrain", "benchmark.train.measure", "benchmark.plan.plan",
         "benchmark.bundle", "benchmark.explain.predict", "reports.leaderboard.table",
         "reports.status", "torch._dynamo", "timm", "sklearn.ensemble", "sklearn.pipeline",
         "pandas", "PIL.Image")  # fmt: skip


class Ended(NamedTuple):
    """What a command came to; the code is minus the signal that killed it."""

    code: int
    out: str
    err: str


def begin(words: list[str], folder: Path, *, pool: bool = False, dies: bool = False) -> int:
    """Start a command in a fork of this process, its output into two files; the fork's number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        sys.argv = ["bench", *words]
        from benchmark import cli
        from benchmark.data import prepare as data
        from benchmark.train import loop

        data.FEW = 0 if pool else data.FEW
        if dies:  # as soon as it has written a checkpoint
            save = loop._save
            loop._save = lambda *a: (save(*a), os.kill(os.getpid(), signal.SIGKILL))
        cli.main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        (folder / "modules").write_text("\n".join(sys.modules))
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            tasks = Path(f"/proc/{one}/task").iterdir()
            found += [int(n) for t in tasks for n in (t / "children").read_text().split()]
    return found


def _lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def wait(pid: int, seconds: float) -> int | None:
    """The status a process ended with; None if it goes on for longer."""
    until = time.monotonic() + seconds
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            return None
        time.sleep(0.003)
    return found[1]


class Bench:
    """Commands on one store, and what was wrong with them."""

    def __init__(self, root: Path, makers: tuple[str, ...]) -> None:
        self.root, self.store, self.makers = root, root / "store", makers
        self.logs = root / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.troubles: list[tuple[str, str]] = []
        self.seconds: dict[str, float] = {}

    def start(self, name: str, *more: str, **how: bool) -> int:
        words = [word.replace("@", str(self.root)) for word in COMMANDS[name]]
        if name == "predict":
            words[1] = more[0]
            more = ()
        return begin([*words, *more, "--store", str(self.store)], self.logs, **how)

    def run(self, name: str, *more: str, **how: bool) -> Ended:
        """Run a command to its end."""
        began = time.monotonic()
        ended = self.end(name, self.start(name, *more, **how))
        self.seconds[name] = time.monotonic() - began
        return ended

    def end(self, name: str, pid: int, *, killed: bool = False) -> Ended:
        """Wait for a command; a traceback anywhere, or another end than these, is trouble."""
        status = wait(pid, STUCK)
        if status is None:
            self.note("stuck", f"{name} went on for {STUCK:g} s: {self.said}")
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        texts = [(self.logs / name).read_text(errors="replace") for name in ("out", "err")]
        if "Traceback" in texts[1] or code not in ((0, 2, -9) if killed else (0, 2)):
            last = " / ".join(line.strip() for line in texts[1].strip().splitlines()[-9:])
            self.note("traceback", f"{name} ended with {code}: {last}")
        return Ended(code, *texts)

    def note(self, what: str, why: str) -> None:
        self.troubles.append((what, why.replace(str(self.root), "@")))

    def numbers(self) -> dict[str, str]:
        """Of each finished cell what must be equal to the last bit."""
        from benchmark.errors import BenchError
        from benchmark.store import Store

        store, found = Store(self.store), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes = [o for k in ("pretrain", "run", "distance") for o in store.outcomes(k)]
            for outcome in outcomes:
                if outcome.status != "ok":
                    continue
                facts: list[Any] = [repr(sorted(outcome.metrics.items()))]
                facts += [[(h["loss"], h.get("val_auroc")) for h in outcome.history]]
                facts += [sorted(i for i in outcome.files.items() if i[0].endswith("safetensors"))]
                if outcome.spec.kind == "run":
                    with suppress(BenchError):
                        arrays = store.predictions(outcome.key).values()
                        facts += [hashlib.sha256(a.tobytes()).hexdigest() for a in arrays]
                found[f"{outcome.spec.kind}/{outcome.key}"] = json.dumps(facts)
        return found

    def hold(self, before: dict[str, str], lost: str = "lost", changed: str = "changed") -> bool:
        """Whether all that was there is there, and the same."""
        now = self.numbers()
        gone = sorted(before.keys() - now.keys())
        other = sorted(key for key in before.keys() & now.keys() if before[key] != now[key])
        if gone:
            self.note(lost, f"missing: {gone}; the last command said: {self.said}")
        if other:
            self.note(changed, f"other than before: {other}")
        return not gone and not other

    def alone(self, others: list[int]) -> None:
        """No child outlives its parent."""
        until = time.monotonic() + 30
        while any(map(_lives, others)):
            if time.monotonic() > until:
                self.note("stuck", "a child outlived its parent")
                return
            time.sleep(0.05)

    @property
    def said(self) -> str:
        return " / ".join((self.logs / "err").read_text(errors="replace").splitlines()[-6:])

    def again(self, whole: dict[str, str], lost: str = "lost", changed: str = "changed") -> None:
        """The same commands bring everything back."""
        codes = [self.run(name).code for name in self.makers]
        if any(codes) and self.hold(whole, lost, changed):
            self.note(lost, f"the same commands end with {codes}: {self.said}")
        elif not any(codes):
            self.hold(whole, lost, changed)


class Whole:
    """A store in which everything is done, one in which a cell was killed, and their numbers."""

    def __init__(self, root: Path, seed: int, *, light: bool = False) -> None:
        self.root, self.seed, self.light = root, seed, light
        self.readers = {n: s for n, s in READERS.items() if not light or n not in SLOW}
        self.tree = root / "whole"
        self.files: dict[tuple[str, str], list[Path]] = {}
        self.expected: dict[tuple[str, str], Ended] = {}
        self.makers = ("run",) if light else ("run", "distance")
        self.bench = Bench(self.tree, self.makers)
        shutil.copy(TINY, self.tree / "tiny.py")
        other = TINY.read_text().replace("default_rng(7)", "default_rng(8)")
        (self.tree / "other.py").write_text(other)
        (self.tree / "plan.yaml").write_text(SMALL if light else PLAN)

    def prepare(self) -> None:
        """Make the whole store, and import here whatever its commands import."""
        for name in HEAVY:
            importlib.import_module(name)
        self._images()
        bench, store = self.bench, self.bench.store
        if not self.light:
            self._first("decode", "sync")
            (store / "mlflow.db").rename(self.tree / "empty.db")  # a filled one names its place
        self._first(*self.makers, "export")
        self.whole = bench.numbers()
        self.size = sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
        (self.tree / "out.zip").rename(self.tree / "whole.zip")
        store.rename(self.tree / "made")
        self._first("import")
        self.imported = bench.numbers()
        if not self.light:  # once more, timed without imports
            shutil.rmtree(store)
            self._first(*self.makers, "decode", "sync")
        shutil.rmtree(store)
        (self.tree / "made").rename(store)
        self._half()

    def _first(self, *names: str) -> None:
        """Run commands for the first time, then import here what they had to."""
        import torch

        from benchmark import index
        from benchmark.train import loop

        torch.set_num_threads(1)
        loop.CHECKPOINT_EVERY = 0.0
        index.FEW = 0  # so that a small store has one too
        for name in names:
            ended = self.bench.run(name)
            if ended.code:
                raise SystemExit(f"{name} fails before anything was broken:\n{ended.err}")
            for module in (self.bench.logs / "modules").read_text().splitlines():
                if module not in sys.modules and module != "__mp_main__":
                    with suppress(Exception):
                        importlib.import_module(module)

    def _images(self) -> None:
        import numpy as np
        from PIL import Image

        (self.tree / "images").mkdir()
        rng, lines = np.random.default_rng(self.seed), ["image,age,site"]
        for i in range(4):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.tree / "images" / f"{i}.png")
            lines.append(f"{i}.png,{40 + i},{'arm' if i % 2 else 'leg'}")
        (self.tree / "table.csv").write_text("\n".join(lines) + "\n")

    def _half(self) -> None:
        """A copy in which a killed cell left its checkpoint, and what readers say of it."""
        from benchmark.store import Store

        half = self.copy("half")
        made = Store(half.store).outcomes()
        film = next(o for o in made if o.spec.fusion == "film" and o.spec.recipe.head == "trained")
        folder = Store(half.store).folder("run", film.key)
        shutil.rmtree(folder)
        wait(half.start("run", dies=True), STUCK)
        assert (folder / "last.pt").is_file(), "no checkpoint was written"
        self.runs = [o.key for o in made if o.spec.fusion[:4] != "late" and o.key != film.key]
        for path in sorted(p for p in half.store.rglob("*") if p.is_file()):
            name = path.relative_to(half.store)
            kind = (name.parts[0], name.suffix if name.parts[0] == "grids" else name.name)
            self.files.setdefault(kind, []).append(name)
        for name in self.readers:
            for key in self.runs if name == "predict" else [""]:
                looked = self.copy("looked", "half")
                self.expected[name, key] = self._look(looked, name, key)
                if looked.troubles:
                    raise SystemExit(f"{name} fails before anything was broken: {looked.said}")
                shutil.rmtree(looked.root)

    def _look(self, bench: Bench, name: str, key: str) -> Ended:
        """What a reader gives: its output, its files' contents, and its words."""
        ended = bench.run(name, *([key] if key else []))
        out = re.sub(r'"(ready|seconds_left)": [^,]*,', "", ended.out)
        made = {"export": "out.zip", "report": "report/*.html"}.get(name)
        for path in sorted(bench.root.glob(made)) if made and not ended.code else ():
            content = path.read_bytes().replace(str(bench.root).encode(), b"@")
            out += f"{path.name} {hashlib.sha256(content).hexdigest()}\n"
        return Ended(ended.code, *(t.replace(str(bench.root), "@") for t in (out, ended.err)))

    def copy(self, name: str, of: str = "whole") -> Bench:
        """A copy of a store with all beside it; files that nobody writes in are linked."""

        def take(source: str, to: str) -> None:
            (os.link if source.endswith(LINKED) else shutil.copy2)(source, to)

        shutil.copytree(self.root / of, self.root / name, copy_function=take)
        return Bench(self.root / name, self.makers)
