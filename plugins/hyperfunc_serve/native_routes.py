"""The plain routes: health, tokenize, generate, batches of both, a stream of tokens, metrics, the chat page."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from sse_starlette import EventSourceResponse

from hyperfunc.errors import HyperfuncError
from hyperfunc_local.engine import Generation, GenerationRequest
from hyperfunc_serve.errors import RequestError, envelope
from hyperfunc_serve.gateway import Gateway, Served, collect, parse_body, run_unless_gone
from hyperfunc_serve.metrics import ServerMetrics
from hyperfunc_serve.schemas import BatchGenerateBody, BatchTokenizeBody, GenerateBody, GenerateOptions, TokenizeBody

__all__ = ["native_routes"]

_DEFAULT_MAX_TOKENS = 50


def native_routes(gateway: Gateway, metrics: ServerMetrics) -> APIRouter:
    """The routes, for one gateway."""
    router = APIRouter()
    page = resources.files("hyperfunc_serve").joinpath("chat.html").read_text(encoding="utf-8")

    @router.get("/", response_class=HTMLResponse)
    async def chat_page() -> HTMLResponse:
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return HTMLResponse(page, headers={"content-security-policy": policy, "x-frame-options": "DENY"})

    @router.get("/health")
    async def health() -> dict[str, Any]:
        workers = gateway.cache.loaded()
        pending = sum(worker.pending for worker in workers.values())
        return {"status": "ok", "models": list(gateway.names), "loaded": sorted(workers), "pending": pending}

    @router.get("/metrics")
    async def show_metrics() -> Response:
        return Response(metrics.render(), media_type=metrics.content_type)

    @router.post("/tokenize")
    async def tokenize(request: Request) -> dict[str, Any]:
        body = await parse_body(request, TokenizeBody)
        async with gateway.served(body.model) as served:
            return _tokens(gateway, served, body.text)

    @router.post("/batch/tokenize")
    async def batch_tokenize(request: Request) -> dict[str, Any]:
        body = await parse_body(request, BatchTokenizeBody)
        _check_count(gateway, len(body.texts))
        async with gateway.served(body.model) as served:
            return {"results": [_tokens(gateway, served, text) for text in body.texts]}

    @router.post("/generate")
    async def generate(request: Request) -> Response:
        body = await parse_body(request, GenerateBody)
        async with gateway.served(body.model) as served:
            one = _request(gateway, served, body, body.prompt)
            served.worker.check_room(1)
            (answer,) = await run_unless_gone(request, [collect(served.worker, one)])
            return JSONResponse(_result(served, answer))

    @router.post("/batch/generate")
    async def batch_generate(request: Request) -> Response:
        body = await parse_body(request, BatchGenerateBody)
        _check_count(gateway, len(body.prompts))
        async with gateway.served(body.model) as served:
            return JSONResponse({"results": await _batch(request, gateway, served, body)})

    @router.post("/stream/generate")
    async def stream_generate(request: Request) -> Response:
        body = await parse_body(request, GenerateBody)
        async with AsyncExitStack() as stack:
            served = await stack.enter_async_context(gateway.served(body.model))
            one = _request(gateway, served, body, body.prompt)
            served.worker.check_room(1)
            return EventSourceResponse(_stream(served, one, stack.pop_all()), ping=15, sep="\n")

    return router


def _check_count(gateway: Gateway, count: int) -> None:
    if count > gateway.settings.max_batch:
        raise RequestError(400, f"at most {gateway.settings.max_batch} texts in one request, got {count}")


def _tokens(gateway: Gateway, served: Served, text: str) -> dict[str, Any]:
    ids = gateway.encode(served, text)
    return {"token_ids": ids, "num_tokens": len(ids)}


def _request(gateway: Gateway, served: Served, body: GenerateOptions, prompt: str) -> GenerationRequest:
    """``strategy`` names which of the fields apply: greedy none, top_k and top_p their own, sample all that are set."""
    if not prompt:
        raise RequestError(400, "the prompt is empty", parameter="prompt")
    changes: dict[str, Any] = {"max_tokens": body.max_tokens or min(_DEFAULT_MAX_TOKENS, gateway.settings.max_tokens)}
    if body.strategy == "greedy":
        changes["temperature"] = 0.0
    elif body.strategy == "top_k":
        changes.update(top_k=50 if body.top_k is None else body.top_k, top_p=1.0, min_p=0.0)
    elif body.strategy == "top_p":
        changes.update(top_p=0.9 if body.top_p is None else body.top_p, top_k=0, min_p=0.0)
    decoding = gateway.decoding(served.model, body, **changes)
    seed = body.seed if body.seed is not None else uuid.uuid4().int & 0x7FFF_FFFF
    ids = gateway.check_prompt(served, gateway.encode(served, prompt))
    return GenerationRequest(ids, decoding, seed=seed & 0x7FFF_FFFF_FFFF_FFFF)


def _result(served: Served, answer: Generation) -> dict[str, Any]:
    ids = [*answer.request.prompt, *answer.tokens]
    prompt = served.tokenizer.decode(answer.request.prompt)
    return {
        "token_ids": ids,
        "text": prompt + answer.text,
        "num_generated": len(answer.tokens),
        "finish_reason": answer.finish,
    }


async def _batch(request: Request, gateway: Gateway, served: Served, body: BatchGenerateBody) -> list[dict[str, Any]]:
    served.worker.check_room(len(body.prompts))
    results: list[dict[str, Any]] = [{} for _ in body.prompts]
    running: list[int] = []
    answers = []
    for i, prompt in enumerate(body.prompts):
        try:
            answers.append(collect(served.worker, _request(gateway, served, body, prompt)))
            running.append(i)
        except RequestError as error:
            results[i] = envelope(error.status, str(error), code=error.code, parameter=error.parameter)
    for i, answer in zip(running, await run_unless_gone(request, answers) if answers else [], strict=True):
        results[i] = _result(served, answer)
    return results


async def _stream(served: Served, one: GenerationRequest, stack: AsyncExitStack) -> AsyncIterator[dict[str, str]]:
    async with stack, aclosing(served.worker.stream(one)) as pieces:  # type: ignore[type-var]
        try:
            async for piece in pieces:
                if piece.token is not None or piece.text:
                    yield {"event": "token", "data": json.dumps({"token_id": piece.token, "text": piece.text})}
                if piece.last:
                    done = {"num_generated": len(piece.generation.tokens), "finish_reason": piece.generation.finish}
                    yield {"event": "done", "data": json.dumps(done)}
        except HyperfuncError as error:
            yield {"event": "error", "data": json.dumps(envelope(500, str(error)))}
