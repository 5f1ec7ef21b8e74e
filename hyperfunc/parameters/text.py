"""Texts and other JSON values that prompt learning may change. Knows nothing of models or of how they are learned."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyperfunc.errors import ParameterError, ParameterTypeError
from hyperfunc.parameters.theta import JSONValue, is_json_value

__all__ = ["TextParam", "slots_of"]

_SLOT = re.compile(r"(?<!\{)\{([A-Za-z_][A-Za-z0-9_]*)\}(?!\})")


def slots_of(text: str) -> frozenset[str]:
    """The names in ``{name}`` slots of a template; doubled braces are literal."""
    return frozenset(_SLOT.findall(text))


@dataclass(frozen=True)
class TextParam:
    """A text (or any JSON value) of a component.

    Args:
        value: the initial value; its JSON type is kept by every change.
        description: what the text is for, in words that a model can act on. Mandatory when ``trainable``.
        trainable: whether prompt optimizers may change it.

    Raises:
        ParameterError: trainable without a description.
        ParameterTypeError: the value is not a JSON value.
    """

    value: JSONValue
    description: str = ""
    trainable: bool = True

    def __post_init__(self) -> None:
        if not is_json_value(self.value):
            raise ParameterTypeError(f"TextParam: expected a JSON value, got {type(self.value).__name__}")
        if self.trainable and not self.description.strip():
            raise ParameterError(
                "TextParam: a trainable text needs a description (an optimizer reads it); "
                "pass description='…', or trainable=False to freeze it"
            )
