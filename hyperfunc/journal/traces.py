"""A tape as JSON: what an execution called, short enough to keep and to show. Knows nothing of SQLite.

Arguments and outputs are kept as previews only: replays answer from paid calls, not from traces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyperfunc.journal.records import TracedCall
from hyperfunc.observability.preview import PREVIEW_CHARACTERS, preview
from hyperfunc.tape import Tape

__all__ = ["trace_calls", "trace_edges"]


def trace_calls(tape: Tape, *, content: bool = True) -> tuple[TracedCall, ...]:
    """The calls of ``tape`` as records; ``content=False`` leaves inputs and outputs out."""
    if not tape.calls:
        return ()
    begin = min(call.start for call in tape)
    return tuple(
        TracedCall(
            id=call.id,
            function=call.function,
            parent=call.parent,
            start=call.start - begin,
            seconds=call.seconds,
            inputs=_arguments(call.args, call.kwargs) if content else "",
            output=preview(call.output) if content and call.error is None else "",
            error=None if call.error is None else f"{type(call.error).__name__}: {call.error}"[:PREVIEW_CHARACTERS],
            attempts=call.attempts,
            usage=call.usage,
            metadata={name: _plain(value) for name, value in call.metadata.items()},
        )
        for call in tape
    )


def trace_edges(tape: Tape) -> tuple[tuple[int, int, str], ...]:
    """The dataflow between the calls of ``tape``."""
    return tuple((edge.source, edge.target, edge.kind) for edge in tape.edges())


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [preview(value) for value in args] + [f"{name}={preview(value)}" for name, value in kwargs.items()]
    return preview(", ".join(parts))


def _plain(value: Any) -> Any:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return preview(value)
    return value
