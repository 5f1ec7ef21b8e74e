"""sqlite-vec: vectors compared inside SQLite. Where it can be loaded, and what is asked of it.

Vectors stay ordinary BLOBs that every SQLite can read and write; only the comparing function comes from the extension.
Many Pythons (pyenv's, Apple's) are built without ``enable_load_extension``. There its entry point is registered with
the SQLite library that Python uses, which then initialises it for each new connection: what SQLite offers to programs
that link an extension statically (https://sqlite.org/c3ref/auto_extension.html). Knows nothing of memories' tables.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["Connection", "load_into", "offered_to_new_connections", "why_not"]

_registering = threading.Lock()


def _in_a_forked_child() -> None:
    global _registering
    _registering = threading.Lock()  # whoever held it does not live here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_a_forked_child)


class Connection(sqlite3.Connection):
    """A connection that knows whether it can compare vectors."""

    compares_vectors = False


@cache
def _extension() -> Any:
    """The module ``sqlite_vec``; ``None`` if it is not installed."""
    try:
        import sqlite_vec  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        return None
    return sqlite_vec


@contextmanager
def offered_to_new_connections() -> Iterator[None]:
    """Connections opened in the block have the extension, where that is the way to load it."""
    library = None if hasattr(sqlite3.Connection, "enable_load_extension") else _sqlite_library()
    if library is None or _extension() is None:
        yield
        return
    entry = _entry_point()
    with _registering:  # one that leaves takes the registration with it
        library.sqlite3_auto_extension(entry)
        try:
            yield
        finally:
            library.sqlite3_cancel_auto_extension(entry)


def load_into(connection: Connection) -> None:
    """Load the extension, if it is not there yet and can be loaded."""
    extension = _extension()
    if extension is not None and hasattr(connection, "enable_load_extension"):
        try:
            connection.enable_load_extension(True)
            try:
                connection.load_extension(extension.loadable_path())
            finally:
                connection.enable_load_extension(False)
        except sqlite3.Error:
            return
    try:
        connection.execute("SELECT vec_version()")
    except sqlite3.OperationalError:
        return
    connection.compares_vectors = True


def why_not() -> str:
    """Why a connection has no extension, and what to do."""
    if _extension() is None:
        return "sqlite-vec is not installed; install hyperfunc[vectors]"
    return "this Python's SQLite cannot load extensions; use a Python whose sqlite3 can, or PostgreSQL with pgvector"


@cache
def _sqlite_library() -> Any:
    """The SQLite library that the module ``sqlite3`` uses; ``None`` where it cannot be had, or takes no extensions."""
    path = getattr(sys.modules.get("_sqlite3"), "__file__", None)
    if path is None:  # built into the interpreter
        return None
    connection = sqlite3.connect(":memory:")
    try:
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
    finally:
        connection.close()
    if "OMIT_LOAD_EXTENSION" in options or "OMIT_AUTOINIT" in options:
        return None
    try:
        library = ctypes.CDLL(path)
        library.sqlite3_auto_extension.argtypes = [ctypes.c_void_p]
        library.sqlite3_cancel_auto_extension.argtypes = [ctypes.c_void_p]
    except (OSError, AttributeError):
        return None
    return library


@cache
def _entry_point() -> int:
    """The address of the extension's ``sqlite3_vec_init``."""
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    library = ctypes.CDLL(f"{_extension().loadable_path()}{suffix}")
    address = ctypes.cast(library.sqlite3_vec_init, ctypes.c_void_p).value
    assert address is not None
    return address
