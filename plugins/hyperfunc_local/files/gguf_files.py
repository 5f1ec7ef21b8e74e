"""GGUF files: weights dequantised once, at load, and the model's configuration from their metadata.

The format is parsed by the ``gguf`` package; here are bounds checks, names, and the un-permutation of q and k
(llama.cpp stores rotary pairs side by side for the ``llama`` architecture). Quantised products are out of scope.
Embedded vocabularies are read by :mod:`hyperfunc_local.tokenizers.gguf_vocabulary`.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyperfunc.errors import MissingDependencyError
from hyperfunc_local.errors import (
    FileFormatError,
    FileVersionError,
    ModelFileError,
    TruncatedFileError,
    UnsupportedArchitectureError,
    UnsupportedTensorTypeError,
)
from hyperfunc_local.files.safetensors_files import check_shapes
from hyperfunc_local.models.configuration import LlamaConfig, RopeConfig

__all__ = ["GGUFContents", "read_gguf"]

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_FAMILIES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}


class GGUFContents:
    """What one GGUF file holds: ``metadata`` (key -> value), ``config`` and ``weights`` under Hugging Face names."""

    def __init__(self, metadata: dict[str, Any], config: LlamaConfig, weights: dict[str, Tensor]) -> None:
        self.metadata = metadata
        self.config = config
        self.weights = weights


def read_gguf(path: Path, dtype: torch.dtype = torch.float32) -> GGUFContents:
    """Read one GGUF file (version 2 or 3), dequantised to ``dtype``.

    Raises:
        MissingDependencyError: the ``gguf`` package is not installed.
        FileFormatError, FileVersionError, TruncatedFileError: the file is not a readable GGUF file.
        UnsupportedTensorTypeError: a tensor type without a dequantiser.
        UnsupportedArchitectureError: not a Llama-family model.
        MissingTensorError, UnexpectedTensorError, ShapeError: the tensors are not those of its metadata.
    """
    reader = _open(path)
    metadata = {name: _value(field) for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    names = {tensor.name for tensor in reader.tensors}
    config = _config(metadata, names, path)
    weights: dict[str, Tensor] = {}
    for tensor in reader.tensors:
        if tensor.name == "rope_freqs.weight":
            divisors = tuple(float(v) for v in _dequantise(tensor, path).flatten())
            config = replace(config, rope=replace(config.rope, divisors=divisors))
            continue
        name = _hf_name(tensor.name)
        if name is None:
            raise UnsupportedArchitectureError(f"{path}: tensor {tensor.name!r} is not part of a Llama-family model")
        array = _dequantise(tensor, path)
        if config.family == "llama" and ".attn_q." in tensor.name:
            array = _unpermute(array, config.heads)
        elif config.family == "llama" and ".attn_k." in tensor.name:
            array = _unpermute(array, config.key_value_heads)
        weights[name] = torch.from_numpy(np.array(array)).to(dtype)  # a copy: the file's pages are read-only
    shapes = config.shapes()
    check_shapes(weights, shapes, str(path))
    return GGUFContents(metadata, config, {name: weights[name] for name in shapes})


def _open(path: Path) -> Any:
    try:
        from gguf.gguf_reader import GGUFReader  # a heavy import, needed for GGUF files only
    except ImportError:
        raise MissingDependencyError("gguf", "local") from None
    _check_head(path)

    class BoundedReader(GGUFReader):  # type: ignore[misc, unused-ignore]
        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            end = int(offset) + int(count) * np.dtype(dtype).itemsize
            if end > len(self.data):
                raise TruncatedFileError(f"{path}: byte {end} is needed, the file ends at {len(self.data)}")
            return super()._get(offset, dtype, count, override_order)

    try:
        return BoundedReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, UnicodeDecodeError) as error:
        raise FileFormatError(f"{path}: broken GGUF metadata: {error}") from error


def _check_head(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    if head[:4] != b"GGUF":
        raise FileFormatError(f"{path}: not a GGUF file (it begins with {head[:4]!r}, expected b'GGUF')")
    if len(head) < 24:
        raise TruncatedFileError(f"{path}: {len(head)} bytes are less than a GGUF header")
    (version,) = struct.unpack("<I", head[4:8])
    if version not in (2, 3):
        raise FileVersionError(f"{path}: GGUF version {version}; versions 2 and 3 (little-endian) are read")


def _value(field: Any) -> Any:
    try:
        return field.contents()
    except (UnicodeDecodeError, IndexError, ValueError) as error:
        raise FileFormatError(f"metadata {field.name!r} cannot be read: {error}") from error


def _dequantise(tensor: Any, path: Path) -> np.ndarray[Any, Any]:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    if tensor.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
        return np.asarray(tensor.data, dtype=np.float32)
    try:
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    except (NotImplementedError, KeyError) as error:
        raise UnsupportedTensorTypeError(
            f"{path}: tensor {tensor.name!r} has type {tensor.tensor_type.name}, which cannot be dequantised"
        ) from error


def _unpermute(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """From rotary pairs side by side to pairs half a head apart (rows of one head at a time)."""
    split = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def _hf_name(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _NAMES:
        return f"model.layers.{parts[1]}.{_NAMES[parts[2]]}.{parts[3]}"
    if len(parts) == 2 and parts[0] in _NAMES:
        return f"{_NAMES[parts[0]]}.{parts[1]}"
    return None


def _config(metadata: dict[str, Any], names: set[str], path: Path) -> LlamaConfig:
    architecture = metadata.get("general.architecture")
    if architecture not in _FAMILIES:
        raise UnsupportedArchitectureError(
            f"{path}: architecture {architecture!r}; GGUF files of {', '.join(_FAMILIES)} are read"
        )
    try:
        return _llama_config(metadata, names, str(architecture))
    except KeyError as error:
        raise FileFormatError(f"{path}: metadata has no {error.args[0]!r}") from None
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise FileFormatError(f"{path}: impossible metadata: {error}") from error


def _llama_config(metadata: dict[str, Any], names: set[str], architecture: str) -> LlamaConfig:
    def get(key: str) -> Any:
        return metadata[f"{architecture}.{key}"]

    def optional(key: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.{key}", default)

    heads, hidden, layers = int(get("attention.head_count")), int(get("embedding_length")), int(get("block_count"))
    tokens = metadata.get("tokenizer.ggml.tokens")
    vocabulary = optional("vocab_size", len(tokens) if tokens is not None else None)
    if vocabulary is None:
        raise KeyError(f"{architecture}.vocab_size")
    window = optional("attention.sliding_window")
    end = metadata.get("tokenizer.ggml.eos_token_id")
    turn_end = metadata.get("tokenizer.ggml.eot_token_id")
    return LlamaConfig(
        family=_FAMILIES[architecture],
        vocabulary=int(vocabulary),
        hidden=hidden,
        intermediate=int(get("feed_forward_length")),
        layers=layers,
        heads=heads,
        key_value_heads=int(optional("attention.head_count_kv", heads)),
        head_size=int(optional("attention.key_length", hidden // heads)),
        context_length=int(get("context_length")),
        norm_epsilon=float(get("attention.layer_norm_rms_epsilon")),
        rope=_rope(optional, int(get("context_length"))),
        windows=(int(window),) * layers if window else (),
        query_key_norm=architecture == "qwen3",
        qkv_bias="blk.0.attn_q.bias" in names,
        output_bias="blk.0.attn_output.bias" in names,
        mlp_bias="blk.0.ffn_up.bias" in names,
        tied="output.weight" not in names,
        start_id=metadata.get("tokenizer.ggml.bos_token_id"),
        stop_ids=tuple(dict.fromkeys(int(i) for i in (end, turn_end) if i is not None)),
        pad_id=metadata.get("tokenizer.ggml.padding_token_id"),
    )


def _rope(optional: Any, context: int) -> RopeConfig:
    kind = optional("rope.scaling.type", "none")
    theta = float(optional("rope.freq_base", 10_000.0))
    if kind == "none":
        return RopeConfig("default", theta, context)
    if kind not in ("linear", "yarn"):
        raise UnsupportedArchitectureError(f"GGUF rope scaling {kind!r}: expected none, linear or yarn")
    settings = {"factor": float(optional("rope.scaling.factor"))}
    original = int(optional("rope.scaling.original_context_length", context))
    if kind == "yarn" and optional("rope.scaling.attn_factor") is not None:
        settings["attention_factor"] = float(optional("rope.scaling.attn_factor"))
    return RopeConfig(kind, theta, original, settings)
