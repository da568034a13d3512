"""What docs/architecture.md and docs/reference.md list, read from the code.

`python tests/handbook.py` writes both lists anew; a test says when that is due.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PUBLIC = {
    "benchmark.metrics": ("one_vs_rest", "evaluate"),
    "benchmark.stats": ("correlate", "simultaneous_ranks", "clustered", "holm", "interval"),
    "benchmark.metadata": ("OrdinalEncoder", "OneHotEncoder"),
    "benchmark.ecg": ("morse_cwt", "montage"),
    "benchmark.images": ("shades_of_gray",),
    "similarity.otdd": ("label_distances", "otdd"),
    "similarity.task2vec": ("embed", "cosine"),
    "similarity.expert": ("majority", "hamming"),
    "similarity.scores": (
        "leep", "nce", "logme", "h_score", "transrate", "gbc", "parc", "nleep", "sfda",
    ),
}  # fmt: skip


def tree() -> str:
    """Every file of the product under its folder, with the first line of its docstring."""
    lines = []
    for top in ("benchmark", "sources", "targets", "similarity", "reports"):
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            lines += [
                "",
                f"### {folder.relative_to(ROOT).as_posix()}/",
                "",
                "| file | what it is |",
            ]
            lines += ["|---|---|"]
            for path in sorted(folder.glob("*.py")):
                said = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
                if path.name != "__init__.py" and said:
                    lines.append(f"| {path.stem} | {said[0].replace('|', '/')} |")
    return "\n".join(lines).strip() + "\n"


def reference() -> str:
    """The public functions on arrays: how each is called, and what it gives."""
    lines = []
    for module, names in PUBLIC.items():
        lines += ["", f"## {module}", ""]
        for name in names:
            thing = getattr(importlib.import_module(module), name)
            asked = inspect.signature(thing)
            bare = [p.replace(annotation=p.empty) for p in asked.parameters.values()]
            call = asked.replace(parameters=bare, return_annotation=asked.empty)
            lines.append(f"- `{name}{call}` – {(thing.__doc__ or '').strip().splitlines()[0]}")
    return "\n".join(lines).strip() + "\n"


LISTS = {"docs/architecture.md": tree, "docs/reference.md": reference}


def parts(page: str) -> tuple[str, str]:
    """What a page says before its list, with the mark, and the list."""
    text = (ROOT / page).read_text()
    mark = re.search(r"<!-- from the code: [^\n]*-->\n\n", text)
    assert mark, page
    return text[: mark.end()], text[mark.end() :]


if __name__ == "__main__":
    for page, made in LISTS.items():
        (ROOT / page).write_text(parts(page)[0] + made())
