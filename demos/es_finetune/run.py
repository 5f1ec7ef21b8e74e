"""Pretrain by backprop, evolve by reward, and say whether the gain is outside the confidence interval.

    python demos/es_finetune/run.py --seeds 5 --out out/es_finetune

Writes ``result.json`` and ``reward.png`` (with matplotlib). Pretraining is not part of the evolution's time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

from countdown import puzzles
from evolve import Evolved, evolve, rewards
from pretrain import new_model, pretrain

VALIDATION = 2000


def run_seed(seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One whole run: figures for the report."""
    begin = time.perf_counter()
    model = pretrain(new_model(seed), seed, steps=arguments.pretrain_steps)
    pretrained = time.perf_counter()
    held_out = puzzles(arguments.validation, 10_007, held_out=True)
    before = rewards(model, held_out)[0]
    run: Evolved = evolve(
        model,
        seed,
        generations=arguments.generations,
        validation=held_out[:500],
        report=lambda generation, score: print(f"  generation {generation:4d}  reward {score:.4f}", flush=True),
    )
    after = rewards(run.model, held_out)[0]
    seconds = time.perf_counter() - pretrained
    gain = after - before  # paired: the same puzzles
    half = 1.96 * float(gain.std()) / math.sqrt(len(gain))
    result = {
        "seed": seed,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "right_before": float((before == 1).float().mean()),
        "right_after": float((after == 1).float().mean()),
        "gain": float(gain.mean()),
        "interval": [float(gain.mean()) - half, float(gain.mean()) + half],
        "outside": float(gain.mean()) - half > 0,
        "pretraining_seconds": round(pretrained - begin, 1),
        "evolution_seconds": round(seconds, 1),
        "curve": run.curve,
    }
    print(
        f"seed {seed}: reward {result['before']:.4f} -> {result['after']:.4f}, gain {result['gain']:.4f} "
        f"(95 % interval {result['interval'][0]:.4f} to {result['interval'][1]:.4f}), {seconds:.0f} s",
        flush=True,
    )
    return result


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Reward on held-out puzzles over generations, one line for each seed."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed; no picture")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for result in results:
        axes.plot(*zip(*result["curve"], strict=True), marker="o", label=f"seed {result['seed']}")
    axes.set_xlabel("generation")
    axes.set_ylabel("mean reward, held-out puzzles")
    axes.set_title("Evolution after supervised training (generation 0)")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def main(given: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="run seeds 0 to this number minus 1")
    parser.add_argument("--generations", type=int, default=40)
    parser.add_argument("--pretrain-steps", type=int, default=200)
    parser.add_argument("--validation", type=int, default=VALIDATION, help="held-out puzzles")
    parser.add_argument("--out", type=Path, default=Path("out/es_finetune"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)  # small products: more threads only wait for each other
    results = [run_seed(seed, arguments) for seed in range(arguments.seeds)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "result.json").write_text(json.dumps(results, indent=1))
    plot(results, arguments.out / "reward.png")
    print(f"{sum(r['outside'] for r in results)} of {len(results)} seeds gain outside the confidence interval")
    return results


if __name__ == "__main__":
    main()
