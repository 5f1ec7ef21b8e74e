"""When a request may be sent: configured rates, rates learned from the server, cooldowns, concurrency."""

from __future__ import annotations

from hyperfunc_llm.limits.gate import Gate, Ticket
from hyperfunc_llm.limits.headers import RateHeaders, read_rate_headers, retry_after_s
from hyperfunc_llm.limits.pace import AdaptivePace
from hyperfunc_llm.limits.rate import AdaptiveRateLimiter, EndpointRate

__all__ = [
    "AdaptivePace",
    "AdaptiveRateLimiter",
    "EndpointRate",
    "Gate",
    "RateHeaders",
    "Ticket",
    "read_rate_headers",
    "retry_after_s",
]
