"""A conversation with a CHAT program: what is said, what the program is handed, what is remembered.

A program is ``run(message, history=None, memory_context=None)``, and gets those of these arguments that it accepts.
Knows nothing of users, examples or scores.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from hyperfunc.errors import ExecutionError

__all__ = [
    "ChatResponse",
    "Conversation",
    "ConversationMemory",
    "ConversationResult",
    "ConversationTurn",
    "accepted_names",
]


@dataclass
class ChatResponse:
    """What a CHAT program returns.

    Attributes:
        message: the reply.
        done: the conversation is over.
        metadata: anything else (tool calls, confidence, …); kept in the turn.
    """

    message: str
    done: bool = False
    metadata: dict[str, Any] | None = None


@dataclass
class ConversationTurn:
    """One message. ``role`` is ``"user"`` or ``"assistant"``."""

    role: str
    content: str
    metadata: dict[str, Any] | None = None


@dataclass
class ConversationResult:
    """A whole conversation.

    Attributes:
        history: every message, in order; a user's message and the reply to it alternate.
        turns: number of replies.
        done: the program, or the simulated user, ended it.
        final_response: the last reply; ``None`` if there was none.
        ended_by: ``"agent"`` or ``"user"`` (``done``), ``"script"`` (nothing left to say), or ``"max_turns"``.
    """

    history: list[ConversationTurn] = field(default_factory=list)
    turns: int = 0
    done: bool = False
    final_response: ChatResponse | None = None
    ended_by: str = ""

    @property
    def replies(self) -> list[str]:
        """What the program said, in order."""
        return [turn.content for turn in self.history if turn.role == "assistant"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        turns = [{"role": t.role, "content": t.content, "metadata": t.metadata} for t in self.history]
        return {"history": turns, "turns": self.turns, "done": self.done, "ended_by": self.ended_by}

    def __str__(self) -> str:
        """A transcript, one message per paragraph: what judges and people read."""
        return "\n\n".join(f"{turn.role.title()}: {turn.content}" for turn in self.history)


class ConversationMemory(Protocol):
    """What a conversation needs of a memory; :class:`hyperfunc_memory.Memory` has it."""

    def snapshot(self) -> ConversationMemory:
        """A private view; what is written to it stays in it."""
        ...

    async def aretrieve(self, query: str, *, user_id: str | None, agent_id: str | None, run_id: str | None) -> Any:
        """Memories of one scope that matter for ``query``."""
        ...

    def format_context(self, memories: Any) -> str:
        """``memories`` as a block for a prompt."""
        ...

    async def store_turn(
        self,
        user_message: str,
        assistant_response: str,
        *,
        user_id: str | None,
        agent_id: str | None,
        run_id: str | None,
    ) -> Any:
        """Remember a turn; stored when awaited."""
        ...

    async def aclose(self) -> None:
        """Free what it holds."""
        ...


class Conversation:
    """A conversation as it goes on: for chat applications, and what :class:`ChatAgent` runs examples with.

    Args:
        run: the program, such as ``system.run``.
        memory: memories go into ``memory_context``, and every turn is stored there before the reply is returned;
            ``None`` for neither.
        user_id, agent_id, run_id: the scope in ``memory``.
        extra: further arguments of ``run``; those that it does not accept are left out.

    Attributes:
        history: every message so far.
        done: the program has ended the conversation.
    """

    def __init__(
        self,
        run: Callable[..., Awaitable[Any]],
        *,
        memory: ConversationMemory | None = None,
        user_id: str | None = None,
        agent_id: str | None = None,
        run_id: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.history: list[ConversationTurn] = []
        self.done = False
        self._run = run
        self._accepted = accepted_names(run)
        self._memory = memory
        self._scope: dict[str, Any] = {"user_id": user_id, "agent_id": agent_id, "run_id": run_id}
        self._extra = dict(extra or {})

    async def say(self, message: str) -> ChatResponse:
        """The program's reply to ``message``. A turn that fails leaves the history as it was.

        Raises:
            ExecutionError: the conversation is over, or the program returned something that is no reply.
        """
        if self.done:
            raise ExecutionError("this conversation is over (the program said done=True); begin another one")
        offered: dict[str, Any] = {
            **self._extra,
            "message": message,
            "history": [{"role": turn.role, "content": turn.content} for turn in self.history],
        }
        if self._memory is not None and self._accepts("memory_context"):
            context = self._memory.format_context(await self._memory.aretrieve(message, **self._scope))
            if context:
                offered["memory_context"] = context
        response = _as_response(await self._run(**{k: v for k, v in offered.items() if self._accepts(k)}))
        if self._memory is not None:
            await self._memory.store_turn(message, response.message, **self._scope)
        self.history.append(ConversationTurn("user", message))
        self.history.append(ConversationTurn("assistant", response.message, response.metadata))
        self.done = response.done
        return response

    def _accepts(self, name: str) -> bool:
        return self._accepted is None or name in self._accepted


def accepted_names(function: Callable[..., Any]) -> frozenset[str] | None:
    """The argument names that ``function`` takes; ``None`` if it takes any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _as_response(output: Any) -> ChatResponse:
    """A program may return a :class:`ChatResponse`, its message alone, or both fields as a mapping."""
    if isinstance(output, Mapping) and isinstance(output.get("message"), str):
        output = ChatResponse(output["message"], bool(output.get("done", False)), output.get("metadata"))
    if isinstance(output, str):
        output = ChatResponse(output)
    if not isinstance(output, ChatResponse) or not isinstance(output.message, str):
        raise ExecutionError(
            f"a CHAT program must return a ChatResponse or a text, got {type(output).__name__}: {output!r:.100}"
        )
    return output
