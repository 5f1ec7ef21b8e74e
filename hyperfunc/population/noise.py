"""Noise by name: every draw is a pure function of (seed, generation, parameter, block).

Nothing is stored and nothing is sent: a block of noise is regenerated wherever it is needed, from a generator seeded
by a hash of its name. Draws happen on the CPU, in one contiguous tensor of the block's shape (``randn(8)`` is no prefix
of ``randn(16)``), and are moved afterwards. Rademacher draws are the same on every machine; Gaussian ones per machine
type.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NoiseKind", "draw", "generator_for"]

NoiseKind = Literal["gaussian", "rademacher"]


def generator_for(*name: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of ``name``; equal names give equal streams in any process."""
    digest = hashlib.blake2b("\0".join(f"{type(p).__name__}:{p}" for p in name).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & 0x7FFF_FFFF_FFFF_FFFF)


def draw(
    shape: tuple[int, ...],
    generator: torch.Generator,
    *,
    kind: NoiseKind = "gaussian",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Independent draws with mean 0 and variance 1, of ``shape``, from ``generator``.

    Gaussian draws are made in float32 at least and then rounded to ``dtype``. Rademacher draws (±1) take one bit each.
    """
    if kind == "gaussian":
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        return torch.randn(shape, generator=generator, dtype=wide).to(device=device, dtype=dtype)
    if kind == "rademacher":
        count = 1
        for size in shape:
            count *= size
        raw = torch.randint(0, 256, ((count + 7) // 8,), generator=generator, dtype=torch.uint8)
        bits = (raw.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8)) & 1
        return bits.flatten()[:count].reshape(shape).to(device=device, dtype=dtype).mul_(2).sub_(1)
    raise ValueError(f"noise kind must be 'gaussian' or 'rademacher', got {kind!r}")
