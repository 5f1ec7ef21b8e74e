"""Runs in MLflow."""

from __future__ import annotations

from hyperfunc_mlflow.tracker import MLflowTracker

__all__ = ["MLflowTracker"]
