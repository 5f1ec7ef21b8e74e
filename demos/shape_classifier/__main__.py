"""``python -m demos.shape_classifier``: train, and report accuracy on images that were not trained on."""

from __future__ import annotations

import argparse
import asyncio

from demos.shape_classifier.images import NAMES, draw_examples
from demos.shape_classifier.pipeline import ShapeClassifier
from hyperfunc import Accuracy, CrossEntropy, ESHybridSystemOptimizer, Example, OptimizeResult

TEST = draw_examples(450, seed=3)


async def train(system: ShapeClassifier, steps: int = 500, seed: int = 0) -> OptimizeResult:
    """Evolve features and heads together, on the log-likelihood of the combined answer."""
    system.system_optimizer = ESHybridSystemOptimizer(steps=steps, pop_size=64, sigma=0.1, lr=0.2)
    return await system.optimize(
        draw_examples(900, seed=1),
        CrossEntropy(),
        draw_examples(180, seed=2),
        minibatch=45,
        validate_every=10,
        seed=seed,
    )


async def worst_classes(system: ShapeClassifier, examples: list[Example]) -> str:
    """The classes that were missed, with their number of misses."""
    missed = [0] * len(NAMES)
    for example in examples:
        missed[example.expected] += int((await system.run(**example.inputs)).argmax()) != example.expected
    return ", ".join(f"{name} {count}" for name, count in zip(NAMES, missed, strict=True) if count) or "none"


async def main(steps: int, seed: int) -> None:
    system = ShapeClassifier(seed=seed)
    before = await system.evaluate(TEST, Accuracy())
    result = await train(system, steps, seed)
    after = await system.evaluate(TEST, Accuracy())
    print(result)
    print(f"missed of {len(TEST)}: {await worst_classes(system, TEST)}")
    print(f"test accuracy: {100 * before:.1f} % -> {100 * after:.1f} %")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evolve a classifier of colours and shapes from random weights.")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.steps, arguments.seed))
