"""Repeats: separate budgets for separate reasons, one deadline, one loop. Knows nothing of requests or providers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from hyperfunc_llm.classification import Category, ErrorInfo
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.errors import DeadlineError, LLMError, PromptLimitError

__all__ = ["Deadline", "RetryBudget", "backoff_s", "repeat"]

T = TypeVar("T")

_log = logging.getLogger(__name__)
_LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """How often one call may be repeated, by reason; none of them is paid from another.

    Attributes:
        content: after replies that cannot be used.
        transport: after failures on the way, and errors nobody knows.
        rate_limit: after 429s. These are no attempts: they change neither attempt number nor state.
        prompts: most requests sent in all, first ones included; ``None`` is no limit.
    """

    content: int = 2
    transport: int = 2
    rate_limit: int = 20
    prompts: int | None = None

    @classmethod
    def of(cls, endpoint: Endpoint) -> RetryBudget:
        """The budget that a resolved endpoint describes."""
        return cls(
            content=endpoint.content_retries or 0,
            transport=endpoint.transport_retries or 0,
            rate_limit=endpoint.rate_limit_retries or 0,
            prompts=endpoint.max_prompts,
        )

    def allowed(self, category: Category) -> int:
        """Repeats allowed for ``category``."""
        return {"content": self.content, "rate_limit": self.rate_limit}.get(category, self.transport)


class Deadline:
    """A moment that nothing moves. It starts with the first admission, so that waiting in line costs nothing.

    Args:
        seconds: from :meth:`start`; ``None`` never passes.
    """

    __slots__ = ("_at", "_clock", "seconds")

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._at: float | None = None
        self._clock: asyncio.Timeout | None = None

    def start(self) -> None:
        """Start the clock; later calls change nothing."""
        if self._at is None and self.seconds is not None:
            self._at = asyncio.get_running_loop().time() + self.seconds
            if self._clock is not None:
                self._clock.reschedule(self._at)

    async def keep(self, work: Awaitable[T]) -> T:
        """The result of ``work``, which is cancelled when the deadline passes, also when it starts only meanwhile.

        Raises:
            DeadlineError: it passed.
        """
        self._clock = asyncio.timeout_at(self._at)
        try:
            async with self._clock:
                return await work
        except TimeoutError as error:
            if not self._clock.expired():
                raise
            raise DeadlineError(f"the call did not end within timeout_s={self.seconds}") from error
        finally:
            self._clock = None

    @property
    def at(self) -> float | None:
        """On the event loop's clock; ``None`` while not started, or without limit."""
        return self._at

    def remaining(self) -> float:
        """Seconds left; infinite while not started."""
        return float("inf") if self._at is None else self._at - asyncio.get_running_loop().time()


def backoff_s(first: float, repeat_number: int, salt: str) -> float:
    """Seconds before the ``repeat_number``-th repeat (from 1): ``first · 2^(k−1)``, at most 60, times a factor in
    [0.5, 1] that depends on ``salt`` and ``repeat_number`` alone."""
    digest = hashlib.blake2b(f"{salt}\0{repeat_number}".encode(), digest_size=8).digest()
    factor = 0.5 + 0.5 * int.from_bytes(digest) / 2**64
    return float(min(first * 2.0 ** (repeat_number - 1), _LONGEST_BACKOFF_S) * factor)


async def repeat(
    execute: Callable[[int], Awaitable[T]],
    *,
    budget: RetryBudget,
    deadline: Deadline,
    first_backoff_s: float,
    classify: Callable[[Exception], ErrorInfo],
    on_error: Callable[[Exception, int], Awaitable[None]] | None = None,
    salt: str = "",
) -> T:
    """Call ``execute(attempt)`` until it succeeds or may not be repeated; then raise its last error.

    Attempts count from 1; a rate-limited one is made again under the same number. Content errors are repeated at once,
    transport errors after :func:`backoff_s`, rate limits as soon as admission lets them (the cooldown waits there).
    Errors of ``on_error`` are logged, not raised.
    """
    used: dict[str, int] = {}
    attempt = 1
    while True:
        try:
            # Without a deadline there is one coroutine fewer per call in flight for the collector to look at.
            return await (execute(attempt) if deadline.seconds is None else deadline.keep(execute(attempt)))
        except Exception as error:
            failure = error
        info = classify(failure)
        if on_error is not None:
            await _tell(on_error, failure, attempt)
        kind = "transport" if info.category == "unknown" else info.category
        used[kind] = used.get(kind, 0) + 1
        if not info.retryable or used[kind] > budget.allowed(info.category):
            _note(failure, info, used, budget)
            raise failure
        wait = 0.0
        if kind == "transport":
            wait = max(info.wait_s or 0.0, backoff_s(first_backoff_s, used[kind], salt))
        if kind != "rate_limit":
            attempt += 1
        if wait >= deadline.remaining():
            text = f"timeout_s={deadline.seconds} leaves no time for another attempt after: {failure}"
            raise DeadlineError(text) from failure
        if wait > 0:
            await asyncio.sleep(wait)


async def _tell(on_error: Callable[[Exception, int], Awaitable[None]], error: Exception, attempt: int) -> None:
    try:
        await on_error(error, attempt)
    except Exception:
        _log.exception("on_error failed; the call goes on")


def _note(error: Exception, info: ErrorInfo, used: dict[str, int], budget: RetryBudget) -> None:
    """Say once, on the error itself, why it was not tried again."""
    if isinstance(error, (PromptLimitError, DeadlineError)):
        return
    spent = ", ".join(f"{count} {kind}" for kind, count in used.items())
    why = f"its budget allows {budget.allowed(info.category)} repeats" if info.retryable else "repeating cannot help"
    hint = f"; {info.hint}" if info.hint else ""
    error.add_note(f"not repeated: {why} (failures so far: {spent}){hint}")
    if isinstance(error, LLMError):
        error.category = info.category
