"""Calls as spans: a tape that keeps nothing and hands each call to the tracer instead.

Knows the tape, not the exporters. A tape is only ever recorded outside vmap, and so are these spans.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hyperfunc.observability.spans import Span, Tracer, current_span, tracing
from hyperfunc.scope import current_scope
from hyperfunc.tape import Call, Tape, recording

__all__ = ["TracingTape", "trace_calls_with"]


class _SpannedCall(Call):
    __slots__ = ("span",)

    span: Span


class TracingTape(Tape):
    """A tape for many executions at once: calls become spans, and only what is under way is held.

    Args:
        tracer: who makes the spans.
        next_id: the first call's number.
    """

    def __init__(self, tracer: Tracer, next_id: int = 0) -> None:
        super().__init__()
        self._tracer = tracer
        self._next_id = next_id

    def begin(self, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], parent: Call | None) -> Call:
        call = _SpannedCall(
            self._next_id,
            function,
            args,
            kwargs,
            parent=None if parent is None else parent.id,
            start=time.perf_counter(),
        )
        self._next_id += 1
        call.span = self._tracer.start("call", function, current_span())
        call.span.call = call
        scope = current_scope()
        if scope.example is not None:
            call.span.set(example=scope.example, repeat=scope.repeat)
        return call

    def finish(self, call: Call) -> None:
        super().finish(call)
        assert isinstance(call, _SpannedCall)
        if not self._tracer.content:
            # What is sent later must not keep inputs and outputs alive, nor could it leak them.
            call.args, call.kwargs = (), {}
        self._tracer.end(call.span, call.error)
        if not self._tracer.content:
            call.output = None


@contextmanager
def trace_calls_with(tracer: Tracer, *, remote: tuple[int, int] | None = None) -> Iterator[Tracer]:
    """Make a span of every call in the block that can be recorded."""
    with tracing(tracer, remote=remote), recording(TracingTape(tracer)):
        yield tracer
