"""A step as the list of tensor operations that it came to, run again without the Python that led to them.

A policy of a few small matrices costs less to compute than to walk: ``run()``, its event loop and vmap take most of a
step. What reaches the kernels after vmap is a short straight line of operations on whole tensors, the same at every
step of an episode as long as shapes and constants stay. It is written down once, by a dispatch mode, and run from then
on: the same kernels in the same order on the same shapes, hence the same bits.

What could go stale is anything that the policy reads from outside its arguments. So a tape never outlives the episodes
for which it was written, the first replay and every :data:`CHECK_EVERY`-th after it is compared with the real step bit
for bit, and what cannot be followed for sure (a value read, a constant written to) is not written down at all. Knows
neither policies nor environments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Replay", "ReplayDiffersError", "Tape", "record"]

CHECK_EVERY = 64
"""Steps between two that are computed both ways."""

Compute = Callable[[], list[Any]]


class ReplayDiffersError(Exception):
    """A step gave something else than its replay: the steps since the last comparison may be wrong."""


class _Operation(NamedTuple):
    """``slots[outputs] = function(*arguments)``, with ``arguments[position] = slots[slot]`` filled in."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    fill: tuple[tuple[int, int], ...]  # (position, slot)
    options: dict[str, Any]
    output: int  # the slot of the result, or of the first of several
    several: int  # how many results, where the function answers a list; else 0
    dead: tuple[int, ...]  # slots that nobody needs afterwards


class Tape:
    """A straight line of operations.

    Args:
        operations: in order.
        slots: how many values there are.
        outputs: per output leaf the slot, or ``None`` for a constant.
        constants: per output leaf the constant, where it is one.
    """

    def __init__(
        self,
        operations: Sequence[_Operation],
        slots: int,
        outputs: Sequence[int | None],
        constants: Sequence[Any],
    ) -> None:
        self._operations = operations
        self._slots = slots
        self._outputs = outputs
        self._constants = constants

    def __len__(self) -> int:
        return len(self._operations)

    def run(self, inputs: Sequence[Tensor]) -> list[Any]:
        """The output's leaves for inputs of the recorded shapes, dtypes and strides."""
        values: list[Any] = [*inputs, *[None] * (self._slots - len(inputs))]
        for function, template, fill, options, output, several, dead in self._operations:
            arguments = list(template)
            for position, slot in fill:
                arguments[position] = values[slot]
            result = function(*arguments, **options)
            if several:
                values[output : output + several] = result
            else:
                values[output] = result
            for slot in dead:
                values[slot] = None
        return [
            constant if slot is None else values[slot]
            for slot, constant in zip(self._outputs, self._constants, strict=True)
        ]


def record(compute: Compute, inputs: Sequence[Tensor]) -> tuple[list[Any], Tape | None]:
    """Compute, and write down how.

    Args:
        compute: a function of ``inputs`` and of what stays the same; answers leaves, tensors and constants.
        inputs: the tensors that will be others at the next step.

    Returns:
        What ``compute`` gave, and its tape; ``None`` where it did something that a tape cannot follow.
    """
    recorder = _Recorder(inputs)
    with recorder:
        leaves = compute()
    return leaves, recorder.tape(leaves)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation after vmap has turned it into one on whole tensors.

    A tensor is known by its identity: an input, a result of an operation, or else a constant. Everything seen is held
    until the end, so that no identity and no memory address is used twice.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[_Operation] = []
        self._slots = {id(tensor): slot for slot, tensor in enumerate(inputs)}
        self._inputs = len(inputs)
        self._count = len(inputs)
        self._held: list[Any] = list(inputs)
        self._addresses = {_address(tensor) for tensor in inputs}
        self._given_up = len(self._slots) < len(inputs)  # one tensor in two places: they will be two the next time

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for seconds, to keep it out of a mode that never meets it

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self._given_up:
            self._given_up = not self._note(func, args, kwargs or {}, result)
        return result

    def tape(self, leaves: Sequence[Any]) -> Tape | None:
        """What was written down, for these output leaves."""
        if self._given_up or any(self._is_stray(leaf) for leaf in leaves):
            return None
        outputs = [self._slots.get(id(leaf)) if isinstance(leaf, Tensor) else None for leaf in leaves]
        last_use: dict[int, int] = {}
        for number, operation in enumerate(self._operations):
            used = [slot for _, slot in operation.fill]
            last_use.update(
                dict.fromkeys([*used, *range(operation.output, operation.output + operation.several)], number)
            )
            last_use.setdefault(operation.output, number)
        dying: dict[int, list[int]] = {}
        kept = set(outputs)
        for slot, number in last_use.items():
            if slot not in kept:
                dying.setdefault(number, []).append(slot)
        operations = [o._replace(dead=tuple(dying.get(number, ()))) for number, o in enumerate(self._operations)]
        return Tape(operations, self._count, outputs, leaves)

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> bool:
        """Write one operation down; false where that cannot be done for sure."""
        if any(_holds_tensor(value) for value in kwargs.values()):
            return False
        template: list[Any] = []
        fill: list[tuple[int, int]] = []
        any_tensor = False
        for position, argument in enumerate(args):
            template.append(argument)
            if isinstance(argument, Tensor):
                any_tensor = True
                if self._is_stray(argument):
                    return False
                if id(argument) in self._slots:
                    template[position] = None
                    fill.append((position, self._slots[id(argument)]))
            elif isinstance(argument, (list, tuple)) and any(isinstance(item, Tensor) for item in argument):
                any_tensor = True
                if any(self._is_stray(item) for item in argument):
                    return False
                if any(id(item) in self._slots for item in argument):
                    template[position] = None
                    fill.append((position, self._gathered(argument)))
        written = [at for at, each in enumerate(func._schema.arguments) if each.alias_info and each.alias_info.is_write]
        if written and (written != [0] or id(args[0]) not in self._slots):
            return False  # a constant is written to, which the next step would find changed
        results = list(result) if isinstance(result, (list, tuple)) else [result]
        if not results or not all(isinstance(each, Tensor) for each in results):
            return False  # a value was read
        self._held += [args, result]
        if any_tensor and not fill:
            return True  # of constants only: its results are constants too
        if written:
            if len(results) != 1 or results[0] is not args[0]:
                return False
            output = self._slots[id(args[0])]
        else:
            output = self._count
            self._count += len(results)
            for slot, each in enumerate(results, start=output):
                self._slots[id(each)] = slot
                self._addresses.add(_address(each))
        several = len(results) if isinstance(result, (list, tuple)) else 0
        self._operations.append(_Operation(func, tuple(template), tuple(fill), kwargs, output, several, ()))
        return True

    def _gathered(self, items: Sequence[Any]) -> int:
        """The slot of a list of tensors that is made from other slots."""
        fill = tuple((at, self._slots[id(item)]) for at, item in enumerate(items) if id(item) in self._slots)
        template = tuple(None if id(item) in self._slots else item for item in items)
        slot, self._count = self._count, self._count + 1
        self._operations.append(_Operation(_as_list, template, fill, {}, slot, 0, ()))
        return slot

    def _is_stray(self, value: Any) -> bool:
        """Whether a tensor is no value of the tape and yet shares memory with one: not a constant for sure."""
        return isinstance(value, Tensor) and id(value) not in self._slots and _address(value) in self._addresses


def _as_list(*items: Any) -> list[Any]:
    return list(items)


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, (list, tuple)) and any(isinstance(item, Tensor) for item in value)
    )


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


class Replay:
    """Computes steps: really at first, then by tape, and now and then both ways.

    Args:
        is_on: ``False`` computes every step.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._key: Any = None
        self._tape: Tape | None = None
        self._replayed = 0

    def step(self, key: Any, inputs: Sequence[Tensor], compute: Compute) -> list[Any]:
        """The leaves that ``compute()`` answers.

        Args:
            key: equal for steps of the same form: everything but the inputs' values that the step depends on.
            inputs: the tensors that differ from step to step.
            compute: the real step.

        Raises:
            ReplayDiffersError: the tape had been right and no longer is.
        """
        if not self._is_on:
            return compute()
        key = key, [(t.shape, t.dtype, t.stride()) for t in inputs]
        if key != self._key:
            self._key, self._tape, self._replayed = key, None, 0
            return compute()
        if self._tape is None:  # the second step of this form
            leaves, self._tape = record(compute, inputs)
            self._is_on = self._tape is not None
            return leaves
        if self._replayed % CHECK_EVERY:
            self._replayed += 1
            return self._tape.run(inputs)
        leaves = compute()
        if not _same_leaves(leaves, self._tape.run(inputs)):
            if self._replayed:
                raise ReplayDiffersError
            self._is_on = False
        self._replayed += 1
        return leaves


def _same_leaves(first: Sequence[Any], second: Sequence[Any]) -> bool:
    return len(first) == len(second) and all(_same(a, b) for a, b in zip(first, second, strict=True))


def _same(a: Any, b: Any) -> bool:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and bool(a == b)
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())
