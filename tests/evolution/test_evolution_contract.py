"""What every strategy promises, on one group that holds every kind of parameter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyperfunc.errors import ConfigurationError, ResumeError, ShapeError, UnknownParameterError
from hyperfunc.evolution.base import Strategy
from hyperfunc.evolution.cma_es import CMAES
from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.hybrid import ESHybridSystemOptimizer
from hyperfunc.evolution.ipop_cma_es import IPOPCMAES
from hyperfunc.evolution.openai_es import OpenAIES
from hyperfunc.evolution.pgpe import PGPE
from hyperfunc.evolution.sep_cma_es import SepCMAES
from hyperfunc.evolution.snes import SNES
from hyperfunc.evolution.space import ParameterGroup, ParameterSpec
from hyperfunc.evolution.state import dump_state, load_state
from hyperfunc.population.members import DenseMembers, MemberBlock

LOW, HIGH = torch.tensor([0.0, -5.0, 1.0]), torch.tensor([1.0, 5.0, 9.0])
GROUP = ParameterGroup(
    {
        "layer.weight": ParameterSpec((6, 5), noise_rank=2),
        "layer.bias": ParameterSpec((6,)),
        "half": ParameterSpec((3, 4), torch.bfloat16),
        "settings": ParameterSpec((3,), bounds=(LOW, HIGH), integer=torch.tensor([False, False, True])),
        "scale": ParameterSpec((), torch.float64),
    }
)
VALUES = {
    "layer.weight": torch.linspace(-1, 1, 30).reshape(6, 5),
    "layer.bias": torch.zeros(6),
    "half": torch.full((3, 4), 0.3, dtype=torch.bfloat16),
    "settings": torch.tensor([0.25, 0.0, 4.0]),
    "scale": torch.tensor(0.5, dtype=torch.float64),
}

LAYOUT: dict[str, Any] = {"population_size": 20, "block_size": 8}  # two whole blocks and a smaller one
STRATEGIES: dict[str, Strategy] = {
    "eggroll": Eggroll(**LAYOUT),
    "eggroll rademacher": Eggroll(**LAYOUT, noise="rademacher"),
    "eggroll alone": Eggroll(**LAYOUT, antithetic=False),
    "openai-es": OpenAIES(**LAYOUT),
    "pgpe": PGPE(**LAYOUT),
    "snes": SNES(**LAYOUT),
    "snes pairs": SNES(**LAYOUT, antithetic=True),
    "sep-cma-es": SepCMAES(**LAYOUT),
    "cma-es": CMAES(**LAYOUT),
    "cma-es pairs": CMAES(**LAYOUT, antithetic=True),
    "ipop-cma-es": IPOPCMAES(**LAYOUT),
    "hybrid": ESHybridSystemOptimizer(pop_size=20, block_size=8, strategies={"half": "cma-es"}).build(GROUP),
}

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES.keys())
paired_strategy = pytest.mark.parametrize(
    "strategy", [s for s in STRATEGIES.values() if s.antithetic], ids=[n for n, s in STRATEGIES.items() if s.antithetic]
)


def dense(block: MemberBlock) -> dict[str, Tensor]:
    return {
        name: v.values if isinstance(v, DenseMembers) else torch.stack([v.dense(i) for i in range(v.size)])
        for name, v in block.items()
    }


def fitness_of(strategy: Strategy, state: Any) -> Tensor:
    """Something smooth in every parameter."""
    parts = []
    for block in strategy.blocks():
        members = dense(strategy.ask(state, block))
        parts.append(-sum((v.double() - 0.7).square().reshape(v.shape[0], -1).sum(1) for v in members.values()))
    return torch.cat(parts)


def advance(strategy: Strategy, state: Any, generations: int) -> Any:
    for _ in range(generations):
        state = strategy.tell(state, fitness_of(strategy, state))
    return state


def start(strategy: Strategy, seed: int = 0) -> Any:
    return strategy.init(GROUP, VALUES, seed)


def assert_same_bits(left: Any, right: Any) -> None:
    """Two states, tensor by tensor and number by number."""
    (left_tensors, left_meta), (right_tensors, right_meta) = dump_state(left), dump_state(right)
    assert left_meta == right_meta
    assert left_tensors.keys() == right_tensors.keys()
    for path, tensor in left_tensors.items():
        assert torch.equal(tensor, right_tensors[path]), path


@every_strategy
def test_the_start_is_the_first_centre(strategy: Strategy) -> None:
    mean = strategy.mean(start(strategy))
    for name, value in VALUES.items():
        assert mean[name].dtype == value.dtype
        torch.testing.assert_close(mean[name], value)


@every_strategy
def test_members_have_shape_dtype_bounds_and_whole_numbers(strategy: Strategy) -> None:
    state = advance(strategy, start(strategy), 3)
    seen = 0
    for block in strategy.blocks():
        members = dense(strategy.ask(state, block))
        assert members.keys() == VALUES.keys()
        for name, value in VALUES.items():
            assert members[name].shape == (strategy.size_of(block), *value.shape)
            assert members[name].dtype == value.dtype
        settings = members["settings"]
        assert bool((settings >= LOW).all())
        assert bool((settings <= HIGH).all())
        assert torch.equal(settings[:, 2], settings[:, 2].round())
        seen += strategy.size_of(block)
    assert seen == strategy.population_size


@every_strategy
def test_ask_is_pure_and_blocks_stand_alone(strategy: Strategy) -> None:
    state = advance(strategy, start(strategy), 2)
    forwards = [dense(strategy.ask(state, block)) for block in strategy.blocks()]
    backwards = [dense(strategy.ask(state, block)) for block in reversed(strategy.blocks())][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(forwards[0]["layer.bias"], forwards[1]["layer.bias"])


@every_strategy
def test_tell_leaves_the_old_state_alone(strategy: Strategy) -> None:
    state = advance(strategy, start(strategy), 2)
    tensors, meta = dump_state(state)
    strategy.tell(state, fitness_of(strategy, state))
    after_tensors, after_meta = dump_state(state)
    assert meta == after_meta
    assert all(torch.equal(tensor, after_tensors[path]) for path, tensor in tensors.items())


@every_strategy
def test_the_same_seed_gives_the_same_bits_and_another_does_not(strategy: Strategy) -> None:
    first, again, other = (advance(strategy, start(strategy, seed), 4) for seed in (0, 0, 1))
    assert_same_bits(first, again)
    assert any(not torch.equal(strategy.best(first)[name], strategy.best(other)[name]) for name in VALUES), (
        "seed 0 and seed 1 ran alike"
    )


@every_strategy
def test_a_dumped_state_goes_on_with_the_same_bits(strategy: Strategy) -> None:
    state = advance(strategy, start(strategy), 3)
    tensors, meta = dump_state(state)
    loaded = load_state(strategy, tensors, json.loads(json.dumps(meta)))
    assert_same_bits(state, loaded)
    assert_same_bits(advance(strategy, state, 3), advance(strategy, loaded, 3))


@every_strategy
@pytest.mark.parametrize("value", [0.0, 0.1, -3e7, math.nan, math.inf])
def test_fitness_that_says_nothing_moves_nothing(strategy: Strategy, value: float) -> None:
    state = advance(strategy, start(strategy), 2)  # momentum and paths are under way
    silent = strategy.tell(state, torch.full((20,), value, dtype=torch.float64))
    assert strategy.generation(silent) == strategy.generation(state) + 1
    assert strategy.step_size(silent) == strategy.step_size(state)
    for name, mean in strategy.mean(state).items():
        assert torch.equal(strategy.mean(silent)[name], mean)


@every_strategy
def test_constant_groups_move_nothing(strategy: Strategy) -> None:
    """Groups that differ from each other, but not inside, say as little as constant fitness."""
    state = advance(strategy, start(strategy), 2)
    groups = torch.arange(20) % 3
    silent = strategy.tell(state, 0.1 * groups.double() + 0.3, groups=groups)
    for name, mean in strategy.mean(state).items():
        assert torch.equal(strategy.mean(silent)[name], mean)


@every_strategy
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_dropped_member_never_counts(strategy: Strategy, bad: float) -> None:
    """Whatever stands in its place, and in its twin's, the step is the same and finite."""
    state = advance(strategy, start(strategy), 2)
    fitness = fitness_of(strategy, state)
    twins = strategy.twins()
    dropped = [9] if twins is None else [9, int(twins[9])]
    without, other = fitness.clone(), fitness.clone()
    without[dropped] = math.nan
    other[9] = bad
    after, after_other = strategy.tell(state, without), strategy.tell(state, other)
    for name, mean in strategy.mean(after).items():
        assert bool(torch.isfinite(mean).all())
        assert torch.equal(mean, strategy.mean(after_other)[name])
        assert not torch.equal(mean, strategy.mean(state)[name]) or name in ("half", "settings")
    assert not any(not torch.isfinite(t).all() for p, t in dump_state(after)[0].items() if "bounds" not in p)


@paired_strategy
def test_twins_are_mirrored_inside_their_block(strategy: Strategy) -> None:
    twins = strategy.twins()
    assert twins is not None
    assert torch.equal(twins[twins], torch.arange(20))
    state = advance(strategy, start(strategy), 1)
    center = strategy.mean(state)["layer.bias"]
    for block in strategy.blocks():
        members = strategy.members_of(block)
        inside = twins[members] - members.start
        bias = dense(strategy.ask(state, block))["layer.bias"]
        torch.testing.assert_close(bias + bias[inside], (2 * center).expand_as(bias))


@every_strategy
def test_members_alone_have_no_twins(strategy: Strategy) -> None:
    assert (strategy.twins() is None) == (not strategy.antithetic)


@every_strategy
def test_fitness_rises(strategy: Strategy) -> None:
    state = start(strategy)
    before = fitness_of(strategy, state).mean()
    assert fitness_of(strategy, advance(strategy, state, 30)).mean() > before + 1.0


@every_strategy
def test_an_offset_of_fitness_does_not_matter(strategy: Strategy) -> None:
    state = start(strategy)
    fitness = (torch.arange(20) % 5 < 2).double()
    after, shifted = strategy.tell(state, fitness), strategy.tell(state, fitness + 4)
    for name, mean in strategy.mean(after).items():
        torch.testing.assert_close(strategy.mean(shifted)[name], mean)


@every_strategy
def test_misuse_is_refused(strategy: Strategy) -> None:
    state = start(strategy)
    with pytest.raises(ShapeError, match=r"expected shape \[20\]"):
        strategy.tell(state, torch.zeros(19))
    with pytest.raises(ConfigurationError, match="expected 0 to 2"):
        strategy.ask(state, 3)
    with pytest.raises(UnknownParameterError, match="scale"):
        strategy.init(GROUP, {n: v for n, v in VALUES.items() if n != "scale"}, 0)
    with pytest.raises(ShapeError, match=r"layer\.bias.*\[6\]"):
        strategy.init(GROUP, {**VALUES, "layer.bias": torch.zeros(7)}, 0)


def test_a_state_travels_through_safetensors(tmp_path: Path) -> None:
    """Nothing shares storage, nothing is empty of a shape, JSON takes the rest, and no bit is lost."""
    strategy = STRATEGIES["hybrid"]
    state = advance(strategy, start(strategy), 3)
    tensors, meta = dump_state(state)
    save_file(tensors, tmp_path / "state.safetensors")
    (tmp_path / "state.json").write_text(json.dumps(meta))
    loaded = load_state(
        strategy, load_file(tmp_path / "state.safetensors"), json.loads((tmp_path / "state.json").read_text())
    )
    assert_same_bits(advance(strategy, state, 2), advance(strategy, loaded, 2))


def test_what_is_no_value_cannot_be_dumped() -> None:
    with pytest.raises(ConfigurationError, match=r"state\.deep\.0.*object"):
        dump_state({"deep": [object()]})


def test_snes_keeps_trying_neighbouring_whole_numbers() -> None:
    """k is best at 7 and begins at 2: σ may not fall asleep below the step between two whole numbers."""
    spec = ParameterSpec((), bounds=(torch.tensor(0.0), torch.tensor(10.0)), integer=torch.tensor(True))
    group = ParameterGroup({"k": spec})
    strategy = SNES(population_size=16, sigma=0.05)
    state = strategy.init(group, {"k": torch.tensor(2.0)}, 0)
    for _ in range(60):
        members = strategy.ask(state, 0)["k"]
        assert isinstance(members, DenseMembers)
        state = strategy.tell(state, -(members.values - 7).abs())
    assert float(strategy.mean(state)["k"]) == 7
    assert strategy.step_size(state) >= 0.03 * (1 - 1e-6)


def test_a_state_of_another_strategy_is_refused() -> None:
    tensors, meta = dump_state(start(STRATEGIES["snes"]))
    with pytest.raises(ResumeError, match="SNESState"):
        load_state(STRATEGIES["pgpe"], tensors, meta)
    with pytest.raises(ResumeError, match="missing"):
        load_state(STRATEGIES["snes"], {}, meta)
    with pytest.raises(ResumeError, match="format"):
        load_state(STRATEGIES["snes"], tensors, {**meta, "format": 99})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population_size": 1}, "at least 2"),
        ({"population_size": 7}, "even"),
        ({"population_size": 12, "block_size": 3}, "even"),
        ({"block_size": -1}, "positive"),
        ({"sigma": 0.0}, "sigma"),
        ({"rank": 0}, "rank"),
        ({"shaping": "best"}, "shaping"),
        ({"noise": "uniform"}, "noise"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Eggroll(**settings)


def test_small_steps_add_up_under_a_narrow_dtype() -> None:
    """A bfloat16 weight of 1 cannot take steps of 0.001, its float32 master can."""
    group = ParameterGroup({"w": ParameterSpec((2,), torch.bfloat16)})
    strategy = ESHybridSystemOptimizer(pop_size=16, lr=0.001, strategy="openai-es").build(group)
    state = strategy.init(group, {"w": torch.ones(2, dtype=torch.bfloat16)}, 0)
    for _ in range(100):
        members = strategy.ask(state, 0)["w"]
        assert isinstance(members, DenseMembers)
        state = strategy.tell(state, -members.values.double().sum(1))
    assert bool((strategy.mean(state)["w"] < 0.95).all())
