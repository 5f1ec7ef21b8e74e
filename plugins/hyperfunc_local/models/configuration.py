"""What a Llama-family model is: sizes, rotary embedding and the few switches in which the families differ.

Read from the dictionary of a Hugging Face ``config.json`` (of either generation of its format); GGUF metadata is turned
into the same dictionary by :mod:`hyperfunc_local.files.gguf_files`. Knows nothing of files or weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperfunc_local.errors import FileFormatError, UnsupportedArchitectureError

__all__ = ["FAMILIES", "LlamaConfig", "RopeConfig"]

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""Architecture name in ``config.json`` -> model type."""

_LARGEST = {
    "vocabulary": 1 << 24,
    "hidden": 1 << 20,
    "intermediate": 1 << 22,
    "layers": 1 << 12,
    "heads": 1 << 14,
    "key_value_heads": 1 << 14,
    "head_size": 1 << 14,
}
"""Far beyond every real model: a damaged file must not make us allocate what it says."""


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary position embedding.

    Attributes:
        kind: ``default``, ``linear``, ``dynamic`` (NTK), ``llama3`` or ``yarn``.
        theta: base of the frequencies.
        original_length: positions seen in pretraining, before any stretching.
        settings: the remaining numbers of the kind (``factor``, ``beta_fast``, …) under their ``config.json`` names.
        divisors: one for each frequency; GGUF files of Llama 3 carry the stretching in this form.
    """

    kind: str = "default"
    theta: float = 10_000.0
    original_length: int = 2048
    settings: Mapping[str, Any] = field(default_factory=dict)
    divisors: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes and switches of one model.

    Attributes:
        heads, key_value_heads: query heads, and the heads of keys and values that groups of them share.
        windows: per layer, how many positions back (the present one included) attention sees; ``None`` sees all.
        query_key_norm: RMSNorm over each head of q and k (Qwen3).
        qkv_bias, output_bias, mlp_bias: which linears have a bias.
        tied: the output matrix is the token embedding.
        stop_ids: token ids that end a generation; the first is *the* end token.
    """

    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    context_length: int
    norm_epsilon: float = 1e-6
    rope: RopeConfig = field(default_factory=RopeConfig)
    windows: tuple[int | None, ...] = ()
    query_key_norm: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    tied: bool = False
    start_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    pad_id: int | None = None

    def __post_init__(self) -> None:
        for name in _LARGEST:
            if not 1 <= getattr(self, name) <= _LARGEST[name]:
                raise FileFormatError(
                    f"model configuration: {name} should be from 1 to {_LARGEST[name]}, got {getattr(self, name)}"
                )
        if self.heads % self.key_value_heads:
            raise FileFormatError(
                f"model configuration: {self.heads} query heads cannot share {self.key_value_heads} key/value heads"
            )
        if self.head_size % 2:
            raise FileFormatError(f"model configuration: head_dim must be even, got {self.head_size}")
        if not self.windows:
            object.__setattr__(self, "windows", (None,) * self.layers)
        if len(self.windows) != self.layers:
            raise FileFormatError(f"model configuration: {len(self.windows)} layer types for {self.layers} layers")

    @classmethod
    def from_hf(cls, data: Mapping[str, Any]) -> LlamaConfig:
        """From the dictionary of a ``config.json``.

        Raises:
            UnsupportedArchitectureError: not one of :data:`FAMILIES`, or a switch that this model has no code for.
            FileFormatError: a key is missing or has an impossible value.
        """
        family = _family(data)
        if data.get("hidden_act", "silu") not in ("silu", "swish"):
            raise UnsupportedArchitectureError(
                f"hidden_act {data['hidden_act']!r}: the Llama family here has SwiGLU (silu) only; "
                "load the model with load_model(path, fallback=True)"
            )
        try:
            heads = int(data["num_attention_heads"])
            hidden, layers = int(data["hidden_size"]), int(data["num_hidden_layers"])
            context = int(data.get("max_position_embeddings", 2048))
            return cls(
                family=family,
                vocabulary=int(data["vocab_size"]),
                hidden=hidden,
                intermediate=int(data["intermediate_size"]),
                layers=layers,
                heads=heads,
                key_value_heads=int(data.get("num_key_value_heads") or heads),
                head_size=int(data.get("head_dim") or hidden // heads),
                context_length=context,
                norm_epsilon=float(data.get("rms_norm_eps", 1e-6)),
                rope=_rope(data, context),
                windows=_windows(data, family, layers),
                query_key_norm=family == "qwen3",
                qkv_bias=family == "qwen2" or bool(data.get("attention_bias", False)),
                output_bias=family in ("llama", "qwen3") and bool(data.get("attention_bias", False)),
                mlp_bias=bool(data.get("mlp_bias", False)),
                tied=bool(data.get("tie_word_embeddings", False)),
                start_id=data.get("bos_token_id"),
                stop_ids=_ids(data.get("eos_token_id")),
                pad_id=data.get("pad_token_id"),
            )
        except KeyError as error:
            raise FileFormatError(f"config.json has no {error.args[0]!r}, which a {family} model needs") from None
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"config.json holds an impossible value: {error}") from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every weight, under the names of a Hugging Face state dict."""
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "input_layernorm.weight"] = (self.hidden,)
            shapes[prefix + "post_attention_layernorm.weight"] = (self.hidden,)
            linears = {
                "self_attn.q_proj": (queries, self.hidden, self.qkv_bias),
                "self_attn.k_proj": (keys, self.hidden, self.qkv_bias),
                "self_attn.v_proj": (keys, self.hidden, self.qkv_bias),
                "self_attn.o_proj": (self.hidden, queries, self.output_bias),
                "mlp.gate_proj": (self.intermediate, self.hidden, self.mlp_bias),
                "mlp.up_proj": (self.intermediate, self.hidden, self.mlp_bias),
                "mlp.down_proj": (self.hidden, self.intermediate, self.mlp_bias),
            }
            for name, (rows, columns, bias) in linears.items():
                shapes[f"{prefix}{name}.weight"] = (rows, columns)
                if bias:
                    shapes[f"{prefix}{name}.bias"] = (rows,)
            if self.query_key_norm:
                shapes[prefix + "self_attn.q_norm.weight"] = (self.head_size,)
                shapes[prefix + "self_attn.k_norm.weight"] = (self.head_size,)
        shapes["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            shapes["lm_head.weight"] = (self.vocabulary, self.hidden)
        return shapes


def _family(data: Mapping[str, Any]) -> str:
    names = list(data.get("architectures") or [])
    families = {FAMILIES[n] for n in names if n in FAMILIES}
    if not families and not names and data.get("model_type") in FAMILIES.values():
        families = {str(data["model_type"])}
    if len(families) != 1:
        raise UnsupportedArchitectureError(
            f"architectures {names or data.get('model_type')!r}: expected one of {', '.join(FAMILIES)}; other causal "
            "models load with load_model(path, fallback=True)"
        )
    return families.pop()


def _rope(data: Mapping[str, Any], context: int) -> RopeConfig:
    # "rope_parameters" replaced "rope_scaling" + "rope_theta" in transformers 5; files of both kinds exist.
    settings = dict(data.get("rope_parameters") or data.get("rope_scaling") or {})
    kind = settings.pop("rope_type", None) or settings.pop("type", None) or "default"
    settings.pop("type", None)
    theta = float(settings.pop("rope_theta", None) or data.get("rope_theta") or 10_000.0)
    if kind not in ("default", "linear", "dynamic", "llama3", "yarn"):
        raise UnsupportedArchitectureError(
            f"rope type {kind!r}: expected default, linear, dynamic, llama3 or yarn; load the model with "
            "load_model(path, fallback=True)"
        )
    rotary = float(settings.get("partial_rotary_factor", data.get("partial_rotary_factor", 1.0)) or 1.0)
    if rotary != 1.0:
        raise UnsupportedArchitectureError(
            f"partial_rotary_factor {rotary:g}: expected 1; load the model with load_model(path, fallback=True)"
        )
    original = settings.pop("original_max_position_embeddings", None)
    if kind == "dynamic":
        original = context  # the length beyond which it stretches is the configured one
    if kind == "yarn" and settings.get("factor") is None:
        settings["factor"] = context / int(original or context)
    return RopeConfig(kind, theta, int(original or context), settings)


def _windows(data: Mapping[str, Any], family: str, layers: int) -> tuple[int | None, ...]:
    window = data.get("sliding_window")
    if window is None or (family in ("qwen2", "qwen3") and not data.get("use_sliding_window", False)):
        return (None,) * layers
    types = data.get("layer_types")
    if family == "mistral":
        return (int(window),) * layers
    if types is None:
        full = int(data.get("max_window_layers", layers))
        return tuple(int(window) if layer >= full else None for layer in range(layers))
    return tuple(int(window) if kind == "sliding_attention" else None for kind in types)


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else (int(value),)
