"""Numbers of one's own for every call: functions of a :class:`CallContext`, as in hyperfunc 0.3.

Knows nothing of tracers. A function that fails costs its number, never the call.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperfunc.tape import Call

__all__ = ["CallContext", "CallMetric", "CallMetrics"]

_log = logging.getLogger("hyperfunc.observability")


@dataclass
class CallContext:
    """One finished call, with everything that a number could be made from.

    Attributes:
        hf: the hyperfunction; ``None`` where the system does not know it.
        bound_args: arguments by name, as the caller passed them.
        result: what it returned; ``None`` if it failed.
        elapsed_s: seconds.
        example_index: the example that was being run, where known.
        metadata: what was noted with the call (model, finish reason, …).
        span: the call's span.
    """

    hf: Any
    bound_args: dict[str, Any]
    result: Any
    error: BaseException | None
    elapsed_s: float
    example_index: int | None
    metadata: dict[str, Any]
    span: Any = None


CallMetric = Callable[[CallContext], float]


class CallMetrics:
    """Computes numbers of calls and notes them with the call, under their names.

    Args:
        functions: by name; looked up at every call, so that more may be added while a session is open.
        components: the system's components by dotted name.
    """

    def __init__(self, functions: Mapping[str, CallMetric], components: Callable[[], Mapping[str, Any]]) -> None:
        self._functions = functions
        self._components = components
        self._failed: set[str] = set()

    def note(self, call: Call, example: int | str | None, span: Any) -> None:
        """Add the numbers of a finished call to its metadata."""
        if not self._functions:
            return
        function = self._components().get(call.function)
        context = CallContext(
            hf=function,
            bound_args=_bound(function, call),
            result=call.output,
            error=call.error,
            elapsed_s=call.seconds,
            example_index=example if isinstance(example, int) else None,
            metadata=call.metadata,
            span=span,
        )
        for name, metric in list(self._functions.items()):
            try:
                call.metadata[name] = float(metric(context))
            except Exception as error:  # a number is not worth a run
                if name not in self._failed:
                    self._failed.add(name)
                    _log.warning("metric %s: %s: %s (said once)", name, type(error).__name__, error)


def _bound(function: Any, call: Call) -> dict[str, Any]:
    signature = getattr(function, "signature", None)
    if isinstance(signature, inspect.Signature):
        try:
            return dict(signature.bind_partial(*call.args, **call.kwargs).arguments)
        except TypeError:
            pass  # the call failed for just that
    return {**{str(position): value for position, value in enumerate(call.args)}, **call.kwargs}
