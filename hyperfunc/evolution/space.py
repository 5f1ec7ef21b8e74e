"""What a strategy searches: named tensors, their bounds, integer dimensions and noise ranks; latent <-> value.

A strategy moves in *latent* coordinates, in which one unit means the same everywhere: for a bounded dimension the
latent is ``(value - low) / (high - low)``, so that σ is relative to the range; for an unbounded one it is the value
itself. Values are what programs see: they never leave ``[low, high]``, integer dimensions hold whole numbers, and the
dtype is the parameter's own. The latent centre is a *master copy* in float32 at least (float64 for float64
parameters), so that small steps add up even when the parameter is bfloat16.

Knows nothing of populations, noise or fitness.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hyperfunc.errors import ParameterError, ParameterTypeError, ShapeError, UnknownParameterError

__all__ = ["ParameterGroup", "ParameterSpec"]


@dataclass(frozen=True)
class ParameterSpec:
    """One tensor to optimize.

    Args:
        shape: its shape; ``()`` is a scalar.
        dtype: a floating dtype, the one in which programs receive it.
        bounds: ``(low, high)``, each broadcastable to ``shape``; ``-inf`` and ``inf`` leave a dimension open. A
            dimension has both finite bounds or none; one-sided bounds need a transform in the parameter itself.
        noise_rank: rank of factored noise for a matrix; ``None`` leaves the choice to the strategy.
        integer: boolean mask broadcastable to ``shape``; the marked dimensions take whole numbers only.

    Raises:
        ShapeError: bounds or mask do not broadcast to the shape.
        ParameterTypeError: the dtype is not floating.
        ParameterError: bounds are one-sided, empty or NaN, an integer dimension's bounds are not whole, or a noise
            rank is below 1.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    bounds: tuple[Tensor, Tensor] | None = None
    noise_rank: int | None = None
    integer: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if not self.dtype.is_floating_point:
            raise ParameterTypeError(
                f"expected a floating dtype to optimize, got {self.dtype}; "
                "keep whole numbers in a float tensor and mark them with integer="
            )
        if self.noise_rank is not None and self.noise_rank < 1:
            raise ParameterError(f"noise_rank: expected at least 1 or None, got {self.noise_rank}")
        if self.integer is not None:
            object.__setattr__(self, "integer", self._fit("integer mask", self.integer).to(torch.bool))
        if self.bounds is not None:
            low, high = (self._fit("bounds", torch.as_tensor(b)).to(torch.float64) for b in self.bounds)
            self._check_bounds(low, high)
            object.__setattr__(self, "bounds", (low, high))

    def _fit(self, what: str, tensor: Tensor) -> Tensor:
        try:
            return tensor.broadcast_to(self.shape).clone()
        except RuntimeError:
            raise ShapeError(
                f"{what}: expected a shape that broadcasts to {list(self.shape)}, got {list(tensor.shape)}"
            ) from None

    def _check_bounds(self, low: Tensor, high: Tensor) -> None:
        if bool((torch.isfinite(low) != torch.isfinite(high)).any()):
            raise ParameterError(
                "bounds: expected both sides finite or both infinite in each dimension, got one of each"
            )
        if not bool((low < high).all()):
            raise ParameterError(
                f"bounds: expected low < high in every dimension, got low={low.tolist()}, high={high.tolist()}"
            )
        if self.integer is not None:
            for side in (low, high):
                whole = side[self.integer & torch.isfinite(side)]
                if bool((whole != whole.round()).any()):
                    raise ParameterError(f"bounds: expected whole numbers in integer dimensions, got {whole.tolist()}")

    @property
    def master_dtype(self) -> torch.dtype:
        """The dtype of the latent centre: float64 for float64 parameters, else float32."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(torch.Size(self.shape).numel())

    @property
    def is_free(self) -> bool:
        """Whether latent and value are the same thing: no bounds and no integer dimension."""
        return self.bounds is None and self.integer is None

    def to_latent(self, value: Tensor) -> Tensor:
        """Value ``[..., *shape]`` as a latent in the master dtype; a value outside its bounds is moved onto them."""
        master = value.detach().to(self.master_dtype)
        if self.bounds is None:
            return master.clone()
        low, width, bounded = self._affine(master.device)
        return torch.where(
            bounded, ((master.to(torch.float64) - low) / width).clamp(0, 1), master.to(torch.float64)
        ).to(self.master_dtype)

    def to_value(self, latent: Tensor) -> Tensor:
        """Latent ``[..., *shape]`` as a value: inside the bounds, whole where integer, in the parameter's dtype."""
        if self.is_free:
            return latent.to(self.dtype)
        wide = latent.to(torch.float64)
        if self.bounds is not None:
            low, width, bounded = self._affine(latent.device)
            inside = low + wide.clamp(0, 1) * width
            # The sum may round past the upper bound, by much where the lower one is large.
            wide = torch.where(bounded, inside.minimum(self.bounds[1].to(latent.device)), wide)
        if self.integer is not None:
            wide = torch.where(self.integer.to(latent.device), wide.round(), wide)
        value = wide.to(self.dtype)
        if self.bounds is None:
            return value
        # Rounding to a narrow dtype may step over a bound that this dtype cannot hold; step back inside.
        low64, high64 = (b.to(latent.device) for b in self.bounds)
        over, under = value.to(torch.float64) > high64, value.to(torch.float64) < low64
        value = torch.where(over, torch.nextafter(value, torch.full_like(value, -torch.inf)), value)
        return torch.where(under, torch.nextafter(value, torch.full_like(value, torch.inf)), value)

    def project(self, latent: Tensor) -> Tensor:
        """The nearest latent whose value is inside the bounds, same shape and dtype."""
        if self.bounds is None:
            return latent
        _, _, bounded = self._affine(latent.device)
        return torch.where(bounded, latent.clamp(0, 1), latent)

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """``low``, ``high - low`` and "is bounded", with harmless numbers where a dimension is open."""
        assert self.bounds is not None
        low, high = self.bounds
        bounded = torch.isfinite(low)
        low_ = torch.where(bounded, low, torch.zeros_like(low))
        width = torch.where(bounded, high - low, torch.ones_like(low))
        return low_.to(device), width.to(device), bounded.to(device)


@dataclass(frozen=True)
class ParameterGroup:
    """What one strategy optimizes: parameter name -> :class:`ParameterSpec`, in name order."""

    parameters: Mapping[str, ParameterSpec] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", {n: self.parameters[n] for n in sorted(self.parameters)})

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> ParameterGroup:
        """An unbounded group with the names, shapes and dtypes of ``values``."""
        return cls({n: ParameterSpec(tuple(v.shape), v.dtype) for n, v in values.items()})

    @property
    def names(self) -> tuple[str, ...]:
        """The names, sorted."""
        return tuple(self.parameters)

    @property
    def size(self) -> int:
        """Number of elements over all parameters."""
        return sum(spec.size for spec in self.parameters.values())

    def select(self, names: Iterable[str]) -> ParameterGroup:
        """The part of the group with these names.

        Raises:
            UnknownParameterError: a name is not in the group.
        """
        chosen: dict[str, ParameterSpec] = {}
        for name in names:
            if name not in self.parameters:
                raise UnknownParameterError(name, self.parameters)
            chosen[name] = self.parameters[name]
        return ParameterGroup(chosen)

    def to_latent(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every parameter's value as a latent centre, after checking names and shapes.

        Raises:
            UnknownParameterError: a parameter of the group has no value.
            ShapeError: a value's shape is not the declared one.
            ParameterError: a value is NaN or infinite.
        """
        latent: dict[str, Tensor] = {}
        for name, spec in self.parameters.items():
            if name not in values:
                raise UnknownParameterError(name, values)
            value = values[name]
            if tuple(value.shape) != spec.shape:
                raise ShapeError(f"parameter {name!r}: expected shape {list(spec.shape)}, got {list(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ParameterError(f"parameter {name!r}: expected finite starting values, got NaN or infinity")
            latent[name] = spec.to_latent(value)
        return latent

    def to_value(self, latent: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every parameter's latent as a value."""
        return {name: spec.to_value(latent[name]) for name, spec in self.parameters.items()}
