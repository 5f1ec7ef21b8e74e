"""Any provider, through litellm: imported at first use, quiet, without network of its own, never repeating.

Pinned to 1.91.3: 1.106.2 fails on ``tools=`` and on cache hits with only its base install; later releases need a
certifi that is not published. Knows nothing of limits, retries or money.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import re
import threading
from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any

from hyperfunc.errors import MissingDependencyError
from hyperfunc_llm.classification import classify, error_for_status
from hyperfunc_llm.errors import AttemptTimeoutError, AuthenticationError, LLMError, TransportError
from hyperfunc_llm.limits.headers import retry_after_s
from hyperfunc_llm.replies import read_usage
from hyperfunc_llm.secrets import SecretKey, redact
from hyperfunc_llm.transports.base import OutgoingRequest, Reply, ReplyChunk

__all__ = ["LiteLLMTransport"]


_LOADING = threading.Lock()


def _litellm() -> Any:
    """The module, set up once per process, whichever thread or event loop needs it first."""
    with _LOADING:
        return _set_up()


@cache
def _set_up() -> Any:
    """3 s of import; no price table from the network, no banners."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    try:
        import litellm
    except ImportError:
        raise MissingDependencyError("litellm", "llm") from None
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    litellm.telemetry = False
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it logs requests, with their headers, on failure
    # The first call imports and builds a second or two more; that must not be charged to anybody's timeout.
    litellm.completion("openai/none", [{"role": "user", "content": ""}], mock_response="ok", api_key="none")
    return litellm


_CALLBACKS = (
    "callbacks",
    "success_callback",
    "failure_callback",
    "input_callback",
    "_async_success_callback",
    "_async_failure_callback",
    "_async_input_callback",
)


def _is_logged(litellm: Any, params: Mapping[str, Any]) -> bool:
    """Whether anybody has asked litellm, for all calls or for this one, to be told of them."""
    for name in _CALLBACKS:
        listeners = getattr(litellm, name, None)
        # litellm lists its reply cache when it merely loads its Gemini code; without a cache nobody listens there.
        if name in params or (listeners and (listeners != ["cache"] or litellm.cache is not None)):
            return True
    return False


@cache
def _unlogged() -> ContextVar[bool]:
    """litellm's own switch for calls that it must not log, which it sets for calls that it makes itself.

    Otherwise it starts a task after each call that prepares a log record, even with nobody to send it to. That costs
    CPU, and what is still queued when the event loop ends is reported as never awaited. Calls that a program makes to
    litellm itself are left alone.
    """
    from litellm._internal_context import is_internal_call

    switch: ContextVar[bool] = is_internal_call
    return switch


class LiteLLMTransport:
    """A :class:`~hyperfunc_llm.transports.base.Transport` for the providers that litellm knows."""

    async def send(self, request: OutgoingRequest) -> Reply:
        response = await _guarded(request)
        usage = read_usage(_plain_usage(response))
        payload = response.model_dump() if request.raw else _payload(response)
        return Reply(payload, _headers(response), usage, _safety(response))

    async def stream(self, request: OutgoingRequest) -> AsyncGenerator[ReplyChunk, None]:
        pieces = await _guarded(request, stream=True, stream_options={"include_usage": True})
        failure: LLMError | None = None
        try:
            async for piece in pieces:
                yield ReplyChunk(piece.model_dump(), _headers(pieces))
        except Exception as error:
            failure = _translate(error, request)
        if failure is not None:
            raise failure

    async def load(self) -> None:
        await asyncio.to_thread(_litellm)

    async def aclose(self) -> None:
        """Close the clients that litellm keeps for this event loop, and make it forget them.

        Its own cleanup leaves OpenAI clients open, and would close those of other threads' loops. A forgotten client
        cannot be handed to a later loop that happens to get the same id.
        """
        if not _set_up.cache_info().currsize:
            return
        kept: dict[str, Any] = _litellm().in_memory_llm_clients_cache.cache_dict
        suffix = f"-{id(asyncio.get_running_loop())}"
        for name in [name for name in kept if name.endswith(suffix)]:
            client = kept.pop(name)
            close = getattr(client, "close", None) or getattr(client, "aclose", None)
            if close is not None and inspect.isawaitable(closing := close()):
                await closing


async def _guarded(request: OutgoingRequest, **more: Any) -> Any:
    """litellm's answer; its exceptions become ours outside the except block, since theirs hold requests and keys."""
    litellm, unlogged = _set_up(), _unlogged()
    failure: LLMError | None = None
    token = unlogged.set(not _is_logged(litellm, request.params))
    try:
        return await litellm.acompletion(**_arguments(request), **more)
    except Exception as error:
        failure = _translate(error, request)
    finally:
        unlogged.reset(token)
    raise failure


def _arguments(request: OutgoingRequest) -> dict[str, Any]:
    model = request.model if "/" in request.model else f"openai/{request.model}" if request.base_url else request.model
    arguments: dict[str, Any] = {
        "model": model,
        "messages": list(request.messages),
        "timeout": request.timeout_s,
        "max_retries": 0,  # by default every call is sent three times on failure
        "num_retries": 0,
        **request.params,
    }
    if request.base_url is not None:
        arguments["api_base"] = request.base_url
    if request.key is not None:
        arguments["api_key"] = request.key.reveal()
    elif request.base_url is not None:
        arguments["api_key"] = "none"  # local servers take any, the client insists on one
    if request.headers:
        arguments["extra_headers"] = dict(request.headers)
    return arguments


def _plain_usage(response: Any) -> dict[str, Any]:
    usage = getattr(response, "usage", None)
    if usage is None:
        return {}
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": getattr(prompt, "cached_tokens", None)},
        "completion_tokens_details": {"reasoning_tokens": getattr(completion, "reasoning_tokens", None)},
    }


def _payload(response: Any) -> dict[str, Any]:
    """What an ``LLMResponse`` needs of litellm's object; dumping all of it would cost another 0.1 ms per call."""
    choices = []
    for choice in response.choices:
        message = choice.message
        logprobs: Any = vars(choice).get("logprobs")  # where a field is not set, asking for it raises inside: 3 µs
        calls = [
            {"id": call.id, "function": {"name": call.function.name, "arguments": call.function.arguments}}
            for call in message.tool_calls or ()
        ]
        content = {"content": message.content, "reasoning_content": vars(message).get("reasoning_content")}
        choices.append(
            {
                "message": {**content, "tool_calls": calls},
                "finish_reason": choice.finish_reason,
                "logprobs": logprobs if logprobs is None or isinstance(logprobs, dict) else logprobs.model_dump(),
            }
        )
    return {"model": response.model, "choices": choices}


def _headers(response: Any) -> dict[str, str]:
    hidden: Mapping[str, Any] = getattr(response, "_hidden_params", None) or {}
    headers = hidden.get("additional_headers") or {}
    return {str(name).lower().removeprefix("llm_provider-"): str(value) for name, value in headers.items()}


def _safety(response: Any) -> dict[str, str]:
    """Gemini's ratings; litellm keeps them in a list per candidate."""
    known = {**vars(response), **(getattr(response, "model_extra", None) or {})}
    found = known.get("vertex_ai_safety_results") or known.get("vertex_ai_safety_ratings")
    ratings = found[0] if found and isinstance(found[0], list) else found or []
    return {_plain(r["category"]): _plain(r["probability"]) for r in ratings if isinstance(r, Mapping)}


def _plain(value: Any) -> str:
    return str(getattr(value, "value", value))  # str() of a (str, Enum) member is Class.MEMBER


_NO_KEY = re.compile(r"missing credentials|missing .{0,20}api key|api_key.{0,40} must be set", re.I)


def _translate(error: Exception, request: OutgoingRequest) -> LLMError:
    """Our error for one of litellm's."""
    status = getattr(error, "status_code", None)
    keys: tuple[SecretKey | None, ...] = (request.key,)
    message = redact(str(error), keys)[:500]
    if request.key is None and _NO_KEY.search(message):  # litellm calls it an internal error of the server
        return AuthenticationError(
            f"{request.endpoint} has no API key: {message}", endpoint=request.endpoint, sent=False
        )
    names = {kind.__name__ for kind in type(error).__mro__}
    if "ValidationError" in names or isinstance(error, (TypeError, ValueError, KeyError, AttributeError)):
        text = f"{request.endpoint} sent a reply that cannot be read ({type(error).__name__}: {message})"
        return TransportError(text, endpoint=request.endpoint)
    chain = _chain(error)
    if any(e.__class__.__name__ in ("ConnectError", "ClientConnectorError", "ConnectTimeout") for e in chain):
        return TransportError(f"{request.endpoint}: {message}", endpoint=request.endpoint, sent=False)
    if "Timeout" in names and status == 408 and _response(error) is None:
        return AttemptTimeoutError(f"{request.endpoint}: {message}", endpoint=request.endpoint, outcome_known=False)
    if isinstance(status, int) and not ("APIConnectionError" in names or _response_lost(chain)):
        return error_for_status(status, message, endpoint=request.endpoint, retry_after_s=_retry_after(error))
    known = not classify(error).timeout and not _response_lost(chain)
    return TransportError(f"{request.endpoint}: {message}", endpoint=request.endpoint, outcome_known=known)


def _chain(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain


_LOST = ("RemoteProtocolError", "ReadError", "ServerDisconnectedError", "ClientPayloadError", "ClientOSError")


def _response_lost(chain: list[BaseException]) -> bool:
    return any(e.__class__.__name__ in _LOST for e in chain)


def _response(error: Exception) -> Any:
    return getattr(error, "litellm_response_headers", None)


def _retry_after(error: Exception) -> float | None:
    """litellm keeps the headers of a failure beside, not in, the response object."""
    for headers in (_response(error), getattr(getattr(error, "response", None), "headers", None)):
        if headers:
            seconds = retry_after_s({str(name).lower(): str(value) for name, value in dict(headers).items()})
            if seconds is not None:
                return seconds
    return None
