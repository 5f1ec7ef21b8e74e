"""Writes the curves of a run as TensorBoard event files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hyperfunc.errors import MissingDependencyError

__all__ = ["TensorBoardTracker"]


class TensorBoardTracker:
    """One folder of event files per run.

    Args:
        log_dir: the folder that ``tensorboard --logdir`` is pointed at.
    """

    def __init__(self, log_dir: str | Path = "runs") -> None:
        self._log_dir = Path(log_dir)
        self._writer: Any = None

    def start(self, run: str, configuration: Mapping[str, Any] | None = None) -> None:
        """Begin a run.

        Raises:
            MissingDependencyError: tensorboard is not installed.
        """
        try:
            module = import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise MissingDependencyError("tensorboard", "tensorboard") from error
        self._writer = module.SummaryWriter(str(self._log_dir / run))
        if configuration:
            text = json.dumps(dict(configuration), indent=2, sort_keys=True, default=str)
            self._writer.add_text("configuration", f"```json\n{text}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; what is not a finite number is left out."""
        for name, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def finish(self, result: Mapping[str, Any] | None = None) -> None:
        """End the run and write everything."""
        if self._writer is None:
            return
        if result:
            self._writer.add_text("result", json.dumps(dict(result), sort_keys=True, default=str))
        self._writer.close()
        self._writer = None
