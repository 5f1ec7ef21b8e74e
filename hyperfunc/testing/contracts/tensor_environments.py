"""What every tensor environment must do, as tests: override the fixture ``tensor_environment``.

A tensor environment is registered like any other; ``reset(generator)``, ``observe(state)`` and ``step(state, action)``
are pure functions of tensors for **one** episode, which vmap runs for many at once.
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


class TensorEnvironmentContract:
    """Tests of one tensor environment."""

    episode_count: int = 5
    """Episodes that are run at once."""

    step_count: int = 20
    """Steps of each; an episode that has ended is stepped on, as a population's are."""

    @pytest.fixture
    def tensor_environment(self) -> Any:
        """The environment. Override this."""
        raise NotImplementedError("override the fixture tensor_environment with an instance of your environment")

    @pytest.fixture
    def actions(self) -> Callable[[int], Tensor]:
        """``(step) -> action``, one episode's, as a policy gives it. Override it where 0 and 1 are no actions."""
        return lambda step: torch.tensor((step * 7 + step // 3) % 2)

    def _start(self, environment: Any, seed: int) -> Any:
        return environment.reset(torch.Generator().manual_seed(seed))

    def _episode(self, environment: Any, actions: Callable[[int], Tensor], seed: int) -> list[Any]:
        state, seen = self._start(environment, seed), []
        for step in range(self.step_count):
            after = environment.step(state, actions(step))
            seen.append((environment.observe(state), after.reward, after.terminated, after.state))
            state = after.state
        return seen

    def test_a_seed_fixes_the_first_state_and_another_gives_another(self, tensor_environment: Any) -> None:
        for seed in (0, 1, 2**31 - 1):
            assert same(self._start(tensor_environment, seed), self._start(tensor_environment, seed))
        starts = [self._start(tensor_environment, seed) for seed in range(8)]
        assert any(not same(starts[0], start) for start in starts[1:]), "every seed begins alike"

    def test_the_global_generator_is_left_alone(
        self, tensor_environment: Any, actions: Callable[[int], Tensor]
    ) -> None:
        before = torch.get_rng_state()
        self._episode(tensor_environment, actions, 0)
        assert torch.equal(before, torch.get_rng_state())

    def test_states_are_tensors_and_keep_their_form(
        self, tensor_environment: Any, actions: Callable[[int], Tensor]
    ) -> None:
        state = self._start(tensor_environment, 0)
        after = tensor_environment.step(state, actions(0)).state
        leaves, structure = pytree.tree_flatten(state)
        next_leaves, next_structure = pytree.tree_flatten(after)
        assert leaves
        assert structure == next_structure
        for leaf, next_leaf in zip(leaves, next_leaves, strict=True):
            assert isinstance(leaf, Tensor)
            assert (leaf.shape, leaf.dtype) == (next_leaf.shape, next_leaf.dtype)

    def test_rewards_and_ends_are_single_numbers(
        self, tensor_environment: Any, actions: Callable[[int], Tensor]
    ) -> None:
        for _, reward, terminated, _ in self._episode(tensor_environment, actions, 3):
            assert reward.shape == terminated.shape == ()
            assert reward.is_floating_point()
            assert bool(torch.isfinite(reward))
            assert terminated.dtype == torch.bool

    def test_stepping_leaves_the_state_alone(self, tensor_environment: Any, actions: Callable[[int], Tensor]) -> None:
        state = self._start(tensor_environment, 0)
        before = copy_of(state)
        tensor_environment.observe(state)
        tensor_environment.step(state, actions(0))
        assert same(before, state)

    def test_the_same_actions_make_the_same_episode(
        self, tensor_environment: Any, actions: Callable[[int], Tensor]
    ) -> None:
        first = self._episode(tensor_environment, actions, 2)
        self._episode(tensor_environment, actions, 4)  # nothing of another episode stays behind
        assert same(first, self._episode(tensor_environment, actions, 2))

    def test_many_episodes_in_one_kernel_are_the_episodes_one_by_one(
        self, tensor_environment: Any, actions: Callable[[int], Tensor]
    ) -> None:
        starts = [self._start(tensor_environment, seed) for seed in range(self.episode_count)]
        states = pytree.tree_map(lambda *leaves: torch.stack(leaves), *starts)
        alone = [self._episode(tensor_environment, actions, seed) for seed in range(self.episode_count)]
        observe, step = torch.vmap(tensor_environment.observe), torch.vmap(tensor_environment.step)
        for number in range(self.step_count):
            action = actions(number)
            after = step(states, action.expand(self.episode_count, *action.shape))
            together = (observe(states), after.reward, after.terminated, after.state)
            for episode, expected in enumerate(alone):
                one = pytree.tree_map(lambda leaf, episode=episode: leaf[episode], together)
                for mine, reference in zip(pytree.tree_leaves(one), pytree.tree_leaves(expected[number]), strict=True):
                    torch.testing.assert_close(mine, reference)
            states = after.state

    def test_it_says_how_long_an_episode_may_be(self, tensor_environment: Any) -> None:
        assert isinstance(tensor_environment.max_steps, int)
        assert tensor_environment.max_steps >= 1
