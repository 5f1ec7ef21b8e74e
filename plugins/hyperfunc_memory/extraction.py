"""What of a conversation turn is worth remembering: the extractor protocol and the rules that need no model.

An extractor is any callable ``(user_message, assistant_response) -> memories``: plain, async or a hyperfunction.
Memories are a list, or its JSON text; a memory is a :class:`MemoryEntry` or a mapping with ``content`` and optionally
``type``, ``entities``, ``importance``, ``subject``. Knows nothing of stores.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from hyperfunc_memory.entries import MemoryEntry, MemoryType
from hyperfunc_memory.errors import ExtractionError

__all__ = ["Extractor", "RuleExtractor", "extract", "parsed_reply"]

Extractor = Callable[..., "str | Iterable[Any] | Awaitable[str | Iterable[Any]]"]
"""``(user_message, assistant_response) -> memories``."""

_MAX_EXTRACTED_CHARACTERS = 20_000


async def extract(extractor: Extractor, user_message: str, assistant_response: str, limit: int) -> list[MemoryEntry]:
    """At most ``limit`` memories that ``extractor`` finds in one turn.

    Raises:
        ExtractionError: what it returned is not a list of memories.
    """
    found = extractor(user_message, assistant_response)
    if inspect.isawaitable(found):
        found = await found
    if isinstance(found, str):
        found = parsed_reply(found)
    if isinstance(found, (bytes, Mapping)) or not isinstance(found, Iterable):
        raise ExtractionError(f"an extractor must return a list of memories, got {type(found).__name__}")
    return [_as_entry(item) for item in list(found)[:limit]]


def parsed_reply(reply: str) -> list[Any]:
    """The JSON array in a model's reply, with or without a Markdown fence around it.

    Raises:
        ExtractionError: the reply is not a JSON array.
    """
    text = reply.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        loaded = json.loads(fenced["body"] if fenced else text)
    except (ValueError, RecursionError) as error:
        raise ExtractionError(f"expected a JSON array of memories, got {reply!r:.200}") from error
    if not isinstance(loaded, list):
        raise ExtractionError(f"expected a JSON array of memories, got {reply!r:.200}")
    return loaded


_FENCE = re.compile(r"```(?:json)?\s*(?P<body>.*?)\s*```", re.DOTALL | re.IGNORECASE)


def _as_entry(item: object) -> MemoryEntry:
    if isinstance(item, MemoryEntry):
        return item
    if not isinstance(item, Mapping) or not isinstance(item.get("content"), str) or not item["content"].strip():
        raise ExtractionError(f"a memory must be a MemoryEntry or a mapping with a text 'content', got {item!r:.200}")
    kind = item.get("type", item.get("memory_type", "fact"))
    entities = item.get("entities", [])
    importance = item.get("importance", 0.5)
    subject = item.get("subject")
    try:
        memory_type = kind if isinstance(kind, MemoryType) else MemoryType(kind)
    except ValueError as error:
        known = ", ".join(member.value for member in MemoryType)
        raise ExtractionError(f"the type of a memory must be one of {known}; got {kind!r:.100}") from error
    if not isinstance(entities, list) or not all(isinstance(name, str) for name in entities):
        raise ExtractionError(f"the entities of a memory must be a list of names, got {entities!r:.200}")
    if isinstance(importance, bool) or not isinstance(importance, (int, float)) or not 0 <= importance <= 1:
        raise ExtractionError(f"the importance of a memory must lie between 0 and 1, got {importance!r:.100}")
    if subject is not None and not isinstance(subject, str):
        raise ExtractionError(f"the subject of a memory must be text, got {subject!r:.100}")
    return MemoryEntry(
        content=item["content"],
        memory_type=memory_type,
        entities=entities,
        importance=float(importance),
        subject=subject,
    )


class RuleExtractor:
    """Facts, preferences, events and entities by rules on the user's own statements (English).

    Only what the user states about themselves is taken; questions, conditions and quotations are not, nor anything
    that the assistant said: most of what an eager extractor keeps is noise. Attributes of which there is one at a time
    (name, home, employer, age, favourite *x*) have a subject, so that a new value supersedes the old one.
    """

    def __call__(self, user_message: str, assistant_response: str) -> list[MemoryEntry]:
        text = user_message[:_MAX_EXTRACTED_CHARACTERS].replace("’", "'")
        found: dict[str, MemoryEntry] = {}
        for sentence in _SENTENCE.split(text):
            statement = " ".join(sentence.split())
            if not statement or statement.endswith("?") or _NOT_A_STATEMENT.match(statement):
                continue
            for entry in _from_statement(statement.rstrip(".!;, ")):
                found.setdefault(entry.content.casefold(), entry)
        return sorted(found.values(), key=lambda entry: -entry.importance)


_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_NOT_A_STATEMENT = re.compile(
    r"(?:if|what if|suppose|imagine|assume|assuming|pretend|unless|when|who|whom|whose|what|where|why|how|which|do|"
    r"does|did|can|could|would|should|is|are|was|were|am)\b|[\"'“‘>]",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r",|\s(?:and|but|because|so|which|although|though|while|since)\s(?=(?:i|i'm|my|we|it|he|she|they)\b)", re.I
)
_VALUE = r"(?P<value>[^\s.!?].{0,199})"


class _Rule:
    """A pattern on one statement, and the memory that it makes."""

    def __init__(
        self, pattern: str, content: str, kind: MemoryType, importance: float, subject: str | None = None
    ) -> None:
        self.pattern = re.compile(rf"\b{pattern}", re.IGNORECASE)
        self.content = content
        self.kind = kind
        self.importance = importance
        self.subject = subject


_RULES = (
    _Rule(r"my name(?: is|'s) (?:now )?" + _VALUE, "User's name is {value}", MemoryType.FACT, 0.9, "name"),
    _Rule(r"(?:please )?call me " + _VALUE, "User's name is {value}", MemoryType.FACT, 0.9, "name"),
    _Rule(r"i(?:'m| am) allergic to " + _VALUE, "User is allergic to {value}", MemoryType.FACT, 0.95),
    _Rule(r"i (?:now |currently )?live in " + _VALUE, "User lives in {value}", MemoryType.FACT, 0.8, "home"),
    _Rule(
        r"i(?:'ve| have)? (?:just |recently )?moved to " + _VALUE, "User lives in {value}", MemoryType.FACT, 0.8, "home"
    ),
    _Rule(
        r"i (?:no longer|don't|do not) live in " + _VALUE, "User does not live in {value}", MemoryType.FACT, 0.6, "home"
    ),
    _Rule(r"i(?:'m| am) from " + _VALUE, "User is from {value}", MemoryType.FACT, 0.7, "origin"),
    _Rule(
        r"i (?:now |currently )?work (?:at|for) " + _VALUE, "User works at {value}", MemoryType.FACT, 0.8, "employer"
    ),
    _Rule(r"i (?:now |currently )?work as (?:an? )?" + _VALUE, "User works as {value}", MemoryType.FACT, 0.75, "job"),
    _Rule(r"i(?:'m| am) (?P<value>\d{1,3})(?: years old)?$", "User is {value} years old", MemoryType.FACT, 0.7, "age"),
    _Rule(
        r"my (?P<what>(?:favou?rite|preferred) [\w' -]{1,60}?) (?:is|are) (?:now )?" + _VALUE,
        "User's {what} is {value}",
        MemoryType.PREFERENCE,
        0.8,
        "{what}",
    ),
    _Rule(r"i (?:really |much |would |'d )*prefer " + _VALUE, "User prefers {value}", MemoryType.PREFERENCE, 0.75),
    _Rule(
        r"i (?:really |absolutely |just )*(?P<verb>love|like|enjoy|adore) (?!to (?:know|ask|see if)\b)" + _VALUE,
        "User likes {value}",
        MemoryType.PREFERENCE,
        0.7,
        "opinion of {value}",
    ),
    _Rule(
        r"i (?:really |absolutely |just )*(?:hate|dislike|can't stand|cannot stand|"
        r"(?:don't|do not) (?:really )?(?:like|enjoy)) " + _VALUE,
        "User dislikes {value}",
        MemoryType.PREFERENCE,
        0.7,
        "opinion of {value}",
    ),
    _Rule(
        r"i(?:'m| am) (?:a |an )?(?P<value>vegan|vegetarian|left-handed|right-handed|colou?r-?blind|diabetic)\b",
        "User is {value}",
        MemoryType.FACT,
        0.85,
    ),
    _Rule(
        r"my (?P<what>(?!favou?rite|preferred|name)[\w'-]{1,30}(?: [\w'-]{1,30}){0,2}?)"
        r"(?:'s name is| is called| is named) " + _VALUE,
        "User's {what} is called {value}",
        MemoryType.ENTITY,
        0.75,
        "name of {what}",
    ),
    _Rule(
        r"my (?P<what>birthday|wife|husband|partner|boss|doctor|phone number|email|address|time ?zone|deadline|budget|"
        r"goal|native language|blood type) (?:is|'s) " + _VALUE,
        "User's {what} is {value}",
        MemoryType.FACT,
        0.8,
        "{what}",
    ),
    _Rule(
        r"i(?:'m| am) (?:currently )?(?P<value>(?:working on|building|writing|learning|studying|planning) .{2,199})",
        "User is {value}",
        MemoryType.CONTEXT,
        0.6,
    ),
    _Rule(
        r"(?P<value>(?:yesterday|today|tomorrow|tonight|last \w+|next \w+|"
        r"on (?:mon|tues|wednes|thurs|fri|satur|sun)day),? (?:i|we) .{3,199})",
        "User said: {value}",
        MemoryType.EVENT,
        0.5,
    ),
    _Rule(
        r"(?P<value>(?:i|we) .{2,160} (?:yesterday|tomorrow|tonight|last (?:week|month|year|night)|"
        r"next (?:week|month|year)|on (?:mon|tues|wednes|thurs|fri|satur|sun)day))$",
        "User said: {value}",
        MemoryType.EVENT,
        0.5,
    ),
    _Rule(
        r"(?:please )?(?:remember|don't forget|do not forget|note)(?: that| this:|:) " + _VALUE,
        "{value}",
        MemoryType.FACT,
        0.9,
    ),
)
_ENTITY = re.compile(r"\b[A-Z][\w'&-]*(?:\s+(?:of|the|de|van|von|and)?\s*[A-Z][\w'&-]*)*")
_NOT_ENTITIES = frozenset(
    ("i", "i'm", "i've", "i'd", "i'll", "my", "user", "user's", "the", "we", "please", "mr", "mrs")
)


def _from_statement(statement: str) -> Iterable[MemoryEntry]:
    for rule in _RULES:
        match = rule.pattern.search(statement)
        if match is None:
            continue
        parts = match.groupdict()
        if rule.kind is not MemoryType.EVENT and not rule.content.startswith("{"):
            parts["value"] = _CLAUSE_END.split(parts["value"], maxsplit=1)[0]
        parts = {name: value.strip(" .,!;\"'") for name, value in parts.items() if value is not None}
        if not parts["value"]:
            continue
        content = rule.content.format(**parts)
        yield MemoryEntry(
            content=content,
            memory_type=rule.kind,
            entities=_entities(parts["value"]),
            importance=rule.importance,
            subject=None if rule.subject is None else rule.subject.format(**parts),
        )
        if rule.importance >= 0.9 and rule.content.startswith("{"):
            return  # "remember that …" was taken as it stands


def _entities(text: str) -> list[str]:
    names = (name.strip("'-& ") for name in _ENTITY.findall(text))
    return list(dict.fromkeys(name for name in names if name.casefold() not in _NOT_ENTITIES and len(name) > 1))[:16]
