"""Examples per generation that follow the noise: the estimate, the size, and whole runs."""

from __future__ import annotations

import math

import pytest
import torch

from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction
from hyperfunc.errors import ConfigurationError
from hyperfunc.optimization.minibatches import Minibatches
from hyperfunc.scheduling import AdaptiveMinibatch, Economy, Racing
from hyperfunc.scheduling.minibatch_size import MinibatchSize


def twins_of(members):
    return torch.arange(members).roll(members // 2)


def scores_of(members, examples, *, signal, noise, seed=0):
    """Pairs whose difference has deviation ``signal``, on examples that add ``noise`` to it and difficulty to both."""
    generator = torch.Generator().manual_seed(seed)
    kind = {"generator": generator, "dtype": torch.float64}
    worth = signal / 2 * torch.randn(members // 2, 1, **kind)
    difficulty = 10 * torch.randn(1, examples, **kind)
    each = noise / math.sqrt(2) * torch.randn(members, examples, **kind)
    return torch.cat([worth, -worth]) + difficulty + each


@pytest.mark.parametrize("noise_scale", [4.0, 25.0])
def test_the_noise_scale_is_the_examples_at_which_noise_and_signal_are_equal(noise_scale):
    size = MinibatchSize(AdaptiveMinibatch(memory=0.9), 10_000)
    for seed in range(40):
        size.observe(scores_of(64, 64, signal=1.0, noise=math.sqrt(noise_scale), seed=seed), twins_of(64))
    assert size.noise_scale == pytest.approx(noise_scale, rel=0.2)


def test_members_that_stand_alone_are_compared_with_the_population():
    size = MinibatchSize(AdaptiveMinibatch(), 10_000)
    for seed in range(40):
        size.observe(scores_of(64, 64, signal=2.0, noise=3.0 * math.sqrt(2), seed=seed), None)
    assert size.noise_scale == pytest.approx(9.0, rel=0.25)


def test_the_size_grows_with_noise_and_shrinks_with_signal_by_a_factor_at_a_time():
    size = MinibatchSize(AdaptiveMinibatch(noise=0.5, smallest=8, growth=2.0, memory=0.0), 300)
    sizes = []
    for seed in range(6):
        size.observe(scores_of(32, size.size, signal=0.01, noise=1.0, seed=seed), twins_of(32))
        sizes.append(size.size)
    assert sizes == [16, 32, 64, 128, 256, 300]
    for seed in range(6):
        size.observe(scores_of(32, size.size, signal=10.0, noise=0.5, seed=seed), twins_of(32))
        sizes.append(size.size)
    assert sizes[6:] == [150, 75, 38, 19, 10, 8]


def test_the_size_settles_where_the_ratio_is_the_asked_one():
    size = MinibatchSize(AdaptiveMinibatch(noise=0.5, memory=0.9), 10_000)
    for seed in range(60):
        size.observe(scores_of(64, size.size, signal=1.0, noise=3.0, seed=seed), twins_of(64))
    assert size.size == pytest.approx(9 / 0.25, rel=0.25)


def test_failed_members_and_members_out_of_a_race_are_left_out():
    scores = scores_of(32, 64, signal=1.0, noise=2.0)
    whole, part = (MinibatchSize(AdaptiveMinibatch(smallest=64), 1000) for _ in range(2))
    whole.observe(scores[:, :20][torch.arange(32) % 16 != 3], twins_of(30))
    scores[3] = math.nan  # it failed, and its twin is alone
    scores[5:9, 20:] = math.nan  # these stopped after 20 examples
    part.observe(scores, twins_of(32))
    assert part.noise_scale == pytest.approx(whole.noise_scale)


def test_what_says_nothing_changes_nothing():
    size = MinibatchSize(AdaptiveMinibatch(smallest=64), 1000)
    for scores in (torch.zeros(8, 64), torch.full((8, 64), math.nan), torch.zeros(8, 1)):
        size.observe(scores, twins_of(8))
    assert size.size == 64


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 0.0},
        {"noise": math.inf},
        {"smallest": 1},
        {"growth": 1.0},
        {"memory": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        AdaptiveMinibatch(**options)


def test_an_epoch_gives_every_example_at_most_once():
    minibatches = Minibatches(50, None, AdaptiveMinibatch(smallest=4, memory=0.0), seed=3)
    epochs: dict[int, list[int]] = {}
    for index in range(60):
        chosen = minibatches.positions(index)
        assert chosen == minibatches.positions(index)  # looking moves nothing
        epochs.setdefault(minibatches.to_json()["epoch"], []).extend(chosen)
        minibatches.observe(scores_of(8, len(chosen), signal=1.0, noise=1.0 + index % 5, seed=index), twins_of(8))
    assert len(epochs) > 3
    assert all(len(seen) == len(set(seen)) <= 50 for seen in epochs.values())


def test_minibatches_go_on_where_they_were():
    def fresh():
        return Minibatches(50, 40, AdaptiveMinibatch(smallest=4), seed=3)

    first = fresh()
    for index in range(9):
        first.observe(scores_of(8, len(first.positions(index)), signal=1.0, noise=3.0, seed=index), twins_of(8))
    second = fresh()
    second.restore(first.to_json())
    for index in range(9, 14):
        assert first.positions(index) == second.positions(index)
        for minibatches in (first, second):
            scores = scores_of(8, len(minibatches.positions(index)), signal=1.0, noise=3.0, seed=index)
            minibatches.observe(scores, twins_of(8))
    assert first.to_json() == second.to_json()


# --------------------------------------------------------------------------------------------------------- whole runs


@hyperfunction(hp_type=LoRAWeight.create(1, 6, 1), optimize_hparams=True)
async def layer(x, hp):
    return (x @ hp.weight.T).squeeze(-1)


class Linear(HyperSystem):
    async def run(self, x):
        return await layer(x)


def noisy_regression(count=128):
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(6, generator=generator) for _ in range(count)]
    return [Example({"x": x}, float(x.sum() + torch.randn((), generator=generator))) for x in inputs]


def optimizer(**options):
    return ESHybridSystemOptimizer(**{"steps": 25, "pop_size": 16, "sigma": 0.1, "lr": 0.2, **options})


async def test_early_generations_are_small_and_late_ones_large():
    economy = Economy(minibatch=AdaptiveMinibatch(noise=0.5, smallest=8))
    result = await Linear(system_optimizer=optimizer()).optimize(
        noisy_regression(), MSE(), economy=economy, validate_every=1000
    )
    runs = [g.evaluations for g in result.history]
    sizes = [(b - a) / 16 for a, b in zip([0, *runs[:-2]], runs[:-1], strict=True)]
    assert sizes[0] == 8 + 128 / 16  # and the first θ on all 128
    assert min(sizes[-6:]) > 3 * sizes[1]
    assert result.best_fitness > 0.4 * result.initial_fitness


@pytest.mark.parametrize("racing", [None, Racing()])
async def test_an_adaptive_run_is_resumed_in_the_same_bits(tmp_path, racing):
    class Stopped(Exception):
        pass

    async def optimize(path, stop_after=None):
        def stop(view):
            if view.generation.index == stop_after:
                raise Stopped

        return await Linear(system_optimizer=optimizer(steps=12)).optimize(
            noisy_regression(),
            MSE(),
            economy=Economy(minibatch=AdaptiveMinibatch(smallest=8), racing=racing),
            run="adaptive",
            resume=True,
            journal=path,
            callbacks=[stop],
        )

    whole = await optimize(tmp_path / "whole.db")
    with pytest.raises(Stopped):
        await optimize(tmp_path / "half.db", 6)
    resumed = await optimize(tmp_path / "half.db")
    assert resumed.theta == whole.theta
    assert resumed.evaluations == whole.evaluations


async def test_a_metric_of_whole_lists_has_no_noise_to_follow():
    with pytest.raises(ConfigurationError, match="expected a scorer"):
        await Linear(system_optimizer=optimizer()).optimize(
            noisy_regression(), lambda p, e: 1.0, economy=Economy(minibatch=AdaptiveMinibatch())
        )
