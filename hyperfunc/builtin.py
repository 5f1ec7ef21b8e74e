"""What core itself registers, through the same hooks as everybody else. Imports nothing heavy."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_agent_types(register: Register) -> None:
    register("flow", "hyperfunc.agents:Flow")


@hookimpl
def hyperfunc_register_strategies(register: Register) -> None:
    evolution = "hyperfunc.evolution"
    register("eggroll", f"{evolution}.eggroll:Eggroll")
    register("openai-es", f"{evolution}.openai_es:OpenAIES")
    register("pgpe", f"{evolution}.pgpe:PGPE")
    register("snes", f"{evolution}.snes:SNES")
    register("sep-cma-es", f"{evolution}.sep_cma_es:SepCMAES")
    register("cma-es", f"{evolution}.cma_es:CMAES")
    register("ipop-cma-es", f"{evolution}.ipop_cma_es:IPOPCMAES")


@hookimpl
def hyperfunc_register_scorers(register: Register) -> None:
    for name, attribute in {
        "exact-match": "ExactMatch",
        "numeric-distance": "NumericDistance",
        "classification-accuracy": "ClassificationAccuracy",
        "contains-match": "ContainsMatch",
        "regex-match": "RegexMatch",
        "composite": "CompositeScorer",
        "mean-squared-error": "MeanSquaredError",
        "cross-entropy": "CrossEntropy",
        "accuracy": "Accuracy",
    }.items():
        register(name, f"hyperfunc.evaluation.scorers:{attribute}")


@hookimpl
def hyperfunc_register_cli_commands(register: Register) -> None:
    register("plugins", "hyperfunc.cli.plugins:app", summary="List, check and start plugins.")
    register("runs", "hyperfunc.cli.runs:app", summary="List, show, compare, export and prune runs.")
    register("report", "hyperfunc.cli.runs_report:report", summary="Write a run's report as one HTML page.")
    register("graph", "hyperfunc.cli.runs_report:graph", summary="Draw a run's call graph.")
    register("gate", "hyperfunc.cli.gate:gate", summary="Judge a candidate for CI by its exit code.")
    register("replay", "hyperfunc.cli.runs_replay:replay", summary="Run one example again without a paid call.")
    register("resume", "hyperfunc.cli.runs_replay:resume", summary="Take a run up where it was last kept.")
