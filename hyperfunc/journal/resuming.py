"""What changed between the beginning of a run and its resumption, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hyperfunc.journal.fingerprint import Fingerprint

__all__ = ["explain_changes"]


def explain_changes(
    *,
    config_then: Mapping[str, Any],
    config_now: Mapping[str, Any],
    program_then: Fingerprint,
    program_now: Fingerprint,
    data_then: Fingerprint,
    data_now: Fingerprint,
) -> list[str]:
    """One line or block per difference; empty if there is none."""
    changes: list[str] = []
    for key in sorted({*config_then, *config_now}):
        changes += [f"configuration {key!r}: {line}" for line in _differences(config_then, config_now, key)]
    changes += [f"program: {line}" for line in program_then.diff(program_now)]
    changes += [f"data: {line}" for line in data_then.diff(data_now)]
    return changes


def _differences(config_then: Mapping[str, Any], config_now: Mapping[str, Any], key: str) -> list[str]:
    then, now = config_then.get(key), config_now.get(key)
    if isinstance(then, Mapping) and isinstance(now, Mapping):  # what an optimizer or a metric is made of
        return Fingerprint.from_texts(then).diff(Fingerprint.from_texts(now))
    was, is_now = (json.dumps(c[key], sort_keys=True) if key in c else "not set" for c in (config_then, config_now))
    return [] if was == is_now else [f"was {was}, is {is_now}"]
