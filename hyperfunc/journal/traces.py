"""A tape as JSON: what an execution called, short enough to keep and to show. Knows nothing of SQLite.

Arguments and outputs are kept as previews only: replays answer from paid calls, not from traces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperfunc.observability.preview import PREVIEW_CHARACTERS, preview
from hyperfunc.tape import Tape
from hyperfunc.usage import Usage

__all__ = ["TraceRecord", "TracedCall", "trace_calls", "trace_edges"]


@dataclass(frozen=True, slots=True)
class TracedCall:
    """One call of a trace.

    Attributes:
        start: seconds after the first call of the trace began.
        seconds: how long it took; of an unfinished one, 0.
        inputs, output: previews; empty where content was not kept.
        error: the error's type and message, if it failed.
    """

    id: int
    function: str
    parent: int | None = None
    start: float = 0.0
    seconds: float = 0.0
    inputs: str = ""
    output: str = ""
    error: str | None = None
    attempts: int = 1
    usage: Usage = field(default_factory=Usage)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__} | {"usage": self.usage.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TracedCall:
        return cls(**{**data, "usage": Usage.from_dict(data["usage"])})


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """What one execution of the program called.

    Attributes:
        label: which program ran: ``"best"``, a candidate's key, …
        edges: (source id, target id, kind), see :class:`hyperfunc.tape.Edge`.
    """

    sequence: int
    generation: int
    example: str
    label: str
    created_at: float
    seconds: float
    calls: tuple[TracedCall, ...]
    edges: tuple[tuple[int, int, str], ...]


def trace_calls(tape: Tape, *, content: bool = True) -> tuple[TracedCall, ...]:
    """The calls of ``tape`` as records; ``content=False`` leaves inputs and outputs out."""
    if not tape.calls:
        return ()
    begin = min(call.start for call in tape)
    return tuple(
        TracedCall(
            id=call.id,
            function=call.function,
            parent=call.parent,
            start=call.start - begin,
            seconds=call.seconds,
            inputs=_arguments(call.args, call.kwargs) if content else "",
            output=preview(call.output) if content and call.error is None else "",
            error=None if call.error is None else f"{type(call.error).__name__}: {call.error}"[:PREVIEW_CHARACTERS],
            attempts=call.attempts,
            usage=call.usage,
            metadata={name: _plain(value) for name, value in call.metadata.items()},
        )
        for call in tape
    )


def trace_edges(tape: Tape) -> tuple[tuple[int, int, str], ...]:
    """The dataflow between the calls of ``tape``."""
    return tuple((edge.source, edge.target, edge.kind) for edge in tape.edges())


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [preview(value) for value in args] + [f"{name}={preview(value)}" for name, value in kwargs.items()]
    return preview(", ".join(parts))


def _plain(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return preview(value)
    return value
