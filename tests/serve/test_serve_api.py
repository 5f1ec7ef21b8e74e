"""The server on a real port, with the clients that people use."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch

from hyperfunc_local.engine import Engine
from hyperfunc_local.model import LocalModel
from hyperfunc_local.sampling.parameters import DecodingParameters
from hyperfunc_serve.demo_model import demo_model
from hyperfunc_serve.running import server_in_thread
from hyperfunc_serve.settings import ServerSettings
from hyperfunc_serve.worker import ModelWorker

openai = pytest.importorskip("openai")

# litellm 1.91 reads fields of its models in a way that pydantic 2.11 deprecates.
LITELLM_WARNING = pytest.mark.filterwarnings("ignore:Accessing the .model_")
GREEDY = {"temperature": 0.0}
USER = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def model() -> LocalModel:
    return demo_model(hidden=32)


@pytest.fixture(scope="module")
def server(model: LocalModel) -> Iterator[tuple[str, Any]]:
    loaders = {"demo": lambda: model, "second": lambda: demo_model("second", hidden=32, seed=1), "broken": _broken}
    settings = ServerSettings(port=0, slots=16, max_tokens=512, max_batch=16)
    with server_in_thread(loaders, settings) as (url, app):
        yield url, app


def _broken() -> LocalModel:
    from hyperfunc_local.errors import TruncatedFileError

    raise TruncatedFileError("broken.gguf: the file ends too early")


@pytest.fixture
def url(server: tuple[str, Any]) -> str:
    return server[0]


@pytest.fixture
def http(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as made:
        yield made


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does; 20 s guard against a hang."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the other thread knows no event loop
            await asyncio.sleep(0.002)


def expected_text(model: LocalModel, prompt: str, count: int) -> str:
    return model.generate([prompt], DecodingParameters(temperature=0, top_k=0, top_p=1, max_tokens=count))[0][0].text


# --- clients ---------------------------------------------------------------------------------------------------------


def test_openai_completions_say_what_the_model_says(client: Any, model: LocalModel) -> None:
    answer = client.completions.create(model="demo", prompt=["abc", "x y"], max_tokens=9, **GREEDY)
    assert [c.text for c in answer.choices] == [expected_text(model, p, 9) for p in ("abc", "x y")]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (8, 18)
    assert {c.finish_reason for c in answer.choices} == {"length"}
    ids = client.completions.create(model="demo", prompt=model.encode("abc"), max_tokens=9, **GREEDY)
    assert ids.choices[0].text == answer.choices[0].text


def test_openai_chat_streams_the_same_text(client: Any) -> None:
    request = {"model": "demo", "messages": USER, "max_tokens": 24, **GREEDY}
    whole = client.chat.completions.create(**request)
    chunks = list(client.chat.completions.create(**request, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert chunks[-1].choices == []
    assert len({c.id for c in chunks}) == 1


def test_seeds_choices_and_stops(client: Any) -> None:
    request: dict[str, Any] = {"model": "demo", "messages": USER, "max_tokens": 16, "temperature": 1.0, "n": 3}
    first = client.chat.completions.create(**request, seed=0)
    again = client.chat.completions.create(**request, seed=0)
    texts = [c.message.content for c in first.choices]
    assert texts == [c.message.content for c in again.choices]
    assert len(set(texts)) == 3
    free = client.completions.create(model="demo", prompt="abc", max_tokens=30, **GREEDY).choices[0].text
    stop = free[5:7]
    cut = client.completions.create(model="demo", prompt="abc", max_tokens=30, stop=[stop, "\x01\x02"], **GREEDY)
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (free[: free.index(stop)], "stop")
    streamed = client.completions.create(model="demo", prompt="abc", max_tokens=30, stop=stop, stream=True, **GREEDY)
    assert "".join(c.choices[0].text for c in streamed) == free[: free.index(stop)]


def test_log_probabilities_add_up_to_the_score(client: Any, model: LocalModel) -> None:
    answer = client.completions.create(model="demo", prompt="abc", max_tokens=6, logprobs=3, **GREEDY).choices[0]
    ids = model.generate(["abc"], DecodingParameters(temperature=0, top_k=0, top_p=1, max_tokens=6))[0][0].tokens
    scored = model.score([model.encode("abc")], [ids])
    assert answer.logprobs.token_logprobs == pytest.approx(scored.tokens[0, 0].tolist(), abs=1e-4)
    assert all(len(top) <= 3 for top in answer.logprobs.top_logprobs)
    chat = {"model": "demo", "messages": USER, "max_tokens": 12, "logprobs": True, "top_logprobs": 2, **GREEDY}
    whole = client.chat.completions.create(**chat).choices[0].logprobs.content
    streamed = [
        entry
        for chunk in client.chat.completions.create(**chat, stream=True)
        for entry in (chunk.choices[0].logprobs.content if chunk.choices and chunk.choices[0].logprobs else [])
    ]
    assert [e.logprob for e in streamed] == pytest.approx([e.logprob for e in whole], abs=1e-5)
    assert len(whole) == 12
    assert all(len(e.top_logprobs) == 2 for e in whole)


def test_log_probabilities_come_with_the_bytes_of_half_a_character(client: Any, model: LocalModel) -> None:
    assert model.tokenizer is not None
    first, second = model.encode("é")[1:]
    answer = client.chat.completions.create(
        model="demo", messages=USER, max_tokens=1, logprobs=True, top_logprobs=1, logit_bias={str(first): 100}, **GREEDY
    )
    (entry,) = answer.choices[0].logprobs.content
    assert (entry.token, entry.bytes) == ("�", [0xC3])
    assert bytes([0xC3]) + model.tokenizer.token_bytes()[second] == "é".encode()


def test_a_schema_is_followed(client: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"k": {"type": "integer", "minimum": 0, "maximum": 9}, "ok": {"type": "boolean"}},
        "required": ["k", "ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answers = client.chat.completions.create(
        model="demo", messages=USER, max_tokens=60, n=8, temperature=1.0, seed=1, response_format=form
    )
    for choice in answers.choices:
        value = json.loads(choice.message.content)
        assert set(value) == {"k", "ok"}
        assert choice.finish_reason == "stop"
    bad = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=USER, response_format=bad)


def test_openai_errors_are_its_own_kinds(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="no model named"):
        client.chat.completions.create(model="nothing", messages=USER)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="demo", messages=USER, temperature=3)
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(
            model="demo", messages=USER, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )
    with pytest.raises(openai.BadRequestError, match="context"):
        client.completions.create(model="demo", prompt="x" * 2000)
    with pytest.raises(openai.InternalServerError, match="ends too early"):
        client.completions.create(model="broken", prompt="x")
    assert [m.id for m in client.models.list()] == ["demo", "second", "broken"]
    assert client.models.retrieve("second").id == "second"


async def test_the_async_client_and_several_models(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

        async def ask(name: str, i: int) -> str:
            answer = await client.completions.create(model=name, prompt=f"p{i}", max_tokens=8, **GREEDY)
            return str(answer.choices[0].text)

        texts = await asyncio.gather(*(ask(name, i) for i in range(6) for name in ("demo", "second")))
    for i in range(6):
        assert texts[2 * i] == expected_text(demo_model(hidden=32), f"p{i}", 8)
        assert texts[2 * i + 1] == expected_text(demo_model(hidden=32, seed=1), f"p{i}", 8)


async def test_the_async_client_streams_every_choice(url: str) -> None:
    """Sixteen streams of two choices at once; each is what the same request gives when it is not streamed."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

        async def both(i: int) -> None:
            request: dict[str, Any] = {"model": "demo", "messages": USER, "max_tokens": 9, "n": 2, "seed": i}
            whole = await client.chat.completions.create(**request)
            stream = await client.chat.completions.create(
                **request, stream=True, stream_options={"include_usage": True}
            )
            texts, finished, usage = ["", ""], set(), None
            async for chunk in stream:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    texts[choice.index] += choice.delta.content or ""
                    if choice.finish_reason is not None:
                        finished.add(choice.index)
            assert texts == [c.message.content for c in whole.choices]
            assert texts[0] != texts[1]
            assert finished == {0, 1}
            assert usage == whole.usage
            assert usage is not None
            assert usage.completion_tokens == 18

        await asyncio.gather(*(both(i) for i in range(16)))


async def test_the_async_client_reads_tokens_before_the_last_is_computed(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        await client.completions.create(model="demo", prompt="warm", max_tokens=1)
        gate = _Gate(monkeypatch, free_steps=4)
        stream = await client.completions.create(model="demo", prompt="abc", max_tokens=10, stream=True, **GREEDY)
        text = ""
        async for chunk in stream:
            text += chunk.choices[0].text
            if len(text) == 4:
                assert gate.steps == 4  # the other six do not exist yet
                gate.open.set()
        assert len(text) == 10


@LITELLM_WARNING
async def test_litellm_sync_async_and_streaming(url: str, model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    request = {
        "model": "openai/demo",
        "messages": USER,
        "api_base": f"{url}/v1",
        "api_key": "none",
        "max_tokens": 12,
        "temperature": 0.0,
    }
    whole = await asyncio.to_thread(litellm.completion, **request)
    also = await litellm.acompletion(**request)
    text = whole.choices[0].message.content
    assert also.choices[0].message.content == text
    stream = await litellm.acompletion(**request, stream=True)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text
    pieces = await asyncio.to_thread(lambda: list(litellm.completion(**request, stream=True)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces) == text
    assert whole.usage.completion_tokens == 12


@LITELLM_WARNING
@pytest.mark.parametrize("transport", ["direct", "litellm"])
async def test_our_own_runtime_uses_the_server_as_an_endpoint(
    url: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    from hyperfunc_llm import Endpoint, InvalidRequestError, LLMRequest, LLMRuntime

    endpoint = Endpoint.connection(api_key="none", base_url=f"{url}/v1").over(
        Endpoint(model="openai/demo", transport=transport, input_usd=0, output_usd=0, params=GREEDY)
    )
    async with LLMRuntime({"local": endpoint}) as runtime:
        request = LLMRequest(USER, {"max_tokens": 12})
        answers = await asyncio.gather(*(runtime.complete("local", request) for _ in range(8)))
        body = {"messages": USER, "max_tokens": 12, **GREEDY}
        async with httpx.AsyncClient(timeout=30) as client:
            expected = (await client.post(f"{url}/v1/chat/completions", json=body)).json()
        assert {a.content for a in answers} == {expected["choices"][0]["message"]["content"]}
        assert answers[0].spent.output_tokens == 12
        pieces = [chunk async for chunk in runtime.stream("local", request)]
        assert "".join(c.content for c in pieces) == answers[0].content
        assert len(pieces) > 3
        with pytest.raises(InvalidRequestError, match="temperature"):
            await runtime.complete("local", LLMRequest(USER, {"temperature": 7}))


# --- batching and streaming ----------------------------------------------------------------------------------------


async def test_64_streams_at_once_share_batches(server: tuple[str, Any], model: LocalModel) -> None:
    url, app = server
    counters = app.state.gateway.cache.loaded()["demo"].counters if "demo" in app.state.gateway.cache.loaded() else None
    before = (counters.steps, counters.rows) if counters else (0, 0)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=64)) as client:

        async def one(i: int) -> tuple[str, str]:
            text, last = "", ""
            body = {"model": "demo", "prompt": f"q{i}", "max_tokens": 20, "stream": True, "temperature": 0}
            async with client.stream("POST", "/v1/completions", json=body) as response:
                assert response.status_code == 200
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        last = line[6:]
                        if last != "[DONE]":
                            text += json.loads(last)["choices"][0]["text"]
            return text, last

        answers = await asyncio.gather(*(one(i) for i in range(64)))
    assert all(last == "[DONE]" for _, last in answers)
    assert [text for text, _ in answers] == [expected_text(model, f"q{i}", 20) for i in range(64)]
    counters = app.state.gateway.cache.loaded()["demo"].counters
    steps, rows = counters.steps - before[0], counters.rows - before[1]
    assert rows == 64 * 20
    assert rows / steps > 4  # truly batched: one by one it would be 1


class _Gate:
    """Holds the engine before a step, so that a test sees what has left by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_steps: int) -> None:
        self.steps = 0
        self.open = threading.Event()
        original = Engine.step

        def step(engine: Engine) -> Any:
            if self.steps >= free_steps:
                self.open.wait(20)
            self.steps += 1
            return original(engine)

        monkeypatch.setattr(Engine, "step", step)


def test_the_first_token_leaves_before_the_last_is_computed(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.post("/generate", json={"prompt": "warm", "max_tokens": 1})
    gate = _Gate(monkeypatch, free_steps=3)
    events = []
    with http.stream("POST", "/stream/generate", json={"prompt": "abc", "max_tokens": 10}) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                events.append(json.loads(line[6:]))
                if len(events) == 3:
                    assert gate.steps == 3  # the other seven do not exist yet
                    gate.open.set()
    assert len(events) == 11
    assert events[-1] == {"num_generated": 10, "finish_reason": "length"}


def test_a_server_that_holds_tokens_back_would_be_noticed(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: pieces of the whole answer are delivered at once, after the last step."""
    http.post("/generate", json={"prompt": "warm", "max_tokens": 1})
    gate = _Gate(monkeypatch, free_steps=1000)
    held: list[Any] = []
    deliver = ModelWorker._deliver

    def late(worker: ModelWorker, batches: Any) -> None:
        for loop, pieces in batches.items():
            held.extend(pieces)
            if pieces[-1][1].last:
                deliver(worker, {loop: list(held)})

    monkeypatch.setattr(ModelWorker, "_deliver", late)
    with http.stream("POST", "/stream/generate", json={"prompt": "abc", "max_tokens": 10}) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                assert gate.steps == 10  # the first token came when all had been computed
                break


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_slot(server: tuple[str, Any], stream: bool) -> None:
    url, app = server
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        await client.post("/generate", json={"prompt": "warm", "max_tokens": 1})
        worker = app.state.gateway.cache.loaded()["demo"]
        cancelled = worker.counters.cancelled
        body = {"model": "demo", "prompt": "abc", "max_tokens": 500, "stream": stream, "ignore_eos": True}
        task = asyncio.ensure_future(client.post("/v1/completions", json=body))
        await until(lambda: worker.pending > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: worker.pending == 0 and worker.counters.cancelled == cancelled + 1)
    await until(lambda: app.state.gateway.cache._entries["demo"].users == 0)  # and the model is unpinned


def test_too_many_waiting_answers_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _Gate(monkeypatch, free_steps=0)
    settings = ServerSettings(port=0, slots=2, max_waiting=1)
    with (
        server_in_thread({"demo": lambda: demo_model(hidden=32)}, settings) as (url, app),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        body = {"prompt": "abc", "max_tokens": 2}
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda: answers.append(httpx.post(f"{url}/generate", json=body, timeout=30)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        while not (loaded := app.state.gateway.cache.loaded()) or loaded["demo"].pending < 3:
            threading.Event().wait(0.002)
        refused = client.post("/generate", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"] == "1"
        gate.open.set()
        for thread in threads:
            thread.join(20)
        assert [a.status_code for a in answers] == [200, 200, 200]


def test_a_fault_of_the_model_ends_its_answers_and_not_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Engine.step
    faults = [RuntimeError("out of memory")]

    def step(engine: Engine) -> Any:
        if faults:
            raise faults.pop()
        return original(engine)

    with server_in_thread({"demo": lambda: demo_model(hidden=32)}) as (url, _):
        monkeypatch.setattr(Engine, "step", step)
        first = httpx.post(f"{url}/generate", json={"prompt": "abc"}, timeout=30)
        assert (first.status_code, first.json()["error"]["type"]) == (503, "server_error")
        assert "out of memory" in first.json()["error"]["message"]
        assert httpx.post(f"{url}/generate", json={"prompt": "abc"}, timeout=30).status_code == 200


# --- the plain routes ------------------------------------------------------------------------------------------------


def test_plain_routes(http: httpx.Client, model: LocalModel) -> None:
    assert http.get("/health").json()["status"] == "ok"
    assert http.post("/tokenize", json={"text": "ab"}).json() == {"token_ids": model.encode("ab"), "num_tokens": 3}
    both = http.post("/batch/tokenize", json={"texts": ["a", ""]}).json()["results"]
    assert [r["num_tokens"] for r in both] == [2, 1]
    answer = http.post("/generate", json={"prompt": "abc"}).json()
    assert answer["num_generated"] == 50
    assert answer["text"] == "abc" + expected_text(model, "abc", 50)
    assert answer["token_ids"][:4] == model.encode("abc")
    sampled = [http.post("/generate", json={"prompt": "a", "strategy": "top_k", "seed": 0}).json() for _ in range(2)]
    assert sampled[0] == sampled[1]
    page = http.get("/")
    assert "<title>hyperfunc chat</title>" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_a_batch_of_mixed_lengths_equals_singles(http: httpx.Client) -> None:
    prompts = ["a", "abc def", "", "x" * 30, "é🙂", "12", "q" * 5000, "end"]
    results = http.post("/batch/generate", json={"prompts": prompts, "max_tokens": 11}).json()["results"]
    for prompt, result in zip(prompts, results, strict=True):
        single = http.post("/generate", json={"prompt": prompt, "max_tokens": 11})
        if prompt in ("", "q" * 5000):
            assert single.status_code == 400
            assert result["error"]["type"] == "invalid_request_error"
        else:
            assert result == single.json()


def test_metrics_count_what_happened(http: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = [line for line in http.get("/metrics").text.splitlines() if line.startswith(name)]
        return float(lines[0].rsplit(" ", 1)[1]) if lines else 0.0

    tokens = 'hyperfunc_generated_tokens_total{model="demo"}'
    http.post("/generate", json={"prompt": "a", "max_tokens": 1})
    before, hits = value(tokens), value("hyperfunc_model_cache_hits_total")
    http.post("/generate", json={"prompt": "a", "max_tokens": 7})
    assert value(tokens) == before + 7
    assert value("hyperfunc_model_cache_hits_total") == hits + 1
    assert value('hyperfunc_requests_total{route="/generate",status="200"}') >= 2
    http.get("/no/such/path/unheard-of")
    assert "unheard-of" not in http.get("/metrics").text


def test_an_api_key_guards_everything_but_page_and_health() -> None:
    settings = ServerSettings(port=0, api_key="secret", cors_origins=("https://a.example",))
    with (
        server_in_thread({"demo": lambda: demo_model(hidden=32)}, settings) as (url, _),
        httpx.Client(base_url=url) as client,
    ):
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            refused = client.get("/v1/models", headers=headers)
            assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
        assert client.get("/v1/models", headers={"authorization": "Bearer secret"}).status_code == 200
        allowed = client.get("/health", headers={"origin": "https://a.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        other = client.get("/health", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


# --- malformed requests ----------------------------------------------------------------------------------------------

POSTS = (
    "/v1/completions",
    "/v1/chat/completions",
    "/tokenize",
    "/generate",
    "/batch/tokenize",
    "/batch/generate",
    "/stream/generate",
)
_FIELDS: dict[str, Any] = {
    "model": "demo",
    "prompt": "ab",
    "messages": USER,
    "text": "ab",
    "texts": ["a"],
    "prompts": ["a"],
    "max_tokens": 1,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "n": 1,
    "stop": "x",
    "seed": 1,
    "logprobs": 1,
    "stream": False,
    "strategy": "greedy",
    "logit_bias": {"5": 1},
    "response_format": {"type": "text"},
}
_WRONG: list[Any] = [
    None,
    [],
    {},
    "",
    -1,
    10**30,
    1e308,
    3.7,
    True,
    "x",
    [[]],
    [None],
    {"a": 1},
    ["\u0000"],
    [10**12],
    [[5, -1]],
    {"type": "json_schema"},
    {"5": 1e9},
    {"role": 1},
    [{"role": "user"}, {"role": "robot", "content": "x"}],
]


def malformed(source: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """One random request that no server should accept: method, path, body, headers."""
    path = source.choice(POSTS)
    headers = {"content-type": "application/json"}
    kind = source.randrange(8)
    if kind == 0:
        return "POST", path, source.randbytes(source.randrange(200)), headers
    if kind == 1:
        return "POST", path, (b"[" * source.randrange(1, 5000)) + b"1", headers
    if kind == 2:
        text = json.dumps({k: v for k, v in _FIELDS.items() if source.random() < 0.7})
        return "POST", path, text[: source.randrange(len(text))].encode(), headers
    if kind == 3:
        return source.choice(["GET", "PUT", "DELETE", "PATCH"]), path, b"{}", headers
    if kind == 4:
        return "POST", "/" + "".join(source.choices("abcv1/%.?", k=12)), b"{}", headers
    if kind == 5:
        return "POST", path, b'{"model": "demo"}', {"content-type": source.choice(["text/plain", "", "multipart/x"])}
    if kind == 6:
        escape = source.choice(['"\\ud800"', "NaN", "Infinity", "1e999", '"\\u0000', "0x10", '{"a": {"a": ' * 300])
        return "POST", path, f'{{"prompt": {escape}, "messages": {escape}, "text": {escape}}}'.encode(), headers
    required = {
        "/v1/completions": "prompt",
        "/v1/chat/completions": "messages",
        "/tokenize": "text",
        "/generate": "prompt",
        "/batch/tokenize": "texts",
        "/batch/generate": "prompts",
        "/stream/generate": "prompt",
    }[path]
    body = {k: source.choice(_WRONG) if source.random() < 0.3 else v for k, v in _FIELDS.items()}
    body[required] = source.choice([None, 5, {}, [], True, {"a": []}, [{}], [None], 1.5])
    return "POST", path, json.dumps(body).encode(), headers


def resident_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("count", [600])
def test_malformed_requests_only_get_4xx(url: str, count: int) -> None:
    """The issue asks for 10 000; ``benchmarks/local.py malformed`` runs those. The same generator is used here."""
    statuses = asyncio.run(send_malformed(url, count, seed=0))
    assert set(statuses) <= {400, 404, 405, 413, 415}
    assert len(statuses) >= 4
    assert httpx.get(f"{url}/health").json()["pending"] == 0
    good = httpx.post(f"{url}/generate", json={"prompt": "ab", "max_tokens": 3}, timeout=30)
    assert good.json()["num_generated"] == 3


async def send_malformed(url: str, count: int, seed: int) -> dict[int, int]:
    """How many answers of each status; each one must carry an error in the envelope."""
    statuses: dict[int, int] = {}
    source = random.Random(seed)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=httpx.Limits(max_connections=16)) as client:

        async def one(method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
            response = await client.request(method, path, content=body, headers=headers)
            statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
            error = response.json()["error"]
            assert isinstance(error["message"], str), (method, path, body)
            assert error["message"]
            assert set(error) == {"message", "type", "param", "code"}

        for _ in range(0, count, 50):
            await asyncio.gather(*(one(*malformed(source)) for _ in range(50)))
    return statuses


def test_large_bodies_are_refused_before_they_are_read(url: str) -> None:
    declared = httpx.post(f"{url}/tokenize", content=b"x" * (1 << 21), headers={"content-type": "application/json"})
    assert declared.status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * (1 << 16)

    try:
        streamed = httpx.post(f"{url}/tokenize", content=endless(), headers={"content-type": "application/json"})
        assert streamed.status_code == 413
    except httpx.WriteError:
        pass  # the server closed the connection while we were still writing


def test_what_nobody_foresaw_has_the_envelope_too(caplog: pytest.LogCaptureFixture) -> None:
    def unreadable() -> LocalModel:
        raise OSError("a disk of ours at /secret")

    loaders = {"unreadable": unreadable, "demo": lambda: demo_model(hidden=32)}
    with server_in_thread(loaders) as (url, _), httpx.Client(base_url=url, timeout=30) as http:
        failed = http.post("/generate", json={"prompt": "a"})
        again = http.post(
            "/generate", json={"model": "demo", "prompt": "a", "max_tokens": 1}
        )  # over the same connection
    assert failed.status_code == 500
    assert failed.json()["error"].keys() == {"message", "type", "param", "code"}
    assert failed.json()["error"]["type"] == "server_error"
    assert "OSError" in failed.json()["error"]["message"]
    assert "secret" not in failed.text
    assert "/secret" in caplog.text  # for whoever runs the server
    assert again.status_code == 200


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_a_refusal_names_the_field_that_was_sent(http: httpx.Client, field: str) -> None:
    refused = http.post("/v1/chat/completions", json={"messages": USER, field: [{"name": "look_up"}]})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == field


# --- shutting down ---------------------------------------------------------------------------------------------------


def test_a_stop_signal_lets_running_answers_end() -> None:
    before = set(threading.enumerate())
    with ThreadPoolExecutor() as pool:
        with server_in_thread({"demo": lambda: demo_model(hidden=32)}) as (url, app):
            httpx.post(f"{url}/generate", json={"prompt": "warm", "max_tokens": 1}, timeout=30)
            body = {"prompt": "abc", "max_tokens": 300, "ignore_eos": True}
            running = pool.submit(httpx.post, f"{url}/v1/completions", json=body, timeout=30)
            while app.state.gateway.cache.loaded()["demo"].pending == 0:
                threading.Event().wait(0.001)
        response = running.result(30)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 300
    assert not [t for t in set(threading.enumerate()) - before if t.name.startswith("hyperfunc-serve")]


def test_a_tied_pair_of_settings_is_checked() -> None:
    from hyperfunc.errors import ConfigurationError

    for options in ({"slots": 0}, {"api_key": ""}, {"max_waiting": -1}):
        with pytest.raises(ConfigurationError):
            ServerSettings(**options)
    assert torch.is_inference_mode_enabled() is False
