"""Train a small Llama from scratch, by backprop, on demonstrations: the supervised level that evolution starts from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from countdown import END, CharacterTokenizer, demonstrations
from torch import Tensor

from hyperfunc_local.model import LocalModel
from hyperfunc_local.models import llama
from hyperfunc_local.models.configuration import LlamaConfig
from hyperfunc_local.models.weights import BoundWeights

__all__ = ["new_model", "pretrain"]

CARELESS = 0.5


def new_model(seed: int, *, hidden: int = 64, layers: int = 2) -> LocalModel:
    """Random weights."""
    config = LlamaConfig(
        family="llama",
        vocabulary=CharacterTokenizer.size,
        hidden=hidden,
        intermediate=2 * hidden,
        layers=layers,
        heads=hidden // 16,
        key_value_heads=hidden // 16,
        head_size=16,
        context_length=32,
        tied=True,
        stop_ids=(0,),
    )
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=generator) * 0.7 * shape[1] ** -0.5
        for name, shape in config.shapes().items()
    }
    return LocalModel(config, weights, CharacterTokenizer(), name="countdown")


def pretrain(model: LocalModel, seed: int, *, steps: int = 200, batch: int = 256, lr: float = 3e-3) -> LocalModel:
    """The model after ``steps`` of AdamW on next-token prediction of the answers.

    Half of the demonstrations are careless, as collected ones are: imitation alone cannot do better than its examples.
    """
    weights = {n: w.clone().requires_grad_() for n, w in model.weights.items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        ids, prompt = _batch(batch, seed * 1_000_003 + step)
        logits = llama.forward(model.config, BoundWeights(weights), ids[None, :, :-1])[0, :, prompt - 1 :]
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, prompt:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.with_weights({n: w.detach() for n, w in weights.items()})


def _batch(count: int, seed: int) -> tuple[Tensor, int]:
    """Ids ``[count, T]`` of demonstrations, all of one length, and the length of their prompts."""
    tokenizer = CharacterTokenizer()
    pairs = demonstrations(count, seed, careless=CARELESS)
    ids = torch.tensor([tokenizer.encode(puzzle.prompt + answer + END) for puzzle, answer in pairs])
    return ids, len(pairs[0][0].prompt)
