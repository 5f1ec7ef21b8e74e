"""Things of one kind by name, each with its owner: what stands behind every ``hyperfunc_register_*`` hook.

Knows nothing of pluggy, of how plugins are found, or of what the things do.
"""

from __future__ import annotations

import functools
import importlib
import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from hyperfunc.errors import DuplicateNameError, HyperfuncError, PluginError

__all__ = ["BUILTIN", "Catalogue"]

BUILTIN = "builtin"
"""The owner of what core itself registers; its names cannot be taken away."""

_IMPORT_STRING = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass
class _Entry:
    owner: str
    label: str  # the owner with its package, for messages
    thing: Any
    summary: str
    rivals: dict[str, str]  # owner -> label of others that registered the same name


class Catalogue:
    """Things of one kind by name. A thing may be an import string ``"package.module:attribute"``."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, _Entry] = {}

    def add(self, name: str, thing: Any, owner: str, *, label: str = "", summary: str = "") -> None:
        """Register a thing.

        Raises:
            DuplicateNameError: the name is taken. A built-in keeps its name; of two plugins neither gets it, so that
                what a name means never depends on the order of loading.
            PluginError: the name is no text, or the thing is ``None`` or a malformed import string.
        """
        label = label or owner
        if not isinstance(name, str) or not name.strip():
            raise PluginError(f"{label} registered a {self.kind} under {name!r}; expected a non-empty string")
        if thing is None or (isinstance(thing, str) and not _IMPORT_STRING.fullmatch(thing)):
            raise PluginError(
                f"{label} registered the {self.kind} {name!r} as {thing!r}; expected an object, or an import string "
                "'package.module:attribute'"
            )
        entry = self._entries.get(name)
        if entry is not None:
            if entry.owner != BUILTIN:
                entry.rivals[owner] = label
            raise DuplicateNameError(self.kind, name, entry.label, label)
        self._entries[name] = _Entry(owner, label, thing, summary, {})

    def forget(self, owner: str) -> None:
        """Undo everything that ``owner`` registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.owner != owner}
        for entry in self._entries.values():
            entry.rivals.pop(owner, None)

    def get(self, name: str) -> Any:
        """The thing of this name; an import string is resolved now.

        Raises:
            DuplicateNameError: two plugins registered it.
            PluginError: unknown name, or the import failed.
            MissingDependencyError: importing it needs a package that is not installed.
        """
        entry = self._entries.get(name)
        if entry is None:
            close = get_close_matches(str(name), self._entries, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise PluginError(f"no {self.kind} named {name!r}; {hint}known: {', '.join(self.names()) or 'none'}")
        if entry.rivals:
            raise DuplicateNameError(self.kind, name, entry.label, next(iter(entry.rivals.values())))
        if isinstance(entry.thing, str):
            entry.thing = self._resolve(entry.thing, name, entry.label)
        return entry.thing

    def _resolve(self, target: str, name: str, label: str) -> Any:
        module, _, attribute = target.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except HyperfuncError:
            raise
        except Exception as error:
            raise PluginError(
                f"{self.kind} {name!r} of {label} cannot be imported from {target!r}: {type(error).__name__}: {error}"
            ) from error

    def names(self) -> list[str]:
        """Every usable name, sorted."""
        return sorted(name for name, entry in self._entries.items() if not entry.rivals)

    def disputed(self) -> list[str]:
        """Names that more than one plugin registered, sorted."""
        return sorted(name for name, entry in self._entries.items() if entry.rivals)

    def owner(self, name: str) -> str:
        """The plugin that registered a name."""
        return self._entries[name].owner

    def describe(self, name: str) -> str:
        """One line about a thing, without importing it."""
        entry = self._entries[name]
        documentation = "" if isinstance(entry.thing, str) else entry.thing.__doc__ or ""
        return entry.summary or documentation.strip().partition("\n")[0] or f"from {entry.label}"

    def __contains__(self, name: object) -> bool:
        return name in self._entries
