"""TorchEggrollES on bare modules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from hyperfunc.errors import ConfigurationError, OptimizationError, ShapeError
from hyperfunc.evolution.eggroll_module import TorchEggrollES

INPUTS = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
TARGETS = torch.stack([INPUTS[:, 0] * INPUTS[:, 1], INPUTS.sum(1)], dim=1)


def network(seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 2))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def loss_of(model: nn.Module) -> float:
    with torch.no_grad():
        return float(nn.functional.mse_loss(model(INPUTS), TARGETS))


def test_steps_reduce_the_loss() -> None:
    model = network()
    es = TorchEggrollES(model, pop_size=32, rank=2)
    before = loss_of(model)
    losses = [es.step(INPUTS, nn.functional.mse_loss, TARGETS) for _ in range(80)]
    assert loss_of(model) < 0.2 * before
    assert losses[-1] < 0.2 * losses[0]
    assert es.generation == 80


def test_a_step_is_what_an_evaluation_by_hand_gives() -> None:
    """Lifted factored members and one dense run per member agree, in any block size."""
    lifted, by_hand = network(), network()
    one = TorchEggrollES(lifted, pop_size=12, block_size=4)
    two = TorchEggrollES(by_hand, pop_size=12, block_size=4)
    fitness = []
    for member in two.prepare_population():
        assert member.keys() == dict(by_hand.named_parameters()).keys()
        outputs = torch.func.functional_call(by_hand, member, (INPUTS,))
        fitness.append(-nn.functional.mse_loss(outputs, TARGETS))
    mean = two.apply_fitness_scores(torch.stack(fitness))
    assert one.step(INPUTS, nn.functional.mse_loss, TARGETS) == pytest.approx(-mean, rel=1e-5)
    for name, value in weights(lifted).items():
        torch.testing.assert_close(value, weights(by_hand)[name], rtol=1e-4, atol=1e-5)


def test_stacked_parameters_are_the_population() -> None:
    es = TorchEggrollES(network(), pop_size=6, rank=1)
    members, stacked = es.prepare_population(), es.get_stacked_params()
    for name, tensor in stacked.items():
        assert torch.equal(tensor, torch.stack([member[name] for member in members]))
    assert stacked["0.weight"].shape == (6, 12, 5)


def test_the_module_changes_only_when_told() -> None:
    model = network()
    before = weights(model)
    es = TorchEggrollES(model, pop_size=8)
    es.prepare_population()
    es.get_stacked_params()
    es.state_dict()
    assert same(weights(model), before)
    with pytest.raises(ZeroDivisionError):
        es.step(INPUTS, lambda outputs, targets: 1 / 0, TARGETS)  # type: ignore[arg-type, return-value]
    with pytest.raises(ShapeError):
        es.apply_fitness_scores(torch.zeros(7))
    assert same(weights(model), before)
    assert es.apply_fitness_scores(torch.full((8,), 3.0)) == 3.0
    assert same(weights(model), before)  # constant fitness says nothing
    assert math.isnan(es.apply_fitness_scores(torch.full((8,), math.nan)))
    assert same(weights(model), before)
    es.apply_fitness_scores(torch.arange(8.0))
    assert not same(weights(model), before)


def test_only_filtered_parameters_move() -> None:
    model = network()
    before = weights(model)
    es = TorchEggrollES(model, pop_size=8, param_filter=lambda parameter, name: name.startswith("2."))
    es.step(INPUTS, nn.functional.mse_loss, TARGETS)
    after = weights(model)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["2.weight"], after["2.weight"])
    frozen = network()
    frozen[0].requires_grad_(False)
    assert set(TorchEggrollES(frozen, pop_size=8).prepare_population()[0]) == {"2.weight", "2.bias"}
    with pytest.raises(ConfigurationError, match="param_filter"):
        TorchEggrollES(model, param_filter=lambda parameter, name: False)


def test_a_saved_run_goes_on_with_the_same_bits() -> None:
    model, other = network(), network(1)
    es = TorchEggrollES(model, pop_size=8)
    for _ in range(3):
        es.step(INPUTS, nn.functional.mse_loss, TARGETS)
    resumed = TorchEggrollES(other, pop_size=8, seed=99)
    resumed.load_state_dict(es.state_dict())
    assert same(weights(model), weights(other))
    for run in (es, resumed):
        run.step(INPUTS, nn.functional.mse_loss, TARGETS)
    assert same(weights(model), weights(other))


def test_a_state_of_another_module_is_refused() -> None:
    es = TorchEggrollES(network(), pop_size=8)
    other = nn.Linear(2, 2)
    before = weights(other)
    with pytest.raises(OptimizationError, match="weight"):
        TorchEggrollES(other, pop_size=8).load_state_dict(es.state_dict())
    assert same(weights(other), before)


def test_a_loss_per_example_is_refused() -> None:
    es = TorchEggrollES(network(), pop_size=8)
    with pytest.raises(ConfigurationError, match="one number per member"):
        es.step(INPUTS, lambda outputs, targets: (outputs - targets).square().mean(1), TARGETS)
