"""Logs a run to Weights & Biases; offline unless asked otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from hyperfunc.errors import MissingDependencyError

__all__ = ["WandbTracker"]


class WandbTracker:
    """One W&B run per optimization.

    Args:
        project: its project.
        mode: ``"offline"`` writes files for a later ``wandb sync``; ``"online"`` needs a login.
        directory: where the files go.
    """

    def __init__(
        self,
        project: str = "hyperfunc",
        mode: Literal["offline", "online", "disabled"] = "offline",
        directory: str | Path = ".",
    ) -> None:
        self._project = project
        self._mode = mode
        self._directory = Path(directory)
        self._run: Any = None

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        """Begin a run.

        Raises:
            MissingDependencyError: wandb is not installed.
        """
        try:
            wandb = import_module("wandb")
        except ImportError as error:
            raise MissingDependencyError("wandb", "wandb") from error
        self._directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self._project,
            name=run,
            config=dict(configuration or {}),
            mode=self._mode,
            dir=str(self._directory),
            reinit="create_new",  # another run of this process is none of our business
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; what is not a finite number is left out."""
        finite = {k: v for k, v in values.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        self._run.log(finite, step=step)

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """End the run; the result becomes its summary."""
        if self._run is None:
            return
        for name, value in (result or {}).items():
            self._run.summary[name] = value
        self._run.finish()
        self._run = None
