"""``python -m demos.affine_composition``: train, and compare points that were not trained on."""

from __future__ import annotations

import argparse
import asyncio

from demos.affine_composition.program import Composition, make_examples
from hyperfunc import MSE, ESHybridSystemOptimizer, OptimizeResult

TRAIN = make_examples(16, seed=7)
TEST = make_examples(64, seed=8)


async def train(system: Composition, seed: int = 0) -> OptimizeResult:
    """Evolve both maps together: 200 generations of 64 members, on the negated squared error."""
    system.system_optimizer = ESHybridSystemOptimizer(steps=200, pop_size=64)
    return await system.optimize(TRAIN, MSE(), seed=seed)


async def main(seed: int) -> None:
    system = Composition(seed=seed)
    before = await system.evaluate(TEST, MSE())
    result = await train(system, seed)
    after = await system.evaluate(TEST, MSE())
    print("parameters:", ", ".join(system.theta))
    print(result)
    print(f"squared error on new points: {-before:.4f} -> {-after:.6f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evolve two affine maps that shall do one thing together.")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(main(parser.parse_args().seed))
