"""The plugin manager: finds plugins, keeps a broken one from harming the rest, and owns the registries.

pluggy does discovery and lifecycle; the objects in the registries do the work. :func:`load_plugins` builds a manager;
:func:`current_plugins` is the one that a process uses unless a test (or an application) enters its own.

Every implementation of a hook is called on its own, so one that raises stops no other. Four variables of the
environment are read when a manager is built: ``HYPERFUNC_LOAD_PLUGINS`` (comma-separated names; empty for none) limits
which are loaded, ``HYPERFUNC_DISABLE_PLUGINS`` names those to skip, ``HYPERFUNC_STRICT_PLUGINS=1`` turns every report
about a plugin into an error, ``HYPERFUNC_TRACE_PLUGINS=1`` prints every call of a hook to stderr.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pluggy

from hyperfunc import builtin, hookspecs
from hyperfunc.catalogue import BUILTIN, Catalogue
from hyperfunc.errors import ConfigurationError, DuplicateNameError, PluginError
from hyperfunc.hookspecs import PROJECT

__all__ = ["Catalogue", "PluginInfo", "Plugins", "call_listener", "current_plugins", "load_plugins", "use_plugins"]

_REGISTER = "hyperfunc_register_"


@dataclass(frozen=True)
class PluginInfo:
    """One plugin as ``hyperfunc plugins`` lists it.

    Attributes:
        name: its entry point's name, or a file's without ``.py``.
        package: the distribution or the file that brings it, where known.
        version: the distribution's.
        state: ``"loaded"``, ``"disabled"`` or ``"failed"`` (as a whole, or one of its hooks: the reason says which).
        reason: why it failed or is disabled.
        hooks: the hooks that it implements.
        imports_torch: loading it imported torch, which makes ``hyperfunc --help`` slow.
    """

    name: str
    package: str = ""
    version: str = ""
    state: str = "loaded"
    reason: str = ""
    hooks: tuple[str, ...] = ()
    imports_torch: bool = False

    @property
    def label(self) -> str:
        """The name with its package, for messages."""
        origin = " ".join(part for part in (self.package, self.version) if part)
        return f"{self.name} ({origin})" if origin and origin != self.name else self.name


class Plugins:
    """A pluggy manager with hyperfunc's hooks, its registries, and the plugins that did not make it.

    Args:
        strict: raise where a plugin would only be reported; by default as ``HYPERFUNC_STRICT_PLUGINS`` says.
        trace: print every call of a hook; by default as ``HYPERFUNC_TRACE_PLUGINS`` says.

    Attributes:
        infos: every plugin that was found, in the order of loading, by a unique name.
    """

    def __init__(self, *, strict: bool | None = None, trace: bool | None = None) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.strict = _flag("HYPERFUNC_STRICT_PLUGINS") if strict is None else strict
        self.trace = _flag("HYPERFUNC_TRACE_PLUGINS") if trace is None else trace
        self.only = _names("HYPERFUNC_LOAD_PLUGINS")
        self.disabled = _names("HYPERFUNC_DISABLE_PLUGINS") or frozenset()
        self.infos: dict[str, PluginInfo] = {}
        self._registries: dict[str, Catalogue] = {}
        self._off: set[tuple[str, str, str]] = set()  # (plugin, event, run): what raised during that run
        self._lock = threading.RLock()

    # --- adding plugins ------------------------------------------------------------------------------------------

    def add(self, plugin: object, name: str, package: str = "", version: str = "") -> None:
        """Register a plugin: a module, or an object with methods, marked ``@hookimpl``.

        Raises:
            PluginError: the name is taken, nothing is marked, or an implementation has an unknown hook or argument, is
                a coroutine function or a wrapper. Nothing stays registered.
        """
        with self._lock:
            info = PluginInfo(name, package, version)
            if self.manager.has_plugin(name):
                raise PluginError(
                    f"plugin name {name!r}: {self.infos[name].label} has it, and {info.label} asks for it"
                )
            if self.manager.is_registered(plugin):
                raise PluginError(f"plugin {info.label}: already registered as {self.manager.get_name(plugin)!r}")
            self._check_implementations(plugin, info.label)
            try:
                self.manager.register(plugin, name)
            except pluggy.PluginValidationError as error:
                self.manager.unregister(name=name)  # pluggy keeps the hooks that came before the refused one
                raise PluginError(f"plugin {info.label}: {error}") from error
            hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(plugin) or ()))
            self.infos[name] = replace(info, hooks=hooks)
            self._registries.clear()

    def _check_implementations(self, plugin: object, label: str) -> None:
        """What pluggy would accept, or say less helpfully."""
        known = _hook_names()
        marked = False
        for attribute in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, attribute)
            if options is None:
                if attribute.startswith(f"{PROJECT}_") and inspect.isroutine(getattr(plugin, attribute, None)):
                    raise PluginError(f"plugin {label}: {attribute} is not marked with @hyperfunc.hookimpl")
                continue
            marked = True
            hook = options.get("specname") or attribute
            if hook not in known and not options.get("optionalhook"):
                close = get_close_matches(hook, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
                raise PluginError(f"plugin {label}: unknown hook {hook!r}{hint}")
            if options.get("wrapper") or options.get("hookwrapper"):
                raise PluginError(
                    f"plugin {label}: {attribute} is a wrapper; every implementation is called on its own"
                )
            if inspect.iscoroutinefunction(getattr(plugin, attribute)):
                raise PluginError(f"plugin {label}: {attribute} is async; hooks are plain functions")
        if not marked:
            raise PluginError(f"plugin {label}: nothing in it is marked with @hyperfunc.hookimpl")

    def load_entry_points(self) -> None:
        """Load every plugin of the entry-point group ``hyperfunc``, each on its own; a broken one is listed."""
        points = importlib.metadata.entry_points(group=PROJECT)
        for point in sorted(points, key=lambda p: (p.name, p.dist.name if p.dist else "")):
            package, version = (point.dist.name, point.dist.version or "") if point.dist else ("", "")
            self._load(PluginInfo(point.name, package, version), point.load)

    def load_directory(self, directory: str | Path) -> None:
        """Load every ``*.py`` file of a folder as a plugin of the file's name; names with ``_`` in front are skipped.

        Raises:
            ConfigurationError: there is no such folder.
        """
        folder = Path(directory)
        if not folder.is_dir():
            raise ConfigurationError(f"plugins directory: expected a folder with *.py files, got {str(folder)!r}")
        for file in sorted(folder.glob("*.py")):
            if not file.name.startswith("_"):
                self._load(PluginInfo(file.stem, str(file)), functools.partial(_import_file, file))

    def _load(self, info: PluginInfo, load: Any) -> None:
        key = info.name if info.name not in self.infos else f"{info.name}@{info.package}"
        if info.name in self.disabled or (self.only is not None and info.name not in self.only):
            variable = "HYPERFUNC_DISABLE_PLUGINS" if info.name in self.disabled else "HYPERFUNC_LOAD_PLUGINS"
            self.infos[key] = replace(info, state="disabled", reason=f"by {variable}")
            return
        had_torch = "torch" in sys.modules
        try:
            self.add(load(), info.name, info.package, info.version)
        except (Exception, SystemExit) as error:
            self.infos[key] = info
            self._fail(key, error)
        if not had_torch and "torch" in sys.modules:
            self.infos[key] = replace(self.infos[key], imports_torch=True)

    # --- registries ----------------------------------------------------------------------------------------------

    def registry(self, kind: str) -> Catalogue:
        """The registry behind ``hyperfunc_register_<kind>``, filled at its first use.

        A plugin whose hook raises is reported, and nothing that this hook had registered before stays. A name that two
        plugins register is reported too; see :meth:`Catalogue.get`.

        Raises:
            PluginError: no such kind; in strict mode also what would have been reported.
        """
        with self._lock:
            if kind not in self._registries:
                self._registries[kind] = self._filled(kind)
            return self._registries[kind]

    def _filled(self, kind: str) -> Catalogue:
        if kind not in self.kinds():
            close = get_close_matches(kind, self.kinds(), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise PluginError(f"no extension point named {kind!r}{hint or ';'} known: {', '.join(self.kinds())}")
        catalogue = Catalogue(_singular(kind))
        order = {name: position for position, name in enumerate(self.infos)}
        implementations = getattr(self.manager.hook, _REGISTER + kind).get_hookimpls()
        for implementation in sorted(implementations, key=lambda i: order.get(i.plugin_name, -1)):
            owner = implementation.plugin_name
            label = self.infos[owner].label

            def register(name: str, thing: Any, summary: str = "", owner: str = owner, label: str = label) -> None:
                try:
                    catalogue.add(name, thing, owner, label=label, summary=summary)
                except DuplicateNameError as error:
                    self._fail(owner, error)

            try:
                self._call(implementation, {"register": register})
            except Exception as error:
                catalogue.forget(owner)
                self._fail(owner, error, _REGISTER + kind)
        return catalogue

    def get(self, kind: str, name: str) -> Any:
        """The thing of one kind and name. Raises PluginError."""
        return self.registry(kind).get(name)

    def make(self, kind: str, name: str, /, **options: Any) -> Any:
        """The thing of one kind and name, made with ``options``.

        Raises:
            PluginError: there is no such thing.
            ConfigurationError: it needs other arguments.
        """
        factory = self.get(kind, name)
        try:
            return factory(**options)
        except TypeError:
            self._check_arguments(kind, name, factory, options)
            raise  # an error of its own

    @staticmethod
    def _check_arguments(kind: str, name: str, factory: Any, options: Mapping[str, Any]) -> None:
        try:
            signature = inspect.signature(factory)
        except ValueError:  # nothing is known of its arguments
            return
        try:
            signature.bind(**options)
        except TypeError as error:
            made = getattr(factory, "__name__", name)
            raise ConfigurationError(
                f"the {_singular(kind)} {name!r} cannot be made with {sorted(options) or 'no arguments'}: {error}; "
                f"it takes {made}{signature}"
            ) from None

    def kinds(self) -> list[str]:
        """Every kind of thing that can be registered."""
        return sorted(n.removeprefix(_REGISTER) for n in _hook_names() if n.startswith(_REGISTER))

    def provides(self, plugin: str) -> dict[str, list[str]]:
        """Kind -> names that a plugin registered."""
        found: dict[str, list[str]] = {}
        for kind in self.kinds():
            registry = self.registry(kind)
            names = [n for n in registry.names() if registry.owner(n) == plugin]
            if names:
                found[kind] = names
        return found

    # --- events --------------------------------------------------------------------------------------------------

    def wants(self, event: str) -> bool:
        """Whether any plugin listens to a run event."""
        return bool(getattr(self.manager.hook, f"hyperfunc_{event}").get_hookimpls())

    def emit(self, event: str, **arguments: Any) -> None:
        """Fire a run event. A hook that raises is reported and not called again in this run; the others still are.

        Raises:
            PluginError: there is no such event; in strict mode also what would have been reported.
        """
        caller = getattr(self.manager.hook, f"{PROJECT}_{event}", None)
        if caller is None:
            raise PluginError(f"no event named {event!r}")
        run = str(arguments.get("run", ""))  # calls belong to no run: what they switched off, the next run tries again
        if event == "run_started":
            self._off -= {key for key in self._off if key[2] in ("", run)}
        for implementation in reversed(caller.get_hookimpls()):  # pluggy's order: tryfirst, then the last registered
            key = (implementation.plugin_name, event, run)
            if key in self._off:
                continue
            try:
                self._call(implementation, arguments)
            except Exception as error:
                self._off.add(key)
                self._fail(implementation.plugin_name, error, f"{PROJECT}_{event}")

    def _call(self, implementation: Any, arguments: Mapping[str, Any]) -> None:
        wanted = [arguments[name] for name in implementation.argnames]
        if not self.trace:
            implementation.function(*wanted)
            return
        started = time.perf_counter()
        outcome = "raised"
        try:
            implementation.function(*wanted)
            outcome = "returned"
        finally:
            milliseconds = 1000 * (time.perf_counter() - started)
            hook, owner = implementation.function.__name__, implementation.plugin_name
            print(f"hyperfunc: {hook} of {owner} {outcome} after {milliseconds:.2f} ms", file=sys.stderr)

    def _fail(self, key: str, error: BaseException, hook: str = "") -> None:
        info = self.infos[key]
        told = str(error).removeprefix(f"plugin {info.label}: ")  # our own errors name the plugin already
        text = told if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
        reason = f"in {hook}: {text}" if hook else text
        if self.strict:
            raise error if isinstance(error, PluginError) else PluginError(f"plugin {info.label}: {reason}") from error
        self.infos[key] = replace(info, state="failed", reason=reason)
        if info.reason != reason:
            print(f"hyperfunc: plugin {info.label} is ignored where it failed: {reason}", file=sys.stderr)


def _hook_names() -> frozenset[str]:
    return frozenset(name for name in vars(hookspecs) if name.startswith(f"{PROJECT}_"))


def _singular(kind: str) -> str:
    """``"model_families"`` as messages say it: ``"model family"``."""
    one = f"{kind.removesuffix('ies')}y" if kind.endswith("ies") else kind.removesuffix("s")
    return one.replace("_", " ")


def _import_file(file: Path) -> object:
    """The module of a single file, under a name of its own, so that no installed module is hidden by it."""
    name = f"_{PROJECT}_plugin_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while it is being executed
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _names(variable: str) -> frozenset[str] | None:
    value = os.environ.get(variable)
    return None if value is None else frozenset(n.strip() for n in value.split(",") if n.strip())


def _flag(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() in {"1", "true", "yes", "on"}


def load_plugins(
    extra: Sequence[tuple[str, object]] = (),
    *,
    entry_points: bool = True,
    directory: str | Path | None = None,
    strict: bool | None = None,
) -> Plugins:
    """A new manager: the built-ins, the installed plugins, those of a folder, and ``extra`` (name, plugin) pairs.

    Args:
        extra: added last; one of these that is malformed raises.
        entry_points: whether installed plugins are looked for.
        directory: a folder of single-file plugins.
        strict: as for :class:`Plugins`.

    Raises:
        PluginError: an ``extra`` plugin is malformed; in strict mode, any.
        ConfigurationError: ``directory`` is no folder.
    """
    plugins = Plugins(strict=strict)
    plugins.add(builtin, BUILTIN, PROJECT)
    if entry_points:
        plugins.load_entry_points()
    if directory is not None:
        plugins.load_directory(directory)
    for name, plugin in extra:
        plugins.add(plugin, name)
    return plugins


@functools.cache
def _process_plugins() -> Plugins:
    return load_plugins()


class _CallEvents:
    """Hands recorded calls on to the hooks."""

    def __init__(self, plugins: Plugins) -> None:
        self._plugins = plugins

    def before_call(self, component: str, call_id: int) -> None:
        self._plugins.emit("before_call", component=component, call_id=call_id)

    def after_call(self, component: str, call_id: int, seconds: float, error: BaseException | None) -> None:
        self._plugins.emit("after_call", component=component, call_id=call_id, seconds=seconds, error=error)


def call_listener() -> _CallEvents | None:
    """What a tape tells of its calls, if any plugin listens to them."""
    plugins = current_plugins()
    return _CallEvents(plugins) if plugins.wants("before_call") or plugins.wants("after_call") else None


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
