"""Our Llama family against ``transformers`` in eager mode: the oracle of these tests, and of tests only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.errors import ShapeError, UnknownParameterError
from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc_local.models import llama as llama_module
from hyperfunc_local.models.attention import eager_attention
from hyperfunc_local.models.cache import AppendingCache, KeyValueCache
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.llama import forward
from hyperfunc_local.models.weights import BoundWeights

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama_tied": ("Llama", {"tie_word_embeddings": True}),
    "llama_mha_bias": ("Llama", {"num_key_value_heads": 4, "attention_bias": True, "mlp_bias": True}),
    "llama3_rope": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral_window": ("Mistral", {"sliding_window": 5}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"tie_word_embeddings": True}),
}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16},
    "yarn_mscale": {
        "rope_type": "yarn",
        "rope_theta": 1000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "truncate": False,
    },
}


def oracle(family: str, seed: int = 0, **changes: Any) -> Any:
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes}, attn_implementation="eager")
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():  # norms start at 1 and biases at 0: move them, so that they matter
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def ours(model: Any) -> tuple[LlamaConfig, dict[str, Tensor]]:
    config = LlamaConfig.from_hf({**model.config.to_dict(), "architectures": [type(model).__name__]})
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert {n: tuple(w.shape) for n, w in weights.items()} == config.shapes()
    return config, weights


def prompt(rows: int = 2, length: int = 12, seed: int = 3) -> Tensor:
    return torch.randint(3, 97, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def their_logits(model: Any, ids: Tensor, padding: Tensor | None = None) -> Tensor:
    if padding is None:
        return model(ids).logits
    columns = torch.arange(ids.shape[1])
    return model(
        ids,
        attention_mask=(columns >= padding[:, None]).long(),
        position_ids=(columns - padding[:, None]).clamp(min=0),
    ).logits


def our_logits(model: Any, ids: Tensor, **options: Any) -> Tensor:
    config, weights = ours(model)
    with torch.no_grad():
        return forward(config, BoundWeights(weights), ids.unsqueeze(0), **options)[0]


@pytest.mark.parametrize("attention", ["fused", "eager"])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_logits_equal_the_oracle(variant: str, attention: str) -> None:
    family, changes = VARIANTS[variant]
    model, ids = oracle(family, **changes), prompt()
    options = {} if attention == "fused" else {"attention": eager_attention}
    got, expected = our_logits(model, ids, **options), their_logits(model, ids)
    assert expected.std() > 0.3
    assert (got - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("rope", sorted(ROPES))
@pytest.mark.parametrize("length", [12, 80])
def test_stretched_positions_equal_the_oracle(rope: str, length: int) -> None:
    model, ids = oracle("Llama", rope_parameters=ROPES[rope]), prompt(length=length)
    assert (our_logits(model, ids) - their_logits(model, ids)).abs().max() <= 1e-4


def test_old_style_rope_settings_are_read() -> None:
    model = oracle("Llama", rope_parameters=LLAMA3)
    data = {**model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    new = LlamaConfig.from_hf(data)
    parameters = dict(data.pop("rope_parameters"))
    old = LlamaConfig.from_hf({**data, "rope_theta": parameters.pop("rope_theta"), "rope_scaling": parameters})
    assert old == new


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_left_padding_changes_nothing(variant: str) -> None:
    family, changes = VARIANTS[variant]
    model, ids, padding = oracle(family, **changes), prompt(3), torch.tensor([0, 4, 7])
    got = our_logits(model, ids, padding=padding[None])
    expected = their_logits(model, ids, padding)
    for row, pad in enumerate(padding.tolist()):
        assert (got[row, pad:] - expected[row, pad:]).abs().max() <= 1e-4
        alone = our_logits(model, ids[row : row + 1, pad:])
        assert (got[row, pad:] - alone[0]).abs().max() <= 1e-4
    assert not got.isnan().any()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_is_as_close_as_the_oracle(dtype: torch.dtype, bound: float) -> None:
    """Neither is exact: both must stay within the rounding of the format around the float32 answer."""
    model, ids = oracle("Llama"), prompt()
    exact = their_logits(model, ids)
    model = model.to(dtype)
    got, theirs = our_logits(model, ids).float(), their_logits(model, ids).float()
    assert got.dtype == torch.float32
    assert our_logits(model, ids).dtype == dtype
    scale = exact.abs().max()
    assert (got - exact).abs().max() <= bound * scale
    assert (got - exact).abs().mean() <= 1.5 * (theirs - exact).abs().mean()


# Negative controls: what the parity tests above would let through if they could not fail.


def _break_weight(config: LlamaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> LlamaConfig:
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"] * 1.01
    return config


def _break_epsilon(config: LlamaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> LlamaConfig:
    return replace(config, norm_epsilon=1e-3)


def _break_window(config: LlamaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> LlamaConfig:
    return replace(config, windows=(None,) * config.layers)


def _break_head_norm(config: LlamaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> LlamaConfig:
    return replace(config, query_key_norm=False)


def _break_rope(config: LlamaConfig, weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> LlamaConfig:
    def interleaved(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        first, second = heads[..., ::2], heads[..., 1::2]
        cos, sin = cos[..., : cos.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]
        return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)

    monkeypatch.setattr(llama_module, "rotate", interleaved)
    return config


@pytest.mark.parametrize(
    ("variant", "breaking"),
    [
        ("llama", _break_weight),
        ("llama", _break_epsilon),
        ("llama", _break_rope),
        ("mistral_window", _break_window),
        ("qwen2", _break_window),
        ("qwen3", _break_head_norm),
    ],
)
def test_parity_notices_a_broken_model(variant: str, breaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    family, changes = VARIANTS[variant]
    model, ids = oracle(family, **changes), prompt()
    config, weights = ours(model)
    config = breaking(config, weights, monkeypatch)
    with torch.no_grad():
        got = forward(config, BoundWeights(weights), ids.unsqueeze(0))[0]
    assert (got - their_logits(model, ids)).abs().max() > 1e-3


def test_parity_notices_a_dropped_padding_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rotary attention is relative, so that shifted positions hardly show; a dropped mask does."""
    model, ids, padding = oracle("Llama"), prompt(3), torch.tensor([0, 4, 7])
    monkeypatch.setattr(
        llama_module, "attention_mask", lambda s, c, p, w, d: torch.ones(c, c).tril().bool()[None, None]
    )
    got = our_logits(model, ids, padding=padding[None])
    expected = their_logits(model, ids, padding)
    assert (got[2, 7:] - expected[2, 7:]).abs().max() > 1e-2


# Populations


def perturbed(
    weights: dict[str, Tensor], members: int, sigma: float, rank: int = 1, names: list[str] | None = None
) -> dict[str, DenseMembers | FactoredMembers]:
    generator = torch.Generator().manual_seed(7)
    block: dict[str, DenseMembers | FactoredMembers] = {}
    for name, weight in weights.items():
        if names is not None and name not in names:
            continue
        if weight.dim() == 1:
            noise = torch.randn((members, *weight.shape), generator=generator, dtype=weight.dtype)
            block[name] = DenseMembers(weight + sigma * noise)
        else:
            left = torch.randn((members, weight.shape[0], rank), generator=generator, dtype=weight.dtype)
            right = torch.randn((members, weight.shape[1], rank), generator=generator, dtype=weight.dtype)
            block[name] = FactoredMembers(weight, left, right, sigma / rank**0.5)
    return block


def dense_weights(weights: dict[str, Tensor], block: Any, member: int) -> dict[str, Tensor]:
    return {n: block[n].dense(member) if n in block else w for n, w in weights.items()}


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_each_member_equals_an_oracle_with_its_dense_weights(variant: str, rank: int) -> None:
    family, changes = VARIANTS[variant]
    model, members = oracle(family, **changes), 4
    config, weights = ours(model)
    block = perturbed(weights, members, 0.05, rank)
    ids = torch.stack([prompt(seed=s) for s in range(members)])
    with torch.no_grad():
        got = forward(config, BoundWeights(weights, block), ids)
    same_input = forward(config, BoundWeights(weights, block), ids[:1].expand(members, -1, -1))
    for member in range(members):
        model.load_state_dict(dense_weights(weights, block, member), strict=False)
        expected = their_logits(model, ids[member])
        assert (got[member] - expected).abs().max() <= 1e-4 * expected.abs().max()
        if member:
            assert (same_input[member] - same_input[0]).abs().max() > 0.05


def test_a_population_in_double_precision_is_exact() -> None:
    model = oracle("Qwen3").double()
    config, weights = ours(model)
    block = perturbed(weights, 3, 0.05)
    ids = prompt().expand(3, -1, -1)
    with torch.no_grad():
        got = forward(config, BoundWeights(weights, block), ids, attention=eager_attention)
    for member in range(3):
        alone = BoundWeights(dense_weights(weights, block, member))
        with torch.no_grad():
            expected = forward(config, alone, ids[:1], attention=eager_attention)[0]
        assert (got[member] - expected).abs().max() <= 1e-6  # the softmax is float32 on purpose


def test_the_shared_weights_are_never_written_to() -> None:
    model = oracle("Llama")
    config, weights = ours(model)
    before = {n: w.clone() for n, w in weights.items()}
    versions = {n: w._version for n, w in weights.items()}
    with torch.no_grad():
        forward(config, BoundWeights(weights, perturbed(weights, 4, 0.1)), prompt().expand(4, -1, -1))
    assert all(torch.equal(weights[n], before[n]) and weights[n]._version == versions[n] for n in weights)


def test_selected_members_keep_their_weights() -> None:
    model = oracle("Llama", tie_word_embeddings=True)
    config, weights = ours(model)
    bound = BoundWeights(weights, perturbed(weights, 4, 0.1))
    ids = prompt().expand(4, -1, -1)
    with torch.no_grad():
        full = forward(config, bound, ids)
        part = forward(config, bound.select(torch.tensor([2, 0, 2])), ids[:3])
    assert (part - full[[2, 0, 2]]).abs().max() <= 1e-5


def test_vmap_over_weights_equals_the_explicit_population() -> None:
    model, members = oracle("Qwen3"), 3
    config, weights = ours(model)
    block = perturbed(weights, members, 0.05)
    stacked = {n: torch.stack([dense_weights(weights, block, m)[n] for m in range(members)]) for n in weights}
    ids, padding = prompt(3), torch.tensor([[0, 2, 5]])

    def one(own: dict[str, Tensor]) -> Tensor:
        cache = AppendingCache(config.layers)
        bound = BoundWeights(own)
        first = forward(config, bound, ids[None, :, :10], padding=padding, cache=cache, attention=eager_attention)
        rest = [
            forward(config, bound, ids[None, :, c : c + 1], cache=cache, attention=eager_attention) for c in (10, 11)
        ]
        return torch.cat((first, *rest), 2)[0]

    with torch.no_grad():
        mapped = torch.vmap(one)(stacked)
        explicit = forward(
            config, BoundWeights(weights, block), ids.expand(members, -1, -1), padding=padding.expand(members, -1)
        )
    keep = torch.arange(12) >= padding[0][:, None]
    assert (mapped - explicit)[:, keep].abs().max() <= 1e-4
    assert (mapped[1] - mapped[0])[keep].abs().max() > 0.05


@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_cached_logits_equal_uncached_ones(variant: str) -> None:
    family, changes = VARIANTS[variant]
    config, weights = ours(oracle(family, **changes))
    bound, ids, padding = BoundWeights(weights), prompt(2, 20)[None], torch.tensor([[0, 3]])
    with torch.no_grad():
        full = forward(config, bound, ids, padding=padding)
        for chunks in ([12] + [1] * 8, [5, 7, 8]):
            cache, start, parts = KeyValueCache(config, 2, 20), 0, []
            for count in chunks:
                options = {"padding": padding} if start == 0 else {}
                parts.append(forward(config, bound, ids[:, :, start : start + count], cache=cache, **options))
                start += count
            cached = torch.cat(parts, 2)
            assert (cached[0, 0] - full[0, 0]).abs().max() <= 1e-4
            assert (cached[0, 1, 3:] - full[0, 1, 3:]).abs().max() <= 1e-4


def test_rows_can_be_replaced_while_others_go_on() -> None:
    """A short row, then a long one, take the place of row 0; row 1 must not notice."""
    config, weights = ours(oracle("Mistral", sliding_window=6))
    bound, ids = BoundWeights(weights), prompt(4, 30)
    with torch.no_grad():
        expected = [forward(config, bound, ids[None, i : i + 1])[0, 0] for i in range(4)]
        cache = KeyValueCache(config, 2, 40)
        forward(config, bound, ids[None, :2, :8], cache=cache)
        for newcomer, length in ((2, 5), (3, 14)):
            own = KeyValueCache(config, 1, length)
            forward(config, bound, ids[None, newcomer : newcomer + 1, :length], cache=own)
            cache.place(torch.tensor([0]), own)
            for step in range(3):
                done = 8 if newcomer == 2 else 11
                token = torch.tensor([[[int(ids[newcomer, length + step])], [int(ids[1, done + step])]]])
                got = forward(config, bound, token, cache=cache)[0]
                assert (got[0, 0] - expected[newcomer][length + step]).abs().max() <= 1e-4
                assert (got[1, 0] - expected[1][done + step]).abs().max() <= 1e-4
                cache.compact()
        assert cache.length == 17


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda w: {"model.nothing.weight": DenseMembers(torch.zeros(2, 3))}, UnknownParameterError),
        (lambda w: {"model.norm.weight": DenseMembers(torch.zeros(2, 31))}, ShapeError),
        (
            lambda w: {
                "model.norm.weight": DenseMembers(torch.zeros(2, 32)),
                "lm_head.weight": DenseMembers(torch.zeros(3, 97, 32)),
            },
            ShapeError,
        ),
    ],
)
def test_wrong_members_are_refused(change: Any, error: type[Exception]) -> None:
    _, weights = ours(oracle("Llama"))
    with pytest.raises(error):
        BoundWeights(weights, change(weights))


def test_packed_weights_give_the_plain_products() -> None:
    """The engine's products take another road than the tests above: blocked copies of the weights."""
    from hyperfunc_local.model import LocalModel

    model = oracle("Qwen2")
    config, weights = ours(model)
    block = perturbed(weights, 3, 0.05)
    ids = prompt().expand(3, -1, -1)
    local = LocalModel(config, weights)
    with torch.no_grad():
        packed = forward(config, local.bind(block), ids)
        plain = forward(config, BoundWeights(weights, block), ids)
    assert (packed - plain).abs().max() <= 1e-5 * plain.abs().max()
    changed = local.with_weights({"lm_head.weight": weights["lm_head.weight"] * 2})
    with torch.no_grad():  # another model has other copies
        assert (changed.forward(ids[:1]) - 2 * local.forward(ids[:1])).abs().max() <= 1e-4
    with torch.enable_grad():
        weight = weights["lm_head.weight"].clone().requires_grad_()
        logits = LocalModel(config, {**weights, "lm_head.weight": weight}).forward(ids[:1])
        logits.sum().backward()
    assert weight.grad is not None
