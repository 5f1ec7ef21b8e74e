"""One example: inputs for a program and what is expected of it. Knows nothing of programs, scorers or files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from hyperfunc.errors import EvaluationError
from hyperfunc.evaluation.content import content_digest

__all__ = ["Example"]


class Example:
    """One supervised example, frozen: assigning to an attribute raises.

    Two examples are equal when inputs, expected value, tags, weight and given id are equal in content (tensors by
    dtype, shape and data).

    Args:
        inputs: keyword arguments of ``run()``. The mapping is copied; the values in it are not, and must not be edited.
        expected: what the program should answer; ``None`` where a scorer needs no reference.
        id: a name of its own; without one, :attr:`id` is the hash of inputs and expected value.
        tags: labels to filter and to report by; a single string is one tag.
        weight: share of this example in weighted means, finite and ≥ 0.
        metadata: anything else worth keeping (source, author, …); part of neither identity nor equality.

    Raises:
        EvaluationError: inputs are no mapping with string keys, or the weight is negative or not finite.
    """

    __slots__ = ("_content_id", "_given_id", "expected", "inputs", "metadata", "tags", "weight")

    inputs: dict[str, Any]
    expected: Any
    tags: tuple[str, ...]
    weight: float
    metadata: dict[str, Any]
    _given_id: str | None
    _content_id: str | None

    def __init__(
        self,
        inputs: Mapping[str, Any],
        expected: Any,
        *,
        id: str | None = None,
        tags: Iterable[str] = (),
        weight: float = 1.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(inputs, Mapping):
            raise EvaluationError(
                f"inputs of an Example must be a mapping of argument names to values, got {type(inputs).__qualname__}; "
                'write Example({"x": value}, expected)'
            )
        wrong = [key for key in inputs if not isinstance(key, str)]
        if wrong:
            raise EvaluationError(
                f"inputs of an Example are named by strings (the arguments of run()), got {wrong[0]!r}"
            )
        if id is not None and (not isinstance(id, str) or not id):
            raise EvaluationError(f"id of an Example must be a non-empty string or None, got {id!r}")
        if not math.isfinite(weight) or weight < 0:
            raise EvaluationError(f"weight of an Example must be finite and ≥ 0, got {weight}")
        put = object.__setattr__
        put(self, "inputs", dict(inputs))
        put(self, "expected", expected)
        put(self, "tags", (tags,) if isinstance(tags, str) else tuple(dict.fromkeys(tags)))
        put(self, "weight", float(weight))
        put(self, "metadata", dict(metadata or {}))
        put(self, "_given_id", id)
        put(self, "_content_id", None)

    @property
    def content_id(self) -> str:
        """Hash of inputs and expected value (32 hex characters); computed when first asked for."""
        digest = self._content_id
        if digest is None:
            digest = content_digest(self.inputs, self.expected)
            object.__setattr__(self, "_content_id", digest)
        return digest

    @property
    def id(self) -> str:
        """The given id, else :attr:`content_id`."""
        return self._given_id if self._given_id is not None else self.content_id

    @property
    def given_id(self) -> str | None:
        """The id that the example was made with."""
        return self._given_id

    def replace(self, **changes: Any) -> Example:
        """A copy with some arguments of ``Example(...)`` changed."""
        arguments: dict[str, Any] = {
            "inputs": self.inputs,
            "expected": self.expected,
            "id": self._given_id,
            "tags": self.tags,
            "weight": self.weight,
            "metadata": self.metadata,
        }
        unknown = changes.keys() - arguments.keys()
        if unknown:
            raise EvaluationError(f"an Example has no {sorted(unknown)[0]!r}; it has {', '.join(arguments)}")
        return Example(**{**arguments, **changes})

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Example is frozen; use example.replace({name}=...)")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("an Example is frozen")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Example):
            return NotImplemented
        if self is other:
            return True
        same_labels = (self._given_id, self.tags, self.weight) == (other._given_id, other.tags, other.weight)
        return same_labels and self.content_id == other.content_id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        extra = "".join(
            f", {name}={value!r}"
            for name, value, default in (
                ("id", self._given_id, None),
                ("tags", self.tags, ()),
                ("weight", self.weight, 1.0),
                ("metadata", self.metadata, {}),
            )
            if value != default
        )
        return f"Example({self.inputs!r}, {self.expected!r}{extra})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            _restore,
            (self.inputs, self.expected, self._given_id, self.tags, self.weight, self.metadata),
        )


def _restore(
    inputs: dict[str, Any],
    expected: Any,
    id: str | None,
    tags: tuple[str, ...],
    weight: float,
    metadata: dict[str, Any],
) -> Example:
    return Example(inputs, expected, id=id, tags=tags, weight=weight, metadata=metadata)
