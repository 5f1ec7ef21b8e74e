"""One failing example: whose outputs cost it how much.

The calls are gone through upstream first. At each cut, the calls up to it are given their right outputs, in one run,
and those that they had, in another; what comes after is called anew in both. The difference of the two scores is what
all up to the cut cost the example, and what one component cost it is how much that difference grows at its call. Before
the first call it is 0, after the last one the whole loss, so that no loss is left over.

Replacing one output alone would blame all that is downstream of a fault too, since any of it can repair the fault. And
calling anew in both runs tells what is wrong from what luck mends: a fault that strikes now and then would otherwise
seem mended by whatever was replaced.

Knows nothing of other examples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from hyperfunc.evaluation.example import Example
from hyperfunc.tape import Call, Tape
from hyperfunc.usage import Usage
from hyperfunc_prompts.interventions import Outcome, Place, Rerun, Rerunner, digest, places

__all__ = ["Attribution", "Oracle", "RightOutputs", "attribute"]

Oracle = Callable[[Example, Mapping[str, Any]], Any]
"""``(example, inputs by argument name) -> the right output``, plain or async; the inputs are those of the call."""


@dataclass
class Attribution:
    """What was found out about one failing example, and what that took.

    Attributes:
        components: called in any of its runs, upstream first.
        score, reached: as it was, and with all right outputs that are known.
        gains: by component, what the score would gain if it did right; divided with upstream components of which no
            right output is known.
        compared: components of which at least one output had a replacement.
        evaluations: runs in which something was really called.
        made, replayed: component calls that were made, and that were answered without.
        repeated, differing: calls that were made again with the same inputs, and how many came out otherwise.
    """

    components: dict[str, None]
    score: float
    reached: float
    gains: dict[str, float] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)
    evaluations: int = 0
    made: int = 0
    replayed: int = 0
    repeated: int = 0
    differing: int = 0
    usage: Usage = field(default_factory=Usage)

    def count(self, rerun: Rerun) -> None:
        """Add what a run took."""
        self.evaluations += rerun.made > 0
        self.made += rerun.made
        self.replayed += rerun.answered
        self.repeated += rerun.repeated
        self.differing += rerun.differing
        self.usage += rerun.tape.usage


class RightOutputs:
    """Where right outputs come from: an oracle, else a better run of the same example.

    Args:
        example: what is run.
        functions: by dotted name, for the names of arguments.
        oracles: by dotted name.
        better: what a run of the example that scored higher called.
    """

    def __init__(
        self, example: Example, functions: Mapping[str, Any], oracles: Mapping[str, Oracle], better: Tape | None
    ) -> None:
        self._example, self._functions, self._oracles = example, functions, oracles
        self._by_content: dict[tuple[str, str], Outcome] = {}
        self._by_place: dict[Place, Outcome] = {}
        if better is not None:
            for place, call in zip(places(better), better, strict=True):
                content, outcome = digest(list(call.args), call.kwargs), Outcome.of(call)
                if outcome is None or outcome.error is not None:
                    continue
                self._by_place[place] = outcome
                if content is not None:
                    self._by_content.setdefault((call.function, content), outcome)

    async def of(self, call: Call, place: Place) -> Outcome | None:
        """The right output of ``call``; of a better run the one for the same inputs, else the one in the same place."""
        oracle = self._oracles.get(call.function)
        if oracle is not None:
            output = oracle(self._example, call.inputs(self._functions[call.function].signature))
            return Outcome(await output if inspect.isawaitable(output) else output)
        content = digest(list(call.args), call.kwargs)
        same = None if content is None else self._by_content.get((call.function, content))
        return self._by_place.get(place) if same is None else same


async def attribute(
    rerunner: Rerunner,
    score: float,
    tape: Tape,
    right_outputs: RightOutputs,
    *,
    perfect_score: float,
    control_from: int | None,
) -> Attribution:
    """Go through the calls of a failing run.

    At most ``2 * len(tape)`` runs in which something is called.

    Args:
        rerunner: knows the run.
        score, tape: of the run.
        perfect_score: where there is nothing left to gain.
        control_from: repeat index of the first run with outputs as they were; ``None`` where calls repeat themselves,
            so that such runs would only give ``score`` again.
    """
    found = Attribution(dict.fromkeys(c.function for _, c in upstream_first(tape)), score, score)
    was = {place: outcome for place, call in upstream_first(tape) if (outcome := Outcome.of(call)) is not None}
    right: dict[Place, Outcome] = {}
    passed: dict[Place, None] = {}
    mended: Rerun | None = None  # with right outputs up to the cut
    kept: Rerun | None = None  # with the outputs as they were up to the cut
    lost_before = 0.0
    budget = 2 * len(tape)
    while control_from is not None or mended is None or mended.score < perfect_score:
        current = tape if mended is None else mended.tape
        place, call = next(((p, c) for p, c in upstream_first(current) if p not in passed), (None, None))
        if place is None or call is None or found.evaluations + 2 > budget:
            break
        found.components.setdefault(call.function)
        passed[place] = None
        outcome = await right_outputs.of(call, place)
        if outcome is None:
            continue
        found.compared.add(call.function)
        now, right[place] = Outcome.of(call), outcome
        if now is None or not now.same(outcome):
            mended = await rerunner.run(right)
            found.count(mended)
        if mended is None:
            continue
        if control_from is not None and not _came_out(kept, place, was.get(place)):
            over = all(p in passed for p, _ in upstream_first(mended.tape))
            held = was if over else {p: was[p] for p in passed if p in was}
            kept = await rerunner.run(held, replay=mended.replayed, repeat=control_from + len(passed))
            found.count(kept)
        found.reached = mended.score
        lost = mended.score - (score if kept is None else kept.score)
        shared = [call.function, *_reaching(mended.tape, place, passed.keys() - right.keys(), right.keys() - {place})]
        for component in shared:
            found.gains[component] = found.gains.get(component, 0.0) + (lost - lost_before) / len(shared)
        lost_before = lost
    return found


def _came_out(run: Rerun | None, place: Place, outcome: Outcome | None) -> bool:
    """Whether the call at ``place`` of ``run`` came to ``outcome`` by itself."""
    if run is None or outcome is None:
        return False
    call = next((call for at, call in upstream_first(run.tape) if at == place), None)
    came = None if call is None else Outcome.of(call)
    return came is not None and came.same(outcome)


def upstream_first(tape: Tape) -> Iterator[tuple[Place, Call]]:
    """The calls in order of starting, except that those made inside a call come before it."""
    place_of = dict(zip((call.id for call in tape), places(tape), strict=True))
    inside: dict[int | None, list[Call]] = {}
    for call in tape:
        inside.setdefault(call.parent, []).append(call)

    def visit(group: list[Call]) -> Iterator[tuple[Place, Call]]:
        for call in group:
            yield from visit(inside.get(call.id, []))
            yield place_of[call.id], call

    return visit(inside.get(None, []))


def _reaching(tape: Tape, place: Place, wanted: Set[Place], blocked: Set[Place]) -> list[str]:
    """Components of the ``wanted`` calls whose outputs reach ``place`` by a way that is not ``blocked``."""
    if not wanted:
        return []
    place_of = dict(zip((call.id for call in tape), places(tape), strict=True))
    sources: dict[Place, set[Place]] = {}
    for edge in tape.edges():
        sources.setdefault(place_of[edge.target], set()).add(place_of[edge.source])
    for call in tape:
        if call.parent is not None:
            sources.setdefault(place_of[call.parent], set()).add(place_of[call.id])
    reached: set[Place] = set()
    waiting = [place]
    while waiting:
        new = sources.get(waiting.pop(), set()) - reached - blocked
        reached |= new
        waiting += new
    return sorted({component for component, _ in reached & wanted} - {place[0]})
