"""This hyperfunc: generations of the XOR program (64 members, 200 examples), noise, scoring and update included.

python -m benchmarks.peers.this_xor scorer|metric [GENERATIONS]
"""

import asyncio
import sys

import torch

from benchmarks.harness import serve
from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction


@hyperfunction(hp_type=LoRAWeight.create(4, 2, 1), optimize_hparams=True)
async def hidden_layer(x, hp):
    return torch.relu(x @ hp.weight.T)


@hyperfunction(hp_type=LoRAWeight.create(1, 4, 1), optimize_hparams=True)
async def output_layer(x, hp):
    return torch.sigmoid(x @ hp.weight.T)


class XOR(HyperSystem):
    async def run(self, x):
        return (await output_layer(await hidden_layer(x))).squeeze()


def metric(predictions, expected):
    return -sum((float(p) - e) ** 2 for p, e in zip(predictions, expected, strict=True)) / len(expected)


judge = MSE() if sys.argv[1] == "scorer" else metric
generations = int(sys.argv[2]) if len(sys.argv) > 2 else 40
examples = [Example({"x": torch.tensor([float(a), float(b)])}, float(a ^ b)) for a in (0, 1) for b in (0, 1)] * 50
system = XOR(system_optimizer=ESHybridSystemOptimizer(pop_size=64))


def work() -> float:
    """Seconds per generation: the proof of the first one is left out, everything else counts."""
    result = asyncio.run(system.optimize(examples, judge, steps=generations + 1, validate_every=1000))
    assert result.execution == "lifted", result.reason
    history = result.history
    return (history[generations - 1].seconds - history[0].seconds) / (generations - 1)


serve(work)
