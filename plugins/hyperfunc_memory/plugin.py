"""What this plugin registers. Imports no database driver."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_memory_backends(register: Register) -> None:
    register("sqlite", "hyperfunc_memory.sqlite_backend:open_sqlite")
    register("postgresql", "hyperfunc_memory.postgres_backend:PostgresBackend")
    register("postgres", "hyperfunc_memory.postgres_backend:PostgresBackend")
