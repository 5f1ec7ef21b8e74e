"""One episode: seeds, limits, ends, actions, recurrent state, what is recorded."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, hyperfunction
from hyperfunc.errors import ConfigurationError
from hyperfunc_agents import (
    EpisodeResult,
    EpisodeReturn,
    GameResponse,
    TensorCartPole,
    episodes,
    play,
    summarize_returns,
)
from hyperfunc_agents.game_environments import as_environment_action, as_observation


class Pusher(HyperSystem):
    """Pushes to the side to which the pole leans."""

    agent_type = "game"

    async def run(self, observation: torch.Tensor) -> GameResponse:
        return GameResponse((observation[2] + observation[3] > 0).long(), value=1.5)


def gymnasium_episode(seed: int, limit: int = 500) -> tuple[float, int, bool, bool, np.ndarray]:
    env = gymnasium.make("CartPole-v1")
    seen, _ = env.reset(seed=seed)
    total, steps = 0.0, 0
    while True:
        seen, reward, terminated, truncated, _ = env.step(int(seen[2] + seen[3] > 0))
        total, steps = total + float(reward), steps + 1
        if terminated or truncated or steps >= limit:
            env.close()
            return total, steps, terminated, truncated, seen


@pytest.mark.parametrize("seed", [0, 1, 7])
async def test_an_episode_is_gymnasiums_own(seed: int):
    result = await Pusher().execute({"env": "CartPole-v1", "seed": seed})
    total, steps, terminated, truncated, seen = gymnasium_episode(seed)
    assert (result.total_reward, result.steps, result.done, result.truncated) == (total, steps, terminated, truncated)
    assert result.final_observation.tolist() == pytest.approx(seen.tolist())


async def test_seed_0_is_a_seed():
    system = Pusher()
    first = await system.execute({"env": "CartPole-v1", "seed": 0, "max_steps": 5})
    again = await system.execute({"env": "CartPole-v1", "seed": 0, "max_steps": 5})
    other = await system.execute({"env": "CartPole-v1", "seed": 1, "max_steps": 5})
    assert torch.equal(first.final_observation, again.final_observation)
    assert not torch.equal(first.final_observation, other.final_observation)


async def test_without_a_seed_the_runs_seed_decides():
    example = Example({"env": "CartPole-v1", "max_steps": 5}, None)

    class Position:
        def score(self, output: Any, expected: Any, inputs: Any = None) -> Any:
            return EpisodeReturn().score(EpisodeResult(float(output.final_observation[0])), expected)

    zero = await Pusher().evaluate([example], Position(), seed=0)
    assert zero == await Pusher().evaluate([example], Position(), seed=0)
    assert zero != await Pusher().evaluate([example], Position(), seed=1)


@pytest.mark.parametrize("env", ["CartPole-v1", "tensor-cartpole", TensorCartPole, TensorCartPole()])
async def test_max_steps_truncates(env: Any):
    result = await Pusher().execute({"env": env, "seed": 0, "max_steps": 9})
    assert (result.steps, result.done, result.truncated) == (9, False, True)


class Falling:
    """Ends by itself at the fourth step."""

    def __init__(self, seed: int, at: int = 4) -> None:
        self.seed, self.at, self.closed = seed, at, False

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.left = self.at
        return np.array([self.left], dtype=np.float64), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.left -= 1
        return np.array([self.left], dtype=np.float64), 0.5, self.left == 0, False, {"left": self.left}

    def close(self) -> None:
        self.closed = True


class Still(HyperSystem):
    agent_type = "game"

    async def run(self, observation: torch.Tensor) -> int:
        return 0


async def test_an_end_at_the_last_allowed_step_is_an_end_and_no_truncation():
    made: list[Falling] = []

    def factory(seed: int) -> Falling:
        made.append(Falling(seed))
        return made[-1]

    result = await Still().execute({"env": factory, "seed": 3, "max_steps": 4})
    assert (result.total_reward, result.steps, result.done, result.truncated) == (2.0, 4, True, False)
    assert result.info == {"left": 0}
    assert result.final_observation.dtype == torch.float32
    assert made[0].seed == 3
    assert made[0].closed


class Counter(HyperSystem):
    """Recurrent: answers with the number of steps so far, and pushes right on every third."""

    agent_type = "game"

    async def run(self, observation: torch.Tensor, state: torch.Tensor | None = None) -> GameResponse:
        count = observation.new_zeros(()) if state is None else state
        return GameResponse((count % 3 == 2).long(), state=count + 1)


async def test_state_is_carried_from_step_to_step_and_not_to_the_next_episode():
    system = Counter()
    first = await play(system, "CartPole-v1", max_steps=6)
    assert [int(step.action) for step in first.trajectory] == [0, 0, 1, 0, 0, 1]
    again = await play(system, "tensor-cartpole", max_steps=4)
    assert [int(step.action) for step in again.trajectory] == [0, 0, 1, 0]


async def test_a_trajectory_is_recorded_where_it_is_asked_for():
    result = await play(Pusher(), "CartPole-v1", seed=2, max_steps=20)
    assert len(result.trajectory) == result.steps == 20
    assert {step.value for step in result.trajectory} == {1.5}
    told = result.describe(3)
    assert "was cut off by a limit after 20 steps with a return of 20" in told
    assert "(17 earlier steps)" in told
    assert told.count("step 1") == 3
    assert (await Pusher().execute({"env": "CartPole-v1", "max_steps": 20})).trajectory == ()
    assert result.to_dict()["final_observation"] == pytest.approx(result.final_observation.tolist())
    assert "step 19" in EpisodeReturn().score(result, None).feedback


class Goal(HyperSystem):
    agent_type = "game"

    async def run(self, observation: torch.Tensor, side: int) -> int:
        return side


async def test_further_inputs_reach_every_step():
    left = await play(Goal(), "CartPole-v1", max_steps=5, side=0)
    right = await play(Goal(), "CartPole-v1", max_steps=5, side=1)
    assert left.final_observation[1] < 0 < right.final_observation[1]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"seed": 0}, "names its environment"),
        ({"env": "CartPole-v1", "seed": -1}, "seed: expected"),
        ({"env": "CartPole-v1", "seed": True}, "seed: expected"),
        ({"env": "CartPole-v1", "seed": "0"}, "seed: expected"),
        ({"env": "CartPole-v1", "max_steps": 0}, "max_steps: expected"),
        ({"env": "CartPolle-v1"}, "no environment named 'CartPolle-v1'"),
        ({"env": 3}, "expected a gymnasium id"),
        ({"env": lambda seed: object()}, r"without reset\(\) and step\(\)"),
    ],
)
async def test_bad_inputs_are_named(inputs: dict[str, Any], message: str):
    with pytest.raises(ConfigurationError, match=message):
        await Still().execute(inputs)


async def test_an_action_of_another_shape_is_refused():
    class Wide(HyperSystem):
        agent_type = "game"

        async def run(self, observation: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2, dtype=torch.int64)

    with pytest.raises(ConfigurationError, match=r"expects the shape \(\).*answered \(2,\)"):
        await Wide().execute({"env": "CartPole-v1", "seed": 0})


def test_actions_and_observations_are_converted():
    discrete, box = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    assert as_environment_action(torch.tensor(2), discrete) == 2
    assert as_environment_action(torch.tensor([2]), discrete) == 2
    moved = as_environment_action(torch.tensor([0.5, -0.5], dtype=torch.float64), box)
    assert moved.dtype == np.float32
    assert as_environment_action(torch.tensor(2.0), discrete) == 2
    assert as_environment_action("north", None) == "north"
    nest = as_observation({"pixels": np.zeros((2, 2), np.uint8), "cell": 3, "words": "a wall", "pair": (1.0, True)})
    assert nest["pixels"].dtype == torch.uint8
    assert (nest["cell"].dtype, nest["cell"].shape) == (torch.int64, torch.Size([]))
    assert nest["words"] == "a wall"
    assert nest["pair"][1].dtype == torch.bool


@pytest.mark.parametrize("action", [0.7, float("nan"), float("inf")])
def test_a_fraction_is_no_whole_action(action: float):
    with pytest.raises(ConfigurationError, match=r"expects whole numbers \(Discrete\(2\)\), run\(\) answered"):
        as_environment_action(torch.tensor(action), gymnasium.spaces.Discrete(2))


async def test_a_population_whose_actions_are_fractions_is_told_so():
    class Undecided(HyperSystem):
        agent_type = "game"

        def __init__(self) -> None:
            super().__init__(seed=0)
            self.network = hyperfunction(torch.nn.Linear(4, 1), optimize_hparams=True)

        async def run(self, observation: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid((await self.network(observation))[0])

    optimizer = ESHybridSystemOptimizer(steps=1, pop_size=4)
    with pytest.raises(ConfigurationError, match=r"expects whole numbers .* argmax"):
        await Undecided().optimize_tensors(
            episodes("CartPole-v1", 2, max_steps=5), EpisodeReturn(), optimizer=optimizer
        )


def test_an_observation_is_not_the_environments_own_buffer():
    buffer = np.zeros(3, dtype=np.float32)
    seen = as_observation(buffer)
    buffer[:] = 1
    assert seen.tolist() == [0, 0, 0]


async def test_the_tensor_cartpole_follows_gymnasiums_physics():
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    tensor = TensorCartPole()
    state = torch.tensor([0.03, -0.2, 0.05, 0.4])
    env.state = state.double().numpy().copy()
    for action in [0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0]:
        seen, _, terminated, _, _ = env.step(action)
        state, reward, over = tensor.step(state, torch.tensor(action))
        assert state.tolist() == pytest.approx(seen.tolist(), abs=1e-5)
        assert (float(reward), bool(over)) == (1.0, terminated)


def test_returns_are_summed_up_with_an_interval():
    found = summarize_returns([EpisodeResult(r, int(r), done=True) for r in (10.0, 20.0, 30.0)])
    assert (found.mean, found.episodes, found.steps, found.done, found.truncated) == (20.0, 3, 60, 3, 0)
    # Student's t with 2 degrees of freedom: 4.3027 · 10 / √3
    assert found.interval.low == pytest.approx(20 - 24.841, abs=1e-2)
    assert summarize_returns([EpisodeResult(5.0)]).interval == (float("-inf"), float("inf"))


def test_episodes_makes_examples_with_seeds_from_0():
    made = episodes("CartPole-v1", 3, max_steps=10, side=1)
    assert [e.inputs["seed"] for e in made] == [0, 1, 2]
    assert made[0].inputs == {"env": "CartPole-v1", "seed": 0, "max_steps": 10, "side": 1}
    assert [e.inputs["seed"] for e in episodes("CartPole-v1", [5, 9])] == [5, 9]


async def test_an_async_hyperfunction_decides():
    @hyperfunction()
    async def lean(observation: torch.Tensor) -> torch.Tensor:
        return (observation[2] + observation[3] > 0).long()

    class Asked(HyperSystem):
        agent_type = "game"

        async def run(self, observation: torch.Tensor) -> torch.Tensor:
            return await lean(observation)

    result = await Asked().execute({"env": "CartPole-v1", "seed": 1})
    assert result.total_reward == gymnasium_episode(1)[0]
