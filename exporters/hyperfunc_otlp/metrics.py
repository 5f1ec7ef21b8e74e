"""Metric points as the bytes of an ``ExportMetricsServiceRequest``. Imported only where something is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from hyperfunc.observability import MetricPoint
from hyperfunc.observability import conventions as names
from hyperfunc_otlp.spans import key_values

__all__ = ["metrics_request"]


def metrics_request(points: Sequence[MetricPoint], resource: Mapping[str, str]) -> bytes:
    """All series, cumulative."""
    metrics: dict[tuple[str, str, str], Metric] = {}
    for point in points:
        series = metrics.setdefault((point.name, point.kind, point.unit), Metric(name=point.name, unit=point.unit))
        attributes = key_values(point.attributes)
        if point.kind == "gauge":
            series.gauge.data_points.append(
                NumberDataPoint(
                    attributes=attributes,
                    start_time_unix_nano=point.start_ns,
                    time_unix_nano=point.time_ns,
                    as_double=point.value,
                )
            )
            continue
        series.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        series.histogram.data_points.append(
            HistogramDataPoint(
                attributes=attributes,
                start_time_unix_nano=point.start_ns,
                time_unix_nano=point.time_ns,
                count=point.count,
                sum=point.value,
                bucket_counts=point.bucket_counts,
                explicit_bounds=point.bounds,
                min=point.minimum,
                max=point.maximum,
            )
        )
    scope = ScopeMetrics(scope=InstrumentationScope(name=names.SCOPE_NAME), metrics=list(metrics.values()))
    whole = ResourceMetrics(resource=Resource(attributes=key_values(resource)), scope_metrics=[scope])
    encoded: bytes = ExportMetricsServiceRequest(resource_metrics=[whole]).SerializeToString()
    return encoded
