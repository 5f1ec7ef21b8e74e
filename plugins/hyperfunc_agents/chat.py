"""The CHAT agent type: one example is one conversation, with a scripted or a simulated user.

Inputs of an example:

- ``conversation``: what the user says, in order (a script); or ``user``: a simulated user, with ``goal``, ``persona``
  and ``seed``. Without either, the system's attribute ``simulated_user`` is the user.
- ``max_turns``: at most so many replies (100 for a script, 10 for a simulated user).
- ``use_memory``: whether the system's memory takes part, if it has one (it does).
- ``user_id``, ``agent_id``, ``run_id``: the scope in the memory.
- anything else that ``run`` accepts is handed to it with every message.

Each conversation has a snapshot of the system's memory to itself, whatever the number of candidates and examples: it
remembers from turn to turn, and is dropped at the end. To write to the memory itself, hold a :class:`Conversation`.
Knows nothing of populations and scores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from hyperfunc.errors import EvaluationError
from hyperfunc.parameters.theta import ThetaValue
from hyperfunc.population.gathered import run_gathered
from hyperfunc.scope import current_scope
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.system import HyperSystem
from hyperfunc_agents.conversation import Conversation, ConversationMemory, ConversationResult
from hyperfunc_agents.users import SimulatedUser, Voice

__all__ = ["ChatAgent", "hold_conversations"]

_SCRIPTED_MAX_TURNS = 100
_SIMULATED_MAX_TURNS = 10
_SCOPE = ("user_id", "agent_id", "run_id")
_OWN_INPUTS = frozenset((*_SCOPE, "conversation", "user", "goal", "persona", "seed", "max_turns", "use_memory"))


class ChatAgent:
    """Runs one conversation per example."""

    liftable: ClassVar[bool] = False

    async def run_example(
        self, run: Callable[..., Awaitable[Any]], inputs: Mapping[str, Any], system: Any
    ) -> ConversationResult:
        """One conversation, from the first message to the end.

        Raises:
            EvaluationError: the inputs are no conversation, or the user said something that is no text.
            Whatever ``run`` raises, with the turn named in a note.
        """
        script, user = _speaker(inputs, system)
        most = _max_turns(inputs, _SIMULATED_MAX_TURNS if script is None else _SCRIPTED_MAX_TURNS)
        seed = _conversation_seed(inputs)
        voice = None if user is None else _voice(user, inputs, seed)
        memory: ConversationMemory | None = system.memory if inputs.get("use_memory", True) else None
        async with AsyncExitStack() as stack:
            if memory is not None:
                memory = memory.snapshot()
                stack.push_async_callback(memory.aclose)
            conversation = Conversation(
                run,
                memory=memory,
                **{name: inputs.get(name) for name in _SCOPE},
                extra={name: value for name, value in inputs.items() if name not in _OWN_INPUTS},
            )
            result = ConversationResult(history=conversation.history, ended_by="max_turns")
            while result.turns < most:
                try:
                    message = await _next(script, voice, conversation, result.turns)
                    if message is None:
                        result.ended_by = "user" if script is None else "script"
                        break
                    result.final_response = await conversation.say(message)
                except Exception as error:
                    error.add_note(f"in turn {result.turns + 1} of the conversation")
                    raise
                result.turns += 1
                if conversation.done:
                    result.ended_by = "agent"
                    break
            result.done = result.ended_by in ("agent", "user")
            return result


async def hold_conversations(
    system: HyperSystem,
    inputs: Sequence[Mapping[str, Any]],
    *,
    theta: Mapping[str, ThetaValue] | None = None,
    settings: Settings | None = None,
) -> list[ConversationResult | Exception]:
    """Hold many conversations at once, outside any evaluation.

    Args:
        inputs: one mapping per conversation, as in an example.
        theta: values in place of the system's current ones.
        settings: ``window`` bounds how many are under way at once.

    Returns:
        In the order of ``inputs``: the conversation, or the exception that ended it and only it.
    """
    resolved = resolve_settings(settings, system.settings)
    outcome = await run_gathered(system.program(theta, settings), {}, list(inputs), settings=resolved)
    row = outcome.outputs_of(0)
    return [outcome.errors.get((0, number), row[number]) for number in range(len(inputs))]


async def _next(script: Sequence[str] | None, voice: Voice | None, conversation: Conversation, turn: int) -> str | None:
    if script is not None:
        return script[turn] if turn < len(script) else None
    assert voice is not None
    history = [{"role": said.role, "content": said.content} for said in conversation.history]
    return await voice.next_message(history, turn)


def _voice(user: SimulatedUser, inputs: Mapping[str, Any], seed: int) -> Voice:
    goal, persona = str(inputs.get("goal") or ""), str(inputs.get("persona") or "")
    return Voice(user, goal=goal, persona=persona, seed=seed)


def _speaker(inputs: Mapping[str, Any], system: Any) -> tuple[Sequence[str] | None, SimulatedUser | None]:
    script = inputs.get("conversation")
    given = inputs.get("user")
    if script is not None and given is not None:
        raise EvaluationError("the inputs have a 'conversation' and a 'user'; give one of them")
    if script is not None:
        if isinstance(script, str) or not isinstance(script, Sequence) or not all(isinstance(m, str) for m in script):
            raise EvaluationError(f"'conversation' must be a list of the user's messages, got {script!r:.200}")
        return script, None
    user = given if given is not None else getattr(system, "simulated_user", None)
    if not callable(user):
        raise EvaluationError(
            "a CHAT example needs inputs={'conversation': [messages]} or a simulated user (inputs={'user': …} or the "
            f"system's attribute simulated_user); got inputs {sorted(inputs)} and the user {user!r:.100}"
        )
    return None, user


def _max_turns(inputs: Mapping[str, Any], default: int) -> int:
    most = inputs.get("max_turns")
    if most is None:
        return default
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise EvaluationError(f"'max_turns' must be a whole number from 1, got {most!r}")
    return most


def _conversation_seed(inputs: Mapping[str, Any]) -> int:
    """From the run's seed, the example and its repeat, never from the candidate: all candidates meet the same user."""
    seed = inputs.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise EvaluationError(f"'seed' must be a whole number, got {seed!r}")
    scope = current_scope()
    drawn = [scope.seed, scope.example, scope.repeat, seed, str(inputs.get("goal")), str(inputs.get("persona"))]
    return int.from_bytes(hashlib.sha256(json.dumps(drawn).encode()).digest()[:4], "big") >> 1
