"""The runtime: every model call goes through here, in this order.

    call store (free) → reservation → admission (the attempt's clock starts after it) → send → books → judge the reply

Failed attempts go back to the repeat loop. Knows providers only through transports.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from hyperfunc.calls import StoredCall
from hyperfunc.plugins import current_plugins
from hyperfunc.relived import count_reply
from hyperfunc.scope import current_scope
from hyperfunc_llm.attempts import AttemptMaker
from hyperfunc_llm.classification import ClassifyCustom, ErrorInfo, PostClassify, classify
from hyperfunc_llm.endpoints import Endpoint, Endpoints, endpoint_stack, resolve_endpoint
from hyperfunc_llm.execution import Execution, Judge, Repair, active_execution
from hyperfunc_llm.loop_state import LoopState
from hyperfunc_llm.strategies import CallStrategy
from hyperfunc_llm.types import LLMRequest, LLMResponse, StreamChunk

__all__ = ["LLMRuntime", "current_runtime", "use_runtime"]

T = TypeVar("T")


class LLMRuntime:
    """Limits, repeats, books and caches for all endpoints of a program.

    One object may be used from several event loops; connections and limits are kept per loop and closed with it.

    Args:
        endpoints: what aliases mean, below everything said by call, binding and context (default: environment and
            file, read at the first call).
        classify_custom, post_classify: see :mod:`hyperfunc_llm.classification`.
    """

    def __init__(
        self,
        endpoints: Endpoints | Mapping[str, Endpoint | Mapping[str, Any]] | None = None,
        *,
        classify_custom: Sequence[ClassifyCustom] = (),
        post_classify: Sequence[PostClassify] = (),
    ) -> None:
        self._endpoints = endpoints if endpoints is None or isinstance(endpoints, Endpoints) else Endpoints(endpoints)
        self._custom, self._post = tuple(classify_custom), tuple(post_classify)
        # The latest answer per alias; merging twenty-odd fields of five levels would be the dearest part of a call.
        self._resolved: dict[str, tuple[tuple[Endpoints, ...], Endpoint | None, Endpoint | None, Endpoint]] = {}
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopState] = WeakKeyDictionary()

    # --- configuration -------------------------------------------------------------------------------------------

    def endpoint(self, alias: str, call: Endpoint | None = None, bound: Endpoint | None = None) -> Endpoint:
        """Everything known about ``alias``; see :func:`~hyperfunc_llm.endpoints.resolve_endpoint`."""
        stack, known = endpoint_stack(), self._resolved.get(alias)
        if known is not None and known[0] is stack and known[1] is call and known[2] is bound:
            return known[3]
        if self._endpoints is None:
            self._endpoints = Endpoints.load()
        endpoint = resolve_endpoint(alias, self._endpoints, call, bound)
        self._resolved[alias] = (stack, call, bound, endpoint)
        return endpoint

    def check(self, *aliases: str) -> None:
        """Fail now rather than at the first call.

        Raises:
            UnknownAliasError: one of ``aliases`` is no endpoint.
            ConfigurationError: a named environment variable holds no key.
        """
        for alias in aliases:
            AttemptMaker.key_of(self.endpoint(alias))

    def classify(self, error: BaseException) -> ErrorInfo:
        """What ``error`` means here, hooks included."""
        plugins = [current_plugins().get("error_classifiers", name) for name in _classifier_names()]
        custom = [hook for p in plugins if (hook := getattr(p, "classify_custom", None)) is not None]
        post = [hook for p in plugins if (hook := getattr(p, "post_classify", None)) is not None]
        return classify(error, (*self._custom, *custom), (*post, *self._post))

    @property
    def state(self) -> LoopState:
        """Connections, gates and calls in flight of the running event loop."""
        loop = asyncio.get_running_loop()
        state = self._loops.get(loop)
        if state is None:
            state = self._loops[loop] = LoopState()
        return state

    def stats(self) -> dict[str, Any]:
        """Per alias: limits, pauses, requests in flight; and hits of the call store. JSON values."""
        return self.state.stats()

    async def __aenter__(self) -> LLMRuntime:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close this event loop's connections; otherwise that happens when the loop shuts down."""
        state = self._loops.pop(asyncio.get_running_loop(), None)
        if state is not None:
            await state.aclose()

    # --- calls ---------------------------------------------------------------------------------------------------

    async def complete(
        self,
        alias: str,
        request: LLMRequest,
        *,
        call: Endpoint | None = None,
        bound: Endpoint | None = None,
        sample: int = 0,
        raw: bool = False,
        judge: Judge | None = None,
        judge_key: Any = None,
        repair: Repair | None = None,
    ) -> LLMResponse:
        """One reply: limited, repeated, counted, and never paid twice.

        Args:
            alias: an endpoint's alias, or a model.
            request: what to ask.
            call, bound: settings of the two upper levels.
            sample: tells wanted repeats of one request apart, in the call store.
            raw: keep the provider's reply; such a call does not use the store.
            judge: accepts or rejects the reply.
            judge_key: JSON value that stands for ``judge`` in the store's key.
            repair: changes the messages after a rejection.

        Raises:
            LLMError: after all repeats that the budgets allow.
            UnknownAliasError, ConfigurationError: before anything is sent.
            BudgetExceededError: the run's budget has no room for the request's worst case, and calls in flight cannot
                give enough back; while they can, the call waits.
        """
        endpoint = self.endpoint(alias, call, bound)
        outer = active_execution()
        if outer is not None and outer.alias == alias:
            # Inside a strategy's attempt its budgets count; a loop of our own would multiply with them.
            response = await outer.send(request, raw)
            return response if judge is None else judge(response)
        execution = Execution(self, alias, endpoint, request)
        scope = current_scope()
        if scope.store is None or raw:
            return await execution.run(judge, repair, raw)
        key = execution.key([scope.repeat, sample], judge_key)
        response = await self._once(key, execution, judge, repair)
        return judge(response) if judge is not None and response.replayed else response

    async def _once(self, key: str, execution: Execution, judge: Judge | None, repair: Repair | None) -> LLMResponse:
        """The stored response, or the one in flight (both marked as replayed), or one that is paid for."""
        store = current_scope().store
        assert store is not None

        async def look_or_pay() -> tuple[LLMResponse, StoredCall]:
            stored = await store.get(key)
            if stored is not None:
                response = LLMResponse.from_dict(stored.result)
                return (replace(response, spent=stored.usage) if stored.owed else response), stored
            response = await execution.run(judge, repair, raw=False)
            kept = StoredCall(key, "llm", response.to_dict(), response.spent, component=execution.alias)
            await store.put(kept)
            return response, kept

        (response, call), shared = await self.state.flights.run((id(store), key), look_or_pay)
        if shared:  # whoever was first has paid for it, or counted it
            response, call = LLMResponse.from_dict(call.result), replace(call, owed=False)
        if response.replayed:
            count_reply(execution.alias, call, model=response.model, finish_reason=response.finish_reason)
        self.state.hits += response.replayed
        return response

    async def stream(
        self, alias: str, request: LLMRequest, *, call: Endpoint | None = None, bound: Endpoint | None = None
    ) -> AsyncGenerator[StreamChunk, None]:
        """The reply in pieces; the last one carries the whole :class:`LLMResponse`.

        Inside evaluate and optimize, and when a call store is in use, the reply comes whole, as one piece: there every
        reply is kept and counted before anybody acts on it. A stream that has begun is not repeated.
        """
        scope = current_scope()
        if scope.evaluating or scope.store is not None:
            response = await self.complete(alias, request, call=call, bound=bound)
            yield StreamChunk(response.content, response.reasoning or "", response)
            return
        execution = Execution(self, alias, self.endpoint(alias, call, bound), request)
        async with contextlib.aclosing(execution.stream()) as chunks:
            async for chunk in chunks:
                yield chunk

    @contextlib.asynccontextmanager
    async def session(
        self,
        strategy: CallStrategy[T],
        alias: str,
        *,
        call: Endpoint | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[Callable[[Any], Awaitable[T]]]:
        """Prepare ``strategy``, answer items with it, clean up.

        The value is an async function from item to answer, which may be called concurrently
        (``batch(answer, items)``).
        """
        endpoint = self.endpoint(alias, call)
        await strategy.prepare()
        try:

            async def answer(item: Any) -> T:
                return await Execution(self, alias, endpoint, LLMRequest((), params or {})).run_strategy(strategy, item)

            yield answer
        finally:
            await strategy.cleanup()


def _classifier_names() -> list[str]:
    return current_plugins().registry("error_classifiers").names()


# Holds configuration only: connections and limits belong to event loops and end with them.
_DEFAULT_RUNTIME = LLMRuntime()
_runtime: ContextVar[LLMRuntime] = ContextVar("hyperfunc_llm_runtime", default=_DEFAULT_RUNTIME)


def current_runtime() -> LLMRuntime:
    """The runtime that calls go through here."""
    return _runtime.get()


@contextlib.contextmanager
def use_runtime(runtime: LLMRuntime) -> Iterator[LLMRuntime]:
    """Send the calls of the block through ``runtime``."""
    token = _runtime.set(runtime)
    try:
        yield runtime
    finally:
        _runtime.reset(token)
