"""Calls as spans: a tape that keeps nothing and hands each call to the tracer instead.

Knows the tape, not the exporters. A tape is only ever recorded outside vmap, and so are these spans.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hyperfunc.observability.spans import Span, Tracer, current_span, tracing
from hyperfunc.plugins import call_listener
from hyperfunc.scope import current_scope
from hyperfunc.tape import Call, Tape, recording

__all__ = ["TracingTape", "trace_calls_with"]


class _SpannedCall(Call):
    __slots__ = ("leave", "span")

    span: Span
    leave: Callable[[], None] | None


class TracingTape(Tape):
    """A tape for many executions at once: calls become spans, and only what is under way is held.

    Args:
        tracer: who makes the spans.
        keep: where the calls are kept as well, for whoever records an execution inside a traced one.
        batches_first: see :class:`~hyperfunc.tape.Tape`.
    """

    def __init__(self, tracer: Tracer, *, keep: bool = False, batches_first: bool = False) -> None:
        super().__init__(call_listener())
        self._tracer = tracer
        self._keep = keep
        self._next_id = 0
        self.batches_first = batches_first

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
        if self._keep:
            self.calls.append(call)
        call.span = self._tracer.start("call", function, current_span())
        call.span.call = call
        around = self._tracer.around_calls
        call.leave = None if around is None else around(call.span)
        scope = current_scope()
        if scope.example is not None:
            call.span.set(example=scope.example, repeat=scope.repeat)
        return call

    def finish(self, call: Call) -> None:
        super().finish(call)
        assert isinstance(call, _SpannedCall)
        if call.leave is not None:
            call.leave()
        if self._tracer.call_metrics is not None:
            self._tracer.call_metrics.note(call, current_scope().example, call.span)
        if not self._tracer.content and not self._keep:
            # What is sent later must not keep inputs and outputs alive, nor could it leak them.
            call.args, call.kwargs = (), {}
        self._tracer.end(call.span, call.error)
        if not self._tracer.content and not self._keep:
            call.output = None

    def nested(self) -> Tape:
        return TracingTape(self._tracer, keep=True)

    def for_population(self) -> Tape | None:
        return TracingTape(self._tracer, batches_first=True)


@contextmanager
def trace_calls_with(tracer: Tracer, *, remote: tuple[int, int] | None = None) -> Iterator[Tracer]:
    """Make a span of every call in the block that can be recorded."""
    with tracing(tracer, remote=remote), recording(TracingTape(tracer)):
        yield tracer
