"""A parameter group as one float64 vector, for the strategies whose algebra couples all dimensions (the CMA family).

Dimensions follow the parameters in name order, each flattened. Draws keep their parameter's name, like everyone's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hyperfunc.evolution.sampling import dense_draws
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import DenseMembers, MemberBlock

__all__ = ["bounded_dimensions", "fold", "members_from", "normal_draws", "pack", "unpack", "values_at"]


def pack(group: ParameterGroup, latent: Mapping[str, Tensor]) -> Tensor:
    """Latents by name as ``[dimensions]`` float64 on the CPU."""
    parts = [latent[name].detach().to(device="cpu", dtype=torch.float64).flatten() for name in group.names]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def unpack(group: ParameterGroup, vectors: Tensor) -> dict[str, Tensor]:
    """``[…, dimensions]`` as latents by name, each ``[…, *shape]`` float64."""
    sizes = [spec.size for spec in group.parameters.values()]
    parts = torch.split(vectors, sizes, dim=-1)
    return {
        name: part.reshape((*vectors.shape[:-1], *group.parameters[name].shape))
        for name, part in zip(group.names, parts, strict=True)
    }


def fold(group: ParameterGroup, vectors: Tensor) -> Tensor:
    """Vectors ``[…, dimensions]`` mirrored at the bounds until they are inside; open dimensions stay as they are.

    The CMA family searches the unfolded space, where the folded fitness is continuous. Were points moved onto the
    bounds instead, all of those beyond would look alike, and the step-size rule would take that for convergence.
    """
    bounded = bounded_dimensions(group)
    if not bool(bounded.any()):
        return vectors
    wave = vectors.remainder(2)
    return torch.where(bounded, torch.where(wave > 1, 2 - wave, wave), vectors)


def bounded_dimensions(group: ParameterGroup) -> Tensor:
    """``[dimensions]`` bool: which have bounds."""
    parts = [
        torch.zeros(spec.size, dtype=torch.bool) if spec.bounds is None else torch.isfinite(spec.bounds[0]).flatten()
        for spec in group.parameters.values()
    ]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.bool)


def normal_draws(group: ParameterGroup, seed: int, generation: int, block: int, count: int) -> Tensor:
    """``[count, dimensions]`` standard normal float64 draws."""
    parts = [
        dense_draws((seed, generation, name, block), count, (spec.size,), dtype=torch.float64)
        for name, spec in group.parameters.items()
    ]
    return torch.cat(parts, dim=1) if parts else torch.empty(count, 0, dtype=torch.float64)


def members_from(group: ParameterGroup, vectors: Tensor, devices: Mapping[str, str]) -> MemberBlock:
    """Points ``[K, dimensions]`` as a block of members, folded inside the bounds, on the parameters' devices."""
    return {name: DenseMembers(values) for name, values in values_at(group, vectors, devices).items()}


def values_at(group: ParameterGroup, vectors: Tensor, devices: Mapping[str, str]) -> dict[str, Tensor]:
    """Points ``[…, dimensions]`` as parameter values ``[…, *shape]``, folded inside the bounds, on their devices."""
    return {
        name: group.parameters[name].to_value(part).to(devices[name])
        for name, part in unpack(group, fold(group, vectors)).items()
    }
