"""hyperfunc 0.3: 64 candidates of its XOR program on 200 examples, evaluated once. Runs in its own environment."""

import asyncio
import sys
import time

import torch

from hyperfunc import Example, HyperSystem, LoRAWeight, hyperfunction

torch.manual_seed(0)


@hyperfunction(hp_type=LoRAWeight.create(4, 2, 2), optimize_hparams=True)
async def hidden_layer(x, hp):
    return torch.relu(x @ hp.weight.T)


@hyperfunction(hp_type=LoRAWeight.create(1, 4, 2), optimize_hparams=True)
async def output_layer(x, hp):
    return torch.sigmoid(x @ hp.weight.T)


class XOR(HyperSystem):
    async def run(self, x):
        return (await output_layer(await hidden_layer(x))).squeeze()


def metric(predictions, expected):
    return -sum((float(p) - e) ** 2 for p, e in zip(predictions, expected)) / len(expected)  # noqa: B905


system = XOR()
system.register_hyperfunction(hidden_layer, hp_init=torch.randn(4, 2))
system.register_hyperfunction(output_layer, hp_init=torch.randn(1, 4))
examples = [Example({"x": torch.tensor([float(a), float(b)])}, float(a ^ b)) for a in (0, 1) for b in (0, 1)] * 50
state = system.get_hp_state()
candidates = [{k: v + 0.1 * torch.randn_like(v) for k, v in state.items()} for _ in range(64)]

print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    asyncio.run(system.evaluate_population(candidates, examples, metric))
    print(time.perf_counter() - start, flush=True)
