"""Sends observations to Langfuse over its OpenTelemetry endpoint, under the attribute names that its own SDK uses.

The SDK itself is not needed: it can only report what happens now, while these spans have already ended.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc.observability import ObservationRecord, TraceSummary
from hyperfunc.observability import conventions as names
from hyperfunc_otlp import OTLPExporter

__all__ = ["LangFuseExporter"]

_DEFAULT_HOST = "https://cloud.langfuse.com"
_PARAMETERS = "gen_ai.request."


class LangFuseExporter:
    """Sends spans to a Langfuse server (v4 or newer).

    Args:
        trace_name, user_id, session_id, metadata: set on every trace.
        public_key, secret_key, host: default to the environment's LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and
            LANGFUSE_BASE_URL (or LANGFUSE_HOST).
        timeout_s: longest time for one batch.

    Raises:
        ConfigurationError: a key is missing.
        MissingDependencyError: the OpenTelemetry exporter is not installed.
    """

    def __init__(
        self,
        trace_name: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        public_key: str | None = None,
        secret_key: str | None = None,
        host: str | None = None,
        *,
        timeout_s: float = 5.0,
    ) -> None:
        public = public_key or os.environ.get("LANGFUSE_PUBLIC_KEY")
        secret = secret_key or os.environ.get("LANGFUSE_SECRET_KEY")
        if not public or not secret:
            missing = " and ".join(n for n, v in (("public_key", public), ("secret_key", secret)) if not v)
            raise ConfigurationError(
                f"LangFuseExporter needs {missing}; pass it, or set LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"
            )
        environment = os.environ.get("LANGFUSE_BASE_URL") or os.environ.get("LANGFUSE_HOST")
        address = (host or environment or _DEFAULT_HOST).rstrip("/")
        token = base64.b64encode(f"{public}:{secret}".encode()).decode()
        self._otlp = OTLPExporter(
            endpoint=f"{address}/api/public/otel",
            protocol="http",
            headers={"authorization": f"Basic {token}", "x-langfuse-ingestion-version": "4"},
            timeout_s=timeout_s,
            metrics=False,
        )
        self._trace: dict[str, Any] = {
            "langfuse.trace.name": trace_name,
            "user.id": user_id,
            names.SESSION_ID: session_id,
            "langfuse.trace.metadata": json.dumps(dict(metadata)) if metadata else None,
        }

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Send a batch; ExportError where the server does not take it."""
        self._otlp.export([self._translated(record) for record in observations])

    def shutdown(self) -> None:
        """Close the connection."""
        self._otlp.shutdown()

    def _translated(self, record: ObservationRecord) -> ObservationRecord:
        given = record.attributes
        generation = record.gen_ai_usage_input_tokens is not None
        added: dict[str, Any] = {key: value for key, value in self._trace.items() if value is not None}
        added["langfuse.observation.type"] = "generation" if generation else "span" if record.kind != "call" else "tool"
        if not record.success:
            added["langfuse.observation.level"] = "ERROR"
            added["langfuse.observation.status_message"] = f"{record.error_type}: {record.error_message}"
        if generation:
            usage = {
                "input": record.gen_ai_usage_input_tokens,
                "output": record.gen_ai_usage_output_tokens,
                "total": record.gen_ai_usage_total_tokens,
            }
            added["langfuse.observation.usage_details"] = json.dumps(usage)
            if record.gen_ai_response_model or record.gen_ai_request_model:
                added["langfuse.observation.model.name"] = record.gen_ai_response_model or record.gen_ai_request_model
            parameters = {
                key.removeprefix(_PARAMETERS): value
                for key, value in given.items()
                if key.startswith(_PARAMETERS) and key != names.REQUEST_MODEL
            }
            if parameters:
                added["langfuse.observation.model.parameters"] = json.dumps(parameters)
        if record.cost_usd:
            added["langfuse.observation.cost_details"] = json.dumps({"total": record.cost_usd})
        for ours, theirs in ((names.INPUT_VALUE, "input"), (names.OUTPUT_VALUE, "output")):
            if ours in given:
                added[f"langfuse.observation.{theirs}"] = given[ours]
        return replace(record, attributes={**given, **added})
