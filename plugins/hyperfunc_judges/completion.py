"""How a judge asks a model. Knows no provider, no model and no judge.

By default the model is an alias of the LLM runtime (:mod:`hyperfunc_llm`), resolved at each call. A judge may be given
``complete`` instead, an asynchronous function of messages that returns the reply's text, or a :class:`Reply` when it
also knows what the call used; retries, limits, budgets and caches are then that function's business.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar
from xml.sax.saxutils import escape

from hyperfunc.errors import ConfigurationError, EvaluationError
from hyperfunc.usage import Usage

__all__ = ["Answer", "Complete", "Message", "Reply", "UnreadableReplyError", "ask", "section"]

Message = dict[str, str]
"""``{"role": "system" | "user" | "assistant", "content": text}``."""

T = TypeVar("T")


@dataclass(frozen=True)
class Reply:
    """A model's answer: its text, and what the call used."""

    text: str
    usage: Usage = field(default_factory=Usage)


class Complete(Protocol):
    """Sends messages to a model; ``options`` are ``model``, ``temperature`` and ``max_tokens``."""

    def __call__(self, messages: list[Message], **options: Any) -> Awaitable[str | Reply]:
        """The reply's text, or a :class:`Reply`."""
        ...


class UnreadableReplyError(EvaluationError):
    """A model's reply does not hold what was asked for; the message says what is wrong with it."""


@dataclass(frozen=True)
class Answer:
    """What came of asking.

    Attributes:
        value: what was read from the reply, or ``None`` when no reply could be read.
        reply: the last reply.
        problem: why it could not be read; empty when it could.
        usage: of all calls that were made.
    """

    value: Any
    reply: str
    problem: str
    usage: Usage


async def ask(
    complete: Complete | None,
    messages: Sequence[Message],
    read: Callable[[str], Any],
    *,
    reasks: int = 1,
    **options: Any,
) -> Answer:
    """Ask until ``read`` can read the reply, at most ``1 + reasks`` times.

    A reply that cannot be read is shown to the model again with what is wrong with it. What ``complete`` raises passes
    unchanged: an outage is no bad score.

    Args:
        complete: the model; ``None``: the LLM runtime's alias ``options["model"]``.
        messages: what to send.
        read: value of a reply; raises :class:`UnreadableReplyError`.
        reasks: how often to ask again, ≥ 0.
        options: for ``complete``.
    """
    asked: Complete = _through_runtime if complete is None else complete
    conversation = list(messages)
    usage = Usage()
    text = problem = ""
    for _ in range(1 + reasks):
        reply = await asked(list(conversation), **options)
        if isinstance(reply, Reply):
            usage += reply.usage
            reply = reply.text
        if not isinstance(reply, str):
            raise ConfigurationError(f"complete must return a string or a Reply, got {type(reply).__qualname__}")
        text = reply
        try:
            return Answer(read(text), text, "", usage)
        except UnreadableReplyError as error:
            problem = str(error)
        again = f"Your reply could not be read: {problem}. Answer again, in the form asked for and nothing else."
        conversation += [{"role": "assistant", "content": text}, {"role": "user", "content": again}]
    return Answer(None, text, problem, usage)


async def _through_runtime(messages: list[Message], **options: Any) -> Reply:
    # Imported here: a judge with a `complete` of its own needs no LLM runtime.
    from hyperfunc_llm import EmptyResponseError, LLMRequest, current_runtime

    params = dict(options)
    model = str(params.pop("model"))
    try:
        response = await current_runtime().complete(model, LLMRequest(messages, params))
    except EmptyResponseError as error:  # was paid for, and may be asked for again like any other unreadable reply
        return Reply("", error.usage)
    return Reply(response.content, response.spent)


def section(tag: str, value: Any) -> str:
    """``value`` between XML tags, escaped: an output that holds ``</output>`` cannot end its own section."""
    if isinstance(value, Mapping):
        body = "\n".join(f"{name}: {item}" for name, item in value.items())
    else:
        body = "" if value is None else str(value)
    return f"<{tag}>\n{escape(body)}\n</{tag}>"
