"""`bench recommend --budget`: what to run next on a target, printed as commands or run in turn."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from benchmark import registry
from benchmark.errors import BenchError
from benchmark.plan import request
from benchmark.plan.progress import say
from benchmark.plan.request import Request
from benchmark.store import Store
from reports import own
from reports.recommend import advice
from reports.recommend.advice import Recommendation

PLACE = ("protocol", "mode", "arch")


@dataclass(frozen=True)
class Question:
    """Which source to run next; `asked` are options of `bench run`, as a plan file has them."""

    asked: dict[str, Any]
    sources: Sequence[str] = ()  # the candidates; empty: those that the store knows
    per_second: bool = False  # the gain counts by the second
    words: Sequence[str] = ()  # other options to repeat in a printed command

    def answer(self, store: Store, **how: Any) -> Recommendation:
        """The recommendation as the store has it now; `how` as `recommend.advise` takes it."""
        asked = request.requests(self.asked)[0]
        (target,) = asked.targets
        here = next((one for one in asked.named if one.name == target), request.Named(target))
        if here.given is not None:
            look = partial(registry.version, "target", target, given=here.given)
            bare = not any(self.asked.get(name) for name in request.OWN if name != "name")
            target = own.name_in(store, target, look, images_only=bare)
        elif here.path is None:
            registry.load("target", target)
        where = {f"{name}s": request.listed(self.asked.get(name, ())) for name in PLACE}
        where["sources"] = [request.resolve("source", name).name for name in self.sources]
        where["fusion"] = self.asked.get("fusion", "none")
        return advice.advise(store, target, where, per_second=self.per_second, **how)

    def pinned(self, found: Recommendation) -> "Question":
        """The same question, held to the protocol, mode and network of an answer."""
        place = {name: getattr(found.place, name) for name in PLACE}
        return replace(self, asked={**self.asked, **place})

    def requests(self, source: str) -> list[Request]:
        """Every fold of a source on the target."""
        return request.requests({**self.asked, "source": self._typed(source)})

    def command(self, source: str) -> str:
        """The same as a line for a shell."""
        words = ["bench", "run", "--source", self._typed(source)]
        for name, value in self.asked.items():
            if "." in name:
                words += ["--set", f"{name}={json.dumps(value)}"]
            elif isinstance(value, dict):
                words += [part for k, v in value.items() for part in (f"--{name}", f"{k}={v}")]
            else:
                words += [part for one in request.listed(value) for part in (f"--{name}", str(one))]
        return shlex.join([*words, *self.words])

    def _typed(self, source: str) -> str:
        """A source given by path is known by a shorter name."""
        typed = {request.resolve("source", name).name: name for name in self.sources}
        return typed.get(source, source)


def commands(question: Question, found: Recommendation) -> str:
    """The commands of a plan, the first being the one to run now."""
    if not found.plan:
        return "Every source has been run.\n"
    now, *later = (f"  {question.pinned(found).command(source)}" for source in found.plan)
    then = (
        "Then, in this order, whatever the results are:"
        if not found.targets
        else "Then, if each result is as expected; it may change the rest, so ask again after each:"
    )
    return "\n".join(["Run now:", now, *([then, *later] if later else []), ""])


def spend(
    question: Question, store: Store, *, budget: int, run: Callable[[list[Request], str], int]
) -> int:
    """Run one source after the other, each chosen by the results of those before it.

    `run` makes the cells of requests, given their command, and says how it went as `plan.run`
    does. What the store has is known: after a stop the rest of the budget goes on where it was. A
    source that gives no result is not tried again. The exit code is 0 when every run gave one.
    """
    store.prepare()
    failed: list[str] = []
    found = question.answer(store, tested=False)
    question = question.pinned(found)
    for spent in range(budget):
        source = found.next
        if source is None:
            say("Every source has been run.")
            break
        say(f"Run {spent + 1} of {budget}: {source} on {question.asked['target']}.")
        try:
            code = run(question.requests(source), question.command(source))
        except BenchError as error:
            say(str(error))
            code = 2
        if code == 130:
            say(f"{budget - spent} of the budget are left: go on with --budget that many.")
            return code
        found = question.answer(store, without=failed, tested=False)
        if source not in found.run:
            say(f"{source} gave no result that can be compared, and is left out.")
            failed.append(source)
            found = question.answer(store, without=failed, tested=False)
    return 2 if failed else 0
