"""``python -m demos.digits``: train, report, save θ and two pictures."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor

from demos.digits.pipeline import AnswerAccuracy, DigitPipeline, LogLikelihood
from hyperfunc import ESHybridSystemOptimizer, Example


def load_examples(seed: int = 0) -> tuple[list[Example], list[Example], list[Example]]:
    """The digits that ship with scikit-learn: 1 000 to train, 300 to select, 497 to test."""
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 8.0 - 1.0
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    examples = [Example({"image": images[i]}, int(digits.target[i])) for i in order]
    return examples[:1000], examples[1000:1300], examples[1300:]


async def predictions(system: DigitPipeline, examples: list[Example]) -> Tensor:
    """Class of every example, -1 where the pipeline abstains: ``[E]``."""
    outputs = torch.stack([await system.run(**e.inputs) for e in examples])
    return torch.where(outputs[:, -1] > 0, outputs[:, :-1].argmax(-1), -1)


def save_confusion_matrix(predicted: Tensor, expected: Tensor, path: Path) -> None:
    """Rows: what it was; columns: what the pipeline said, the last one for abstentions."""
    matrix = torch.zeros(10, 11, dtype=torch.long)
    for true, said in zip(expected.tolist(), predicted.tolist(), strict=True):
        matrix[true, said if said >= 0 else 10] += 1
    figure = Figure(figsize=(6.0, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, cmap="Blues")
    for row in range(10):
        for column in range(11):
            count = int(matrix[row, column])
            if count:
                color = "white" if count > matrix.max() / 2 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(11), [*map(str, range(10)), "abstain"])
    axes.set_yticks(range(10))
    axes.set(xlabel="answered", ylabel="digit", title="test set")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


async def main(steps: int, seed: int, out: Path) -> float:
    train, validation, test = load_examples()
    system = DigitPipeline(
        seed=seed,
        system_optimizer=ESHybridSystemOptimizer(steps=steps, pop_size=256, sigma=0.05, lr=0.03, block_size=128),
    )
    before = await system.evaluate(test, AnswerAccuracy())
    print(f"{sum(t.numel() for t in system.theta.tensors.values())} parameters, {len(train)} training examples")
    started = time.perf_counter()
    result = await system.optimize(
        train, LogLikelihood(), validation, minibatch=250, seed=seed, validate_every=10, run="digits"
    )
    seconds = time.perf_counter() - started
    after = await system.evaluate(test, AnswerAccuracy())
    predicted = await predictions(system, test)
    expected = torch.tensor([e.expected for e in test])
    answered = predicted >= 0
    system.save(out / "theta")
    result.history.plot(out / "fitness.png", title="digits", ylabel="mean log-probability of the right answer")
    save_confusion_matrix(predicted, expected, out / "confusion.png")
    print(f"{result.execution}: {result.reason}")
    print(
        f"{result.evaluations} runs in {seconds:.1f} s ({result.evaluations / seconds / 1e3:.0f} thousand per second)"
    )
    print(
        f"coverage {answered.float().mean():.1%}, accuracy where answered "
        f"{(predicted[answered] == expected[answered]).float().mean():.1%}, "
        f"threshold {float(system.theta['decide.hp']):.2f}"
    )
    print(f"saved {out / 'theta'}.safetensors, {out / 'fitness.png'}, {out / 'confusion.png'}")
    print(f"test accuracy: {100 * before:.1f} % -> {100 * after:.1f} %")
    return after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Evolve a digit pipeline from random weights.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/digits"))
    arguments = parser.parse_args()
    asyncio.run(main(arguments.steps, arguments.seed, arguments.out))
