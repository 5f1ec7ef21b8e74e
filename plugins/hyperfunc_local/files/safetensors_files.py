"""Hugging Face model directories: ``config.json`` and one or many safetensors files, memory-mapped.

Nothing is fetched and nothing is unpickled. Knows the layout of the directory, not what the weights mean.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc_local.errors import (
    FileFormatError,
    MissingTensorError,
    ModelFileError,
    TruncatedFileError,
    UnexpectedTensorError,
)

__all__ = ["check_shapes", "read_json", "read_safetensors", "write_safetensors"]

_INDEX = "model.safetensors.index.json"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelFileError: there is no such file.
        FileFormatError: it is not a JSON object.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; a model directory holds config.json and *.safetensors") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileFormatError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise FileFormatError(f"{path}: expected a JSON object, got {type(data).__name__}")
    return data


def read_safetensors(directory: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The weights named in ``shapes`` from a directory's safetensors files; other tensors are ignored where harmless.

    Raises:
        ModelFileError: no safetensors file, or the index names one that is not there.
        FileFormatError, TruncatedFileError: a file is broken.
        MissingTensorError, UnexpectedTensorError, ShapeError: the tensors are not those of the configuration.
    """
    files = _files(directory)
    weights: dict[str, Tensor] = {}
    for path in files:
        weights.update(_read(path))
    # A tied model may carry its output matrix all the same; old files carry their rotary frequencies.
    for name in [
        n for n in weights if n not in shapes and (n == "lm_head.weight" or n.endswith("rotary_emb.inv_freq"))
    ]:
        del weights[name]
    check_shapes(weights, shapes, str(directory))
    return {name: weights[name] for name in shapes}


def check_shapes(weights: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Refuse weights that are not exactly those of a configuration."""
    missing = [n for n in shapes if n not in weights]
    if missing:
        raise MissingTensorError(f"{source}: {len(missing)} tensors are missing, the first is {missing[0]!r}")
    extra = sorted(set(weights) - set(shapes))
    if extra:
        raise UnexpectedTensorError(
            f"{source}: {len(extra)} tensors have no place in this model, the first is {extra[0]!r}; "
            "config.json may belong to another model"
        )
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape:
            raise ShapeError(f"{source}: {name} should be {list(shape)}, the file has {list(weights[name].shape)}")


def write_safetensors(weights: Mapping[str, Tensor], directory: Path, *, shard_bytes: int | None = None) -> None:
    """Write weights as one file, or as shards of at most ``shard_bytes`` with an index."""
    directory.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, Tensor]] = [{}]
    used = 0
    for name, tensor in weights.items():
        size = tensor.numel() * tensor.element_size()
        if shard_bytes is not None and shards[-1] and used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = tensor.contiguous()
        used += size
    if len(shards) == 1:
        save_file(shards[0], directory / "model.safetensors")
        return
    names = [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for shard, file_name in zip(shards, names, strict=True):
        save_file(shard, directory / file_name)
    places = {tensor: file_name for shard, file_name in zip(shards, names, strict=True) for tensor in shard}
    (directory / _INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}, indent=1))


def _files(directory: Path) -> list[Path]:
    if (directory / _INDEX).is_file():
        places = read_json(directory / _INDEX).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(v, str) for v in places.values()):
            raise FileFormatError(f"{directory / _INDEX}: expected a 'weight_map' from tensor to file name")
        names = sorted(set(places.values()))
        for name in names:
            if Path(name).name != name:
                raise FileFormatError(f"{directory / _INDEX}: {name!r} is not a plain file name")
            if not (directory / name).is_file():
                raise ModelFileError(f"{directory / name}: no such file, though {_INDEX} names it")
        return [directory / name for name in names]
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ModelFileError(f"{directory}: no *.safetensors file; pickled weights (.bin, .pt) are not read")
    return files


def _read(path: Path) -> dict[str, Tensor]:
    _check_length(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise FileFormatError(f"{path}: not a readable safetensors file: {error}") from error


def _check_length(path: Path) -> None:
    """Tell a file that was cut off from one that is broken in another way: the library reports both alike."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise TruncatedFileError(f"{path}: {size} bytes are less than the header's length field")
        (header_bytes,) = struct.unpack("<Q", start)
        if header_bytes > 100_000_000:
            raise FileFormatError(f"{path}: not a safetensors file (a header of {header_bytes} bytes)")
        header = file.read(header_bytes)
    if len(header) < header_bytes:
        raise TruncatedFileError(f"{path}: the header should have {header_bytes} bytes, {len(header)} are there")
    try:
        entries = json.loads(header)
        end = max((e["data_offsets"][1] for n, e in entries.items() if n != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise FileFormatError(f"{path}: the header is not that of a safetensors file: {error}") from error
    if isinstance(end, int) and size < 8 + header_bytes + end:
        raise TruncatedFileError(f"{path}: {8 + header_bytes + end} bytes are needed, {size} are there")


def floating(weights: Mapping[str, Tensor], dtype: torch.dtype | None, device: torch.device | str) -> dict[str, Tensor]:
    """Weights in ``dtype`` (as stored, if ``None``) on ``device``."""
    return {n: w.to(device=device, dtype=dtype or w.dtype) for n, w in weights.items()}
