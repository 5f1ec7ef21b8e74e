"""Between a checked request body and the worker: model, prompt ids, decoding parameters, processors.

Everything that can be wrong with a request is found here, before anything is computed or streamed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from hyperfunc_local.engine import Generation, GenerationRequest
from hyperfunc_local.errors import LocalModelError, TokenizerError
from hyperfunc_local.model import LocalModel
from hyperfunc_local.sampling.parameters import DecodingParameters, resolve
from hyperfunc_local.sampling.penalties import LogitBias, OccurrencePenalty
from hyperfunc_local.sampling.sampler import LogitsProcessor
from hyperfunc_local.tokenizers.base import Tokenizer
from hyperfunc_serve.errors import RequestError
from hyperfunc_serve.model_cache import ModelCache
from hyperfunc_serve.schemas import Decoding, OpenAIBody
from hyperfunc_serve.settings import ServerSettings
from hyperfunc_serve.worker import ModelWorker

__all__ = ["Gateway", "Served", "collect", "parse_body", "run_unless_gone"]

_NEUTRAL = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""What OpenAI's API means by a field that is not sent, where neither request nor model says otherwise."""


BodyT = TypeVar("BodyT", bound=BaseModel)


async def parse_body(request: Request, kind: type[BodyT]) -> BodyT:
    """The checked body.

    Raises:
        RequestError: 415 for another content type, 400 for what is not JSON of this form.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # A web page may send plain text to this machine without asking; JSON needs the browser's permission.
        raise RequestError(415, f"expected content-type application/json, got {content_type!r}")
    data = await request.body()
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RequestError(
            400, f"{place}: {first['msg']}" if place else str(first["msg"]), parameter=place or None
        ) from None


@dataclass(frozen=True, slots=True)
class Served:
    """A pinned model and its worker."""

    name: str
    worker: ModelWorker

    @property
    def model(self) -> LocalModel:
        return self.worker.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Raises RequestError: the model has none."""
        if self.model.tokenizer is None:
            raise RequestError(400, f"model {self.name!r} has no tokenizer; send token ids")
        return self.model.tokenizer


class Gateway:
    """Turns request bodies into answers.

    Args:
        names: models that may be asked for; the first is used where a request names none.
    """

    def __init__(self, cache: ModelCache[ModelWorker], names: Sequence[str], settings: ServerSettings) -> None:
        self.cache = cache
        self.names = tuple(names)
        self.settings = settings

    @asynccontextmanager
    async def served(self, name: str | None) -> AsyncIterator[Served]:
        """The model of this name, loaded if need be and pinned for the length of the block.

        Raises:
            RequestError: 404, unknown name.
        """
        chosen = name if name is not None else self.names[0]
        if chosen not in self.names:
            raise RequestError(
                404,
                f"no model named {chosen!r}; known: {', '.join(self.names)}",
                code="model_not_found",
                parameter="model",
            )
        worker = self.cache.acquire_loaded(chosen) or await self._load(chosen)
        try:
            yield Served(chosen, worker)
        finally:
            self.cache.release(chosen)

    async def _load(self, name: str) -> ModelWorker:
        loading = asyncio.get_running_loop().run_in_executor(None, self.cache.acquire, name)
        try:
            return await asyncio.shield(loading)
        except asyncio.CancelledError:
            # The client left while the model was loading: the load goes on, but its pin has no owner any more.

            def unpin(done: asyncio.Future[ModelWorker]) -> None:
                if not done.cancelled() and done.exception() is None:
                    self.cache.release(name)

            loading.add_done_callback(unpin)
            raise

    def decoding(self, model: LocalModel, body: Decoding, **changes: Any) -> DecodingParameters:
        """The request's values, else the model's, else the neutral ones of OpenAI's API.

        Raises:
            SamplingError: out of range.
        """
        asked = {
            name: getattr(body, name)
            for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens", "stop")
        }
        asked.update({k: v for k, v in changes.items() if v is not None})
        own: Mapping[str, Any] = {**_NEUTRAL, **model.decoding}
        if isinstance(asked["stop"], list):
            if len(asked["stop"]) > 16:
                raise RequestError(400, "stop: at most 16 strings", parameter="stop")
            asked["stop"] = tuple(asked["stop"])
        if asked["max_tokens"] is not None and asked["max_tokens"] > self.settings.max_tokens:
            raise RequestError(
                400,
                f"max_tokens: at most {self.settings.max_tokens} here, got {asked['max_tokens']}",
                parameter="max_tokens",
            )
        values = resolve(asked, own).values
        if values.stop and model.tokenizer is None:
            raise RequestError(400, "stop strings need a tokenizer, and this model has none", parameter="stop")
        return values

    def processors(self, served: Served, body: OpenAIBody) -> list[LogitsProcessor]:
        """A request's own logits processors; made anew for each answer, since they remember it."""
        made: list[LogitsProcessor] = []
        if body.logit_bias:
            try:
                bias = {int(token): value for token, value in body.logit_bias.items()}
            except ValueError:
                raise RequestError(400, "logit_bias: keys are token ids", parameter="logit_bias") from None
            made.append(LogitBias(bias, served.model.config.vocabulary))
        if body.presence_penalty or body.frequency_penalty:
            made.append(OccurrencePenalty(body.presence_penalty or 0.0, body.frequency_penalty or 0.0))
        wanted = body.response_format
        if wanted is not None and wanted.type != "text":
            schema = None
            if wanted.type == "json_schema":
                if wanted.json_schema is None or wanted.json_schema.schema_ is None:
                    raise RequestError(400, "response_format: json_schema needs a schema", parameter="response_format")
                schema = wanted.json_schema.schema_
            made.append(served.worker.grammars().json_schema(schema))
        return made

    def check_prompt(self, served: Served, ids: Sequence[int]) -> tuple[int, ...]:
        """Raises RequestError: an empty prompt, or one that leaves no room for an answer."""
        size = served.model.config.vocabulary
        if not ids:
            raise RequestError(400, "the prompt is empty", parameter="prompt")
        if any(not 0 <= i < size for i in ids):
            raise RequestError(400, f"token ids must be from 0 to {size - 1}", parameter="prompt")
        context = served.model.config.context_length
        if len(ids) >= context:
            raise RequestError(
                400,
                f"the prompt has {len(ids)} tokens; this model's context is {context}, answer included",
                code="context_length_exceeded",
                parameter="prompt",
            )
        return tuple(ids)

    def encode(self, served: Served, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text. Raises RequestError."""
        try:
            return served.tokenizer.encode(text, special=special)
        except TokenizerError as error:
            raise RequestError(400, str(error)) from None


async def collect(worker: ModelWorker, request: GenerationRequest) -> Generation:
    """A whole answer."""
    async with aclosing(worker.stream(request)) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            if piece.last:
                return piece.generation
    raise LocalModelError("the answer ended without a last piece")


async def run_unless_gone(request: Request, answers: Sequence[Any]) -> list[Any]:
    """Await all of ``answers``; end them when the client leaves.

    Raises:
        RequestError: 499, the client left (nobody reads it).
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watcher: asyncio.Future[Any] = asyncio.ensure_future(gone())
    work: asyncio.Future[Any] = asyncio.gather(*answers)
    try:
        await asyncio.wait({watcher, work}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise RequestError(499, "the client closed the connection")
        return list(work.result())
    finally:
        watcher.cancel()
        work.cancel()
        await asyncio.gather(watcher, work, return_exceptions=True)
