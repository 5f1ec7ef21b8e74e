"""The contracts of agent types and environments, on our own; and broken tensor environments, which are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperfunc.agents import BlockAgentRunner
from hyperfunc.testing import AgentCase, AgentTypeContract, EnvironmentContract, TensorEnvironmentContract
from hyperfunc_agents import Game, GameResponse, TensorCartPole, TensorEnvironment, Transition
from hyperfunc_agents.game_environments import resolve_environment


async def lean(observation: Tensor, state: Tensor | None = None) -> GameResponse:
    steps = torch.zeros(()) if state is None else state
    return GameResponse((observation[2] + observation[3] > 0).long(), state=steps + 1)


class TestGame(AgentTypeContract):
    @pytest.fixture(params=["CartPole-v1", "tensor", "factory"])
    def agent_case(self, request: pytest.FixtureRequest) -> AgentCase:
        env = {"factory": Walk, "tensor": TensorCartPole}.get(request.param, request.param)
        return AgentCase(Game, lean, [{"env": env, "seed": seed, "max_steps": 30} for seed in (0, 3)])

    def test_it_knows_how_to_run_blocks(self) -> None:
        assert isinstance(Game(), BlockAgentRunner)


class Walk:
    """A factory's environment: four numbers that drift with the action, from a start of its seed's own."""

    action_space = None

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.at = np.random.default_rng(self.seed if seed is None else seed).normal(size=4).astype(np.float32)
        return self.at.copy(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.at += np.float32(0.1 * (2 * action - 1))
        return self.at.copy(), float(self.at[0]), bool(abs(self.at).max() > 4), False, {}


class TestWalk(EnvironmentContract):
    @pytest.fixture
    def environment_factory(self) -> Callable[[int], Any]:
        return Walk

    @pytest.fixture
    def action(self) -> Callable[[Any, int], Any]:
        return lambda environment, step: step % 2


class TestGymnasiumById(EnvironmentContract):
    """What an example's ``env="Acrobot-v1"`` is made of."""

    @pytest.fixture
    def environment_factory(self) -> Callable[[int], Any]:
        gymnasium = pytest.importorskip("gymnasium")
        return lambda seed: gymnasium.make(resolve_environment("Acrobot-v1"), disable_env_checker=True)


# --- broken ones -----------------------------------------------------------------------------------------------------


class Sound(TensorEnvironment):
    def reset(self, generator: torch.Generator) -> Tensor:
        return torch.rand(2, generator=generator)

    def observe(self, state: Tensor) -> Tensor:
        return state

    def step(self, state: Tensor, action: Any) -> Transition:
        after = state + 0.1 * action
        return Transition(after, after.sum(), after[0] > 10)


class Moody(Sound):
    def reset(self, generator: torch.Generator) -> Tensor:
        return torch.rand(2)


class Windy(Sound):
    def step(self, state: Tensor, action: Any) -> Transition:
        return super().step(state + torch.rand(2), action)


class Overwriting(Sound):
    def step(self, state: Tensor, action: Any) -> Transition:
        return super().step(state.mul_(1.5), action)


class Growing(Sound):
    def step(self, state: Tensor, action: Any) -> Transition:
        return Transition(torch.cat([state, state[:1]]), state.sum(), state[0] > 10)


class Counting(Sound):
    def step(self, state: Tensor, action: Any) -> Transition:
        return Transition(state, torch.tensor(1), torch.tensor([False]))


class Branching(Sound):
    def step(self, state: Tensor, action: Any) -> Transition:
        return super().step(-state if state[0] > 0.5 else state, action)


class Remembering(Sound):
    """Keeps something on the instance."""

    def step(self, state: Tensor, action: Any) -> Transition:
        self.calls = getattr(self, "calls", 0) + 1
        return super().step(state * self.calls, action)


@pytest.mark.parametrize(
    ("broken", "test", "error"),
    [
        (Moody, "test_a_seed_fixes_the_first_state_and_another_gives_another", AssertionError),
        (Moody, "test_the_global_generator_is_left_alone", AssertionError),
        (Windy, "test_the_global_generator_is_left_alone", AssertionError),
        (Overwriting, "test_stepping_leaves_the_state_alone", AssertionError),
        (Growing, "test_states_are_tensors_and_keep_their_form", AssertionError),
        (Counting, "test_rewards_and_ends_are_single_numbers", AssertionError),
        (Branching, "test_many_episodes_in_one_kernel_are_the_episodes_one_by_one", RuntimeError),
        (Remembering, "test_the_same_actions_make_the_same_episode", AssertionError),
    ],
)
def test_a_broken_environment_is_refused(broken: type[Sound], test: str, error: type[Exception]):
    check = getattr(TensorEnvironmentContract(), test)
    further = {"actions": lambda step: torch.tensor(step % 2)}
    arguments = {name: further[name] for name in inspect.signature(check).parameters if name in further}
    with pytest.raises(error):
        check(tensor_environment=broken(), **arguments)
    check(tensor_environment=Sound(), **arguments)
