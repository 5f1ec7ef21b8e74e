"""What a model is asked for, as a class: the docstring is the task, annotations are typed fields in written order.

    class Answer(Signature):
        \"\"\"Answer the question in one word.\"\"\"

        question: str = InputField("as the user typed it")
        answer: str = OutputField()

Knows nothing of messages, models or learning.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, get_type_hints

from hyperfunc_prompts.errors import SignatureError

__all__ = ["InputField", "OutputField", "Signature"]

RESERVED = frozenset({"demos", "hp", "prompt"})


@dataclass(frozen=True)
class InputField:
    """A value that the caller gives.

    Args:
        desc: what it is, in words that a model can act on.
    """

    desc: str = ""


@dataclass(frozen=True)
class OutputField:
    """A value that the model gives.

    Args:
        desc: what it should be.
    """

    desc: str = ""


class Signature:
    """Base of signatures; never instantiated.

    Raises:
        SignatureError: when the class is made: no output field, a field without annotation, or a reserved name.
    """

    _fields: ClassVar[dict[str, InputField | OutputField]] = {}

    _types: ClassVar[MappingProxyType[str, Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        fields = dict(cls._fields)
        annotations = inspect.get_annotations(cls)
        for name, value in list(cls.__dict__.items()):
            if not isinstance(value, (InputField, OutputField)):
                continue
            if name not in annotations:
                raise SignatureError(
                    f"{cls.__name__}.{name} has no type; write `{name}: str = {type(value).__name__}()`"
                )
            if name in RESERVED:
                raise SignatureError(f"{cls.__name__}.{name}: {', '.join(sorted(RESERVED))} are names of parameters")
            fields[name] = value
        cls._fields = fields
        if not cls.output_fields():
            raise SignatureError(f"{cls.__name__} has no OutputField; a signature says at least what comes out")

    def __init__(self) -> None:
        raise SignatureError(f"{type(self).__name__} is a declaration; write Predict({type(self).__name__}, model=...)")

    @classmethod
    def input_fields(cls) -> dict[str, InputField]:
        """The inputs, in the order in which they are written (a base class's first)."""
        return {name: field for name, field in cls._fields.items() if isinstance(field, InputField)}

    @classmethod
    def output_fields(cls) -> dict[str, OutputField]:
        """The outputs, in the order in which they are written (a base class's first)."""
        return {name: field for name, field in cls._fields.items() if isinstance(field, OutputField)}

    @classmethod
    def types(cls) -> MappingProxyType[str, Any]:
        """The fields' types by name.

        Raises:
            SignatureError: an annotation names something that does not exist at module level.
        """
        known: MappingProxyType[str, Any] | None = cls.__dict__.get("_types")
        if known is not None:
            return known
        try:
            hints = get_type_hints(cls, include_extras=True)
        except NameError as error:
            raise SignatureError(
                f"{cls.__name__}: a field's type cannot be found ({error}); define the type at module level"
            ) from error
        cls._types = MappingProxyType({name: hints[name] for name in cls._fields})  # asked for by every call
        return cls._types

    @classmethod
    def instructions(cls) -> str:
        """The task text: the docstring, or a sentence made of the field names."""
        doc = cls.__dict__.get("__doc__")
        if doc:
            return inspect.cleandoc(doc)
        return f"Given {_listed(cls.input_fields())}, produce {_listed(cls.output_fields())}."

    @classmethod
    def to_prompt(cls) -> str:
        """The task and its fields as text, the same in every process."""
        lines = [cls.instructions()]
        for title, fields in (("Inputs", cls.input_fields()), ("Outputs", cls.output_fields())):
            if fields:
                lines += ["", f"{title}:", *(cls.describe(name) for name in fields)]
        return "\n".join(lines)

    @classmethod
    def describe(cls, name: str) -> str:
        """One line about a field: name, type, description."""
        desc = cls._fields[name].desc
        return f"- {name} ({type_name(cls.types()[name])})" + (f": {desc}" if desc else "")


def type_name(kind: Any) -> str:
    """How a type is written: ``str``, ``list[int]``, ``Literal['a', 'b']``."""
    if isinstance(kind, type) and not getattr(kind, "__args__", None):
        return kind.__name__
    return str(kind).replace("typing.", "")


def _listed(names: Any) -> str:
    return ", ".join(names) or "nothing"
