"""A program: a system's ``run`` as a function of (binding, inputs), which is all that executors know of a system."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from hyperfunc.binding import Binding, CallDefaults, ComponentScope, Frame, bound
from hyperfunc.parameters.theta import Theta
from hyperfunc.population.members import MemberBlock
from hyperfunc.population.outcomes import BlockOutcome

__all__ = ["BlockExecutor", "Program", "RunStatistics", "supervise"]

Inputs = Mapping[str, Any]


class RunStatistics(Protocol):
    """Values of θ that no strategy moves and that follow from what a generation's runs came to (running means of what
    an agent saw). Every member of a generation runs under the same ones; the next generation gets the new ones."""

    @property
    def names(self) -> Sequence[str]:
        """Their dotted names."""
        ...

    def of_block(self, outcome: BlockOutcome) -> Any:
        """What one block adds, however it was run; called in a worker thread where lifted."""
        ...

    def merged(self, theta: Theta, parts: Sequence[Any]) -> Mapping[str, Tensor]:
        """The values of :attr:`names` for the next generation.

        Args:
            theta: what this generation ran under.
            parts: of :meth:`of_block`, in block order.
        """
        ...


class BlockExecutor(Protocol):
    """Runs whole blocks of members where one example is more than one call of ``run`` (an episode): the agent type's
    own way to lift. Called from several worker threads at once, with a block each.

    Attributes:
        statistics: what runs teach besides their fitness; ``None`` where nothing.
    """

    statistics: RunStatistics | None

    def run_block(
        self,
        program: Program,
        block: MemberBlock,
        inputs: Sequence[Inputs],
        runner: asyncio.Runner,
        *,
        proof: Collection[tuple[int, int]] = (),
    ) -> BlockOutcome:
        """Run every member of ``block`` on every example.

        Args:
            inputs: one mapping per example.
            runner: an event loop of its own in the calling thread, which must not be running one.
            proof: pairs ``(member, example)`` whose calls of ``run`` are also made one by one, from raw inputs; the
                block is refused where they disagree.

        Raises:
            LiftRefusedError: the program cannot be lifted, or the proof failed; nothing was paid for.
            InputMutatedError: the program wrote into its inputs.
        """
        ...

    def close(self) -> None:
        """The evaluation is over: let go of whatever was kept for the next block."""
        ...


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
        block_executor: runs whole blocks where an example is more than one call of ``run``.
    """

    scope: ComponentScope
    run_example: Callable[[Inputs], Awaitable[Any]]
    theta: Theta
    defaults: CallDefaults
    holders: tuple[object, ...] = ()
    liftable: bool = True
    block_executor: BlockExecutor | None = None

    @property
    def statistics(self) -> RunStatistics | None:
        return None if self.block_executor is None else self.block_executor.statistics

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
