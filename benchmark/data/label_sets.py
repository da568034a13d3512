"""What images are labelled with, as arrays: a class each, or of a multi-label set a set of names.

Labels (n,) number the class of each image; labels (n, K) say yes or no to each of K names.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmark.errors import BenchError, private
from benchmark.errors import units as counted

#: A data set, and what of it is never parted, in the card's word; empty: each image alone.
Named = tuple[str, str]
#: A class, or the set of names that an image bears, which may be empty.
Label = str | tuple[str, ...]


def several(labels: Sequence[Label]) -> bool:
    """Whether these are sets of names."""
    return len(labels) > 0 and not isinstance(labels[0], str)


def check(name: str, labels: Sequence[Label], images: Sequence[str]) -> None:
    """Refuse labels that leave nothing to classify."""
    if len({type(label) for label in labels}) > 1:
        raise BenchError(
            f"Some images of {name} have a class and some a set of labels.",
            "Give each a tuple of its labels, or each one class.",
        )
    names = names_of(labels)
    if several(labels):
        if len(names) < 2:
            raise BenchError(
                f"{name} is multi-label and has {len(names)} labels.",
                "One label that is there or not makes two classes: give each image its class.",
            )
        if full := [one for one in names if all(one in label for label in labels)]:
            raise BenchError(f"Every image of {name} is labelled '{full[0]}'.", "Leave it out.")
        return
    unlabelled = [image for image, label in zip(images, labels, strict=True) if not label]
    if unlabelled:
        raise BenchError(
            f"{len(unlabelled)} images of {name} have no label, {private(unlabelled[0])} first.",
            "Label them or take them out.",
        )
    if len(names) < 2:
        raise BenchError(
            f"{name} has one class only ('{names[0]}').", "Classification needs at least two."
        )


def check_rare(labels: Sequence[Label], units: np.ndarray, folds: int, what: Named) -> None:
    """Refuse names that too few units bear, or lack, for a test of them in every fold."""
    name, unit = what
    rare = {
        one: min(len(np.unique(units[borne])), len(np.unique(units[~borne])))
        for one in names_of(labels)
        for borne in [np.array([one in label for label in labels])]
    }
    least = min(rare, key=lambda one: rare[one])
    if rare[least] < folds:
        few = f"'{least}' tells {rare[least]} {counted(unit, rare[least])} from the others"
        raise BenchError(
            f"{sum(n < folds for n in rare.values())} of the {len(rare)} labels of {name} are too "
            f"rare or too common for {folds} folds: {few}.",
            "Leave rare labels out or join them, or take a protocol with fewer folds.",
        )


def to_cell(label: Label, index: Mapping[str, int]) -> str:
    """The numbers of a label's names as the table of a prepared set holds them."""
    names = [label] if isinstance(label, str) else label
    return " ".join(str(k) for k in sorted({index[name] for name in names}))


def from_cells(cells: np.ndarray, classes: int, *, multilabel: bool) -> np.ndarray:
    """The labels of a prepared set, of the cells of its table."""
    if not multilabel:
        return cells.astype(np.int64)
    found = np.zeros((len(cells), classes), np.uint8)
    for row, cell in enumerate(cells):
        found[row, [int(k) for k in cell.split()]] = 1
    return found


def names_of(labels: Sequence[Label], order: Sequence[str] = ()) -> list[str]:
    """The names that occur, in `order` as far as it goes."""
    seen = {name for label in labels for name in ([label] if isinstance(label, str) else label)}
    return [c for c in order if c in seen] + sorted(seen - set(order))


def matrix(labels: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Yes or no to each name, uint8 (n, K)."""
    return np.array([[name in label for name in names] for label in labels], np.uint8)


def named(labels: np.ndarray, classes: Sequence[str]) -> list[Label]:
    """The label of each image in words."""
    if labels.ndim == 1:
        return list(np.array(classes)[labels])
    return [tuple(name for name, yes in zip(classes, row, strict=True) if yes) for row in labels]


def questions(labels: Sequence[Label]) -> list[Sequence[str]]:
    """What is asked of each image: its class, or of sets of names whether it bears each."""
    if not several(labels):
        return [[str(label) for label in labels]]
    return [[one if one in label else f"no {one}" for label in labels] for one in names_of(labels)]


def table(labels: np.ndarray, units: np.ndarray, classes: int) -> np.ndarray:
    """Images by unit (its number) and class; those of no label make one more class."""
    found = np.zeros((int(units.max()) + 1, classes + labels.ndim - 1), int)
    if labels.ndim == 1:
        np.add.at(found, (units, labels), 1)
    else:
        np.add.at(found, units, np.column_stack([labels, ~labels.any(1)]))
    return found


def counts(labels: np.ndarray, classes: int) -> list[int]:
    """Images of each class; of a multi-label set of each label, and of none."""
    return table(labels, np.zeros(len(labels), int), classes)[0].tolist()


def strata(labels: np.ndarray) -> np.ndarray:
    """One number an image: its class, or the rarest label it bears, K where it bears none."""
    if labels.ndim == 1:
        return labels
    have = labels.sum(0, dtype=np.int64)
    ranked = np.argsort(have, kind="stable")
    return np.where(labels.any(1), ranked[labels[:, ranked].argmax(1)], labels.shape[1])


def deal(labels: np.ndarray, held: np.ndarray, shares: Sequence[float], seed: int) -> np.ndarray:
    """The part (n,) of each row: every label in these shares, what `held` numbers whole.

    Iterative stratification (Sechidis et al. 2011) of groups: the label that is rarest among what
    is left comes first, its largest group goes where it is most wanted.
    """
    rng = np.random.default_rng(seed)
    _, unit = np.unique(held, return_inverse=True)
    table = np.zeros((int(unit.max()) + 1, labels.shape[1] + 1))  # the last column: images
    np.add.at(table, unit, np.column_stack([labels, np.ones(len(labels))]))
    wanted, part = np.outer(shares, table.sum(0)), np.full(len(table), -1)
    while (left := part < 0).any():
        have = table[left].sum(0)
        k = int(np.where(have > 0, have, np.inf).argmin())
        groups = rng.permutation(np.flatnonzero(left & (table[:, k] > 0)))
        for group in groups[np.argsort(-table[groups, k], kind="stable")]:
            draw = rng.random(len(wanted))
            part[group] = np.lexsort((draw, wanted[:, -1], wanted[:, k]))[-1]
            wanted[part[group]] -= table[group]
    for empty in set(range(len(wanted))) - set(part.tolist()):
        part[np.flatnonzero(part == np.bincount(part).argmax())[-1]] = empty
    return part[unit]
