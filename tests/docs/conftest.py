"""Lets the tests of the documentation import what they share, which is beside them and in no package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
