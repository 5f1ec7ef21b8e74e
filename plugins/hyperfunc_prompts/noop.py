"""The prompt optimizer that leaves every text as it is: a baseline, and a way to switch learning off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["NoOpPromptOptimizer"]


class NoOpPromptOptimizer:
    """Runs nothing, asks nothing, changes nothing."""

    async def optimize(
        self,
        system: Any,
        train_data: Sequence[Any],
        metric_fn: Any = None,
        feedback_fn: Any = None,
        *,
        val_data: Sequence[Any] | None = None,
    ) -> None:
        """Does nothing."""
