"""Walks from a program's components to all code and constants of the user's that they can reach by name.

Functions are followed through the names that their code uses (globals, closures, defaults), classes through bases and
methods, instances through their attributes. Installed packages, the standard library and hyperfunc itself are named
but not entered. What is reached only through strings or ``getattr`` is not seen.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import torch

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.content import content_digest
from hyperfunc.function import HyperFunction

__all__ = ["ProgramWalk"]

_OWN_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALL_FOLDERS = frozenset({"site-packages", "dist-packages"})
_LIBRARY_FOLDERS = tuple(
    {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_TOLD_BY_REPR = (torch.dtype, torch.device, Decimal, Fraction, timedelta, re.Pattern, range, UUID)
_SHOWN = 400  # characters of a constant's text that a message may show


class ProgramWalk:
    """Collects the parts; each object is visited once.

    Args:
        leave_out: attribute names of instances that are not followed.
    """

    def __init__(self, *, leave_out: frozenset[str] = frozenset()) -> None:
        self._leave_out = leave_out
        self._seen: dict[int, Any] = {}  # keeps the objects alive, so that an id is never given twice
        self._texts: dict[str, list[str]] = {}

    def texts(self) -> Iterator[tuple[str, str]]:
        """Part name and text, sorted; parts of one name are numbered in the order of their text."""
        for name, texts in sorted(self._texts.items()):
            for number, text in enumerate(sorted(set(texts))):
                yield (name if number == 0 else f"{name} ({number + 1})"), text

    def visit(self, thing: Any, name: str) -> None:
        """Collect ``thing``, which is known as ``name``, and what it refers to."""
        if self._is_new(thing):
            self._dispatch(thing, name)

    def _dispatch(self, thing: Any, name: str) -> None:
        if isinstance(thing, HyperFunction):
            self._hyperfunction(thing)
        elif isinstance(thing, functools.partial):
            self.visit_attribute(thing.func, name)
            self._constant(f"{name}.partial", (list(thing.args), dict(thing.keywords)))
        elif isinstance(thing, types.MethodType):
            self.visit(thing.__func__, name)
            self.visit(thing.__self__, type(thing.__self__).__qualname__)
        elif isinstance(thing, (staticmethod, classmethod)):
            self.visit(thing.__func__, name)
        elif isinstance(thing, property):
            for accessor in (thing.fget, thing.fset):
                if accessor is not None:
                    self.visit(accessor, name)
        elif isinstance(thing, types.FunctionType):
            self._function(thing)
        elif isinstance(thing, type):
            self._class(thing)
        elif isinstance(thing, types.ModuleType):
            return  # followed name by name, where one of its names is used
        elif isinstance(thing, torch.nn.Module):
            self._add(f"module {name}", repr(thing))
            for module in thing.modules():
                self.visit(type(module), type(module).__qualname__)
        elif isinstance(thing, _TOLD_BY_REPR):
            self._add(f"constant {name}", repr(thing))
        elif _is_record(thing) or not self._constant(name, thing):
            self._instance(thing, name)

    # -- kinds of things ----------------------------------------------------------------------------------------

    def _hyperfunction(self, function: HyperFunction[..., Any]) -> None:
        tensors = [(spec.name, list(spec.shape), str(spec.dtype)) for spec in function.tensor_specs]
        self._add(
            f"component {function.name}",
            f"tensors={tensors}\ntexts={sorted(function.texts)}\npolicy={function.policy}\nbatched={function.batched}",
        )
        self.visit(function.fn, function.name)
        if function.hp_type is not None:
            self.visit(function.hp_type, function.hp_type.__qualname__)

    def _function(self, function: types.FunctionType) -> None:
        inner = inspect.unwrap(function)
        if inner is not function:
            self.visit(inner, getattr(inner, "__qualname__", function.__qualname__))
        if _is_library(function):
            return
        self._add(f"function {function.__qualname__}", _function_text(function))
        self._references(function)

    def _class(self, cls: type) -> None:
        if _is_library(cls):
            return
        text = _source(cls)
        # Without its source (a notebook's, exec's) a class is what its methods are.
        self._add(f"class {cls.__qualname__}", text if text is not None else f"class {cls.__qualname__}")
        for base in cls.__bases__:
            self.visit(base, base.__qualname__)
        for attribute, value in vars(cls).items():
            if isinstance(value, types.FunctionType) and text is not None:
                method = inspect.unwrap(value)  # its text is in that of the class
                if isinstance(method, types.FunctionType) and not _is_library(method):
                    self._references(method)
            elif isinstance(value, (types.FunctionType, staticmethod, classmethod, property, HyperFunction)) or (
                text is None and not attribute.startswith("__")
            ):
                self.visit_attribute(value, f"{cls.__qualname__}.{attribute}")

    def _instance(self, thing: Any, name: str) -> None:
        cls = type(thing)
        self.visit(cls, cls.__qualname__)
        attributes = _attributes(thing)
        library = _is_library(cls)
        if library:
            own_name = getattr(thing, "__name__", "")  # of a function that is not written in Python
            self._add(f"object {name}", f"{cls.__module__}.{cls.__qualname__} {own_name}".rstrip())
        for attribute in sorted(attributes):
            # A library's private attributes are its own business (locks, caches, connections); a record has none.
            private = attribute.startswith("_") and library and not _is_record(thing)
            if attribute in self._leave_out or attribute.startswith("__") or private:
                continue
            if attribute in {"_registry", "_observability"}:
                continue  # a system's own: components are attributes, or used by name in run()
            self.visit_attribute(attributes[attribute], f"{name}.{attribute}")

    def visit_attribute(self, value: Any, name: str) -> None:
        """Like :meth:`visit`; containers of things that are no constants are followed item by item."""
        if isinstance(value, (list, tuple)) and not self._constant(name, value):
            for index, item in enumerate(value):
                self.visit_attribute(item, f"{name}[{index}]")
        elif isinstance(value, dict) and not self._constant(name, value):
            for key in value:
                self.visit_attribute(value[key], f"{name}[{key!r}]")
        elif not isinstance(value, (list, tuple, dict)):
            if isinstance(value, (types.FunctionType, type)) and _is_library(value):
                self._add(f"object {name}", f"{value.__module__}.{value.__qualname__}")  # named, but not entered
            self.visit(value, name)

    # -- helpers ------------------------------------------------------------------------------------------------

    def _is_new(self, thing: Any) -> bool:
        if isinstance(thing, (str, bytes, int, float, bool, complex, type(None))):
            return True  # small constants share identity by chance
        if id(thing) in self._seen:
            return False
        self._seen[id(thing)] = thing
        return True

    def _add(self, name: str, text: str) -> None:
        self._texts.setdefault(name, []).append(text)

    def _constant(self, name: str, value: Any) -> bool:
        if callable(value) or isinstance(value, type):
            return False
        try:
            digest = content_digest(value)
        except EvaluationError:
            return False
        shown = "" if isinstance(value, (set, frozenset, torch.Tensor)) else repr(value)
        text = shown if 0 < len(shown) <= _SHOWN and " at 0x" not in shown else f"{shown[:60]}… ({digest})"
        self._add(f"constant {name}", text if shown else digest)
        for cls in _classes_within(value):  # what they are is in the digest, what they do is in their class
            self.visit(cls, cls.__qualname__)
        return True

    def _references(self, function: types.FunctionType) -> None:
        names = _names_used(function.__code__)
        for name in sorted(names & function.__globals__.keys()):
            value = function.__globals__[name]
            if isinstance(value, types.ModuleType):
                self._module_names(value, names)
            elif not _is_library(value):
                self.visit_attribute(value, name)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                continue
            if name != "__class__":
                self.visit_attribute(value, f"{function.__qualname__}.{name}")
        defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for index, value in enumerate(defaults):
            self.visit_attribute(value, f"{function.__qualname__} default {index}")

    def _module_names(self, module: types.ModuleType, names: set[str]) -> None:
        if _is_library(module):
            return
        for name in sorted(names & vars(module).keys()):
            value = vars(module)[name]
            if not isinstance(value, types.ModuleType) and not _is_library(value):
                self.visit_attribute(value, f"{module.__name__.rpartition('.')[2]}.{name}")


def _is_record(thing: Any) -> bool:
    return dataclasses.is_dataclass(thing) and not isinstance(thing, type)


def _attributes(thing: Any) -> dict[str, Any]:
    if _is_record(thing):
        return {field.name: getattr(thing, field.name) for field in dataclasses.fields(thing)}
    return dict(getattr(thing, "__dict__", {}))


def _classes_within(value: Any) -> set[type]:
    """The classes of the records and enumerations in ``value``, a constant."""
    found: set[type] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item
        elif isinstance(item, Enum):
            found.add(type(item))
        elif _is_record(item):
            found.add(type(item))
            pending += _attributes(item).values()
    return found


def _is_library(thing: Any) -> bool:
    """Whether ``thing`` is, or is defined in, an installed package, the standard library or hyperfunc."""
    if isinstance(thing, types.ModuleType):
        module = thing
    elif isinstance(thing, (types.FunctionType, type)):
        found = sys.modules.get(thing.__module__ or "")
        if found is None:  # executed from a string: the user's
            return False
        module = found
    else:
        return isinstance(thing, (types.BuiltinFunctionType, types.MethodWrapperType))
    if module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    if file is None:
        return module.__name__ in sys.builtin_module_names
    path = Path(file).resolve()
    if _OWN_PACKAGE in path.parents or module.__name__.partition(".")[0].startswith("hyperfunc_"):
        return True
    if not _INSTALL_FOLDERS.isdisjoint(path.parts):  # also that of another environment, reached through a .pth file
        return True
    return any(folder in path.parents for folder in _LIBRARY_FOLDERS)


def _source(thing: Any) -> str | None:
    try:
        return ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError, IndentationError):
        return None


def _function_text(function: types.FunctionType) -> str:
    # A lambda's source is the whole line around it.
    text = None if function.__name__ == "<lambda>" else _source(function)
    return text if text is not None else _code_text(function.__code__)


def _code_text(code: types.CodeType) -> str:
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            constants.append(_code_text(constant))
        elif isinstance(constant, frozenset):
            constants.append(repr(sorted(map(repr, constant))))
        else:
            constants.append(repr(constant))
    return f"code {code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames} [{', '.join(constants)}]"


def _names_used(code: types.CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_used(constant)
    return names
