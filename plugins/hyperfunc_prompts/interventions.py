"""Running a program again with some calls' outcomes fixed, and everything that is known about the example replayed.

A call is known by its component, the content of its arguments and how often the same content came before in the run.
Known calls are not made again, so that a run pays only for what a change really touches. Knows nothing of blame.

Outputs are taken to be values: a program that changes a component's output in place cannot be replayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

from hyperfunc.binding import Binding
from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.content import content_digest
from hyperfunc.evaluation.example import Example
from hyperfunc.plugins import call_listener
from hyperfunc.program import Program
from hyperfunc.scope import current_scope, enter_scope
from hyperfunc.tape import Call, Tape, current_call, current_tape, recording
from hyperfunc_llm.errors import ContentError
from hyperfunc_prompts.trials import TrialRunner

__all__ = ["CallKey", "Outcome", "Place", "Rerun", "Rerunner", "digest", "places"]

Place = tuple[str, int]
"""A component and how manieth of its calls in a run, from 0."""

CallKey = tuple[str, str, int]
"""A component, the content of a call's arguments, and how many calls with the same content came before."""


def digest(*values: Any) -> str | None:
    """Hash of the values' content, or ``None`` where it cannot be known."""
    try:
        return content_digest(*values)
    except EvaluationError:
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: an output, or the unusable reply that it failed on."""

    output: Any = None
    error: ContentError | None = None

    @classmethod
    def of(cls, call: Call) -> Outcome | None:
        """The outcome of a recorded call; ``None`` where it was cut short or failed for another reason."""
        if call.error is None:
            return None if call.end is None else cls(call.output)
        return cls(error=call.error) if isinstance(call.error, ContentError) else None

    def same(self, other: Outcome) -> bool:
        """Whether both are outputs of equal content, or both failures."""
        if self.error is not None or other.error is not None:
            return self.error is not None and other.error is not None
        mine = digest(self.output)
        return mine is not None and mine == digest(other.output)


@dataclass(frozen=True)
class Rerun:
    """One run with some outcomes fixed.

    Attributes:
        score: of its output; the runner's failure score if it failed on an unusable reply.
        tape: all its calls, replayed and fixed ones included.
        replayed: calls that were answered from what was known.
        answered: how many calls were not made: replayed, or fixed.
        made: how many calls were really made; those that made calls of their own are not counted.
        repeated, differing: calls that were made though their outcome was known, and how many came out otherwise.
    """

    score: float
    tape: Tape
    replayed: frozenset[CallKey]
    answered: int
    made: int
    repeated: int
    differing: int


class _RoutedTape(Tape):
    """Lets the route see every call first, though the run is recorded."""

    batches_first = True

    def add(self, component: str, args: tuple[Any, ...], kwargs: dict[str, Any], outcome: Outcome) -> Call:
        """A call that was answered without being made; nobody who listens to calls hears of it."""
        listener, self.listener = self.listener, None
        try:
            call = self.begin(component, args, kwargs, current_call())
            call.output, call.error = outcome.output, outcome.error
            self.finish(call)
        finally:
            self.listener = listener
        return call


class Rerunner:
    """Runs one example again and again under one θ.

    Args:
        runner: scores outputs, and knows how failures score.
        program: what to run.
        example: its inputs.
        position: names the example in the run's scope.
    """

    def __init__(self, runner: TrialRunner, program: Program, example: Example, position: int) -> None:
        self._runner, self._program = runner, program
        self._example, self._position = example, position
        self._known: dict[CallKey, Outcome] = {}
        self._scores: dict[str, float] = {}

    def learn(self, tape: Tape, *, output: Any = None, score: float | None = None) -> None:
        """Replay the calls of ``tape`` from now on; what is known already stays as it is.

        A call that made calls of its own is not replayed itself: one of those may be given another outcome.
        """
        outer = {call.parent for call in tape}
        for key, call in _keyed(tape):
            outcome = Outcome.of(call)
            if key is not None and outcome is not None and call.id not in outer:
                self._known.setdefault(key, outcome)
        content = digest(output)
        if score is not None and content is not None:
            self._scores.setdefault(content, score)

    async def run(
        self, fixed: Mapping[Place, Outcome], *, replay: Set[CallKey] | None = None, repeat: int = 0
    ) -> Rerun:
        """One run.

        Args:
            fixed: outcomes of some calls, instead of making them.
            replay: the known calls that may be replayed; all without it.
            repeat: which repetition this is, for the calls that are made; what repetition 0 makes is learned.
        """
        tape = _RoutedTape(call_listener() if current_tape() is None else None)
        made_of: Counter[str] = Counter()
        seen: Counter[tuple[str, str]] = Counter()
        replayed: set[CallKey] = set()
        answered: set[int] = set()

        async def answer(component: str, args: tuple[Any, ...], kwargs: dict[str, Any], outcome: Outcome) -> Any:
            answered.add(tape.add(component, args, kwargs, outcome).id)
            if outcome.error is not None:
                raise outcome.error
            return outcome.output

        def route(
            function: Any, component: str, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Awaitable[Any] | None:
            place = (component, made_of[component])
            made_of[component] += 1
            key = _key(component, args, kwargs, seen)
            outcome = fixed.get(place)
            if outcome is None and key is not None and (replay is None or key in replay):
                outcome = self._known.get(key)
                if outcome is not None:
                    replayed.add(key)
            return None if outcome is None else answer(component, args, kwargs, outcome)

        binding = Binding(self._program.theta, route=route, defaults=self._program.defaults)
        again = current_scope().repeat + repeat
        with (
            enter_scope(seed=self._runner.seed, example=self._position, repeat=again, evaluating=True),
            recording(tape),
        ):
            try:
                output = await self._program(binding, self._example.inputs)
            except ContentError:
                output, score = None, self._runner.failure_score
            else:
                score = await self._score(output)
        repeated, differing = self._compared(tape, fixed, replayed) if repeat else (0, 0)
        if not repeat:
            self.learn(tape)
        outer = {call.parent for call in tape}
        made = sum(call.id not in answered and call.id not in outer for call in tape)
        return Rerun(score, tape, frozenset(replayed), len(answered), made, repeated, differing)

    async def _score(self, output: Any) -> float:
        content = digest(output)
        if content is not None and content in self._scores:
            return self._scores[content]
        score, _ = await self._runner.judge(output, self._example)
        if content is not None:
            self._scores[content] = score
        return score

    def _compared(self, tape: Tape, fixed: Mapping[Place, Outcome], replayed: Set[CallKey]) -> tuple[int, int]:
        repeated = differing = 0
        for (key, call), place in zip(_keyed(tape), places(tape), strict=True):
            outcome, known = Outcome.of(call), None if key is None else self._known.get(key)
            if place in fixed or key in replayed or outcome is None or known is None:
                continue
            repeated += 1
            differing += not outcome.same(known)
        return repeated, differing


def places(tape: Tape) -> list[Place]:
    """The place of every call, in the tape's order."""
    counts: Counter[str] = Counter()
    found = []
    for call in tape:
        found.append((call.function, counts[call.function]))
        counts[call.function] += 1
    return found


def _keyed(tape: Tape) -> Iterator[tuple[CallKey | None, Call]]:
    seen: Counter[tuple[str, str]] = Counter()
    for call in tape:
        yield _key(call.function, call.args, call.kwargs, seen), call


def _key(
    component: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], seen: Counter[tuple[str, str]]
) -> CallKey | None:
    content = digest(list(args), dict(kwargs))
    if content is None:
        return None
    key = (component, content, seen[component, content])
    seen[component, content] += 1
    return key
