"""Names of a package that are imported at first use (PEP 562), so that importing the package costs nothing.

For packages that bring a plugin: loading ``package.plugin`` also runs ``package/__init__.py``, and ``hyperfunc --help``
loads every plugin.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, modules: Mapping[str, Iterable[str]]) -> Callable[[str], Any]:
    """A module's ``__getattr__``: ``__getattr__ = lazy_names(__name__, {"package.module": ["Name", …], …})``.

    Write the same imports under ``if TYPE_CHECKING:``, for type checkers and editors.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
