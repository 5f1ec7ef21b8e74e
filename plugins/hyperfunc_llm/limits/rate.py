"""Rates of one endpoint: configured per minute, announced in headers, learned from 429s; and the pause after a 429.

Knows nothing of concurrency or of who sends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from aiolimiter import AsyncLimiter

from hyperfunc.errors import ConfigurationError
from hyperfunc_llm.limits.headers import RateHeaders, read_rate_headers
from hyperfunc_llm.limits.pace import AdaptivePace

__all__ = ["AdaptiveRateLimiter", "EndpointRate"]

_BURST_S = 1.0  # AsyncLimiter(rpm, 60) would admit a whole minute's requests at once


def _limiter(per_minute: float) -> AsyncLimiter:
    """One second's worth as burst. Below one a second the burst is one request, and the period is what that takes."""
    burst = per_minute * _BURST_S / 60.0
    return AsyncLimiter(burst, _BURST_S) if burst >= 1 else AsyncLimiter(1.0, 60.0 / per_minute)


class EndpointRate:
    """When the next request of one endpoint may be sent.

    Args:
        rpm, tpm: requests and tokens per minute; ``None`` is no limit. Bursts are one second's worth.
        initial_backoff_s, backoff_multiplier, max_backoff_s: pause after a 429 without Retry-After; multiplied for
            each further one until something succeeds.
        safety_margin: share of the configured limits to use, in (0, 1].
    """

    def __init__(
        self,
        rpm: float | None = None,
        tpm: float | None = None,
        *,
        initial_backoff_s: float = 1.0,
        backoff_multiplier: float = 2.0,
        max_backoff_s: float = 60.0,
        safety_margin: float = 1.0,
    ) -> None:
        for name, value in (("rpm", rpm), ("tpm", tpm), ("safety_margin", safety_margin)):
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name}: expected a number > 0, got {value!r}")
        self.rpm: float | None = None
        self.tpm: float | None = None
        self.pace = AdaptivePace()
        self.pauses = 0
        self._safety_margin = safety_margin
        self._requests: AsyncLimiter | None = None
        self._tokens: AsyncLimiter | None = None
        self._token_debt = 0.0
        self.configure(rpm, tpm)
        self._initial, self._multiplier, self._max = initial_backoff_s, backoff_multiplier, max_backoff_s
        self._escalation = 0
        self._paused_until = float("-inf")
        self._room: dict[str, tuple[float, float]] = {}  # what -> (left, until): from headers

    def configure(self, rpm: float | None, tpm: float | None) -> None:
        """Change the configured rates; an unchanged one keeps counting."""
        if rpm != self.rpm:
            self._requests = None if rpm is None else _limiter(rpm * self._safety_margin)
        if tpm != self.tpm:
            self._tokens = None if tpm is None else _limiter(tpm * self._safety_margin)
        self.rpm, self.tpm = rpm, tpm

    @property
    def is_free(self) -> bool:
        """Nothing to wait for or to count: no limit is configured, learned or announced, and there is no pause."""
        return (
            self._requests is None
            and self._tokens is None
            and self.pace.rate is None
            and not self._room
            and self._paused_until <= asyncio.get_running_loop().time()
        )

    @property
    def paused_until(self) -> float:
        """End of the latest pause, on the event loop's clock."""
        return self._paused_until

    async def acquire(self, tokens: int = 0) -> None:
        """Wait until a request of about ``tokens`` tokens may be sent, and count it. Never returns inside a pause."""
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            await self._acquire_tokens(self._tokens, tokens)
        loop = asyncio.get_running_loop()
        while True:  # a pause may begin, or grow, while this waits
            wait = self._ready_at(loop.time(), tokens) - loop.time()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        self.count(tokens)

    async def wait_for_pause(self) -> None:
        """Wait for the end of the pause alone."""
        loop = asyncio.get_running_loop()
        while (wait := self._paused_until - loop.time()) > 0:  # noqa: ASYNC110 - the pause may grow meanwhile
            await asyncio.sleep(wait)

    def count(self, tokens: int = 0) -> None:
        """Count a request that is sent now."""
        self.pace.sent(asyncio.get_running_loop().time())
        for what, amount in (("requests", 1), ("tokens", tokens)):
            if what in self._room:
                left, until = self._room[what]
                self._room[what] = (left - amount, until)

    def _ready_at(self, now: float, tokens: int) -> float:
        ready = max(self._paused_until, self.pace.ready_at(now))
        for what, amount in (("requests", 1), ("tokens", tokens)):
            if what in self._room:
                left, until = self._room[what]
                if until <= now:
                    del self._room[what]
                elif left < amount:
                    ready = max(ready, until)
        return ready

    async def _acquire_tokens(self, limiter: AsyncLimiter, tokens: int) -> None:
        """Pay ``tokens`` and the difference that earlier estimates were wrong by, in parts that fit the limiter."""
        due = max(0.0, tokens + self._token_debt)
        self._token_debt = min(0.0, tokens + self._token_debt)
        while due > 0:
            part = min(due, limiter.max_rate)
            await limiter.acquire(part)
            due -= part

    def record_429(self, retry_after: float | None = None) -> float:
        """Pause; returns for how many seconds: the server's wish, else the escalating backoff."""
        now = asyncio.get_running_loop().time()
        backoff = min(self._max, self._initial * self._multiplier**self._escalation)
        wait = backoff if retry_after is None else retry_after
        self._escalation += 1
        self.pauses += 1
        self._paused_until = max(self._paused_until, now + wait)
        self.pace.rejected(now, wait)
        return wait

    def record_late_429(self, retry_after: float | None) -> None:
        """A 429 for a request sent before the pause began: lengthens the pause if it asks for more, starts none."""
        self.pace.rejected_late()
        now = asyncio.get_running_loop().time()
        if retry_after is not None and self._paused_until > now:
            self._paused_until = max(self._paused_until, now + retry_after)

    def record_success(self, estimated_tokens: int = 0, actual_tokens: int = 0) -> None:
        """A reply came; the escalation ends and the token estimate is settled."""
        self._escalation = 0
        self._token_debt += actual_tokens - estimated_tokens
        self.pace.succeeded(asyncio.get_running_loop().time())

    def update(self, headers: RateHeaders, in_flight: int = 0) -> None:
        """Believe what a reply says is left, less the ``in_flight`` requests that it may not have counted yet."""
        now = asyncio.get_running_loop().time()
        if headers.remaining_requests is not None and headers.reset_requests_s is not None:
            left = max(0, headers.remaining_requests - in_flight)
            self._room["requests"] = (left, now + headers.reset_requests_s)
        if headers.remaining_tokens is not None and headers.reset_tokens_s is not None:
            self._room["tokens"] = (headers.remaining_tokens, now + headers.reset_tokens_s)

    def stats(self) -> dict[str, Any]:
        """The present state, as JSON values."""
        now = asyncio.get_running_loop().time()
        return {
            "requests_per_minute": self.rpm,
            "tokens_per_minute": self.tpm,
            "learned_requests_per_second": self.pace.rate,
            "paused_for_s": max(0.0, self._paused_until - now),
            "pauses": self.pauses,
        }


class AdaptiveRateLimiter:
    """Rates of many endpoints by name, for programs that make their own requests; the runtime uses
    :class:`EndpointRate` through its gates. Belongs to one event loop.

    Without configuration there is no ceiling: limits come from headers and 429s.
    """

    def __init__(
        self,
        default_requests_per_minute: float | None = None,
        default_tokens_per_minute: float | None = None,
        initial_backoff_seconds: float = 1.0,
        max_backoff_seconds: float = 60.0,
        backoff_multiplier: float = 2.0,
        safety_margin: float = 0.9,
    ) -> None:
        self._make = partial(
            EndpointRate,
            default_requests_per_minute,
            default_tokens_per_minute,
            initial_backoff_s=initial_backoff_seconds,
            max_backoff_s=max_backoff_seconds,
            backoff_multiplier=backoff_multiplier,
            safety_margin=safety_margin,
        )
        self._rates: dict[str, EndpointRate] = {}

    def _rate(self, endpoint: str) -> EndpointRate:
        if endpoint not in self._rates:
            self._rates[endpoint] = self._make()
        return self._rates[endpoint]

    async def acquire(self, endpoint: str, estimated_tokens: int = 0) -> None:
        """Wait until a request may be sent to ``endpoint``."""
        await self._rate(endpoint).acquire(estimated_tokens)

    def update_from_headers(self, endpoint: str, headers: Mapping[str, Any]) -> None:
        """Take limits from a reply's headers."""
        lower = {str(name).lower(): str(value) for name, value in headers.items()}
        self._rate(endpoint).update(read_rate_headers(lower))

    def record_429(self, endpoint: str, retry_after: float | None = None) -> float:
        """Pause ``endpoint``; returns for how many seconds."""
        return self._rate(endpoint).record_429(retry_after)

    def record_success(self, endpoint: str) -> None:
        """End the escalation of pauses and grow the learned rate."""
        self._rate(endpoint).record_success()

    def get_stats(self, endpoint: str) -> dict[str, Any]:
        """The present state, as JSON values."""
        return self._rate(endpoint).stats()

    def reset(self, endpoint: str | None = None) -> None:
        """Forget what was learned about ``endpoint``, or about all."""
        if endpoint is None:
            self._rates.clear()
        else:
            self._rates.pop(endpoint, None)
