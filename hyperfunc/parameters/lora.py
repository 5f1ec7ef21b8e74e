"""Parameter types for adapters: a weight matrix perturbed at low rank, and the scalars around an adapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hyperfunc.errors import ParameterError

__all__ = ["AdapterMeta", "LoRAWeight"]


@dataclass
class LoRAWeight:
    """A matrix ``weight`` of shape ``[out_dim, in_dim]`` whose ES noise has low rank. Made by :meth:`create`."""

    weight: Tensor  # [out_dim, in_dim]; a FactoredTensor for a perturbed member
    _out_dim: int
    _in_dim: int
    _noise_rank: int = 4

    @classmethod
    def create(cls, out_dim: int, in_dim: int, noise_rank: int = 4) -> type[LoRAWeight]:
        """A parameter type for matrices ``[out_dim, in_dim]``.

        Raises:
            ParameterError: a size or the rank is below 1.
        """
        if min(out_dim, in_dim, noise_rank) < 1:
            raise ParameterError(
                f"LoRAWeight.create: sizes and rank must be >= 1, got {out_dim}, {in_dim}, {noise_rank}"
            )

        class _Sized(LoRAWeight):
            def __init__(self, weight: Tensor) -> None:
                super().__init__(weight, out_dim, in_dim, noise_rank)

            @classmethod
            def shape(cls) -> tuple[int, ...]:
                return (out_dim, in_dim)

            @classmethod
            def dim(cls) -> int:
                return out_dim * in_dim

            @classmethod
            def noise_rank(cls) -> int | None:
                return noise_rank

            @classmethod
            def from_tensor(cls, t: Tensor) -> LoRAWeight:
                return cls(t if t.shape == (out_dim, in_dim) else t.reshape(out_dim, in_dim))

        _Sized.__name__ = _Sized.__qualname__ = f"LoRAWeight_{out_dim}x{in_dim}"
        return _Sized

    @classmethod
    def shape(cls) -> tuple[int, ...]:
        raise ParameterError("LoRAWeight has no size of its own; use LoRAWeight.create(out_dim, in_dim)")

    @classmethod
    def dim(cls) -> int:
        raise ParameterError("LoRAWeight has no size of its own; use LoRAWeight.create(out_dim, in_dim)")

    @classmethod
    def noise_rank(cls) -> int | None:
        raise ParameterError("LoRAWeight has no size of its own; use LoRAWeight.create(out_dim, in_dim)")

    @classmethod
    def from_tensor(cls, t: Tensor) -> LoRAWeight:
        raise ParameterError("LoRAWeight has no size of its own; use LoRAWeight.create(out_dim, in_dim)")

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.weight.to(device=device, dtype=dtype)


@dataclass
class AdapterMeta:
    """Scalars around an adapter; tensor form ``[4]``: scale in [0, 4], dropout_keep in [0.05, 1], gate_bias in [-4, 4],
    priority in [0, 1]."""

    scale: float | Tensor = 1.0
    dropout_keep: float | Tensor = 1.0
    gate_bias: float | Tensor = 0.0
    priority: float | Tensor = 0.5

    @classmethod
    def shape(cls) -> tuple[int, ...]:
        return (4,)

    @classmethod
    def dim(cls) -> int:
        return 4

    @classmethod
    def noise_rank(cls) -> int | None:
        return None

    @classmethod
    def bounds(cls) -> tuple[list[float], list[float]]:
        return [0.0, 0.05, -4.0, 0.0], [4.0, 1.0, 4.0, 1.0]

    @classmethod
    def default_init(cls) -> Tensor:
        return cls().to_tensor()

    def to_tensor(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        values = [float(v) for v in (self.scale, self.dropout_keep, self.gate_bias, self.priority)]
        return torch.tensor(values, dtype=dtype, device=device)

    @classmethod
    def from_tensor(cls, t: Tensor) -> AdapterMeta:
        """0-dim tensors, so that programs that compute with them can be lifted."""
        low, high = cls.bounds()
        return cls(*(t[i].clamp(low[i], high[i]) for i in range(4)))
