"""Strategies of several stages: what to send next may depend on what went wrong before.

A strategy is shared by many items; what belongs to one execution of one item is in its :class:`RetryState`, made when
the execution begins and dropped when it ends. The deadline and the counts are kept elsewhere: clearing the state
extends nothing. Knows nothing of how requests are sent.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from hyperfunc.errors import ConfigurationError
from hyperfunc.usage import Usage
from hyperfunc_llm.types import LLMResponse, Message

__all__ = ["Attempt", "CallStrategy", "PrepareOnceMixin", "RetryState"]

T_co = TypeVar("T_co", covariant=True)


class RetryState:
    """Notes that a strategy keeps between the attempts of one item; JSON values, so that they can be saved.

    Write initial values with :meth:`setdefault`: a rate-limited attempt 1 is made again as attempt 1.
    """

    def __init__(self, data: Mapping[str, Any] | None = None) -> None:
        self._data: dict[str, Any] = {}
        for key, value in (data or {}).items():
            self.set(key, value)

    def get(self, key: str, default: Any = None) -> Any:
        return self._data.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Keep ``value``.

        Raises:
            ConfigurationError: it is no JSON value.
        """
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"retry state {key!r}: expected a JSON value, got {value!r:.80}") from error
        self._data[key] = value

    def setdefault(self, key: str, value: Any) -> Any:
        """The value kept under ``key``; ``value``, kept from now on, if there is none."""
        if key not in self._data:
            self.set(key, value)
        return self._data[key]

    def clear(self) -> None:
        self._data.clear()

    def to_dict(self) -> dict[str, Any]:
        """A copy, as JSON values."""
        copied: dict[str, Any] = json.loads(json.dumps(self._data))
        return copied

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RetryState:
        return cls(data)

    def __repr__(self) -> str:
        return f"RetryState({self._data!r})"


class Attempt(Protocol):
    """One attempt of one item: its number, and the way to send prompts in it."""

    @property
    def number(self) -> int:
        """From 1; a rate-limited attempt keeps its number."""
        ...

    @property
    def prompts_sent(self) -> int:
        """Requests sent for this item so far, this attempt's included."""
        ...

    @property
    def spent(self) -> Usage:
        """What this item used so far."""
        ...

    async def complete(self, messages: str | Sequence[Message], **params: Any) -> LLMResponse:
        """Send one request, once: under the endpoint's limits, in the books, never repeated here."""
        ...


class CallStrategy(Protocol[T_co]):
    """How one item is answered. ``execute`` is called once per attempt; what it raises is classified, and repeated as
    the budgets allow."""

    async def prepare(self) -> None:
        """Called before the first item of a session."""
        ...

    async def execute(self, item: Any, attempt: Attempt, state: RetryState) -> T_co:
        """Answer ``item``, or raise."""
        ...

    async def on_error(self, error: Exception, attempt: Attempt, state: RetryState) -> None:
        """Called after each failed attempt, with the same ``state``; rate limits included."""
        ...

    async def cleanup(self) -> None:
        """Called after the last item of a session."""
        ...


class PrepareOnceMixin:
    """``prepare`` calls ``prepare_once`` exactly once per event loop, however many ask at the same time.

    A failed one is made again by whoever asks next.
    """

    _prepared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock | None] | None = None

    async def prepare(self) -> None:
        if self._prepared is None:
            self._prepared = weakref.WeakKeyDictionary()
        loop = asyncio.get_running_loop()
        lock = self._prepared.setdefault(loop, asyncio.Lock())
        if lock is None:  # done in this loop
            return
        async with lock:
            if self._prepared[loop] is not None:
                await self.prepare_once()
                self._prepared[loop] = None

    async def prepare_once(self) -> None:
        """The expensive part; to be overridden."""
        raise NotImplementedError(f"{type(self).__name__} inherits PrepareOnceMixin and must define prepare_once()")
