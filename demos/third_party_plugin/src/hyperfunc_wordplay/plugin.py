"""What this plugin registers. Imports neither torch nor anything else that is heavy: all five are import strings."""

from __future__ import annotations

from hyperfunc import hookimpl
from hyperfunc.hookspecs import Register

__all__: list[str] = []


@hookimpl
def hyperfunc_register_agent_types(register: Register) -> None:
    register("second-thought", "hyperfunc_wordplay.second_thought:SecondThought", summary="A draft, then a rewrite.")


@hookimpl
def hyperfunc_register_scorers(register: Register) -> None:
    register("edit-similarity", "hyperfunc_wordplay.edit_similarity:EditSimilarity")


@hookimpl
def hyperfunc_register_strategies(register: Register) -> None:
    register("hill-climb", "hyperfunc_wordplay.hill_climb:HillClimb")


@hookimpl
def hyperfunc_register_memory_backends(register: Register) -> None:
    register("ram", "hyperfunc_wordplay.ram_memory:RAMBackend")


@hookimpl
def hyperfunc_register_exporters(register: Register) -> None:
    register("csv", "hyperfunc_wordplay.csv_exporter:CSVExporter")
