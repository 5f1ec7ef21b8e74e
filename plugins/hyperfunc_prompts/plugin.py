"""What this plugin registers. Imports nothing heavy: everything is an import string."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_prompt_optimizers(register: Register) -> None:
    for name, target in {
        "prompt-learning": "learning:PromptLearningOptimizer",
        "bootstrap-demos": "demos:BootstrapDemos",
        "reflective-pareto": "pareto:ReflectivePareto",
        "noop": "noop:NoOpPromptOptimizer",
    }.items():
        register(name, f"hyperfunc_prompts.{target}")
