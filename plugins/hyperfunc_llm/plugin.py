"""What this plugin registers. Imports nothing heavy: everything is an import string."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__ = ["TRANSPORTS"]

TRANSPORTS = {
    "direct": "hyperfunc_llm.transports.direct:DirectTransport",
    "gemini": "hyperfunc_llm.transports.gemini:GeminiTransport",
    "litellm": "hyperfunc_llm.transports.through_litellm:LiteLLMTransport",
}


@hookimpl
def hyperfunc_register_llm_transports(register: Register) -> None:
    for name, target in TRANSPORTS.items():
        register(name, target)
