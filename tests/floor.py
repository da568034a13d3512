"""The floor: real cells of every mode, arm and distance, and what every reader says of them.

`python tests/floor.py FOLDER` makes the kept files in tests/floor anew, working in that folder;
with `read` behind it only what readers say of the kept store. Either is right only where a number,
a page or a table was meant to change.
"""

import json
import re
import shutil
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from benchmark.cli import app

KEPT = Path(__file__).parent / "floor"
SIZE = "--arch test_resnet --device cpu --slots 0 --offline --no-mlflow --set pretrain.epochs=1"
RUN = f"run {SIZE} --protocol demo --threads 1 --epochs 2"
ALIKE = "--mode finetune --lr 5e-4"  # scratch and the others on one schedule, as it once was
SOURCES = "--source patterns:near --source patterns:middle --source patterns:far"
BOTH = "--target demo:skin --target demo:grey"
GATES = ("metanet", "film", "film:block", "metablock", "daft", "attention")
ARMS = ("none", "concat", *GATES, "late:mean", "late:product", "metadata", "metadata:boosting")
METHODS = (
    "task2vec", "task2vec:raw", "task2vec:asymmetric", "otdd", "expert",
    *(f"scores:{name}" for name in (
        "logme", "leep", "nce", "h_score", "transrate", "gbc", "parc", "nleep", "sfda", "knn",
        "linear_probe")),
    *(f"rivals:{name}" for name in ("size", "classes", "channels", "frechet", "mmd")),
)  # fmt: skip


def _each(option: str, names: tuple[str, ...]) -> str:
    return " ".join(f"--{option} {name}" for name in names)


#: What makes the store, in this order.
MADE = (
    f"{RUN} --mode frozen {BOTH} --source none {SOURCES} --fusion none --fusion concat",
    f"{RUN} --mode frozen --target demo:skin --source patterns:near --seed 1 --fusion none",
    f"{RUN} --mode frozen --target demo:skin --source patterns:near --fold 0 "
    f"{_each('fusion', ARMS)}",
    f"{RUN} {ALIKE} --target demo:skin --source none --source patterns:near --fold 0 "
    f"{_each('fusion', ARMS[:-2])}",
    f"{RUN} {ALIKE} {BOTH} --source none",
    f"{RUN} --mode tuned --target demo:skin --source patterns:near --fold 0 "
    "--fusion none --fusion concat --fusion metanet",
    f"{RUN} --mode finetune --target demo:grey --source none --fold 0 --set recipe.lr=1e30",
    f"distance {SIZE} --size 32 --limit 100 --protocol demo --probe patterns:broad {BOTH} "
    f"{SOURCES} {_each('method', METHODS)}",
)
#: What reads it. `status` tells ages, and `distance` is asked for what is measured already.
READ = {
    "leaderboard": "leaderboard",
    "leaderboard-one": "leaderboard --target demo:skin --mode frozen --baseline random",
    "compare-fusions": "compare none concat --target demo:skin",
    "compare-sources": "compare patterns:near patterns:far",
    "distance": MADE[-1],
    "transfer": "transfer --mode frozen",
    "transfer-random": "transfer --mode frozen --baseline random",
    "recommend": "recommend --target demo:skin --mode frozen --no-mlflow",
    "recommend-evaluate": "recommend --evaluate",
    "replay-thomas": "replay thomas",
    "replay-medmnist": "replay medmnist",
}
FORMS = ("json", "csv", "md")
#: Cells quick enough for every run of the tests: a path of penalties, a gate, a fine-tuned one.
QUICK = (
    f"{RUN} --mode frozen --target demo:skin --source none --fold 0 --fusion concat",
    f"{RUN} {ALIKE} --target demo:skin --source none --fold 0 --fusion film",
)


def bench(words: str, store: Path, *more: str, fails: bool = False, width: int = 200) -> str:
    """What a command prints on a store, run in this process, which need import torch only once."""
    env = {"BENCH_STORE": str(store), "COLUMNS": str(width)}
    done = CliRunner().invoke(app, [*words.split(), *more], env=env)
    assert (done.exit_code != 0) == fails, (words, done.output, done.exception)
    return done.stdout


def numbers(store: Path) -> dict[str, Any]:
    """Of each finished cell all its numbers, under its key."""
    found = {}
    for path in sorted(store.glob("*/??/*/outcome.json")):
        outcome = json.loads(path.read_text())
        spec = outcome["spec"]
        names = ("kind", "source", "target", "fusion", "method", "mode", "fold", "seed")
        title = " ".join(str(spec[name]) for name in names if name in spec)
        facts = {name: outcome[name] for name in ("status", "metrics", "per_class", "subgroups")}
        found[outcome["key"]] = {"cell": title, **facts}
    return found


class _Words(HTMLParser):
    """The words of a page without its styles, scripts and drawings."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag in ("style", "script", "svg"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside and self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        if not self.inside and data.strip():
            self.words.append(" ".join(data.split()))


def pages(store: Path, out: Path) -> dict[str, str]:
    """The words of every page of the report; when and where it was made is left out."""
    bench("report", store, "--out", str(out))
    told = {}
    for path in sorted(out.rglob("*.html")):
        parser = _Words()
        parser.feed(path.read_text())
        text = "\n".join(parser.words)
        told[path.relative_to(out).as_posix()] = re.sub(
            r"\d{4}-\d\d-\d\d[ \d:]*(UTC)?", "‹when›", text
        )
    return told


def unpack(folder: Path) -> Path:
    """The kept store in a folder of one's own."""
    with tarfile.open(KEPT / "store.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "store"


def main() -> None:
    """Make the kept files anew."""
    import torch

    work = Path(sys.argv[1])
    store = work / "made" / "store"
    for words in MADE:
        bench(words, store, fails="1e30" in words)
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    (KEPT / "numbers.json").write_text(json.dumps(numbers(store), indent=1, sort_keys=True) + "\n")
    machine = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    (KEPT / "machine.json").write_text(json.dumps(machine) + "\n")
    heavy = ("*.safetensors", "*.pt", "prepared", "features", "splits", "log.txt", "mlflow.db")
    light = work / "light" / "store"
    shutil.rmtree(light, ignore_errors=True)
    shutil.copytree(store, light, ignore=shutil.ignore_patterns(*heavy))
    with tarfile.open(KEPT / "store.tar.xz", "w:xz") as archive:
        archive.add(light, "store")
    bench(f"results export {KEPT / 'bundle.zip'}", store)
    read(light, work)


def read(store: Path, work: Path) -> None:
    """Keep what every reader says of a store."""
    for name, words in READ.items():
        for form in FORMS:
            text = bench(words, store, "--format", form)
            (KEPT / f"{name}.{form}").write_text(text)
    for name, text in pages(store, work / "report").items():
        (KEPT / f"page-{name.replace('/', '-')}.txt").write_text(text + "\n")


if __name__ == "__main__":
    if "read" in sys.argv[2:]:
        read(unpack(Path(sys.argv[1])), Path(sys.argv[1]))
    else:
        main()
