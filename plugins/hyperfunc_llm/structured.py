"""Structured output: a schema for the request, a tolerant reader for the reply, validation by pydantic.

Tolerant of wrapping only (a Markdown fence, a sentence before or after), never of content: a value that does not
validate is the model's mistake, to be sent back to it. Knows nothing of how requests are sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from hyperfunc.errors import ConfigurationError, MissingDependencyError
from hyperfunc_llm.errors import ContentError, OutputValidationError
from hyperfunc_llm.types import LLMResponse, Message

__all__ = ["OutputType", "parse_json", "repair_messages"]

_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)```", re.DOTALL)
_START = re.compile(r'{\s*["}]|\[\s*["{\[\]\dtfn-]')  # a brace in prose is followed by something else
_DECODER = json.JSONDecoder()


def parse_json(text: str) -> Any:
    """The JSON value in a model's reply: the whole text, else a fenced block, else the first object or array in it.

    Raises:
        OutputValidationError: there is none.
    """
    for candidate in _candidates(text):
        try:
            return json.loads(candidate)
        except ValueError:
            continue
    start = _START.search(text)
    if start is not None:
        try:
            return _DECODER.raw_decode(text, start.start())[0]
        except ValueError:
            pass  # what follows would be a part of a broken value
    raise OutputValidationError(f"expected JSON, got: {text[:200]!r}", content=text)


def _candidates(text: str) -> Iterator[str]:
    yield text
    yield from _FENCE.findall(text)


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> Any:
    try:
        from pydantic import TypeAdapter
    except ImportError:
        raise MissingDependencyError("pydantic", "llm") from None
    try:
        return TypeAdapter(kind)
    except Exception as error:  # pydantic raises several kinds for types that it cannot handle
        raise ConfigurationError(f"response_model: {kind!r} is no type that pydantic can validate: {error}") from error


class OutputType:
    """A type that replies must have: a pydantic model, a dataclass, or any annotation that pydantic knows."""

    def __init__(self, kind: Any) -> None:
        self._adapter = _adapter(kind)
        self._name = re.sub(r"\W", "_", getattr(kind, "__name__", "output"))[:64]

    def response_format(self) -> dict[str, Any]:
        """The request parameter that asks for this type."""
        schema = self._adapter.json_schema()
        return {"type": "json_schema", "json_schema": {"name": self._name, "schema": schema, "strict": False}}

    def judge(self, response: LLMResponse) -> LLMResponse:
        """``response`` with ``parsed`` set.

        Raises:
            OutputValidationError: it does not validate; ``partial`` holds the top-level fields that do.
        """
        if response.tool_calls and not response.content:
            return response
        return self.validate(parse_json(response.content), response)

    def read(self, response: LLMResponse) -> dict[str, Any]:
        """The JSON object in ``response``, not validated.

        Raises:
            OutputValidationError: there is no JSON, or no object.
        """
        value = parse_json(response.content)
        if not isinstance(value, dict):
            raise OutputValidationError(
                f"expected a JSON object, got: {response.content[:200]!r}", content=response.content
            )
        return value

    def validate(self, value: Any, response: LLMResponse) -> LLMResponse:
        """``response`` with ``value``, validated, as ``parsed``; raises as :meth:`judge`."""
        from pydantic import ValidationError

        try:
            return replace(response, parsed=self._adapter.validate_python(value))
        except ValidationError as error:
            wrong = {str(detail["loc"][0]) for detail in error.errors() if detail["loc"]}
            partial = {k: v for k, v in value.items() if k not in wrong} if isinstance(value, dict) else {}
            lines = [f"{'.'.join(map(str, d['loc'])) or 'value'}: {d['msg']}" for d in error.errors()]
            text = f"the output does not fit {self._name}: {'; '.join(lines)}"
        raise OutputValidationError(text, content=response.content, partial=partial)


def repair_messages(messages: Sequence[Message], error: ContentError) -> list[Mapping[str, Any]]:
    """``messages``, the rejected reply, and what was wrong with it."""
    if not isinstance(error, OutputValidationError):
        return list(messages)
    complaint = f"{error}\n\nAnswer again with the corrected JSON only."
    return [*messages, {"role": "assistant", "content": error.content}, {"role": "user", "content": complaint}]
