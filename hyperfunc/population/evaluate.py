"""Running a population: lifted where that is proven right, gathered elsewhere, and the reason either way.

Knows programs, members and examples; nothing of strategies, scores or θ's meaning.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from torch import Tensor

from hyperfunc.errors import InputMutatedError, LiftError
from hyperfunc.population.engines import close_engine, engine_for, run_on_engine
from hyperfunc.population.gathered import DEFAULT_WINDOW, run_gathered
from hyperfunc.population.inputs import ExampleBatch, contains_numbers
from hyperfunc.population.kernel_size import BoundedKernels
from hyperfunc.population.lifted import LiftRefusedError, largest_tensor, run_lifted
from hyperfunc.population.members import MemberBlock, member_count
from hyperfunc.population.outcomes import BlockOutcome
from hyperfunc.population.pace import MeasuredPace
from hyperfunc.population.proof import all_equal, first_difference, reference_run
from hyperfunc.population.run_window import RunWindow
from hyperfunc.population.sequential import run_sequential
from hyperfunc.population.workers import BlockWorkers
from hyperfunc.program import Program
from hyperfunc.settings import Settings

__all__ = ["ExampleBatch", "PopulationRunner"]

R = TypeVar("R")
AskBlock = Callable[[int], MemberBlock]

_SPOT_CHECK_EVERY = 16  # lifted generations between two checks of one more (member, example) pair
_MOST_CONSTANT_GROUPS = 64  # kernels per block above which gathering is the better way


class PopulationRunner:
    """Runs blocks of members of one program, and decides once how.

    Args:
        program: what to run.
        settings: resolved settings; ``execution`` may force a way, and ``engine`` name who runs the blocks.

    Attributes:
        execution: the way taken: ``"lifted"``, ``"gathered"``, ``"sequential"``, ``"engine"``; ``""`` before the first
            run.
        reason: why.
        notes: what else was noticed (an output that is the same for every member, …).
        learned: values of θ that the next generation runs under, where runs teach any
            (:class:`hyperfunc.program.RunStatistics`).
    """

    def __init__(self, program: Program, settings: Settings) -> None:
        self.program = program
        self.settings = settings
        self.execution = ""
        self.reason = ""
        self.notes: list[str] = []
        self.learned: Mapping[str, Tensor] = {}
        self._parts: dict[tuple[int, int], Any] | None = None  # (run of this generation, block) -> its statistics
        self._lift_numbers = True
        self._lifted_runs = 0
        self._members_of_first: int | None = None
        self._window: RunWindow | None = None  # shared by all blocks, where the pace is measured
        self._kernels: BoundedKernels | None = None
        self._largest_bytes: int | None = None  # of one run's tensors, where kernels are bounded
        self._workers = BlockWorkers(settings.workers or 1)
        self._engine = engine_for(settings)
        if self._engine is not None:
            self._decide("engine", f"asked for by engine={settings.engine!r}")
        elif settings.execution in ("gathered", "sequential"):
            self._decide(settings.execution, "asked for by execution=")

    def follow(self, pace: MeasuredPace) -> None:
        """Let the number of gathered runs alive at once follow their throughput; changes no bits."""
        self._window = pace.window(self.settings.window or DEFAULT_WINDOW)

    def bound(self, kernels: BoundedKernels) -> None:
        """Let lifted kernels take no more examples at once than ``kernels`` says; changes bits."""
        self._kernels = kernels

    def close(self) -> None:
        self._workers.close()
        if self.program.block_executor is not None:
            self.program.block_executor.close()
        close_engine(self._engine)

    def __enter__(self) -> PopulationRunner:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    @contextmanager
    def generation(self) -> Iterator[None]:
        """Runs made inside belong to one generation: what the last one taught applies to all of them, and what they
        teach applies to the next. Runs made outside teach nothing; a generation that raises neither."""
        if self.learned:
            self.program = replace(self.program, theta=self.program.theta.replace(self.learned))
        parts: dict[tuple[int, int], Any] = {}
        self._parts = parts
        try:
            yield
            statistics = self.program.statistics
            if statistics is not None:
                in_order = [parts[key] for key in sorted(parts)]
                self.learned = dict(statistics.merged(self.program.theta, in_order))
        finally:
            self._parts = None

    async def run(
        self, ask: AskBlock, blocks: Sequence[int], batch: ExampleBatch, reduce: Callable[[int, BlockOutcome], R]
    ) -> list[R]:
        """``reduce(block, outcome)`` for every block, in block order.

        Args:
            ask: gives the members of a block; called once per block, in a worker thread where lifted.
            blocks: block numbers.
            batch: the examples, the same for every member.
            reduce: turns a block's outputs into what is kept of them; called in a worker thread where lifted.

        Raises:
            LiftError: ``execution="lifted"`` was asked for and refused.
            InputMutatedError: the program wrote into its inputs.
        """
        reduce = self._noting(reduce)
        if not self.execution:
            return await self._first_run(ask, blocks, batch, reduce)
        if self.execution == "lifted":
            try:
                results = await self._run_lifted(ask, blocks, batch, reduce)
                if self._lifted_runs % _SPOT_CHECK_EVERY == 0:
                    await self._spot_check(ask, blocks, batch)
                return results
            except LiftRefusedError as refusal:
                self._fall_back(str(refusal))
        return await self.run_on_loop(ask, blocks, batch, reduce)

    def _noting(self, reduce: Callable[[int, BlockOutcome], R]) -> Callable[[int, BlockOutcome], R]:
        """``reduce``, with each block's statistics noted beside it; a block that is run again counts once."""
        statistics, parts = self.program.statistics, self._parts
        if statistics is None or parts is None:
            return reduce
        number = len({run for run, _ in parts})

        def noted(index: int, outcome: BlockOutcome) -> R:
            parts[number, index] = statistics.of_block(outcome)
            return reduce(index, outcome)

        return noted

    def decision(self) -> dict[str, Any]:
        """How this program is run and why, as JSON values; for a run that goes on in another process."""
        return {
            "execution": self.execution,
            "reason": self.reason,
            "notes": list(self.notes),
            "lift_numbers": self._lift_numbers,
            "lifted_runs": self._lifted_runs,
            "largest_bytes": self._largest_bytes,
            "runs_alive": self._window.runs.standing if self._window is not None else None,
        }

    def restore_decision(self, decision: Mapping[str, Any]) -> None:
        """Go on as :meth:`decision` says; what ``execution=`` forces stays forced."""
        if not self.execution and decision["execution"] != "engine":  # an engine is asked for anew, or not at all
            self._decide(decision["execution"], decision["reason"])
        self.notes = list(decision["notes"])
        self._lift_numbers = decision["lift_numbers"]
        self._lifted_runs = decision["lifted_runs"]
        self._largest_bytes = decision.get("largest_bytes")
        self.take_pace(decision)

    def take_pace(self, decision: Mapping[str, Any]) -> None:
        """Go on from the number of runs alive that :meth:`decision` says, where the pace is measured."""
        if self._window is not None and decision.get("runs_alive"):
            self._window.runs.stand_at(decision["runs_alive"])

    # --- deciding ------------------------------------------------------------------------------------------------

    def _decide(self, execution: str, reason: str) -> None:
        self.execution = execution
        self.reason = reason

    def _fall_back(self, reason: str) -> None:
        if self.settings.execution == "lifted":
            raise LiftError(
                f'execution="lifted" was asked for, but {reason}. Use execution="auto" to run it gathered, '
                "or change the program"
            )
        self._decide("gathered", reason)

    async def _first_run(
        self, ask: AskBlock, blocks: Sequence[int], batch: ExampleBatch, reduce: Callable[[int, BlockOutcome], R]
    ) -> list[R]:
        first = ask(blocks[0])
        if not first and self.settings.execution != "lifted":
            # One θ on many examples: the proof would cost as much as the runs. Undecided for later populations.
            return await self.run_on_loop(ask, blocks, batch, reduce)
        try:
            results = await self._prove(first, ask, blocks, batch, reduce)
        except LiftRefusedError as refusal:
            self._fall_back(str(refusal))
            return await self.run_on_loop(ask, blocks, batch, reduce)
        self._decide("lifted", "proven: one member on all examples and all members on one example agree")
        return results

    async def _prove(
        self,
        first: MemberBlock,
        ask: AskBlock,
        blocks: Sequence[int],
        batch: ExampleBatch,
        reduce: Callable[[int, BlockOutcome], R],
    ) -> list[R]:
        program = self.program
        if not program.liftable and program.block_executor is None:
            raise LiftRefusedError("one example of this agent type is more than one call of run()")
        for component, function in program.scope.all_components().items():
            if function.performs_io or function.batched:
                raise LiftRefusedError(f"{component} performs I/O, has limits or texts, or takes whole batches")
        alone = await self._reference(first, 0, batch.inputs[0])
        if alone.suspended:
            raise LiftRefusedError(f"{alone.suspended[0]} waited for something outside the program")
        if program.block_executor is not None:
            row = {(0, example) for example in range(len(batch.inputs))}
            return await self._run_blocks(
                ask,
                blocks,
                batch,
                reduce,
                lambda index, size: {(m, 0) for m in range(size)} | (row if index == blocks[0] else set()),
            )
        attempts = [True, False] if contains_numbers(batch.inputs) else [True]
        for attempt, lift_numbers in enumerate(attempts):
            self._lift_numbers = lift_numbers
            last = attempt == len(attempts) - 1
            try:
                groups = batch.groups(lift_numbers)
                if len(groups) > _MOST_CONSTANT_GROUPS:
                    raise LiftRefusedError(
                        f"the examples fall into {len(groups)} groups of different shapes or constants"
                    )
                kept: dict[int, BlockOutcome] = {}

                def keep(index: int, outcome: BlockOutcome, kept: dict[int, BlockOutcome] = kept) -> R:
                    kept[index] = outcome
                    return reduce(index, outcome)

                results = await self._run_lifted(ask, blocks, batch, keep)
                await self._check_row_and_column(first, ask, blocks, batch, kept, alone.output)
                return results
            except LiftRefusedError:
                if last:
                    raise
        raise AssertionError("unreachable")

    async def _reference(self, block: MemberBlock, member: int, inputs: Mapping[str, Any]) -> Any:
        """A reference run. What the program itself raises there is not a reason to stop: gathered execution will
        charge it to that member and example."""
        try:
            return await reference_run(self.program, block, member, inputs)
        except InputMutatedError:
            raise
        except Exception as error:
            raise LiftRefusedError(f"a run raised {type(error).__name__}: {error}") from error

    async def _check_row_and_column(
        self,
        first: MemberBlock,
        ask: AskBlock,
        blocks: Sequence[int],
        batch: ExampleBatch,
        kept: Mapping[int, BlockOutcome],
        first_output: Any,
    ) -> None:
        row = kept[blocks[0]].outputs_of(0)
        pairs = [(row[0], first_output)]
        for example in range(1, len(batch.inputs)):
            alone = await self._reference(first, 0, batch.inputs[example])
            pairs.append((row[example], alone.output))
        column = [row[0]]
        for index in blocks:
            block = first if index == blocks[0] else ask(index)
            outcome = kept[index]
            for member in range(1 if index == blocks[0] else 0, outcome.members):
                lifted = outcome.outputs_of_example(member, 0)
                alone = await self._reference(block, member, batch.inputs[0])
                pairs.append((lifted, alone.output))
                column.append(lifted)
        found = first_difference(pairs)
        if found is not None:
            position, why = found
            where = (
                f"example {position}" if position < len(batch.inputs) else f"member {position - len(batch.inputs) + 1}"
            )
            raise LiftRefusedError(f"lifted and single runs disagree at {where}: {why}")
        if all_equal(column):
            self.notes.append("the output on the first example is the same for every member: is it perturbed at all?")

    async def _spot_check(self, ask: AskBlock, blocks: Sequence[int], batch: ExampleBatch) -> None:
        """θ moves, and a program that was right at first may meet its other branch: one more pair now and then."""
        choose = random.Random(self._lifted_runs)
        index = choose.choice(list(blocks))
        block = ask(index)
        size = member_count(block)
        member, example = choose.randrange(size), choose.randrange(len(batch.inputs))
        if self.program.block_executor is not None:
            one = ExampleBatch([batch.inputs[example]])
            await self._run_blocks(ask, [index], one, lambda *_: None, lambda *_: {(member, 0)})
            return
        alone = await self._reference(block, member, batch.inputs[example])
        one = ExampleBatch([batch.inputs[example]])
        lifted = await self._run_lifted(ask, [index], one, lambda _, outcome: outcome.outputs_of_example(member, 0))
        found = first_difference([(lifted[0], alone.output)])
        if found is not None:
            raise LiftRefusedError(
                f"lifted and single runs came to disagree (generation {self._lifted_runs}): {found[1]}"
            )

    # --- running -------------------------------------------------------------------------------------------------

    async def _run_lifted(
        self, ask: AskBlock, blocks: Sequence[int], batch: ExampleBatch, reduce: Callable[[int, BlockOutcome], R]
    ) -> list[R]:
        if self.program.block_executor is not None:
            return await self._run_blocks(ask, blocks, batch, reduce)
        groups = batch.groups(self._lift_numbers)
        program = self.program

        if self._kernels is not None and self._largest_bytes is None:
            found = await self._workers.map(
                lambda index, runner: largest_tensor(program, ask(index), groups, runner), blocks[:1], at_once=1
            )
            self._largest_bytes = found[0]

        def work(index: int, runner: asyncio.Runner) -> R:
            block = ask(index)
            at_once = None
            if self._kernels is not None and self._largest_bytes is not None:
                at_once = self._kernels.examples(member_count(block), self._largest_bytes)
            return reduce(index, run_lifted(program, block, groups, runner, examples_at_once=at_once))

        results = await self._workers.map(work, blocks, at_once=self._at_once(ask, blocks, batch))
        self._lifted_runs += 1
        return results

    async def _run_blocks(
        self,
        ask: AskBlock,
        blocks: Sequence[int],
        batch: ExampleBatch,
        reduce: Callable[[int, BlockOutcome], R],
        proof: Callable[[int, int], Collection[tuple[int, int]]] = lambda index, size: (),
    ) -> list[R]:
        """Lifted by the agent type's own executor; ``proof(index, members)`` are the pairs to be proven in a block."""
        program, executor = self.program, self.program.block_executor
        if executor is None:
            raise AssertionError("only called where the program has an executor")

        def work(index: int, runner: asyncio.Runner) -> R:
            block = ask(index)
            size = member_count(block)
            return reduce(index, executor.run_block(program, block, batch.inputs, runner, proof=proof(index, size)))

        results = await self._workers.map(work, blocks, at_once=self._at_once(ask, blocks, batch))
        self._lifted_runs += 1
        return results

    def _at_once(self, ask: AskBlock, blocks: Sequence[int], batch: ExampleBatch) -> int:
        """How many blocks may be in flight under ``max_batch_size`` and ``memory_bytes``; at least one."""
        most = self._workers.count
        if len(blocks) > 1 and (self.settings.max_batch_size or self.settings.memory_bytes):
            if self._members_of_first is None:  # asked once: a block is noise, drawn to be counted
                self._members_of_first = member_count(ask(blocks[0]))
            runs = self._members_of_first * len(batch.inputs)
            if self.settings.max_batch_size:
                most = min(most, self.settings.max_batch_size // runs)
            if self.settings.memory_bytes:
                per_block = (
                    runs
                    * sum(t.nbytes for g in batch.groups(self._lift_numbers) for t in g.tensors)
                    // max(1, len(batch.inputs))
                )
                most = min(most, self.settings.memory_bytes // max(1, per_block))
        return max(1, most)

    async def run_on_loop(
        self, ask: AskBlock, blocks: Sequence[int], batch: ExampleBatch, reduce: Callable[[int, BlockOutcome], R]
    ) -> list[R]:
        """The same as :meth:`run` by tasks on the running loop, and without deciding how the population will run."""
        if self._engine is not None:
            most = self._at_once(ask, blocks, batch)
            return await run_on_engine(
                self._engine, self.program, ask, blocks, batch.inputs, reduce, settings=self.settings, at_once=most
            )

        async def run_block(index: int) -> R:
            if self.execution == "sequential":
                return reduce(index, await run_sequential(self.program, ask(index), batch.inputs))
            program, settings, window = self.program, self.settings, self._window
            return reduce(
                index, await run_gathered(program, ask(index), batch.inputs, settings=settings, window=window)
            )

        if self._window is None or self.execution == "sequential":
            return [await run_block(index) for index in blocks]
        return await self._window.run_blocks(blocks, run_block)
