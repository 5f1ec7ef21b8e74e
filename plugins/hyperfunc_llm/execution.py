"""One call on its way: its books, its deadline, its repeats. Made when the call begins and dropped when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar

from hyperfunc.calls import StoredCall, content_key
from hyperfunc.relived import count_reply
from hyperfunc.scope import current_scope
from hyperfunc.usage import Usage
from hyperfunc_llm.attempts import AttemptMaker, Surroundings
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.errors import ContentError, LLMError, PromptLimitError
from hyperfunc_llm.retries import Repeats, RetryBudget
from hyperfunc_llm.strategies import CallStrategy, RetryState
from hyperfunc_llm.types import LLMRequest, LLMResponse, Message, StreamChunk, as_messages

__all__ = ["Execution", "Judge", "Repair", "active_execution"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

Judge = Callable[[LLMResponse], LLMResponse]
"""Looks at a reply; returns it (perhaps with ``parsed`` set), or raises a :class:`ContentError` to have it repeated."""

Repair = Callable[[Sequence[Message], ContentError], Sequence[Message]]
"""The messages for the repeat after a reply was rejected."""


class Execution:
    """One call, from its first admission to its answer."""

    __slots__ = ("__weakref__", "_maker", "_request")

    def __init__(self, runtime: Surroundings, alias: str, endpoint: Endpoint, request: LLMRequest) -> None:
        if endpoint.params:
            request = replace(request, params={**endpoint.params, **request.params})
        self._request = request
        # The maker may not refer back here: a cycle for every call would leave thousands of them to the collector.
        self._maker = AttemptMaker(runtime, alias, endpoint)

    @property
    def alias(self) -> str:
        return self._maker.alias

    @property
    def prompts_sent(self) -> int:
        return self._maker.prompts

    @property
    def spent(self) -> Usage:
        """What all attempts used so far."""
        return self._maker.spent

    def key(self, repeat_index: Sequence[int], judge_key: Any) -> str:
        """Content key of this call in the call store."""
        return self._key(self._request, [*repeat_index], judge_key)

    def _key(self, request: LLMRequest, repeat_index: list[int], judge_key: Any) -> str:
        content = {
            "messages": list(request.messages),
            "params": dict(request.params),
            "theta": dict(request.theta),
            "repeat": repeat_index,
            "model": self._maker.endpoint.model,
            "base_url": self._maker.endpoint.base_url,
            "judge": judge_key,
        }
        return content_key("llm", content)

    async def run(self, judge: Judge | None, repair: Repair | None, raw: bool) -> LLMResponse:
        """The plain call: the same request until it is answered, repaired after a rejection."""
        request, repeats = self._request, None
        while True:
            try:
                response = await self._timely(self.send_whole(request, raw))
                return response if judge is None else judge(response)
            except Exception as error:
                repeats = repeats or self._repeats()
                wait = self._wait_after(error, repeats)
                if repair is not None and isinstance(error, ContentError):
                    request = replace(request, messages=repair(self._request.messages, error))
            await asyncio.sleep(wait)

    async def run_strategy(self, strategy: CallStrategy[T], item: Any) -> T:
        """The strategy's way, under one state."""
        state, repeats = RetryState(), self._repeats()
        while True:
            attempt = StrategyAttempt(self, repeats.attempt)
            try:
                return await self._timely(self._execute(strategy, item, attempt, state))
            except Exception as error:
                await _tell(strategy, error, attempt, state)
                wait = self._wait_after(error, repeats)
            await asyncio.sleep(wait)

    async def _execute(self, strategy: CallStrategy[T], item: Any, attempt: StrategyAttempt, state: RetryState) -> T:
        token = _active.set(self)
        try:
            return await strategy.execute(item, attempt, state)
        finally:
            _active.reset(token)

    def _timely(self, work: Awaitable[T]) -> Awaitable[T]:
        """``work`` under the call's deadline; without one there is no coroutine more for the collector to look at."""
        return work if self._maker.deadline is None else self._maker.deadline.keep(work)

    def _repeats(self) -> Repeats:
        endpoint, scope = self._maker.endpoint, current_scope()
        salt = f"{scope.seed}/{scope.example}/{self.alias}"
        return Repeats(RetryBudget.of(endpoint), self._maker.deadline, endpoint.backoff_s or 0.0, salt)

    def _wait_after(self, error: Exception, repeats: Repeats) -> float:
        """Seconds until the next attempt.

        Raises:
            Exception: the last error, with the books of the whole call.
        """
        try:
            return repeats.wait_after(error, self._maker.classify(error))
        except LLMError as last:
            last.usage, last.attempts = self.spent, self.prompts_sent
            raise
        finally:
            # A connection made during this call keeps the call's context, hence this object, as long as it lives: it
            # must not keep the error, whose frames hold everything.
            self._maker.forget()

    async def send(self, request: LLMRequest, raw: bool = False) -> LLMResponse:
        """One request of a strategy: on top of the execution's own parameters, stored under its number."""
        request = replace(request, params={**self._request.params, **request.params})
        store = current_scope().store
        if store is None or raw:
            return await self.send_whole(request, raw)
        # A strategy may ask the same again after it rejected the answer: then it must not get that answer once more.
        number = self._maker.prompts + self._maker.replayed
        key = self._key(request, [current_scope().repeat, 0, number], "strategy")
        stored = await store.get(key)
        if stored is not None:
            self._maker.replayed += 1
            self._check_prompts()
            count_reply(self.alias, stored)
            response = LLMResponse.from_dict(stored.result)
            return replace(response, spent=stored.usage) if stored.owed else response
        response = await self.send_whole(request, raw)
        await store.put(StoredCall(key, "llm", response.to_dict(), response.spent, component=self.alias))
        return response

    def send_whole(self, request: LLMRequest, raw: bool) -> Awaitable[LLMResponse]:
        """One request, within the limit on prompts."""
        self._check_prompts()
        return self._maker.make(request, raw)

    def _check_prompts(self) -> None:
        limit = self._maker.endpoint.max_prompts
        if limit is not None and self._maker.prompts + self._maker.replayed >= limit:
            raise PromptLimitError(f"max_prompts={limit} requests were sent for this call", endpoint=self.alias)

    async def stream(self) -> AsyncGenerator[StreamChunk, None]:
        """The reply in pieces. Repeated until the first piece is there, not after it."""
        repeats = self._repeats()
        while True:
            try:
                self._check_prompts()
                chunks = self._maker.stream(self._request)
                head = await self._timely(anext(chunks))
                break
            except Exception as error:
                wait = self._wait_after(error, repeats)
            await asyncio.sleep(wait)
        try:
            async with aclosing(chunks):
                yield head
                async for chunk in chunks:
                    yield chunk
        except LLMError as error:
            error.usage, error.attempts = self.spent, self.prompts_sent
            raise


async def _tell(strategy: CallStrategy[Any], error: Exception, attempt: StrategyAttempt, state: RetryState) -> None:
    try:
        await strategy.on_error(error, attempt, state)
    except Exception:
        _log.exception("on_error failed; the call goes on")


class StrategyAttempt:
    """What a strategy sees of its execution."""

    def __init__(self, execution: Execution, number: int) -> None:
        self._execution = execution
        self._number = number

    @property
    def number(self) -> int:
        return self._number

    @property
    def prompts_sent(self) -> int:
        return self._execution.prompts_sent

    @property
    def spent(self) -> Usage:
        return self._execution.spent

    async def complete(self, messages: str | Sequence[Message], **params: Any) -> LLMResponse:
        return await self._execution.send(LLMRequest(as_messages(messages), params))


_active: ContextVar[Execution | None] = ContextVar("hyperfunc_llm_execution", default=None)


def active_execution() -> Execution | None:
    """The strategy execution inside which the caller runs, if any."""
    return _active.get()
