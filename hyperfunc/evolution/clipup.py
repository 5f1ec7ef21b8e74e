"""ClipUp: steps of a given length, with clipped speed (Toklu, Liskowski and Srivastava 2020, arXiv:2008.02387).

    v ← momentum · v + lr · ∇f / ‖∇f‖
    v ← v · max_speed / ‖v‖    where ‖v‖ > max_speed
    x ← x + v

The norms run over all parameters together. Only the direction of the estimated gradient counts, so the learning rate is
a length in parameter space and needs no retuning when fitness changes its scale. A plain ``torch.optim`` optimizer: it
descends on ``.grad`` like every other, and composes with lr schedulers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from hyperfunc.errors import ConfigurationError

__all__ = ["ClipUp", "clip_up"]


class ClipUp(Optimizer):
    """Normalized gradient, heavy-ball momentum, clipped speed.

    Args:
        params: what to optimize.
        lr: length of one step without momentum, in units of the parameters.
        momentum: share of the velocity that is kept, in ``[0, 1)``; the paper's value is 0.9.
        max_speed: greatest length of the velocity; the paper's rule, ``2 · lr``, by default.

    Raises:
        ConfigurationError: a setting is out of its range.
    """

    def __init__(
        self, params: ParamsT, lr: float = 0.1, *, momentum: float = 0.9, max_speed: float | None = None
    ) -> None:
        if not lr > 0:
            raise ConfigurationError(f"lr: expected above 0, got {lr}")
        if not 0 <= momentum < 1:
            raise ConfigurationError(f"momentum: expected a number in [0, 1), got {momentum}")
        if max_speed is not None and not max_speed > 0:
            raise ConfigurationError(f"max_speed: expected above 0 or None for 2 · lr, got {max_speed}")
        ratio = 2.0 if max_speed is None else max_speed / lr  # a ratio, so that a scheduled lr takes the limit along
        super().__init__(params, {"lr": lr, "momentum": momentum, "max_speed_ratio": ratio})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step; returns what ``closure`` returns, if given."""
        loss: float | None = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        parameters = [p for p in group["params"] if p.grad is not None]
        velocities = [self.state[p].setdefault("velocity", torch.zeros_like(p)) for p in parameters]
        clip_up(parameters, [p.grad.neg() for p in parameters], velocities, group)


def clip_up(
    parameters: list[Tensor],  # written into
    gradients: list[Tensor],  # the direction of ascent
    velocities: list[Tensor],  # written into
    group: Mapping[str, Any],
) -> None:
    """One step of ClipUp up the gradient; ``group`` has ``lr``, ``momentum`` and ``max_speed_ratio``."""
    if not parameters:
        return
    gradient_norm = _norm(gradients)
    for velocity, gradient in zip(velocities, gradients, strict=True):
        velocity.mul_(group["momentum"])
        if gradient_norm > 0:
            velocity.add_(gradient, alpha=group["lr"] / gradient_norm)
    speed = _norm(velocities)
    max_speed = group["lr"] * group["max_speed_ratio"]
    for parameter, velocity in zip(parameters, velocities, strict=True):
        if speed > max_speed:
            velocity.mul_(max_speed / speed)
        parameter.add_(velocity)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())
