"""Runs in Weights & Biases."""

from __future__ import annotations

from hyperfunc_wandb.tracker import WandbTracker

__all__ = ["WandbTracker"]
