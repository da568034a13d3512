"""How a recipe, or a choice of columns, departs from the usual one, in words."""

from collections.abc import Iterator
from typing import Any

from benchmark.spec import Frozen


def columns_of(columns: tuple[str, ...], usual: tuple[str, ...]) -> str:
    """How the columns of an arm differ from the usual ones, in the fewer words."""
    less = [name for name in usual if name not in columns]
    if set(columns) <= set(usual) and len(less) < len(columns):
        return f"without {', '.join(less)}" if less else "columns in another order"
    return f"columns {', '.join(columns)}"


def differences(value: Any, usual: Any, prefix: str = "") -> Iterator[str]:
    """`epochs 3` for each field of a frozen model that differs."""
    if value == usual or value is None or usual is None:
        return
    for name in type(value).model_fields:
        one, other = getattr(value, name), getattr(usual, name)
        if one == other:
            continue
        if isinstance(one, Frozen) and isinstance(other, Frozen):
            yield from differences(one, other, f"{name}.")
        else:
            sign = ", " if name == "tune" else "×"
            shown = sign.join(map(str, one)) or "none" if isinstance(one, tuple) else one
            yield f"{prefix}{name.replace('_', ' ')} {shown}"
