"""Registers the exporter ``json``."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_exporters(register: Register) -> None:
    register("json", "hyperfunc_json.exporter:JSONExporter")
