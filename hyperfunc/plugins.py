"""The plugin manager: finds plugins, keeps a broken one from harming the rest, and owns the registries.

pluggy does discovery and lifecycle; the objects in the registries do the work. :func:`load_plugins` builds a manager;
:func:`current_plugins` is the one that a process uses unless a test (or an application) enters its own.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import pluggy

from hyperfunc import builtin, hookspecs
from hyperfunc.errors import DuplicateNameError, PluginError
from hyperfunc.hookspecs import PROJECT

__all__ = ["PluginInfo", "Plugins", "current_plugins", "load_plugins", "use_plugins"]


@dataclass(frozen=True)
class PluginInfo:
    """One plugin as ``hyperfunc plugins`` lists it.

    Attributes:
        name: entry-point name.
        package, version: the distribution that brings it, where known.
        state: ``"loaded"``, ``"disabled"`` or ``"failed"``.
        reason: why it failed or is disabled.
        hooks: the hooks that it implements.
    """

    name: str
    package: str = ""
    version: str = ""
    state: str = "loaded"
    reason: str = ""
    hooks: tuple[str, ...] = ()


class Catalogue:
    """Things of one kind by name, each with its owner."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._things: dict[str, tuple[str, Any]] = {}

    def add(self, name: str, thing: Any, owner: str) -> None:
        """Raises DuplicateNameError: the name is taken."""
        if not isinstance(name, str) or not name:
            raise PluginError(f"{owner} registered a {self.kind} under {name!r}; expected a non-empty string")
        if name in self._things:
            raise DuplicateNameError(self.kind, name, self._things[name][0], owner)
        self._things[name] = (owner, thing)

    def get(self, name: str) -> Any:
        """The thing of this name; an import string is resolved now.

        Raises:
            PluginError: unknown name, or the import failed.
        """
        if name not in self._things:
            close = get_close_matches(name, self._things, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise PluginError(
                f"no {self.kind} named {name!r}; {hint}known: {', '.join(sorted(self._things)) or 'none'}"
            )
        owner, thing = self._things[name]
        if isinstance(thing, str):
            thing = _resolve(thing, self.kind, name, owner)
            self._things[name] = (owner, thing)
        return thing

    def names(self) -> list[str]:
        return sorted(self._things)

    def owner(self, name: str) -> str:
        return self._things[name][0]

    def describe(self, name: str) -> str:
        """One line about a thing, without importing it."""
        owner, thing = self._things[name]
        summary = "" if isinstance(thing, str) else (getattr(thing, "__doc__", None) or "").strip().partition("\n")[0]
        return summary or f"from {owner}"

    def __contains__(self, name: object) -> bool:
        return name in self._things


def _resolve(target: str, kind: str, name: str, owner: str) -> Any:
    module, _, attribute = target.partition(":")
    try:
        return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{kind} {name!r} of {owner} cannot be imported from {target!r}: {error}") from error


class Plugins:
    """A pluggy manager with hyperfunc's hooks, its registries, and the plugins that did not make it."""

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.infos: dict[str, PluginInfo] = {}
        self._registries: dict[str, Catalogue] = {}
        self._lock = threading.RLock()

    @property
    def hook(self) -> Any:
        return self.manager.hook

    def add(self, plugin: object, name: str, package: str = "", version: str = "") -> None:
        """Register a plugin object.

        Raises:
            PluginError: it implements an unknown hook, or names an argument that the hook does not have; nothing stays
                registered.
        """
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self.manager.has_plugin(name):
                self.manager.unregister(name=name)
            raise PluginError(f"plugin {name!r}: {error}") from error
        hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(plugin) or ()))
        self.infos[name] = PluginInfo(name, package, version, hooks=hooks)
        with self._lock:
            self._registries.clear()

    def registry(self, kind: str) -> Catalogue:
        """The registry behind ``hyperfunc_register_<kind>``, filled at its first use.

        Raises:
            PluginError: no such kind.
            DuplicateNameError: two plugins registered one name.
        """
        with self._lock:
            if kind not in self._registries:
                hook = getattr(self.manager.hook, f"hyperfunc_register_{kind}", None)
                if hook is None:
                    raise PluginError(f"no extension point named {kind!r}")
                registry = Catalogue(kind.removesuffix("s").replace("_", " "))
                for implementation in reversed(hook.get_hookimpls()):  # reversed: in order of registration
                    owner = implementation.plugin_name

                    def register(name: str, thing: Any, owner: str = owner) -> None:
                        registry.add(name, thing, owner)

                    try:
                        implementation.function(register)
                    except DuplicateNameError:
                        raise
                    except Exception as error:
                        self._fail(owner, error)
                self._registries[kind] = registry
            return self._registries[kind]

    def get(self, kind: str, name: str) -> Any:
        """The thing of one kind and name. Raises PluginError."""
        return self.registry(kind).get(name)

    def kinds(self) -> list[str]:
        """Every kind of thing that can be registered."""
        prefix = "hyperfunc_register_"
        return sorted(n.removeprefix(prefix) for n in dir(hookspecs) if n.startswith(prefix))

    def provides(self, plugin: str) -> dict[str, list[str]]:
        """Kind -> names that a plugin registered."""
        found: dict[str, list[str]] = {}
        for kind in self.kinds():
            registry = self.registry(kind)
            names = [n for n in registry.names() if registry.owner(n) == plugin]
            if names:
                found[kind] = names
        return found

    def emit(self, event: str, **arguments: Any) -> None:
        """Fire a run event; an implementation that raises is reported and switched off, the others still run."""
        caller = getattr(self.manager.hook, f"hyperfunc_{event}")
        for implementation in list(caller.get_hookimpls()):
            try:
                implementation.function(**{n: arguments[n] for n in implementation.argnames})
            except Exception as error:
                self._fail(implementation.plugin_name, error)
                self.manager.unregister(name=implementation.plugin_name)

    def _fail(self, name: str, error: BaseException) -> None:
        if _flag("HYPERFUNC_STRICT_PLUGINS"):
            raise PluginError(f"plugin {name!r} failed: {error}") from error
        old = self.infos.get(name, PluginInfo(name))
        reason = f"{type(error).__name__}: {error}"
        self.infos[name] = PluginInfo(name, old.package, old.version, "failed", reason, old.hooks)
        where = f" (package {old.package})" if old.package else ""
        print(f"hyperfunc: plugin {name!r}{where} failed and is ignored: {reason}", file=sys.stderr)

    def load_entry_points(self) -> None:
        """Load every plugin of the entry-point group ``hyperfunc``, each on its own.

        ``HYPERFUNC_LOAD_PLUGINS`` (comma-separated names; empty for none) limits which; ``HYPERFUNC_DISABLE_PLUGINS``
        names those to skip; with ``HYPERFUNC_STRICT_PLUGINS=1`` the first broken one raises.
        """
        only = _names("HYPERFUNC_LOAD_PLUGINS")
        disabled = _names("HYPERFUNC_DISABLE_PLUGINS") or frozenset()
        for point in sorted(importlib.metadata.entry_points(group=PROJECT), key=lambda p: p.name):
            package, version = (point.dist.name, point.dist.version) if point.dist else ("", "")
            if point.name in disabled or (only is not None and point.name not in only):
                variable = "HYPERFUNC_DISABLE_PLUGINS" if point.name in disabled else "HYPERFUNC_LOAD_PLUGINS"
                self.infos[point.name] = PluginInfo(point.name, package, version, "disabled", f"by {variable}")
                continue
            self.infos[point.name] = PluginInfo(point.name, package, version)
            try:
                self.add(point.load(), point.name, package, version)
            except Exception as error:
                self._fail(point.name, error)


def _names(variable: str) -> frozenset[str] | None:
    value = os.environ.get(variable)
    return None if value is None else frozenset(n.strip() for n in value.split(",") if n.strip())


def _flag(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}


def load_plugins(extra: Sequence[tuple[str, object]] = (), *, entry_points: bool = True) -> Plugins:
    """A new manager with the built-ins, the installed plugins (unless ``entry_points=False``) and ``extra`` ones."""
    plugins = Plugins()
    if _flag("HYPERFUNC_TRACE_PLUGINS"):
        plugins.manager.add_hookcall_monitoring(
            before=lambda name, impls, kwargs: print(
                f"hyperfunc: hook {name} -> {[i.plugin_name for i in impls]}", file=sys.stderr
            ),
            after=lambda outcome, name, impls, kwargs: None,
        )
    plugins.add(builtin, "builtin", PROJECT)
    if entry_points:
        plugins.load_entry_points()
    for name, plugin in extra:
        plugins.add(plugin, name)
    return plugins


@functools.cache
def _process_plugins() -> Plugins:
    return load_plugins()


_override: ContextVar[Plugins | None] = ContextVar("hyperfunc_plugins", default=None)


def current_plugins() -> Plugins:
    """The manager in use here: the innermost :func:`use_plugins`, else the process's own, loaded at first use."""
    return _override.get() or _process_plugins()


@contextmanager
def use_plugins(plugins: Plugins) -> Iterator[Plugins]:
    """Use ``plugins`` in the block."""
    token = _override.set(plugins)
    try:
        yield plugins
    finally:
        _override.reset(token)
