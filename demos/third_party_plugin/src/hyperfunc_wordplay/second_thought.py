"""The agent type ``second-thought``: one example is a draft, and the draft reconsidered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

__all__ = ["SecondThought"]


class SecondThought:
    """Calls ``run(**inputs, draft=None)``, then ``run(**inputs, draft=<its answer>)``; the second answer counts."""

    liftable: ClassVar[bool] = False  # two calls of run, not one

    async def run_example(self, run: Callable[..., Awaitable[Any]], inputs: Mapping[str, Any], system: Any) -> Any:
        """One example from start to end."""
        draft = await run(**inputs, draft=None)
        return await run(**inputs, draft=draft)
