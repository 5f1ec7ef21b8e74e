"""A short text that tells a reader what a value is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

__all__ = ["PREVIEW_CHARACTERS", "preview"]

PREVIEW_CHARACTERS = 400


def preview(value: Any) -> str:
    """A short text that tells a reader what ``value`` is; tensors by dtype and shape."""
    text = value if isinstance(value, str) else repr(_shown(value))
    return text if len(text) <= PREVIEW_CHARACTERS else f"{text[:PREVIEW_CHARACTERS]}… ({len(text)} characters)"


class _Words(str):
    def __repr__(self) -> str:
        return str(self)


def _shown(value: Any, depth: int = 0) -> Any:
    if isinstance(value, Tensor):
        return _Words(f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}")
    if depth < 4 and isinstance(value, Mapping):
        return {key: _shown(item, depth + 1) for key, item in list(value.items())[:20]}
    if depth < 4 and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_shown(item, depth + 1) for item in value[:20]]
    if isinstance(value, str):
        return value[:PREVIEW_CHARACTERS]
    return value if value is None or isinstance(value, (bool, int, float)) else _Words(repr(value)[:PREVIEW_CHARACTERS])
