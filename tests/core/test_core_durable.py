"""Runs that survive: resumed in the same bits after kill -9, refused when something changed, ended by budgets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.budget import Budget
from hyperfunc.errors import BudgetExceededError, ConfigurationError, ResumeError
from hyperfunc.journal import Journal

ROOT = Path(__file__).parents[2]


@hyperfunction(hp_type=LoRAWeight.create(3, 2, 1), optimize_hparams=True)
async def layer(x, hp):
    return torch.tanh(x @ hp.weight.T).sum(-1)


class System(HyperSystem):
    async def run(self, x):
        return await layer(x)


def data(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [Example({"x": torch.randn(2, generator=generator)}, 0.5) for _ in range(count)]


def system(**options):
    return System(system_optimizer=ESHybridSystemOptimizer(pop_size=8, sigma=0.2, lr=0.05, **options))


async def optimized(steps, path=None, **arguments):
    subject = system()
    if path is not None:
        arguments = {"run": "r", "journal": path / "journal.db", **arguments}
    return await subject.optimize(
        data(), "mean-squared-error", data(5, 1), steps=steps, minibatch=4, seed=3, **arguments
    )


async def test_a_resumed_run_ends_in_the_same_bits(tmp_path):
    whole = await optimized(9)
    await optimized(2, tmp_path)
    await optimized(5, tmp_path, resume=True)
    resumed = await optimized(9, tmp_path, resume=True)
    assert resumed.theta == whole.theta
    numbers = ["index", "best", "mean", "center", "sigma", "evaluations"]
    for name in numbers:
        assert resumed.history.column(name) == pytest.approx(whole.history.column(name), abs=0, nan_ok=True)
    assert resumed.evaluations == whole.evaluations
    again = await optimized(9, tmp_path, resume=True)
    assert (again.theta, again.evaluations) == (whole.theta, whole.evaluations)


async def test_sparse_checkpoints_repeat_a_little_and_end_in_the_same_bits(tmp_path):
    whole = await optimized(8)
    stop = iter([False, False, False, False, False, True])
    await optimized(8, tmp_path, checkpoint_every=4, callbacks=[lambda view: next(stop)])
    resumed = await optimized(8, tmp_path, checkpoint_every=4, resume=True)
    assert resumed.theta == whole.theta


SCRIPT = """
import asyncio, sys, torch
sys.path.insert(0, {root!r}); sys.path.insert(0, {tests!r})
import test_core_durable as module
from pathlib import Path

async def main():
    result = await module.optimized(40, Path({path!r}), resume=True)
    print(result.theta.content_hash)

asyncio.run(main())
"""


def start(path):
    script = textwrap.dedent(SCRIPT).format(root=str(ROOT), tests=str(Path(__file__).parent), path=str(path))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "plugins")])}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_kill_9_and_resume_ends_in_the_same_bits(tmp_path):
    whole = asyncio.run(optimized(40))
    generations = 0
    for wanted in (3, 11, 24):
        process = start(tmp_path)
        while process.poll() is None and generations < wanted:
            if (tmp_path / "journal.db").exists():
                with Journal(tmp_path / "journal.db") as journal:
                    generations = max((record.generations for record in journal.runs()), default=0)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(tmp_path)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert out.strip() == whole.theta.content_hash


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, "seed"),
        ({"minibatch": 3}, "minibatch"),
        ({"train": data(11)}, r"train|example"),
        ({"metric": "numeric-distance"}, "metric"),
        ({"optimizer": ESHybridSystemOptimizer(pop_size=8, sigma=0.3)}, "optimizer"),
    ],
)
async def test_a_changed_run_refuses_to_resume_and_says_what_changed(tmp_path, change, words):
    await optimized(2, tmp_path)
    subject = system()
    if "optimizer" in change:
        subject.system_optimizer = change["optimizer"]
    arguments = {
        "steps": 4,
        "minibatch": 4,
        "seed": 3,
        **{k: v for k, v in change.items() if k in ("seed", "minibatch")},
    }
    with pytest.raises(ResumeError, match=words):
        await subject.optimize(
            change.get("train", data()),
            change.get("metric", "mean-squared-error"),
            data(5, 1),
            run="r",
            journal=tmp_path / "journal.db",
            resume=True,
            **arguments,
        )


async def test_a_changed_program_refuses_to_resume(tmp_path):
    await optimized(2, tmp_path)

    class Changed(HyperSystem):
        async def run(self, x):
            return await layer(x) * 2

    subject = Changed(system_optimizer=system().system_optimizer)
    with pytest.raises(ResumeError, match="run"):
        await subject.optimize(
            data(), "mean-squared-error", data(5, 1), steps=4, minibatch=4, seed=3, run="r",
            journal=tmp_path / "journal.db", resume=True,
        )  # fmt: skip


async def test_a_run_in_the_journal_needs_a_name(tmp_path):
    with pytest.raises(ConfigurationError, match="name"):
        await system().optimize(data(), "mean-squared-error", steps=1, run="", journal=tmp_path / "j.db")


class TestBudget:
    async def test_evaluations_are_reserved_before_each_generation(self):
        budget = Budget(evaluations=8 * 12 * 3 + 5)
        result = await system().optimize(data(), "mean-squared-error", steps=50, budget=budget, validate_every=1)
        assert result.finish_reason == "budget:evaluations"
        assert len(result.history) == 3
        assert budget.spent.evaluations <= 8 * 12 * 3 + 5
        assert result.improved

    async def test_a_run_that_outgrows_a_budget_inside_ends_with_its_best(self):
        @hyperfunction(io=True)
        async def pay(x):
            from hyperfunc.scope import current_scope
            from hyperfunc.usage import Usage

            reservation = current_scope().budget.reserve(Usage(usd=0.01))
            reservation.settle(Usage(usd=0.01))
            return x

        class Paying(HyperSystem):
            async def run(self, x):
                return await layer(await pay(x))

        subject = Paying(system_optimizer=ESHybridSystemOptimizer(pop_size=4, sigma=0.2))
        budget = Budget(usd=0.95)
        result = await subject.optimize(data(3), "mean-squared-error", steps=50, budget=budget)
        assert result.finish_reason == "budget:usd"
        assert 0 < len(result.history) < 50
        assert 0.9 <= budget.spent.usd <= 0.95

    async def test_seconds(self):
        ticks = iter(range(10**6))
        budget = Budget(seconds=20, clock=lambda: float(next(ticks)))
        result = await system().optimize(data(), "mean-squared-error", steps=1000, budget=budget)
        assert result.finish_reason == "budget:seconds"
        assert 0 < len(result.history) < 1000

    def test_the_error_names_its_limit(self):
        from hyperfunc.usage import Usage

        with pytest.raises(BudgetExceededError) as caught:
            Budget(calls=0).reserve(Usage(calls=1))
        assert caught.value.limit == "calls"


async def test_settings_reach_a_durable_run(tmp_path):
    result = await optimized(1, tmp_path, settings=Settings(execution="sequential"))
    assert result.execution == "sequential"
