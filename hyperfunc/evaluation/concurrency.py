"""Several awaitables at once, where one failure ends all. Knows nothing of what is awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

__all__ = ["run_together"]

T = TypeVar("T")


async def run_together(pending: Iterable[Awaitable[T]]) -> list[T]:
    """The results of all, in order; when one raises, the others are cancelled and awaited, and its error is raised.

    As ``asyncio.TaskGroup``, but the first error comes alone and not in a group: callers catch it by its type.
    """

    async def wait(one: Awaitable[T]) -> T:
        return await one

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait(one)) for one in pending]
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]
