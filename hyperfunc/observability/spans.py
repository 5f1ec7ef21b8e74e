"""Spans: what took how long inside what, with identifiers of W3C trace context. Knows no exporter and no SDK.

Recording a span is a few assignments; everything else (attributes of calls, conversion, sending) happens later in the
thread of whoever receives them. Where no tracer is active, :func:`current_tracer` is one ContextVar lookup.
"""

from __future__ import annotations

import copy
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

from hyperfunc.errors import ConfigurationError, HyperfuncError
from hyperfunc.tape import Call, current_call

__all__ = ["AroundCall", "Sampling", "Span", "SpanKind", "Tracer", "current_span", "current_tracer", "span", "tracing"]

SpanKind = Literal["run", "generation", "evaluation", "call"]


class Span:
    """One piece of work. Times are nanoseconds since the epoch; ``end_ns`` is 0 while it lasts.

    Attributes:
        trace_id: 128 bits; span_id, parent_id: 64 bits, ``parent_id`` 0 at the root.
        error: a copy of the exception that ended it, if one did; without its traceback, which would keep every
            local variable of the failed call alive.
        call: the recorded call, for kind ``"call"``.
        events: (time in ns, name, attributes).
    """

    __slots__ = (
        "attributes",
        "call",
        "end_ns",
        "error",
        "events",
        "kind",
        "name",
        "parent_id",
        "span_id",
        "start_ns",
        "trace_id",
        "unit",
    )

    def __init__(
        self, kind: SpanKind, name: str, trace_id: int, span_id: int, parent_id: int, unit: _Unit | None, start_ns: int
    ) -> None:
        self.kind = kind
        self.name = name
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.unit = unit
        self.start_ns = start_ns
        self.end_ns = 0
        self.error: BaseException | None = None
        self.attributes: dict[str, Any] = {}
        self.call: Call | None = None
        self.events: list[tuple[int, str, Mapping[str, Any]]] = []

    @property
    def seconds(self) -> float:
        return max(0, self.end_ns - self.start_ns) / 1e9

    def set(self, **attributes: Any) -> None:
        """Add attributes under ``hyperfunc.NAME``."""
        for name, value in attributes.items():
            self.attributes[f"hyperfunc.{name}"] = value

    def event(self, name: str, **attributes: Any) -> None:
        """Something that happened at this moment (a wait for a rate limit, a retry)."""
        self.events.append((time.time_ns(), name, attributes))


class _Unit:
    """One evaluation (a member on an example), kept or dropped as a whole."""

    __slots__ = ("buffer", "failed", "kept")

    def __init__(self, kept: bool) -> None:
        self.kept = kept
        self.failed = False
        self.buffer: list[Span] = []


class Sampling:
    """Which evaluations to keep: all that failed, and a fraction of the rest. Runs and generations are always kept.

    Args:
        fraction: of the evaluations without errors, 0 to 1.
        keep_errors: keep every evaluation in which something failed.

    Raises:
        ConfigurationError: ``fraction`` is out of range.
    """

    def __init__(self, fraction: float = 1.0, *, keep_errors: bool = True) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ConfigurationError(f"sampling: expected a fraction from 0 to 1, got {fraction}")
        self.fraction = fraction
        self.keep_errors = keep_errors

    def keeps(self, span_id: int) -> bool:
        """Whether to keep an evaluation that may turn out without errors; a pure function of its identifier."""
        return span_id < self.fraction * 2**64


Receive = Callable[[Span], None]


AroundCall = Callable[[Span], Callable[[], None]]


class SpanCounter(Protocol):
    """What a tracer needs of metrics."""

    def observe(self, span: Span) -> None: ...


class NotesNumbers(Protocol):
    """What a tracer needs of :class:`~hyperfunc.observability.call_metrics.CallMetrics`."""

    def note(self, call: Call, example: int | str | None, span: Any) -> None: ...


class Tracer:
    """Makes spans and hands finished ones to its receivers.

    Args:
        receive: called with each finished span that is kept, in the thread that ended it; must be quick.
        sampling: which evaluations to keep.
        content: keep inputs and outputs of calls (they may hold personal data; off by default).
        metrics: counts every finished span, kept or not.
        around_calls: called in the task of each call when it begins; what it returns is called when the call ends.
        call_metrics: notes numbers with each finished call.
    """

    def __init__(
        self,
        *receive: Receive,
        sampling: Sampling | None = None,
        content: bool = False,
        metrics: SpanCounter | None = None,
        around_calls: AroundCall | None = None,
        call_metrics: NotesNumbers | None = None,
    ) -> None:
        self.receivers: list[Receive] = list(receive)
        self.sampling = sampling or Sampling()
        self.content = content
        self._metrics = metrics
        self.around_calls = around_calls
        self.call_metrics = call_metrics
        self.sampled_out = 0
        # Identifiers need no seed: they are names, and nothing that is computed depends on them.
        self._identifiers = random.Random()
        # perf_counter orders calls to the nanosecond; the epoch is added once, so that spans cannot run backwards.
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()
        self._lock = threading.Lock()

    def now(self) -> int:
        """Nanoseconds since the epoch."""
        return self._epoch_ns + time.perf_counter_ns()

    def start(self, kind: SpanKind, name: str, parent: Span | None, *, remote: tuple[int, int] | None = None) -> Span:
        """Begin a span.

        Args:
            remote: (trace id, span id) of the parent in another process, where ``parent`` is ``None``.
        """
        bits = self._identifiers.getrandbits
        span_id = bits(64) or 1
        if parent is not None:
            trace_id, parent_id, unit = parent.trace_id, parent.span_id, parent.unit
        else:
            trace_id, parent_id = remote or (bits(128) or 1, 0)
            unit = None
        if kind == "evaluation" and unit is None:
            unit = _Unit(self.sampling.keeps(span_id))
        return Span(kind, name, trace_id, span_id, parent_id, unit, self.now())

    def end(self, span: Span, error: BaseException | None = None) -> None:
        """End a span and hand it on, or keep it back until it is known whether its evaluation failed."""
        span.end_ns = self.now()
        if error is not None:
            span.error = _without_traceback(error)
        if self._metrics is not None:
            self._metrics.observe(span)
        unit = span.unit
        if unit is None or unit.kept:
            self._deliver(span)
            return
        with self._lock:
            unit.failed = unit.failed or span.error is not None
            unit.buffer.append(span)
            if unit.failed and self.sampling.keep_errors:
                unit.kept = True  # what follows is delivered at once
                ready, unit.buffer = unit.buffer, []
            elif span.kind == "evaluation":
                self.sampled_out += len(unit.buffer)
                unit.buffer = []
                return
            else:
                return
        for held in ready:
            self._deliver(held)

    def _deliver(self, span: Span) -> None:
        for receive in self.receivers:
            receive(span)


def _without_traceback(error: BaseException) -> BaseException:
    try:
        twin = copy.copy(error)
    except Exception:  # an exception whose __init__ takes other arguments than its args
        twin = error
    if type(twin) is not type(error) or twin is error:
        return HyperfuncError(f"{type(error).__name__}: {error}")
    return twin.with_traceback(None)


_tracer: ContextVar[Tracer | None] = ContextVar("hyperfunc_tracer", default=None)
_span: ContextVar[Span | None] = ContextVar("hyperfunc_span", default=None)
_remote: ContextVar[tuple[int, int] | None] = ContextVar("hyperfunc_remote_parent", default=None)


def current_tracer() -> Tracer | None:
    """The active tracer; ``None`` where nothing is traced."""
    return _tracer.get()


def current_span() -> Span | None:
    """The span around the caller: of the recorded call that it is in, else of the evaluation, generation or run."""
    call = current_call()
    inner = getattr(call, "span", None)
    return inner if isinstance(inner, Span) else _span.get()


@contextmanager
def tracing(tracer: Tracer | None, *, remote: tuple[int, int] | None = None) -> Iterator[Tracer | None]:
    """Trace the block with ``tracer``; ``None`` switches tracing off."""
    tokens = _tracer.set(tracer), _span.set(None), _remote.set(remote)
    try:
        yield tracer
    finally:
        _remote.reset(tokens[2])
        _span.reset(tokens[1])
        _tracer.reset(tokens[0])


class span:
    """``with span("generation", "generation 3", number=3) as s:``, a span around the block.

    ``s`` is ``None`` where nothing is traced. Attributes are kept as ``hyperfunc.NAME``. An exception is noted and
    passes through.
    """

    __slots__ = ("_attributes", "_kind", "_name", "_span", "_token", "_tracer")

    def __init__(self, kind: SpanKind, name: str, **attributes: Any) -> None:
        self._kind: SpanKind = kind
        self._name = name
        self._attributes = attributes
        self._tracer = _tracer.get()
        self._span: Span | None = None

    def __enter__(self) -> Span | None:
        tracer = self._tracer
        if tracer is None:
            return None
        parent = current_span()
        self._span = tracer.start(self._kind, self._name, parent, remote=None if parent else _remote.get())
        self._span.set(**self._attributes)
        self._token = _span.set(self._span)
        return self._span

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._span is not None and self._tracer is not None:
            _span.reset(self._token)
            self._tracer.end(self._span, error)
