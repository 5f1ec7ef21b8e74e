"""``system.observability``: trace sessions, the history of calls, summaries, exports.

Built on the same spans that live exporters get. Knows exporters only by the names that plugins registered.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc.observability import conventions as names
from hyperfunc.observability.call_metrics import CallMetric, CallMetrics
from hyperfunc.observability.delivery import Delivery, Exporter
from hyperfunc.observability.metrics import Metrics
from hyperfunc.observability.records import CallRecord, ObservationRecord, TraceSummary, summarize
from hyperfunc.observability.spans import AroundCall, Sampling, Span, Tracer, span
from hyperfunc.observability.tracing import trace_calls_with
from hyperfunc.plugins import current_plugins

__all__ = ["ObservabilityHub"]


class ObservabilityHub:
    """Watches the calls of one system while a trace session is open.

    Args:
        system: whose calls.
        history_limit: spans kept in memory; the oldest go first, and :meth:`summary` says how many went.
        close_timeout_s: the end of a session waits this long, and no longer, for exporters to take what is still
            queued. ``None`` waits for those that write on this machine, for the others no longer than 1 % of the
            session's time, and goes on in the background: see :meth:`flush`.

    Attributes:
        metric_functions: name -> function of a :class:`~hyperfunc.observability.CallContext` that gives a number; it is
            noted with every call of a session, as attribute ``hyperfunc.call.NAME`` and in ``extra_metrics``. Empty
            unless you add to it. (``otel_metric_funcs`` in hyperfunc 0.3.)
    """

    def __init__(self, system: object, *, history_limit: int = 100_000, close_timeout_s: float | None = None) -> None:
        self._system = system
        self._name = type(system).__name__
        self.metric_functions: dict[str, CallMetric] = {}
        self._close_timeout_s = close_timeout_s
        self._spans: deque[tuple[Span, bool]] = deque(maxlen=history_limit)
        self._forgotten = 0
        self._session_id = ""
        self._open = False
        self._deliveries: list[Delivery] = []  # of the open session, and of earlier ones that are not finished
        self._dropped = 0
        self._failed = 0
        self.sampled_out = 0
        self.metrics = Metrics()

    @contextmanager
    def trace(
        self,
        session_id: str | None = None,
        *,
        exporters: Sequence[Exporter | str] = (),
        sampling: Sampling | float | None = None,
        content: bool = False,
        remote: tuple[int, int] | None = None,
        around_calls: AroundCall | None = None,
    ) -> Iterator[Tracer]:
        """Record the calls made in the block.

        Args:
            session_id: how viewers group traces; made up where ``None``.
            exporters: get the spans while the block runs, each in a thread of its own: objects, or registered names.
            sampling: which evaluations of a population to keep; a number is a fraction.
            content: keep inputs and outputs of calls; they may hold personal data.
            remote: the parent in another process, see :mod:`hyperfunc.observability.propagation`.
            around_calls: entered around each call, for example ``hyperfunc_otlp.opentelemetry_context``, which hangs
                the spans of instrumented libraries (HTTP clients, SDKs) under our calls.

        Raises:
            ConfigurationError: a session of this hub is open already, or an argument is not what it should be.
            PluginError: an exporter's name is unknown.
        """
        if self._open:
            raise ConfigurationError("a trace session of this system is open already; close it first")
        self._session_id = session_id or uuid.uuid4().hex
        made = _exporters(exporters)
        chosen = Sampling(sampling) if isinstance(sampling, (int, float)) else sampling
        self._forget_finished()
        deliveries = [Delivery(exporter, content=content, metrics=self.metrics) for exporter in made]
        self._deliveries += deliveries

        def remember(finished: Span) -> None:
            if len(self._spans) == self._spans.maxlen:
                self._forgotten += 1
            self._spans.append((finished, content))

        tracer = Tracer(
            remember,
            *deliveries,
            sampling=chosen,
            content=content,
            metrics=self.metrics,
            around_calls=around_calls,
            call_metrics=CallMetrics(self.metric_functions, self._components),
        )
        self._open = True
        try:
            with trace_calls_with(tracer, remote=remote), ExitStack() as stack:
                root = stack.enter_context(span("run", self._name))
                if root is not None:
                    root.attributes[names.SESSION_ID] = self._session_id
                yield tracer
        finally:
            self._open = False
            self.sampled_out += tracer.sampled_out
            for delivery in deliveries:  # all at once, so that none waits for another
                delivery.finish()
            deadline = time.monotonic() + (self._close_timeout_s or 0.0)
            for delivery in deliveries:
                delivery.close(None if self._close_timeout_s is None else max(0.0, deadline - time.monotonic()))

    def _components(self) -> Mapping[str, Any]:
        registry = getattr(self._system, "registry", None)
        return {} if registry is None else registry.all_components()

    @property
    def dropped(self) -> int:
        """Spans that no longer fitted into an exporter's queue, or that an exporter was not offered in time."""
        return self._dropped + sum(delivery.dropped for delivery in self._deliveries)

    @property
    def failed(self) -> int:
        """Spans that an exporter did not take."""
        return self._failed + sum(delivery.failed for delivery in self._deliveries)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until exporters have taken (or refused) every span so far, of closed sessions too.

        Returns:
            Whether that was done within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        reached = [delivery.flush(max(0.0, deadline - time.monotonic())) for delivery in self._deliveries]
        return all(reached)

    def _forget_finished(self) -> None:
        for delivery in [d for d in self._deliveries if d.finished]:
            self._deliveries.remove(delivery)
            self._dropped += delivery.dropped
            self._failed += delivery.failed

    def observations(self) -> list[ObservationRecord]:
        """Every span that is still remembered, runs, generations and evaluations included, in order of ending."""
        return [ObservationRecord.from_span(finished, content=content) for finished, content in list(self._spans)]

    def get_history(self) -> list[ObservationRecord]:
        """The remembered calls, in order of ending."""
        return [record for record in self.observations() if record.kind == "call"]

    def get_call_records(self) -> list[CallRecord]:
        """The remembered calls in the form of ``HyperSystem.get_call_history``."""
        return [
            CallRecord(record.fn_name, record.example_index, record.elapsed_s, finished.error, record.extra_metrics)
            for finished, _ in list(self._spans)
            if (record := ObservationRecord.from_span(finished)).kind == "call"
        ]

    def summary(self) -> TraceSummary:
        """The remembered calls in numbers, by component."""
        return summarize(self.observations(), self._session_id, self._forgotten)

    def clear(self) -> None:
        """Forget what was recorded."""
        self._spans.clear()
        self._forgotten = 0
        self.metrics = Metrics()

    # -- exports of what is remembered --------------------------------------------------------------------------

    def export(self, exporter: Exporter | str, **options: Any) -> None:
        """Hand everything remembered to an exporter, here and now.

        Args:
            exporter: an object, or a registered name, which is then constructed with ``options``.

        Raises:
            PluginError: the name is unknown. Errors of the exporter pass through.
        """
        made = current_plugins().make("exporters", exporter, **options) if isinstance(exporter, str) else exporter
        made.export(self.observations(), self.summary())
        if isinstance(exporter, str):
            made.shutdown()

    def export_json(self, path: str | Path, jsonl: bool = False, include_summary: bool = True) -> None:
        """Write the history to a JSON file, or with ``jsonl`` one record per line."""
        self.export("json", path=path, jsonl=jsonl, include_summary=include_summary)

    def export_langfuse(
        self,
        trace_name: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Send the history to Langfuse; ``kwargs`` are those of ``LangFuseExporter``."""
        session = session_id or self._session_id or None
        self.export("langfuse", trace_name=trace_name, user_id=user_id, session_id=session, metadata=metadata, **kwargs)

    def export_otlp(
        self,
        endpoint: str = "http://localhost:4317",
        protocol: str = "grpc",
        service_name: str = "hyperfunc",
        insecure: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send the history to a collector (Jaeger, Tempo, Phoenix, …)."""
        self.export(
            "otlp",
            endpoint=endpoint,
            protocol=protocol,
            service_name=service_name,
            insecure=insecure,
            headers=headers,
        )


def _exporters(given: Sequence[Exporter | str]) -> list[Exporter]:
    if isinstance(given, str):
        raise ConfigurationError(f"exporters: expected a list, such as [{given!r}], got {given!r}")
    made = [current_plugins().make("exporters", e) if isinstance(e, str) else e for e in given]
    for exporter in made:
        if not callable(getattr(exporter, "export", None)):
            raise ConfigurationError(
                f"exporters: expected objects with `export(observations, summary)`, or names, got {exporter!r}"
            )
    return made
