"""docs/calls.md: which setting holds, and in which order. Docstrings are the statements."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from docs_calls import count_of, failing, numbers, program, scaled, small

from hyperfunc import Example, Settings, hyperfunction
from hyperfunc.errors import (
    ConfigurationError,
)
from hyperfunc.settings import resolve_settings


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
    nonsense += [{"retries": 1.5}, {"timeout_s": "3"}, {"timeout_s": float("nan")}, {"window": True}]
    for options in nonsense:
        (name,) = options
        with pytest.raises(ConfigurationError, match=name):
            Settings(**options)
    limits: list[dict[str, Any]] = [{"retries": 1.5}, {"timeout_s": "3"}, {"max_calls": 2.5}, {"max_calls": True}]
    for options in limits:
        (name,) = options
        with pytest.raises(ConfigurationError, match=name):
            hyperfunction(**options)(len)
