"""Feedback from an output back along a tape: which component is told what. Knows nothing of how texts change.

Calls are visited in reverse order; what several consumers say about one output is combined, and a call that nobody
says anything about passes nothing on. The tape is a recording of real calls: branches not taken get no feedback.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

from hyperfunc.tape import Call, Edge, Tape

__all__ = [
    "Backward",
    "BackwardContext",
    "CallFeedback",
    "HasBackward",
    "backward_of",
    "own_backward",
    "propagate",
]


@dataclass(frozen=True)
class CallFeedback:
    """What is known about one call when its component's texts are to be improved.

    Attributes:
        component: dotted name.
        inputs: by argument name.
        output: what it returned.
        feedback: what is said about the output, each once.
        score: of the whole program's output.
    """

    component: str
    inputs: Mapping[str, Any]
    output: Any
    feedback: tuple[str, ...]
    score: float


@dataclass(frozen=True)
class BackwardContext:
    """What a component's own backward sees.

    Attributes:
        call: the recorded call.
        feedback: what is said about its output.
        score: of the program's output.
        sources: the calls whose outputs went into this one, by component name (of equal names the last).
        reason: asks the model one question and gives its answer.
    """

    call: Call
    feedback: tuple[str, ...]
    score: float
    sources: Mapping[str, Call]
    reason: Callable[[str], Awaitable[str]]


Backward = Callable[[BackwardContext], Any]
"""``(context) -> {source component: feedback text}``, plain or async; sources left out get nothing."""


@runtime_checkable
class HasBackward(Protocol):
    """A component with a backward of its own, or the module that it wraps."""

    def backward(self, context: BackwardContext, /) -> Any:
        """As :data:`Backward`."""
        ...


def own_backward(component: Any) -> Backward | None:
    """The backward that was defined on a component: a method of its class, of the module that it wraps, or an attribute
    that :func:`backward_of` (or an assignment) gave it."""
    for thing in (component, component.fn):
        if isinstance(thing, HasBackward):
            return thing.backward
    return None


F = TypeVar("F", bound=Backward)


def backward_of(component: Any) -> Callable[[F], F]:
    """Make the decorated function the backward of ``component``, a function that was made a component before::

    @backward_of(join)
    async def blame_the_second(context: BackwardContext) -> dict[str, str]: ...
    """

    def define(backward: F) -> F:
        component.backward = backward
        return backward

    return define


@dataclass
class Propagated:
    """What one tape gave: feedback per call, and which component's outputs went into which."""

    calls: list[CallFeedback] = field(default_factory=list)
    edges: set[tuple[str, str]] = field(default_factory=set)


async def propagate(
    tape: Tape,
    feedback: str,
    score: float,
    *,
    inputs_of: Callable[[Call], Mapping[str, Any]],
    overrides: Mapping[str, Backward],
    reason: Callable[[str], Awaitable[str]],
) -> Propagated:
    """Send ``feedback`` about the program's output back to every call that it depends on.

    Inside a call that made calls of its own, those whose outputs nobody else used are told what it was told. By default
    a call passes what it is told to all its sources; a source that is known by its place in time only (an ``order``
    edge) is told so.
    """
    found = Propagated()
    if not feedback.strip():
        return found
    siblings: dict[int | None, list[Call]] = {}
    for call in tape:
        siblings.setdefault(call.parent, []).append(call)
    incoming: dict[int, list[Edge]] = {}
    consumed: set[int] = set()
    by_id = {call.id: call for call in tape}
    for edge in tape.edges():
        incoming.setdefault(edge.target, []).append(edge)
        consumed.add(edge.source)
        found.edges.add((by_id[edge.source].function, by_id[edge.target].function))

    async def visit(group: Sequence[Call], said: Sequence[str]) -> None:
        told: dict[int, list[str]] = {call.id: list(said) for call in group if call.id not in consumed}
        for call in sorted(group, key=lambda c: c.id, reverse=True):
            about = tuple(dict.fromkeys(told.get(call.id, ())))
            if not about:
                continue
            found.calls.append(CallFeedback(call.function, inputs_of(call), call.output, about, score))
            sources = {edge.source: edge for edge in incoming.get(call.id, [])}
            for source, texts in (await passed_on(call, about, sources)).items():
                told.setdefault(source, []).extend(texts)
            if call.id in siblings:
                await visit(siblings[call.id], about)

    async def passed_on(call: Call, about: tuple[str, ...], sources: Mapping[int, Edge]) -> dict[int, list[str]]:
        override = overrides.get(call.function)
        if override is None:
            return {
                source: [f"(perhaps) {text}" if edge.kind == "order" else text for text in about]
                for source, edge in sources.items()
            }
        named = {by_id[source].function: by_id[source] for source in sources}
        given = override(BackwardContext(call, about, score, named, reason))
        given = await given if inspect.isawaitable(given) else given
        return {named[name].id: [text] for name, text in (given or {}).items() if name in named and text.strip()}

    await visit(siblings.get(None, []), [feedback])
    return found
