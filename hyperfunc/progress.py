"""The progress bar of an optimization: quiet when not on a terminal. Knows only the numbers that it shows."""

from __future__ import annotations

import math
import sys
from types import TracebackType
from typing import TYPE_CHECKING

from hyperfunc.history import Generation

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressBar"]


class ProgressBar:
    """Generation, best / mean / selection fitness, runs per second and time left.

    Args:
        total: generations expected.
        enabled: ``None`` shows it only where standard error is a terminal.
    """

    def __init__(self, total: int, enabled: bool | None = None) -> None:
        show = sys.stderr.isatty() if enabled is None else enabled
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._total = total
        if show:  # imported only where something is shown: rich takes as long to import as all of core
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("[bold]optimize"),
                BarColumn(bar_width=24),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TextColumn("{task.fields[numbers]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True),
            )

    def __enter__(self) -> ProgressBar:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task("optimize", total=self._total, numbers="")
        return self

    def update(self, generation: Generation) -> None:
        """Show ``generation``."""
        if self._progress is None or self._task is None:
            return
        rate = generation.evaluations / generation.seconds if generation.seconds > 0 else 0.0
        center = "" if math.isnan(generation.center) else f"  selection {generation.center:.4g}"
        numbers = f"best {generation.best:.4g}  mean {generation.mean:.4g}{center}  {_short(rate)} runs/s"
        self._progress.update(self._task, completed=generation.index + 1, numbers=numbers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _short(number: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"
