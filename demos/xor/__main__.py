"""``python -m demos.xor``: train, and print the truth table before and after."""

from __future__ import annotations

import argparse
import asyncio

from demos.xor.program import EXAMPLES, Xor
from hyperfunc import MSE, ESHybridSystemOptimizer, OptimizeResult


async def truth_table(system: Xor) -> str:
    """One line: every pair of bits and the answer to it."""
    outputs = [float(await system.run(**example.inputs)) for example in EXAMPLES]
    pairs = ["".join(str(int(bit)) for bit in example.inputs["bits"]) for example in EXAMPLES]
    return ", ".join(f"{pair} -> {answer:.2f}" for pair, answer in zip(pairs, outputs, strict=True))


async def train(system: Xor, seed: int = 0) -> OptimizeResult:
    """Evolve the weights: 200 generations of 64 members, on the negated squared error."""
    system.system_optimizer = ESHybridSystemOptimizer(steps=200, pop_size=64)
    return await system.optimize(EXAMPLES, MSE(), seed=seed)


async def main(seed: int) -> None:
    system = Xor(seed=seed)
    print(f"before: {await truth_table(system)}")
    result = await train(system, seed)
    print(f"after:  {await truth_table(system)}")
    print(result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evolve XOR from random weights.")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(main(parser.parse_args().seed))
