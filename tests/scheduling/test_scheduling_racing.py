"""Racing: who stops, what is unbiased about it, and runs of whole generations."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
import torch

from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.budget import Budget
from hyperfunc.errors import ConfigurationError, ShapeError
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.optimization.members import MemberEvaluation
from hyperfunc.population.evaluate import PopulationRunner
from hyperfunc.scheduling import Economy, Racing
from hyperfunc.scheduling.racing import Race
from hyperfunc.settings import resolve_settings

TWINS = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])


def scores_of(members=8, examples=40, *, spread=1.0, noise=1.0, seed=0):
    """Members of different worth on examples of different difficulty."""
    generator = torch.Generator().manual_seed(seed)
    worth = spread * torch.randn(members, 1, generator=generator, dtype=torch.float64)
    difficulty = 5 * torch.randn(1, examples, generator=generator, dtype=torch.float64)
    return worth + difficulty + noise * torch.randn(members, examples, generator=generator, dtype=torch.float64)


def run(race, scores, racing):
    """The whole race on known scores; the (member, example) runs that it took."""
    runs = 0
    for part in racing.parts(scores.shape[1]):
        running = race.running
        if not bool(running.any()):
            break
        runs += int(running.sum()) * len(part)
        race.record(scores[running][:, part.start : part.stop])
    return runs


@pytest.mark.parametrize(
    ("rungs", "examples", "sizes"),
    [((0.25, 0.5), 100, [25, 25, 50]), ((0.1, 0.5), 8, [4, 4]), ((0.5,), 2, [2]), ((0.3, 0.301), 20, [6, 14])],
)
def test_rungs_divide_the_examples(rungs, examples, sizes):
    parts = Racing(rungs=rungs).parts(examples)
    assert [len(part) for part in parts] == sizes
    assert list(itertools.chain(*parts)) == list(range(examples))


@pytest.mark.parametrize(
    "options",
    [
        {"rungs": ()},
        {"rungs": (0.5, 0.25)},
        {"rungs": (0.5, 1.0)},
        {"rungs": (0.0, 0.5)},
        {"deviations": -1.0},
        {"deviations": math.inf},
        {"tolerance": 1.5},
        {"survival": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Racing(**options)


def test_whoever_is_undecided_or_survives_has_the_fitness_of_all_examples():
    scores = scores_of()
    for racing in (Racing(tolerance=0.0, deviations=50.0), Racing(tolerance=1.0, survival=1.0)):
        race = Race(racing, torch.ones(40), 8, TWINS)
        assert run(race, scores, racing) == 8 * 40
        assert torch.allclose(race.fitness(), scores.mean(1), rtol=1e-12)


def test_clear_cases_stop_and_close_ones_go_on():
    """Four pairs far apart but for two that cannot be told from each other."""
    worth = torch.tensor([0.0, 0.1, 50.0, 100.0, -50.0, -49.9, -100.0, -150.0], dtype=torch.float64)
    scores = scores_of(spread=0.0) + worth.unsqueeze(1)
    racing = Racing(rungs=(0.25,), tolerance=0.0, deviations=2.0)
    race = Race(racing, torch.ones(40), 8, TWINS)
    race.record(scores[:, :10])
    assert race.running.tolist() == [True, True, False, False] * 2
    race.record(scores[race.running, 10:])
    assert race.fitness().argsort().tolist() == scores.mean(1).argsort().tolist()


def test_a_difficulty_that_all_share_is_taken_out_of_what_the_stopped_missed():
    """Common random numbers: the spread of difficulty is fifty times that of noise."""
    worth = torch.tensor([0.0, 0.01, 2.0, 4.0, 6.0, 8.0, -2.0, -4.0], dtype=torch.float64)
    scores = scores_of(spread=0.0, noise=0.1) + worth.unsqueeze(1)
    racing = Racing(tolerance=0.0, deviations=2.0)
    race = Race(racing, torch.ones(40), 8)
    assert run(race, scores, racing) < 0.5 * scores.numel()  # the difficulty keeps nobody in the race
    stopped = ~torch.isfinite(race.scores).all(1)
    assert stopped.tolist() == [False, False] + [True] * 6
    full = scores.mean(1)
    assert (scores[stopped, :10].mean(1) - full[stopped]).abs().min() > 0.15  # the first examples were easy ones
    assert (race.fitness() - full).abs().max() < 0.06


@pytest.mark.parametrize("rungs", [(0.25,), (0.1, 0.25, 0.5)])
@pytest.mark.parametrize("twins", [None, TWINS])
def test_survival_makes_fitness_exactly_unbiased(rungs, twins):
    """The expectation over every outcome of the lottery, enumerated, is the fitness over all examples."""
    scores = scores_of(spread=3.0)
    weights = torch.linspace(0.5, 2.0, 40, dtype=torch.float64)
    full = (scores * weights).sum(1) / weights.sum()
    chance = 0.3
    racing = Racing(rungs=rungs, survival=chance, tolerance=0.3)
    pairs = 8 if twins is None else 4
    expected, all_the_same = torch.zeros(8, dtype=torch.float64), True
    for outcome in itertools.product([False, True], repeat=pairs):
        race = Race(racing, weights, 8, twins)
        race._survives = torch.tensor(outcome if twins is None else outcome * 2)
        run(race, scores, racing)
        probability = math.prod(chance if survives else 1 - chance for survives in outcome)
        expected += probability * race.fitness()
        all_the_same &= torch.allclose(race.fitness(), full, rtol=1e-9)
    assert torch.allclose(expected, full, rtol=1e-9)
    assert not all_the_same
    stopped = Race(Racing(rungs=rungs, tolerance=0.3), weights, 8, twins)
    run(stopped, scores, racing)
    assert (stopped.fitness() - full).abs().max() > 0.01  # and without survivors it is biased


def test_the_lottery_follows_from_its_name_and_has_the_asked_odds():
    racing = Racing(survival=0.25)
    members = 4000
    twins = torch.arange(members).roll(members // 2)
    draws = [Race(racing, torch.ones(4), members, twins, lottery=(seed, 7))._survives for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(draws[0], draws[0][twins])
    assert abs(float(draws[0].double().mean()) - 0.25) < 0.03


def test_decisions_do_not_look_at_the_lottery():
    """Survivors or not, the others are run on the same examples: that is what makes the correction exact."""
    scores = scores_of(spread=3.0, members=16)
    racing = Racing(rungs=(0.1, 0.25, 0.5), tolerance=0.2, survival=0.5)
    histories = []
    for number in range(8):
        race = Race(racing, torch.ones(40), 16, lottery=(number,))
        run(race, scores, racing)
        histories.append((race._undecided.tolist(), race._values.tolist()))
    assert all(history == histories[0] for history in histories)


def test_twins_stop_together_and_fail_together():
    scores = scores_of(spread=5.0, seed=3)
    scores[2, 1] = math.inf
    racing = Racing(tolerance=0.3)
    race = Race(racing, torch.ones(40), 8, TWINS)
    for part in racing.parts(40):
        race.record(scores[race.running][:, part.start : part.stop])
        assert torch.equal(race.running, race.running[TWINS])
        assert not bool(race.running[2] | race.running[6])
    assert race.fitness().isnan()[2]


def test_examples_without_a_score_or_a_weight_are_left_out():
    scores = scores_of()
    scores[:, 3] = math.nan
    scores[:, 30] = math.inf
    weights = torch.ones(40)
    weights[30] = 0.0
    race = Race(Racing(tolerance=0.0, deviations=50.0), weights, 8)
    run(race, scores, Racing())
    kept = [i for i in range(40) if i not in (3, 30)]
    assert torch.allclose(race.fitness(), scores[:, kept].mean(1))


def test_scores_of_another_shape_are_refused():
    race = Race(Racing(), torch.ones(40), 8)
    with pytest.raises(ShapeError, match="8 running members on at most 40"):
        race.record(torch.zeros(7, 10))
    with pytest.raises(ShapeError, match="at most 40 more"):
        race.record(torch.zeros(8, 41))


# ------------------------------------------------------------------------------------------------ whole generations


@hyperfunction(hp_type=LoRAWeight.create(4, 6, 1), optimize_hparams=True)
async def layer(x, hp):
    return (x @ hp.weight.T).sum(-1)


@hyperfunction(hp_type=LoRAWeight.create(4, 6, 1), optimize_hparams=True)
async def branching(x, hp):
    return float((hp.weight @ x).sum())


class Lifted(HyperSystem):
    async def run(self, x):
        return await layer(x)


class Gathered(HyperSystem):
    async def run(self, x):
        return await branching(x)


def regression(count=32):
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(6, generator=generator) for _ in range(count)]
    return [Example({"x": x}, float(x.sum())) for x in inputs]


def optimizer(**options):
    return ESHybridSystemOptimizer(**{"steps": 6, "pop_size": 16, "sigma": 0.1, "lr": 0.2, "block_size": 6, **options})


@pytest.mark.parametrize("system_class", [Lifted, Gathered])
@pytest.mark.parametrize("minibatch", [None, 16])
async def test_a_raced_run_learns_with_fewer_runs_and_counts_them(system_class, minibatch):
    data, given = regression(24), {"minibatch": minibatch, "steps": 6}
    full = await system_class(system_optimizer=optimizer()).optimize(data, MSE(), **given)
    budget = Budget(evaluations=10**6)
    system = system_class(system_optimizer=optimizer())
    raced = await system.optimize(data, MSE(), economy=Economy(racing=Racing()), budget=budget, **given)
    assert raced.execution == full.execution == ("lifted" if system_class is Lifted else "gathered")
    assert raced.evaluations < 0.8 * full.evaluations
    assert raced.best_fitness > 0.5 * raced.initial_fitness  # errors are negative: at least halved
    selections = 24 * (len([g for g in raced.history if not math.isnan(g.center)]) + 1)
    assert budget.spent.evaluations == raced.evaluations - selections
    assert budget.remaining["evaluations"] == 10**6 - budget.spent.evaluations  # nothing is left reserved


@pytest.mark.parametrize("workers", [1, 3])
async def test_a_raced_run_has_the_same_bits_for_any_number_of_workers(workers):
    system = Lifted(system_optimizer=optimizer(), settings=Settings(workers=workers))
    result = await system.optimize(regression(), MSE(), economy=Economy(racing=Racing(survival=0.2)))
    again = Lifted(system_optimizer=optimizer(), settings=Settings(workers=2))
    assert (await again.optimize(regression(), MSE(), economy=Economy(racing=Racing(survival=0.2)))).theta == (
        result.theta
    )


async def test_every_execution_races_alike():
    system = Lifted(system_optimizer=optimizer())
    system.register_hyperfunction(layer)
    strategy = optimizer().build(ParameterGroup.of(system.theta.tensors))
    state = strategy.init(ParameterGroup.of(system.theta.tensors), system.theta.tensors, 0)
    found = []
    for execution in ("lifted", "gathered", "sequential"):
        with PopulationRunner(system.program(), resolve_settings(Settings(execution=execution))) as runner:
            economy = Economy(racing=Racing(tolerance=0.2))
            evaluation = MemberEvaluation(runner, MSE(), regression(32), economy=economy)
            await evaluation.generation(strategy, state, 0)  # lifted execution proves itself first
            found.append(await evaluation.generation(strategy, state, 1))
    first = found[0]
    assert first.evaluations < 16 * 32
    for other in found[1:]:
        assert other.evaluations == first.evaluations
        assert torch.allclose(other.members.values, first.members.values, rtol=1e-4)


async def test_a_race_that_does_not_fit_the_worst_case_is_not_begun():
    budget = Budget(evaluations=16 * 32 * 2 - 1)
    system = Lifted(system_optimizer=optimizer())
    result = await system.optimize(
        regression(), MSE(), economy=Economy(racing=Racing()), budget=budget, validate_every=50
    )
    assert result.finish_reason == "budget:evaluations"
    assert len(result.history) == 1


async def test_a_metric_of_whole_lists_cannot_be_raced():
    def metric(predictions, expected):
        return -float(sum(abs(p - e) for p, e in zip(predictions, expected, strict=True)))

    system = Lifted(system_optimizer=optimizer())
    with pytest.raises(ConfigurationError, match="expected a scorer"):
        await system.optimize(regression(), metric, economy=Economy(racing=Racing()))


async def test_members_that_raise_drop_out_of_the_race():
    @hyperfunction(hp_type=LoRAWeight.create(1, 1, 1), optimize_hparams=True)
    async def sometimes(x, hp):
        value = float(hp.weight)
        if value > start + 0.1:
            raise ValueError("too large")
        return value + float(x)

    class Raising(HyperSystem):
        async def run(self, x):
            return await sometimes(x)

    system = Raising(system_optimizer=optimizer(sigma=0.2))
    system.register_hyperfunction(sometimes)
    start = float(system.theta["sometimes.hp"])
    data = [Example({"x": torch.tensor(i / 20)}, 5.0) for i in range(20)]
    result = await system.optimize(data, MSE(), economy=Economy(racing=Racing()), steps=2)
    assert 0 < result.dropped < 32
    assert all("too large" in str(error) for error in result.errors)
    assert result.evaluations < 2 * 16 * 20


async def test_a_raced_run_is_resumed_in_the_same_bits(tmp_path):
    class Stopped(Exception):
        pass

    async def optimize(path, stop_after=None):
        def stop(view):
            if view.generation.index == stop_after:
                raise Stopped

        return await Lifted(system_optimizer=optimizer()).optimize(
            regression(24),
            MSE(),
            economy=Economy(racing=Racing(survival=0.2)),
            steps=4,
            minibatch=16,
            run="raced",
            resume=True,
            journal=path,
            callbacks=[stop],
        )

    whole = await optimize(tmp_path / "whole.db")
    for stop_after in (0, 2):
        with pytest.raises(Stopped):
            await optimize(tmp_path / f"{stop_after}.db", stop_after)
        resumed = await optimize(tmp_path / f"{stop_after}.db")
        assert resumed.theta == whole.theta
        assert resumed.evaluations == whole.evaluations


async def test_cancelling_a_race_settles_its_reservation():
    budget = Budget(evaluations=10**6)
    started = asyncio.Event()

    @hyperfunction(io=True)
    async def wait(x):
        started.set()
        await asyncio.Event().wait()

    class Waiting(HyperSystem):
        async def run(self, x):
            await wait(await layer(x))

    system = Waiting(system_optimizer=optimizer())
    system.register_hyperfunction(layer)
    running = asyncio.ensure_future(
        system.optimize(
            regression(), MSE(), economy=Economy(racing=Racing()), budget=budget, settings=Settings(timeout_s=None)
        )
    )
    await asyncio.wait_for(started.wait(), 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert budget.remaining["evaluations"] == 10**6 - budget.spent.evaluations
