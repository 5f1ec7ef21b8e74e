"""Registers the exporter ``otlp``."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_exporters(register: Register) -> None:
    register("otlp", "hyperfunc_otlp.exporter:OTLPExporter")
