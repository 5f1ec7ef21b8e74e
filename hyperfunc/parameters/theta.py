"""θ: an immutable mapping ``component.parameter -> tensor | text``, hashed by content.

θ is a value. It is never written into a live function: a program runs *under* it (see :mod:`hyperfunc.binding`), and a
changed θ is another θ. Knows nothing of systems or strategies; files are in :mod:`hyperfunc.parameters.files`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor

from hyperfunc.errors import ParameterTypeError, ShapeError, UnknownParameterError

__all__ = ["JSONValue", "Theta", "ThetaValue", "is_json_value"]

JSONValue = str | int | float | bool | None | list[Any] | dict[str, Any]
ThetaValue = Tensor | JSONValue


def is_json_value(value: object) -> TypeGuard[JSONValue]:
    """Whether ``value`` survives a round trip through JSON unchanged (string keys, no tuples, finite numbers)."""
    if value is None or isinstance(value, (str, bool, int)):
        return True
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    if isinstance(value, list):
        return all(is_json_value(v) for v in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_json_value(v) for k, v in value.items())
    return False


def _freeze(value: ThetaValue) -> ThetaValue:
    if isinstance(value, Tensor):
        return value.detach()
    return json.loads(json.dumps(value)) if isinstance(value, (list, dict)) else value


class Theta(Mapping[str, ThetaValue]):
    """An immutable set of parameter values, in name order.

    Args:
        values: name -> tensor, or text (any JSON value). Tensors are detached, not copied: whoever hands one over
            does not write into it again. :meth:`replace` makes changed copies that share what did not change.

    Raises:
        ParameterTypeError: a value is neither a tensor nor a JSON value.
    """

    __slots__ = ("_hash", "_values")

    def __init__(self, values: Mapping[str, ThetaValue] | None = None) -> None:
        items: dict[str, ThetaValue] = {}
        for name in sorted(values or {}):
            value = (values or {})[name]
            if not isinstance(value, Tensor) and not is_json_value(value):
                raise ParameterTypeError(
                    f"parameter {name!r}: expected a tensor or a JSON value, got {type(value).__name__}"
                )
            items[name] = _freeze(value)
        self._values = items
        self._hash: str | None = None

    def __getitem__(self, name: str) -> ThetaValue:
        try:
            value = self._values[name]
        except KeyError:
            raise KeyError(name) from None
        return _freeze(value) if isinstance(value, (list, dict)) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        parts = [
            f"{name}: {str(v.dtype).removeprefix('torch.')}{list(v.shape)}"
            if isinstance(v, Tensor)
            else f"{name}: {v!r:.40}"
            for name, v in self._values.items()
        ]
        return f"Theta({', '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Theta) and self.content_hash == other.content_hash

    def __hash__(self) -> int:
        return int(self.content_hash[:15], 16)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensor parameters, in name order."""
        return {n: v for n, v in self._values.items() if isinstance(v, Tensor)}

    @property
    def texts(self) -> dict[str, JSONValue]:
        """The text (JSON) parameters, in name order."""
        return {n: self[n] for n, v in self._values.items() if not isinstance(v, Tensor)}  # type: ignore[misc]

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of names, dtypes, shapes and bytes; independent of device and of insertion order."""
        if self._hash is None:
            digest = hashlib.sha256()
            for name, value in self._values.items():
                digest.update(f"{len(name)}:{name}".encode())
                if isinstance(value, Tensor):
                    flat = value.detach().cpu().contiguous()
                    digest.update(f"T{flat.dtype}{list(flat.shape)}".encode())
                    digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
                else:
                    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
                    digest.update(f"J{len(text)}:{text}".encode())
            self._hash = digest.hexdigest()
        return self._hash

    def replace(self, changes: Mapping[str, ThetaValue], *, strict: bool = True) -> Theta:
        """A θ with ``changes`` in place of this one's values.

        Args:
            strict: names must exist, tensors must keep shape and dtype, texts must stay texts.

        Raises:
            UnknownParameterError, ShapeError, ParameterTypeError: only when ``strict``.
        """
        if strict:
            for name, value in changes.items():
                self._check(name, value)
        return Theta({**self._values, **changes})

    def select(self, names: Iterator[str] | list[str] | tuple[str, ...]) -> Theta:
        """The part of θ with these names."""
        return Theta({n: self[n] for n in names})

    def _check(self, name: str, value: ThetaValue) -> None:
        if name not in self._values:
            raise UnknownParameterError(name, self._values)
        old = self._values[name]
        if isinstance(old, Tensor) != isinstance(value, Tensor):
            kinds = {True: "a tensor", False: "a text (JSON value)"}
            raise ParameterTypeError(
                f"parameter {name!r}: expected {kinds[isinstance(old, Tensor)]}, got {kinds[isinstance(value, Tensor)]}"
            )
        if isinstance(old, Tensor) and isinstance(value, Tensor):
            if old.shape != value.shape:
                raise ShapeError(f"parameter {name!r}: expected shape {list(old.shape)}, got {list(value.shape)}")
            if old.dtype != value.dtype:
                raise ParameterTypeError(
                    f"parameter {name!r}: expected dtype {old.dtype}, got {value.dtype}; convert with .to({old.dtype})"
                )
        elif type(old) is not type(value) and not (
            old is None or (isinstance(old, (int, float)) and isinstance(value, (int, float)))
        ):
            raise ParameterTypeError(
                f"parameter {name!r}: expected {type(old).__name__}, got {type(value).__name__} (JSON types are kept)"
            )
