"""Observation normalisation: the right numbers, the same for all of a generation, whoever ran it and however often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from hyperfunc import ESHybridSystemOptimizer, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.errors import ConfigurationError, EvaluationError, ParameterError
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc_agents import (
    EpisodeResult,
    EpisodeReturn,
    GameResponse,
    ObservationStatistics,
    TensorCartPole,
    episodes,
    observation_normalizer,
    play,
)
from hyperfunc_agents.game_statistics import NormalizerStatistics, Seen, moments, see, unseen

SCALES = (1e-4, 1e-3, 1e3, 1.0)
OFFSETS = (5.0, 0.0, 2e3, 0.0)
"""Of CartPole's four numbers: one all but vanishes under its offset, one drowns the rest."""

Weight = LoRAWeight.create(2, 4, noise_rank=1)


@hyperfunction(hp_type=Weight, optimize_hparams=True)
async def decide(x: Tensor, hp: Any) -> Tensor:
    return x @ hp.weight.T


class Plain(HyperSystem):
    agent_type = "game"

    async def run(self, observation: Tensor) -> GameResponse:
        return GameResponse((await decide(observation)).argmax(-1))


class Normalised(HyperSystem):
    agent_type = "game"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.normalize = observation_normalizer(4)

    async def run(self, observation: Tensor) -> GameResponse:
        return GameResponse((await decide(await self.normalize(observation))).argmax(-1))


class ScaledTensorCartPole(TensorCartPole):
    """CartPole seen through instruments of other units."""

    def observe(self, state: Tensor) -> Tensor:
        return state * torch.tensor(SCALES) + torch.tensor(OFFSETS)


def scaled_cartpole(seed: int) -> Any:
    env = gymnasium.make("CartPole-v1")
    box = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    return gymnasium.wrappers.TransformObservation(
        env, lambda seen: (seen * np.array(SCALES) + np.array(OFFSETS)).astype(np.float32), box
    )


# --- the numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ["CartPole-v1", "tensor-cartpole", scaled_cartpole, ScaledTensorCartPole])
async def test_an_episode_knows_what_its_policy_saw(env: Any):
    result = await play(Normalised(), env, seed=3, max_steps=40)
    seen = np.stack([step.observation.double().numpy() for step in result.trajectory])
    assert result.observed is not None
    assert result.observed.number == result.steps == len(seen)
    np.testing.assert_allclose(result.observed.mean.numpy(), seen.mean(0), rtol=1e-12)
    np.testing.assert_allclose(result.observed.squares.numpy(), len(seen) * seen.var(0), rtol=1e-9, atol=1e-18)
    assert (await play(Plain(), env, seed=3, max_steps=40)).observed is None


def test_a_far_mean_does_not_swallow_a_small_spread():
    values = 1e6 + np.random.default_rng(0).normal(size=(500, 3)) * 1e-3
    seen = unseen(3, 1)
    for row in values:
        seen = see(seen, torch.from_numpy(row)[None], torch.tensor([True]))
    (found,) = moments(seen)
    assert found is not None
    np.testing.assert_allclose(np.sqrt(found.squares.numpy() / 500), values.std(0), rtol=1e-6)


def test_lanes_that_are_over_see_nothing():
    seen = see(unseen(2, 3), torch.ones(3, 2), torch.tensor([True, False, True]))
    seen = see(seen, torch.full((3, 2), torch.nan), torch.tensor([False, False, True]))
    first, second, third = moments(seen)
    assert first is not None
    assert (first.number, first.mean.tolist(), first.squares.tolist()) == (1, [1.0, 1.0], [0.0, 0.0])
    assert second is None
    assert third is None  # what is not finite would spoil everybody's statistics


def test_generations_are_merged_as_one_sample():
    generator = np.random.default_rng(1)
    samples = [generator.normal(size=(n, 2)) * 3 + 7 for n in (5, 1, 40, 12)]
    statistics = NormalizerStatistics(["normalize.hp"])

    def outcome(of: list[np.ndarray]) -> BlockOutcome:
        rows: list[list[Any]] = []
        for sample in of:
            seen = unseen(2, 1)
            for row in sample:
                seen = see(seen, torch.from_numpy(row)[None], torch.tensor([True]))
            rows.append([EpisodeResult(observed=moments(seen)[0])])
        rows.append([None])  # an episode that failed
        return BlockOutcome(len(rows), 1, rows=rows)

    theta = Normalised().theta
    size_2 = ObservationStatistics.create(2)
    theta = type(theta)({"normalize.hp": size_2.default_init()})
    for blocks in ([samples[:2], samples[2:3]], [samples[3:]]):
        theta = theta.replace(statistics.merged(theta, [statistics.of_block(outcome(block)) for block in blocks]))
    found = size_2.from_tensor(theta.tensors["normalize.hp"])
    whole = np.concatenate(samples)
    assert float(found.number) == 58
    np.testing.assert_allclose(found.mean.numpy(), whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.deviation.numpy(), whole.std(0), rtol=1e-12)
    nobody = BlockOutcome(1, 1, rows=[[None]])
    assert torch.equal(
        statistics.merged(theta, [statistics.of_block(nobody)])["normalize.hp"], theta.tensors["normalize.hp"]
    )


def test_normalising_centres_scales_and_clips():
    hp = ObservationStatistics(torch.tensor(4.0).double(), torch.tensor([1.0, 5.0]).double(), torch.tensor([16.0, 0.0]))
    assert hp.normalize(torch.tensor([3.0, 5.5]), 10.0).tolist() == [1.0, 0.5]  # what never varied is centred only
    assert hp.normalize(torch.tensor([1000.0, -1000.0]), 10.0).tolist() == [10.0, -10.0]
    assert hp.normalize(torch.tensor([3, 5]), 10.0).dtype == torch.float32
    fresh = ObservationStatistics.create(2).from_tensor(ObservationStatistics.create(2).default_init())
    assert fresh.normalize(torch.tensor([3.0, -4.0]), 10.0).tolist() == [3.0, -4.0]
    assert torch.equal(hp.to_tensor(), torch.tensor([4.0, 1.0, 5.0, 16.0, 0.0], dtype=torch.float64))


# --- a generation ----------------------------------------------------------------------------------------------------


async def trained(steps: int = 3, env: Any = "CartPole-v1", **options: Any) -> tuple[Any, Normalised]:
    settings = {name: options.pop(name) for name in ("workers", "execution", "concurrency") if name in options}
    system = Normalised(settings=Settings(**settings), seed=0)
    optimizer = ESHybridSystemOptimizer(steps=steps, pop_size=8, sigma=0.5, block_size=2, strategy="pgpe", seed=1)
    result = await system.optimize_tensors(
        episodes(env, 2, max_steps=25), EpisodeReturn(), optimizer=optimizer, seed=0, validate_every=1, **options
    )
    return result, system


@pytest.mark.parametrize("env", ["CartPole-v1", "tensor-cartpole"])
async def test_any_concurrency_gives_the_same_bits(env: str):
    one, two = [(await trained(2, env, workers=workers))[0] for workers in (1, 2)]
    assert one.execution == two.execution == "lifted"
    assert one.theta == two.theta


async def test_any_number_of_tasks_gives_the_same_bits():
    one, many = [(await trained(2, execution="gathered", concurrency=most))[0] for most in (1, 16)]
    assert one.theta == many.theta


@pytest.mark.parametrize("execution", ["lifted", "gathered", "sequential"])
async def test_all_members_see_the_same_and_only_the_next_generation_more(
    execution: str, monkeypatch: pytest.MonkeyPatch
):
    used: list[tuple[int, Tensor]] = []
    parts: list[Any] = []
    of_block, merged = NormalizerStatistics.of_block, NormalizerStatistics.merged

    def note_block(self: Any, outcome: BlockOutcome) -> Any:
        parts.append([r.observed for row in outcome for r in row])
        return of_block(self, outcome)

    def note_merge(self: Any, theta: Any, blocks: Any) -> Any:
        used.append((len(blocks), theta.tensors["normalize.hp"]))
        return merged(self, theta, blocks)

    monkeypatch.setattr(NormalizerStatistics, "of_block", note_block)
    monkeypatch.setattr(NormalizerStatistics, "merged", note_merge)
    result, system = await trained(execution=execution, workers=1)
    assert [number for number, _ in used] == [4, 4, 4]  # blocks of the population; neither proof nor selection counts
    total = 0
    for generation, (_, value) in enumerate(used):
        assert float(value[0]) == total
        total += sum(o.number for block in parts[4 * generation : 4 * generation + 4] for o in block)
    # What is adopted was evaluated under the statistics that it goes out with.
    kept = [torch.equal(result.theta.tensors["normalize.hp"], value) for _, value in used]
    assert any(kept)
    assert torch.equal(system.theta.tensors["normalize.hp"], result.theta.tensors["normalize.hp"])
    scores = [await system.evaluate(episodes("CartPole-v1", 2, max_steps=25), EpisodeReturn()) for _ in range(2)]
    assert scores == [result.best_fitness] * 2
    assert torch.equal(system.theta.tensors["normalize.hp"], result.theta.tensors["normalize.hp"])


async def test_it_goes_out_with_the_saved_system(tmp_path: Path):
    _, system = await trained(env=ScaledTensorCartPole)
    system.save(tmp_path / "pole")
    other = Normalised(seed=5)
    other.register_hyperfunction(decide)
    other.load(tmp_path / "pole")
    assert other.theta == system.theta
    played = [await play(each, ScaledTensorCartPole, seed=9, max_steps=30) for each in (system, other)]
    assert torch.equal(played[0].final_observation, played[1].final_observation)


async def test_a_resumed_run_ends_in_the_same_bits(tmp_path: Path):
    whole, _ = await trained(4)
    durable = {"run": "pole", "journal": tmp_path / "journal.db", "resume": True}
    await trained(2, **durable)
    resumed, system = await trained(4, **durable)
    assert resumed.theta == whole.theta
    assert [g.mean for g in resumed.history] == [g.mean for g in whole.history]
    again, _ = await trained(4, **durable)
    assert again.theta == whole.theta
    assert torch.equal(system.theta.tensors["normalize.hp"], whole.theta.tensors["normalize.hp"])


async def test_statistics_go_on_from_those_of_the_system():
    system = Normalised(seed=0)
    earlier = torch.tensor([1000.0, 0, 0, 0, 0, *[50.0] * 4], dtype=torch.float64)
    system.set_theta({"normalize.hp": earlier})
    optimizer = ESHybridSystemOptimizer(steps=1, pop_size=8, sigma=0.5)
    examples = episodes("CartPole-v1", 2, max_steps=25)
    await system.optimize_tensors(examples, EpisodeReturn(), optimizer=optimizer, seed=1)
    assert torch.equal(system.theta.tensors["normalize.hp"], earlier)  # of the only generation that there was
    optimizer = ESHybridSystemOptimizer(steps=6, pop_size=8, sigma=0.5, strategy="pgpe")
    result = await system.optimize_tensors(examples, EpisodeReturn(), optimizer=optimizer, seed=1, validate_every=1)
    found = float(result.theta.tensors["normalize.hp"][0])
    assert found == 1000 or found > 1000 + 16 * 8


async def mean_return(system: HyperSystem, seed: int) -> float:
    optimizer = ESHybridSystemOptimizer(
        steps=7, pop_size=24, sigma=0.5, lr=0.3, strategy="pgpe", optimizer="adam", seed=seed
    )
    await system.optimize_tensors(
        episodes(ScaledTensorCartPole, 2, max_steps=100), EpisodeReturn(), optimizer=optimizer, seed=seed
    )
    return await system.evaluate(episodes(ScaledTensorCartPole, range(100, 108), max_steps=100), EpisodeReturn())


async def test_it_helps_where_the_numbers_are_badly_scaled():
    assert await mean_return(Plain(seed=2), 2) < 15
    assert await mean_return(Normalised(seed=2), 2) > 90


# --- misuse ----------------------------------------------------------------------------------------------------------


async def test_another_size_is_refused_with_both_sizes_named():
    class Wrong(HyperSystem):
        agent_type = "game"

        def __init__(self) -> None:
            super().__init__()
            self.normalize = observation_normalizer(3)

        async def run(self, observation: Tensor) -> Tensor:
            return (await decide(observation)).argmax(-1)

    with pytest.raises(ConfigurationError, match=r"observation_normalizer\(3\) expects .* 3 numbers, got 4 numbers"):
        await play(Wrong(), "CartPole-v1", max_steps=3)
    system = Wrong()
    system.register_hyperfunction(decide)
    optimizer = ESHybridSystemOptimizer(steps=1, pop_size=4)
    with pytest.raises((ConfigurationError, EvaluationError), match="3 numbers, got 4 numbers"):
        await system.optimize_tensors(episodes("CartPole-v1", 1), EpisodeReturn(), optimizer=optimizer)


def test_observations_that_are_no_tensor_are_refused():
    with pytest.raises(ConfigurationError, match="got a dict"):
        see(unseen(2), {"x": torch.zeros(2)}, torch.tensor(True))


def test_nothing_seen_sums_up_to_nothing():
    assert moments(Seen(*(value.unsqueeze(0) for value in unseen(2)))) == [None]


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: observation_normalizer(0), ParameterError),
        (lambda: observation_normalizer(4, clip=0.0), ConfigurationError),
        (ObservationStatistics.dim, ParameterError),
    ],
)
def test_bad_arguments_are_refused(build: Any, error: type[Exception]):
    with pytest.raises(error):
        build()


async def test_two_normalisers_share_one_size():
    class Two(Normalised):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.other = observation_normalizer(size, name="other")

    with pytest.raises(ConfigurationError, match="one size"):
        await play(Two(3), "CartPole-v1", max_steps=2)
    assert (await play(Two(4), "CartPole-v1", max_steps=2)).steps == 2
