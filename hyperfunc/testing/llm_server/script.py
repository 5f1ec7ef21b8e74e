"""What the loopback server is told to do: rules, faults, limits. Knows nothing of HTTP or of reply formats.

Everything is deterministic: a rule fires by counting the requests that match it, or by a hash of (seed, request text,
how often this text was seen), never by chance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hyperfunc.errors import ConfigurationError

__all__ = ["FAULTS", "Request", "Rule", "Script"]

FAULTS = ("bad_content", "bad_json", "content_type", "disconnect", "empty", "hang", "status", "truncate")
"""``status`` answers with ``Rule.status``; ``hang`` waits ``hang_s`` (the client should have gone); ``truncate``
ends the body early; ``bad_json`` sends a body that is no JSON; ``content_type`` an HTML page; ``disconnect`` closes the
connection without an answer; ``bad_content`` and ``empty`` are well-formed, *billed* replies whose text is useless."""


@dataclass(frozen=True, slots=True)
class Request:
    """What rules can look at.

    Attributes:
        path: the path without query.
        model: model name, if any.
        text: text of the last message.
        role: role of the last message (``user``, ``tool``, …).
        seen: how many requests with the same text came before this one.
    """

    path: str
    model: str
    text: str
    role: str
    seen: int


@dataclass(frozen=True, slots=True)
class Rule:
    """When a request matches, shape its reply. The first rule that fires wins.

    Attributes:
        contains, path, model, role: a request matches when all that are given fit (``contains``: part of the last
            message; ``path``: start of the path; the others exactly).
        seen: fires only on the request with this many earlier ones of the same text.
        after: the first ``after`` matching requests pass.
        times: fires at most this often.
        every: fires on each n-th matching request only.
        fraction: fires on this share of matching requests, chosen by hash.
        fault: one of :data:`FAULTS`; ``None`` replies normally with the fields below.
        status: for ``fault="status"``.
        retry_after: value of the Retry-After header, as it is sent (``"1"``, or an HTTP date); ``"date:2"`` becomes the
            date two seconds from now.
        body: error message for ``status``; ``None`` writes a plausible one.
        hang_s: how long ``hang`` waits before it replies after all.
        latency_s: replaces the script's latency.
        content, reasoning, tool_calls, finish_reason, logprobs, usage, safety: parts of the reply. ``tool_calls`` are
            ``{"name", "arguments"}``; ``usage`` has ``prompt``, ``completion``, ``cached``, ``reasoning``; ``safety``
            maps category to probability (generateContent only).
        headers: extra response headers.
    """

    contains: str | None = None
    path: str | None = None
    model: str | None = None
    role: str | None = None
    seen: int | None = None
    after: int = 0
    times: int | None = None
    every: int | None = None
    fraction: float | None = None
    fault: str | None = None
    status: int = 500
    retry_after: str | None = None
    body: str | None = None
    hang_s: float = 3600.0
    latency_s: float | None = None
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish_reason: str | None = None
    logprobs: bool = False
    usage: Mapping[str, int] | None = None
    safety: Mapping[str, str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fault is not None and self.fault not in FAULTS:
            raise ConfigurationError(f"fault: expected one of {', '.join(FAULTS)}, got {self.fault!r}")

    def matches(self, request: Request) -> bool:
        return (
            (self.contains is None or self.contains in request.text)
            and (self.path is None or request.path.startswith(self.path))
            and (self.model is None or self.model == request.model)
            and (self.role is None or self.role == request.role)
            and (self.seen is None or self.seen == request.seen)
        )


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that the server is told.

    Attributes:
        rules: tried in order.
        latency_s: seconds before a reply is sent.
        latency_sigma: spread of a log-normal factor on the latency (median 1); 0 is constant.
        seed: for everything that is chosen by hash.
        limit: requests allowed in any window of ``limit_window_s``; more get 429 with ``limit_retry_after``.
        limit_retry_after: the header's value; ``"exact"`` says when the window has room again; ``None`` sends none.
        limit_headers: send ``x-ratelimit-*-requests`` headers with each reply.
        api_key: other keys get 401.
        stream_delay_s: seconds between streamed chunks.
        cache_ttl_s: life of a ``cachedContents`` entry for which none is asked.
    """

    rules: tuple[Rule, ...] = ()
    latency_s: float = 0.0
    latency_sigma: float = 0.0
    seed: int = 0
    limit: int | None = None
    limit_window_s: float = 1.0
    limit_retry_after: str | None = "exact"
    limit_headers: bool = False
    api_key: str | None = None
    stream_delay_s: float = 0.0
    cache_ttl_s: float = 3600.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Script:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigurationError: a field that does not exist.
        """
        _check_fields(cls, data)
        rules = []
        for rule in data.get("rules", ()):
            _check_fields(Rule, rule)
            rules.append(Rule(**{**rule, "tool_calls": tuple(rule.get("tool_calls", ()))}))
        return cls(**{**data, "rules": tuple(rules)})


def _check_fields(cls: type, data: Mapping[str, Any]) -> None:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ConfigurationError(f"{cls.__name__}: unknown field {unknown[0]!r}; known: {', '.join(sorted(known))}")


class Chooser:
    """Decides which rule fires; holds the counts that rules refer to."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self._matched = [0] * len(script.rules)
        self._fired = [0] * len(script.rules)

    def choose(self, request: Request) -> Rule | None:
        for index, rule in enumerate(self.script.rules):
            if not rule.matches(request):
                continue
            position = self._matched[index]
            self._matched[index] += 1
            if position < rule.after or (rule.times is not None and self._fired[index] >= rule.times):
                continue
            if rule.every is not None and (position - rule.after) % rule.every != rule.every - 1:
                continue
            if rule.fraction is not None and self.uniform(request, f"rule {index}") >= rule.fraction:
                continue
            self._fired[index] += 1
            return rule
        return None

    def uniform(self, request: Request, purpose: str) -> float:
        """A number in [0, 1) that depends on the request's text and how often it came, not on the order of requests."""
        text = f"{self.script.seed}\0{purpose}\0{request.seen}\0{request.text}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64
