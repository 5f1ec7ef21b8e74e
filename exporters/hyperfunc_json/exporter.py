"""Writes observations to a file that grows while the run goes on, and is well-formed after every batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from hyperfunc.observability import ObservationRecord, TraceSummary

__all__ = ["JSONExporter"]

_HEAD = b'{"observations": ['


class JSONExporter:
    """One JSON document ``{"observations": […], "summary": …}``, or one record per line.

    Args:
        path: the file; its folder is made. What an earlier exporter wrote there is replaced.
        jsonl: one record per line, the summary last as ``{"summary": …}``.
        include_summary: write the summary where one is given.
    """

    is_local = True

    def __init__(self, path: str | Path, jsonl: bool = False, include_summary: bool = True) -> None:
        self._path = Path(path)
        self._jsonl = jsonl
        self._include_summary = include_summary
        self._end = 0  # where the next record goes; what follows it is the closing part
        self._records = 0

    def export(self, observations: Sequence[ObservationRecord], summary: TraceSummary | None = None) -> None:
        """Add a batch to the file; OSError where it cannot be written."""
        lines = [json.dumps(record.to_dict(), default=str) for record in observations]
        last = json.dumps(summary.to_dict()) if summary is not None and self._include_summary else None
        if self._end == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_bytes(b"" if self._jsonl else _HEAD)
            self._end = 0 if self._jsonl else len(_HEAD)
        with open(self._path, "r+b") as file:
            file.seek(self._end)
            if self._jsonl:
                text = "".join(f"{line}\n" for line in lines)
                closing = "" if last is None else f'{{"summary": {last}}}\n'
            else:
                text = "".join(("," if self._records + i else "") + f"\n{line}" for i, line in enumerate(lines))
                closing = "\n]" + ("" if last is None else f', "summary": {last}') + "}\n"
            file.write(text.encode())
            self._end = file.tell()
            file.write(closing.encode())
            file.truncate()
        self._records += len(lines)

    def shutdown(self) -> None:
        """The file is complete after every batch; there is nothing left to do."""
