"""What every tensor environment must do, as tests: override the fixture ``tensor_environment``.

A tensor environment has ``reset(generator)``, ``observe(state)`` and ``step(state, action)`` for one episode, pure
functions on tensors; many episodes run as one kernel under ``torch.vmap``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.testing.contracts._values import copy_of, same

__all__ = ["TensorEnvironmentContract"]

Action = Callable[[Any, int], Any]


class TensorEnvironmentContract:
    """Tests of one tensor environment."""

    steps: int = 20
    """Actions that a test takes; the episode may end before, and goes on all the same."""

    @pytest.fixture
    def tensor_environment(self) -> Any:
        """The environment. Override this."""
        raise NotImplementedError("override the fixture tensor_environment with a tensor environment")

    @pytest.fixture
    def tensor_action(self) -> Action:
        """``(environment, step) -> action``, a tensor or a nest of tensors, the same for the same step. Override it
        where actions are not the whole numbers 0 and 1."""
        return lambda environment, step: torch.tensor((step // 2) % 2)

    def test_it_says_how_long_an_episode_may_last(self, tensor_environment: Any) -> None:
        assert isinstance(tensor_environment.max_steps, int)
        assert tensor_environment.max_steps >= 1

    @pytest.mark.parametrize("seed", [0, 1, 2**31 - 1])
    def test_a_seed_fixes_the_start(self, tensor_environment: Any, seed: int) -> None:
        first, second = (_begin(tensor_environment, seed) for _ in range(2))
        assert same(first, second), f"seed {seed} gave two different starts"
        assert all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(first)), "a state is made of tensors"

    def test_no_other_randomness_is_used(self, tensor_environment: Any, tensor_action: Action) -> None:
        before = torch.get_rng_state()
        _play(tensor_environment, tensor_action, 0, self.steps)
        assert torch.equal(before, torch.get_rng_state()), "draw from the generator that reset() is given, nowhere else"

    def test_the_same_actions_lead_to_the_same_episode(self, tensor_environment: Any, tensor_action: Action) -> None:
        first, second = (_play(tensor_environment, tensor_action, 3, self.steps) for _ in range(2))
        assert same(first, second)

    def test_states_and_actions_are_left_alone(self, tensor_environment: Any, tensor_action: Action) -> None:
        state, action = _begin(tensor_environment, 0), tensor_action(tensor_environment, 0)
        given = copy_of((state, action))
        tensor_environment.observe(state)
        tensor_environment.step(state, action)
        assert same(given, (state, action)), "step() and observe() must not write into what they are given"

    def test_states_and_observations_keep_their_form(self, tensor_environment: Any, tensor_action: Action) -> None:
        episode = _play(tensor_environment, tensor_action, 1, self.steps)
        assert len({_form(state) for _, state, *_ in episode}) == 1, "the state changed its shapes or dtypes"
        assert len({_form(observation) for observation, *_ in episode}) == 1, "observations changed their form"

    def test_a_step_has_one_finite_reward_and_one_end(self, tensor_environment: Any, tensor_action: Action) -> None:
        for _, _, reward, terminated in _play(tensor_environment, tensor_action, 2, self.steps):
            assert reward.shape == terminated.shape == torch.Size([])
            assert reward.is_floating_point()
            assert bool(torch.isfinite(reward))
            assert terminated.dtype == torch.bool

    def test_many_episodes_at_once_are_each_as_alone(self, tensor_environment: Any, tensor_action: Action) -> None:
        seeds = range(4)
        alone = [_play(tensor_environment, tensor_action, seed, self.steps) for seed in seeds]
        states = [_begin(tensor_environment, seed) for seed in seeds]
        state = pytree.tree_map(lambda *leaves: torch.stack(leaves), *states)
        for step in range(self.steps):
            action = tensor_action(tensor_environment, step)

            def one(state: Any, action: Any = action) -> Any:
                observation = tensor_environment.observe(state)
                return (observation, *tensor_environment.step(state, action))

            together = torch.vmap(one)(state)
            for lane, episode in enumerate(alone):
                found = pytree.tree_map(lambda leaf, lane=lane: leaf[lane], together)
                assert _close(tuple(found), episode[step]), f"step {step} of episode {lane} differs under vmap"
            state = together[1]


def _begin(environment: Any, seed: int) -> Any:
    return environment.reset(torch.Generator().manual_seed(seed))


def _play(environment: Any, action: Action, seed: int, steps: int) -> list[tuple[Any, Any, Tensor, Tensor]]:
    """Per step: what was seen, the state after it, the reward and whether it was the end."""
    state, episode = _begin(environment, seed), []
    for step in range(steps):
        observation = environment.observe(state)
        state, reward, terminated = environment.step(state, action(environment, step))
        episode.append((observation, state, reward, terminated))
    return episode


def _form(nest: Any) -> tuple[str, tuple[Any, ...]]:
    leaves, structure = pytree.tree_flatten(nest)
    return str(structure), tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def _close(left: Any, right: Any) -> bool:
    pairs = zip(pytree.tree_leaves(left), pytree.tree_leaves(right), strict=True)
    return all(
        a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in pairs
    )
