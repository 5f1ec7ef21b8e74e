"""One call of a hyperfunction: parameters looked up, limits kept, the tape written.

The awaitable that a call gives is :class:`PendingCall`. It starts when awaited; as an argument of another call it is
awaited there; read as a value by mistake (in an f-string, a condition, a loop) it raises instead of lying.
Knows nothing of how hyperfunctions are declared or of how populations are run.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Generator, Mapping
from typing import Any, NoReturn, TypeVar

from hyperfunc import tape as tapes
from hyperfunc.attempt import device_of, make_attempt, move_to, settings_of
from hyperfunc.binding import Frame
from hyperfunc.callee import Callee
from hyperfunc.errors import (
    CallLimitError,
    ExecutionError,
    HyperfuncError,
    UnboundError,
)

__all__ = ["PendingCall", "make_alone", "prepare_injected"]

R = TypeVar("R", covariant=True)


class PendingCall(Coroutine[Any, Any, R]):
    """A call that has not been awaited. Accepted wherever a coroutine is (``gather``, ``create_task``, task groups)."""

    __slots__ = ("_args", "_frame", "_function", "_generator", "_kwargs")

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Frame | None) -> None:
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._frame = frame
        self._generator: Generator[Any, Any, R] | None = None

    def _start(self) -> Generator[Any, Any, R]:
        if self._generator is not None:
            raise ExecutionError(
                f"this call of {self._function.name} was already awaited; call it again for another result"
            )
        self._generator = _make(self._function, self._args, self._kwargs, self._frame)
        return self._generator

    __await__ = _start

    def send(self, value: Any) -> Any:
        return (self._generator or self._start()).send(value)

    def throw(self, *error: Any) -> Any:
        return (self._generator or self._start()).throw(*error)

    def close(self) -> None:
        if self._generator is not None:
            self._generator.close()

    def _read_as_value(self, *_: Any) -> NoReturn:
        raise ExecutionError(
            f"the call of {self._function.name} was used before it was awaited; write: await {self._function.name}(...)"
        )

    __str__ = __format__ = __bool__ = __iter__ = __len__ = __getitem__ = __contains__ = __float__ = __int__ = (
        _read_as_value
    )
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _read_as_value
    __matmul__ = __rmatmul__ = __lt__ = __le__ = __gt__ = __ge__ = __neg__ = _read_as_value

    def __repr__(self) -> str:
        return f"<call of {self._function.name}, not awaited>"


def _make(
    function: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Frame | None
) -> Generator[Any, Any, Any]:
    """Make the call; a generator, so that the ordinary case costs no coroutine of its own."""
    for argument in args:
        if type(argument) is PendingCall:
            args, kwargs = yield from _await_arguments(args, kwargs).__await__()
            break
    else:
        for argument in kwargs.values():
            if type(argument) is PendingCall:
                args, kwargs = yield from _await_arguments(args, kwargs).__await__()
                break
    tape = tapes.current_tape()
    if frame is None:
        component = function.name
        injected = _unbound_arguments(function)
    else:
        component = frame.prefix + frame.scope.component_name(function)
        binding = frame.binding
        binding.check_open(component)
        if binding.route is not None and (tape is None or tape.batches_first):
            routed = binding.route(function, component, args, kwargs)
            if routed is not None:
                return (yield from routed.__await__())
        known: Mapping[str, Any] | None = binding.prepared.get(component)
        injected = known if known is not None else prepare_injected(function, component, frame)
    if tape is None and frame is not None and _is_plain(function, frame):
        result = function.body(args, kwargs, _not_given(function, injected, args, kwargs))
        if inspect.iscoroutine(result):
            task = asyncio.current_task()
            if task is not None:
                frame.binding.in_flight.add(task)
            try:
                return (yield from result.__await__())
            finally:
                if task is not None:
                    frame.binding.in_flight.discard(task)
        return result
    return (yield from _call_with_limits(function, component, args, kwargs, injected, frame, tape).__await__())


async def make_alone(
    function: Callee, component: str, args: tuple[Any, ...], kwargs: dict[str, Any], frame: Frame
) -> Any:
    """The call as it is made where no executor takes it: with its limits, here and now."""
    known = frame.binding.prepared.get(component)
    injected = known if known is not None else prepare_injected(function, component, frame)
    return await _call_with_limits(function, component, args, kwargs, injected, frame, tapes.current_tape())


def _is_plain(function: Callee, frame: Frame) -> bool:
    policy = function.policy
    if policy.limits_calls or function.batched or function.local_gpu:
        return False
    return frame.binding.defaults.none_apply


async def _await_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Calls given as arguments run at the same time, and their results take their places."""
    names = list(kwargs)
    values = [*args, *kwargs.values()]
    pending = [i for i, v in enumerate(values) if type(v) is PendingCall]
    results = await asyncio.gather(*(values[i] for i in pending))
    for position, result in zip(pending, results, strict=True):
        values[position] = result
    return tuple(values[: len(args)]), dict(zip(names, values[len(args) :], strict=True))


def _not_given(
    function: Callee, injected: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The injected arguments that the caller did not give himself."""
    if function.is_module or not injected:
        return injected
    if len(args) > function.injected_position:
        names = list(inspect.signature(function.fn).parameters)[: len(args)]  # type: ignore[attr-defined]
        injected = {k: v for k, v in injected.items() if k not in names}
    return injected


def _unbound_arguments(function: Callee) -> Mapping[str, Any]:
    """Outside every run a component without tensors works, with its initial texts."""
    if function.tensor_specs:
        raise UnboundError(
            f"{function.name} has parameters and was called outside a run; call it inside a HyperSystem's run(), "
            "or under `with system.binding():`. A bare thread or executor loses the binding: use asyncio.to_thread"
        )
    return {n: t.value for n, t in function.texts.items() if n in function.accepted_injections}


def prepare_injected(function: Callee, component: str, frame: Frame) -> Mapping[str, Any]:
    """The injected arguments of ``component`` under the frame's binding, remembered there."""
    binding = frame.binding
    names = [spec.name for spec in function.tensor_specs] + list(function.texts)
    try:
        values = {n: binding.value(f"{component}.{n}") for n in names}
    except KeyError:
        initial = frame.scope.initial_values(component.removeprefix(frame.prefix))
        binding.late.update({f"{component}.{n}": v for n, v in initial.items()})
        values = {n: binding.value(f"{component}.{n}") for n in names}
    if function.local_gpu:
        settings = binding.defaults.resolved()
        values = move_to(values, device_of(settings), settings.dtype)
    if function.hp_type is not None:
        values["hp"] = function.hp_type.from_tensor(values["hp"])
    if not function.is_module:
        values = {n: v for n, v in values.items() if n in function.accepted_injections}
    binding.prepared[component] = values
    return values


async def _call_with_limits(
    function: Callee,
    component: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    injected: Mapping[str, Any],
    frame: Frame | None,
    tape: tapes.Tape | None,
) -> Any:
    """The call with its retries, timeout, call limit and tape entry."""
    binding = None if frame is None else frame.binding
    policy = function.policy
    retries, timeout_s = policy.retries, policy.timeout_s
    if policy.delegated:
        retries = timeout_s = None
    elif binding is None or not binding.defaults.none_apply:
        settings = settings_of(frame)
        retries = settings.retries if retries is None else retries
        timeout_s = settings.timeout_s if timeout_s is None else timeout_s
    retries = retries or 0
    if binding is not None and policy.max_calls is not None:
        made = binding.call_counts.get(component, 0)
        if made >= policy.max_calls:
            raise CallLimitError(f"{component} was called more than max_calls={policy.max_calls} times in one run")
        binding.call_counts[component] = made + 1
    call = None if tape is None else tape.begin(component, args, kwargs, tapes.current_call())
    injected = _not_given(function, injected, args, kwargs)
    task = asyncio.current_task()
    if binding is not None and task is not None:
        binding.in_flight.add(task)
    try:
        for attempt in range(retries + 1):
            try:
                if call is not None:
                    call.attempts = attempt + 1
                    with tapes.inside(call):
                        attempt_made = make_attempt(function, component, args, kwargs, injected, timeout_s, frame)
                        call.output = await tapes.watched(attempt_made, call)
                    return call.output
                return await make_attempt(function, component, args, kwargs, injected, timeout_s, frame)
            except HyperfuncError as error:
                if not error.retryable or attempt == retries:
                    raise
            except Exception:
                if attempt == retries:
                    raise
        raise AssertionError("unreachable")
    except BaseException as error:
        if call is not None:
            call.error = error
        raise
    finally:
        if call is not None and tape is not None:
            tape.finish(call)
        if binding is not None and task is not None:
            binding.in_flight.discard(task)
