"""Calls at once by what was measured, in virtual time: nothing here sleeps, and every run is the same."""

from __future__ import annotations

import asyncio
import random

import pytest

from benchmarks.virtual_time import Server
from hyperfunc.batch import MeasuredConcurrency, batch
from hyperfunc.errors import ConfigurationError
from hyperfunc.testing import VirtualLoop


def run(server, count, concurrency, **options):
    """Outputs, and the virtual seconds that they took."""

    async def everything():
        outputs = [
            result.output async for result in batch(server.call, range(count), concurrency=concurrency, **options)
        ]
        return outputs, asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(everything())


def test_it_grows_while_that_completes_more():
    server = Server(64)
    outputs, seconds = run(server, 4000, MeasuredConcurrency(first=4, most=512))
    assert outputs == [2 * i for i in range(4000)]
    assert seconds < 2 * 4000 / 64  # the first calls, four at a time, included
    assert server.most < 4 * 64  # a window of twice the knee tells


def test_it_shrinks_where_more_completes_less():
    """Beyond its capacity this server wastes time: 128 calls at once take 64 times as long, not 8 times."""
    fixed, measured = Server(16, overload=2.0), Server(16, overload=2.0)
    _, slow = run(fixed, 3000, 128)
    _, fast = run(measured, 3000, MeasuredConcurrency(first=128, most=128))
    assert fast < 0.6 * slow


def test_results_do_not_depend_on_what_was_measured():
    found = []
    for seed in range(4):
        draws = random.Random(seed)
        server = Server(8 + seed, overload=1 + seed / 2, seconds=lambda item, draws=draws: draws.expovariate(1.0))
        found.append(run(server, 300, MeasuredConcurrency(first=3, most=50))[0])
    assert all(outputs == found[0] for outputs in found)


@pytest.mark.parametrize("limits", [(1, 1, 1), (5, 5, 5), (2, 3, 9)])
def test_it_stays_within_its_limits(limits):
    least, first, most = limits
    server = Server(4)
    run(server, 400, MeasuredConcurrency(least=least, first=first, most=most))
    assert server.most <= most


def test_failures_and_a_stop_free_their_slots():
    class Unwell(Server):
        async def call(self, item):
            await super().call(item)
            if item % 3 == 0:
                raise ValueError(item)
            return item

    server = Unwell(4)
    outputs, _ = run(server, 100, MeasuredConcurrency(first=2, most=8))
    assert outputs == [None if i % 3 == 0 else i for i in range(100)]
    stopped = Server(4)
    outputs, seconds = run(stopped, 10_000, MeasuredConcurrency(first=2, most=8), deadline_s=20.0)
    assert seconds == pytest.approx(20.0, abs=3.0)
    assert stopped.in_flight == 0


@pytest.mark.parametrize(
    "options", [{"first": 0}, {"least": 9, "first": 8}, {"first": 300}, {"step": 1.0}, {"worthwhile": 1.0}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigurationError):
        MeasuredConcurrency(**options)
