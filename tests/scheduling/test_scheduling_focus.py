"""Components that explain nothing pause: the share, the pauses, and the contract of every strategy."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.errors import ConfigurationError
from hyperfunc.evolution.composite import Part
from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.openai_es import OpenAIES
from hyperfunc.evolution.shaping import shape_fitness
from hyperfunc.evolution.snes import SNES
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc.scheduling import Economy, Focus
from hyperfunc.scheduling.focus import FocusedStrategy, build_strategy
from hyperfunc.testing import StrategyContract

NAMES = ("matrix", "vector", "half", "settings", "scalar")


class TestContract(StrategyContract):
    @pytest.fixture
    def strategy(self):
        options = {"population_size": 12, "block_size": 6, "antithetic": True}
        parts = (Part(Eggroll(**options), NAMES[:3]), Part(SNES(**options), NAMES[3:]))
        return FocusedStrategy(parts=parts, focus=Focus(window=4))


def dense(strategy, state):
    """All members, ``[P, *shape]`` by name."""
    blocks = [strategy.ask(state, block) for block in strategy.blocks()]
    return {
        name: torch.cat([torch.stack([b[name].dense(i) for i in range(b[name].size)]) for b in blocks])
        for name in blocks[0]
    }


def setup(*, antithetic=True, focus=None, components=("good.w", "bad.w"), size=3, kind="openai-es"):
    start = {name: torch.zeros(size, size) for name in components}
    group = ParameterGroup.of(start)
    optimizer = ESHybridSystemOptimizer(pop_size=24, sigma=0.1, lr=0.02, antithetic=antithetic, strategy=kind)
    strategy = build_strategy(optimizer, group, focus or Focus(window=6, pause=5, deviations=0.5))
    return strategy, strategy.init(group, start, 0)


def evolve(strategy, state, generations, fitness):
    """States after each generation, the first one before any."""
    states = [state]
    for _ in range(generations):
        state = strategy.tell(state, fitness(dense(strategy, state)))
        states.append(state)
    return states


def only_good(members):
    return members["good.w"].sum((1, 2)).double()


@pytest.mark.parametrize("kind", ["openai-es", "eggroll"])
@pytest.mark.parametrize("antithetic", [True, False])
def test_a_share_is_the_explained_part_of_ranked_fitness(kind, antithetic):
    """Against the definition, term by term: the mean over all i ≠ j of dᵢ dⱼ ⟨δᵢ, δⱼ⟩, in its units."""
    strategy, state = setup(antithetic=antithetic, kind=kind)
    members = dense(strategy, state)
    fitness = only_good(members)
    told = strategy.tell(state, fitness)
    weights = shape_fitness(fitness, "centered_ranks", twins=strategy.twins()).weights
    for part, shares in zip(strategy.parts, told.shares, strict=True):
        deltas = members[part.names[0]].flatten(1).double()  # the centre is zero
        d = weights
        if antithetic:
            deltas, d = deltas[:12], weights[:12] - weights[12:]
        products = (d[:, None] * d) * (deltas @ deltas.T)
        n = len(d)
        pairs = (products.sum() - products.diagonal().sum()) / (n * (n - 1))
        expected = float(pairs / (deltas.square().sum(1).mean() / 9 * d.square().mean()))
        assert shares == (pytest.approx(expected, rel=1e-5, abs=1e-9),)


def test_a_component_that_does_nothing_has_a_share_of_zero_on_average():
    strategy, state = setup(focus=Focus(window=200, pause=1))
    *_, last = evolve(strategy, state, 120, only_good)
    by_name = dict(zip([p.names[0] for p in strategy.parts], last.shares, strict=True))
    bad = torch.tensor(by_name["bad.w"], dtype=torch.float64)
    assert abs(float(bad.mean())) < 4 * float(bad.std()) / math.sqrt(120)
    assert sum(by_name["good.w"]) / 120 > 0.5


def test_what_explains_nothing_pauses_and_is_tried_again():
    strategy, state = setup()
    states = evolve(strategy, state, 50, only_good)
    pausing = [strategy.pausing(s) for s in states]
    assert set(pausing) == {(), ("bad.w",)}
    first = pausing.index(("bad.w",))
    assert first >= 6  # a whole window
    assert pausing[first : first + 6] == [("bad.w",)] * 5 + [()]
    again = pausing.index(("bad.w",), first + 5)
    assert pausing[again : again + 11] == [("bad.w",)] * 10 + [()]  # and pauses again, for twice as long


def test_who_pauses_stands_still_and_the_others_go_on():
    strategy, state = setup()
    states = evolve(strategy, state, 50, only_good)
    index = next(i for i, s in enumerate(states) if strategy.pausing(s))
    before, after = states[index], states[index + 1]
    members = dense(strategy, before)
    assert all(torch.equal(member, strategy.mean(before)["bad.w"]) for member in members["bad.w"])
    assert torch.equal(strategy.mean(before)["bad.w"], strategy.mean(after)["bad.w"])
    assert not torch.equal(strategy.mean(before)["good.w"], strategy.mean(after)["good.w"])
    standing = strategy.ask(before, 0)["bad.w"]
    assert isinstance(standing, FactoredMembers)  # no copy of a matrix per member
    assert standing.scale == 0.0


def test_components_that_all_matter_do_not_pause():
    strategy, state = setup(components=("a.w", "b.w", "c.w"), focus=Focus(window=8))

    def fitness(members):
        return sum(members[name].sum((1, 2)) for name in members).double()

    states = evolve(strategy, state, 40, fitness)
    paused = sum(len(strategy.pausing(s)) for s in states)
    assert paused <= 0.1 * 3 * len(states)


def test_without_any_signal_nobody_pauses():
    strategy, state = setup()
    states = evolve(strategy, state, 12, lambda members: torch.zeros(24, dtype=torch.float64))
    assert not any(strategy.pausing(s) for s in states)
    assert states[-1].shares == ((), ())


def test_one_component_or_no_focus_leaves_the_strategy_as_it_is():
    optimizer = ESHybridSystemOptimizer(pop_size=8)
    one = ParameterGroup.of({"a.w": torch.zeros(2), "a.b": torch.zeros(2)})
    two = ParameterGroup.of({"a.w": torch.zeros(2), "b.w": torch.zeros(2)})
    assert build_strategy(optimizer, one, Focus()) == optimizer.build(one)
    assert build_strategy(optimizer, two, None) == optimizer.build(two)
    focused = build_strategy(optimizer, two, Focus())
    assert [part.names for part in focused.parts] == [("a.w",), ("b.w",)]


def test_vectors_that_stand_still_are_views():
    strategy = FocusedStrategy(
        parts=(Part(OpenAIES(population_size=4), ("a",)), Part(OpenAIES(population_size=4), ("b",)))
    )
    start = {"a": torch.zeros(3), "b": torch.ones(3)}
    state = strategy.init(ParameterGroup.of(start), start, 0)
    paused = replace(state, resumes=(0, 5))
    block = strategy.ask(paused, 0)
    assert isinstance(block["b"], DenseMembers)
    assert block["b"].values.stride(0) == 0
    assert torch.equal(block["b"].values, torch.ones(4, 3))


@pytest.mark.parametrize("options", [{"window": 3}, {"least": 1.1}, {"deviations": -1.0}, {"pause": 0}])
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Focus(**options)


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def used(x, hp):
    return (x @ hp.weight.T).sum(-1)


@hyperfunction(hp_type=LoRAWeight.create(2, 3, 1), optimize_hparams=True)
async def idle(x, hp):
    return 0.0 * (x @ hp.weight.T).sum(-1)


class Partly(HyperSystem):
    async def run(self, x):
        return await used(x) + await idle(x)


@pytest.mark.parametrize("execution", ["lifted", "gathered"])
async def test_a_focused_run_pauses_and_is_resumed_in_the_same_bits(tmp_path, execution):
    class Stopped(Exception):
        pass

    generator = torch.Generator().manual_seed(5)
    data = [Example({"x": x}, float(x.sum())) for x in torch.randn(4, 3, generator=generator)]

    async def optimize(path, stop_after=None):
        centers = []

        def stop(view):
            centers.append(view.center["idle.hp"])
            if view.generation.index == stop_after:
                raise Stopped

        result = await Partly(
            system_optimizer=ESHybridSystemOptimizer(pop_size=16, sigma=0.05, lr=0.01, strategy="eggroll"),
            settings=Settings(execution=execution),
        ).optimize(
            data,
            MSE(),
            steps=12,
            economy=Economy(focus=Focus(window=4, pause=3, deviations=0.0, least=0.5)),
            run="focused",
            resume=True,
            journal=path,
            callbacks=[stop],
        )
        return result, centers

    whole, centers = await optimize(tmp_path / "whole.db")
    assert any(torch.equal(a, b) for a, b in itertools.pairwise(centers))
    with pytest.raises(Stopped):
        await optimize(tmp_path / "half.db", 6)
    assert (await optimize(tmp_path / "half.db"))[0].theta == whole.theta
