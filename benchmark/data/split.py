"""Parts a data set into train, validation and test without a patient on two sides."""

import warnings
from typing import NamedTuple

import numpy as np

from benchmark.data import label_sets
from benchmark.data.label_sets import Named
from benchmark.data.prepare import Prepared
from benchmark.errors import BenchError
from benchmark.errors import units as counted
from benchmark.spec import Split, amount, canonical, seed_of, trained_on

#: What official parts are called in the sets' own files.
OFFICIAL = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Parts(NamedTuple):
    """Row numbers of one fold, and how many test images have a sibling in train."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    siblings: float  # share of test images whose group, or whose very image, is in train


def partition_seed(target: str, how: Split, partition: int) -> int:
    """Names what is cut and how, and nothing else: every source, arm, training and protocol that
    cuts alike tests the same patients."""
    return seed_of("split", target, canonical(how.model_dump(mode="json")), partition)


def split(
    data: Prepared,
    how: Split,
    *,
    fold: int,
    partition: int = 0,
    limit: int | None = None,
    train_size: str = "",
) -> Parts:
    """One fold of a partition; a grouped split never parts a group or copies of one image."""
    named = partition_seed(data.name, how, partition)
    seed = named % 2**32
    units = linked_groups(data)
    rows = np.arange(len(data.labels)) if limit is None else limited(data, limit, seed)
    labels, units = data.labels[rows], units[rows]
    if how.kind == "official":
        parts = _official(data, rows)
    else:
        held = units if how.kind == "grouped" else np.arange(len(rows))
        unit = data.unit if how.kind == "grouped" else ""
        parts = _random(labels, held, how, fold, seed, (data.name, unit))
        parts = tuple(rows[part] for part in parts)
    train, val, test = parts
    both = linked_groups(data)
    if train_size:
        units = np.arange(len(both)) if how.kind == "image" else both
        train = fewer(data, train, units[train], train_size, seed_of("train size", named, fold))
    siblings = float(np.isin(both[test], both[train]).mean()) if len(test) else 0.0
    if how.kind != "image" and (siblings > 0 or np.isin(both[val], both[train]).any()):
        raise BenchError(
            f"The {how.kind} split of {data.name} has a {data.unit or 'group'} or an image in "
            "two parts.",
            "Correct the split, or take a protocol that regroups, such as standard.",
        )
    _check_classes(data, train, test)
    return Parts(train, val, test, siblings)


def fewer(data: Prepared, train: np.ndarray, units: np.ndarray, size: str, seed: int) -> np.ndarray:
    """About so many rows of a training part, the smaller size inside the larger.

    Units (n,) number the groups of its rows, which enter whole and count for the rarest class they
    hold. The first of every class comes first, the others so that all classes grow in proportion.
    """
    number, kind = amount(size)
    _, units = np.unique(units, return_inverse=True)
    table = label_sets.table(data.labels[train], units, len(data.classes))
    images, have = np.bincount(units), table.sum(0)
    _check_size(data, have, number, kind, len(train))
    wanted = number / 100 * len(train) if kind == "%" else number
    rarest = np.where(table > 0, have, np.inf).argmin(1)
    order = np.random.default_rng(seed).permutation(len(table))
    by_class = {k: order[rarest[order] == k] for k in np.argsort(have) if k in rarest}
    if kind == "/class":
        chosen = _of_each(table, by_class, int(number))
        if data.multilabel and (table[chosen].any(0) < (have > 0)).any():
            raise _leaves_out(data, size)
    else:
        counts = [images[part] for part in by_class.values()]
        places = [(n.cumsum() - n / 2) / n.sum() for n in counts]
        for place in places:
            place[0] = -1
        line = np.concatenate([*by_class.values()])[
            np.argsort(np.concatenate(places), kind="stable")
        ]
        total = images[line]
        chosen = line[: int(np.abs(total.cumsum() - wanted).argmin()) + 1]
        least = len(by_class)
        if data.multilabel:  # a label that lies beside rarer ones alone has no place of its own
            least = max(least, 1 + int((table[line] > 0).argmax(0).max()))
        if len(chosen) < least:
            needs = f": with every class it needs about {total[:least].sum():,}"
            raise _leaves_out(data, size, needs)
    return train[np.isin(units, chosen)]


def _leaves_out(data: Prepared, size: str, needs: str = "") -> BenchError:
    what = f"{trained_on(size)} of {data.name} would leave a class out{needs}."
    return BenchError(what, "Give a larger --train-size.")


def _of_each(table: np.ndarray, by_class: dict[int, np.ndarray], number: int) -> list[int]:
    """Groups with about so many images of each class, grown by one image a class at a time."""
    chosen, held = list[int](), np.zeros(table.shape[1])
    waiting = {k: list(part[::-1]) for k, part in by_class.items()}
    for wanted in range(1, number + 1):
        for k, part in waiting.items():
            while part and (not held[k] or held[k] + table[part[-1], k] / 2 < wanted):
                held += table[part[-1]]
                chosen.append(part.pop())
    return chosen


def _check_size(data: Prepared, have: np.ndarray, number: float, kind: str, images: int) -> None:
    have = have[: len(data.classes)]  # images of no label are no class
    k = int(np.where(have > 0, have, have.max()).argmin())
    most = {"": images, "/class": have[k]}.get(kind, np.inf)
    if number <= most:
        return
    of_class = f" of the class '{data.classes[k]}'" if kind else ""
    raise BenchError(
        f"The training part of {data.name} has {most:,} images{of_class}, fewer than the "
        f"{number:,.0f} asked for.",
        "Give a smaller --train-size.",
    )


def inner(data: Prepared, rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A training part cut in two, groups whole: rows to fit, and a fifth to choose settings by."""
    labels, units = data.labels[rows], linked_groups(data)[rows]
    fit, val = _share(labels, units, 0.2, seed % 2**32, (data.name, data.unit))
    return rows[fit], rows[val]


def linked_groups(data: Prepared) -> np.ndarray:
    """Group numbers in which groups that share an image, pixel for pixel, are one."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(data.groups)
    _, group = np.unique(data.groups, return_inverse=True)
    _, picture = np.unique(data.hashes, return_inverse=True)
    nodes = int(group.max()) + 1 + int(picture.max()) + 1
    edges = coo_matrix((np.ones(n), (group, picture + group.max() + 1)), shape=(nodes, nodes))
    return connected_components(edges, directed=False)[1][group]


def limited(data: Prepared, limit: int, seed: int, rows: np.ndarray | None = None) -> np.ndarray:
    """At most `limit` rows: whole groups in random order, the classes in their proportions.

    `rows`: of these alone; a seed has one order of groups, so parts that overlap keep the same.
    """
    within = np.arange(len(data.labels)) if rows is None else rows
    if limit >= len(within):
        return within
    units = linked_groups(data)
    rng = np.random.default_rng(seed)
    order = rng.permutation(int(units.max()) + 1)[units][within]
    label_of = np.zeros(int(units.max()) + 1, dtype=np.int64)
    label_of[units] = label_sets.strata(data.labels)  # a group's class; groups rarely mix classes
    units = units[within]
    keep: list[np.ndarray] = []
    for label in np.unique(label_of[units]):
        rows = np.flatnonzero(label_of[units] == label)
        rows = rows[np.argsort(order[rows], kind="stable")]
        quota = max(1, round(limit * len(rows) / len(units)))
        ends = np.flatnonzero(np.diff(units[rows], append=-1) != 0) + 1
        cut = ends[max(0, np.searchsorted(ends, quota, side="right") - 1)]
        keep.append(rows[:cut])
    return np.sort(within[np.concatenate(keep)])


def _random(
    labels: np.ndarray, held: np.ndarray, how: Split, fold: int, seed: int, what: Named
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.arange(len(labels))
    if how.test is not None:
        rest, test = _share(labels, held, how.test, seed, what)
    else:
        rest, test = cut_folds(labels, held, how.folds, seed, what)[fold]
    if not how.validation:
        return rows[rest], rows[:0], rows[test]
    train, val = _share(labels[rest], held[rest], how.validation, seed + 1, what)
    return rows[rest][train], rows[rest][val], rows[test]


def cut_folds(
    labels: np.ndarray, held: np.ndarray, folds: int, seed: int, what: Named
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rest and the part of each fold; `held` (n,) numbers what stays whole."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    check(labels, held, folds, what)
    if labels.ndim == 2:
        part = label_sets.deal(labels, held, [1 / folds] * folds, seed)
        return [(np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(folds)]
    alone = len(np.unique(held)) == len(held)
    kind = StratifiedKFold if alone else StratifiedGroupKFold
    cut = kind(folds, shuffle=True, random_state=seed % 2**32)
    with warnings.catch_warnings():
        # A class rarer than the folds is told by the metrics, which leave it out where undefined.
        warnings.simplefilter("ignore", UserWarning)
        return list(cut.split(np.zeros(len(labels)), labels, held))


def check(labels: np.ndarray, units: np.ndarray, folds: int, what: Named) -> list[str]:
    """Refuse labels that cannot be cut into folds of whole units; tell of classes too rare."""
    name, unit = what
    groups = len(np.unique(units))
    if groups < folds:
        raise BenchError(
            f"{name} has {groups} {counted(unit, groups)}, fewer than the {folds} folds.",
            "Take a protocol with fewer folds or add more.",
        )
    if labels.ndim == 2:  # each label is a question of its own, and undefined where it is absent
        return []
    classes, counts = np.unique(labels, return_counts=True)
    # What stands alone is cut class by class, so even the rarest must reach every fold.
    least = counts.min() if groups == len(units) else counts.max()
    if least < folds:
        rarest = f"'{classes[counts.argmin()]}' " if classes.dtype.kind == "U" else ""
        raise BenchError(
            f"{name} has {(counts < folds).sum()} of {len(classes)} classes with fewer images than "
            f"the {folds} folds, {rarest}with {counts.min()}.",
            "Take a protocol with fewer folds, or leave rare classes out or join them.",
        )
    each = [(c, len(np.unique(units[labels == c]))) for c in classes]
    return [
        f"The class '{c}' of {name} has {n} {counted(unit, n)}, fewer than the "
        f"{folds} folds: it is missing from some test or training parts."
        for c, n in each
        if n < folds
    ]


def _share(
    labels: np.ndarray, held: np.ndarray, share: float, seed: int, what: Named
) -> tuple[np.ndarray, np.ndarray]:
    """About `share` of the rows, stratified by label and whole by group."""
    units = len(np.unique(held))
    if labels.ndim == 2:
        check(labels, held, 2, what)
        part = max(share, 1 / units)
        dealt = label_sets.deal(labels, held, (1 - part, part), seed)
        return np.flatnonzero(dealt == 0), np.flatnonzero(dealt == 1)
    # With few patients, or few images of every class, the share is coarser.
    folds = max(2, min(round(1 / share), units, int(np.bincount(labels).max())))
    if units == len(held):
        from sklearn.model_selection import train_test_split

        rows = np.arange(len(labels))
        many = np.bincount(labels)[labels] >= 2
        strata = labels if many.all() and round(share * len(rows)) >= len(set(labels)) else None
        rest, part = train_test_split(rows, test_size=share, stratify=strata, random_state=seed)
        return np.sort(rest), np.sort(part)
    return cut_folds(labels, held, folds, seed, what)[0]


def _official(data: Prepared, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    named = np.array([OFFICIAL.get(part, "") for part in data.parts[rows]])
    if not (named == "train").any() or not (named == "test").any():
        raise BenchError(
            f"{data.name} has no official train and test parts here.",
            "Take a protocol with its own split, such as standard.",
        )
    train, val, test = (rows[named == part] for part in ("train", "val", "test"))
    return train, val, test


def differ(
    name: str,
    classes: set[str],
    first: str,
    others: set[str],
    multilabel: tuple[bool, bool] = (False, False),
) -> BenchError | None:
    """Why a set cannot test what another taught; None where both have the same classes."""
    if multilabel[0] != multilabel[1]:
        several, one = (name, first) if multilabel[0] else (first, name)
        return BenchError(
            f"{several} is multi-label and {one} has one class an image.",
            "Test on a set whose images are labelled alike.",
        )
    if classes == others:
        return None
    texts = {f"only {first} has": others - classes, f"only {name} has": classes - others}
    told = "; ".join(f"{who} {', '.join(sorted(more))}" for who, more in texts.items() if more)
    return BenchError(
        f"{name} does not have the classes of {first} ({told}).",
        "Name them alike and leave out images of classes that only one of them has.",
    )


def _check_classes(data: Prepared, train: np.ndarray, test: np.ndarray) -> None:
    labels = data.labels[train]
    told = len(np.unique(labels)) if labels.ndim == 1 else 1 + np.ptp(labels, axis=0).any()
    if told < min(2, len(data.classes)):
        raise BenchError(
            f"The training part of {data.name} has one class only.",
            "Raise the limit, or add images of the other classes.",
        )
    if not len(test):
        raise BenchError(f"The test part of {data.name} is empty.", "Raise the limit.")
