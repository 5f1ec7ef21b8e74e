"""Runs in TensorBoard."""

from __future__ import annotations

from hyperfunc_tensorboard.tracker import TensorBoardTracker

__all__ = ["TensorBoardTracker"]
