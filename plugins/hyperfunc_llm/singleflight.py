"""Equal work in flight is done once. Knows nothing of what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["SingleFlight"]

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Whoever asks for a key first does the work; those who ask meanwhile get the same result or error.

    When the first one is cancelled, the next in line does the work. Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, asyncio.Future[T]] = {}

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of ``work``, and whether somebody else did it."""
        while (flight := self._flights.get(key)) is not None:
            await asyncio.wait((flight,))
            if not flight.cancelled():
                return flight.result(), True
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            result = await work()
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # read, so that it is no unhandled one when nobody waits
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(result)
            return result, False
        finally:
            del self._flights[key]
