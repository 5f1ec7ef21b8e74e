"""What every evolution strategy must do, as tests: override the fixture ``strategy``."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ShapeError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.evolution.state import dump_state, load_state
from hyperfunc.population.members import DenseMembers, MemberBlock

__all__ = ["StrategyContract"]

_LOW, _HIGH = torch.tensor([0.0, -5.0, 1.0]), torch.tensor([1.0, 5.0, 9.0])
_VALUES = {
    "matrix": torch.linspace(-1, 1, 30).reshape(6, 5),
    "vector": torch.zeros(6),
    "half": torch.full((3, 4), 0.3, dtype=torch.bfloat16),
    "settings": torch.tensor([0.25, 0.0, 4.0]),
    "scalar": torch.tensor(0.5, dtype=torch.float64),
}


def _group() -> ParameterGroup:
    """Every kind of parameter: a matrix, narrow and wide dtypes, bounds, whole numbers, a scalar."""
    whole = torch.tensor([False, False, True])
    return ParameterGroup(
        {
            "matrix": ParameterSpec((6, 5), noise_rank=2),
            "vector": ParameterSpec((6,)),
            "half": ParameterSpec((3, 4), torch.bfloat16),
            "settings": ParameterSpec((3,), bounds=(_LOW, _HIGH), integer=whole),
            "scalar": ParameterSpec((), torch.float64),
        }
    )


def _dense(block: MemberBlock) -> dict[str, Tensor]:
    return {
        name: v.values if isinstance(v, DenseMembers) else torch.stack([v.dense(i) for i in range(v.size)])
        for name, v in block.items()
    }


def _population(strategy: Strategy[Any], state: Any) -> dict[str, Tensor]:
    """All members, ``[P, *shape]`` by name."""
    blocks = [_dense(strategy.ask(state, block)) for block in strategy.blocks()]
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]}


def _fitness(strategy: Strategy[Any], state: Any) -> Tensor:
    """Something smooth in every parameter, ``[P]``."""
    members = _population(strategy, state)
    distance = sum((v.double() - 0.7).square().reshape(len(v), -1).sum(1) for v in members.values())
    return -torch.as_tensor(distance)


def _start(strategy: Strategy[Any], seed: int = 0) -> Any:
    return strategy.init(_group(), {name: value.clone() for name, value in _VALUES.items()}, seed)


def _advance(strategy: Strategy[Any], state: Any, generations: int) -> Any:
    for _ in range(generations):
        state = strategy.tell(state, _fitness(strategy, state))
    return state


def _assert_same(left: Any, right: Any) -> None:
    (left_tensors, left_meta), (right_tensors, right_meta) = dump_state(left), dump_state(right)
    assert left_meta == right_meta
    assert left_tensors.keys() == right_tensors.keys()
    for path, tensor in left_tensors.items():
        assert torch.equal(tensor, right_tensors[path]), path


class StrategyContract:
    """Tests of one strategy, on a group with every kind of parameter."""

    generations: int = 30
    """Enough for the mean fitness of the population to rise."""

    @pytest.fixture
    def strategy(self) -> Strategy[Any]:
        """The strategy, with a population of 8 to 64 members. Override this."""
        raise NotImplementedError("override the fixture strategy with an instance of your strategy")

    def test_it_is_a_frozen_strategy_with_a_name(self, strategy: Strategy[Any]) -> None:
        assert isinstance(strategy, Strategy)
        assert isinstance(strategy.name, str)
        assert strategy.name
        with pytest.raises(AttributeError):
            strategy.population_size = 4  # type: ignore[misc]

    def test_the_start_is_the_first_centre(self, strategy: Strategy[Any]) -> None:
        state = _start(strategy)
        mean = strategy.mean(state)
        assert mean.keys() == _VALUES.keys()
        for name, value in _VALUES.items():
            assert mean[name].dtype == value.dtype
            torch.testing.assert_close(mean[name], value)
        assert strategy.generation(state) == 0

    def test_members_have_shape_dtype_bounds_and_whole_numbers(self, strategy: Strategy[Any]) -> None:
        members = _population(strategy, _advance(strategy, _start(strategy), 3))
        assert members.keys() == _VALUES.keys()
        for name, value in _VALUES.items():
            assert members[name].shape == (strategy.population_size, *value.shape)
            assert members[name].dtype == value.dtype
            assert bool(torch.isfinite(members[name]).all())
        settings = members["settings"]
        assert bool((settings >= _LOW).all())
        assert bool((settings <= _HIGH).all())
        assert torch.equal(settings[:, 2], settings[:, 2].round())

    def test_members_differ(self, strategy: Strategy[Any]) -> None:
        members = _population(strategy, _start(strategy))["vector"]
        assert bool((members != members[0]).any())

    def test_ask_is_pure_and_blocks_stand_alone(self, strategy: Strategy[Any]) -> None:
        state = _advance(strategy, _start(strategy), 2)
        forwards = [_dense(strategy.ask(state, block)) for block in strategy.blocks()]
        backwards = [_dense(strategy.ask(state, block)) for block in reversed(strategy.blocks())][::-1]
        for one, other in zip(forwards, backwards, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)

    def test_tell_leaves_the_old_state_and_its_arguments_alone(self, strategy: Strategy[Any]) -> None:
        state = _advance(strategy, _start(strategy), 2)
        tensors, meta = dump_state(state)
        fitness = _fitness(strategy, state)
        given = fitness.clone()
        strategy.tell(state, given)
        after_tensors, after_meta = dump_state(state)
        assert torch.equal(given, fitness)
        assert meta == after_meta
        assert all(torch.equal(tensor, after_tensors[path]) for path, tensor in tensors.items())

    def test_the_same_seed_gives_the_same_bits_and_another_does_not(self, strategy: Strategy[Any]) -> None:
        first = _advance(strategy, _start(strategy), 3)
        torch.manual_seed(1234)  # a strategy that draws from the global generator shows itself here
        again, other = _advance(strategy, _start(strategy), 3), _advance(strategy, _start(strategy, 1), 3)
        _assert_same(first, again)
        ours, others = _population(strategy, first), _population(strategy, other)
        assert any(not torch.equal(ours[name], others[name]) for name in ours), "seed 0 and seed 1 ran alike"

    def test_the_global_generator_is_left_alone(self, strategy: Strategy[Any]) -> None:
        before = torch.get_rng_state()
        _advance(strategy, _start(strategy), 1)
        assert torch.equal(before, torch.get_rng_state())

    def test_a_dumped_state_goes_on_with_the_same_bits(self, strategy: Strategy[Any]) -> None:
        state = _advance(strategy, _start(strategy), 3)
        tensors, meta = dump_state(state)
        loaded = load_state(strategy, tensors, json.loads(json.dumps(meta)))
        _assert_same(_advance(strategy, state, 2), _advance(strategy, loaded, 2))

    @pytest.mark.parametrize("value", [0.0, -3e7, math.nan, math.inf])
    def test_fitness_that_says_nothing_moves_nothing(self, strategy: Strategy[Any], value: float) -> None:
        state = _advance(strategy, _start(strategy), 2)
        silent = strategy.tell(state, torch.full((strategy.population_size,), value, dtype=torch.float64))
        assert strategy.generation(silent) == strategy.generation(state) + 1
        for name, mean in strategy.mean(state).items():
            assert torch.equal(strategy.mean(silent)[name], mean)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_dropped_member_never_poisons_the_centre(self, strategy: Strategy[Any], bad: float) -> None:
        state = _advance(strategy, _start(strategy), 1)
        fitness = _fitness(strategy, state)
        fitness[strategy.population_size // 2] = bad
        after = strategy.tell(state, fitness)
        assert all(bool(torch.isfinite(mean).all()) for mean in strategy.mean(after).values())
        assert math.isfinite(strategy.step_size(after))

    def test_fitness_rises(self, strategy: Strategy[Any]) -> None:
        state = _start(strategy)
        before = _fitness(strategy, state).mean()
        assert _fitness(strategy, _advance(strategy, state, self.generations)).mean() > before

    def test_generations_are_counted_and_the_step_size_is_a_number(self, strategy: Strategy[Any]) -> None:
        state = _advance(strategy, _start(strategy), 3)
        assert strategy.generation(state) == 3
        assert strategy.step_size(state) >= 0
        assert strategy.best(state).keys() == _VALUES.keys()

    def test_misuse_is_refused(self, strategy: Strategy[Any]) -> None:
        state = _start(strategy)
        with pytest.raises(ShapeError):
            strategy.tell(state, torch.zeros(strategy.population_size + 1))
        with pytest.raises(ConfigurationError):
            strategy.ask(state, len(strategy.blocks()))
