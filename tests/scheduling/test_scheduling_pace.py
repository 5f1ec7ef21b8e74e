"""A measured pace: fewer or more runs alive at once, by what was measured, and the same bits whatever that was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from benchmarks.virtual_time import Server
from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.budget import Budget
from hyperfunc.errors import ConfigurationError, ResumeError
from hyperfunc.evaluation.scorers import NumericDistance
from hyperfunc.population.evaluate import PopulationRunner
from hyperfunc.scheduling import AdaptiveMinibatch, Economy, MeasuredPace, Racing
from hyperfunc.settings import resolve_settings
from hyperfunc.testing import VirtualLoop

SMALL = MeasuredPace(first=3, least=2)


@hyperfunction(hp_type=LoRAWeight.create(5, 5, 1), optimize_hparams=True)
async def odd(x, hp):
    """Products of an odd size, where another row of a kernel gives other bits."""
    return torch.tanh(hp.weight @ x).log1p()


class Asking(HyperSystem):
    """Waits for a server, branches on values, and meets others in kernels."""

    def __init__(self, server=None):
        super().__init__(seed=0, system_optimizer=ESHybridSystemOptimizer(pop_size=8, block_size=2, sigma=0.1, steps=4))
        self.server = server

    async def run(self, x):
        x = await odd(x)
        if self.server is not None:
            await self.server.call(0)
        if x[0] > 0:
            x = await odd(x + 0.3)
        return x.sum()


def data(count=9):
    inputs = torch.rand(count, 5, generator=torch.Generator().manual_seed(1))
    return [Example({"x": x}, float(x.sum())) for x in inputs]


def optimize(economy, *, server=None, virtual=True, **arguments):
    """θ after a short run, and the seconds that it took."""

    async def run():
        system = Asking(server)
        arguments.setdefault("settings", Settings(execution="gathered"))
        result = await system.optimize(data(), NumericDistance(), economy=economy, **arguments)
        return result.theta, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop if virtual else None) as runner:
        return runner.run(run())


@pytest.mark.parametrize(
    "others", [{}, {"racing": Racing(tolerance=0.6)}, {"minibatch": AdaptiveMinibatch(smallest=3)}]
)
def test_no_pace_changes_a_bit(others):
    without = optimize(Economy(**others))[0]
    for pace in (MeasuredPace(), SMALL, MeasuredPace(first=1, least=1, step=5.0, worthwhile=0.9)):
        assert optimize(Economy(pace=pace, **others))[0] == without
    draws = iter(torch.rand(100_000, generator=torch.Generator().manual_seed(3)).tolist())
    unsteady = Server(2, overload=1.5, seconds=lambda _: 0.1 + next(draws))
    assert optimize(Economy(pace=SMALL, **others), server=unsteady)[0] == without


def test_blocks_are_in_flight_together():
    """Blocks of 2 members on 9 examples are 18 runs: one after the other, no more than 18 are ever alive."""
    alone, together = Server(1000), Server(1000)
    slow = optimize(Economy(), server=alone)[1]
    fast = optimize(Economy(pace=MeasuredPace(first=64)), server=together)[1]
    assert alone.most == 18
    assert together.most >= 64
    assert fast < 0.7 * slow


def test_it_comes_to_fewer_where_fewer_complete_more():
    """Of 18 runs at once, this server completes a third of what it does for the six that it has room for."""
    crowded, measured = Server(6, overload=2.0), Server(6, overload=2.0)
    steps = {"steps": 20}
    slow = optimize(Economy(), server=crowded, settings=Settings(execution="gathered"), **steps)[1]
    fast = optimize(Economy(pace=MeasuredPace(first=16)), server=measured, **steps)[1]
    assert fast < 0.8 * slow


def test_the_window_of_the_settings_is_the_most():
    server = Server(1000)
    optimize(Economy(pace=MeasuredPace()), server=server, settings=Settings(execution="gathered", window=5))
    assert server.most == 5


def test_a_budget_is_kept_and_spent_alike():
    def spent(economy):
        budget = Budget(evaluations=200)
        theta = optimize(economy, budget=budget)[0]
        return theta, budget.spent.evaluations

    assert spent(Economy(pace=SMALL)) == spent(Economy())


@pytest.mark.parametrize("economy", [Economy(), Economy(pace=MeasuredPace(first=2))])
def test_a_run_is_resumed_in_the_same_bits_with_another_pace_or_none(tmp_path: Path, economy):
    journal = {"run": "r", "journal": tmp_path / "journal.db", "virtual": False}
    uninterrupted = optimize(Economy(pace=SMALL), steps=4)[0]
    optimize(Economy(pace=SMALL), steps=2, **journal)
    assert optimize(economy, steps=4, resume=True, **journal)[0] == uninterrupted


def test_what_changes_bits_is_still_compared(tmp_path: Path):
    journal = {"run": "r", "journal": tmp_path / "journal.db", "virtual": False}
    optimize(Economy(pace=SMALL), steps=1, **journal)
    with pytest.raises(ResumeError, match="economy"):
        optimize(Economy(pace=SMALL, racing=Racing()), steps=2, resume=True, **journal)


def test_a_resumed_run_goes_on_from_the_pace_that_was_found():
    runners = []
    for _ in range(2):
        runner = PopulationRunner(Asking().program(), resolve_settings(Settings(execution="gathered")))
        runner.follow(MeasuredPace())
        runners.append(runner)
    first, second = runners
    assert first._window is not None
    first._window.runs.stand_at(23)
    second.restore_decision(first.decision())
    assert second._window is not None
    assert second._window.runs.limit == 23
    second.restore_decision({**first.decision(), "runs_alive": None})  # kept by a run without a pace
    assert second._window.runs.limit == 23
    for runner in runners:
        runner.close()


def test_a_new_run_begins_with_the_pace_that_another_run_of_the_program_found(tmp_path: Path, monkeypatch):
    begun = []
    take = PopulationRunner.take_pace
    monkeypatch.setattr(PopulationRunner, "take_pace", lambda self, known: (begun.append(known), take(self, known)))
    journal = {"journal": tmp_path / "journal.db", "virtual": False, "steps": 1}
    first = optimize(Economy(pace=MeasuredPace(first=7)), run="first", **journal)[0]
    second = optimize(Economy(pace=MeasuredPace(first=50)), run="second", **journal)[0]
    assert first == second
    assert begun[0] == {}
    assert begun[1]["runs_alive"] == 7
    optimize(Economy(), run="third", **journal)
    assert len(begun) == 2


@pytest.mark.parametrize(
    "options",
    [{"first": 0}, {"first": 2.5}, {"least": 0}, {"least": 65}, {"step": 1.0}, {"worthwhile": 0.0}, {"worthwhile": 1}],
)
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError):
        MeasuredPace(**options)
