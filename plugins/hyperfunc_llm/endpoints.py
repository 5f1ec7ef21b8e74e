"""Endpoints: components name an alias, configuration says what it means.

One immutable value, :class:`Endpoint`, holds everything that can be said about an alias; every field may be unsaid.
Precedence: call > bound (``make_llm_completion``, ``with_options``) > context (``with Endpoints({...})``) >
environment > file > the defaults below. Knows nothing of requests.

    # hyperfunc.toml
    [llm.endpoints.fast]
    model = "openai/gpt-4o-mini"
    api_key_env = "TEAM_KEY"
    concurrency = 64

    HYPERFUNC_LLM_FAST_RPM=600       # environment: HYPERFUNC_LLM_<ALIAS>_<FIELD>
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hyperfunc.errors import ConfigurationError
from hyperfunc_llm.errors import UnknownAliasError
from hyperfunc_llm.prices import Price, known_model, listed_price
from hyperfunc_llm.secrets import SecretKey

__all__ = ["Endpoint", "Endpoints", "endpoint_stack", "resolve_endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """What is known about one alias; ``None`` means: not said here.

    Attributes:
        model: provider and model as litellm names them (``"openai/gpt-4o-mini"``).
        base_url: where the provider listens, when not at its usual address.
        api_key_env: *name* of the environment variable that holds the key.
        api_key: a key given by the program itself; shown nowhere. Prefer ``api_key_env``.
        transport: ``"litellm"`` (any provider), ``"direct"`` (OpenAI-compatible, far cheaper per call), ``"gemini"``,
            or one that a plugin registered.
        limited: ``False`` passes by concurrency, rates and slow start; cooldowns still hold (true).
        concurrency: most requests in flight.
        rpm, tpm: requests and tokens per minute.
        start_window: requests in flight at first, growing with each success (16).
        attempt_timeout_s: seconds for one attempt, from its admission (600).
        timeout_s: seconds for the whole call with its repeats, from the first admission (no limit).
        content_retries, transport_retries, rate_limit_retries: repeats after unusable replies, after failures on the
            way, and after 429s (2, 2, 20).
        max_prompts: most requests sent for one call, whatever the reasons.
        backoff_s: first wait after a transport failure; doubled each time, at most 60, times 0.5 to 1 (1).
        fail_fast_s: after a dead key or empty account, refuse calls without asking for so long (60).
        input_usd, output_usd, cached_input_usd: price per *million* tokens (default: the listed price).
        max_output_tokens: the model's output limit, for ``LMParam.max_tokens_frac`` and estimates (4096).
        params: request parameters for every call.
        headers: extra request headers; for secrets use the key.
    """

    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    api_key: SecretKey | None = field(default=None, repr=False)
    transport: str | None = None
    limited: bool | None = None
    concurrency: int | None = None
    rpm: float | None = None
    tpm: float | None = None
    start_window: int | None = None
    attempt_timeout_s: float | None = None
    timeout_s: float | None = None
    content_retries: int | None = None
    transport_retries: int | None = None
    rate_limit_retries: int | None = None
    max_prompts: int | None = None
    backoff_s: float | None = None
    fail_fast_s: float | None = None
    input_usd: float | None = None
    output_usd: float | None = None
    cached_input_usd: float | None = None
    max_output_tokens: int | None = None
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        for name in ("concurrency", "start_window", "max_prompts", "max_output_tokens"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigurationError(f"{name}: expected a whole number >= 1, got {value!r}")
        for name in ("rpm", "tpm", "attempt_timeout_s", "timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name}: expected a number > 0, got {value!r}")
        for name in ("content_retries", "transport_retries", "rate_limit_retries", "backoff_s", "fail_fast_s"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigurationError(f"{name}: expected a number >= 0, got {value!r}")

    @classmethod
    def connection(cls, *, api_key: str | None, base_url: str | None, limited: bool | None = None) -> Endpoint:
        """The settings of one call's connection."""
        return cls(api_key=None if api_key is None else SecretKey(api_key), base_url=base_url, limited=limited)

    def over(self, other: Endpoint) -> Endpoint:
        """This one's fields where said, else ``other``'s; ``params`` and ``headers`` are merged by key."""
        values: dict[str, Any] = {}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            if f.name in ("params", "headers") and mine is not None and theirs is not None:
                values[f.name] = {**theirs, **mine}
            else:
                values[f.name] = theirs if mine is None else mine
        if self.api_key is not None or self.api_key_env is not None:
            # A key named at a higher level replaces one of the other form below it.
            values["api_key"], values["api_key_env"] = self.api_key, self.api_key_env
        return Endpoint(**values)

    @property
    def provider(self) -> str:
        """The model's provider; OpenAI where none is named."""
        return (self.model or "").partition("/")[0] if "/" in (self.model or "") else "openai"

    @property
    def price(self) -> Price | None:
        """The configured price, else the listed one, else ``None``."""
        if self.input_usd is not None or self.output_usd is not None:
            cached = None if self.cached_input_usd is None else self.cached_input_usd / 1e6
            return Price((self.input_usd or 0.0) / 1e6, (self.output_usd or 0.0) / 1e6, cached)
        return listed_price(self.model or "")


_DEFAULT = Endpoint(
    transport="litellm",
    start_window=16,
    attempt_timeout_s=600.0,
    content_retries=2,
    transport_retries=2,
    rate_limit_retries=20,
    backoff_s=1.0,
    fail_fast_s=60.0,
    max_output_tokens=4096,
)

_stack: ContextVar[tuple[Endpoints, ...]] = ContextVar("hyperfunc_llm_endpoints", default=())
_tokens: ContextVar[tuple[Token[tuple[Endpoints, ...]], ...]] = ContextVar("hyperfunc_llm_endpoint_tokens", default=())


def endpoint_stack() -> tuple[Endpoints, ...]:
    """The ``with Endpoints(...)`` blocks around the caller, innermost last; the same object while nothing changes."""
    return _stack.get()


class Endpoints(Mapping[str, Endpoint]):
    """Aliases and what they mean; as a context manager, for the block.

    Args:
        endpoints: alias -> :class:`Endpoint`, or a mapping of its fields.

    Raises:
        ConfigurationError: a field that does not exist, or a value out of range.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint | Mapping[str, Any]] | None = None) -> None:
        self._endpoints = {alias: _endpoint(alias, value) for alias, value in (endpoints or {}).items()}

    @classmethod
    def load(cls, path: str | Path | None = None, env: Mapping[str, str] | None = None) -> Endpoints:
        """Endpoints from a TOML file (table ``llm.endpoints``), with environment variables laid over them.

        Args:
            path: the file; by default the one that ``HYPERFUNC_LLM_CONFIG`` names, else ``hyperfunc.toml`` in the
                working directory if it exists.
            env: the environment (default: the process's).

        Raises:
            ConfigurationError: the file is missing or malformed, or holds a key instead of a variable's name.
        """
        env = os.environ if env is None else env
        named = path if path is not None else env.get("HYPERFUNC_LLM_CONFIG")
        file = Path(named) if named is not None else Path("hyperfunc.toml")
        table: dict[str, dict[str, Any]] = {}
        if named is not None or file.exists():
            table = _read_table(file)
        aliases = {alias.upper().replace("-", "_"): alias for alias in table}
        for name, text in env.items():
            if not name.startswith("HYPERFUNC_LLM_") or name == "HYPERFUNC_LLM_CONFIG":
                continue
            upper, attribute = _split_variable(name)
            alias = aliases.setdefault(upper, upper.lower())
            table.setdefault(alias, {})[attribute] = _from_text(attribute, text)
        return cls(table)

    def __getitem__(self, alias: str) -> Endpoint:
        return self._endpoints[alias]

    def __iter__(self) -> Iterator[str]:
        return iter(self._endpoints)

    def __len__(self) -> int:
        return len(self._endpoints)

    def __repr__(self) -> str:
        return f"Endpoints({', '.join(self._endpoints)})"

    def __enter__(self) -> Endpoints:
        _tokens.set((*_tokens.get(), _stack.set((*_stack.get(), self))))
        return self

    def __exit__(self, *exception: object) -> None:
        *rest, token = _tokens.get()
        _stack.reset(token)
        _tokens.set(tuple(rest))


def resolve_endpoint(
    alias: str, defaults: Endpoints, call: Endpoint | None = None, bound: Endpoint | None = None
) -> Endpoint:
    """Everything known about ``alias``: call > bound > context > ``defaults`` (environment, file) > built in.

    A name that is no alias but a model (``"openai/gpt-4o"``, ``"gpt-4o"``) stands for itself.

    Raises:
        UnknownAliasError: neither.
    """
    levels = [call, bound, *(level.get(alias) for level in reversed(_stack.get())), defaults.get(alias)]
    found = Endpoint()
    for level in levels:
        if level is not None:
            found = found.over(level)
    if found.model is None:
        if not known_model(alias):
            known = sorted({a for level in (*_stack.get(), defaults) for a in level})
            close = get_close_matches(alias, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            settable = alias.replace("_", "a").isalnum() and alias.isascii()  # a shell sets no other names
            variable = f"set HYPERFUNC_LLM_{alias.upper()}_MODEL, " if settable else ""
            raise UnknownAliasError(
                f"no endpoint is configured for {alias!r}{hint}; known aliases: {', '.join(known) or 'none'}. Add "
                f"[llm.endpoints.{alias}] with model= to hyperfunc.toml, {variable}or name a model as provider/model"
            )
        found = Endpoint(model=alias).over(found)
    return found.over(_DEFAULT)


_FIELDS = {f.name: f for f in fields(Endpoint)}


def _endpoint(alias: str, value: Endpoint | Mapping[str, Any]) -> Endpoint:
    if isinstance(value, Endpoint):
        return value
    unknown = sorted(set(value) - set(_FIELDS))
    if unknown:
        raise ConfigurationError(
            f"endpoint {alias!r}: unknown field {unknown[0]!r}; known: {', '.join(sorted(_FIELDS))}"
        )
    return Endpoint(**value)


def _read_table(file: Path) -> dict[str, dict[str, Any]]:
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"the endpoint configuration {file} does not exist") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file}: {error}") from error
    table = data.get("llm", {}).get("endpoints", {})
    for alias, values in table.items():
        if "api_key" in values:
            raise ConfigurationError(
                f"{file}: endpoint {alias!r} holds an API key; put the key into an environment variable and its name "
                "into api_key_env"
            )
    return {alias: dict(values) for alias, values in table.items()}


def _split_variable(name: str) -> tuple[str, str]:
    rest = name.removeprefix("HYPERFUNC_LLM_")
    for attribute in sorted(_FIELDS, key=len, reverse=True):
        suffix = "_" + attribute.upper()
        if rest.endswith(suffix) and attribute != "api_key":
            return rest.removesuffix(suffix), attribute
    raise ConfigurationError(
        f"the environment variable {name} is not understood; expected HYPERFUNC_LLM_<ALIAS>_<FIELD> with a field of "
        f"{', '.join(sorted(set(_FIELDS) - {'api_key'}))}"
    )


def _from_text(attribute: str, text: str) -> Any:
    kind = str(_FIELDS[attribute].type)
    try:
        if kind.startswith("int"):
            return int(text)
        if kind.startswith("float"):
            return float(text)
        return json.loads(text) if kind.startswith("Mapping") else text
    except ValueError as error:
        raise ConfigurationError(f"environment: {attribute}={text!r} is no {kind.partition(' ')[0]}") from error
