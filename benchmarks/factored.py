"""What factored members cost beside pure inference with shared weights.

    python -m benchmarks.factored [--threads 2] [--repeats 30] [--quick]

Three sets of rows go through the same modules: *inference* runs one shared set of weights over all rows, *factored*
runs every member's own perturbed weights over its rows (``torch.vmap`` over ``functional_call``), *dense* builds every
member's weights first. "Own rows" gives each member rows of its own, as inference has them; "shared rows" gives all
members the same examples, as an evaluation does, and the first layer's shared product is then done once.
The contenders take turns inside each repeat; medians are reported, and first deciles beside them, which a busy machine
disturbs less. Peaks are torch's own count of
allocations beyond what was there before, inputs and parameters excluded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperfunc.population.factored_members import Leaves, member_leaves, member_parameters
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberValues
from hyperfunc.population.noise import draw, generator_for
from hyperfunc.population.update import dense_gradient, factored_gradient

SIGMA = 0.05


@dataclass(frozen=True)
class Case:
    """One module with a population: ``members`` × ``examples`` rows."""

    title: str
    module: nn.Module
    features: int
    members: int
    examples: int
    rank: int = 1

    @property
    def rows(self) -> int:
        return self.members * self.examples


def bias_free(hidden: int = 512) -> nn.Module:
    """The module of table A: three square layers without biases."""
    layers: list[nn.Module] = []
    for _ in range(3):
        layers += [nn.Linear(hidden, hidden, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def classifier(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def ask(case: Case, generation: int) -> dict[str, MemberValues]:
    """A block of antithetic members: factored matrices, dense vectors."""
    block: dict[str, MemberValues] = {}
    pairs = case.members // 2
    for name, parameter in case.module.named_parameters():
        base, generator = parameter.detach(), generator_for(0, generation, name)
        if base.ndim == 2:
            left = draw((pairs, base.shape[0], case.rank), generator, kind="rademacher")
            right = draw((pairs, base.shape[1], case.rank), generator, kind="rademacher")
            block[name] = FactoredMembers(base, torch.cat([left, -left]), torch.cat([right, right]), SIGMA)
        else:
            noise = draw((pairs, *base.shape), generator)
            block[name] = DenseMembers(torch.cat([base + SIGMA * noise, base - SIGMA * noise]))
    return block


def evaluate(case: Case, block: dict[str, MemberValues], rows: Tensor, shared: bool) -> Tensor:
    """Every member's outputs ``[members, examples, out]``."""

    def member(own: Leaves, inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(case.module, member_parameters(block, own), (inputs,), strict=True)
        return output

    outputs: Tensor = torch.vmap(member, in_dims=(0, None if shared else 0))(member_leaves(block), rows)
    return outputs


def generation(case: Case, number: int, rows: Tensor) -> None:
    """Noise, evaluation, and the gradient of every parameter."""
    block = ask(case, number)
    fitness = -evaluate(case, block, rows, shared=True).square().mean((1, 2))
    pairs = case.members // 2
    weights = fitness[:pairs] - fitness[pairs:]
    for name, values in block.items():
        if isinstance(values, FactoredMembers):
            factored_gradient(values.left[:pairs], values.right[:pairs], weights)
        else:
            dense_gradient(values.values[:pairs] - dict(case.module.named_parameters())[name].detach(), weights)


def interleaved(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median and first-decile milliseconds of each contender, in turns, so that a slow moment hits them all."""
    for run in contenders.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: (1e3 * median(taken), 1e3 * sorted(taken)[repeats // 10]) for name, taken in times.items()}


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that ``run`` had allocated at once, its result included, by torch's allocator events."""
    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = highest = 0
    for _, change in changes:
        held += change
        highest = max(highest, held)
    return highest


def report(case: Case, repeats: int, with_dense: bool) -> None:
    block = ask(case, 0)
    own_rows = torch.randn(case.members, case.examples, case.features, generator=generator_for("rows"))
    examples = own_rows[0].clone()
    flat = own_rows.view(case.rows, case.features)
    contenders: dict[str, Callable[[], object]] = {
        "inference": lambda: case.module(flat),
        "own rows": lambda: evaluate(case, block, own_rows, shared=False),
        "shared rows": lambda: evaluate(case, block, examples, shared=True),
        "generation": lambda: generation(case, 1, examples),
    }
    if with_dense:
        dense: dict[str, MemberValues] = {
            name: DenseMembers(torch.stack([values.dense(i) for i in range(values.size)]))
            for name, values in block.items()
        }
        contenders["dense"] = lambda: evaluate(case, dense, own_rows, shared=False)
        expected, got = evaluate(case, dense, own_rows, shared=False), evaluate(case, block, own_rows, shared=False)
        error = float((expected - got).abs().max() / expected.abs().max())
    milliseconds = interleaved(contenders, repeats)
    inference, inference_low = milliseconds["inference"]
    print(f"\n{case.title}: population {case.members}, {case.examples} examples, rank {case.rank}, {case.rows} rows")
    for name, (taken, low) in milliseconds.items():
        print(
            f"  {name:12s} {taken:9.2f} ms  {inference / taken:6.1%} of inference"
            f"   (first decile {low:8.2f} ms  {inference_low / low:6.1%})"
        )
    base_peak = peak_bytes(contenders["inference"])
    for name in ("own rows", "shared rows"):
        print(f"  peak, {name:12s} {peak_bytes(contenders[name]) / base_peak:5.2f} x inference's")
    if with_dense:
        print(f"  largest difference from dense members, relative to the largest output: {error:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="table A only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    print(f"$ python -m benchmarks.factored {' '.join(sys.argv[1:])}".rstrip())
    print(f"torch {torch.__version__}, {options.threads} threads, medians of {options.repeats} interleaved repeats")
    for examples in (1, 8, 32):
        report(Case("table A, 3 x 512² without biases", bias_free(), 512, 64, examples), options.repeats, True)
    if options.quick:
        return
    report(Case("table A", bias_free(), 512, 64, 8, rank=4), options.repeats, True)
    slow = max(5, options.repeats // 5)
    report(Case("MLP 784-512-512-10", classifier(512), 784, 64, 64), slow, False)
    report(Case("MLP 784-512-512-10", classifier(512), 784, 256, 64), slow, False)
    report(Case("MLP 784-1024-1024-10", classifier(1024), 784, 256, 4), slow, False)


if __name__ == "__main__":
    main()
