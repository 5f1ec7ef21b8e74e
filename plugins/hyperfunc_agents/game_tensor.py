"""Tensor environments: pure ``reset`` and ``step`` on tensors, so that environment and policy are one kernel.

The functions of an environment describe **one** episode; vmap runs members × episodes of them. This file also holds
the episode itself as a value (:class:`Progress`) and the few steps that carry it on. Knows nothing of populations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc_agents.game_results import GameResponse
from hyperfunc_agents.game_statistics import Seen, see, unseen

__all__ = ["Act", "Progress", "TensorEnvironment", "Transition", "advance", "begin"]

Act = Callable[[Any, Any, Mapping[str, Any]], Awaitable[GameResponse]]
"""The policy: ``(observation, state, further arguments) -> response``."""


class Transition(NamedTuple):
    """What one action leads to.

    Attributes:
        state: the environment's next state, of the same shapes and dtypes.
        reward: 0-dim, floating.
        terminated: 0-dim, boolean: the episode has come to its end.
    """

    state: Any
    reward: Tensor
    terminated: Tensor


class TensorEnvironment(ABC):
    """An environment of pure tensor functions; instances hold constants only.

    Randomness is drawn in :meth:`reset` alone: an environment with random steps draws what it needs there and carries
    it in its state.

    Attributes:
        max_steps: after this many actions an episode is truncated.
    """

    max_steps: ClassVar[int] = 1000

    @abstractmethod
    def reset(self, generator: torch.Generator) -> Any:
        """The first state, a tensor or a nest of tensors; a pure function of the generator's seed."""

    @abstractmethod
    def observe(self, state: Any) -> Any:
        """What the policy sees of ``state``."""

    @abstractmethod
    def step(self, state: Any, action: Any) -> Transition:
        """The next state. Must not branch on values: use ``torch.where``. Called for finished episodes too, whose
        outcome is then left aside."""


class Progress(NamedTuple):
    """An episode on its way: all there is to know of it, every leaf a tensor.

    Attributes:
        state: of the environment, frozen once the episode is over.
        memory: the policy's own state; ``None`` before its first answer or for a policy without.
        total: 0-dim float64, the return so far.
        steps: 0-dim int64.
        limit: 0-dim int64, most steps.
        done, truncated: 0-dim boolean.
        seen: of the observations acted on, where somebody wants to know.
    """

    state: Any
    memory: Any
    total: Tensor
    steps: Tensor
    limit: Tensor
    done: Tensor
    truncated: Tensor
    seen: Seen | None = None


def begin(environment: TensorEnvironment, seed: int, max_steps: int | None, size: int | None = None) -> Progress:
    """The episode of this seed, before its first action; observations of ``size`` numbers are summed up."""
    limit = environment.max_steps if max_steps is None else min(max_steps, environment.max_steps)
    return Progress(
        state=environment.reset(torch.Generator().manual_seed(seed)),
        memory=None,
        total=torch.zeros((), dtype=torch.float64),
        steps=torch.zeros((), dtype=torch.int64),
        limit=torch.tensor(limit),
        done=torch.tensor(False),
        truncated=torch.tensor(False),
        seen=None if size is None else unseen(size),
    )


async def advance(
    environment: TensorEnvironment, act: Act, progress: Progress, arguments: Mapping[str, Any], steps: int
) -> Progress:
    """Carry an episode on by ``steps`` actions, or to its end: no value is looked at, so this may be vmapped."""
    for _ in range(steps):
        observation = environment.observe(progress.state)
        response = await act(observation, progress.memory, arguments)
        after = environment.step(progress.state, response.action)
        live = ~(progress.done | progress.truncated)
        counted = progress.steps + live
        done = progress.done | (live & after.terminated)
        progress = Progress(
            state=pytree.tree_map(lambda new, old, live=live: torch.where(live, new, old), after.state, progress.state),
            memory=response.state,
            total=progress.total + torch.where(live, after.reward, 0.0),
            steps=counted,
            limit=progress.limit,
            done=done,
            truncated=progress.truncated | (live & ~done & (counted >= progress.limit)),
            seen=None if progress.seen is None else see(progress.seen, observation, live),
        )
    return progress
