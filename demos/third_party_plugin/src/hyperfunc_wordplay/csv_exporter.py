"""The exporter ``csv``: one line per observation, for a spreadsheet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from hyperfunc.observability import ObservationRecord, TraceSummary

__all__ = ["CSVExporter"]

_COLUMNS = ("timestamp", "kind", "fn_name", "elapsed_s", "success", "error_type", "error_message", "cost_usd")


class CSVExporter:
    """Appends to a CSV file; the first line names the columns.

    Args:
        path: the file; its folder is made, and what was there is replaced with the first batch.
    """

    def __init__(self, path: str | Path = "observations.csv") -> None:
        self._path = Path(path)
        self._started = False

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Write a batch; OSError where the file cannot be written. A summary has no place in a table."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a" if self._started else "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if not self._started:
                writer.writerow(_COLUMNS)
                self._started = True
            writer.writerows([getattr(record, column) for column in _COLUMNS] for record in observations)

    def shutdown(self) -> None:
        """Every batch is on disk already."""
