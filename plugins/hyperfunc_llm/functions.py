"""Hyperfunctions that call models: their limits are the runtime's, not core's.

Core would start a timeout when the call is made, and would repeat on top of the runtime's repeats. Here ``retries=``
and ``timeout_s=`` (of the decorator, of ``with_options``, of ``with Settings(...)``) become budgets of the model calls
made inside: repeats are counted once, and clocks start at admission.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from hyperfunc.binding import active_frame
from hyperfunc.callee import CallPolicy
from hyperfunc.calling import PendingCall
from hyperfunc.function import HyperFunction
from hyperfunc.injection import injected as _injected
from hyperfunc.settings import Settings, context_settings
from hyperfunc_llm.endpoints import Endpoint, endpoint_stack
from hyperfunc_llm.runtime import current_runtime

__all__ = ["LLMFunction", "bound_endpoint", "limits", "llm_hyperfunction"]

P = ParamSpec("P")
R = TypeVar("R")

_bound: ContextVar[Endpoint | None] = ContextVar("hyperfunc_llm_bound", default=None)


def bound_endpoint() -> Endpoint | None:
    """What the hyperfunctions around the caller say about endpoints, the innermost winning; then the settings."""
    frame = active_frame.get()
    settings = context_settings() if frame is None else frame.binding.defaults.resolved()
    said, outer = _said(settings), _bound.get()
    if outer is None:
        return said
    return outer if said is None else outer.over(said)


def limits(*, retries: int | None = None, timeout_s: float | None = None) -> Endpoint | None:
    """``retries`` (for unusable replies and for transport failures, each) and ``timeout_s`` (per attempt) as limits of
    model calls; ``None`` when neither is said."""
    if retries is None and timeout_s is None:
        return None
    return Endpoint(content_retries=retries, transport_retries=retries, attempt_timeout_s=timeout_s)


def _said(settings: Settings) -> Endpoint | None:
    return limits(retries=settings.retries, timeout_s=settings.timeout_s)


class LLMFunction(HyperFunction[P, R]):
    """A hyperfunction whose body calls models. Made by :func:`llm_hyperfunction`.

    Attributes:
        bound: its own settings of the calls made inside.
        aliases: endpoints that it is known to use; ``current_runtime().check(*aliases)`` fails early.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        retries: int | None = None,
        timeout_s: float | None = None,
        max_calls: int | None = None,
        endpoint: Endpoint | None = None,
        aliases: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        CallPolicy(retries, timeout_s)  # core's checks of the values
        super().__init__(fn, max_calls=max_calls, **{"io": True, **options})
        self.aliases = aliases
        said = limits(retries=retries, timeout_s=timeout_s)
        self.bound = said.over(endpoint) if said is not None and endpoint is not None else said or endpoint
        self.policy = CallPolicy(max_calls=max_calls, delegated=True)
        self._unbound: HyperFunction[P, R] | None = None
        hp = self.signature.parameters.get("hp")
        self._needs_hp = hp is not None and hp.default is _injected

    def check_ready(self) -> None:
        """Raise now if an alias that this component uses is bound to no endpoint, or its key is not there."""
        current_runtime().check(*self.aliases)

    def reply_context(self) -> Hashable:
        """The endpoints in force: the same alias may mean another model."""
        return tuple(map(id, endpoint_stack()))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> PendingCall[R]:
        if self.tensor_specs and active_frame.get() is None and not self._needs_hp:
            return self._without_parameters()(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def _without_parameters(self) -> HyperFunction[P, R]:
        """Outside every run: the same call with the provider's own sampling settings. Not for a function that says, by
        the default ``hp=injected``, that it needs them."""
        if self._unbound is None:
            self._unbound = LLMFunction(self.fn, name=self.name, endpoint=self.bound, max_calls=self.policy.max_calls)
        return self._unbound

    def body(self, args: tuple[Any, ...], kwargs: dict[str, Any], injected: Mapping[str, Any]) -> Any:
        if self.bound is None:
            return super().body(args, kwargs, injected)
        return self._body_under_limits(args, kwargs, injected, self.bound)

    async def _body_under_limits(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], injected: Mapping[str, Any], bound: Endpoint
    ) -> Any:
        outer = _bound.get()
        token = _bound.set(bound if outer is None else bound.over(outer))
        try:
            return await super().body(args, kwargs, injected)
        finally:
            _bound.reset(token)

    def with_options(
        self, *, retries: int | None = None, timeout_s: float | None = None, max_calls: int | None = None
    ) -> HyperFunction[P, R]:
        CallPolicy(retries, timeout_s)
        twin = super().with_options(max_calls=max_calls)
        assert isinstance(twin, LLMFunction)
        said = limits(retries=retries, timeout_s=timeout_s)
        if said is not None:
            twin.bound = said if self.bound is None else said.over(self.bound)
        twin._unbound = None
        return twin


def llm_hyperfunction(**options: Any) -> Callable[[Callable[P, Any]], LLMFunction[P, Any]]:
    """``@hyperfunction`` for async functions that call models: takes the same arguments, and ``endpoint=`` for further
    settings of the calls made inside."""

    def decorate(fn: Callable[P, Any]) -> LLMFunction[P, Any]:
        return LLMFunction(fn, **options)

    return decorate
