"""What a snapshot holds, from its file's header alone: no tensor is loaded, so a reader needs no torch.

Knows nothing of runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hyperfunc.errors import JournalError

__all__ = ["describe_snapshot", "snapshot_path", "unreadable"]


def snapshot_path(folder: Path, key: str) -> Path:
    """Where the snapshot ``key`` is in a folder of snapshots, or would be."""
    return folder / key[:2] / f"{key}.safetensors"


def describe_snapshot(path: Path) -> dict[str, Any]:
    """Names of the parameters in a snapshot of θ: the shape of each tensor, the text of each text.

    Raises:
        JournalError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in sorted(file.keys())}
            texts = json.loads((file.metadata() or {})["hyperfunc"])["texts"]
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        raise unreadable(path, error) from error
    return {**shapes, **texts}


def unreadable(path: Path, error: Exception) -> JournalError:
    """What to tell a reader whose snapshot ``path`` could not be read because of ``error``."""
    if isinstance(error, FileNotFoundError):
        files = path.parents[2]  # journal.files/snapshots/ab/abc….safetensors
        return JournalError(
            f"the snapshot {path.name} is missing from {files}, which belongs to the journal as much as its file does; "
            "copy or restore both together"
        )
    return JournalError(f"the snapshot {path} is damaged: {error}; restore a backup of it")
