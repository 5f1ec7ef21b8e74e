"""What a call needs of its hyperfunction, and the limits of its calls. Knows nothing of how calls are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hyperfunc.errors import ConfigurationError
from hyperfunc.parameters.protocol import TensorSpec
from hyperfunc.parameters.text import TextParam

__all__ = ["CallPolicy", "Callee"]


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """Limits of one component's calls; ``None``: not said here, the settings decide (``max_calls``: no limit).

    ``delegated``: the function keeps retries and timeouts itself, those of the settings too; here a call is one attempt
    without a clock. For functions whose repeats are counted, and whose clocks start, elsewhere (a model's runtime).
    """

    retries: int | None = None
    timeout_s: float | None = None
    max_calls: int | None = None
    delegated: bool = False

    def __post_init__(self) -> None:
        for name, least in (("retries", 0), ("max_calls", 1)):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < least):
                raise ConfigurationError(f"{name}: expected a whole number >= {least}, got {count!r}")
        seconds = self.timeout_s
        if seconds is not None and (
            not isinstance(seconds, (int, float)) or isinstance(seconds, bool) or not seconds > 0
        ):
            raise ConfigurationError(f"timeout_s: expected seconds > 0, got {seconds!r}")
        if self.delegated and (self.retries is not None or self.timeout_s is not None):
            raise ConfigurationError(
                "a delegated policy leaves retries and timeout_s to the function; say neither here"
            )

    @property
    def limits_calls(self) -> bool:
        return bool(self.retries) or self.timeout_s is not None or self.max_calls is not None

    def replaced(self, **changes: Any) -> CallPolicy:
        return replace(self, **{k: v for k, v in changes.items() if v is not None})


class Callee(Protocol):
    """What a call needs of its hyperfunction."""

    name: str
    policy: CallPolicy
    is_module: bool
    is_async: bool
    batched: bool
    local_gpu: bool
    hp_type: type[Any] | None
    tensor_specs: tuple[TensorSpec, ...]
    texts: dict[str, TextParam]
    accepted_injections: frozenset[str]
    injected_position: int

    def body(self, args: tuple[Any, ...], kwargs: dict[str, Any], injected: Mapping[str, Any]) -> Any: ...
