"""Admission to one endpoint: concurrency, slow start, one coordinated cooldown, in order of asking.

Every ticket carries the *generation* in which it was sent. The first 429 of the current generation starts a cooldown
and a new generation; 429s that come in late from an older one start none. After the cooldown sending resumes with one
request in flight and doubles with each round of successes. The cooldown is a moment in time, not a task: nobody's
cancellation ends it. Knows nothing of requests, retries or money.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from hyperfunc_llm.limits.rate import EndpointRate

__all__ = ["Gate", "Ticket"]

_OPEN_WINDOW = 4096  # requests in flight; a server that has taken so many needs no slow start


@dataclass(slots=True)
class Ticket:
    """The right to send one request. ``sent_at`` is on the event loop's clock; ``waited_s`` how long admission took."""

    generation: int
    tokens: int
    sent_at: float
    waited_s: float
    open: bool = True


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[Ticket]
    tokens: int
    asked_at: float
    key: Hashable


class Gate:
    """Lets requests of one endpoint through. Belongs to one event loop.

    Args:
        rate: the endpoint's rates.
        concurrency: most requests in flight; ``None`` is no limit.
        start_window: requests in flight at first; one more for each success (doubling per round trip), so that a
            limit nobody configured is met with few requests instead of all at once.
    """

    def __init__(self, rate: EndpointRate, *, concurrency: int | None = None, start_window: int = 16) -> None:
        self.rate = rate
        self.concurrency = math.inf if concurrency is None else concurrency
        self.generation = 0
        self.in_flight = 0
        self.cooldowns: list[tuple[float, float]] = []
        self._window: float = start_window
        self._generation_in_flight = 0
        self._queue: deque[_Waiter] = deque()
        self._dispatcher: asyncio.Task[None] | None = None
        self._slot_freed: asyncio.Event = asyncio.Event()
        self._closed: dict[Hashable, tuple[float, Callable[[], BaseException]]] = {}

    def configure(self, concurrency: int | None, rpm: float | None, tpm: float | None) -> None:
        """Change the configured limits; what was learned stays."""
        self.concurrency = math.inf if concurrency is None else concurrency
        self.rate.configure(rpm, tpm)

    @property
    def waiting(self) -> int:
        """Requests that wait for admission."""
        return sum(not waiter.future.done() for waiter in self._queue)

    async def admit(self, tokens: int = 0, key: Hashable = None, *, limited: bool = True) -> Ticket:
        """Wait for a ticket for a request of about ``tokens`` tokens; give it back with :meth:`release`.

        ``key`` is what the request is authorised by: only requests with a key that was refused are closed out.
        ``limited=False`` waits for cooldowns only.

        Raises:
            LLMError: the endpoint was closed with :meth:`close`.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if key in self._closed:
            until, error = self._closed[key]
            if now < until:
                raise error()
            del self._closed[key]
        if not limited:
            await self.rate.wait_for_pause()
            return self._ticket(tokens, now, loop.time())
        if not self._queue and self._has_slot() and self.rate.is_free:
            self.rate.count(tokens)
            return self._ticket(tokens, now, now)
        future: asyncio.Future[Ticket] = loop.create_future()
        self._queue.append(_Waiter(future, tokens, now, key))
        if self._dispatcher is None:
            self._dispatcher = loop.create_task(self._dispatch())
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.release(future.result())
            else:
                future.cancel()
                self._slot_freed.set()
            raise

    def _has_slot(self) -> bool:
        return self.in_flight < self.concurrency and self._generation_in_flight < self._window

    def _ticket(self, tokens: int, asked_at: float, now: float) -> Ticket:
        self.in_flight += 1
        self._generation_in_flight += 1
        return Ticket(self.generation, tokens, now, now - asked_at)

    async def _dispatch(self) -> None:
        """Serve the queue in order: a free slot, then the rates, then the next one who still waits."""
        loop = asyncio.get_running_loop()
        try:
            while self._drop_gone():
                if not self._has_slot():
                    self._slot_freed.clear()
                    await self._slot_freed.wait()
                    continue
                await self.rate.acquire(self._queue[0].tokens)
                if self._drop_gone():
                    waiter = self._queue.popleft()
                    waiter.future.set_result(self._ticket(waiter.tokens, waiter.asked_at, loop.time()))
        finally:
            self._dispatcher = None

    def _drop_gone(self) -> bool:
        """Remove cancelled waiters from the front; whether anybody is left."""
        while self._queue and self._queue[0].future.done():
            self._queue.popleft()
        return bool(self._queue)

    def release(self, ticket: Ticket) -> None:
        """The request is over, however it ended. Releasing twice is one release."""
        if not ticket.open:
            return
        ticket.open = False
        self.in_flight -= 1
        if ticket.generation == self.generation:
            self._generation_in_flight -= 1
        self._slot_freed.set()

    def succeeded(self, ticket: Ticket, actual_tokens: int = 0) -> None:
        """A reply came for ``ticket``: rates and slow start grow."""
        self.rate.record_success(ticket.tokens, actual_tokens)
        if ticket.generation == self.generation and self._window < math.inf:
            self._window = math.inf if self._window >= _OPEN_WINDOW else self._window + 1
            self._slot_freed.set()

    def rate_limited(self, ticket: Ticket, retry_after: float | None) -> None:
        """A 429 came for ``ticket``."""
        if ticket.generation != self.generation:
            if ticket.generation == self.generation - 1:
                self.rate.record_late_429(retry_after)
            if self.cooldowns:
                start, end = self.cooldowns[-1]
                self.cooldowns[-1] = (start, max(end, self.rate.paused_until))
            return
        self.rate.record_429(retry_after)
        self.cooldowns.append((asyncio.get_running_loop().time(), self.rate.paused_until))
        del self.cooldowns[:-1000]
        self.generation += 1
        self._generation_in_flight = 0
        self._window = 1
        self._slot_freed.set()

    def close(self, error: Callable[[], BaseException], for_s: float, key: Hashable = None) -> None:
        """Refuse requests with ``key`` for ``for_s`` seconds, waiting ones included; ``error`` makes what they get."""
        self._closed[key] = (asyncio.get_running_loop().time() + for_s, error)
        for waiter in self._queue:
            if waiter.key == key and not waiter.future.done():
                waiter.future.set_exception(error())
        self._slot_freed.set()

    def reopen(self) -> None:
        """Admit every key again."""
        self._closed.clear()
