"""Gemini's cached contents and safety ratings (acceptance checks 18 and 19)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc.testing.llm_server import LLMServer, Rule
from hyperfunc_llm import (
    EmptyResponseError,
    Endpoint,
    GeminiCache,
    LLMResponse,
    LLMRuntime,
    llm_completion,
    mark_cached,
    use_runtime,
)
from hyperfunc_llm.transports.through_litellm import _safety as read_safety

TEXT = "a long instruction " * 40


@pytest.fixture(params=["gemini", "litellm"])
async def gemini(request: pytest.FixtureRequest, server: LLMServer) -> AsyncIterator[LLMRuntime]:
    key = Endpoint.connection(api_key="a-gemini-key", base_url=f"{server.url}/v1beta")
    endpoint = Endpoint(model="gemini/gemini-2.5-flash", transport=request.param, backoff_s=0.001).over(key)
    async with LLMRuntime({"g": endpoint}) as runtime:
        with use_runtime(runtime):
            yield runtime


async def test_safety_ratings_can_be_read(server: LLMServer, play: Callable[..., None], gemini: LLMRuntime) -> None:
    play(Rule(safety={"HARM_CATEGORY_HATE_SPEECH": "HIGH", "HARM_CATEGORY_HARASSMENT": "LOW"}))
    response = await llm_completion("g", "hello")
    assert isinstance(response, LLMResponse)
    assert response.safety_ratings["HARM_CATEGORY_HATE_SPEECH"] == "HIGH"
    assert response.finish_reason == "stop"


async def test_a_blocked_reply_is_not_repeated(
    server: LLMServer, play: Callable[..., None], gemini: LLMRuntime
) -> None:
    play(Rule(fault="empty", finish_reason="SAFETY", safety={"HARM_CATEGORY_HATE_SPEECH": "HIGH"}))
    with pytest.raises(EmptyResponseError) as caught:
        await llm_completion("g", "hello")
    assert server.counters()["requests"] == 1
    assert caught.value.usage.input_tokens > 0
    direct = gemini.endpoint("g").transport == "gemini"
    # litellm reports every kind of block as content_filter, and drops the ratings of blocked replies.
    assert ("SAFETY" if direct else "content_filter") in str(caught.value)
    assert ("HIGH" in str(caught.value)) == direct


@pytest.mark.parametrize("gemini", ["gemini"], indirect=True)  # litellm drops the text of such a reply
async def test_a_reply_cut_for_safety_says_so(server: LLMServer, play: Callable[..., None], gemini: LLMRuntime) -> None:
    play(Rule(content="so far", finish_reason="SAFETY", safety={"HARM_CATEGORY_HATE_SPEECH": "HIGH"}))
    response = await llm_completion("g", "hello")
    assert isinstance(response, LLMResponse)
    assert (response.content, response.finish_reason) == ("so far", "SAFETY")


def test_ratings_given_as_enumerations_become_plain_words() -> None:
    """str() of a member of a (str, Enum) is its name with its class."""

    class Category(str, Enum):  # noqa: UP042 - what SDKs use
        HATE = "HARM_CATEGORY_HATE_SPEECH"

    class Probability(str, Enum):  # noqa: UP042
        HIGH = "HIGH"

    rated = [{"category": Category.HATE, "probability": Probability.HIGH}]
    for ratings in (rated, [rated]):  # litellm has both forms
        response = SimpleNamespace(vertex_ai_safety_results=ratings)
        assert read_safety(response) == {"HARM_CATEGORY_HATE_SPEECH": "HIGH"}


async def test_found_again_by_exact_content_and_tags(server: LLMServer, gemini: LLMRuntime) -> None:
    first = await GeminiCache("g", TEXT).name()
    assert await GeminiCache("g", TEXT).name() == first
    names = {
        first,
        await GeminiCache("g", TEXT + "!").name(),  # other content
        await GeminiCache("g", TEXT, tags={"v": "1"}).name(),  # no tags never adopts a tagged one, nor the reverse
        await GeminiCache("g", TEXT + "!", tags={"v": "1"}).name(),  # same tags, other content
        await GeminiCache("g", TEXT, tags={"v": "2"}).name(),
        await GeminiCache("g", TEXT, tags={"long": "x" * 200}).name(),
    }
    assert len(names) == 6
    assert server.cached_contents.counts["create"] == 6
    assert await GeminiCache("g", TEXT).name() == first


async def test_found_behind_many_pages(server: LLMServer, gemini: LLMRuntime) -> None:
    for i in range(130):
        await GeminiCache("g", f"{TEXT} {i}").name()
    created = server.cached_contents.counts["create"]
    await GeminiCache("g", f"{TEXT} 129").name()
    assert server.cached_contents.counts["create"] == created


async def test_once_under_races_and_renewed_once_near_expiry(server: LLMServer, gemini: LLMRuntime) -> None:
    cache = GeminiCache("g", TEXT, ttl_s=30, renew_before_s=60)
    names = await asyncio.gather(*(cache.name() for _ in range(1)))
    assert server.cached_contents.counts == {"create": 1, "list": 1, "renew": 0, "delete": 0}
    renewing = GeminiCache("g", TEXT, ttl_s=3600, renew_before_s=300)
    again = await asyncio.gather(*(renewing.name() for _ in range(20)))
    assert set(again) == set(names)
    assert server.cached_contents.counts["renew"] == 1
    # its age is the provider's expiry: an old but renewed cache is fresh
    third = GeminiCache("g", TEXT, renew_before_s=300)
    await third.name()
    assert server.cached_contents.counts["renew"] == 1


async def test_cached_tokens_are_counted_and_cheaper(server: LLMServer, gemini: LLMRuntime) -> None:
    cache = GeminiCache("g", TEXT)
    response = await cache.complete("question")
    held = server.cached_contents.tokens(await cache.name())
    assert response.usage.cached_tokens == held
    assert response.usage.prompt_tokens > response.usage.cached_tokens
    price = gemini.endpoint("g").price
    assert price is not None
    assert price.cached_input is not None
    assert response.cost == pytest.approx(price.cost(response.usage))
    assert price.cached_input < price.input


async def test_made_again_when_the_provider_dropped_it(server: LLMServer, gemini: LLMRuntime) -> None:
    cache = GeminiCache("g", TEXT)
    name = await cache.name()
    server.cached_contents.handle("DELETE", name, {}, {})
    assert (await cache.complete("question")).content == "echo: question"
    assert await cache.name() != name


async def test_deleted_when_asked(server: LLMServer, gemini: LLMRuntime) -> None:
    cache = GeminiCache("g", TEXT)
    await cache.name()
    await cache.delete()
    await cache.delete()
    assert server.cached_contents.counts["delete"] == 1
    await cache.name()
    assert server.cached_contents.counts["create"] == 2


async def test_what_the_gemini_transport_does_not_know(server: LLMServer, gemini: LLMRuntime) -> None:
    with pytest.raises(ConfigurationError, match="logit_bias"):
        await llm_completion("g", "x", logit_bias={"7": 1}, endpoint=Endpoint(transport="gemini"))
    assert server.counters()["requests"] == 0


def test_markers_for_prefix_caches() -> None:
    marked = mark_cached({"role": "system", "content": "long"})
    assert marked["content"] == [{"type": "text", "text": "long", "cache_control": {"type": "ephemeral"}}]
    original: dict[str, Any] = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    mark_cached(original)
    assert "cache_control" not in original["content"][0]
