"""What the pages tell a reader to write and type works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmark import cli, contract, registry, synthetic
from benchmark.plan import plan
from benchmark.plan.request import requests
from benchmark.spec import Input, Runtime

ROOT = Path(__file__).resolve().parent.parent


def blocks(page: str) -> list[str]:
    """The indented blocks of a page."""
    text = (ROOT / page).read_text()
    found = re.findall(r"(?:^    .*\n|^\n(?=\n*    ))+", text, flags=re.M)
    return [re.sub(r"^    ", "", block, flags=re.M).strip("\n") for block in found]


@pytest.mark.parametrize(
    ("first", "kind"), [("Beans", "source"), ("Sum", "fusion"), ("Gap", "distance")]
)
def test_the_components_of_the_page_keep_the_contract(tmp_path: Path, first: str, kind: str):
    code = next(b for b in blocks("docs/extending.md") if b.startswith(f'"""{first}'))
    path = tmp_path / f"{first.lower()}.py"
    path.write_text(code + "\n")
    assert list(contract.check(str(path)))[-1] == f"{kind} '{first.lower()}' keeps the contract"


NAMES = (
    "extending",
    "store",
    "weights",
    "own-data",
    "multilabel",
    "papers",
    "mlflow",
    "security",
    "grids",
    "clusters",
)
PAGES = ["README.md", *(f"docs/{name}.md" for name in NAMES)]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_of_a_page_exist(page: str):
    """Every `bench …` of a page is a command with those options."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"(?:^    |`)bench ([^`\n#]+)", text, flags=re.M)
    assert lines, "a page without a command needs no place in the list"
    known: dict[str, str] = {}
    for line in lines:
        words = line.split()
        name = words[0]
        if name in ("data", "weights", "store", "results", "expert", "mlflow") and len(words) > 1:
            name = f"{name} {words[1]}"
        if name not in known:
            known[name] = CliRunner().invoke(cli.app, [*name.split(), "--help"]).output
        for option in re.findall(r"--[a-z-]+", line):
            assert re.search(rf"{option}\b", known[name]), (name, option)


def test_lines_of_the_weights_page_can_be_planned(tmp_path: Path):
    """Of the sources that need no file and no account, as they stand there."""
    text = (ROOT / "docs/weights.md").read_text()
    lines = re.findall(r"\| `bench run (--source (?:imagenet|none|timm:)[^`]+)`", text)
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line)
        given = {
            name.removeprefix("--"): value
            for name, value in zip(words[::2], words[1::2], strict=True)
        }
        if "size" in given:
            given["size"] = int(given["size"])
        (asked,) = requests(given)
        cells = plan.make(asked, Runtime(store=tmp_path)).cells
        assert cells and not [cell.why for cell in cells if cell.why], line


#: What a reader's commands are given to be quick; how they are spelled is what is tested.
QUICK = {
    "run": "--arch resnet18 --protocol demo --size 32 --epochs 1 --fold 0 --mode frozen --slots 0 "
    "--device cpu --threads 1 --offline --set pretrain.epochs=1 --set pretrain.size=32",
    "distance": "--arch resnet18 --size 32 --limit 60 --slots 0 --device cpu --offline "
    "--set pretrain.epochs=1 --set pretrain.size=32",
}
#: What must have been done before the commands of a page make sense.
BEFORE = {
    "README.md": [
        "bench weights add weights.safetensors --name imagenet --arch resnet18",
    ],
    "docs/mlflow.md": ["bench run --target isic"],
    "docs/store.md": ["bench run --target isic"],
    "docs/papers.md": [],
    "docs/grids.md": [],
    "docs/multilabel.md": [],
    "docs/own-data.md": [
        "bench run --target ./my-images --metadata my.csv --label diagnosis --group patient "
        "--source none --source dtd --source stl10 --fusion none --fusion concat",
    ],
}


def commands(page: str) -> list[list[str]]:
    """The commands that a page shows in its blocks, word by word."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"^ +bench ([^#\n]+)", text, flags=re.M)
    return [shlex.split(line) for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the pages speak of, in miniature."""
    import timm
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("reader")
    for name in ("isic", "dtd", "stl10", "kimia"):
        component = registry.load("source", name)
        root = folder / "data" / component.card.folders[0]
        root.mkdir(parents=True)
        component.fake(root, 0)
    names = registry.card("target", "isic").labels  # of another hospital
    for i, image in enumerate(synthetic.samples(range(4 * len(names)), size=32)):
        synthetic.save(image, folder / "mysite" / names[i % len(names)] / f"{i}.png")
    save_file(timm.create_model("resnet18").state_dict(), folder / "weights.safetensors")
    torch.save(timm.create_model("resnet18").state_dict(), folder / "resnet50_torch.pt")
    own = registry.load("target", "folder:x", given=Input(path=folder / "my-images"))
    own.fake(folder / "my-images", 0)
    table = (folder / "my-images" / "table.csv").rename(folder / "my.csv")
    table.write_text(table.read_text().replace("image,kind,", "image,diagnosis,", 1))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", BEFORE)
def test_the_commands_of_a_page_run(page: str, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(place)
    for block in blocks(page):
        if block.startswith("target:"):
            (place / "grid.yaml").write_text(block)
    for line in BEFORE[page]:
        _run(shlex.split(line)[1:])
    for words in commands(page):
        _run(words)


def _run(words: list[str]) -> None:
    quick = shlex.split(QUICK.get(words[0], ""))
    if words[0] == "weights":
        words = ["resnet18" if word == "resnet50" else word for word in words]
    found = CliRunner().invoke(cli.app, [*words, *quick])
    assert found.exit_code == 0, (words, found.output, found.exception)
