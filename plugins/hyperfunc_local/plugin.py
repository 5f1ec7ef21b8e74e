"""What this plugin registers: the Llama family, under the names that model configurations use. Imports nothing
heavy."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_model_families(register: Register) -> None:
    for architecture in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        register(architecture, "hyperfunc_local.models.causal:Llama.from_hf")
