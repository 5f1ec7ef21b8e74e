"""What the server counts, in Prometheus' text format. One registry per server, none global."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hyperfunc_serve.model_cache import ModelCache
from hyperfunc_serve.worker import ModelWorker

__all__ = ["ServerMetrics"]


class ServerMetrics:
    """Counters of requests, and readings of the workers and the model cache taken when asked."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, cache: ModelCache[ModelWorker]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Readings(cache))
        self._requests = Counter(
            "hyperfunc_requests", "Requests answered", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "hyperfunc_request_seconds", "Time to the end of the response", ["route"], registry=self._registry
        )
        self._first = Histogram(
            "hyperfunc_first_byte_seconds", "Time to the first byte of the body", ["route"], registry=self._registry
        )

    def observe(self, route: str, status: int, seconds: float, first_byte: float | None) -> None:
        """One request has ended. ``route`` is a route's pattern, never a raw path."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if first_byte is not None:
            self._first.labels(route).observe(first_byte)

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _Readings(Collector):
    def __init__(self, cache: ModelCache[ModelWorker]) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        statistics = self._cache.statistics
        for name in ("hits", "misses", "evictions", "failures"):
            yield CounterMetricFamily(
                f"hyperfunc_model_cache_{name}", f"Model cache: {name}", value=getattr(statistics, name)
            )
        yield GaugeMetricFamily("hyperfunc_model_cache_size", "Models loaded", value=statistics.size)
        yield GaugeMetricFamily("hyperfunc_model_cache_bytes", "Bytes of weights loaded", value=statistics.bytes)
        pending = GaugeMetricFamily("hyperfunc_pending_answers", "Answers computed or waiting", labels=["model"])
        tokens = CounterMetricFamily("hyperfunc_generated_tokens", "Tokens generated", labels=["model"])
        steps = CounterMetricFamily("hyperfunc_engine_steps", "Batches computed", labels=["model"])
        rows = CounterMetricFamily("hyperfunc_engine_rows", "Rows in those batches", labels=["model"])
        cancelled = CounterMetricFamily("hyperfunc_cancelled_answers", "Answers whose client left", labels=["model"])
        for name, worker in self._cache.loaded().items():
            pending.add_metric([name], worker.pending)
            tokens.add_metric([name], worker.counters.tokens)
            steps.add_metric([name], worker.counters.steps)
            rows.add_metric([name], worker.counters.rows)
            cancelled.add_metric([name], worker.counters.cancelled)
        yield from (pending, tokens, steps, rows, cancelled)
