"""What two names come to, in words that claim no more than the intervals."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from benchmark import stats
from benchmark.spec import trained_on
from benchmark.stats import Comparison, Estimate
from reports import render
from reports.compare.partners import called
from reports.leaderboard.arms import Arm
from reports.leaderboard.board import higher_is_better
from reports.leaderboard.by_class import ClassPair
from reports.leaderboard.departs import differences
from reports.leaderboard.subgroups import Change


@dataclass(frozen=True)
class Pair:
    """Two arms of one target that differ in nothing but what is compared."""

    kind: str
    target: str
    shared: str  # what both share: protocol, fusion or source, network, settings
    metric: str
    names: tuple[str, str]
    first: Estimate
    second: Estimate
    compared: Comparison
    holm: float  # p adjusted for the number of pairs
    cells: int  # that both have
    groups: int  # units tested
    unit: str  # the card's word for a patient, lesion or slide; empty: each image alone
    paired: bool  # the draws are of the same units
    notes: tuple[str, ...]
    classes: tuple[ClassPair, ...]
    #: Of the recalls of every fold and class, as MetaNet's paper tests; NaN unpaired.
    wilcoxon: float
    not_worse: float  # p of the first being worse by the margin or more; NaN without one
    subgroups: tuple[Change, ...] = ()  # where they are asked for


@dataclass(frozen=True)
class Verdict:
    """All pairs of two names, and what they come to over targets."""

    kind: str
    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    wilcoxon: float  # signed-rank p over the targets' mean differences; NaN with one target
    conclusion: str
    margin: float | None = None


def sentence(pair: Pair, margin: float | None = None) -> str:
    """The pair in words that claim no more than the interval."""
    difference, p = pair.compared
    first, second = pair.names
    numbers = (
        f"{pair.metric} {pair.first.value:.3f} against {pair.second.value:.3f}, a difference of "
        f"{render.interval(difference, sign=True)}, {render.probability(p)}"
    )
    numbers += _margin(pair, margin)
    where = f"On {pair.target} ({pair.shared})"
    if not p < 0.05:
        return f"{where}, {first} and {second} cannot be told apart: {numbers}."
    if pair.kind == "protocol":  # of two protocols none is better for reading higher
        more = "higher" if difference.value > 0 else "lower"
        return f"{where}, {first} reads {more} than {second}: {numbers}."
    better = (difference.value > 0) == higher_is_better(pair.metric)
    return f"{where}, {first} is {'better' if better else 'worse'} than {second}: {numbers}."


def _margin(pair: Pair, margin: float | None) -> str:
    """Whether the first can be called not worse, one-sided."""
    if margin is None:
        return ""
    can = "is not" if pair.not_worse < 0.05 else "may be"
    return f"; {pair.names[0]} {can} worse by more than {margin:g}, " + (
        f"{render.probability(pair.not_worse)} (one-sided)"
    )


def shared(kind: str, a: Arm, b: Arm) -> str:
    """What the two share, and what is particular about one of them."""
    spec, other, who = a.runs[0].spec, b.runs[0].spec, a.identity
    bare = "none" in (who.arch, b.identity.arch)
    parts = {
        "protocol": " and ".join(dict.fromkeys((spec.protocol, other.protocol))),
        "source": f"source {who.source if kind == 'mode' else who.origin}",
        "fusion": f"fusion {who.fusion}",
        "train_size": trained_on(spec.train_size),
        "network": " ".join(
            " and ".join(dict.fromkeys(getattr(arm.identity, name) for arm in (a, b)))
            for name in ("arch", "mode")
            if name != kind
        ),
    }
    parts.pop(kind, None)
    if bare:
        del parts["network"]
        parts.pop("source", None)
        other = b if who.arch == "none" else a
        parts["with"] = f"image by {other.identity.origin}" if other.identity.arch != "none" else ""
    texts = [*parts.values(), *(text for text in a.setting if text in b.setting)]
    for arm in (a, b):
        own = [text for text in arm.setting if not {text} <= set(a.setting) & set(b.setting)]
        own = [text for text in own if not text.startswith(f"{kind} ")]  # its name says that
        texts += [f"{called(arm.runs[0].spec, kind)} with {', '.join(own)}"] if own else []
    return ", ".join(text for text in texts if text)


def notes(a: Arm, b: Arm, cells: int, kind: str, names: tuple[str, str]) -> Iterator[str]:
    """What a reader has to know before believing the pair."""
    for name, arm in zip(names, (a, b), strict=True):
        yield from (f"{name}: {text}" for text in arm.barred)
        rates = [run.outcome.data.get("siblings", 0.0) for run in arm.runs]
        if kind == "protocol" and (arm.identity.split.kind == "image" or any(rates)):
            share = np.mean([float(rate) for rate in rates])
            yield (
                f"{name} is LEAKY ({share:.0%} of test images have a sibling in train): "
                "what it reads higher is not a gain"
            )
    if kind == "source":
        yield from _beside_source(a, b, names)
    expected = a.identity.split.folds * len({run.spec.seed for run in a.runs})
    if a.identity.split == b.identity.split and cells < expected:
        yield f"only {cells} of {expected} cells are in both"


def _beside_source(a: Arm, b: Arm, names: tuple[str, str]) -> Iterator[str]:
    """What differs with the source: a network that it brings, the schedule of scratch."""
    first, second = a.identity, b.identity
    if first.arch != second.arch:
        yield (
            f"the networks differ ({names[0]} has {first.arch}, {names[1]} {second.arch}): "
            "what is compared is source and network together"
        )
    if "scratch" not in (first.origin, second.origin):
        return
    scratch, other = (first, second) if first.origin == "scratch" else (second, first)
    its, usual = (
        ", ".join(differences(one, another))
        for one, another in permutations([scratch.recipe, other.recipe])
    )
    if its:
        yield f"scratch has the schedule that the protocol gives it: {its} (of the other: {usual})"


def conclusion(
    pairs: Sequence[Pair], names: tuple[str, str], wilcoxon: float, margin: float | None
) -> str:
    """What all pairs come to."""
    if len(pairs) == 1:
        return sentence(pairs[0], margin)
    clear = [pair for pair in pairs if pair.holm < 0.05]
    up = [pair.compared.difference.value > 0 for pair in clear]
    words = "higher", "lower"
    if pairs[0].kind != "protocol":
        words = "better", "worse"
        up = [u == higher_is_better(pair.metric) for u, pair in zip(up, clear, strict=True)]
    text = (
        f"Of {len(pairs)} comparisons {names[0]} is {words[0]} than {names[1]} in {sum(up)}, "
        f"{words[1]} in {len(up) - sum(up)}, and not to be told apart in "
        f"{len(pairs) - len(clear)} (p < 0.05, adjusted by Holm)."
    )
    if margin is not None:
        sure = int((stats.holm([pair.not_worse for pair in pairs]) < 0.05).sum())
        text += f" In {sure} it is not worse by more than {margin:g}."
    targets = len({pair.target for pair in pairs})
    if targets > 1:
        few = "; fewer than six cannot reach 0.05" if targets < 6 else ""
        text += f" Over {targets} targets Wilcoxon's {render.probability(wilcoxon)}{few}."
    return text
