"""Run the server: in the foreground for the command line, or in a thread for tests, notebooks and demos."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from hyperfunc_local.model import LocalModel
from hyperfunc_serve.application import create_app
from hyperfunc_serve.errors import ServeError
from hyperfunc_serve.settings import ServerSettings

__all__ = ["run_server", "server_in_thread"]

Loaders = Mapping[str, Callable[[], LocalModel]]


def _server(app: Any, settings: ServerSettings, log_level: str) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_level=log_level,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        ws="none",
    )
    return uvicorn.Server(config)


def run_server(loaders: Loaders, settings: ServerSettings, *, log_level: str = "info") -> None:
    """Serve until a stop signal; running answers may end within ``settings.shutdown_seconds``."""
    _server(create_app(loaders, settings), settings, log_level).run()


@contextmanager
def server_in_thread(loaders: Loaders, settings: ServerSettings | None = None) -> Iterator[tuple[str, Any]]:
    """A server in a thread of this process, for the length of the block.

    Yields:
        its base URL (port 0 in the settings takes a free port) and the application.

    Raises:
        ServeError: it did not start.
    """
    settings = settings if settings is not None else ServerSettings(port=0)
    app = create_app(loaders, settings)
    server = _server(app, settings, "warning")
    thread = threading.Thread(target=server.run, name="hyperfunc-serve", daemon=True)
    thread.start()
    try:
        waited = threading.Event()
        while not server.started:
            if not thread.is_alive():
                raise ServeError(f"the server did not start on {settings.host}:{settings.port}")
            waited.wait(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://{settings.host}:{port}", app
    finally:
        server.should_exit = True
        thread.join()
