"""Keys that cannot be printed, and texts from which keys are removed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from hyperfunc.errors import ConfigurationError

__all__ = ["SecretKey", "find_key", "redact"]

# What keys look like when a provider echoes one that we did not send, or a shortened one.
_KEY_LIKE = re.compile(r"\b(?:sk|pk|rk|gsk|xai|key)[-_][A-Za-z0-9_*.\-]{6,}|\bAIza[A-Za-z0-9_\-]{10,}", re.ASCII)


class SecretKey:
    """An API key. Printing, pickling and comparing it never show it; :meth:`reveal` does."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "SecretKey(***)"

    __str__ = __repr__

    def __reduce__(self) -> tuple[object, ...]:
        raise ConfigurationError("an API key may not be pickled; name its environment variable in the other process")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretKey) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


_VARIABLES = {"gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"), "together_ai": ("TOGETHERAI_API_KEY",)}


def find_key(variable: str | None, provider: str) -> SecretKey | None:
    """The key in the environment variable ``variable``, or in the provider's usual one; ``None`` where there is none.

    Raises:
        ConfigurationError: ``variable`` is named and not set.
    """
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise ConfigurationError(f"the environment variable {variable} should hold an API key and is not set")
        return SecretKey(value)
    for name in _VARIABLES.get(provider, (f"{provider.upper()}_API_KEY",)):
        if value := os.environ.get(name):
            return SecretKey(value)
    return None


def redact(text: str, keys: Iterable[SecretKey | None] = ()) -> str:
    """``text`` with ``keys``, and anything that looks like a key, replaced by ``***``."""
    for key in keys:
        if key is not None and len(key.reveal()) >= 4:
            text = text.replace(key.reveal(), "***")
    return _KEY_LIKE.sub("***", text)
