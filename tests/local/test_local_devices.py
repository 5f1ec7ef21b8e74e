"""Nothing in the model assumes the CPU: the same answers on every device that is there, and no mixing of devices on one
that computes nothing (``meta``)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hyperfunc.population.members import DenseMembers, FactoredMembers
from hyperfunc_local.engine import Engine, GenerationRequest
from hyperfunc_local.model import LocalModel
from hyperfunc_local.models import llama
from hyperfunc_local.models import rope as rope_module
from hyperfunc_local.models.cache import KeyValueCache
from hyperfunc_local.models.configuration import LlamaConfig, RopeConfig
from hyperfunc_local.models.llama import forward
from hyperfunc_local.models.weights import BoundWeights
from hyperfunc_local.sampling.parameters import DecodingParameters
from hyperfunc_local.sampling.penalties import LogitBias, OccurrencePenalty

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12], [13], [20, 21]]
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}


def config_of(rope: str = "default") -> LlamaConfig:
    return LlamaConfig(
        family="qwen3",
        vocabulary=97,
        hidden=32,
        intermediate=48,
        layers=2,
        heads=4,
        key_value_heads=2,
        head_size=8,
        context_length=64,
        rope=RopeConfig(rope, original_length=8, settings=KINDS[rope]),
        windows=(None, 4),
        query_key_norm=True,
        qkv_bias=True,
    )


def model_on(device: str, dtype: torch.dtype = torch.float32) -> LocalModel:
    generator = torch.Generator().manual_seed(0)
    weights = {
        n: (torch.randn(s, generator=generator) * 0.3 + (len(s) == 1)).to(device=device, dtype=dtype)
        for n, s in config_of().shapes().items()
    }
    return LocalModel(config_of(), weights)


def members_on(model: LocalModel, count: int) -> dict[str, FactoredMembers | DenseMembers]:
    generator = torch.Generator().manual_seed(1)
    block: dict[str, FactoredMembers | DenseMembers] = {}
    for name, weight in model.weights.items():
        if weight.dim() == 1:
            noise = torch.randn((count, *weight.shape), generator=generator).to(weight)
            block[name] = DenseMembers(weight + 0.1 * noise)
        else:
            left, right = (torch.randn((count, size, 1), generator=generator).to(weight) for size in weight.shape)
            block[name] = FactoredMembers(weight, left, right, 0.05)
    return block


def everything(model: LocalModel) -> tuple[list[list[list[int]]], torch.Tensor]:
    """Refilled generation of a population, warm and greedy, with processors; and scores."""
    block = members_on(model, 3)
    engine = Engine(model.config, model.bind(block), slots=2)
    answers = []
    for member in range(3):
        for i, prompt in enumerate(PROMPTS):
            decoding = DecodingParameters(
                temperature=0.0 if i % 2 else 0.9, repetition_penalty=1.1, max_tokens=4 + 3 * i
            )
            own = (LogitBias({3: -5.0}, 97), OccurrencePenalty(0.5, 0.1))
            request = GenerationRequest(tuple(prompt), decoding, member, seed=i, processors=own, top_logprobs=2)
            answers.append(engine.submit(request))
    while engine.busy:
        engine.step()
    tokens = [[a.tokens for a in answers[4 * m : 4 * m + 4]] for m in range(3)]
    return tokens, model.score(PROMPTS, [[4, 5]] * 4, members=block).total


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_every_device_gives_the_same_answers(device: str) -> None:
    expected, score = everything(model_on("cpu", torch.float64))
    got, other = everything(model_on(device, torch.float64))
    assert got == expected
    assert other.device.type == device
    assert (other.cpu() - score).abs().max() <= 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_narrow_weights_run_on_every_device(device: str, dtype: torch.dtype) -> None:
    tokens, score = everything(model_on(device, dtype))
    assert [[len(t) for t in own] for own in tokens] == [[4, 7, 10, 13]] * 3
    assert bool(score.isfinite().all())


@pytest.mark.parametrize("rope", sorted(KINDS))
def test_no_tensor_of_a_forward_is_on_another_device(rope: str) -> None:
    config = config_of(rope)
    with torch.no_grad():
        weights = {n: torch.empty(s, device="meta", dtype=torch.bfloat16) for n, s in config.shapes().items()}
        bound = BoundWeights(weights, members_on(LocalModel(config, weights), 3))
        cache = KeyValueCache(config, 6, 40)
        ids = torch.zeros(3, 2, 7, dtype=torch.int64, device="meta")
        padding = None if rope == "dynamic" else torch.zeros(3, 2, dtype=torch.int64, device="meta")
        for part in (ids, ids[:, :, :1]):
            logits = forward(config, bound, part, padding=padding, cache=cache, output="last")
            padding = None
            assert logits.device.type == "meta"
            assert logits.shape == (3, 2, 1, 97)


@pytest.mark.parametrize("stray", ["rotary", "mask"])
def test_a_stray_tensor_would_be_noticed(stray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if stray == "rotary":
        monkeypatch.setattr(rope_module, "tables", lambda p, *_: (torch.ones(len(p), 1, 8), torch.ones(len(p), 1, 8)))
    else:
        monkeypatch.setattr(llama, "attention_mask", lambda s, n, *_: torch.ones(n, s + n).tril().bool()[None, None])
    with pytest.raises(RuntimeError, match="device"):
        test_no_tensor_of_a_forward_is_on_another_device("default")
