"""A server in virtual time: what concurrency costs, measured without waiting, and the same on every machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Server"]


class Server:
    """Serves ``capacity`` calls at once without hindrance; beyond, every call takes longer.

    Args:
        capacity: calls at once that do not hinder each other.
        overload: power of the excess by which a call's time grows; at 1 the throughput stays, above it falls.
        seconds: of a call that nothing hinders.
    """

    def __init__(
        self, capacity: int, *, overload: float = 1.0, seconds: Callable[[int], float] = lambda item: 1.0
    ) -> None:
        self.capacity, self.overload, self.seconds = capacity, overload, seconds
        self.in_flight = 0
        self.most = 0
        self.latencies: list[float] = []

    async def call(self, item: int) -> int:
        started = asyncio.get_running_loop().time()
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            await asyncio.sleep(self.seconds(item) * max(1.0, self.in_flight / self.capacity) ** self.overload)
            return item * 2
        finally:
            self.in_flight -= 1
            self.latencies.append(asyncio.get_running_loop().time() - started)
