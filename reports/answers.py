"""`bench expert show`: what a file of raw answers says, and how far its observers agree."""

from pathlib import Path

from benchmark.stats import Estimate
from reports import render
from reports.render import Column, Table, told
from similarity import expert

FOOTER = (
    "A tie goes to the answer first by code point. Kappa is Fleiss': 0 is chance, 1 full "
    "agreement; undefined where all answers are the same."
)


def show(path: Path, *, format: str = "table") -> str:
    """The majority's answers with kappa, and the distance of every pair with its range."""
    render.check(format)
    answers = expert.read_answers(path)
    profiles = expert.profiles(answers)
    properties = list(dict.fromkeys(row.property for row in answers))
    kappas = expert.kappas(answers)
    observers = len({row.observer for row in answers})
    pairs = [
        (a, b, Estimate(*expert.between(answers, a, b)[:3], observers))
        for a in profiles for b in profiles if a < b
    ]  # fmt: skip
    majority = Table(
        f"The majority of {observers} observers",
        [
            Column("property", str, words=True),
            *(Column(d, answer.get, words=True) for d, answer in profiles.items()),
            Column("kappa", kappas.get, ".3f"),
        ],
        properties,
    )
    apart = Table(
        "Properties answered differently, with the range when one observer is left out",
        [
            Column("datasets", lambda pair: ", ".join(pair[:2]), words=True),
            told("a", lambda pair: pair[0]),
            told("b", lambda pair: pair[1]),
            Column("distance", lambda pair: pair[2], ".0f", "*"),
        ],
        pairs,
    )
    facts = {"observers": observers, "kappa": kappas, "majority": profiles}
    return render.write(
        format, [majority, apart], FOOTER, json=lambda rows: {**facts, "distances": rows}
    )
