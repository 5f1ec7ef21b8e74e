"""Gathered execution: every (member, example) is a concurrent task; calls of tensor functions meet in shared kernels.

For programs that branch on values, wait for I/O or call language models. Each run is an ordinary task of the event
loop, under a binding of its member's values; members may take different branches. Outputs do not depend on how many
runs are alive at once, on which members run together or on the order in which they get on
(:mod:`hyperfunc.population.gathered_kernel` says why).

Knows nothing of strategies and scores, nor of how the choice between the ways of running a population is made.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.binding import Binding
from hyperfunc.errors import ConfigurationError, InputMutatedError
from hyperfunc.observability.spans import span
from hyperfunc.population.factored_members import one_member
from hyperfunc.population.gathered_kernel import ComponentParameters
from hyperfunc.population.gathered_queue import CallQueue, MemberRun
from hyperfunc.population.in_flight import InFlight
from hyperfunc.population.members import MemberBlock, member_count
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.population.run_window import RunWindow
from hyperfunc.program import Program
from hyperfunc.settings import Settings
from hyperfunc.tape import current_tape, recording

__all__ = ["DEFAULT_WINDOW", "GatheredOutcome", "run_gathered"]

Inputs = Mapping[str, Any]

DEFAULT_WINDOW = 4096
"""Most runs alive at once where settings say nothing."""


@dataclass
class GatheredOutcome(BlockOutcome):
    """A block's outputs, and how its calls were made.

    Attributes:
        kernels: number of kernels and batches.
        gathered_calls: number of calls that they answered.
        eager_calls: number of calls made one by one.
        reasons: component -> why calls of it were made one by one.
    """

    kernels: int = 0
    gathered_calls: int = 0
    eager_calls: int = 0
    reasons: dict[str, str] = field(default_factory=dict)


async def run_gathered(
    program: Program,
    block: MemberBlock,
    inputs: Sequence[Inputs],
    *,
    settings: Settings,
    members: Sequence[int] | None = None,
    window: RunWindow | None = None,
) -> GatheredOutcome:
    """Run the members of ``block`` on every example of ``inputs``, all as concurrent tasks.

    Args:
        block: the members' values; an empty one means a single member with the program's own θ.
        inputs: one mapping of ``run``'s arguments per example.
        settings: ``window`` (most runs alive at once), ``gather_wait_s`` (most seconds that a kernel waits for runs
            that are asleep or do I/O), ``max_batch_size`` (most calls answered by one kernel; changes no bits),
            ``memory_bytes`` of one kernel, ``device`` and ``dtype`` of ``local_gpu`` functions.
        members: which members to run, by position in the block; by default all.
        window: shared with the runs of other blocks; by default one of its own, of ``settings.window``.

    Returns:
        Rows in the order of ``members``. An exception that a run raised stands under its
        ``(position in members, example)``; its output is ``None``.

    Raises:
        ConfigurationError: a member that the block does not have.
        InputMutatedError: the program wrote into a tensor that it was given.
        BaseException: what was raised beside ordinary exceptions (cancellation, ``KeyboardInterrupt``); every run was
            cancelled and awaited before.
    """
    size = member_count(block)
    chosen = range(size) if members is None else list(members)
    for member in chosen:
        if not 0 <= member < size:
            raise ConfigurationError(f"members: expected positions from 0 to {size - 1} in the block, got {member}")
    tape = current_tape()
    with recording(tape.for_population() if tape is not None else None):
        window = window or RunWindow(InFlight(None, settings.window or DEFAULT_WINDOW))
        return await _Gathering(program, block, inputs, settings, chosen, window).run()


class _Gathering:
    """One block on its way."""

    def __init__(
        self,
        program: Program,
        block: MemberBlock,
        inputs: Sequence[Inputs],
        settings: Settings,
        members: Sequence[int],
        window: RunWindow,
    ) -> None:
        self.program = program
        self.block = block
        self.inputs = inputs
        self.members = members
        self.rows: list[list[Any]] = [[None] * len(inputs) for _ in members]
        self.errors: dict[tuple[int, int], Exception] = {}
        self.queue = CallQueue(program.scope, self._parameters_of, settings, program.defaults)
        self._watched = [_InputWatch(number, example) for number, example in enumerate(inputs)]
        self._window = window
        self._unfinished = len(members) * len(inputs)
        self._todo: Iterator[tuple[int, int]] = ((p, e) for p in range(len(members)) for e in range(len(inputs)))
        self._tasks: set[asyncio.Task[Any]] = set()
        self._of_member: tuple[int, dict[str, Any], dict[str, Any]] = (-1, {}, {})
        self._context = contextvars.copy_context()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> GatheredOutcome:
        try:
            if self._unfinished:
                self._window.add(self._start_next)
                await self._over
        finally:
            if not self._over.done():
                self._over.cancel()
            await self._stop()
        queue = self.queue
        return GatheredOutcome(
            len(self.members),
            len(self.inputs),
            rows=self.rows,
            errors=dict(sorted(self.errors.items())),
            kernels=queue.kernels,
            gathered_calls=queue.gathered_calls,
            eager_calls=queue.eager_calls,
            reasons=dict(queue.reasons),
        )

    # --- the window ----------------------------------------------------------------------------------------------

    def _start_next(self) -> bool:
        """Start the next run, if there is one. What goes wrong ends this block: another one may have made room."""
        following = None if self._over.done() else next(self._todo, None)
        if following is None:
            return False
        try:
            self._start(*following)
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _start(self, position: int, example: int) -> None:
        member = self.members[position]
        run = MemberRun(self.queue, member, member * len(self.inputs) + example)
        values, prepared = self._values_of(member)
        run.binding = Binding(values, route=run.route, prepared=prepared, defaults=self.program.defaults)
        task = self.queue.loop.create_task(self._one(run.binding, member, example), context=self._context.copy())
        self.queue.live += 1
        self._window.runs.began(self.queue.loop.time())
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, run, position, example), context=self._context)

    async def _one(self, binding: Binding, member: int, example: int) -> Any:
        with span("evaluation", "evaluation", member=member, example=example):
            return await self.program(binding, self.inputs[example])

    def _ended(self, run: MemberRun, position: int, example: int, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._fail(None)
        elif (error := task.exception()) is None:
            self.rows[position][example] = _own_memory(task.result())
        elif isinstance(error, Exception):
            self.errors[position, example] = error
            self.queue.drop_calls_of(run)
        else:
            self._fail(error)
        written = self._watched[example].written()
        if written is not None:
            self._fail(InputMutatedError(written))
        runs, now = self._window.runs, self.queue.loop.time()
        (runs.abandoned if task.cancelled() else runs.ended)(now)
        self._unfinished -= 1
        if not self._unfinished and not self._over.done():
            self._over.set_result(None)
        self._window.fill()
        self.queue.run_ended()

    def _fail(self, error: BaseException | None) -> None:
        """End everything, with ``error`` or, without one, as cancelled."""
        if self._over.done():
            return
        if error is None:
            self._over.cancel()
        else:
            self._over.set_exception(error)

    async def _stop(self) -> None:
        self._window.remove(self._start_next)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
        await self.queue.close()

    # --- members -------------------------------------------------------------------------------------------------

    def _values_of(self, member: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """The member's θ, and the injected arguments that its runs share. Runs start member by member."""
        if self._of_member[0] != member:
            values: dict[str, Any] = dict(self.program.theta)
            values.update(one_member(self.block, member))
            self._of_member = (member, values, {})
        return self._of_member[1:]

    def _parameters_of(self, function: Any, name: str) -> ComponentParameters | str:
        members = {}
        shared = {}
        for parameter in [spec.name for spec in function.tensor_specs] + list(function.texts):
            full = f"{name}.{parameter}"
            if full in self.block:
                members[full] = self.block[full]
            elif full in self.program.theta:
                shared[parameter] = self.program.theta[full]
            else:
                return "it was registered during the run"
        return ComponentParameters(name, members, shared)


class _InputWatch:
    """Notices writes into one example's tensors by their version counters (arrays have none)."""

    def __init__(self, number: int, inputs: Inputs) -> None:
        self._number = number
        self._versions: list[tuple[str, Tensor, int]] = []
        for path, leaf in pytree.tree_flatten_with_path(dict(inputs))[0]:
            if isinstance(leaf, Tensor) and not leaf.is_inference():
                self._versions.append((pytree.keystr(path), leaf, leaf._version))

    def written(self) -> str | None:
        for name, tensor, version in self._versions:
            if tensor._version != version:
                return (
                    f"the program wrote into its input inputs{name} of example {self._number}, a tensor "
                    f"{list(tensor.shape)} that belongs to the data set; copy an input before changing it"
                )
        return None


def _own_memory(output: Any) -> Any:
    """``output`` without rows of kernels' results: keeping one row would keep (and pickle) all of them."""

    def owned(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor

    return owned(output) if type(output) is Tensor else pytree.tree_map_only(Tensor, owned, output)
