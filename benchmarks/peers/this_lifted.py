"""This hyperfunc: an async two-layer pipeline with a gather, 256 members × 100 examples, noise and scoring included.

python -m benchmarks.peers.this_lifted [BLOCK_SIZE] [GENERATIONS]
"""

import asyncio
import sys

import torch

from benchmarks.harness import serve
from hyperfunc import MSE, ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, hyperfunction


@hyperfunction(hp_type=LoRAWeight.create(64, 16, 1), optimize_hparams=True)
async def hidden(x, hp):
    return torch.relu(x @ hp.weight.T)


@hyperfunction(hp_type=LoRAWeight.create(1, 128, 1), optimize_hparams=True)
async def out(x, hp):
    return torch.sigmoid(x @ hp.weight.T)


class Pipeline(HyperSystem):
    async def run(self, x):
        a, b = await asyncio.gather(hidden(x), hidden(x * 0.5))
        return (await out(torch.cat([a, b], -1))).squeeze(-1)


block_size = int(sys.argv[1]) if len(sys.argv) > 1 else 128
generations = int(sys.argv[2]) if len(sys.argv) > 2 else 40
generator = torch.Generator().manual_seed(0)
examples = [Example({"x": torch.randn(16, generator=generator)}, 0.5) for _ in range(100)]
system = Pipeline(system_optimizer=ESHybridSystemOptimizer(pop_size=256, block_size=block_size))


def work() -> float:
    """Seconds per generation: the proof of the first one is left out, everything else counts."""
    result = asyncio.run(system.optimize(examples, MSE(), steps=generations + 1, validate_every=1000))
    assert result.execution == "lifted", result.reason
    history = result.history
    return (history[generations - 1].seconds - history[0].seconds) / (generations - 1)


serve(work)
