"""Bodies of requests. Unknown fields are ignored, as clients of other servers send many; what would change the answer
and is not supported is refused, never ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BatchGenerateBody",
    "BatchTokenizeBody",
    "ChatBody",
    "CompletionBody",
    "GenerateBody",
    "TokenizeBody",
]

Ids = list[Annotated[int, Field(ge=0, le=2**31 - 1)]]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


class Body(BaseModel):
    """Strict types (no number for a text), unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Decoding(Body):
    """Fields that choose tokens, in every kind of request. ``None``: not set."""

    temperature: Finite | None = None
    top_p: Finite | None = None
    top_k: int | None = None
    min_p: Finite | None = None
    repetition_penalty: Finite | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: Seed | None = None
    stop: str | list[str] | None = None


class StreamOptions(Body):
    include_usage: bool = False


class JsonSchema(Body):
    name: str = "answer"
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class OpenAIBody(Decoding):
    """What both OpenAI routes share."""

    model: str | None = None
    n: int | None = Field(default=None, ge=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Finite | None = None
    frequency_penalty: Finite | None = None
    logit_bias: dict[str, Finite] | None = None
    ignore_eos: bool | None = None
    response_format: ResponseFormat | None = None


class CompletionBody(OpenAIBody):
    """``POST /v1/completions``."""

    prompt: str | list[str] | Ids | list[Ids]
    logprobs: int | None = Field(default=None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(OpenAIBody):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    tools: list[Any] | None = None
    functions: list[Any] | None = None


class TokenizeBody(Body):
    """``POST /tokenize``."""

    text: str
    model: str | None = None


class BatchTokenizeBody(Body):
    """``POST /batch/tokenize``."""

    texts: list[str] = Field(min_length=1)
    model: str | None = None


class GenerateOptions(Decoding):
    model: str | None = None
    strategy: Literal["greedy", "top_k", "top_p", "sample"] = "greedy"


class GenerateBody(GenerateOptions):
    """``POST /generate`` and ``POST /stream/generate``."""

    prompt: str = Field(min_length=1)


class BatchGenerateBody(GenerateOptions):
    """``POST /batch/generate``. Prompts are checked one by one: a bad one does not spoil the others."""

    prompts: list[str] = Field(min_length=1)
