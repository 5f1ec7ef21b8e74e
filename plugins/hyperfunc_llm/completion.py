"""``llm_completion`` and ``make_llm_completion``: model calls as hyperfunctions.

Inside a system their :class:`LMParam` is searched by evolution strategies; outside every run they work with the
provider's own sampling settings.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc.parameters.lm import LMParam
from hyperfunc.scope import current_scope
from hyperfunc_llm.endpoints import Endpoint
from hyperfunc_llm.functions import LLMFunction, bound_endpoint, limits, llm_hyperfunction
from hyperfunc_llm.runtime import current_runtime
from hyperfunc_llm.structured import OutputType, repair_messages
from hyperfunc_llm.types import LLMRequest, LLMResponse, Message, StreamChunk, as_messages

__all__ = ["llm_completion", "llm_stream", "make_llm_completion"]


def _call_endpoint(
    endpoint: Endpoint | None,
    api_key: str | None,
    base_url: str | None,
    rate_limit: bool,
    retries: int | None,
    timeout_s: float | None,
) -> Endpoint | None:
    said = limits(retries=retries, timeout_s=timeout_s) or Endpoint()
    connection = Endpoint.connection(api_key=api_key, base_url=base_url, limited=None if rate_limit else False)
    merged = said.over(connection)
    merged = merged if endpoint is None else merged.over(endpoint)
    return None if merged == Endpoint() else merged


def _params(hp: LMParam | None, model: str, call: Endpoint | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Request parameters: what the caller gives wins over ``hp``."""
    params: dict[str, Any] = {}
    if hp is not None:
        limit = current_runtime().endpoint(model, call, bound_endpoint()).max_output_tokens
        params = hp.to_litellm_kwargs(model_max_tokens=limit or 4096)
    return {**params, **{name: value for name, value in given.items() if value is not None}}


@llm_hyperfunction(hp_type=LMParam, optimize_hparams=True, optimize_prompt=False, name="llm_completion")
async def llm_completion(
    model: str,
    messages: str | Sequence[Message],
    hp: LMParam | None = None,
    *,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    stop: list[str] | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    seed: int | None = None,
    stream: bool = False,
    rate_limit: bool = True,
    api_key: str | None = None,
    base_url: str | None = None,
    response_model: Any = None,
    sample: int = 0,
    raw: bool = False,
    retries: int | None = None,
    timeout_s: float | None = None,
    endpoint: Endpoint | None = None,
    **params: Any,
) -> LLMResponse | AsyncIterator[str]:
    """Ask a model.

    Args:
        model: an endpoint's alias (``"fast"``) or a model (``"openai/gpt-4o-mini"``).
        messages: the conversation, or one user message as text.
        hp: sampling settings, given by the system; arguments below win over it.
        temperature, top_p, max_tokens, stop, presence_penalty, frequency_penalty, seed: sampling settings.
        stream: return an async iterator of text instead; off inside evaluate and optimize.
        rate_limit: ``False`` ignores configured and learned limits, but not the server's cooldowns.
        api_key, base_url: connection of this call.
        response_model: a type that the reply must have; the response's ``parsed`` holds it. A reply that does not
            validate is sent back with the complaint, as often as ``content_retries`` allows.
        sample: the number of this sample, where several replies to the same request are wanted; equal calls with
            equal numbers are paid once (when the run has a call store).
        raw: keep the provider's reply in the response.
        retries, timeout_s: repeats (for unusable replies and transport failures, each) and seconds per attempt.
        endpoint: any further setting of this call.
        params: further request parameters (``tools``, ``response_format``, ``logprobs``, ``extra_body``, …).

    Raises:
        LLMError: see :mod:`hyperfunc_llm.errors`.
        UnknownAliasError: ``model`` is neither an alias nor a model.
    """
    call = _call_endpoint(endpoint, api_key, base_url, rate_limit, retries, timeout_s)
    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "stop": stop,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "seed": seed,
    }
    request = LLMRequest(as_messages(messages), _params(hp, model, call, {**sampling, **params}))
    runtime = current_runtime()
    if stream and not current_scope().evaluating:
        if response_model is not None:
            raise ConfigurationError("stream=True and response_model= exclude each other: a piece cannot be validated")
        return _texts(runtime.stream(model, request, call=call, bound=bound_endpoint()))
    if response_model is None:
        return await runtime.complete(model, request, call=call, bound=bound_endpoint(), sample=sample, raw=raw)
    output = OutputType(response_model)
    request = LLMRequest(request.messages, {"response_format": output.response_format(), **request.params})
    return await runtime.complete(
        model,
        request,
        call=call,
        bound=bound_endpoint(),
        sample=sample,
        raw=raw,
        judge=output.judge,
        repair=repair_messages,
    )


async def _texts(chunks: AsyncGenerator[StreamChunk, None]) -> AsyncGenerator[str, None]:
    try:
        async for chunk in chunks:
            if chunk.content:
                yield chunk.content
    finally:
        await chunks.aclose()


def llm_stream(
    model: str,
    messages: str | Sequence[Message],
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    timeout_s: float | None = None,
    endpoint: Endpoint | None = None,
    **params: Any,
) -> AsyncGenerator[StreamChunk, None]:
    """The reply in pieces with text, reasoning and, in the last one, the whole response; no hyperfunction.

    Inside evaluate and optimize, and under a call store, it comes as one piece.
    """
    call = _call_endpoint(endpoint, api_key, base_url, True, None, timeout_s)
    request = LLMRequest(as_messages(messages), _params(None, model, call, params))
    return current_runtime().stream(model, request, call=call, bound=bound_endpoint())


def make_llm_completion(
    model: str,
    *,
    system_prompt: str | None = None,
    rate_limit: bool = True,
    api_key: str | None = None,
    base_url: str | None = None,
    name: str | None = None,
    optimize_prompt: bool = True,
    optimize_hparams: bool = True,
    retries: int | None = None,
    timeout_s: float | None = None,
    max_calls: int | None = None,
    endpoint: Endpoint | None = None,
    response_model: Any = None,
    **default_kwargs: Any,
) -> LLMFunction[..., Any]:
    """A component that asks one model: ``await component("question") -> LLMResponse``.

    Args:
        model: an alias or a model.
        system_prompt: the component's text parameter ``prompt``, sent as system message; prompts can be learned.
        rate_limit, api_key, base_url, response_model: as in :data:`llm_completion`.
        name: the component's name (default: ``llm_`` and the model).
        optimize_prompt, optimize_hparams: whether prompt and :class:`LMParam` may be optimized.
        retries, timeout_s, max_calls: limits of its calls.
        endpoint: further settings of its calls.
        default_kwargs: request parameters for every call; those of a call win.
    """
    connection = Endpoint.connection(api_key=api_key, base_url=base_url, limited=None if rate_limit else False)
    bound = connection if endpoint is None else connection.over(endpoint)

    async def ask(
        message: str | Sequence[Message], hp: LMParam | None = None, prompt: str | None = None, **kwargs: Any
    ) -> Any:
        messages = as_messages(message)
        if prompt:
            messages = [{"role": "system", "content": prompt}, *messages]
        given = {"response_model": response_model, **default_kwargs, **kwargs}
        return await llm_completion.fn(model, messages, hp, **given)

    ask.__doc__ = None
    return LLMFunction(
        ask,
        shares_replies=True,
        hp_type=LMParam,
        optimize_hparams=optimize_hparams,
        optimize_prompt=optimize_prompt if system_prompt is not None else False,
        prompt=system_prompt,
        name=name or "llm_" + re.sub(r"\W", "_", model),
        retries=retries,
        timeout_s=timeout_s,
        max_calls=max_calls,
        endpoint=None if bound == Endpoint() else bound,
        aliases=(model,),
    )
