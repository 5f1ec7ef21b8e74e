"""Gradient ascent on an estimated gradient, by any ``torch.optim`` optimizer, as a pure function.

``torch.optim`` keeps its state inside objects. Here the object lives for one step: it is built on a copy of the centre,
given its saved state, stepped, and its new state comes out as a value. So any optimizer and any lr scheduler of torch's
fits into ``init / ask / tell``, and into a checkpoint. A named optimizer without a scheduler does the same without the
object, see :mod:`hyperfunc.evolution.named_optimizers`.

Knows nothing of noise, fitness or bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.clipup import ClipUp
from hyperfunc.evolution.named_optimizers import OptimizerName, first_state, step_by_name

__all__ = ["GradientAscent", "OptimizerFactory", "OptimizerName", "OptimizerState", "SchedulerFactory"]

OptimizerFactory = Callable[[list[Tensor]], Optimizer]
"""Parameters -> optimizer, for example ``functools.partial(torch.optim.RMSprop, lr=0.01)``."""

SchedulerFactory = Callable[[Optimizer], LRScheduler]
"""Optimizer -> lr scheduler, for example ``functools.partial(CosineAnnealingLR, T_max=100)``."""

OptimizerState = dict[str, Any]
"""``state_dict`` of the optimizer and of the scheduler; empty before the first step."""


@dataclass(frozen=True)
class GradientAscent:
    """How an estimated gradient moves the centre.

    Args:
        optimizer: ``"adam"``, ``"sgd"``, ``"clipup"``, or a factory of any first-order ``torch.optim.Optimizer``.
        lr: learning rate of a named optimizer, in latent units per generation for Adam and ClipUp; a factory sets its
            own.
        scheduler: lr scheduler, stepped once per step that was taken.
        weight_decay: decoupled: the centre shrinks by ``lr · weight_decay`` of itself before each step (with the lr of
            the moment). Applies to the parameters that the strategy names, which are those without bounds.

    Raises:
        ConfigurationError: an unknown name, ``lr`` not above 0, or a negative ``weight_decay``.
    """

    optimizer: OptimizerName | OptimizerFactory = "adam"
    lr: float = 0.1
    scheduler: SchedulerFactory | None = None
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.optimizer, str) and self.optimizer not in ("adam", "clipup", "sgd"):
            raise ConfigurationError(
                "optimizer: expected 'adam', 'clipup', 'sgd' or a factory of a torch.optim optimizer, "
                f"got {self.optimizer!r}"
            )
        if not self.lr > 0:
            raise ConfigurationError(f"lr: expected above 0, got {self.lr}")
        if not self.weight_decay >= 0:
            raise ConfigurationError(f"weight_decay: expected 0 or more, got {self.weight_decay}")

    def step(
        self,
        center: Mapping[str, Tensor],  # name -> [*shape], latent, master dtype
        gradient: Mapping[str, Tensor],  # name -> [*shape], direction of higher fitness
        state: OptimizerState,
        *,
        decayed: Collection[str] = (),
    ) -> tuple[dict[str, Tensor], OptimizerState]:
        """The centre one step up the gradient, and the optimizer's next state; the arguments are left alone."""
        names = sorted(center)
        parameters = [center[name].clone() for name in names]
        if isinstance(self.optimizer, str) and self.scheduler is None:
            after = _copy(state["optimizer"]) if state else first_state(self.optimizer, self.lr, len(names))
            self._decay(after["param_groups"][0], names, parameters, decayed)
            gradients = [gradient[name].to(parameter.dtype) for name, parameter in zip(names, parameters, strict=True)]
            step_by_name(self.optimizer, parameters, gradients, after)
            return dict(zip(names, parameters, strict=True)), {"optimizer": after, "scheduler": None}
        optimizer = self._build(parameters)
        scheduler = self.scheduler(optimizer) if self.scheduler is not None else None
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ConfigurationError("scheduler: expected one that needs no metric, got ReduceLROnPlateau")
        if state:
            optimizer.load_state_dict(_copy(state["optimizer"]))
            if scheduler is not None:
                scheduler.load_state_dict(_copy(state["scheduler"]))
        self._decay(optimizer.param_groups[0], names, parameters, decayed)
        for name, parameter in zip(names, parameters, strict=True):
            ascending = bool(optimizer.param_groups[0].get("maximize", False))  # else torch.optim descends
            parameter.grad = (gradient[name] if ascending else gradient[name].neg()).to(parameter.dtype)
        optimizer.step()
        for parameter in parameters:
            parameter.grad = None
        if scheduler is not None:
            scheduler.step()
        after = {
            "optimizer": optimizer.state_dict(),
            "scheduler": None if scheduler is None else _plain(scheduler.state_dict()),
        }
        return dict(zip(names, parameters, strict=True)), after

    def _decay(
        self, group: Mapping[str, Any], names: list[str], parameters: list[Tensor], decayed: Collection[str]
    ) -> None:
        if self.weight_decay:
            for name, parameter in zip(names, parameters, strict=True):
                if name in decayed:
                    parameter.mul_(1.0 - float(group["lr"]) * self.weight_decay)

    def _build(self, parameters: list[Tensor]) -> Optimizer:
        if callable(self.optimizer):
            return self.optimizer(parameters)
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.lr, fused=True, maximize=True)  # one pass over memory
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=self.lr, maximize=True)
        return ClipUp(parameters, lr=self.lr)


def _copy(value: Any) -> Any:
    """A deep copy of a state: ``load_state_dict`` keeps the tensors that it is given, and ``step`` writes into them."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copy(v) for v in value)
    return value


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's state without its functions, which belong to the factory that builds it."""
    return {key: value for key, value in state.items() if not callable(value)}
