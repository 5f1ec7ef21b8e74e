"""Writing files so that nobody ever sees half of one. Knows nothing of what is in them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader, or a crash at any moment, sees the old file or the whole new one.

    The file has the permissions that any new file gets here.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    # Not tempfile: what it makes is for its owner's eyes only, and so would the file be that it becomes.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
