"""From a signature and values to messages, and from a reply to typed values. Knows nothing of models or endpoints.

Rendering is a pure function of its arguments. Reading is tolerant of wrapping only (fences, prose around JSON), never
of content: a value that does not validate is the model's mistake, and the message says which field and why.
"""

from __future__ import annotations

import functools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hyperfunc.errors import ConfigurationError
from hyperfunc_llm.errors import OutputValidationError
from hyperfunc_llm.structured import parse_json
from hyperfunc_prompts.signatures import Signature

__all__ = ["Adapter", "ChatAdapter", "JSONAdapter", "adapter_named"]

Messages = list[dict[str, Any]]
_MARKER = re.compile(r"^[ \t]*\[\[ ## (\w+) ## \]\][ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"\A```\w*[ \t]*\n(.*?)\n?```\Z", re.DOTALL)


@functools.lru_cache(maxsize=512)
def _validator(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def validate(name: str, kind: Any, value: Any, content: str) -> Any:
    """``value`` as a ``kind``.

    Raises:
        OutputValidationError: it is none.
    """
    try:
        return _validator(kind).validate_python(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, d['loc'])) or 'value'}: {d['msg']}" for d in error.errors())
        raise OutputValidationError(f"field {name!r} does not fit its type: {problems}", content=content) from None


def as_json_value(kind: Any, value: Any) -> Any:
    """``value`` in JSON's types; sets are sorted, so that equal values give equal texts in every process."""
    if isinstance(value, (set, frozenset)):
        return sorted((as_json_value(Any, item) for item in value), key=repr)
    return _validator(kind).dump_python(value, mode="json", warnings=False)


def as_text(kind: Any, value: Any) -> str:
    """``value`` for a model to read: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(as_json_value(kind, value), ensure_ascii=False)


class Adapter(ABC):
    """One way to lay out a call. Adapters keep no state."""

    def messages(
        self,
        signature: type[Signature],
        instructions: str,
        demos: Sequence[Mapping[str, Any]],
        inputs: Mapping[str, Any],
    ) -> Messages:
        """System message, a pair of messages per demo, and the inputs.

        Args:
            instructions: the task text in use (the learned one, not necessarily the docstring).
            demos: examples with values by field name; outputs that a demo lacks are left out of it.
        """
        system = "\n\n".join(part for part in (instructions, self.layout(signature)) if part)
        messages: Messages = [{"role": "system", "content": system}]
        for demo in demos:
            messages.append({"role": "user", "content": self.values(signature, demo, list(signature.input_fields()))})
            shown = [name for name in signature.output_fields() if name in demo]
            messages.append({"role": "assistant", "content": self.values(signature, demo, shown)})
        messages.append({"role": "user", "content": self.values(signature, inputs, list(signature.input_fields()))})
        return messages

    def request_params(self, signature: type[Signature]) -> dict[str, Any]:
        """Request parameters that this layout needs."""
        return {}

    @abstractmethod
    def layout(self, signature: type[Signature]) -> str:
        """What the model is told about the form of inputs and outputs."""

    @abstractmethod
    def values(self, signature: type[Signature], values: Mapping[str, Any], names: Sequence[str]) -> str:
        """The named fields with their values."""

    @abstractmethod
    def read(self, signature: type[Signature], reply: str) -> dict[str, Any]:
        """Typed outputs of a reply, in the signature's order.

        Raises:
            OutputValidationError: a field is missing or does not fit its type.
        """


class ChatAdapter(Adapter):
    """Fields under lines ``[[ ## name ## ]]``. A reply without any such line is the value of a single output."""

    def layout(self, signature: type[Signature]) -> str:
        form = "\n".join(f"[[ ## {name} ## ]]\n{{{name}}}" for name in signature.output_fields())
        inputs = [signature.describe(name) for name in signature.input_fields()]
        outputs = [signature.describe(name) for name in signature.output_fields()]
        parts = [["Inputs:", *inputs]] if inputs else []
        parts += [["Outputs:", *outputs], ["Reply in exactly this form:", form]]
        return "\n\n".join("\n".join(part) for part in parts)

    def values(self, signature: type[Signature], values: Mapping[str, Any], names: Sequence[str]) -> str:
        types = signature.types()
        return "\n\n".join(f"[[ ## {name} ## ]]\n{as_text(types[name], values.get(name))}" for name in names)

    def read(self, signature: type[Signature], reply: str) -> dict[str, Any]:
        outputs = list(signature.output_fields())
        pieces = _MARKER.split(reply)
        found = dict(zip(pieces[1::2], pieces[2::2], strict=True))
        if not found and len(outputs) == 1:
            found = {outputs[0]: reply}
        missing = [name for name in outputs if name not in found]
        if missing:
            raise OutputValidationError(f"the reply has no line [[ ## {missing[0]} ## ]]", content=reply)
        types = signature.types()
        return {name: _read_value(name, types[name], found[name].strip(), reply) for name in outputs}


class JSONAdapter(Adapter):
    """One JSON object each way; the reply's schema goes with the request."""

    def layout(self, signature: type[Signature]) -> str:
        fields = [signature.describe(name) for name in signature.input_fields()]
        outputs = [signature.describe(name) for name in signature.output_fields()]
        parts = [["Inputs, as a JSON object:", *fields]] if fields else []
        parts += [["Reply with one JSON object and nothing else. Its members:", *outputs]]
        return "\n\n".join("\n".join(part) for part in parts)

    def values(self, signature: type[Signature], values: Mapping[str, Any], names: Sequence[str]) -> str:
        types = signature.types()
        shown = {name: as_json_value(types[name], values.get(name)) for name in names}
        return json.dumps(shown, ensure_ascii=False)

    def request_params(self, signature: type[Signature]) -> dict[str, Any]:
        # Each schema keeps its own $defs; moved up, where "#/$defs/…" points to.
        properties: dict[str, Any] = {}
        definitions: dict[str, Any] = {}
        for name in signature.output_fields():
            schema = _validator(signature.types()[name]).json_schema()
            definitions.update(schema.pop("$defs", {}))
            properties[name] = schema
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        if definitions:
            schema["$defs"] = definitions
        name = re.sub(r"\W", "_", signature.__name__)[:64]
        return {
            "response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": False}}
        }

    def read(self, signature: type[Signature], reply: str) -> dict[str, Any]:
        value = parse_json(reply)
        if not isinstance(value, dict):
            raise OutputValidationError(f"expected a JSON object, got {type(value).__name__}", content=reply)
        missing = [name for name in signature.output_fields() if name not in value]
        if missing:
            raise OutputValidationError(f"the reply's JSON has no member {missing[0]!r}", content=reply)
        types = signature.types()
        return {name: validate(name, types[name], value[name], reply) for name in signature.output_fields()}


def _read_value(name: str, kind: Any, text: str, reply: str) -> Any:
    if kind is str:
        return text
    fenced = _FENCE.match(text)
    bare = fenced.group(1).strip() if fenced else text
    try:
        value = parse_json(bare)
    except OutputValidationError:
        value = bare
    try:
        return validate(name, kind, value, reply)
    except OutputValidationError:
        if isinstance(value, str):
            raise
        return validate(name, kind, bare, reply)  # text that happens to be JSON: "42" where letters were meant


_ADAPTERS: Mapping[str, type[Adapter]] = {"chat": ChatAdapter, "json": JSONAdapter}


def adapter_named(adapter: str | Adapter) -> Adapter:
    """An adapter by its name, ``"chat"`` or ``"json"``; an adapter as it is."""
    if isinstance(adapter, Adapter):
        return adapter
    if adapter not in _ADAPTERS:
        raise ConfigurationError(f"adapter: expected one of {', '.join(sorted(_ADAPTERS))}, got {adapter!r}")
    return _ADAPTERS[adapter]()
