"""What a run began with: versions, platform, git revision. Kept for people, never compared."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy
import torch

__all__ = ["describe_environment", "git_revision"]


def describe_environment() -> dict[str, str]:
    """Versions of Python, hyperfunc, torch and numpy, and the platform."""
    try:
        own = metadata.version("hyperfunc")
    except metadata.PackageNotFoundError:  # run from a source tree
        own = "unknown"
    return {
        "hyperfunc": own,
        "python": sys.version.split()[0],
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
    }


def git_revision(folder: Path | None = None) -> str | None:
    """The commit of ``folder`` (default: the working directory), with ``+dirty`` where tracked files differ from it;
    ``None`` outside a repository or without git."""
    where = ["git", "-C", str(folder or Path.cwd())]
    try:
        head = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False)
        if head.returncode != 0:
            return None
        changed = subprocess.run(
            [*where, "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    dirty = changed.returncode == 0 and bool(changed.stdout.strip())
    return head.stdout.strip() + ("+dirty" if dirty else "")
