"""``TorchEggrollES``: EGGROLL for a bare ``nn.Module``, without a system around it.

Two ways to use it. ``step`` evaluates the population itself, lifted over members, with weights that are never built.
Or the caller evaluates: ``prepare_population`` (or ``get_stacked_params``) hands out the members, and
``apply_fitness_scores`` takes their fitness. The module's own weights change in ``step`` and ``apply_fitness_scores``
and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from hyperfunc.errors import ConfigurationError, OptimizationError
from hyperfunc.evolution.center import CenterState
from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.gradient import GradientAscent, OptimizerFactory, OptimizerName
from hyperfunc.evolution.shaping import Shaping, ShapingName
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.evolution.state import dump_state, load_state
from hyperfunc.population.factored_members import Leaves, member_leaves, member_parameters
from hyperfunc.population.noise import NoiseKind

__all__ = ["TorchEggrollES"]

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""``(outputs, targets) -> loss``, a scalar tensor; lower is better."""


class TorchEggrollES:
    """Evolve the parameters of one module.

    Args:
        model: the module; its floating parameters evolve, its buffers do not. Put it into evaluation mode if it holds
            batch normalisation, whose running statistics have no meaning for a population.
        pop_size: members per generation; even when ``antithetic``.
        sigma: deviation of the noise.
        lr: learning rate of ``optimizer``.
        rank: rank of the noise of matrices.
        device: where the module is moved first; ``None`` leaves it where it is.
        param_filter: ``(parameter, name) -> bool``, which parameters evolve; ``None``: those with ``requires_grad``.
        normalize_fitness: shape fitness by ``shaping``; otherwise use it raw.
        antithetic: members in pairs ``±noise``.
        seed: of all noise.
        optimizer: ``"adam"``, ``"sgd"``, ``"clipup"`` or a factory of a ``torch.optim`` optimizer.
        weight_decay: decoupled.
        shaping: ``"centered_ranks"``, ``"z_score"``, ``"raw"`` or a function.
        noise: ``"gaussian"`` or ``"rademacher"``.
        block_size: members per block, which bounds the memory of ``step``; 0: the whole population up to 64.

    Raises:
        ConfigurationError: no parameter is left to evolve, or a number is out of range.
    """

    def __init__(
        self,
        model: nn.Module,
        pop_size: int = 32,
        sigma: float = 0.02,
        lr: float = 0.05,
        rank: int = 4,
        device: torch.device | str | None = None,
        param_filter: Callable[[nn.Parameter, str], bool] | None = None,
        normalize_fitness: bool = True,
        antithetic: bool = True,
        *,
        seed: int = 0,
        optimizer: OptimizerName | OptimizerFactory = "adam",
        weight_decay: float = 0.0,
        shaping: ShapingName | Shaping = "centered_ranks",
        noise: NoiseKind = "gaussian",
        block_size: int = 0,
    ) -> None:
        self.model = model if device is None else model.to(device)
        chosen = param_filter or (lambda parameter, name: parameter.requires_grad)
        self._parameters = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if parameter.dtype.is_floating_point and chosen(parameter, name)
        }
        if not self._parameters:
            raise ConfigurationError("param_filter: expected at least one floating parameter to evolve, got none")
        self.strategy = Eggroll(
            population_size=pop_size,
            block_size=block_size,
            antithetic=antithetic,
            sigma=sigma,
            rank=rank,
            ascent=GradientAscent(optimizer, lr, weight_decay=weight_decay),
            shaping=shaping if normalize_fitness else "raw",
            noise=noise,
        )
        values = {name: parameter.detach() for name, parameter in self._parameters.items()}
        self._state: CenterState = self.strategy.init(ParameterGroup.of(values), values, seed)

    @property
    def generation(self) -> int:
        """How many generations were applied."""
        return self._state.generation

    def step(self, inputs: Tensor, loss_fn: LossFunction, targets: Tensor) -> float:
        """One generation on one batch; the module moves to the new centre.

        Args:
            inputs, targets: the batch, the same for every member.
            loss_fn: must be made of tensor operations, since it runs under ``torch.vmap``.

        Returns:
            The mean loss of the members whose loss is finite; NaN if there is none.
        """
        with torch.no_grad():
            losses = torch.cat([self._losses(block, inputs, loss_fn, targets) for block in self.strategy.blocks()])
        return -self.apply_fitness_scores(-losses)

    def prepare_population(self) -> list[dict[str, Tensor]]:
        """Every member of the current generation as a dictionary of dense parameters, in member order."""
        members: list[dict[str, Tensor]] = []
        for block in self.strategy.blocks():
            values = self.strategy.ask(self._state, block)
            members += [
                {name: v.dense(index) for name, v in values.items()} for index in range(self.strategy.size_of(block))
            ]
        return members

    def get_stacked_params(self) -> dict[str, Tensor]:
        """The same members stacked: parameter name -> ``[pop_size, *shape]``, for ``torch.vmap``."""
        population = self.prepare_population()
        return {name: torch.stack([member[name] for member in population]) for name in self._parameters}

    def apply_fitness_scores(self, fitnesses: Tensor) -> float:
        """Learn from the members' fitness and move the module to the new centre.

        Args:
            fitnesses: ``[pop_size]`` in member order, higher is better; NaN drops a member (and its twin).

        Returns:
            The mean of the finite fitnesses; NaN if there is none.
        """
        fitness = torch.as_tensor(fitnesses).detach().to(device="cpu", dtype=torch.float64)
        self._state = self.strategy.tell(self._state, fitness)
        self._write()
        finite = fitness[torch.isfinite(fitness)]
        return float(finite.mean()) if finite.numel() else math.nan

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on with the same bits: ``{"tensors": name -> tensor, "meta": JSON object}``."""
        tensors, meta = dump_state(self._state)
        return {"tensors": tensors, "meta": meta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``; the module moves to the saved centre.

        Raises:
            OptimizationError: the state belongs to other parameters.
            ResumeError: it is no state of this strategy.
        """
        loaded = load_state(self.strategy, state["tensors"], state["meta"])
        if loaded.group.names != self._state.group.names or any(
            loaded.group.parameters[name].shape != spec.shape for name, spec in self._state.group.parameters.items()
        ):
            raise OptimizationError(
                f"expected the state of parameters {', '.join(self._state.group.names)} in their shapes, "
                f"got that of {', '.join(loaded.group.names)}"
            )
        device = {name: parameter.device for name, parameter in self._parameters.items()}
        center = {name: value.to(device[name]) for name, value in loaded.center.items()}
        self._state = CenterState(loaded.group, center, loaded.optimizer, loaded.seed, loaded.generation)
        self._write()

    def _losses(self, block: int, inputs: Tensor, loss_fn: LossFunction, targets: Tensor) -> Tensor:
        members = self.strategy.ask(self._state, block)

        def member_loss(leaves: Leaves) -> Tensor:
            outputs = functional_call(self.model, member_parameters(members, leaves), (inputs,))
            return loss_fn(outputs, targets)

        losses: Tensor = vmap(member_loss)(member_leaves(members))
        if losses.ndim != 1:
            raise ConfigurationError(f"loss_fn: expected one number per member, got shape {list(losses.shape[1:])}")
        return losses.to(torch.float64).cpu()

    def _write(self) -> None:
        with torch.no_grad():
            for name, value in self.strategy.mean(self._state).items():
                self._parameters[name].copy_(value)
