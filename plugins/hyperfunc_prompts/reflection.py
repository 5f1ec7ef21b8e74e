"""Asking a model for a new text: the messages, and what of the reply can be used. Knows nothing of scores.

Everything shown is XML-escaped, so that a prompt holding ``</current_text>`` cannot end its own section. The reply is
read between the first ``<new_text>`` and the last ``</new_text>``, so that the same holds on the way back.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hyperfunc.calls import StoredCall, content_key
from hyperfunc.errors import BudgetError, ConfigurationError
from hyperfunc.journal import fingerprint_program
from hyperfunc.parameters.theta import JSONValue
from hyperfunc.relived import count_reply
from hyperfunc.scope import current_scope
from hyperfunc.usage import Usage
from hyperfunc_llm.accounting import worst_case
from hyperfunc_llm.errors import EmptyResponseError
from hyperfunc_llm.runtime import current_runtime
from hyperfunc_llm.types import LLMRequest
from hyperfunc_prompts.acceptance import check_form
from hyperfunc_prompts.errors import ProposalRefusedError, ReflectorOutageError, UnusableProposalError

__all__ = ["Complete", "Reflection", "Reflector", "Reply", "estimate_tokens", "section"]

Messages = list[dict[str, Any]]
_NEW_TEXT = re.compile(r"<new_text>\n?(.*)\n?</new_text>", re.DOTALL)
_FENCED = re.compile(r"\A```[\w-]*[ \t]*\n(.*)\n```\Z", re.DOTALL)
_COMPLAINT = 500  # bytes; more than any complaint of ours without the parts that it quotes
_ENTITY = re.compile(r"&(?:lt|gt|amp|quot|#x27);")


@dataclass(frozen=True)
class Reply:
    """A model's answer.

    Attributes:
        text: as it came.
        finish_reason: ``"length"`` says that it was cut off.
        usage: what it cost; calls made through the runtime count by themselves and are not part of it.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)


class Complete(Protocol):
    """An async function that sends messages to a model."""

    def __call__(self, messages: Messages, /) -> Awaitable[str | Reply]: ...


@dataclass(frozen=True)
class Reflection:
    """A usable new text, and what it took."""

    value: JSONValue
    usage: Usage
    attempts: int


class Reflector:
    """Asks a model for new texts.

    Args:
        model: an alias or a model of the LLM runtime, or an async function of messages.
        attempts: replies asked for until one can be used, ≥ 1; each further one sees what was wrong.
    """

    def __init__(self, model: str | Complete, *, attempts: int = 3) -> None:
        if attempts < 1:
            raise ConfigurationError(f"attempts must be at least 1, got {attempts}")
        self.model = model  # public, so that a run with another model is another run
        self.attempts = attempts
        self._complete: Complete = _through_runtime(model) if isinstance(model, str) else _stored(model)

    def usage_of_a_reply(self, shown: int, written: int, context_size: int) -> tuple[Usage, Usage] | None:
        """What one reply uses: an estimate, and the most, for requests within ``context_size``; repeats of requests
        that failed not counted. ``None`` for a model that is no endpoint of the runtime.

        Args:
            shown, written: estimated tokens of the request and of the reply.
            context_size: tokens of a request, estimated from bytes.

        Raises:
            UnknownAliasError: the model is no endpoint.
        """
        if not isinstance(self.model, str):
            return None
        endpoint = current_runtime().endpoint(self.model)
        price = endpoint.price
        request = [{"role": "system", "content": ""}, {"role": "user", "content": "x" * 4 * context_size}]
        limit = worst_case(LLMRequest(request, endpoint.params or {}), endpoint, price).output_tokens
        if self.attempts > 1:  # a further request shows the last reply and what was wrong with it
            request += [
                {"role": "assistant", "content": "x" * 4 * limit},
                {"role": "user", "content": "x" * _COMPLAINT},
            ]
        most = worst_case(LLMRequest(request, endpoint.params or {}), endpoint, price)
        usd = 0.0 if price is None else shown * price.input + written * price.output
        written = min(written, most.output_tokens)
        return Usage(calls=1, input_tokens=shown, output_tokens=written, usd=min(usd, most.usd)), most

    async def ask(self, name: str, messages: Messages) -> Reply:
        """One reply.

        Raises:
            ReflectorOutageError: no reply could be had.
            BudgetError, ConfigurationError: as they are.
        """
        try:
            reply = await self._complete(messages)
        except (BudgetError, ConfigurationError):
            raise
        except EmptyResponseError as error:
            return Reply("", usage=error.usage)
        except Exception as error:
            raise ReflectorOutageError(
                f"no proposal for {name}: the reflecting model failed with {type(error).__name__}: {error}",
                parameter_name=name,
            ) from error
        return Reply(reply) if isinstance(reply, str) else reply

    async def new_text(
        self,
        name: str,
        before: JSONValue,
        messages: Messages,
        *,
        rules: bool = False,
        account: Callable[[Usage], None] | None = None,
    ) -> Reflection:
        """A new value for the text ``name``, of ``before``'s type and with its slots.

        Args:
            rules: the reply is a list of rules, as lines; ``before`` is the text that they are added to.
            account: told what each reply used, also where none can be used in the end.

        Raises:
            UnusableProposalError: no reply could be used, with the last complaint.
            ReflectorOutageError: no reply could be had.
        """
        usage, complaint = Usage(), ""
        conversation = list(messages)
        for attempt in range(1, self.attempts + 1):
            reply = await self.ask(name, conversation)
            usage += reply.usage
            if account is not None:
                account(reply.usage)
            try:
                value = _read(name, before, reply)
                if rules:
                    assert isinstance(before, str)
                    value = with_rules(before, str(value))
                check_form(name, before, value)
                return Reflection(value, usage, attempt)
            except ProposalRefusedError as error:
                complaint = str(error)
            conversation = [
                *messages,
                {"role": "assistant", "content": reply.text},
                {"role": "user", "content": f"This cannot be used: {complaint}. Answer again, whole and in the form."},
            ]
        raise UnusableProposalError(
            f"no usable text for {name} in {self.attempts} replies; the last: {complaint}",
            parameter_name=name,
            attempts=self.attempts,
        )


def section(tag: str, value: Any, **attributes: str) -> str:
    """``value`` between XML tags, escaped; anything but a string as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    given = "".join(f' {name}="{html.escape(attribute)}"' for name, attribute in attributes.items())
    return f"<{tag}{given}>\n{html.escape(text, quote=False)}\n</{tag}>"


def estimate_tokens(text: str) -> int:
    """About how many tokens ``text`` has: a quarter of its UTF-8 bytes, rounded up."""
    return math.ceil(len(text.encode()) / 4)


RULES_HEADING = "Rules:"


def split_rules(text: str) -> tuple[str, str]:
    """A text as its fixed part and its rules (``""`` where it has none)."""
    baseline, found, rules = text.partition(f"\n\n{RULES_HEADING}\n")
    return (baseline, rules) if found else (text, "")


def with_rules(text: str, rules: str) -> str:
    """``text`` with its rules replaced by the lines of ``rules`` that begin with a dash, each once.

    Raises:
        ProposalRefusedError: there is no such line.
    """
    lines = [line.strip() for line in rules.splitlines()]
    bullets = list(dict.fromkeys("- " + line[1:].strip() for line in lines if line[:1] in "-*" and line[1:].strip()))
    if not bullets:
        raise ProposalRefusedError("expected rules as lines that begin with '- ', found none")
    return f"{split_rules(text)[0]}\n\n{RULES_HEADING}\n" + "\n".join(bullets)


def _read(name: str, before: JSONValue, reply: Reply) -> JSONValue:
    if reply.finish_reason == "length":
        raise ProposalRefusedError(f"{name}: the reply was cut off; write a shorter text", parameter_name=name)
    found = _NEW_TEXT.search(reply.text)
    if found is None:
        raise ProposalRefusedError(f"{name}: the reply has no <new_text>…</new_text>", parameter_name=name)
    text = found.group(1).strip()
    fenced = _FENCED.match(text)
    shown = before if isinstance(before, str) else json.dumps(before, ensure_ascii=False)
    if fenced is not None and not _FENCED.match(shown.strip()):
        text = fenced.group(1).strip()
    if _ENTITY.search(text) and not _ENTITY.search(shown):
        text = html.unescape(text)  # the model copied the escapes in which it was shown the text
    if isinstance(before, str):
        return text
    try:
        value: JSONValue = json.loads(text)
    except ValueError as error:
        raise ProposalRefusedError(f"{name}: expected JSON between the tags: {error}", parameter_name=name) from error
    return value


def _stored(complete: Complete) -> Complete:
    """A model that is no endpoint of the runtime: its replies are kept in the run's call store all the same, so that a
    resumed run asks for none of them again."""
    identity: list[str] = []

    async def ask(messages: Messages, /) -> Reply:
        store = current_scope().store
        if store is None:
            reply = await complete(messages)
            return Reply(reply) if isinstance(reply, str) else reply
        if not identity:
            identity.append(fingerprint_program(complete).hash)
        key = content_key("reflection", {"model": identity[0], "messages": messages})
        known = await store.get(key)
        if known is not None:
            count_reply("reflection", known)
            return Reply(**known.result, usage=known.usage if known.owed else Usage())
        answer = await complete(messages)
        reply = Reply(answer) if isinstance(answer, str) else answer
        _book(reply.usage)
        kept = {"text": reply.text, "finish_reason": reply.finish_reason}
        await store.put(StoredCall(key, "reflection", kept, reply.usage, component="reflection"))
        return reply

    return ask


def _book(usage: Usage) -> None:
    """Count what a model of the user's own says that it used; what goes through the runtime is counted there."""
    scope = current_scope()
    if usage == Usage():
        return
    if scope.budget is not None:
        scope.budget.charge(usage)
    if scope.ledger is not None:
        scope.ledger.record("reflection", usage)


def _through_runtime(model: str) -> Complete:
    async def complete(messages: Sequence[Mapping[str, Any]], /) -> Reply:
        response = await current_runtime().complete(model, LLMRequest(list(messages)))
        return Reply(response.content, response.finish_reason, response.spent)

    return complete
