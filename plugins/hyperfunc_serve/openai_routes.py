"""``/v1``: models, completions and chat completions, in the form that OpenAI's clients expect."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse

from hyperfunc.errors import HyperfuncError
from hyperfunc_local.engine import Generation, GenerationRequest
from hyperfunc_local.errors import TokenizerError
from hyperfunc_local.tokenizers.chat import ChatTemplate
from hyperfunc_serve.errors import RequestError, envelope
from hyperfunc_serve.gateway import Gateway, Served, collect, parse_body, run_unless_gone
from hyperfunc_serve.schemas import ChatBody, CompletionBody, OpenAIBody
from hyperfunc_serve.worker import Piece

__all__ = ["openai_routes"]

_DEFAULT_MAX_TOKENS = 16  # of /v1/completions, as OpenAI has it


@dataclass(frozen=True, slots=True)
class _Call:
    """One checked request: all its answers, and how they are written."""

    served: Served
    requests: Sequence[GenerationRequest]
    body: OpenAIBody
    identity: str
    created: int
    chat: bool

    @property
    def usage_wanted(self) -> bool:
        return bool(self.body.stream_options and self.body.stream_options.include_usage)

    def frame(
        self, choices: list[dict[str, Any]], *, chunk: bool, usage: dict[str, int] | None = None
    ) -> dict[str, Any]:
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        data: dict[str, Any] = {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "choices": choices,
        }
        if usage is not None or (chunk and self.usage_wanted):
            data["usage"] = usage
        return data

    def usage(self, answers: Sequence[Generation]) -> dict[str, int]:
        prompts = {id(a.request.prompt): len(a.request.prompt) for a in answers}
        prompt, completion = sum(prompts.values()), sum(len(a.tokens) for a in answers)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def openai_routes(gateway: Gateway) -> APIRouter:
    """The routes, for one gateway."""
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name) for name in gateway.names]}

    @router.get("/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name not in gateway.names:
            raise RequestError(404, f"no model named {name!r}", code="model_not_found", parameter="model")
        return _model(name)

    @router.post("/completions")
    async def completions(request: Request) -> Response:
        body = await parse_body(request, CompletionBody)
        return await _answer(request, gateway, body, lambda served: _completion(gateway, served, body))

    @router.post("/chat/completions")
    async def chat_completions(request: Request) -> Response:
        body = await parse_body(request, ChatBody)
        return await _answer(request, gateway, body, lambda served: _chat(gateway, served, body))

    return router


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "hyperfunc"}


# --- from a body to requests ---------------------------------------------------------------------------------------


def _completion(gateway: Gateway, served: Served, body: CompletionBody) -> _Call:
    for name, unsupported in (
        ("echo", bool(body.echo)),
        ("suffix", body.suffix is not None),
        ("best_of", body.best_of not in (None, 1, body.n)),
    ):
        if unsupported:
            raise RequestError(400, f"{name} is not supported", parameter=name)
    prompt = body.prompt
    if isinstance(prompt, str):
        prompts = [gateway.encode(served, prompt)]
    elif prompt and isinstance(prompt[0], int):
        prompts = [list(prompt)]
    else:
        prompts = [gateway.encode(served, p) if isinstance(p, str) else list(p) for p in prompt]  # type: ignore[arg-type]
    if body.max_tokens is None:
        body = body.model_copy(update={"max_tokens": min(_DEFAULT_MAX_TOKENS, gateway.settings.max_tokens)})
    return _call(gateway, served, body, prompts, body.logprobs, chat=False)


def _chat(gateway: Gateway, served: Served, body: ChatBody) -> _Call:
    for name, sent in (("tools", body.tools), ("functions", body.functions)):
        if sent:
            raise RequestError(400, f"{name} are not supported", parameter=name)
    if body.top_logprobs is not None and not body.logprobs:
        raise RequestError(400, "top_logprobs needs logprobs: true", parameter="top_logprobs")
    own = served.model.template
    template = own or ChatTemplate()
    try:
        text = template.render([{"role": m.role, "content": m.text} for m in body.messages])
    except TokenizerError as error:
        raise RequestError(400, str(error), parameter="messages") from None
    # A model's own template writes its start token itself.
    ids = gateway.encode(served, text, special=own is None)
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if limit is None:
        limit = min(gateway.settings.max_tokens, max(1, served.model.config.context_length - len(ids)))
    body = body.model_copy(update={"max_tokens": limit})
    return _call(gateway, served, body, [ids], (body.top_logprobs or 0) if body.logprobs else None, chat=True)


def _call(
    gateway: Gateway,
    served: Served,
    body: OpenAIBody,
    prompts: Sequence[Sequence[int]],
    top_logprobs: int | None,
    *,
    chat: bool,
) -> _Call:
    choices = body.n or 1
    if not prompts:
        raise RequestError(400, "the prompt is empty", parameter="prompt")
    if len(prompts) * choices > gateway.settings.max_batch:
        raise RequestError(
            400, f"at most {gateway.settings.max_batch} answers in one request, asked for {len(prompts) * choices}"
        )
    served.worker.check_room(len(prompts) * choices)
    decoding = gateway.decoding(served.model, body, ignore_end=body.ignore_eos)
    seed = body.seed if body.seed is not None else uuid.uuid4().int & 0x7FFF_FFFF
    requests = []
    for prompt in prompts:
        ids = gateway.check_prompt(served, prompt)
        for choice in range(choices):
            requests.append(
                GenerationRequest(
                    ids,
                    decoding,
                    seed=(seed + choice) & 0x7FFF_FFFF_FFFF_FFFF,
                    processors=tuple(gateway.processors(served, body)),
                    top_logprobs=top_logprobs,
                )
            )
    identity = ("chatcmpl-" if chat else "cmpl-") + uuid.uuid4().hex
    return _Call(served, requests, body, identity, int(time.time()), chat)


# --- from requests to a response -----------------------------------------------------------------------------------


async def _answer(request: Request, gateway: Gateway, body: OpenAIBody, prepare: Callable[[Served], _Call]) -> Response:
    async with AsyncExitStack() as stack:
        served = await stack.enter_async_context(gateway.served(body.model))
        call = await asyncio.to_thread(prepare, served)  # encoding and grammars must not hold up other streams
        if not body.stream:
            answers = await run_unless_gone(request, [collect(served.worker, r) for r in call.requests])
            choices = [_choice(call, i, answer) for i, answer in enumerate(answers)]
            return JSONResponse(call.frame(choices, chunk=False, usage=call.usage(answers)))
        # The model stays pinned until the stream ends, however it ends.
        return EventSourceResponse(_stream(call, stack.pop_all()), ping=15, sep="\n")


async def _stream(call: _Call, stack: AsyncExitStack) -> AsyncIterator[dict[str, str]]:
    """Chunks of all choices as they come, then usage if asked for, then ``[DONE]``."""
    merged: asyncio.Queue[tuple[int, Piece | None, BaseException | None]] = asyncio.Queue()

    async def follow(index: int, one: GenerationRequest) -> None:
        try:
            async with aclosing(call.served.worker.stream(one)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    merged.put_nowait((index, piece, None))
        except HyperfuncError as error:
            merged.put_nowait((index, None, error))

    async with stack:
        tasks = [asyncio.ensure_future(follow(i, one)) for i, one in enumerate(call.requests)]
        try:
            answers: list[Generation] = []
            reported = [0] * len(tasks)
            written = [0] * len(tasks)
            if call.chat:
                for index in range(len(tasks)):
                    yield _data(call.frame([_delta(index, {"role": "assistant", "content": ""})], chunk=True))
            while len(answers) < len(tasks):
                index, piece, error = await merged.get()
                if piece is None:
                    yield _data(envelope(500, str(error)))
                    return
                if piece.text or piece.last:
                    # Log-probabilities of tokens whose text was held back come with the text.
                    chunk = _chunk(call, index, piece, reported[index], written[index])
                    reported[index] = piece.index
                    written[index] += len(piece.text)
                    yield _data(call.frame([chunk], chunk=True))
                if piece.last:
                    answers.append(piece.generation)
            if call.usage_wanted:
                yield _data(call.frame([], chunk=True, usage=call.usage(answers)))
            yield {"data": "[DONE]"}
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _data(value: Any) -> dict[str, str]:
    return {"data": json.dumps(value, ensure_ascii=False, separators=(",", ":"))}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _chunk(call: _Call, index: int, piece: Piece, reported: int, written: int) -> dict[str, Any]:
    logprobs = _logprobs(call, piece.generation, reported, piece.index, written)
    finish = piece.generation.finish if piece.last else None
    if call.chat:
        delta = {"content": piece.text} if piece.text else {}
        return {**_delta(index, delta), "logprobs": logprobs, "finish_reason": finish}
    return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": finish}


def _choice(call: _Call, index: int, answer: Generation) -> dict[str, Any]:
    logprobs = _logprobs(call, answer, 0, len(answer.tokens), 0)
    if call.chat:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}
    return {"index": index, "text": answer.text, "logprobs": logprobs, "finish_reason": answer.finish}


def _logprobs(call: _Call, answer: Generation, begin: int, end: int, offset: int) -> dict[str, Any] | None:
    """Log-probabilities of the tokens ``begin`` to ``end``, in the form of the route."""
    if answer.request.top_logprobs is None:
        return None
    tokenizer = call.served.model.tokenizer
    spelled = call.served.worker.token_bytes

    def text(token: int) -> str:
        return tokenizer.decode([token], keep_special=True) if tokenizer is not None else str(token)

    tokens, values = answer.tokens[begin:end], answer.logprobs[begin:end]
    top = answer.top[begin:end]
    if call.chat:

        def entry(token: int, value: float) -> dict[str, Any]:
            raw = spelled[token] if token < len(spelled) else b""  # part of a character has bytes, and no text
            return {"token": text(token), "logprob": value, "bytes": list(raw or text(token).encode())}

        content = [
            {**entry(token, value), "top_logprobs": [entry(t, v) for t, v in best]}
            for token, value, best in zip(tokens, values, top, strict=True)
        ]
        return {"content": content, "refusal": None}
    texts = [text(token) for token in tokens]
    offsets = [offset + sum(len(t) for t in texts[:i]) for i in range(len(texts))]
    return {
        "tokens": texts,
        "token_logprobs": values,
        "top_logprobs": [{text(t): v for t, v in best} for best in top],
        "text_offset": offsets,
    }
