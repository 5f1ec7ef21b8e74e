"""One call on its way: its books, its deadline, its repeats. Made when the call begins and dropped when it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from hyperfunc.calls import StoredCall, content_key
from hyperfunc.scope import current_scope
from hyperfunc.usage import Usage
from hyperfunc_llm.attempts import AttemptMaker, CallBooks
from hyperfunc_llm.classification import ErrorInfo
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.errors import ContentError, LLMError, PromptLimitError
from hyperfunc_llm.loop_state import LoopState
from hyperfunc_llm.retries import Deadline, RetryBudget, repeat
from hyperfunc_llm.strategies import CallStrategy, RetryState
from hyperfunc_llm.types import LLMRequest, LLMResponse, Message, StreamChunk, as_messages

__all__ = ["Execution", "Judge", "Repair", "active_execution"]

T = TypeVar("T")

Judge = Callable[[LLMResponse], LLMResponse]
"""Looks at a reply; returns it (perhaps with ``parsed`` set), or raises a :class:`ContentError` to have it repeated."""

Repair = Callable[[Sequence[Message], ContentError], Sequence[Message]]
"""The messages for the repeat after a reply was rejected."""


class Surroundings(Protocol):
    """What an execution needs of the runtime."""

    @property
    def state(self) -> LoopState: ...

    def classify(self, error: BaseException) -> ErrorInfo: ...


class Execution:
    """One call, from its first admission to its answer."""

    __slots__ = ("__weakref__", "_budget", "_deadline", "_endpoint", "_maker", "_request", "alias", "books")

    def __init__(self, runtime: Surroundings, alias: str, endpoint: Endpoint, request: LLMRequest) -> None:
        self.alias = alias
        self.books = CallBooks()
        self._endpoint = endpoint
        self._request = request
        if endpoint.params:
            self._request = replace(request, params={**endpoint.params, **request.params})
        self._deadline = Deadline(endpoint.timeout_s)
        self._budget = RetryBudget.of(endpoint)
        # The maker may not refer back here: a cycle for every call would leave thousands of them to the collector.
        self._maker = AttemptMaker(alias, endpoint, runtime.state, self.books, self._deadline, runtime.classify)

    def key(self, repeat_index: Sequence[int], judge_key: Any) -> str:
        """Content key of this call in the call store."""
        return self._key(self._request, [*repeat_index], judge_key)

    def _key(self, request: LLMRequest, repeat_index: list[int], judge_key: Any) -> str:
        content = {
            "messages": list(request.messages),
            "params": dict(request.params),
            "theta": dict(request.theta),
            "repeat": repeat_index,
            "model": self._endpoint.model,
            "base_url": self._endpoint.base_url,
            "judge": judge_key,
        }
        return content_key("llm", content)

    async def run(self, judge: Judge | None, repair: Repair | None, raw: bool) -> LLMResponse:
        """The plain call: the same request until it is answered, repaired after a rejection."""
        request = self._request

        async def execute(number: int) -> LLMResponse:
            nonlocal request
            response = await self.send_whole(request, raw)
            try:
                return response if judge is None else judge(response)
            except ContentError as error:
                if repair is not None:
                    request = replace(request, messages=repair(self._request.messages, error))
                raise

        return await self._repeat(execute)

    async def run_strategy(self, strategy: CallStrategy[T], item: Any) -> T:
        """The strategy's way, under one state."""
        state = RetryState()

        async def execute(number: int) -> T:
            token = _active.set(self)
            try:
                return await strategy.execute(item, StrategyAttempt(self, number), state)
            finally:
                _active.reset(token)

        async def on_error(error: Exception, number: int) -> None:
            await strategy.on_error(error, StrategyAttempt(self, number), state)

        return await self._repeat(execute, on_error)

    async def send(self, request: LLMRequest, raw: bool = False) -> LLMResponse:
        """One request of a strategy: on top of the execution's own parameters, stored under its number."""
        request = replace(request, params={**self._request.params, **request.params})
        store = current_scope().store
        if store is None or raw:
            return await self.send_whole(request, raw)
        # A strategy may ask the same again after it rejected the answer: then it must not get that answer once more.
        number = self.books.prompts + self.books.replayed
        key = self._key(request, [current_scope().repeat, 0, number], "strategy")
        stored = await store.get(key)
        if stored is not None:
            self.books.replayed += 1
            self._check_prompts()
            return LLMResponse.from_dict(stored.result)
        response = await self.send_whole(request, raw)
        await store.put(StoredCall(key, "llm", response.to_dict(), response.spent))
        return response

    async def send_whole(self, request: LLMRequest, raw: bool) -> LLMResponse:
        """One request, within the limit on prompts."""
        self._check_prompts()
        return await self._maker.make(request, raw)

    def _check_prompts(self) -> None:
        limit = self._budget.prompts
        if limit is not None and self.books.prompts + self.books.replayed >= limit:
            raise PromptLimitError(f"max_prompts={limit} requests were sent for this call", endpoint=self.alias)

    async def stream(self) -> AsyncGenerator[StreamChunk, None]:
        """The reply in pieces. Repeated until the first piece is there, not after it."""
        chunks: AsyncGenerator[StreamChunk, None] | None = None

        async def first(number: int) -> StreamChunk:
            nonlocal chunks
            self._check_prompts()
            chunks = self._maker.stream(self._request)
            return await anext(chunks)

        head = await self._repeat(first)
        assert chunks is not None
        try:
            async with aclosing(chunks):
                yield head
                async for chunk in chunks:
                    yield chunk
        except LLMError as error:
            self._close_books(error)
            raise

    async def _repeat(
        self,
        execute: Callable[[int], Awaitable[T]],
        on_error: Callable[[Exception, int], Awaitable[None]] | None = None,
    ) -> T:
        try:
            return await repeat(
                execute,
                budget=self._budget,
                deadline=self._deadline,
                first_backoff_s=self._endpoint.backoff_s or 0.0,
                classify=self._maker.classify,
                on_error=on_error,
                salt=f"{current_scope().seed}/{current_scope().example}/{self.alias}",
            )
        except LLMError as error:
            self._close_books(error)
            raise
        finally:
            # A connection made during this call keeps the call's context, hence this object, as long as it lives: it
            # must not keep the error, whose frames hold everything.
            self._maker.forget()

    def _close_books(self, error: LLMError) -> None:
        error.usage, error.attempts = self.books.spent, self.books.prompts


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
        return self._execution.books.prompts

    @property
    def spent(self) -> Usage:
        return self._execution.books.spent

    async def complete(self, messages: str | Sequence[Message], **params: Any) -> LLMResponse:
        return await self._execution.send(LLMRequest(as_messages(messages), params))


_active: ContextVar[Execution | None] = ContextVar("hyperfunc_llm_execution", default=None)


def active_execution() -> Execution | None:
    """The strategy execution inside which the caller runs, if any."""
    return _active.get()
