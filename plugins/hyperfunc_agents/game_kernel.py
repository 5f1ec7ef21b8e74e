"""One function of one episode's values, run for members × episodes at once, step after step.

Puts the axes in order (``[P, E, …]`` outside, one lane's values inside) and lets equal steps be replayed. Knows neither
environments nor policies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.population.inputs import InputGroup
from hyperfunc.population.lifted import LiftedKernel
from hyperfunc.population.members import MemberBlock
from hyperfunc.program import Program
from hyperfunc_agents.game_replay import Replay

__all__ = ["StepKernel"]

_PLAIN = (bool, int, float, str, bytes, type(None))


class StepKernel:
    """A lifted step. Use it under ``torch.no_grad()``, in one thread.

    Args:
        program: of the system, for its components and limits.
        step: the step of one lane, of inputs ``{"nest": …, "arguments": …}``; answers a nest.
        block: the members.
        members: how many.
        group: the episodes, with their further arguments.
        runner: an event loop of its own in the calling thread.
        replays: whether steps of one form may be replayed (:mod:`hyperfunc_agents.game_replay`).

    Attributes:
        program: runs one step of one lane.
    """

    def __init__(
        self,
        program: Program,
        step: Callable[[Mapping[str, Any]], Awaitable[Any]],
        block: MemberBlock,
        members: int,
        group: InputGroup,
        runner: asyncio.Runner,
        *,
        replays: bool = True,
    ) -> None:
        self.program = replace(program, run_example=step, block_executor=None)
        self._kernel = LiftedKernel(self.program, block, runner)
        self._group = group
        self._many = len(group.examples) > 1
        self._constants = {} if group.tensors else group.inputs(())
        self._arguments = tuple(  # the same for every member: [P, E, …] without a copy
            t.unsqueeze(0).expand(members, *t.shape) for t in group.tensors
        )
        self._replay = Replay(is_on=replays)
        self._structure: pytree.TreeSpec | None = None

    def __call__(self, nest: Any) -> Any:
        """The step on a nest of tensors ``[P, E, …]`` and constants; the answer likewise.

        Raises:
            LiftRefusedError, InputMutatedError: as :meth:`hyperfunc.population.lifted.LiftedKernel.run`.
            ReplayDiffersError: replayed steps cannot be trusted.
        """
        leaves, structure = pytree.tree_flatten(nest)
        given = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

        def compute() -> list[Any]:
            answer, self._structure = self._run(leaves, structure, given)
            return answer

        constants = [(type(leaf), leaf) for leaf in leaves if not isinstance(leaf, Tensor)]
        if all(kind in _PLAIN for kind, _ in constants):
            answer = self._replay.step((structure, constants), given, compute)
        else:
            answer = compute()
        assert self._structure is not None
        return pytree.tree_unflatten(answer, self._structure)

    def refuse_state(self) -> None:
        """See :meth:`hyperfunc.population.lifted.LiftedKernel.refuse_state`."""
        self._kernel.refuse_state()

    def _run(
        self, leaves: list[Any], structure: pytree.TreeSpec, given: tuple[Tensor, ...]
    ) -> tuple[list[Any], pytree.TreeSpec]:
        is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        count = len(given)

        def inputs_of(tensors: tuple[Tensor, ...]) -> Mapping[str, Any]:
            rest = iter(tensors[:count])
            mixed = [next(rest) if tensor else leaf for leaf, tensor in zip(leaves, is_tensor, strict=True)]
            own = self._group.inputs(tensors[count:]) if self._arguments else self._constants
            return {"nest": pytree.tree_unflatten(mixed, structure), "arguments": own}

        tensors = (*given, *self._arguments)
        if self._many:
            output = self._kernel.run(inputs_of, tensors, members=True, examples=True)
            return output.leaves, output.structure
        output = self._kernel.run(inputs_of, tuple(t.squeeze(1) for t in tensors), members=True, examples=False)
        lifted = [leaf.unsqueeze(1) if own else leaf for leaf, own in zip(output.leaves, output.lifted, strict=True)]
        return lifted, output.structure
