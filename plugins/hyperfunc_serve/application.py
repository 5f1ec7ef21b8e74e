"""The server as an ASGI application: routes, limits, errors, and the life of the models."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from hyperfunc.errors import ConfigurationError
from hyperfunc_local.errors import (
    ContextLengthError,
    GrammarError,
    LocalModelError,
    SamplingError,
    TokenizerError,
)
from hyperfunc_local.model import LocalModel
from hyperfunc_serve.errors import RequestError, ServeError, envelope
from hyperfunc_serve.gateway import Gateway
from hyperfunc_serve.metrics import ServerMetrics
from hyperfunc_serve.middleware import BodyLimit, Counting, Failures, KeyCheck
from hyperfunc_serve.model_cache import ModelCache
from hyperfunc_serve.native_routes import native_routes
from hyperfunc_serve.openai_routes import openai_routes
from hyperfunc_serve.settings import ServerSettings
from hyperfunc_serve.worker import ModelWorker

__all__ = ["create_app"]


def create_app(loaders: Mapping[str, Callable[[], LocalModel]], settings: ServerSettings | None = None) -> FastAPI:
    """An application that serves the models of ``loaders``, each loaded when first asked for.

    Args:
        loaders: name -> a function that loads the model; the first is used where a request names none.

    ``app.state.gateway`` is the :class:`~hyperfunc_serve.gateway.Gateway`, for tests and for embedding.
    """
    settings = settings if settings is not None else ServerSettings()
    if not loaders:
        raise ConfigurationError("a server needs at least one model")

    def load(name: str) -> ModelWorker:
        return ModelWorker(loaders[name](), slots=settings.slots, max_waiting=settings.max_waiting)

    cache = ModelCache(load, settings.model_capacity, settings.model_bytes)
    gateway = Gateway(cache, list(loaders), settings)
    metrics = ServerMetrics(cache)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        cache.close()

    app = FastAPI(title="hyperfunc", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway = gateway
    app.include_router(native_routes(gateway, metrics))
    app.include_router(openai_routes(gateway))
    _handle_errors(app)
    # The last one added is the outermost.
    app.add_middleware(Failures)
    app.add_middleware(BodyLimit, most=settings.max_body_bytes)
    if settings.api_key is not None:
        app.add_middleware(KeyCheck, key=settings.api_key)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.cors_origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Counting, metrics=metrics)
    return app


_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (SamplingError, 400),
    (TokenizerError, 400),
    (GrammarError, 400),
    (ContextLengthError, 400),
    (LocalModelError, 503),
    (ServeError, 503),
)


def _handle_errors(app: FastAPI) -> None:
    async def request_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestError)
        headers = {"retry-after": "1"} if error.status == 429 else None
        body = envelope(error.status, str(error), code=error.code, parameter=error.parameter)
        return JSONResponse(body, error.status, headers)

    async def http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return JSONResponse(envelope(error.status_code, str(error.detail)), error.status_code, error.headers)

    def answer_with(status: int) -> Callable[[Request, Exception], JSONResponse]:
        return lambda request, error: JSONResponse(envelope(status, str(error)), status)

    app.add_exception_handler(RequestError, request_error)
    app.add_exception_handler(HTTPException, http_error)
    for kind, status in _STATUS:
        app.add_exception_handler(kind, answer_with(status))
