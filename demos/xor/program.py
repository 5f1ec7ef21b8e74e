"""Two layers with biases and what they shall compute. Knows nothing of how it is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfunc import Example, HyperSystem, LoRAWeight, hyperfunction

HIDDEN = 4


def with_one(x: Tensor) -> Tensor:
    """Append a constant 1, so that one matrix holds weights and bias."""
    return torch.cat([x, x.new_ones(1)], -1)


@hyperfunction(hp_type=LoRAWeight.create(HIDDEN, 3), optimize_hparams=True)
async def hidden(bits: Tensor, hp: LoRAWeight) -> Tensor:
    """Two bits -> ``[HIDDEN]``."""
    return torch.tanh(with_one(bits) @ hp.weight.T)


@hyperfunction(hp_type=LoRAWeight.create(1, HIDDEN + 1), optimize_hparams=True)
async def output(features: Tensor, hp: LoRAWeight) -> Tensor:
    """Features -> the answer, a 0-dim tensor."""
    return (with_one(features) @ hp.weight.T).squeeze(-1)


class Xor(HyperSystem):
    """Two bits -> about 0 or about 1."""

    async def run(self, bits: Tensor) -> Tensor:
        return await output(await hidden(bits))


EXAMPLES = [Example({"bits": torch.tensor([a, b])}, float(a != b)) for a in (0.0, 1.0) for b in (0.0, 1.0)]
