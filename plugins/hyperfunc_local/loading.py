"""Load a local model from a path: a Hugging Face directory or a GGUF file. Nothing is ever fetched.

Knows which files belong together; how each is read is in :mod:`hyperfunc_local.files` and
:mod:`hyperfunc_local.tokenizers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hyperfunc.plugins import current_plugins
from hyperfunc_local.errors import (
    ModelFileError,
    TokenizerError,
    UnsupportedArchitectureError,
    UnsupportedTensorTypeError,
)
from hyperfunc_local.files.gguf_files import read_gguf
from hyperfunc_local.files.safetensors_files import read_json, read_safetensors, write_safetensors
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models.causal import CausalModel, Llama
from hyperfunc_local.models.configuration import FAMILIES, LlamaConfig
from hyperfunc_local.models.fallback import load_with_transformers
from hyperfunc_local.sampling.parameters import resolve
from hyperfunc_local.tokenizers.base import Tokenizer
from hyperfunc_local.tokenizers.chat import ChatTemplate
from hyperfunc_local.tokenizers.gguf_vocabulary import tokenizer_from_gguf
from hyperfunc_local.tokenizers.hf_tokenizer import HFTokenizer
from hyperfunc_local.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

__all__ = ["load_model", "save_model"]

_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    name: str | None = None,
    fallback: bool = False,
) -> LocalModel:
    """A model from a directory (``config.json``, ``*.safetensors``, tokenizer files) or a ``.gguf`` file.

    The architecture named in ``config.json`` is looked up among the registered model families (hook
    ``hyperfunc_register_model_families``), then in the Llama family of this package.

    Args:
        fallback: run other architectures through ``transformers``, more slowly (see
            :mod:`hyperfunc_local.models.fallback`).
        dtype: of the weights; default: as stored (GGUF: float32).
        name: under which it is served; default: the file's or directory's.

    Raises:
        ModelFileError: no such model, or its files are broken (the subclasses say how).
        UnsupportedArchitectureError: not of the Llama family.
        TokenizerError: the tokenizer files are broken.
    """
    path = Path(path)
    if dtype is not None and dtype not in _FLOATING:
        raise UnsupportedTensorTypeError(f"dtype {dtype}: expected one of {', '.join(map(str, _FLOATING))}")
    if path.is_file() and path.suffix == ".gguf":
        return _load_gguf(path, dtype or torch.float32, device, name or path.stem)
    if path.is_dir():
        return _load_directory(path, dtype, device, name or path.resolve().name, fallback)
    raise ModelFileError(f"{path}: no such model; expected a directory with config.json, or a .gguf file")


def _load_directory(
    path: Path, dtype: torch.dtype | None, device: torch.device | str, name: str, fallback: bool
) -> LocalModel:
    data = read_json(path / "config.json")
    settings = read_json(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    common: dict[str, Any] = {
        "tokenizer": _tokenizer(path, settings),
        "template": _template(path, settings),
        "decoding": _decoding(path),
        "name": name,
    }
    try:
        config = _family(data)
    except UnsupportedArchitectureError:
        if not fallback:
            raise
        model = load_with_transformers(path, dtype=dtype, device=device)
        return LocalModel(config=model, weights=model.weights(), **common)
    weights = read_safetensors(path, config.shapes())
    for tensor_name, tensor in weights.items():
        if tensor.dtype not in _FLOATING:
            raise UnsupportedTensorTypeError(
                f"{path}: {tensor_name} is {tensor.dtype}; expected floating-point weights"
            )
    target = dtype or next(iter(weights.values())).dtype
    placed = {n: w.to(device=device, dtype=target) for n, w in weights.items()}
    return LocalModel(config=config, weights=placed, **common)


def _family(data: Mapping[str, Any]) -> LlamaConfig | CausalModel:
    """What the family of the architecture makes of the configuration."""
    families = current_plugins().registry("model_families")
    for architecture in data.get("architectures") or []:
        if isinstance(architecture, str) and architecture in families:
            model: CausalModel = families.get(architecture)(data)
            return model.config if isinstance(model, Llama) else model
    return LlamaConfig.from_hf(data)


def _load_gguf(path: Path, dtype: torch.dtype, device: torch.device | str, name: str) -> LocalModel:
    contents = read_gguf(path, dtype)
    metadata = contents.metadata
    source = metadata.get("tokenizer.chat_template")
    tokens = metadata.get("tokenizer.ggml.tokens") or []
    names = {}
    for key, field in (("bos_token", "bos"), ("eos_token", "eos")):
        number = metadata.get(f"tokenizer.ggml.{field}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            names[key] = str(tokens[number])
    return LocalModel(
        config=contents.config,
        weights={n: w.to(device) for n, w in contents.weights.items()},
        tokenizer=tokenizer_from_gguf(metadata),
        template=ChatTemplate(source, names) if isinstance(source, str) else None,
        name=name,
    )


def _tokenizer(path: Path, settings: Mapping[str, Any]) -> Tokenizer | None:
    if (path / "tokenizer.json").is_file():
        return HFTokenizer.from_file(path / "tokenizer.json")
    if (path / "tokenizer.model").is_file():
        added = settings.get("added_tokens_decoder") or {}
        return SentencePieceTokenizer.from_file(
            path / "tokenizer.model",
            add_start=bool(settings.get("add_bos_token", True)),
            add_end=bool(settings.get("add_eos_token", False)),
            added={str(token["content"]): int(number) for number, token in added.items()},
        )
    return None


def _template(path: Path, settings: Mapping[str, Any]) -> ChatTemplate | None:
    source = settings.get("chat_template")
    if (path / "chat_template.jinja").is_file():
        source = (path / "chat_template.jinja").read_text(encoding="utf-8")
    if isinstance(source, list):  # several named templates: the one called "default"
        source = next((t.get("template") for t in source if t.get("name") == "default"), None)
    if source is None:
        return None
    if not isinstance(source, str):
        raise TokenizerError(f"{path}: chat_template should be a text, got {type(source).__name__}")
    names = {}
    for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = settings.get(key)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            names[key] = value
    return ChatTemplate(source, names)


def _decoding(path: Path) -> dict[str, Any]:
    """The model's own decoding parameters, from ``generation_config.json``."""
    if not (path / "generation_config.json").is_file():
        return {}
    data = read_json(path / "generation_config.json")
    known = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    chosen = {k: data[k] for k in known if data.get(k) is not None}
    if data.get("do_sample") is False:
        chosen["temperature"] = 0.0
    if data.get("max_new_tokens") is not None:
        chosen["max_tokens"] = data["max_new_tokens"]
    resolve(None, chosen)  # a value out of range is refused here, not at the first request
    return chosen


def _hf_decoding(decoding: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`_decoding`; stop strings have no place in ``generation_config.json``."""
    greedy = decoding.get("temperature") == 0
    places = {name: name for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")}
    places["max_tokens"] = "max_new_tokens"
    written = {place: decoding[name] for name, place in places.items() if decoding.get(name) is not None}
    if greedy:
        del written["temperature"]  # transformers has no temperature 0
    return {"do_sample": not greedy, **written}


def save_model(model: LocalModel, directory: str | Path, *, shard_bytes: int | None = None) -> Path:
    """Write a model as a Hugging Face directory that :func:`load_model` and ``transformers`` read.

    Args:
        shard_bytes: split the weights into files of at most this size.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if not isinstance(model.config, LlamaConfig):
        raise UnsupportedArchitectureError("only models of the Llama family are saved; this one is of another family")
    (directory / "config.json").write_text(json.dumps(_hf_config(model.config), indent=2))
    write_safetensors(model.weights, directory, shard_bytes=shard_bytes)
    if isinstance(model.tokenizer, HFTokenizer):
        model.tokenizer.inner.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {}
    if model.template is not None:
        settings["chat_template"] = model.template.source
        settings.update(model.template.names)
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    if model.decoding:
        (directory / "generation_config.json").write_text(json.dumps(_hf_decoding(model.decoding), indent=2))
    return directory


def _hf_config(config: LlamaConfig) -> dict[str, Any]:
    if config.rope.divisors is not None:
        raise UnsupportedArchitectureError(
            "config.json has no place for the frequency divisors of a GGUF file; keep the GGUF file"
        )
    architecture = next(name for name, family in FAMILIES.items() if family == config.family)
    rope = {"rope_type": config.rope.kind, "rope_theta": config.rope.theta, **config.rope.settings}
    if config.rope.kind != "default":
        rope["original_max_position_embeddings"] = config.rope.original_length
    window = next((w for w in config.windows if w is not None), None)
    return {
        "architectures": [architecture],
        "model_type": config.family,
        "vocab_size": config.vocabulary,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": rope,
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "layer_types": ["full_attention" if w is None else "sliding_attention" for w in config.windows],
        "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tied,
        "bos_token_id": config.start_id,
        "eos_token_id": list(config.stop_ids) if len(config.stop_ids) > 1 else next(iter(config.stop_ids), None),
        "pad_token_id": config.pad_id,
    }
