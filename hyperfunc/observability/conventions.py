"""Names of spans, attributes and metrics, as literals.

The ``gen_ai.*`` names are those of the OpenTelemetry semantic conventions 1.41 to 1.44, which viewers understand; they
moved to a repository of their own since, and the Python constants are deprecated, hence this file. Everything that
they do not cover is ``hyperfunc.*``.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BUCKETS_SECONDS",
    "BUCKETS_TOKENS",
    "CALL_METADATA",
    "CLIENT_OPERATION_DURATION",
    "CLIENT_TOKEN_USAGE",
    "CONVERSATION_ID",
    "ERROR_TYPE",
    "FITNESS",
    "GEN_AI_PREFIX",
    "HYPERFUNC_PREFIX",
    "INPUT_VALUE",
    "OPENINFERENCE_KIND",
    "OPERATION_NAME",
    "OUTPUT_VALUE",
    "PROVIDER_NAME",
    "REQUEST_MODEL",
    "REQUEST_TEMPERATURE",
    "REQUEST_TOP_P",
    "RESPONSE_FINISH_REASONS",
    "RESPONSE_MODEL",
    "SCOPE_NAME",
    "SERVICE_NAME",
    "SESSION_ID",
    "SPAN_KINDS",
    "TOKEN_TYPE",
    "TOOL_NAME",
    "USAGE_CACHE_READ_INPUT_TOKENS",
    "USAGE_INPUT_TOKENS",
    "USAGE_OUTPUT_TOKENS",
    "USAGE_REASONING_OUTPUT_TOKENS",
    "WORKFLOW_NAME",
]

SCOPE_NAME: Final = "hyperfunc"
SERVICE_NAME: Final = "service.name"
ERROR_TYPE: Final = "error.type"
SESSION_ID: Final = "session.id"

GEN_AI_PREFIX: Final = "gen_ai."
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
WORKFLOW_NAME: Final = "gen_ai.workflow.name"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
TOOL_NAME: Final = "gen_ai.tool.name"
TOKEN_TYPE: Final = "gen_ai.token.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
USAGE_CACHE_READ_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
USAGE_REASONING_OUTPUT_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"

CLIENT_TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # {token}, histogram
CLIENT_OPERATION_DURATION: Final = "gen_ai.client.operation.duration"  # s, histogram
FITNESS: Final = "hyperfunc.fitness"  # {fitness}, gauge; attribute hyperfunc.statistic

HYPERFUNC_PREFIX: Final = "hyperfunc."

OPENINFERENCE_KIND: Final = "openinference.span.kind"  # what Phoenix names and colours its rows by
INPUT_VALUE: Final = "input.value"
OUTPUT_VALUE: Final = "output.value"

SPAN_KINDS: Final = {"run": "CHAIN", "generation": "CHAIN", "evaluation": "CHAIN", "call": "TOOL", "llm": "LLM"}
"""The kind of each of our spans in the vocabulary of OpenInference."""

CALL_METADATA: Final = {
    "model": RESPONSE_MODEL,
    "request_model": REQUEST_MODEL,
    "provider": PROVIDER_NAME,
    "operation": OPERATION_NAME,
    "temperature": REQUEST_TEMPERATURE,
    "top_p": REQUEST_TOP_P,
    "max_tokens": "gen_ai.request.max_tokens",
    "seed": "gen_ai.request.seed",
    "response_id": "gen_ai.response.id",
    "finish_reason": RESPONSE_FINISH_REASONS,
    "conversation": CONVERSATION_ID,
}
"""Keys of ``Call.metadata`` -> attributes. Keys that begin with ``gen_ai.`` are attributes already; others become
``hyperfunc.call.KEY``."""

BUCKETS_TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
BUCKETS_SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Bucket boundaries that the conventions prescribe for the two histograms."""
