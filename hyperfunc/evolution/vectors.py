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

__all__ = ["members_from", "normal_draws", "pack", "project", "unpack"]


def pack(group: ParameterGroup, latent: Mapping[str, Tensor]) -> Tensor:
    """Latents by name as ``[dimensions]`` float64 on the CPU."""
    parts = [latent[name].detach().to(device="cpu", dtype=torch.float64).flatten() for name in group.names]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def unpack(group: ParameterGroup, vectors: Tensor) -> dict[str, Tensor]:
    """``[…, dimensions]`` as latents by name, each ``[…, *shape]`` float64."""
    sizes = [spec.size for spec in group.parameters.values()]
    parts = torch.split(vectors, sizes, dim=-1)
    return {
        name: part.reshape(*vectors.shape[:-1], *group.parameters[name].shape)
        for name, part in zip(group.names, parts, strict=True)
    }


def project(group: ParameterGroup, vectors: Tensor) -> Tensor:
    """The nearest vectors ``[…, dimensions]`` whose values are inside the bounds."""
    if all(spec.bounds is None for spec in group.parameters.values()):
        return vectors
    latent = unpack(group, vectors)
    parts = [
        spec.project(latent[name]).reshape(*vectors.shape[:-1], spec.size) for name, spec in group.parameters.items()
    ]
    return torch.cat(parts, dim=-1)


def normal_draws(group: ParameterGroup, seed: int, generation: int, block: int, count: int) -> Tensor:
    """``[count, dimensions]`` standard normal float64 draws."""
    parts = [
        dense_draws((seed, generation, name, block), count, (spec.size,), dtype=torch.float64)
        for name, spec in group.parameters.items()
    ]
    return torch.cat(parts, dim=1) if parts else torch.empty(count, 0, dtype=torch.float64)


def members_from(group: ParameterGroup, vectors: Tensor, devices: Mapping[str, str]) -> MemberBlock:
    """Latent vectors ``[K, dimensions]`` as a block of members, on the parameters' devices."""
    return {
        name: DenseMembers(group.parameters[name].to_value(part).to(devices[name]))
        for name, part in unpack(group, vectors).items()
    }
