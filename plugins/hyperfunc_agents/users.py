"""Who a CHAT program talks to: a script, any callable, or a language model that plays a person.

A *simulated user* is a callable ``(history, *, goal, persona, seed, turn) -> message | None``, plain, async or a
hyperfunction; it gets those of these arguments that it accepts, and ends the conversation with ``None`` or blank text.
Knows nothing of programs or scores.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from hyperfunc.errors import ConfigurationError, EvaluationError, MissingDependencyError
from hyperfunc_agents.conversation import accepted_names

__all__ = ["LLM_USER_INSTRUCTIONS", "LLMUser", "SimulatedUser", "Voice"]

SimulatedUser = Callable[..., "str | Awaitable[str | None] | None"]
"""``(history, *, goal, persona, seed, turn) -> message | None``; ``history`` as in OpenAI's chat format."""

LLM_USER_INSTRUCTIONS = """\
You play a person who writes to an assistant. Stay in the role: write only this person's next message, as the person \
would type it, without explanations. Pursue the goal, react to what the assistant said, and do not help the assistant \
do its work. When the goal is reached, or cannot be reached, reply with exactly {stop} instead of a message."""


class Voice:
    """One simulated user in one conversation.

    Args:
        user: who speaks.
        seed: the same for every candidate of one example; 0 is a seed like any other.
    """

    def __init__(self, user: SimulatedUser, *, goal: str, persona: str, seed: int) -> None:
        self._user = user
        names = accepted_names(user)
        given = {"goal": goal, "persona": persona, "seed": seed}
        self._given = {name: value for name, value in given.items() if names is None or name in names}
        self._takes_turn = names is None or "turn" in names

    async def next_message(self, history: Sequence[Mapping[str, str]], turn: int) -> str | None:
        """What the user says next; ``None`` when the user has nothing more to say.

        Args:
            history: the messages so far.
            turn: number of this message, from 0.

        Raises:
            EvaluationError: the user returned something else than text or ``None``.
        """
        offered = {**self._given, "turn": turn} if self._takes_turn else self._given
        message = self._user([dict(entry) for entry in history], **offered)
        if inspect.isawaitable(message):
            message = await message
        if message is not None and not isinstance(message, str):
            raise EvaluationError(f"a simulated user must return a text or None, got {type(message).__name__}")
        return message if message is not None and message.strip() else None


class LLMUser:
    """A person played by a language model.

    Args:
        complete: ``(prompt, seed=…) -> reply`` or ``prompt -> reply``, both text: an async callable, a hyperfunction.
            Give one whose parameters are not trainable: an optimizer must not learn to make the user easier to please.
        model: the model to ask through ``hyperfunc_llm``, if there is no ``complete``.
        instructions: how to play; ``{stop}`` is where the stop word goes.
        stop: what the model replies when the person is done.
        moods: a mood is drawn by the seed, so that different seeds are different people.

    Raises:
        ConfigurationError: neither or both of ``complete`` and ``model`` are given.
        MissingDependencyError: ``model`` is given, and ``hyperfunc_llm`` is not installed.
    """

    def __init__(
        self,
        complete: Callable[..., Awaitable[str]] | None = None,
        *,
        model: str | None = None,
        instructions: str = LLM_USER_INSTRUCTIONS,
        stop: str = "<END>",
        moods: Sequence[str] = ("patient", "in a hurry", "chatty", "terse", "sceptical", "friendly"),
    ) -> None:
        if (complete is None) == (model is None):
            raise ConfigurationError("LLMUser needs either complete= (a callable) or model= (a name)")
        self._complete = complete if complete is not None else _completion_of(str(model))
        self._takes_seed = "seed" in inspect.signature(self._complete).parameters
        self._instructions = instructions.replace("{stop}", stop)
        self._stop = stop
        self._moods = tuple(moods)

    async def __call__(
        self, history: Sequence[Mapping[str, str]], *, goal: str, persona: str, seed: int, turn: int
    ) -> str | None:
        """The person's next message, or ``None`` when the model says that the person is done."""
        parts = [self._instructions]
        if persona:
            parts.append(f"THE PERSON: {persona}")
        if self._moods:
            parts.append(f"MOOD: {random.Random(seed).choice(self._moods)}")
        parts.append(f"THE GOAL: {goal or 'a short, friendly conversation'}")
        names = {"user": "You", "assistant": "Assistant"}
        said = "\n".join(f"{names[entry['role']]}: {entry['content']}" for entry in history)
        parts.append(f"THE CONVERSATION SO FAR:\n{said or '(you begin)'}")
        prompt = "\n\n".join(parts)
        more = {"seed": (seed + turn) % 2**31} if self._takes_seed else {}
        reply = (await self._complete(prompt, **more)).strip()
        return None if not reply or self._stop in reply else reply


def _completion_of(model: str) -> Callable[..., Awaitable[str]]:
    try:
        from hyperfunc_llm import make_llm_completion
    except ImportError as error:
        raise MissingDependencyError("hyperfunc_llm", "llm") from error
    call = make_llm_completion(model, name="simulated_user", optimize_hparams=False)

    async def complete(prompt: str, seed: int) -> str:
        return str((await call(prompt, seed=seed)).content)

    return complete
