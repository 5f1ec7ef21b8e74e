"""Strategy states as tensors plus JSON, and back, bit for bit; no pickle, so a file cannot run code.

A state is made of frozen dataclasses, dicts, lists, tuples, tensors, dtypes, strings, booleans, integers, floats and
``None``. Tensors go into a flat dictionary (ready for safetensors: contiguous, on the CPU, no shared storage); all else
into a JSON value that names them. Which dataclasses may be built when loading is the strategy's ``state_types``. Knows
nothing of files.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ResumeError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec

__all__ = ["JSONObject", "dump_state", "load_state"]

JSONObject = dict[str, Any]

StateT = TypeVar("StateT")

_FORMAT = 1


def dump_state(state: object) -> tuple[dict[str, Tensor], JSONObject]:
    """A state as ``(tensors by path, JSON object)``.

    Raises:
        ConfigurationError: the state holds something that is none of the kinds above; names where.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, {"format": _FORMAT, "state": _encode(state, "state", tensors)}


def load_state(
    strategy: Strategy[StateT],
    tensors: Mapping[str, Tensor],
    meta: JSONObject,
    *,
    device: torch.device | str | None = None,
) -> StateT:
    """The state that :func:`dump_state` wrote, for the strategy that made it.

    Args:
        device: where centre tensors go; by default where they were, and where that no longer exists, pass one.

    Raises:
        ResumeError: another format, a tensor is missing, or the state is not one of this strategy's.
    """
    if meta.get("format") != _FORMAT:
        raise ResumeError(f"strategy state: expected format {_FORMAT}, got {meta.get('format')!r}")
    types: dict[str, type] = {t.__name__: t for t in (ParameterGroup, ParameterSpec, *strategy.state_types)}
    state: Any = _decode(meta["state"], tensors, types, device)
    if not isinstance(state, strategy.state_types[:1]):
        raise ResumeError(
            f"strategy state: strategy {strategy.name!r} expects {strategy.state_types[0].__name__}, "
            f"got {type(state).__name__}; resume with the strategy that the run began with"
        )
    return cast(StateT, state)


def _encode(value: object, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path, "device": str(value.device)}
    if value is None or isinstance(value, (bool, str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: _encode(getattr(value, f.name), f"{path}.{f.name}", tensors) for f in dataclasses.fields(value)
        }
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, Mapping):
        return {"items": [[_encode(k, path, tensors), _encode(v, f"{path}.{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        encoded = [_encode(v, f"{path}.{i}", tensors) for i, v in enumerate(value)]
        return {"tuple": encoded} if isinstance(value, tuple) else encoded
    raise ConfigurationError(
        f"{path}: expected tensors, numbers, strings, dicts, lists, tuples or dataclasses in a strategy's state, "
        f"got {type(value).__name__}"
    )


def _decode(
    value: Any, tensors: Mapping[str, Tensor], types: Mapping[str, type], device: torch.device | str | None
) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors, types, device) for v in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        if value["tensor"] not in tensors:
            raise ResumeError(f"strategy state: the tensor {value['tensor']!r} is missing; the file is incomplete")
        original = value["device"]
        target = original if device is None or original == "cpu" else device
        return tensors[value["tensor"]].to(target).clone()
    if "float" in value:
        return float(value["float"])
    if "dtype" in value:
        return getattr(torch, value["dtype"])
    if "items" in value:
        pairs = value["items"]
        return {_decode(k, tensors, types, device): _decode(v, tensors, types, device) for k, v in pairs}
    if "tuple" in value:
        return tuple(_decode(v, tensors, types, device) for v in value["tuple"])
    if value.get("class") not in types:
        raise ResumeError(
            f"strategy state: expected one of {', '.join(sorted(types))}, got {value.get('class')!r}; "
            "resume with the strategy that the run began with"
        )
    fields = {k: _decode(v, tensors, types, device) for k, v in value["fields"].items()}
    return types[value["class"]](**fields)
