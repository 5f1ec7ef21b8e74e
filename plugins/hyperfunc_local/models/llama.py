"""The Llama family as a function: Llama 2 and 3, Mistral, Qwen2 and Qwen3, in plain torch.

``ids`` carry an explicit population axis, ``[P, B, T]``: all members' rows share one product per weight, and what
differs between members is added by adapters. With ``P = 1`` the same function goes through ``torch.vmap`` (pass
``attention=eager_attention``). Nothing here branches on values, holds state or writes into weights.

Axes: ``P`` members, ``B`` prompts, ``T`` new tokens, ``N = P·B`` rows, ``R = B·T`` rows of one member, ``d`` features.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperfunc.errors import ShapeError
from hyperfunc_local.models.attention import Attention, attention_mask, fused_attention
from hyperfunc_local.models.cache import AppendingCache, KeyValueCache
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.rope import RotaryTable, rotate
from hyperfunc_local.models.weights import BoundWeights

__all__ = ["forward"]


def forward(
    config: LlamaConfig,
    weights: BoundWeights,
    ids: Tensor,  # [P, B, T] token ids
    *,
    padding: Tensor | None = None,  # [P, B] columns at the left that hold no token
    cache: KeyValueCache | AppendingCache | None = None,
    attention: Attention = fused_attention,
    output: Literal["logits", "last", "hidden"] = "logits",
) -> Tensor:
    """Logits of the next token after each position, ``[P, B, T, vocabulary]``.

    ``output="last"`` gives those of the last position only, ``[P, B, 1, vocabulary]``; ``"hidden"`` the states that
    ``weights.unembed`` turns into logits, ``[P, B, T, d]``.

    Args:
        padding: only without a cache, or for a cache's first tokens; later the cache remembers it.
        cache: keys and values of the columns before ``ids``; theirs are appended.

    Raises:
        ShapeError: ``ids`` is not ``[P, B, T]`` for the number of members of ``weights``.
        ContextLengthError: the cache is full.
    """
    if ids.dim() != 3 or ids.shape[0] != weights.size:
        raise ShapeError(f"expected ids [{weights.size}, prompts, tokens], got {list(ids.shape)}")
    members, prompts, count = ids.shape
    start = 0 if cache is None else cache.length
    if padding is not None:
        padding = padding.reshape(members * prompts)
        if cache is not None:
            if start:
                raise ShapeError("padding is given with a cache's first tokens only; this cache already holds some")
            cache.padding = padding
    elif cache is not None:
        padding = cache.padding
    rotary = cache.rotary if isinstance(cache, KeyValueCache) else RotaryTable(config.rope, config.head_size)
    position = rotary.look_up(start, count, padding, ids.device, weights.dtype)
    masks = {w: attention_mask(start, count, padding, w, ids.device) for w in set(config.windows)}
    x = weights.embed(ids.reshape(members, prompts * count))
    for layer in range(config.layers):
        visible = masks[config.windows[layer]]
        x = _attend(config, weights, layer, x, (prompts, count), position, visible, cache, attention)
        x = x + _feed_forward(config, weights, layer, x)
    if cache is not None:
        cache.advance(count)
    if output == "last":
        x = x.view(members, prompts, count, -1)[:, :, -1]
        count = 1
    x = _norm(config, weights, "model.norm", x.reshape(members, prompts * count, -1))
    return (x if output == "hidden" else weights.unembed(x)).view(members, prompts, count, -1)


def _attend(
    config: LlamaConfig,
    weights: BoundWeights,
    layer: int,
    x: Tensor,  # [P, R, d]
    rows: tuple[int, int],  # (B, T)
    position: tuple[Tensor, Tensor],
    visible: Tensor | None,
    cache: KeyValueCache | AppendingCache | None,
    attention: Attention,
) -> Tensor:
    prompts, count = rows
    members, size = x.shape[0], config.head_size
    name = f"model.layers.{layer}.self_attn"
    normed = _norm(config, weights, f"model.layers.{layer}.input_layernorm", x)

    def heads(flat: Tensor, norm: str | None = None) -> Tensor:
        if norm is not None and config.query_key_norm:
            flat = _norm(config, weights, f"{name}.{norm}", flat.reshape(members, -1, size))
        return flat.view(members * prompts, count, -1, size)

    q, k, v = weights.linears(normed, (f"{name}.q_proj", f"{name}.k_proj", f"{name}.v_proj"))
    queries = rotate(heads(q, "q_norm"), *position).transpose(1, 2)
    keys = rotate(heads(k, "k_norm"), *position).transpose(1, 2)
    values = heads(v).transpose(1, 2)
    if cache is not None:
        keys, values = cache.write(layer, keys, values)
    mixed = attention(queries, keys, values, visible)
    mixed = mixed.transpose(1, 2).reshape(members, prompts * count, config.heads * size)
    return x + weights.linear(mixed, f"{name}.o_proj")


def _feed_forward(config: LlamaConfig, weights: BoundWeights, layer: int, x: Tensor) -> Tensor:
    name = f"model.layers.{layer}"
    normed = _norm(config, weights, f"{name}.post_attention_layernorm", x)
    gate, up = weights.linears(normed, (f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"))
    return weights.linear(F.silu(gate) * up, f"{name}.mlp.down_proj")


def _norm(config: LlamaConfig, weights: BoundWeights, name: str, x: Tensor) -> Tensor:
    """RMSNorm (arXiv:1910.07467): scaled in float32, rounded, then weighted, as the reference implementation does."""
    weight = weights.vector(name + ".weight")
    if x.dtype in (torch.bfloat16, torch.float16):
        return weight * F.rms_norm(x.float(), (x.shape[-1],), None, config.norm_epsilon).to(x.dtype)
    if weight.dim() == 1:
        return F.rms_norm(x, weight.shape, weight, config.norm_epsilon)
    return weight * F.rms_norm(x, (x.shape[-1],), None, config.norm_epsilon)
