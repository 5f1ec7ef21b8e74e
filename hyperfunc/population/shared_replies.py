"""One answer for equal calls of a population: what is upstream of everything that members vary is asked for once.

For functions that say so (``shares_replies``): their reply depends on their arguments and their parameters alone, as a
model's does that is kept in a call store. A store would give every member the reply for nothing, too, but looking it up
takes longer than a small policy takes to run. Knows nothing of models.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

__all__ = ["SharedReplies", "call_key"]

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


def call_key(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable | None:
    """What equal calls have in common; ``None`` where an argument is not a plain immutable value."""
    for value in args:
        if type(value) not in _PLAIN:
            return None
    for value in kwargs.values():
        if type(value) not in _PLAIN:
            return None
    types = tuple(map(type, args)), tuple(map(type, kwargs.values()))  # 1, 1.0 and True are equal, and not the same
    return name, args, tuple(kwargs.items()), types


class SharedReplies:
    """Replies by call, while one block runs. Equal calls in flight wait for the first one of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._replies: dict[Hashable, asyncio.Future[Any]] = {}

    async def reply(self, key: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
        """The reply of the call ``key``, which the first who asks makes; others get copies of it, or its error."""
        while True:
            reply = self._replies.get(key)
            if reply is None:
                return await self._make(key, make)
            try:
                value = await asyncio.shield(reply)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if not reply.cancelled() or (task is not None and task.cancelling()):
                    raise
                continue  # whoever asked first was cancelled, not we
            return value if type(value) in _PLAIN else copy.deepcopy(value)

    async def _make(self, key: Hashable, make: Callable[[], Awaitable[Any]]) -> Any:
        reply = self._replies[key] = self._loop.create_future()
        try:
            value = await make()
        except Exception as error:
            reply.set_exception(error)
            reply.exception()  # seen, also where nobody else asks
            raise
        except BaseException:
            del self._replies[key]
            reply.cancel()
            raise
        reply.set_result(value if type(value) in _PLAIN else copy.deepcopy(value))
        return value
