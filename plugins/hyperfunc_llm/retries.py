"""Repeats: separate budgets for separate reasons, and one deadline. Knows nothing of requests or providers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from hyperfunc_llm.classification import Category, ErrorInfo
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.errors import DeadlineError, LLMError, PromptLimitError

__all__ = ["Deadline", "Repeats", "RetryBudget", "backoff_s"]

T = TypeVar("T")

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
        seconds: from :meth:`start`.
    """

    __slots__ = ("_at", "_clock", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._at: float | None = None
        self._clock: asyncio.Timeout | None = None

    def start(self) -> None:
        """Start the clock; later calls change nothing."""
        if self._at is None:
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
        """On the event loop's clock; ``None`` while not started."""
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


class Repeats:
    """What the failures of one call have used of its budgets; made at the first of them.

    Content errors are repeated at once, transport errors after :func:`backoff_s`, rate limits as soon as admission lets
    them (the cooldown waits there).

    Attributes:
        attempt: the number of the attempt, from 1; a rate-limited one is made again under the same number.
    """

    __slots__ = ("_budget", "_deadline", "_first_backoff_s", "_salt", "_used", "attempt")

    def __init__(self, budget: RetryBudget, deadline: Deadline | None, first_backoff_s: float, salt: str = "") -> None:
        self.attempt = 1
        self._budget = budget
        self._deadline = deadline
        self._first_backoff_s = first_backoff_s
        self._salt = salt
        self._used: dict[str, int] = {}

    def wait_after(self, failure: Exception, info: ErrorInfo) -> float:
        """Seconds until the next attempt.

        Raises:
            Exception: ``failure`` itself, if it may not be repeated.
            DeadlineError: no time is left for another attempt.
        """
        kind = "transport" if info.category == "unknown" else info.category
        self._used[kind] = self._used.get(kind, 0) + 1
        if not info.retryable or self._used[kind] > self._budget.allowed(info.category):
            _note(failure, info, self._used, self._budget)
            raise failure
        wait = 0.0
        if kind == "transport":
            wait = max(info.wait_s or 0.0, backoff_s(self._first_backoff_s, self._used[kind], self._salt))
        if kind != "rate_limit":
            self.attempt += 1
        if self._deadline is not None and wait >= self._deadline.remaining():
            text = f"timeout_s={self._deadline.seconds} leaves no time for another attempt after: {failure}"
            raise DeadlineError(text) from failure
        return wait


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
