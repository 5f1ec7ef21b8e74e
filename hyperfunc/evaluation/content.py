"""Content hashes of example values: equal content gives equal digests in any process. Knows nothing of examples.

Values are fed to BLAKE2b with their type and length in front, so that no two different values share one encoding
(``1``, ``1.0``, ``True`` and ``"1"`` all differ; a list and a tuple of equal items differ).
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time
from enum import Enum
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch

from hyperfunc.errors import EvaluationError

__all__ = ["content_digest"]

_DIGEST_BYTES = 16


def content_digest(*values: Any) -> str:
    """Hex digest (32 characters) of ``values``.

    Understood: ``None``, booleans, numbers, strings, bytes, enums, dates, paths, tensors, arrays, dataclasses,
    functions and classes that live at module level (by their dotted name), and mappings, lists, tuples and sets of
    these. The order of a mapping's keys does not count.

    Raises:
        EvaluationError: a value of another type, whose content this function cannot know.
    """
    return _digest(values).hex()


def _digest(value: Any) -> bytes:
    hasher = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    _feed(hasher, value)
    return hasher.digest()


def _put(hasher: hashlib.blake2b, kind: str, payload: bytes) -> None:
    hasher.update(f"{kind}:{len(payload)};".encode())
    hasher.update(payload)


def _feed(hasher: hashlib.blake2b, value: Any) -> None:
    match value:
        case None:
            _put(hasher, "none", b"")
        case Enum():
            _put(hasher, "enum", _dotted_name(type(value)).encode())
            _feed(hasher, value.name)
        case bool() | np.bool_():
            _put(hasher, "bool", b"1" if value else b"0")
        case int() | np.integer():
            _put(hasher, "int", str(int(value)).encode())
        case float() | np.floating():
            # Every NaN is one value here: files keep neither its sign nor its payload.
            _put(hasher, "float", struct.pack("<d", math.nan if math.isnan(value) else float(value)))
        case complex():
            _put(hasher, "complex", struct.pack("<dd", value.real, value.imag))
        case str():
            _put(hasher, "str", value.encode("utf-8", "surrogatepass"))
        case bytes() | bytearray():
            _put(hasher, "bytes", bytes(value))
        case torch.Tensor():
            _put(hasher, "tensor", f"{value.dtype}{tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            _put(hasher, "data", flat.view(torch.uint8).numpy().tobytes())
        case np.ndarray() if value.dtype != object:
            _put(hasher, "array", f"{value.dtype.str}{value.shape}".encode())
            _put(hasher, "data", np.ascontiguousarray(value).tobytes())
        case datetime() | date() | time():
            _put(hasher, type(value).__name__, value.isoformat().encode())
        case PurePath():
            _put(hasher, "path", value.as_posix().encode())
        case Mapping():
            # Keys of mixed types cannot be sorted; their digests can.
            entries = _sorted(value)
            _put(hasher, "mapping", str(len(entries)).encode())
            for key_digest, item in entries:
                hasher.update(key_digest)
                _feed(hasher, item)
        case Set():
            members = sorted(_digest(item) for item in value)
            _put(hasher, "set", b"".join(members))
        case list() | tuple():
            _put(hasher, "list" if isinstance(value, list) else "tuple", str(len(value)).encode())
            for item in value:
                _feed(hasher, item)
        case type() | FunctionType() | BuiltinFunctionType():
            _put(hasher, "name", _dotted_name(value).encode())
        case _ if is_dataclass(value) and not isinstance(value, type):
            _put(hasher, "dataclass", _dotted_name(type(value)).encode())
            _feed(hasher, {field.name: getattr(value, field.name) for field in fields(value)})
        case _:
            raise EvaluationError(
                f"cannot hash the content of a {type(value).__qualname__}; expected None, numbers, strings, bytes, "
                "tensors, arrays, dataclasses, or mappings and sequences of these. Give the example its own id="
            )


def _sorted(mapping: Mapping[Any, Any]) -> list[tuple[bytes, Any]]:
    return sorted(((_digest(key), item) for key, item in mapping.items()), key=lambda entry: entry[0])


def _dotted_name(thing: Any) -> str:
    name = f"{thing.__module__}.{thing.__qualname__}"
    if "<" in thing.__qualname__:  # <locals> and <lambda>: two different ones share this name
        raise EvaluationError(
            f"cannot hash {name}, which has no lasting name; move it to module level or give the example its own id="
        )
    return name
