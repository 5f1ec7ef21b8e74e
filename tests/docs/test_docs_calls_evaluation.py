"""docs/calls.md: what one evaluation promises, and one lifted run. Docstrings are the statements."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
import torch
from docs_calls import NEVER, NUMBER, SOON, count_of, for_ever, numbers, program, scaled, small
from torch import Tensor

from hyperfunc import Settings, hyperfunction
from hyperfunc.errors import (
    LiftError,
)
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers
from hyperfunc.settings import resolve_settings


async def test_every_example_is_a_run() -> None:
    """Every example of an evaluation is a run of its own: `max_calls` counts anew for each."""

    @hyperfunction(max_calls=1)
    async def limited(x: Tensor) -> Tensor:
        return x

    assert await program(lambda x: limited(x)).evaluate(numbers(5), count_of) == 5.0


async def test_a_failing_example() -> None:
    """An example that fails does not stop the others; when all have ended, `evaluate` raises the first failure and
    names the example in a note."""
    ran: list[float] = []

    @hyperfunction(io=True)
    async def fails_on_one(x: Tensor) -> Tensor:
        if float(x) == 1.0:
            raise ValueError("one")
        await asyncio.sleep(SOON)
        ran.append(float(x))
        return x

    system = program(lambda x: fails_on_one(x))
    system.register_hyperfunction(fails_on_one)
    await system.execute({"x": torch.zeros(1)})
    ran.clear()
    with pytest.raises(ValueError, match="one") as caught:
        await system.evaluate(numbers(4), count_of)
    assert sorted(set(ran)) == [0.0, 2.0, 3.0]
    assert any("example 1" in note for note in caught.value.__notes__)


@hyperfunction(hp_type=NUMBER, optimize_hparams=True)
async def refuses_negative(x: Tensor, hp: Any) -> float:
    if float(hp.weight) < 0:
        raise ValueError("negative")
    return float(x * hp.weight)


def mean_of(predictions: list[Any], expected: list[Any]) -> float:
    return float(sum(predictions)) / len(predictions)


async def test_a_failing_candidate() -> None:
    """`evaluate_population` gives NaN to a candidate that failed and the scores of the others."""
    candidates = [{"refuses_negative": torch.tensor([[value]])} for value in (1.0, -1.0, 3.0)]
    scores = await program(lambda x: refuses_negative(x)).evaluate_population(candidates, numbers(3), mean_of)
    assert math.isnan(scores[1])
    assert [scores[0], scores[2]] == [1.0, 3.0]


async def test_a_failing_member() -> None:
    """`optimize` drops a member that failed, counts it, and goes on; it raises only when no member of the first
    generation has a fitness."""
    system = program(lambda x: refuses_negative(x), system_optimizer=small(steps=3))
    system.register_hyperfunction(refuses_negative, hp_init=torch.zeros(1, 1))  # one of every two twins is negative
    result = await system.optimize(numbers(), mean_of)
    assert len(result.history) == 3
    assert result.dropped > 0
    assert {type(error) for error in result.errors} == {ValueError}
    system.set_theta({"refuses_negative.hp": torch.full((1, 1), -9.0)})
    with pytest.raises(Exception, match="no member of the first generation has a finite fitness"):
        await system.optimize(numbers(), mean_of)


def test_cancelling_an_evaluation() -> None:
    """Cancelling an evaluation, or a `KeyboardInterrupt` in one of its runs, cancels and awaits every run before it is
    raised."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)

    async def cancel() -> None:
        all_started = asyncio.Barrier(4 + 1)

        async def body(x: Tensor) -> None:
            await all_started.wait()
            await waits(ended)

        system = program(body)
        system.registry.discovered = True  # the first run, which looks for components, would wait for ever
        task = asyncio.ensure_future(system.evaluate(numbers(4), count_of))
        await asyncio.wait_for(all_started.wait(), NEVER)
        await asyncio.sleep(SOON)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def interrupt() -> None:
        async def body(x: Tensor) -> None:
            if float(x) == 2.0:
                raise KeyboardInterrupt
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("interrupted")

        system = program(body)
        system.registry.discovered = True
        await system.evaluate(numbers(4), count_of)

    asyncio.run(cancel())
    assert ended == ["ended"] * 4
    ended.clear()
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupt())
    assert ended == ["interrupted"] * 2  # the runs that had begun


async def test_max_calls_in_a_population() -> None:
    """In a population, `max_calls` counts anew for every member and example."""
    made: list[int] = []

    @hyperfunction(max_calls=1)
    async def limited(x: Tensor) -> Tensor:
        made.append(1)
        return x

    async def body(x: Tensor) -> Any:
        return await scaled(await limited(x))

    system = program(body, system_optimizer=small())
    await system.run(x=torch.ones(1))
    made.clear()
    result = await system.optimize(numbers(3), "mean-squared-error")
    assert result.dropped == 0
    assert len(made) >= 4 * 3


# --- one lifted run ---------------------------------------------------------------------------------------------------


def limited_component(kind: str, made: list[int]) -> Any:
    choices: dict[str, dict[str, Any]] = {
        "timeout_s": {"timeout_s": NEVER},
        "retries": {"retries": 1},
        "max_calls": {"max_calls": 9},
        "text": {"prompt": "a text"},
    }

    @hyperfunction(**choices[kind])
    async def limited(x: Tensor) -> Tensor:
        made.append(1)
        return x

    return limited


async def test_limits_prevent_lifting() -> None:
    """A component with `timeout_s`, `retries`, `max_calls` or a text is never called inside a lifted run: the
    population is gathered, and the reason names the component."""
    for kind in ("timeout_s", "retries", "max_calls", "text"):
        limited = limited_component(kind, [])

        async def body(x: Tensor, limited: Any = limited) -> Any:
            return await scaled(await limited(x))

        result = await program(body, system_optimizer=small()).optimize(numbers(), "mean-squared-error")
        assert result.execution == "gathered", kind
        assert result.reason.startswith("limited "), result.reason


async def test_a_refused_lift_has_paid_nothing() -> None:
    """It is refused before it is called: beyond the first run, which looks for components, a lift that fails has paid
    for nothing."""
    made: list[int] = []
    limited = limited_component("max_calls", made)

    async def body(x: Tensor) -> Any:
        return await scaled(await limited(x))

    system = program(body)
    with pytest.raises(LiftError, match="limited"):
        await system.optimize(numbers(), "mean-squared-error", steps=1, settings=Settings(execution="lifted"))
    assert made == [1]


async def test_limits_beside_kernels() -> None:
    """In a gathered population, calls of such a component are made one by one, each with its own limits, while other
    components share kernels."""
    batch_sizes: list[int] = []

    @hyperfunction(retries=1)
    async def limited(x: Tensor) -> Tensor:
        batch_sizes.append(x.numel())
        if len(batch_sizes) % 2:
            raise ValueError("the first attempt of every call")
        return x

    async def body(x: Tensor) -> Any:
        return await scaled(await limited(x))

    system = program(body)
    system.register_hyperfunction(scaled)
    system.register_hyperfunction(limited)
    block = {"scaled.hp": DenseMembers(torch.arange(8.0).view(8, 1, 1))}
    batch = ExampleBatch([{"x": torch.ones(1)} for _ in range(4)])
    settings = resolve_settings(Settings(execution="gathered"))
    with PopulationRunner(system.program(), settings) as runner:
        (outcome,) = await runner.run(lambda _: block, [0], batch, lambda _, outcome: outcome)
    assert not outcome.errors
    assert len(batch_sizes) == 2 * 8 * 4
    assert set(batch_sizes) == {1}
    assert outcome.gathered_calls > 0  # type: ignore[attr-defined]
    assert outcome.kernels < outcome.gathered_calls  # type: ignore[attr-defined]
    assert "limits" in outcome.reasons["limited"]  # type: ignore[attr-defined]


async def test_limits_from_settings_and_lifting() -> None:
    """Timeouts and retries that come from `Settings` do not prevent lifting an async program; there they apply to the
    one call that stands for all."""
    attempts: list[int] = []

    @hyperfunction(hp_type=NUMBER, optimize_hparams=True)
    async def flaky(x: Tensor, hp: Any) -> Any:
        attempts.append(1)
        if len(attempts) % 2:
            raise ValueError("the first attempt of every call")
        return (x @ hp.weight.T).squeeze(-1)

    system = program(
        lambda x: flaky(x), system_optimizer=small(), settings=Settings(retries=1, timeout_s=NEVER, workers=1)
    )
    result = await system.optimize(numbers(64), "mean-squared-error")
    assert result.execution == "lifted", result.reason
    assert len(attempts) < 2 * 4 * 64, "more calls than one per run: nothing was lifted"
