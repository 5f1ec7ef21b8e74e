"""What tokens cost. Configured prices win; else litellm's table is read as a file, without importing litellm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hyperfunc_llm.types import TokenUsage

__all__ = ["Price", "known_model", "listed_price"]


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars per token. ``cached_input`` defaults to the price of fresh input."""

    input: float
    output: float
    cached_input: float | None = None

    def cost(self, usage: TokenUsage) -> float:
        """US dollars of ``usage``; cached tokens at their own price."""
        cached_rate = self.input if self.cached_input is None else self.cached_input
        fresh = usage.prompt_tokens - usage.cached_tokens
        return fresh * self.input + usage.cached_tokens * cached_rate + usage.completion_tokens * self.output


@cache
def _table() -> Mapping[str, Mapping[str, Any]]:
    """litellm's price table as installed; empty without litellm. Constant per installation, hence the cache."""
    spec = find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    path = Path(spec.submodule_search_locations[0]) / "model_prices_and_context_window_backup.json"
    table: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return table


def _entry(model: str) -> Mapping[str, Any] | None:
    return _table().get(model) or _table().get(model.partition("/")[2])


def known_model(name: str) -> bool:
    """Whether ``name`` is a model rather than a misspelled alias: it names its provider, or the table lists it."""
    return "/" in name or name in _table()


@cache
def listed_price(model: str) -> Price | None:
    """The listed price of ``model``; ``None`` where there is none."""
    entry = _entry(model)
    if entry is None or entry.get("input_cost_per_token") is None:
        return None
    return Price(
        input=float(entry["input_cost_per_token"]),
        output=float(entry.get("output_cost_per_token") or 0.0),
        cached_input=entry.get("cache_read_input_token_cost"),
    )
