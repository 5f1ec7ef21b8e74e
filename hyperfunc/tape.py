"""The tape: what one execution really called. Knows nothing of who reads it (feedback, traces, replay).

Recording is a ContextVar: no tape, no cost. Nothing is recorded inside vmap, and the tape belongs to whoever asked for
it, so nothing is kept when they let go. Edges between calls are worked out when asked for.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from hyperfunc.usage import Usage

__all__ = ["Call", "CallListener", "Edge", "Tape", "add_usage", "current_call", "current_tape", "recording"]

_MINIMUM_CONTAINED = 8  # characters; shorter strings are contained in others by chance


_NOTHING = Usage()


@dataclass(slots=True, eq=False)
class Call:
    """One call of a hyperfunction.

    Attributes:
        id: position on its tape, in order of starting.
        function: the component's dotted name.
        args, kwargs: as the caller passed them, without injected parameters.
        output: what it returned; ``None`` while running or failed.
        error: what it raised, if it did.
        parent: id of the call inside which this one was made.
        start, end: seconds of ``time.perf_counter``; ``end`` is ``None`` while running.
        usage: tokens and money, summed over attempts.
        replayed: what replies from a call store cost when they were paid for; here they were free.
        attempts: how often the function body was started.
        suspended: it really waited for something (I/O, a lock, a sleep) at least once.
        metadata: free for plugins (model name, finish reason, …).
    """

    id: int
    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    error: BaseException | None = None
    parent: int | None = None
    start: float = 0.0
    end: float | None = None
    usage: Usage = field(default_factory=Usage)
    replayed: Usage = _NOTHING
    attempts: int = 1
    suspended: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        return 0.0 if self.end is None else self.end - self.start


@dataclass(frozen=True, slots=True)
class Edge:
    """``source``'s output went into ``target``: the same object (``identity``), its text inside a string
    (``containment``), or, where nothing else is known, merely earlier (``order``)."""

    source: int
    target: int
    kind: Literal["identity", "containment", "order"]


class CallListener(Protocol):
    """Who hears of recorded calls as they happen (:func:`hyperfunc.plugins.call_listener`)."""

    def before_call(self, component: str, call_id: int) -> None: ...

    def after_call(self, component: str, call_id: int, seconds: float, error: BaseException | None) -> None: ...


class Tape:
    """The calls of one execution, in order of starting.

    Args:
        listener: told of every call before and after it is made.

    Attributes:
        batches_first: calls that a population executor batches are not recorded, so that recording changes no speed.
    """

    batches_first: bool = False

    def __init__(self, listener: CallListener | None = None) -> None:
        self.calls: list[Call] = []
        self.listener = listener

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls)

    @property
    def usage(self) -> Usage:
        """What all calls used."""
        return sum((c.usage for c in self.calls), Usage())

    @property
    def worth(self) -> Usage:
        """What all calls would use without a call store: what a run of the program costs in production."""
        return sum((c.usage + c.replayed for c in self.calls), Usage())

    def begin(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], parent: Call | None) -> Call:
        call = Call(
            len(self.calls),
            function,
            args,
            kwargs,
            parent=None if parent is None else parent.id,
            start=time.perf_counter(),
        )
        self.calls.append(call)
        if self.listener is not None:
            self.listener.before_call(function, call.id)
        return call

    def finish(self, call: Call) -> None:
        call.end = time.perf_counter()
        if self.listener is not None:
            self.listener.after_call(call.function, call.id, call.seconds, call.error)

    def nested(self) -> Tape:
        """A tape for an execution inside this one's that is recorded for itself."""
        return Tape()

    def for_population(self) -> Tape | None:
        """What the members of a population are recorded on; ``None`` records nothing."""
        return None

    def edges(self) -> list[Edge]:
        """Dataflow between sibling calls, worked out from the values.

        Identity looks at the leaves of nested containers; numbers, booleans, ``None`` and one-character strings carry
        no identity. Containment needs eight characters. A finished call that nobody is seen to use is taken to
        precede the next sibling call ("order").
        """
        edges: list[Edge] = []
        for siblings in self._siblings():
            edges += _sibling_edges(siblings)
        return edges

    def _siblings(self) -> list[list[Call]]:
        groups: dict[int | None, list[Call]] = {}
        for call in self.calls:
            groups.setdefault(call.parent, []).append(call)
        return list(groups.values())


def _leaves(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple, set, frozenset)):
            stack.extend(item)
        elif isinstance(item, (str, Tensor)) or not (item is None or isinstance(item, (bool, int, float))):
            yield item
            if not isinstance(item, (str, Tensor)) and hasattr(item, "__dict__"):
                stack.extend(vars(item).values())


def _sibling_edges(calls: list[Call]) -> list[Edge]:
    edges: list[Edge] = []
    used: set[int] = set()
    for position, target in enumerate(calls):
        inputs = list(_leaves([target.args, target.kwargs]))
        identities = {id(leaf) for leaf in inputs if not (isinstance(leaf, str) and len(leaf) < 2)}
        strings = [leaf for leaf in inputs if isinstance(leaf, str)]
        finished = [c for c in calls[:position] if c.end is not None and c.end <= target.start]
        for source in finished:
            outputs = list(_leaves(source.output))
            kind: Literal["identity", "containment"] | None = None
            if any(id(leaf) in identities for leaf in outputs):
                kind = "identity"
            elif any(
                isinstance(leaf, str) and len(leaf) >= _MINIMUM_CONTAINED and any(leaf in text for text in strings)
                for leaf in outputs
            ):
                kind = "containment"
            if kind is not None:
                edges.append(Edge(source.id, target.id, kind))
                used.add(source.id)
        if not any(edge.target == target.id for edge in edges):
            unused = [c for c in finished if c.id not in used]
            if unused:
                latest = max(unused, key=lambda c: c.end or 0.0)
                edges.append(Edge(latest.id, target.id, "order"))
                used.add(latest.id)
    return edges


_tape: ContextVar[Tape | None] = ContextVar("hyperfunc_tape", default=None)
_call: ContextVar[Call | None] = ContextVar("hyperfunc_call", default=None)


def current_tape() -> Tape | None:
    """The tape being recorded, if any."""
    return _tape.get()


def current_call() -> Call | None:
    """The recorded call inside which the caller runs, if any."""
    return _call.get()


def add_usage(usage: Usage, *, replayed: Usage | None = None, **metadata: Any) -> None:
    """Add to the usage (and metadata) of the call being recorded; does nothing when none is.

    Args:
        replayed: what a reply from a call store cost when it was paid for.
    """
    call = _call.get()
    if call is not None:
        call.usage = call.usage + usage
        if replayed is not None:
            call.replayed = call.replayed + replayed
        call.metadata.update(metadata)


@contextmanager
def recording(tape: Tape | None) -> Iterator[Tape | None]:
    """Record the calls of the block on ``tape`` (``None`` switches recording off)."""
    tape_token = _tape.set(tape)
    call_token = _call.set(None)
    try:
        yield tape
    finally:
        _call.reset(call_token)
        _tape.reset(tape_token)


class inside:
    """Calls made in the block are children of ``call``. (A class: a generator-based manager costs 1 µs more.)"""

    __slots__ = ("_call", "_token")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._token = _call.set(self._call)

    def __exit__(self, *_: object) -> None:
        _call.reset(self._token)


class watched:
    """Awaits ``coroutine`` and notes on ``call`` whether it really waited."""

    __slots__ = ("_call", "_coroutine")

    def __init__(self, coroutine: Awaitable[Any], call: Call) -> None:
        self._coroutine = coroutine
        self._call = call

    def __await__(self) -> Generator[Any, Any, Any]:
        inner: Any = self._coroutine.__await__()
        try:
            waiting_for = next(inner)
            self._call.suspended = True
            while True:
                try:
                    reply = yield waiting_for
                except GeneratorExit:
                    inner.close()
                    raise
                except BaseException as error:
                    waiting_for = inner.throw(error)
                else:
                    waiting_for = next(inner) if reply is None else inner.send(reply)
        except StopIteration as stop:
            return stop.value
