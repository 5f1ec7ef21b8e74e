"""A population's episodes: lifted and one by one are the same, the choice is proven, refusals are named."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperfunc import ESHybridSystemOptimizer, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.errors import LiftError
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.settings import resolve_settings
from hyperfunc_agents import (
    EpisodeReturn,
    GameResponse,
    TensorEnvironment,
    Transition,
    episodes,
    game_vectors,
)

Weight = LoRAWeight.create(2, 5, noise_rank=1)


@hyperfunction(hp_type=Weight, optimize_hparams=True)
async def score(x: Tensor, hp: Any) -> Tensor:
    return hp.weight @ torch.cat([x, x.new_ones(1)])


class Linear(HyperSystem):
    agent_type = "game"

    async def run(self, observation: Tensor) -> GameResponse:
        return GameResponse((await score(observation)).argmax(-1))


class Remembering(HyperSystem):
    """Recurrent: acts on a running mean of what it saw."""

    agent_type = "game"

    async def run(self, observation: Tensor, state: Tensor | None = None) -> GameResponse:
        mean = observation if state is None else 0.7 * state + 0.3 * observation
        return GameResponse((await score(mean)).argmax(-1), state=mean)


def block_of(system: HyperSystem, members: int, seed: int = 0) -> MemberBlock:
    noise = torch.randn(members, 2, 5, generator=torch.Generator().manual_seed(seed))
    noise[:, 1, 2:4] += 2.0  # lean to the right, push to the right: some last longer
    return {"score.hp": DenseMembers(noise)}


async def outcomes(
    system: HyperSystem, env: Any, execution: str, *, members: int = 5, seeds: int = 3, max_steps: int = 60, **more: Any
) -> tuple[BlockOutcome, PopulationRunner]:
    examples = episodes(env, seeds, max_steps=max_steps, **more)
    await system.execute(examples[0].inputs)
    settings = resolve_settings(Settings(execution=execution, workers=1))
    with PopulationRunner(system.program(), settings) as runner:
        block = block_of(system, members)
        (outcome,) = await runner.run(
            lambda _: block, [0], ExampleBatch([e.inputs for e in examples]), lambda _, outcome: outcome
        )
        return outcome, runner


def facts(outcome: BlockOutcome) -> list[Any]:
    return [(r.total_reward, r.steps, r.done, r.truncated) for row in outcome for r in row]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("system", [Linear, Remembering])
@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "tensor-cartpole"])
async def test_every_way_gives_the_same_episodes(env: str, system: type[HyperSystem], seeds: int):
    if env == "Acrobot-v1":  # six numbers seen, of which the policy takes four

        class Narrow(system):  # type: ignore[valid-type,misc]
            async def run(self, observation: Tensor, state: Tensor | None = None) -> GameResponse:
                return await (
                    super().run(observation[:4], state) if system is Remembering else super().run(observation[:4])
                )

        system = Narrow
    limit = 12 if env == "Acrobot-v1" else 60
    lifted, runner = await outcomes(system(), env, "auto", seeds=seeds, max_steps=limit)
    assert (runner.execution, runner.reason[:6]) == ("lifted", "proven")
    alone, _ = await outcomes(system(), env, "sequential", seeds=seeds, max_steps=limit)
    gathered, _ = await outcomes(system(), env, "gathered", seeds=seeds, max_steps=limit)
    assert facts(lifted) == facts(alone) == facts(gathered)
    if env != "Acrobot-v1":
        assert len({fact[1] for fact in facts(lifted)}) > 2  # episodes of different lengths
    for many, one in zip(lifted, alone, strict=True):
        for a, b in zip(many, one, strict=True):
            torch.testing.assert_close(a.final_observation, b.final_observation, rtol=1e-3, atol=1e-4)


async def test_members_meet_the_same_episodes():
    system = Linear()
    examples = episodes("CartPole-v1", [4, 4, 9], max_steps=30)
    await system.execute(examples[0].inputs)
    with PopulationRunner(system.program(), resolve_settings(Settings(execution="lifted", workers=1))) as runner:
        block = {"score.hp": DenseMembers(block_of(system, 1)["score.hp"].dense(0).expand(4, 2, 5).contiguous())}
        (outcome,) = await runner.run(
            lambda _: block, [0], ExampleBatch([e.inputs for e in examples]), lambda _, outcome: outcome
        )
    for row in outcome:
        assert torch.equal(row[0].final_observation, row[1].final_observation)
        assert torch.equal(row[0].final_observation, outcome.outputs_of_example(0, 0).final_observation)
        assert not torch.equal(row[0].final_observation, row[2].final_observation)


async def test_factored_members_play_as_dense_ones():
    system = Linear()
    examples = [e.inputs for e in episodes("CartPole-v1", 2, max_steps=40)]
    await system.execute(examples[0])
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(2, 5, generator=generator)
    factored = FactoredMembers(
        base, torch.randn(4, 2, 1, generator=generator), torch.randn(4, 5, 1, generator=generator), 0.5
    )
    dense = DenseMembers(torch.stack([factored.dense(m) for m in range(4)]))
    found = []
    for values in (factored, dense):
        with PopulationRunner(system.program(), resolve_settings(Settings(execution="lifted", workers=1))) as runner:
            (outcome,) = await runner.run(
                lambda _, v=values: {"score.hp": v}, [0], ExampleBatch(examples), lambda _, outcome: outcome
            )
            found.append(facts(outcome))
    assert found[0] == found[1]


class Branching(HyperSystem):
    agent_type = "game"

    async def run(self, observation: Tensor) -> int:
        return int((await score(observation))[0] > 0)


async def test_a_branching_policy_is_gathered_and_the_reason_is_given():
    outcome, runner = await outcomes(Branching(), "CartPole-v1", "auto")
    assert runner.execution == "gathered"
    assert "reads a tensor's value" in runner.reason
    alone, _ = await outcomes(Branching(), "CartPole-v1", "sequential")
    assert facts(outcome) == facts(alone)
    with pytest.raises(LiftError, match="reads a tensor's value"):
        await outcomes(Branching(), "CartPole-v1", "lifted")


class Waiting(HyperSystem):
    agent_type = "game"

    async def run(self, observation: Tensor) -> Tensor:
        await pause()
        return (await score(observation)).argmax(-1)


@hyperfunction()
async def pause() -> None:
    await asyncio.sleep(0)


async def test_a_policy_that_waits_is_gathered():
    _, runner = await outcomes(Waiting(), "CartPole-v1", "auto", max_steps=5)
    assert runner.execution == "gathered"
    assert "pause waited" in runner.reason


class Cached(HyperSystem):
    """Wrong when lifted: a number computed once, from outside the tensors, decides which action is right."""

    agent_type = "game"
    calls = 0

    async def run(self, observation: Tensor) -> Tensor:
        type(self).calls += 1
        return ((await score(observation)).argmax(-1) + type(self).calls) % 2


async def test_the_proof_finds_calls_that_answer_otherwise_alone():
    _, runner = await outcomes(Cached(), "CartPole-v1", "auto")
    assert runner.execution == "gathered"
    assert "lifted and single calls disagree at member" in runner.reason


async def test_a_vectorised_form_that_differs_is_not_used(monkeypatch: pytest.MonkeyPatch):
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    real = CartPoleVectorEnv.step
    made: list[int] = []
    separate = game_vectors.SeparateLanes.reset

    def heavier(self: Any, action: Any) -> Any:
        self.gravity = 30.0
        return real(self, action)

    def counted(self: Any) -> Any:
        made.append(1)
        return separate(self)

    monkeypatch.setattr(CartPoleVectorEnv, "step", heavier)
    monkeypatch.setattr(game_vectors.SeparateLanes, "reset", counted)
    lifted, runner = await outcomes(Linear(), "CartPole-v1", "auto")
    assert runner.execution == "lifted"
    assert made == [1]
    monkeypatch.undo()
    assert facts(lifted) == facts((await outcomes(Linear(), "CartPole-v1", "sequential"))[0])


class Fragile:
    """Raises for one seed at its third step."""

    action_space = None

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.steps = 0
        return np.full(4, 0.1), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.seed == 1 and self.steps == 3:
            raise RuntimeError("the ice broke")
        return np.full(4, 0.1 * self.steps), 1.0, self.steps == 5, False, {}


async def test_an_environment_that_raises_fails_its_own_episode_only():
    outcome, runner = await outcomes(Linear(), Fragile, "auto", members=3, seeds=3)
    assert runner.execution == "lifted"
    assert sorted(outcome.errors) == [(0, 1), (1, 1), (2, 1)]
    assert "the ice broke" in str(outcome.errors[0, 1])
    assert [row[0].steps for row in outcome] == [5, 5, 5]
    assert all(row[1] is None for row in outcome)


async def test_different_limits_and_environments_share_a_population():
    system = Linear()
    examples = [
        *episodes("CartPole-v1", [0], max_steps=3),
        *episodes("tensor-cartpole", [0], max_steps=4),
        *episodes("CartPole-v1", [1], max_steps=6),
    ]
    await system.execute(examples[0].inputs)
    with PopulationRunner(system.program(), resolve_settings(Settings(workers=1))) as runner:
        block = block_of(system, 3)
        (outcome,) = await runner.run(
            lambda _: block, [0], ExampleBatch([e.inputs for e in examples]), lambda _, outcome: outcome
        )
    assert [[r.steps for r in row] for row in outcome] == [[3, 4, 6]] * 3
    assert runner.execution == "lifted"


class Corridor(TensorEnvironment):
    """Walk right to the end of a corridor; the position lives in a nest."""

    max_steps = 10

    def reset(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"at": torch.randint(0, 3, (), generator=generator), "seen": torch.zeros(4)}

    def observe(self, state: dict[str, Tensor]) -> Tensor:
        return torch.nn.functional.one_hot(state["at"].clamp(0, 3), 4).float()

    def step(self, state: dict[str, Tensor], action: Any) -> Transition:
        at = (state["at"] + 2 * action - 1).clamp(min=0)
        return Transition({"at": at, "seen": state["seen"] + 1}, -torch.ones(()), at >= 3)


async def test_a_tensor_environment_may_have_a_nest_as_state():
    lifted, _ = await outcomes(Linear(), Corridor(), "lifted", members=6, max_steps=8)
    alone, _ = await outcomes(Linear(), Corridor(), "sequential", members=6, max_steps=8)
    assert facts(lifted) == facts(alone)
    assert {r.done for row in lifted for r in row} == {True, False}


@pytest.mark.parametrize("env", ["CartPole-v1", "tensor-cartpole"])
async def test_one_worker_or_two_give_the_same_bits(env: str):
    found = []
    for workers in (1, 2):
        system = Linear(settings=Settings(workers=workers))
        optimizer = ESHybridSystemOptimizer(steps=2, pop_size=8, sigma=1.0, block_size=2)
        result = await system.optimize_tensors(
            episodes(env, 2, max_steps=20), EpisodeReturn(), optimizer=optimizer, seed=0
        )
        assert result.execution == "lifted"
        found.append(system.theta["score.hp"])
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("strategy", ["pgpe", "eggroll"])
async def test_training_lengthens_the_episodes(strategy: str):
    system = Linear()
    optimizer = ESHybridSystemOptimizer(steps=10, pop_size=16, sigma=0.5, lr=0.3, strategy=strategy, optimizer="adam")
    result = await system.optimize_tensors(
        episodes("tensor-cartpole", 2, max_steps=60), EpisodeReturn(), optimizer=optimizer, seed=0
    )
    assert result.execution == "lifted"
    assert result.history[-1].mean > 1.5 * result.history[0].mean
    assert await system.evaluate(episodes("tensor-cartpole", [100, 101], max_steps=60), EpisodeReturn()) > 50


async def test_a_tensor_left_on_the_system_is_refused():
    class Keeping(HyperSystem):
        agent_type = "game"

        async def run(self, observation: Tensor) -> Tensor:
            self.last = await score(observation)
            return self.last.argmax(-1)

    _, runner = await outcomes(Keeping(), "CartPole-v1", "auto", max_steps=5)
    assert runner.execution == "gathered"
    assert "keeps a tensor on the system" in runner.reason


async def test_environments_are_closed_when_the_evaluation_ends():
    made: list[Any] = []

    class Closing(Fragile):
        closed = False

        def __init__(self, seed: int) -> None:
            super().__init__(seed + 10)
            made.append(self)

        def close(self) -> None:
            self.closed = True

    await outcomes(Linear(), Closing, "lifted", members=2, seeds=2)
    assert len(made) >= 4
    assert all(env.closed for env in made)


@pytest.mark.parametrize("execution", ["lifted", "sequential"])
async def test_the_environments_own_limit_truncates(execution: str):
    system = Linear()
    example = episodes("CartPole-v1", [0])[0].inputs
    await system.execute({**example, "max_steps": 1})
    steady = torch.tensor([[0.0] * 5, [0.1, 0.3, 2.0, 1.0, 0.0]])
    falling = torch.tensor([[0.0] * 5, [0.0, 0.0, 0.0, 0.0, 1.0]])
    block = {"score.hp": DenseMembers(torch.stack([steady, falling]))}
    with PopulationRunner(system.program(), resolve_settings(Settings(execution=execution, workers=1))) as runner:
        (outcome,) = await runner.run(lambda _: block, [0], ExampleBatch([example]), lambda _, outcome: outcome)
    (long,), (short,) = outcome
    assert (long.steps, long.done, long.truncated) == (500, False, True)
    assert (short.done, short.truncated) == (True, False)
    assert short.steps < 20
