"""docs/calls.md, statement by statement: the docstring of each test is the statement that it proves."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import math
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import hyperfunc_agents.plugin
from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, Settings, hyperfunction
from hyperfunc.errors import (
    CallLimitError,
    CallTimeoutError,
    ClosedBindingError,
    ConfigurationError,
    ExecutionError,
    LiftError,
    ShapeError,
)
from hyperfunc.hookspecs import hookimpl
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.population.evaluate import ExampleBatch, PopulationRunner
from hyperfunc.population.members import DenseMembers
from hyperfunc.settings import resolve_settings
from hyperfunc_agents import TensorCartPole

PAGE = Path(__file__).parents[2] / "docs" / "calls.md"
SOON = 0.02  # seconds: a deadline that is meant to pass
NEVER = 30.0  # seconds: a deadline that is not; a hang guard
NUMBER = LoRAWeight.create(1, 1)


def statements_of(page: str) -> list[str]:
    """The list items of the page, on one line each."""
    return [" ".join(item.split()) for item in re.findall(r"^- (.+?)(?=\n- |\n\n|\Z)", page, re.S | re.M)]


def statements_tested() -> list[str]:
    module = sys.modules[__name__]
    tests = [f for name, f in vars(module).items() if name.startswith("test_") and name != "test_the_page_is_tested"]
    return [" ".join((inspect.getdoc(test) or "").split()) for test in tests]


def test_the_page_is_tested() -> None:
    stated, tested = statements_of(PAGE.read_text("utf-8")), statements_tested()
    assert len(stated) > 30
    assert [s for s in stated if s not in tested] == [], "statements without a test"
    assert [t for t in tested if t not in stated] == [], "tests of what the page does not say"
    assert len(set(tested)) == len(tested)


async def for_ever(ended: list[str] | None = None, name: str = "ended") -> None:
    """Waits until it is cancelled, and takes one more turn of the loop to end: who does not await it is found out."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0)
        if ended is not None:
            ended.append(name)


def program(body: Callable[..., Awaitable[Any]], **options: Any) -> HyperSystem:
    """A system whose program is ``body(**inputs)``."""

    class Program(HyperSystem):
        async def run(self, **inputs: Any) -> Any:
            return await body(**inputs)

    return Program(**options)


@hyperfunction(hp_type=NUMBER, optimize_hparams=True)
async def scaled(x: Tensor, hp: Any) -> Any:
    return (x @ hp.weight.T).squeeze(-1)


def numbers(count: int = 3) -> list[Example]:
    return [Example({"x": torch.tensor([float(i)])}, float(i)) for i in range(count)]


def count_of(predictions: list[Any], expected: list[Any]) -> float:
    return float(len(predictions))


def small(steps: int = 1) -> ESHybridSystemOptimizer:
    return ESHybridSystemOptimizer(steps=steps, pop_size=4)


# --- one call: timeout ------------------------------------------------------------------------------------------------


async def test_timeout_of_an_async_call() -> None:
    """A call of an async function that has not ended after `timeout_s` seconds is cancelled, and raises
    `CallTimeoutError`, which is also a `TimeoutError`."""
    ended: list[str] = []
    hangs = hyperfunction(timeout_s=SOON)(for_ever)
    with pytest.raises(CallTimeoutError, match=r"for_ever did not end within timeout_s=0\.02") as caught:
        await hangs(ended)
    assert ended == ["ended"]
    assert isinstance(caught.value, TimeoutError)


async def test_timeout_of_a_sync_call() -> None:
    """A sync function with a timeout runs in a thread that sees the same parameters; its late result is discarded,
    since a thread cannot be stopped."""
    release = threading.Event()
    seen: list[Any] = []
    returned = threading.Event()

    @hyperfunction(hp_type=NUMBER, timeout_s=SOON)
    def hangs(x: Tensor, hp: Any) -> str:
        seen.extend([threading.current_thread(), float(hp.weight)])
        release.wait(NEVER)
        returned.set()
        return "late"

    async def body(x: Tensor) -> Any:
        return await hangs(x)

    system = program(body)
    system.register_hyperfunction(hangs, hp_init=torch.tensor([[7.0]]))
    with pytest.raises(CallTimeoutError):
        await system.run(x=torch.ones(1))
    assert seen[0] is not threading.current_thread()
    assert seen[1] == 7.0
    assert not returned.is_set()
    release.set()
    assert await asyncio.to_thread(returned.wait, NEVER)


async def test_each_attempt_has_its_own_timeout() -> None:
    """`timeout_s` counts anew for every attempt."""
    attempts: list[float] = []
    loop = asyncio.get_running_loop()

    @hyperfunction(timeout_s=SOON, retries=2)
    async def slow() -> None:
        attempts.append(loop.time())
        await for_ever()

    with pytest.raises(CallTimeoutError):
        await slow()
    first, second, third = attempts
    assert second - first >= 0.9 * SOON
    assert third - second >= 0.9 * SOON


async def test_arguments_take_their_own_time() -> None:
    """The time that calls given as arguments take does not count towards the timeout of the call that receives them."""

    @hyperfunction
    async def slow() -> int:
        await asyncio.sleep(3 * SOON)
        return 1

    @hyperfunction(timeout_s=SOON)
    async def quick(x: int) -> int:
        return x + 1

    argument: Any = slow()
    assert await quick(argument) == 2


async def test_a_timeout_of_its_own() -> None:
    """A `TimeoutError` that the function itself raises is passed on as it is, and never turned into a
    `CallTimeoutError`."""

    @hyperfunction(timeout_s=NEVER)
    async def impatient() -> None:
        raise TimeoutError("my own")

    @hyperfunction(timeout_s=NEVER)
    def impatient_in_a_thread() -> None:
        raise TimeoutError("my own")

    for function in (impatient, impatient_in_a_thread):
        with pytest.raises(TimeoutError, match="my own") as caught:
            await function()
        assert type(caught.value) is TimeoutError


async def test_a_function_that_swallows_its_cancellation() -> None:
    """A function that swallows its cancellation and returns all the same gives its result: a deadline asks, it cannot
    force."""

    @hyperfunction(timeout_s=SOON)
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "all the same"

    assert await stubborn() == "all the same"


# --- one call: retries ------------------------------------------------------------------------------------------------


def failing(times: int, error: Callable[[int], BaseException]) -> tuple[list[int], Callable[[], Awaitable[str]]]:
    """A function that fails so many times, and the list of its attempts."""
    attempts: list[int] = []

    async def function() -> str:
        attempts.append(len(attempts) + 1)
        if len(attempts) <= times:
            raise error(len(attempts))
        return "done"

    return attempts, function


async def test_retries() -> None:
    """`retries=2` makes at most three attempts, one right after the other, and raises what the last one raised."""
    attempts, function = failing(2, lambda n: ValueError(f"attempt {n}"))
    assert await hyperfunction(retries=2)(function)() == "done"
    assert attempts == [1, 2, 3]
    attempts, function = failing(9, lambda n: ValueError(f"attempt {n}"))
    with pytest.raises(ValueError, match="attempt 3"):
        await hyperfunction(retries=2)(function)()
    assert attempts == [1, 2, 3]


async def test_timeouts_are_retried() -> None:
    """A call that timed out is retried like one that failed."""
    attempts: list[int] = []

    @hyperfunction(timeout_s=SOON, retries=1)
    async def slow_at_first() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await for_ever()
        return "done"

    assert await slow_at_first() == "done"
    assert len(attempts) == 2


async def test_what_is_never_retried() -> None:
    """Cancellation, `KeyboardInterrupt` and `SystemExit` are never retried."""
    for error in (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        attempts, function = failing(9, lambda _, error=error: error())  # type: ignore[misc]
        call = hyperfunction(retries=5)(function)()
        with pytest.raises(error):  # driven by hand: a task would hand KeyboardInterrupt to its loop
            call.send(None)
        assert attempts == [1], error


async def test_our_own_errors_say_whether_they_are_retried() -> None:
    """Of hyperfunc's own errors only those are retried that say `retryable`: a wrong shape or a spent budget stays
    wrong."""
    attempts, function = failing(9, lambda _: ShapeError("expected [2], got [3]"))
    with pytest.raises(ShapeError):
        await hyperfunction(retries=5)(function)()
    assert attempts == [1]

    class Overloaded(ExecutionError):
        retryable: ClassVar[bool] = True

    attempts, function = failing(1, lambda _: Overloaded("later"))
    assert await hyperfunction(retries=5)(function)() == "done"
    assert attempts == [1, 2]


# --- one call: limits -------------------------------------------------------------------------------------------------


async def test_max_calls() -> None:
    """`max_calls` counts the calls of one component in one run of the program; the call too many raises
    `CallLimitError` and is not made."""
    made: list[int] = []

    @hyperfunction(max_calls=2)
    async def limited() -> None:
        made.append(1)

    async def body(times: int) -> None:
        for _ in range(times):
            await limited()

    system = program(body)
    await system.run(times=2)
    await system.run(times=2)
    assert len(made) == 4
    with pytest.raises(CallLimitError, match="limited was called more than max_calls=2 times in one run"):
        await system.run(times=3)
    assert len(made) == 6


async def test_retries_are_one_call() -> None:
    """Retries of one call count as one call."""
    attempts, function = failing(3, lambda _: ValueError("again"))
    flaky = hyperfunction(retries=3, max_calls=1)(function)
    assert await program(lambda: flaky()).run() == "done"
    assert len(attempts) == 4


async def test_handles_count_together() -> None:
    """Handles made by `with_options` are the same component: their calls count together."""

    @hyperfunction(max_calls=2)
    async def limited() -> None:
        pass

    patient = limited.with_options(timeout_s=NEVER)

    async def body() -> None:
        await limited()
        await patient()
        await limited()

    with pytest.raises(CallLimitError):
        await program(body).run()


async def test_outside_a_run_nothing_is_counted() -> None:
    """Outside every run nothing is counted."""

    @hyperfunction(max_calls=1)
    async def limited() -> int:
        return 1

    assert [await limited() for _ in range(3)] == [1, 1, 1]


# --- one call: cancellation -------------------------------------------------------------------------------------------


async def test_cancelling_the_awaiting_task() -> None:
    """Cancelling the task that awaits a call cancels the call, and `CancelledError` passes through unchanged."""
    ended: list[str] = []
    for options in ({}, {"timeout_s": NEVER, "retries": 3}):
        task = asyncio.ensure_future(hyperfunction(**options)(for_ever)(ended))  # type: ignore[call-overload]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended == ["ended", "ended"]


async def test_the_tape_keeps_errors() -> None:
    """A call that failed, timed out or was cancelled is on the tape with its error."""
    fails = hyperfunction(failing(9, lambda _: ValueError("no"))[1])
    late = hyperfunction(timeout_s=SOON, name="late")(for_ever)
    cancelled = hyperfunction(name="cancelled")(for_ever)

    async def body() -> None:
        for call in (fails(), late()):
            with contextlib.suppress(ValueError, CallTimeoutError):
                await call
        task = asyncio.ensure_future(cancelled())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    _, tape = await program(body).execute({}, record=True)
    assert [(call.function, type(call.error)) for call in tape] == [
        ("function", ValueError),
        ("late", CallTimeoutError),
        ("cancelled", asyncio.CancelledError),
    ]
    assert all(call.end is not None for call in tape)


# --- one run ----------------------------------------------------------------------------------------------------------


async def test_siblings_of_a_failure() -> None:
    """When a run fails, every call that it had started in another task is cancelled and awaited before the error goes
    on."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)

    @hyperfunction
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("broken")

    async def body() -> None:
        await asyncio.gather(waits(ended, "first"), waits(ended, "second"), fails())

    with pytest.raises(ValueError, match="broken"):
        await program(body).run()
    assert sorted(ended) == ["first", "second"]


async def test_a_caught_failure() -> None:
    """A program that catches the failure of a call goes on, and the siblings of that call with it."""
    release = asyncio.Event()

    @hyperfunction
    async def waits() -> str:
        await release.wait()
        return "undisturbed"

    fails = hyperfunction(failing(9, lambda _: ValueError("no"))[1])

    async def body() -> str:
        sibling = asyncio.ensure_future(waits())
        await asyncio.sleep(0)
        try:
            await fails()
        except ValueError:
            release.set()
        return await sibling

    assert await program(body).run() == "undisturbed"


async def test_cancelling_a_run() -> None:
    """Cancelling a run cancels and awaits every call that it has started."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)

    async def body() -> None:
        started = [asyncio.ensure_future(waits(ended, name)) for name in ("first", "second")]
        await asyncio.shield(asyncio.gather(*started))  # even what is shielded from the run itself

    task = asyncio.ensure_future(program(body).run())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ended) == ["first", "second"]


async def test_left_over_calls() -> None:
    """After a run has ended, a call that was left over raises `ClosedBindingError` instead of using parameters that no
    longer hold."""
    left_over: list[Any] = []

    async def body(x: Tensor) -> int:
        left_over.append(scaled(x))
        return 1

    await program(body).run(x=torch.ones(1))
    with pytest.raises(ClosedBindingError, match="await every call"):
        await left_over[0]


async def test_concurrent_runs_are_apart() -> None:
    """Concurrent runs count their calls and see their parameters apart from each other."""

    @hyperfunction(hp_type=NUMBER, max_calls=2)
    async def limited(x: Tensor, hp: Any) -> float:
        await asyncio.sleep(0)
        return float(x * hp.weight)

    async def body(x: Tensor) -> Any:
        return await limited(x) + await limited(x)

    system = program(body)
    system.register_hyperfunction(limited)
    values = [{"limited.hp": torch.tensor([[float(v)]])} for v in range(20)]
    results = await asyncio.gather(*(system.execute({"x": torch.ones(1)}, theta=theta) for theta in values))
    assert results == [2.0 * v for v in range(20)]


# --- one conversation, one episode ------------------------------------------------------------------------------------


class Episode:
    """An agent type whose example is as many calls of ``run`` as ``steps`` says."""

    liftable: ClassVar[bool] = False

    async def run_example(self, run: Callable[..., Awaitable[Any]], inputs: Mapping[str, Any], system: Any) -> Any:
        return [await run(step=step) for step in range(inputs["steps"])]


class EpisodePlugin:
    @staticmethod
    @hookimpl
    def hyperfunc_register_agent_types(register: Any) -> None:
        register("episode", Episode)


def episodes(body: Callable[..., Awaitable[Any]]) -> HyperSystem:
    class Program(HyperSystem):
        agent_type = "episode"

        async def run(self, step: int) -> Any:
            return await body(step)

    return Program()


@contextlib.contextmanager
def episode_plugin() -> Any:
    with use_plugins(load_plugins([("episode", EpisodePlugin())], entry_points=False)) as plugins:
        yield plugins


async def test_max_calls_over_an_episode() -> None:
    """`max_calls` counts over a whole conversation or episode, not anew for every message or step."""

    @hyperfunction(max_calls=3)
    async def limited(step: Any) -> Any:
        return step

    class Chat(HyperSystem):
        agent_type = "chat"

        async def run(self, message: str) -> str:
            return str(await limited(message))

    class Game(HyperSystem):
        agent_type = "game"

        async def run(self, observation: Tensor) -> int:
            await limited(observation)
            return 0

    agents = load_plugins([("agents", hyperfunc_agents.plugin), ("episode", EpisodePlugin())], entry_points=False)
    talks: list[dict[str, Any]] = [{"conversation": ["hello"] * turns} for turns in (3, 3, 4)]
    games: list[dict[str, Any]] = [{"env": TensorCartPole(), "seed": 0, "max_steps": steps} for steps in (3, 3, 4)]
    own: list[dict[str, Any]] = [{"steps": steps} for steps in (3, 3, 4)]
    systems: list[tuple[HyperSystem, list[dict[str, Any]]]] = [
        (Chat(), talks),
        (Game(), games),
        (episodes(lambda step: limited(step)), own),
    ]
    with use_plugins(agents):
        for system, (short, again, long) in systems:
            await system.execute(short)
            await system.execute(again)
            with pytest.raises(CallLimitError):
                await system.execute(long)


async def test_timeouts_and_retries_in_an_episode() -> None:
    """`timeout_s` and `retries` hold for each call in it, never for the whole."""
    attempts: list[int] = []

    @hyperfunction(timeout_s=10 * SOON, retries=1)
    async def flaky(step: int) -> int:
        attempts.append(step)
        await asyncio.sleep(3 * SOON)  # five of them take longer than one may
        if attempts.count(step) == 1:
            raise ValueError("the first attempt at every step")
        return step

    with episode_plugin():
        assert await episodes(lambda step: flaky(step)).execute({"steps": 5}) == [0, 1, 2, 3, 4]
    assert attempts == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


async def test_a_failing_step() -> None:
    """When one message or step fails, the conversation or episode fails, and calls that it had started are cancelled
    and awaited."""
    ended: list[str] = []
    waits = hyperfunction(for_ever)
    background: list[asyncio.Future[None]] = []

    async def body(step: int) -> None:
        if step == 1:
            raise ValueError("step 1")
        background.append(asyncio.ensure_future(waits(ended)))
        await asyncio.sleep(0)

    with episode_plugin(), pytest.raises(ValueError, match="step 1"):
        await episodes(body).execute({"steps": 3})
    assert ended == ["ended"]
    assert background[0].cancelled()


# --- one evaluation ---------------------------------------------------------------------------------------------------


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


# --- which setting holds ----------------------------------------------------------------------------------------------


async def attempts_made(function: Any, **levels: Any) -> int:
    """How often a function that always fails is tried, with ``retries`` as the levels say."""
    attempts: list[int] = levels.pop("attempts")
    attempts.clear()
    context, bound_level, call = (levels.get(name) for name in ("context", "bound", "call"))
    with contextlib.ExitStack() as stack:
        if context is not None:
            stack.enter_context(context)
        system = program(lambda: function(), settings=bound_level)
        system.registry.discovered = True  # else the program is run once more, to find its components
        with pytest.raises(ValueError, match="attempt"):
            await system.evaluate([Example({}, 0)], count_of, settings=call)
    return len(attempts)


async def test_the_order_of_limits() -> None:
    """For `timeout_s` and `retries`: `function.with_options(…)`, then `@hyperfunction(…)`, then
    `evaluate(settings=…)`, then `HyperSystem(settings=…)`, then the innermost `with Settings(…)`, then the default."""
    attempts, body = failing(99, lambda n: ValueError(f"attempt {n}"))
    plain, declared = hyperfunction(body), hyperfunction(retries=5, name="declared")(body)
    context, bound_level, call = Settings(retries=1), Settings(retries=2), Settings(retries=3)
    everywhere: dict[str, Any] = {"attempts": attempts, "context": context, "bound": bound_level, "call": call}
    assert await attempts_made(declared.with_options(retries=6), **everywhere) == 7
    assert await attempts_made(declared, **everywhere) == 6
    assert await attempts_made(plain, **everywhere) == 4
    assert await attempts_made(plain, **{**everywhere, "call": None}) == 3
    assert await attempts_made(plain, **{**everywhere, "call": None, "bound": None}) == 2
    assert await attempts_made(plain, attempts=attempts) == 1


async def test_zero_retries_is_an_answer() -> None:
    """`retries=0` is an answer, not an omission: it switches off the retries of a weaker level."""
    attempts, body = failing(99, lambda n: ValueError(f"attempt {n}"))
    context, bound_level = Settings(retries=3), Settings(retries=0)
    assert await attempts_made(hyperfunction(body), attempts=attempts, context=context, bound=bound_level) == 1
    assert await attempts_made(hyperfunction(retries=0)(body), attempts=attempts, context=context) == 1
    assert await attempts_made(hyperfunction(retries=4)(body).with_options(retries=0), attempts=attempts) == 1


async def test_the_order_of_execution() -> None:
    """`execution` follows the same order without the first two: the evaluation's settings, the system's, the
    context's, `"auto"`."""
    taken = []
    levels = [Settings(execution=e) for e in ("sequential", "gathered", "lifted")]
    for call, bound_level, context in (levels, [None, *levels[1:]], [None, None, levels[2]], [None] * 3):
        with context or contextlib.nullcontext():
            system = program(lambda x: scaled(x), system_optimizer=small(), settings=bound_level)
            result = await system.optimize(numbers(), "mean-squared-error", settings=call)
        taken.append((result.execution, result.reason.partition(":")[0]))
    assert taken == [
        ("sequential", "asked for by execution="),
        ("gathered", "asked for by execution="),
        ("lifted", "proven"),
        ("lifted", "proven"),
    ]


def test_nested_contexts() -> None:
    """Nested contexts merge field by field: the inner one wins where it says something, the outer one holds
    elsewhere."""
    with Settings(retries=1, window=7):
        with Settings(retries=2):
            inner = resolve_settings()
        outer = resolve_settings()
    assert (inner.retries, inner.window) == (2, 7)
    assert (outer.retries, outer.window) == (1, 7)


async def test_the_end_of_a_context() -> None:
    """A context ends with its block, also for `async with` and when the block raises."""
    default = resolve_settings()
    settings = Settings(retries=4)
    with pytest.raises(ValueError, match="inside"), settings, settings:  # the same object twice is two levels
        raise ValueError("inside")
    assert resolve_settings() == default
    async with settings:
        assert resolve_settings().retries == 4
    assert resolve_settings() == default


async def test_contexts_of_tasks() -> None:
    """A context entered in one task does not reach another."""
    entered, leave = asyncio.Event(), asyncio.Event()

    async def holds() -> int | None:
        with Settings(retries=4):
            entered.set()
            await leave.wait()
            return resolve_settings().retries

    task = asyncio.ensure_future(holds())
    await entered.wait()
    assert resolve_settings().retries == 0
    leave.set()
    assert await task == 4


def test_nonsense() -> None:
    """Nonsense is refused where it is written: negative seconds, fractions of workers, an unknown execution."""
    nonsense: list[dict[str, Any]] = [{"timeout_s": -1}, {"workers": 0.5}, {"execution": "fast"}, {"retries": -1}]
    for options in nonsense:
        (name,) = options
        with pytest.raises(ConfigurationError, match=name):
            Settings(**options)
