"""Carries encoded requests to a collector by HTTP. Imported only where that protocol is chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import requests

from hyperfunc_otlp.errors import ExportError
from hyperfunc_otlp.transport import RESPONSES, Patience, Signal, TryAgain, check_accepted, with_environment

__all__ = ["HttpTransport"]

_TRY_AGAIN_STATUSES = frozenset({429, 502, 503, 504})


class HttpTransport:
    """OTLP over HTTP, protobuf encoding; through the environment's proxy where one is set.

    Args:
        endpoint: ``http://host:4318``; ``/v1/traces`` and ``/v1/metrics`` are added.
        headers: sent along.
        timeout_s: longest time for one request, all attempts together; seconds between two pieces of a slow reply are
            limited by it too.
    """

    def __init__(self, endpoint: str, *, headers: Mapping[str, str], timeout_s: float) -> None:
        self._endpoint = endpoint.rstrip("/")
        for path in ("/v1/traces", "/v1/metrics"):
            self._endpoint = self._endpoint.removesuffix(path)
        self._patience = Patience(timeout_s)
        self._session = requests.Session()
        self._session.headers.update({**with_environment(headers), "content-type": "application/x-protobuf"})
        self._certificates = os.environ.get("OTEL_EXPORTER_OTLP_CERTIFICATE") or None

    def send(self, signal: Signal, request: bytes) -> None:
        url = f"{self._endpoint}/v1/{signal}"

        def attempt(left_s: float) -> None:
            try:
                # Said for each request: REQUESTS_CA_BUNDLE would take precedence over what a session says.
                reply = self._session.post(
                    url, request, timeout=left_s, allow_redirects=False, verify=self._certificates
                )
            except requests.exceptions.SSLError as error:
                raise ExportError(f"the collector at {url} is not trusted: {error}") from error
            except requests.ConnectionError as error:
                raise TryAgain(f"the collector at {url} cannot be reached: {error}") from error
            except requests.RequestException as error:
                raise ExportError(f"the collector at {url} did not answer: {error}") from error
            if reply.status_code in _TRY_AGAIN_STATUSES:
                raise TryAgain(f"the collector at {url} answered {reply.status_code}", _retry_after(reply))
            if not reply.ok or reply.is_redirect:
                raise ExportError(f"the collector at {url} answered {reply.status_code} {reply.text[:200]!r}")
            if reply.headers.get("content-type", "").startswith("application/x-protobuf"):
                check_accepted(RESPONSES[signal].FromString(reply.content))

        self._patience.through(attempt)

    def close(self) -> None:
        self._patience.close()
        self._session.close()


def _retry_after(reply: Any) -> float | None:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None
