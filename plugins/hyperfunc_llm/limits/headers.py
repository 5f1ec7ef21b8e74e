"""What servers say about their limits, as numbers. Knows nothing of what is done about it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["RateHeaders", "read_rate_headers", "retry_after_s"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True)
class RateHeaders:
    """What is left of the server's limits; ``None`` where it does not say. Resets in seconds from now."""

    remaining_requests: int | None = None
    reset_requests_s: float | None = None
    remaining_tokens: int | None = None
    reset_tokens_s: float | None = None


_SILENT = RateHeaders()


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The server's Retry-After in seconds from now (``retry-after-ms``, seconds, or an HTTP date); never negative.

    ``headers`` have lower-case names. A value that is neither is ignored.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return max(0.0, milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return max(0.0, seconds)
    if value is None:
        return None
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, moment.timestamp() - time.time())


def read_rate_headers(headers: Mapping[str, str]) -> RateHeaders:
    """Limits in the forms of OpenAI (``x-ratelimit-…``) and Anthropic (``anthropic-ratelimit-…``), litellm's
    ``llm_provider-`` prefix allowed. ``headers`` have lower-case names."""
    if "ratelimit" not in "\n".join(headers):
        return _SILENT
    plain = {name.removeprefix("llm_provider-"): value for name, value in headers.items()}

    def first(kind: str, what: str) -> str | None:
        return plain.get(f"x-ratelimit-{what}-{kind}") or plain.get(f"anthropic-ratelimit-{kind}-{what}")

    def whole(kind: str) -> int | None:
        number = _number(first(kind, "remaining"))
        return None if number is None else int(number)

    return RateHeaders(
        remaining_requests=whole("requests"),
        reset_requests_s=_seconds(first("requests", "reset")),
        remaining_tokens=whole("tokens"),
        reset_tokens_s=_seconds(first("tokens", "reset")),
    )


def _number(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _seconds(value: str | None) -> float | None:
    """``"1s"``, ``"6m0s"``, ``"20ms"``, plain seconds, or an ISO date."""
    if value is None:
        return None
    number = _number(value)
    if number is not None:
        return max(0.0, number)
    if _DURATION.sub("", value) == "":
        return sum(float(amount) * _UNITS[unit] for amount, unit in _DURATION.findall(value))
    try:
        return max(0.0, datetime.fromisoformat(value).timestamp() - time.time())
    except ValueError:
        return None
