"""Time per call of gathered execution, against the same calls made one by one.

    python benchmarks/gathered.py [--episodes 512] [--steps 100] [--repeats 5]

Prints medians: microseconds of CPU and of the clock per call for a small policy (4-16-2) as a typed parameter and as a
module, and for hidden width 256 with factored members, each beside eager calls of the same program through the same
system. On a busy machine only the CPU figures mean something.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hyperfunc.function import hyperfunction
from hyperfunc.population.gathered import run_gathered
from hyperfunc.population.members import DenseMembers, FactoredMembers, MemberBlock
from hyperfunc.population.sequential import run_sequential
from hyperfunc.settings import resolve_settings
from hyperfunc.system import HyperSystem


@dataclass
class TwoLayers:
    """The prototype's policy: two matrices in one parameter."""

    first: Tensor  # [16, 4]
    second: Tensor  # [2, 16]

    @classmethod
    def dim(cls) -> int:
        return 96

    @classmethod
    def from_tensor(cls, t: Tensor) -> TwoLayers:
        return cls(t[:64].view(16, 4), t[64:].view(2, 16))

    def to_tensor(self, device: Any = None, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.cat([self.first.flatten(), self.second.flatten()])


@hyperfunction(hp_type=TwoLayers, optimize_hparams=True)
def policy(x: Tensor, *, hp: TwoLayers) -> Tensor:
    return (torch.tanh(hp.first @ x) @ hp.second.T).argmax()


class Episodes(HyperSystem):
    """``steps`` decisions in a loop whose state the program itself advances."""

    def __init__(self, act: Any, steps: int) -> None:
        super().__init__()
        self.act = act
        self.steps = steps

    async def run(self, x: Tensor) -> Tensor:
        decision = x
        for _ in range(self.steps):
            decision = await self.act(x)
            x = x * 0.9 + 0.1
        return decision


def module_policy(hidden: int) -> Any:
    torch.manual_seed(0)
    return hyperfunction(optimize_hparams=True)(nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 2)))


def members_of(system: HyperSystem, size: int, *, factored: bool) -> MemberBlock:
    generator = torch.Generator().manual_seed(1)
    block: dict[str, Any] = {}
    for name, base in system.theta.tensors.items():
        if factored and base.ndim == 2:
            left = torch.randn(size, base.shape[0], 1, generator=generator)
            right = torch.randn(size, base.shape[1], 1, generator=generator)
            block[name] = FactoredMembers(base, left, right, 0.05)
        else:
            block[name] = DenseMembers(base + 0.05 * torch.randn(size, *base.shape, generator=generator))
    return block


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def measure(label: str, act: Any, episodes: int, steps: int, repeats: int, *, factored: bool) -> None:
    size, examples = max(1, episodes // 8), min(8, episodes)
    generator = torch.Generator().manual_seed(2)
    inputs = [{"x": torch.randn(4, generator=generator)} for _ in range(examples)]
    system = Episodes(act, steps)
    block = members_of(system, size, factored=factored)
    settings = resolve_settings()
    gathered, alone = [], []
    for _ in range(repeats + 1):
        start = now()
        outcome = asyncio.run(run_gathered(system.program(), block, inputs, settings=settings))
        gathered.append([(b - a) * 1e6 / (size * examples * steps) for a, b in zip(start, now(), strict=True)])
        assert not outcome.errors, outcome.errors
        assert outcome.gathered_calls == size * examples * steps, outcome.reasons
        few = max(1, size // 16)
        start = now()
        asyncio.run(run_sequential(system.program(), {n: _first(v, few) for n, v in block.items()}, inputs))
        alone.append([(b - a) * 1e6 / (few * examples * steps) for a, b in zip(start, now(), strict=True)])
    mean_rows = outcome.gathered_calls / outcome.kernels
    ours = [statistics.median(column) for column in zip(*gathered[1:], strict=True)]
    theirs = [statistics.median(column) for column in zip(*alone[1:], strict=True)]
    print(
        f"{label:40s} gathered {ours[0]:6.1f} CPU {ours[1]:6.1f} clock   one by one {theirs[0]:6.1f} CPU "
        f"{theirs[1]:6.1f} clock (us/call)   {theirs[0] / ours[0]:4.1f}x CPU {theirs[1] / ours[1]:4.1f}x clock   "
        f"{outcome.kernels} kernels of {mean_rows:.0f} calls"
    )


def _first(values: Any, count: int) -> Any:
    if isinstance(values, FactoredMembers):
        return FactoredMembers(values.base, values.left[:count], values.right[:count], values.scale)
    return DenseMembers(values.values[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=512)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("python", " ".join(sys.argv), f"  torch {torch.__version__}, {torch.get_num_threads()} thread")
    scale = {"episodes": options.episodes, "steps": options.steps, "repeats": options.repeats}
    measure("policy 4-16-2, typed parameter, dense", policy, factored=False, **scale)
    measure("policy 4-16-2, module, dense", module_policy(16), factored=False, **scale)
    measure("policy 4-16-2, module, factored", module_policy(16), factored=True, **scale)
    measure("policy 4-256-2, module, factored", module_policy(256), factored=True, **scale)


if __name__ == "__main__":
    main()
