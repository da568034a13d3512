"""Components are found by file name, listed without import, and misspellings are answered."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmark import registry
from benchmark.errors import BenchError


def test_listing_reads_docstrings_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "good.py").write_text('"""A good one.\n\nMore."""\nraise SystemExit\n')
    (tmp_path / "sources" / "bad.py").write_text("def (:\n")
    (tmp_path / "sources" / "_private.py").write_text("")
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    found = registry.names("source")
    assert found["good"] == "A good one."
    assert "broken" in found["bad"]
    assert set(found) == {"good", "bad"}


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("source", "dtdd", "Did you mean dtd?"),
        ("target", "isik", "Did you mean isic?"),
        ("source", "pcam:smal", "Did you mean small?"),
        ("target", "zzz", "Known: "),
        ("source", "dtd:huge", "Say just 'dtd'"),
    ],
)
def test_unknown_names_are_answered(kind: str, name: str, hint: str):
    with pytest.raises(BenchError, match=r"(?i)no |takes") as caught:
        registry.load(kind, name)
    assert hint in caught.value.todo


def test_a_target_is_a_source():
    assert registry.load("source", "isic").card.title == registry.load("target", "isic").card.title


def test_a_file_of_the_users_is_named_by_its_content(tmp_path: Path):
    path = tmp_path / "mine.py"
    text = (Path(__file__).parent / "components" / "tiny.py").read_text()
    path.write_text(text)
    first = registry.version("target", "mine", path=path)
    assert first.startswith("file:")
    path.write_text(text + "\n# changed\n")
    assert registry.version("target", "mine", path=path) != first


@pytest.mark.parametrize("text", ["x = 1\n", "class A:\n    card = 1\n\nclass B:\n    card = 2\n"])
def test_a_file_must_define_one_class_with_a_card(tmp_path: Path, text: str):
    path = tmp_path / "wrong.py"
    path.write_text(text)
    with pytest.raises(BenchError, match="classes with a card"):
        registry.load("source", "wrong", path=path)


def test_planning_reads_every_card_and_arm_and_imports_nothing_heavy():
    code = """
import sys
from benchmark import registry
for kind in ("source", "target", "fusion"):
    for name in registry.names(kind):
        variants = registry.load(kind, name).variants
        for one in (name, *(f"{name}:{v}" for v in variants if v not in ("", "*"))):
            found = registry.load(kind, one)
            assert found.card.title
            if kind == "fusion":
                found.refuses("resnet50", "frozen")
heavy = {"torch", "torchvision", "timm", "pandas", "h5py", "wfdb", "scipy", "sklearn", "ot",
         "mlflow", "PIL", "matplotlib", "pydicom"}
print(sorted(heavy & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
