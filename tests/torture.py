"""Kills, damages and full disks at random, then the same command: `make torture`.

A trial alone: `python tests/torture.py --seed S --only kill:17`.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from pathlib import Path

from forked import SLOW, Bench, Whole, family, say, wait

DAMAGES = ("truncate", "zero tail", "bit flip", "empty", "remove", "swap")
#: How often each command is the one that is killed; of `worker` and `decode` also a child.
KILLS = {"run": 60, "distance": 8, "sync": 6, "export": 6, "import": 8, "decode": 4, "worker": 2}
#: Files whose absence says that something was never done, which is no damage.
OMITTED = ("outcome.json", "last.pt", "running.json", "spec.json", ".json")
#: What a trial can find wrong.
WRONG = {
    "kill": ("lost", "changed", "traceback", "stuck"),
    "damage": ("silent", "traceback", "stuck"),
    "disk": ("lost", "changed", "false success", "traceback", "stuck"),
}
PLURAL = {"kill": "kills", "damage": "damages", "disk": "full disks"}


class Torture(Whole):
    """Trials on copies of the whole store: each notes its troubles, and gives how many it was."""

    def kill(self, bench: Bench, rng: random.Random, i: int) -> int:
        """Kill a command several times at random moments, then let the same one end."""
        usual = {k: v for k, v in KILLS.items() if not self.light or k not in SLOW}
        what = rng.choices(list(usual), list(usual.values()))[0]
        name, more = ("run", ["--slots", "1"]) if what == "worker" else (what, [])
        pool, span = what == "decode", self.bench.seconds[what.replace("worker", "run")]
        if what in ("run", "worker", "import", "decode"):
            shutil.rmtree(bench.store)
        if what == "run" and rng.random() < 0.7:
            for cache in ("features", "prepared", "splits")[: rng.randint(1, 3)]:
                shutil.copytree(
                    self.bench.store / cache, bench.store / cache, copy_function=os.link
                )
        if what == "distance":
            shutil.rmtree(bench.store / "distances")
        if what == "sync":
            shutil.copy(self.tree / "empty.db", bench.store / "mlflow.db")
        kills = 0
        while kills < 4:
            before = bench.numbers()
            pid = bench.start(name, *more, pool=pool)
            if wait(pid, rng.uniform(0, span + (15 if more or pool else 0))) is not None:
                break
            alive = family(pid)
            ours = [one for one in alive if not is_tracker(one)]
            victim = rng.choice(ours or [pid]) if more or pool else pid
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            kills += 1
            bench.end(name, pid, killed=True)
            bench.hold(before)
            bench.alone(alive)
            if rng.random() < 0.2:
                bench.run("status")
        self._ended_well(bench, what)
        return kills

    def _ended_well(self, bench: Bench, what: str) -> None:
        """After the kills the same command does all it should."""
        if what in ("run", "worker", "distance"):
            bench.again(self.whole)
        else:
            ended = bench.run(what)
            if ended.code:
                bench.note("stuck", f"{what} ends with {ended.code} after a kill: {bench.said}")
        if what == "import":
            bench.hold(self.imported)
        if what == "export" and _digest(bench.root / "out.zip") != _digest(self.tree / "whole.zip"):
            bench.note("changed", "the export is another than one that was not killed")
        if what == "sync":
            shown = mirrored(bench.store / "mlflow.db")
            if shown != Counter(key.split("/")[1] for key in self.whole):
                bench.note("lost", f"the mirror shows {shown}")
        left = [p.name for p in bench.store.rglob("*") if p.name in ("last.pt", "running.json")]
        if left:
            bench.note("stuck", f"left over: {left}")

    def damage(self, bench: Bench, rng: random.Random, i: int) -> int:
        """Damage a file, read, run again, mend, run again: all is told and comes back."""
        if not self.light:
            shutil.copy(self.tree / "empty.db", bench.store / "mlflow.db")
        kinds = [(kind, how) for kind in self.files for how in DAMAGES]
        kind, how = random.Random(self.seed).sample(kinds, len(kinds))[i % len(kinds)]
        path = bench.store / rng.choice(self.files[kind])
        others = [bench.store / name for name in self.files[kind] if bench.store / name != path]
        if not spoil(path, how, rng, others):
            return 0
        label = f"{how} {'/'.join(kind)}"
        for name, share in self.readers.items():
            if rng.random() > share:
                continue
            key = "" if name != "predict" else rng.choice(self.runs)
            if name == "predict" and path.parent.name in self.runs:
                key = path.parent.name
            found, usual = self._look(bench, name, key), self.expected[name, key]
            unsaid = found.err == usual.err and found.out != usual.out and name != "sync"
            mute = found.code != 0 and not found.err
            if (unsaid and not (how == "remove" and kind[1] in OMITTED)) or mute:
                bench.note("silent", f"{label}: {name} gives another answer without a word")
        if rng.random() < 0.5:
            for name in bench.makers:
                bench.run(name)
        bench.run("mend")
        bench.again(self.whole, "stuck", "stuck")
        if bench.run("verify").code:
            bench.note("stuck", f"still damaged after all: {bench.said}")
        bench.troubles = [(what, f"{label}: {why}") for what, why in bench.troubles]
        return 1

    def disk(self, bench: Bench, rng: random.Random, i: int) -> int:
        """Run on a disk that fills at a random byte, then on one with room."""
        shutil.rmtree(bench.store)
        bench.store.mkdir()
        size = int(rng.uniform(0.0, 1.05) * self.size) // 4096 * 4096 + 4096
        inodes = rng.randint(5, 250) if rng.random() < 0.2 else 0
        how = f"size={4 * self.size if inodes else size},nr_inodes={inodes}"
        mount(bench.store, how)
        try:
            more = ["--slots", "1"] if rng.random() < 0.03 and not self.light else []
            more += ["--mlflow"] if rng.random() < 0.1 and not self.light else []
            ended = bench.run("run", *more)
            before = bench.numbers()
            asked = [key for key in self.whole if not key.startswith("distance")]
            done = re.search(r"^(\d+) cells done", ended.err, re.MULTILINE)
            if (not ended.code and not set(asked) <= set(before)) or (
                done and int(done[1]) > len(before)
            ):
                bench.note("false success", f"{how}: {len(before)} are done: {bench.said}")
            for name in ("distance", "status", "export"):
                if rng.random() < 0.3 and not (self.light and name in SLOW):
                    bench.run(name)
            mount(bench.store, "remount,size=1g,nr_inodes=0")
            bench.hold(before)
            bench.again(self.whole)
            if bench.run("verify").code:
                bench.note("lost", f"damaged after all: {bench.said}")
        finally:
            subprocess.run(["umount", "-l", bench.store], check=False)
        return 1

    def trial(self, name: str) -> None:
        """One trial in this process, its verdict left in a file."""
        kind, _, number = name.partition(":")
        rng = random.Random(f"{self.seed}:{name}")
        bench = self.copy(name.replace(":", "-"), "half" if kind == "damage" else "whole")
        try:
            count = getattr(self, kind)(bench, rng, int(number))
        except BaseException:
            count = 1
            bench.note("harness", traceback.format_exc())
        shutil.rmtree(bench.root, ignore_errors=True)
        verdict = self.root / f"{bench.root.name}.json"
        verdict.with_suffix(".tmp").write_text(json.dumps([count, bench.troubles]))
        verdict.with_suffix(".tmp").rename(verdict)


def is_tracker(pid: int) -> bool:
    """Whether it is Python's own watch over semaphores, whose death Python tells by tracebacks."""
    with suppress(OSError):
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def mirrored(database: Path) -> Counter[str]:
    """How often the mirror shows each cell in full."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "SELECT k.value FROM runs r JOIN tags k ON k.run_uuid = r.run_uuid"
            " JOIN tags c ON c.run_uuid = r.run_uuid WHERE r.lifecycle_stage = 'active'"
            " AND k.key = 'bench.key' AND c.key = 'bench.complete'"
        )
        return Counter(key for (key,) in rows)


def spoil(path: Path, how: str, rng: random.Random, others: list[Path]) -> bool:
    """Damage a file, without its links; whether that was possible."""
    content = bytearray(path.read_bytes())
    before = bytes(content)
    if how == "truncate":
        del content[rng.randrange(len(content) or 1) :]
    elif how == "zero tail" and content:
        start = rng.randrange(len(content))
        content[start:] = bytes(len(content) - start)
    elif how == "bit flip" and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == "empty":
        content.clear()
    elif how == "swap" and others:
        content[:] = rng.choice(others).read_bytes()
    path.unlink()
    if how != "remove":
        path.write_bytes(content)
    return how == "remove" or bytes(content) != before


def mount(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "none", folder], check=True)


def may_mount() -> bool:
    """A mount namespace of this process's own, where the system grants one."""
    CLONE_NEWNS = 0x00020000
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(CLONE_NEWNS):
        return False
    private = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True)
    return private.returncode == 0


def main() -> int:
    """Run the trials, several at once, and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, usual in (("kills", 1000), ("damages", 500), ("disks", 100), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--light", action="store_true", help="Without mirror, pages, decoders.")
    parser.add_argument("--minutes", type=float, default=1e9, help="Begin no trial after these.")
    parser.add_argument("--only", default="", help="One trial, such as damage:17.")
    asked = parser.parse_args()
    os.environ.update(CI="1", HF_HUB_OFFLINE="1", COLUMNS="200", BENCH_MLFLOW="0")
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    until = time.monotonic() + 60 * asked.minutes
    wanted = {"kill": asked.kills, "damage": asked.damages, "disk": asked.disks}
    if asked.only:
        wanted = dict.fromkeys(wanted, 0) | {asked.only.partition(":")[0]: 1}
    if wanted["disk"] and not may_mount():
        wanted["disk"] = 0
        say("No full disks: this user may not mount one (try as root).")
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="torture-", dir=place) as folder:
        torture = Torture(Path(folder), asked.seed, light=asked.light)
        torture.prepare()
        counts, troubles = carry_out(torture, wanted, asked, until)
    found = {kind: Counter(what for what, _, name in troubles if name.startswith(kind))
             for kind in wanted}  # fmt: skip
    say(f"seed {asked.seed}: " + "; ".join(
        f"{counts[kind]:,} {PLURAL[kind]} " + " ".join(f"{found[kind][w]} {w}" for w in WRONG[kind])
        for kind in wanted if wanted[kind]
    ))  # fmt: skip
    return 1 if troubles else 0


def carry_out(torture: Torture, wanted: dict[str, int], asked: argparse.Namespace, until: float):
    """Trials of each kind in turn until enough was done of each, or the time is over."""
    counts, begun = Counter(), Counter()
    troubles: list[tuple[str, str, str]] = []
    running: dict[int, str] = {}
    while True:
        under_way = Counter(name.partition(":")[0] for name in running.values())
        left = [kind for kind in wanted if counts[kind] + under_way[kind] < wanted[kind]]
        if asked.only:
            left = [] if begun else left
        if time.monotonic() < until and left and len(running) < asked.jobs:
            kind = min(left, key=lambda kind: max(counts[kind], begun[kind]) / wanted[kind])
            name = asked.only or f"{kind}:{begun[kind]}"
            begun[kind] += 1
            pid = os.fork()
            if not pid:
                torture.trial(name)
                os._exit(0)
            running[pid] = name
            continue
        if not running:
            return counts, troubles
        pid, _ = os.wait()
        name = running.pop(pid)
        verdict = torture.root / f"{name.replace(':', '-')}.json"
        count, found = json.loads(verdict.read_text())
        verdict.unlink()
        counts[name.partition(":")[0]] += count
        troubles += [(what, why, name) for what, why in found]
        for what, why in found:
            say(f"{name}: {what}: {why}")


if __name__ == "__main__":
    raise SystemExit(main())
