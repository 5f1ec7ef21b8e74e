"""Agent types: what one example of a system is. FLOW, one call of ``run``, lives here; others come as plugins.

An agent type says how one example is run from start to end and what comes out. That is enough: a population is then
run as concurrent tasks. One whose examples are many calls of ``run`` may also know how to run a block of members at
once (:class:`BlockAgentRunner`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    from hyperfunc.program import BlockExecutor

__all__ = ["AgentRunner", "AgentType", "BlockAgentRunner", "Flow", "FlowResponse"]


class AgentType:
    """Names of the agent types that hyperfunc ships; any registered name works the same."""

    FLOW: Final = "flow"
    CHAT: Final = "chat"
    GAME: Final = "game"


@dataclass(frozen=True)
class FlowResponse:
    """What a FLOW program may return instead of the bare output."""

    output: Any


class AgentRunner(Protocol):
    """How one example of an agent type is run.

    Attributes:
        liftable: one example is one call of ``run`` with the example's inputs as arguments.
    """

    liftable: ClassVar[bool]

    async def run_example(self, run: Callable[..., Awaitable[Any]], inputs: Mapping[str, Any], system: Any) -> Any:
        """Run one example under the active binding.

        Args:
            run: the system's ``run``.
            inputs: the example's inputs.
            system: the system itself (its memory, its settings).
        """
        ...


@runtime_checkable
class BlockAgentRunner(AgentRunner, Protocol):
    """An agent type that can also run whole blocks of members."""

    def block_executor(self, run: Callable[..., Awaitable[Any]], system: Any) -> BlockExecutor:
        """What runs blocks of members of this system; one per evaluation or optimization.

        Args:
            run, system: as in :meth:`run_example`.
        """
        ...


class Flow:
    """One example is one call of ``run``; a :class:`FlowResponse` is unwrapped."""

    liftable: ClassVar[bool] = True

    async def run_example(self, run: Callable[..., Awaitable[Any]], inputs: Mapping[str, Any], system: Any) -> Any:
        output = await run(**inputs)
        return output.output if isinstance(output, FlowResponse) else output
