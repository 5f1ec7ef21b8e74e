"""Which calls are gathered, which are made one by one, and the reason that is reported."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc.errors import CallLimitError, CallTimeoutError
from hyperfunc.function import HyperFunction, hyperfunction
from hyperfunc.parameters.lm import LMParam
from hyperfunc.parameters.lora import LoRAWeight
from hyperfunc.population.gathered import GatheredOutcome, run_gathered
from hyperfunc.population.members import DenseMembers
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem

RUNS = 20


class Calls(HyperSystem):
    """Calls one function twice."""

    def __init__(self, function: HyperFunction[..., Any], *others: HyperFunction[..., Any]) -> None:
        super().__init__()
        self.function = function
        for other in (function, *others):
            self.register_hyperfunction(other)

    async def run(self, x: Tensor) -> Any:
        return [await self.function(x * 1), await self.function(x + 1)]


async def gathered(system: HyperSystem, *, runs: int = RUNS, block: Any = None, **options: Any) -> GatheredOutcome:
    inputs = [{"x": torch.tensor([float(i), 1.0])} for i in range(runs)]
    return await run_gathered(system.program(), block or {}, inputs, settings=resolve_settings(Settings(**options)))


def reading() -> Callable[..., Any]:
    def reads(x: Tensor) -> Tensor:
        return x if x.sum() > 3 else -x

    return reads


def reading_in_secret() -> Callable[..., Any]:
    def reads_in_secret(x: Tensor) -> Tensor:
        try:
            return x * 2 if x.sum() > 3 else x
        except Exception:
            return x * 0

    return reads_in_secret


def random() -> Callable[..., Any]:
    def rolls(x: Tensor) -> Tensor:
        return x + 0 * torch.rand(2)

    return rolls


def writing() -> Callable[..., Any]:
    def writes(x: Tensor) -> Tensor:
        x.view(2).mul_(2)
        return x

    return writes


def counting() -> Callable[..., Any]:
    made = [0]

    def counts(x: Tensor) -> Tensor:
        made[0] += 1
        return x * made[0]

    return counts


class Wrapped:
    def __init__(self, value: Tensor) -> None:
        self.value = value


def wrapping() -> Callable[..., Any]:
    return lambda x: Wrapped(x)


def to_numbers() -> Callable[..., Any]:
    return lambda x: x.tolist()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (reading, r"bool\(\)"),
        (reading_in_secret, r"bool\(\)"),
        (random, "random"),
        (writing, "writes into its arguments"),
        (counting, "another result"),
        (wrapping, "returns a Wrapped"),
        (to_numbers, "tolist"),
    ],
)
async def test_what_a_kernel_cannot_do_is_called_one_by_one(make: Callable[[], Any], reason: str) -> None:
    function = hyperfunction(name="component")(make())
    outcome = await gathered(Calls(function))
    assert not outcome.errors
    assert outcome.gathered_calls == 0
    assert list(outcome.reasons) == ["component"]
    assert outcome.eager_calls == 2 * RUNS
    assert re.search(reason, outcome.reasons["component"])


async def test_the_values_of_refused_calls_are_those_of_single_calls() -> None:
    outcome = await gathered(Calls(hyperfunction(name="component")(reading_in_secret())))
    assert outcome.rows is not None
    for number, (first, _) in enumerate(outcome.rows[0]):
        x = torch.tensor([float(number), 1.0])
        assert torch.equal(first, x * 2 if x.sum() > 3 else x)


async def test_a_function_that_writes_is_called_once_for_each_call() -> None:
    outcome = await gathered(Calls(hyperfunction(name="component")(writing())))
    assert outcome.rows is not None
    for number, (first, second) in enumerate(outcome.rows[0]):
        assert torch.equal(first, torch.tensor([2.0 * number, 2.0]))
        assert torch.equal(second, torch.tensor([2.0 * number + 2, 4.0]))


async def test_a_function_that_waits_is_started_once_and_runs_concurrently() -> None:
    started, most, now = [], 0, 0

    @hyperfunction
    async def waits(x: Tensor) -> Tensor:
        nonlocal most, now
        started.append(float(x[0]))
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return x

    outcome = await gathered(Calls(waits))
    assert not outcome.errors
    assert len(started) == 2 * RUNS
    assert most > RUNS / 2
    assert outcome.reasons == {"waits": "it waits for something"}


async def test_waiting_on_some_calls_only() -> None:
    @hyperfunction
    async def sometimes(x: Tensor, mode: str) -> Tensor:
        if mode == "remote":
            await asyncio.sleep(0)
        return x * 2

    class Mixed(HyperSystem):
        async def run(self, x: Tensor) -> Tensor:
            return await sometimes(x, "local") + await sometimes(x, "remote")

    system = Mixed()
    system.register_hyperfunction(sometimes)
    outcome = await gathered(system)
    assert not outcome.errors
    assert (outcome.gathered_calls, outcome.eager_calls) == (RUNS, RUNS)


async def test_nested_calls_are_gathered_and_the_outer_ones_are_not() -> None:
    @hyperfunction
    async def inner(x: Tensor) -> Tensor:
        return x * 3

    outer_calls = []

    @hyperfunction
    async def outer(x: Tensor) -> Tensor:
        outer_calls.append(x)
        return await inner(x) + 1

    outcome = await gathered(Calls(outer, inner))
    assert not outcome.errors
    assert len(outer_calls) == 2 * RUNS
    assert outcome.gathered_calls == 2 * RUNS
    assert outcome.reasons == {"outer": "it calls the hyperfunction inner"}
    assert outcome.rows is not None
    assert torch.equal(outcome.rows[0][4][0], torch.tensor([13.0, 4.0]))


async def test_nested_calls_on_one_branch_only_are_refused_inside_kernels() -> None:
    switch = threading.Event()

    @hyperfunction
    async def inner(x: Tensor) -> Tensor:
        return x

    @hyperfunction
    async def outer(x: Tensor) -> Tensor:
        return await inner(x) + 1 if switch.is_set() else x + 1

    class Turning(HyperSystem):
        async def run(self, x: Tensor) -> Tensor:
            first = await outer(x)
            switch.set()
            return first + await outer(x)

    system = Turning()
    for component in (inner, outer):
        system.register_hyperfunction(component)
    outcome = await gathered(system)
    assert outcome.reasons["outer"] == "it calls the hyperfunction inner"


async def test_calls_without_tensors_are_made_at_once() -> None:
    @hyperfunction
    def plain(number: int) -> int:
        return number + 1

    class Plain(HyperSystem):
        async def run(self, x: Tensor) -> int:
            return await plain(1) + await plain(int(x[0]))

    system = Plain()
    system.register_hyperfunction(plain)
    outcome = await gathered(system)
    assert outcome.kernels == 0
    assert outcome.reasons == {"plain": "it takes no tensors"}


async def test_parameter_types_that_read_values() -> None:
    @hyperfunction(hp_type=LMParam, optimize_hparams=True)
    def asks(x: Tensor, *, hp: LMParam) -> Tensor:
        return x * hp.temperature

    block = {"asks.hp": DenseMembers(torch.stack([LMParam(temperature=t).to_tensor() for t in (0.5, 1.5)]))}
    outcome = await gathered(Calls(asks), block=block)
    assert not outcome.errors
    assert outcome.gathered_calls == 0
    assert "tolist" in outcome.reasons["asks"]
    assert outcome.rows is not None
    torch.testing.assert_close(
        [row[3][0] for row in outcome.rows], [torch.tensor([1.5, 0.5]), torch.tensor([4.5, 1.5])]
    )


async def test_a_caller_who_gives_the_parameter_is_obeyed() -> None:
    weight = LoRAWeight.create(2, 2, 1)

    @hyperfunction(hp_type=weight, optimize_hparams=True)
    def scales(x: Tensor, hp: LoRAWeight) -> Tensor:
        return x @ hp.weight.T

    class Gives(HyperSystem):
        async def run(self, x: Tensor) -> Any:
            mine = weight.from_tensor(torch.eye(2) * 2)
            return [await scales(x, hp=mine), await scales(x, mine), await scales(x)]

    system = Gives()
    system.register_hyperfunction(scales, torch.eye(2))
    outcome = await gathered(system)
    assert not outcome.errors
    assert outcome.rows is not None
    torch.testing.assert_close(outcome.rows[0][5], [torch.tensor(v) for v in ([10.0, 2.0], [10.0, 2.0], [5.0, 1.0])])


async def test_ever_new_constants_end_in_single_calls() -> None:
    @hyperfunction
    def shifted(x: Tensor, by: float) -> Tensor:
        return x + by

    class Shifts(HyperSystem):
        async def run(self, x: Tensor) -> Tensor:
            return await shifted(x, float(x[0]) / 7) + await shifted(x, 1.0)

    system = Shifts()
    system.register_hyperfunction(shifted)
    outcome = await gathered(system, runs=300)
    assert not outcome.errors
    assert "different ways" in outcome.reasons["shifted"]


async def test_local_gpu_functions_run_on_the_device_and_in_the_dtype_of_the_settings() -> None:
    weight = LoRAWeight.create(2, 2, 1)
    seen = set()

    @hyperfunction(hp_type=weight, optimize_hparams=True, local_gpu=True)
    def placed(x: Tensor, *, hp: LoRAWeight) -> Tensor:
        seen.add((x.dtype, hp.weight.dtype))
        return x @ hp.weight.T

    system = Calls(placed)
    block = {"placed.hp": DenseMembers(torch.stack([torch.eye(2), 2 * torch.eye(2)]))}
    outcome = await gathered(system, block=block, device="cpu", dtype=torch.float64)
    assert not outcome.errors
    assert outcome.gathered_calls == 4 * RUNS
    assert seen == {(torch.float64, torch.float64)}
    assert outcome.rows is not None
    torch.testing.assert_close(outcome.rows[1][3][0], torch.tensor([6.0, 2.0], dtype=torch.float64))


# --- limits hold -----------------------------------------------------------------------------------------------------


async def test_retries_hold() -> None:
    failed = set()

    @hyperfunction(retries=1)
    def fails_once(x: Tensor) -> Tensor:
        key = float(x[0])
        if key not in failed:
            failed.add(key)
            raise ValueError("once")
        return x

    outcome = await gathered(Calls(fails_once))
    assert not outcome.errors
    assert outcome.gathered_calls == 0


async def test_limits_hold_where_io_is_denied() -> None:
    @hyperfunction(max_calls=1, io=False)
    def once(x: Tensor) -> Tensor:
        return x

    outcome = await gathered(Calls(once))
    assert {type(error) for error in outcome.errors.values()} == {CallLimitError}
    assert len(outcome.errors) == RUNS


async def test_timeouts_hold() -> None:
    @hyperfunction(timeout_s=0.01)
    async def slow(x: Tensor) -> Tensor:
        await asyncio.sleep(30)
        return x

    outcome = await asyncio.wait_for(gathered(Calls(slow)), 20)
    assert {type(error) for error in outcome.errors.values()} == {CallTimeoutError}


async def test_limits_of_the_settings_hold() -> None:
    @hyperfunction
    async def slow(x: Tensor) -> Tensor:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(30)
        raise asyncio.CancelledError

    class Limited(HyperSystem):
        async def run(self, x: Tensor) -> Tensor:
            with Settings(timeout_s=0.01):
                return await slow(x)

    system = Limited()
    system.register_hyperfunction(slow)
    outcome = await asyncio.wait_for(gathered(system), 20)
    assert {type(error) for error in outcome.errors.values()} == {CallTimeoutError}
    assert "limits" in outcome.reasons["slow"]


async def test_an_event_loop_of_its_own_in_a_thread() -> None:
    @hyperfunction
    async def doubled(x: Tensor) -> Tensor:
        return x * 2

    class Threads(HyperSystem):
        async def run(self, x: Tensor) -> Tensor:
            async def alone() -> Tensor:
                return await doubled(x)

            return await asyncio.to_thread(asyncio.run, alone()) + await doubled(x)

    system = Threads()
    system.register_hyperfunction(doubled)
    outcome = await asyncio.wait_for(gathered(system), 20)
    assert not outcome.errors
    assert outcome.gathered_calls == RUNS
