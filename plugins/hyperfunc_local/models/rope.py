"""Rotary position embedding (Su et al., 2021, arXiv:2104.09864) and the ways to stretch it.

``default``, ``linear`` (position interpolation, arXiv:2306.15595), ``dynamic`` (NTK-aware), ``llama3`` and ``yarn``
(arXiv:2309.00071). Pairs are (i, i + d/2), the layout of Hugging Face weights; GGUF files interleave them and are
un-permuted when read. Knows nothing of attention or caches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hyperfunc_local.models.configuration import RopeConfig

__all__ = ["RotaryTable", "frequencies", "rotate", "tables"]

_SMALLEST = 64


def frequencies(rope: RopeConfig, head_size: int, length: int) -> tuple[Tensor, float]:
    """Inverse frequencies ``[head_size / 2]`` in float32, and the factor by which cos and sin are scaled.

    Args:
        length: positions in use (highest one plus 1); only ``dynamic`` depends on it.
    """
    theta = rope.theta
    if rope.kind == "dynamic" and length > rope.original_length:
        factor = float(rope.settings["factor"])
        growth = factor * length / rope.original_length - (factor - 1)
        theta = theta * growth ** (head_size / (head_size - 2))
    inverse = 1.0 / theta ** (torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size)
    if rope.divisors is not None:
        return inverse / torch.tensor(rope.divisors), 1.0
    if rope.kind == "linear":
        return inverse / float(rope.settings["factor"]), 1.0
    if rope.kind == "llama3":
        return _llama3(inverse, rope), 1.0
    if rope.kind == "yarn":
        return _yarn(inverse, rope, head_size)
    return inverse, 1.0


def _llama3(inverse: Tensor, rope: RopeConfig) -> Tensor:
    low, high = float(rope.settings["low_freq_factor"]), float(rope.settings["high_freq_factor"])
    factor, original = float(rope.settings["factor"]), rope.original_length
    wavelength = 2 * math.pi / inverse
    smooth = (original / wavelength - low) / (high - low)
    blended = (1 - smooth) * inverse / factor + smooth * inverse
    stretched = torch.where(wavelength > original / low, inverse / factor, blended)
    return torch.where(wavelength < original / high, inverse, stretched)


def _yarn(inverse: Tensor, rope: RopeConfig, head_size: int) -> tuple[Tensor, float]:
    settings: Mapping[str, Any] = rope.settings
    factor = float(settings["factor"])
    fast, slow = float(settings.get("beta_fast") or 32), float(settings.get("beta_slow") or 1)

    def dimension(rotations: float) -> float:
        return head_size * math.log(rope.original_length / (rotations * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(fast), dimension(slow)
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    if low == high:
        high += 0.001  # the ramp below divides by their difference
    ramp = ((torch.arange(head_size // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    stretched = inverse / factor * ramp + inverse * (1 - ramp)
    return stretched, _yarn_attention(settings, factor)


def _yarn_attention(settings: Mapping[str, Any], factor: float) -> float:
    def temperature(scale: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    if settings.get("attention_factor") is not None:
        return float(settings["attention_factor"])
    if settings.get("mscale") and settings.get("mscale_all_dim"):
        return temperature(float(settings["mscale"])) / temperature(float(settings["mscale_all_dim"]))
    return temperature()


def tables(
    positions: Tensor,  # [..., T] integer positions
    inverse: Tensor,  # [head_size / 2]
    scale: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """cos and signed sin of every position, ``[..., T, 1, head_size]``: worked out in float32, rounded to ``dtype``."""
    angle = (positions.unsqueeze(-1).float() * inverse).unsqueeze(-2)
    cos, sin = (angle.cos() * scale).to(dtype), (angle.sin() * scale).to(dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


class RotaryTable:
    """:func:`tables` of the positions met so far, looked up instead of worked out again for every token.

    Args:
        rope: kinds other than ``dynamic``, whose frequencies depend on the length, are kept.
    """

    def __init__(self, rope: RopeConfig, head_size: int) -> None:
        self._rope = rope
        self._head_size = head_size
        self._known: tuple[Tensor, Tensor] | None = None

    def look_up(
        self,
        start: int,
        count: int,
        padding: Tensor | None,  # [N] columns at the left of each row that hold no token
        device: torch.device,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Those of the columns ``start … start + count``, ``[N or 1, T, 1, head_size]``."""
        if self._rope.kind == "dynamic":
            length = start + count - (int(padding.min()) if padding is not None else 0)
            return self._compute(_positions(start, count, padding, device), length, dtype)
        if self._known is None or len(self._known[0]) < start + count or self._known[0].dtype != dtype:
            size = max(_SMALLEST, 2 * (start + count)) if start else count
            self._known = self._compute(torch.arange(size, device=device), size, dtype)
        cos, sin = self._known
        if padding is None:
            return cos[start : start + count].unsqueeze(0), sin[start : start + count].unsqueeze(0)
        positions = _positions(start, count, padding, device)
        return cos[positions], sin[positions]

    def _compute(self, positions: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        inverse, scale = frequencies(self._rope, self._head_size, length)
        return tables(positions, inverse.to(positions.device), scale, dtype)


def _positions(start: int, count: int, padding: Tensor | None, device: torch.device) -> Tensor:
    columns = torch.arange(start, start + count, device=device).unsqueeze(0)
    return columns if padding is None else (columns - padding.unsqueeze(1)).clamp_(min=0)


def rotate(
    heads: Tensor,  # [N, T, heads, head_size]
    cos: Tensor,  # [N or 1, T, 1, head_size]
    sin: Tensor,
) -> Tensor:
    """``heads`` turned by their positions, same shape."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
