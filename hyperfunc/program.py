"""A program: a system's ``run`` as a function of (binding, inputs), which is all that executors know of a system."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperfunc.binding import Binding, CallDefaults, ComponentScope, Frame, bound
from hyperfunc.parameters.theta import Theta

__all__ = ["Program", "supervise"]

Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Program:
    """What is run for every (member, example).

    Attributes:
        scope: names the components called.
        run_example: runs one example's inputs under the active binding.
        theta: values of the parameters that a population does not vary.
        defaults: limits of calls that declare none.
        holders: the systems behind it, outermost first; executors check that no batched tensor was left on them.
        liftable: one example is one call of ``run`` with its inputs as arguments, so that ``run`` may be vmapped.
    """

    scope: ComponentScope
    run_example: Callable[[Inputs], Awaitable[Any]]
    theta: Theta
    defaults: CallDefaults
    holders: tuple[object, ...] = ()
    liftable: bool = True

    async def __call__(self, binding: Binding, inputs: Inputs) -> Any:
        """One run under ``binding``; the binding is closed afterwards."""
        try:
            with bound(Frame(binding, self.scope)):
                return await supervise(binding, self.run_example(inputs))
        finally:
            binding.close()


async def supervise(binding: Binding, running: Awaitable[Any]) -> Any:
    """Await a run. If it fails, calls that it started in other tasks are cancelled and awaited before the error goes
    on, so that nothing works (or pays) in the background for a result that nobody gets."""
    try:
        return await running
    except BaseException:
        here = asyncio.current_task()
        started = [task for task in binding.in_flight if task is not here and not task.done()]
        for task in started:
            task.cancel()
        if started:
            await asyncio.gather(*started, return_exceptions=True)
        raise
