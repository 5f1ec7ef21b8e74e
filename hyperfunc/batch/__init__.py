"""Many inputs through one async function: bounded, resumable, failures as values. Knows nothing of models."""

from __future__ import annotations

from hyperfunc.batch.artifacts import Artifacts, ReplayedError
from hyperfunc.batch.concurrency import MeasuredConcurrency
from hyperfunc.batch.engine import Batch, batch
from hyperfunc.batch.results import BatchResult, BatchStoppedError, FatalError, Termination

__all__ = [
    "Artifacts",
    "Batch",
    "BatchResult",
    "BatchStoppedError",
    "FatalError",
    "MeasuredConcurrency",
    "ReplayedError",
    "Termination",
    "batch",
]
