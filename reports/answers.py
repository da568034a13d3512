"""`bench expert show`: what a file of raw answers says, and how far its observers agree."""

from pathlib import Path

from benchmark.stats import Estimate
from reports import render
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
    pairs = {
        (a, b): Estimate(*expert.between(answers, a, b)[:3], observers)
        for a in profiles
        for b in profiles
        if a < b
    }  # fmt: skip
    if format in ("csv", "json"):
        flat = [{"a": a, "b": b, **render.numbers("", d)} for (a, b), d in pairs.items()]
        if format == "csv":
            return render.comma_separated(flat)
        facts = {"observers": observers, "kappa": kappas, "majority": profiles, "distances": flat}
        return render.javascript(facts)
    majority = render.Table(
        title=f"The majority of {observers} observers",
        head=["property", *profiles, "kappa"],
        lines=[
            [name, *(profiles[d].get(name, "–") for d in profiles),
             render.interval(Estimate(kappas[name], float("nan"), float("nan"), observers))]
            for name in properties
        ],
        words=("property", *profiles),
    )  # fmt: skip
    apart = render.Table(
        title="Properties answered differently, with the range when one observer is left out",
        head=["datasets", "distance"],
        lines=[
            [f"{a}, {b}", f"{d.value:.0f} [{d.low:.0f}, {d.high:.0f}]"]
            for (a, b), d in pairs.items()
        ],
        words=("datasets",),
    )
    write = render.terminal if format == "table" else render.markdown
    return write([majority, apart], FOOTER)
