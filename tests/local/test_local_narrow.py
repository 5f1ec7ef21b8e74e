"""Weights in bfloat16 and float16: what evolution does to them is accumulated in float32."""

from __future__ import annotations

import pytest
import torch

from hyperfunc.evolution.eggroll import Eggroll
from hyperfunc.evolution.gradient import GradientAscent
from hyperfunc.evolution.space import ParameterGroup
from hyperfunc.population.members import FactoredMembers, MemberBlock
from hyperfunc_local.adapters import adapter_for, plain_linear
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models.configuration import LlamaConfig

PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13, 14], [30]]
CONTINUATIONS = [[4, 5], [6], [7, 8], [10]]


def tiny_model() -> LocalModel:
    config = LlamaConfig(
        family="llama",
        vocabulary=97,
        hidden=32,
        intermediate=64,
        layers=2,
        heads=2,
        key_value_heads=1,
        head_size=16,
        context_length=64,
        tied=True,
    )
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * shape[1] ** -0.5
        for name, shape in config.shapes().items()
    }
    return LocalModel(config, weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", [1, 3])
def test_narrow_weights_keep_perturbations_below_their_rounding(dtype: torch.dtype, rank: int) -> None:
    """σ is a tenth of the weights' spacing; added to the rounded product, most of it would be lost."""
    generator = torch.Generator().manual_seed(0)
    weight = (0.2 * torch.randn(64, 64, generator=generator)).to(dtype)
    left, right = (torch.randn(4, 64, rank, generator=generator).sign().to(dtype) for _ in range(2))
    x = torch.randn(4, 256, 64, generator=generator).to(dtype)
    scale = 0.1 * 0.125 * torch.finfo(dtype).eps
    delta = scale * (x.double() @ right.double()) @ left.double().mT
    got = adapter_for(FactoredMembers(weight, left, right, scale), dtype, weight.device).apply(x, weight)
    lost = plain_linear(x, weight)
    assert got.dtype == dtype

    def kept(y: torch.Tensor) -> float:
        """Slope of what came out over what was put in: 1 means that none is lost on average."""
        change = y.double() - lost.double()
        return float((change * delta).sum() / delta.square().sum())

    assert kept(got) == pytest.approx(1, abs=0.15)
    assert abs(kept((lost.double() + delta).to(dtype))) < 0.5  # control: the perturbation added to the rounded product


def test_factors_perturb_their_own_base() -> None:
    """A strategy's centre moves; its members must not be read as perturbations of the weights it started from."""
    model = tiny_model()
    name = "model.layers.0.mlp.up_proj.weight"
    generator = torch.Generator().manual_seed(0)
    base = model.weights[name] + 0.3 * torch.randn(model.weights[name].shape, generator=generator)
    zero = FactoredMembers(base, torch.zeros(2, base.shape[0], 1), torch.zeros(2, base.shape[1], 1), 1.0)
    ids = torch.tensor([[[5, 6, 7]]]).expand(2, 1, 3)
    moved = model.with_weights({name: base})
    with torch.no_grad():
        got = model.forward(ids, {name: zero})
        assert torch.allclose(got[0], moved.forward(ids[:1])[0], atol=1e-5)
        assert not torch.allclose(got[0], model.forward(ids[:1])[0], atol=1e-2)


def test_evolution_of_narrow_weights_adds_up_steps_below_their_resolution() -> None:
    """bfloat16 weights, float32 centre: nearly every step is too small to change its weight, and yet none is lost."""
    exact = tiny_model()
    model = LocalModel(exact.config, {n: w.bfloat16() for n, w in exact.weights.items()})
    names = [n for n, w in model.weights.items() if w.dim() == 2 and "layers" in n]
    start = {n: model.weights[n].clone() for n in names}
    strategy = Eggroll(
        population_size=64, block_size=64, antithetic=True, sigma=0.005, ascent=GradientAscent("sgd", 1e-6)
    )
    state = strategy.init(ParameterGroup.of(start), start, 0)

    def reward(weights: dict[str, torch.Tensor], block: MemberBlock | None = None) -> torch.Tensor:
        changed = model.with_weights(weights)
        return changed.score(PROMPTS, CONTINUATIONS, members=block).total.double().mean(1)

    forgetful = dict(start)  # control: takes the same steps, and rounds after each
    for _ in range(40):
        block, before = strategy.ask(state, 0), dict(state.center)
        factors = [v for v in block.values() if isinstance(v, FactoredMembers)]
        assert len(factors) == len(names)
        assert all(v.left.dtype == v.base.dtype == torch.bfloat16 for v in factors)
        state = strategy.tell(state, reward(strategy.mean(state), block))
        steps = {n: state.center[n] - before[n] for n in names}
        relative = torch.cat([(step / before[n]).abs().flatten() for n, step in steps.items()])
        assert float((relative < 2**-9).float().mean()) > 0.9  # half the spacing of bfloat16 is at least 2⁻⁹
        forgetful = {n: (w.float() + steps[n]).bfloat16() for n, w in forgetful.items()}
    assert all(c.dtype == torch.float32 for c in state.center.values())
    assert all(torch.equal(model.weights[n], w) for n, w in start.items())
    gain, lost = (float(reward(w) - reward(start)) for w in (strategy.mean(state), forgetful))
    assert gain > 0.03
    assert lost < gain / 2
