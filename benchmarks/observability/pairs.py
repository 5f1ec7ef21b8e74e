"""Ratios of runs that were made close to each other, so that a machine whose speed drifts treats both alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["excess"]

_RESAMPLES = 10_000


def excess(pairs: Sequence[tuple[float, float]]) -> str:
    """The median of ``watched / plain - 1`` over pairs (plain, watched), with its 95 % bootstrap interval."""
    ratios = np.array([watched / plain - 1 for plain, watched in pairs])
    draws = np.random.default_rng(0).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), (0.025, 0.975))
    return f"{np.median(ratios):+.2%} ({low:+.2%} to {high:+.2%})"
