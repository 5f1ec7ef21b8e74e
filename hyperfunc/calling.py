"""One call of a hyperfunction: parameters looked up, limits kept, the tape written.

The awaitable that a call gives is :class:`PendingCall`. It starts when awaited; as an argument of another call it is
awaited there; read as a value by mistake (in an f-string, a condition, a loop) it raises instead of lying.
Knows nothing of how hyperfunctions are declared or of how populations are run.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc import tape as tapes
from hyperfunc.binding import Frame
from hyperfunc.errors import (
    CallLimitError,
    CallTimeoutError,
    ConfigurationError,
    ExecutionError,
    HyperfuncError,
    UnboundError,
)
from hyperfunc.parameters.protocol import TensorSpec
from hyperfunc.parameters.text import TextParam
from hyperfunc.settings import Settings, context_settings

__all__ = ["CallPolicy", "Callee", "PendingCall", "prepare_injected"]

R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """Limits of one component's calls; ``None``: not said here, the settings decide (``max_calls``: no limit)."""

    retries: int | None = None
    timeout_s: float | None = None
    max_calls: int | None = None

    def __post_init__(self) -> None:
        if self.retries is not None and self.retries < 0:
            raise ConfigurationError(f"retries: expected a whole number >= 0, got {self.retries}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ConfigurationError(f"timeout_s: expected seconds > 0, got {self.timeout_s}")
        if self.max_calls is not None and self.max_calls < 1:
            raise ConfigurationError(f"max_calls: expected a whole number >= 1, got {self.max_calls}")

    @property
    def limits_calls(self) -> bool:
        return bool(self.retries) or self.timeout_s is not None or self.max_calls is not None

    def replaced(self, **changes: Any) -> CallPolicy:
        given = {k: v for k, v in changes.items() if v is not None}
        return CallPolicy(
            **{"retries": self.retries, "timeout_s": self.timeout_s, "max_calls": self.max_calls, **given}
        )


class Callee(Protocol):
    """What a call needs of its hyperfunction."""

    name: str
    policy: CallPolicy
    is_module: bool
    is_async: bool
    batched: bool
    local_gpu: bool
    hp_type: type[Any] | None
    tensor_specs: tuple[TensorSpec, ...]
    texts: dict[str, TextParam]
    accepted_injections: frozenset[str]
    injected_position: int

    def body(self, args: tuple[Any, ...], kwargs: dict[str, Any], injected: Mapping[str, Any]) -> Any: ...


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
        values = _moved(values, _device(settings), settings.dtype)
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
    retries, timeout_s = function.policy.retries, function.policy.timeout_s
    if binding is None or not binding.defaults.none_apply:
        settings = _settings(frame)
        retries = settings.retries if retries is None else retries
        timeout_s = settings.timeout_s if timeout_s is None else timeout_s
    retries = retries or 0
    if binding is not None and function.policy.max_calls is not None:
        made = binding.call_counts.get(component, 0)
        if made >= function.policy.max_calls:
            raise CallLimitError(
                f"{component} was called more than max_calls={function.policy.max_calls} times in one run"
            )
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
                        attempt_made = _attempt(function, component, args, kwargs, injected, timeout_s, frame)
                        call.output = await tapes.watched(attempt_made, call)
                    return call.output
                return await _attempt(function, component, args, kwargs, injected, timeout_s, frame)
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


async def _attempt(
    function: Callee,
    component: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    injected: Mapping[str, Any],
    timeout_s: float | None,
    frame: Frame | None,
) -> Any:
    if function.local_gpu:
        settings = _settings(frame)
        home = next((leaf.device for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)
        args, kwargs = _moved((args, kwargs), _device(settings), settings.dtype)
        result = await _bare(function, component, args, kwargs, injected, timeout_s)
        return result if home is None else _moved(result, home, None)
    return await _bare(function, component, args, kwargs, injected, timeout_s)


def _settings(frame: Frame | None) -> Settings:
    return context_settings() if frame is None else frame.binding.defaults.resolved()


def _device(settings: Settings) -> torch.device:
    return torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _moved(tree: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype=dtype if dtype is not None and leaf.dtype.is_floating_point else leaf.dtype)

    return pytree.tree_map(move, tree)


async def _bare(
    function: Callee,
    component: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    injected: Mapping[str, Any],
    timeout_s: float | None,
) -> Any:
    if function.batched:
        args, kwargs = _batch_of_one(args, kwargs)
    if timeout_s is None:
        result = function.body(args, kwargs, injected)
        result = await result if inspect.isawaitable(result) else result
    elif function.is_async:
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                result = await function.body(args, kwargs, injected)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise CallTimeoutError(f"{component} did not end within timeout_s={timeout_s}") from error
    else:
        result = await _in_thread(component, lambda: function.body(args, kwargs, injected), timeout_s)
    return _only(component, result) if function.batched else result


def _batch_of_one(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def stack(leaf: Any) -> Any:
        return leaf.unsqueeze(0) if isinstance(leaf, Tensor) else [leaf]

    return tuple(stack(a) for a in args), {k: stack(v) for k, v in kwargs.items()}


def _only(component: str, result: Any) -> Any:
    if len(result) != 1:
        raise ExecutionError(f"{component} is batched: expected 1 result for 1 call, got {len(result)}")
    return result[0]


def _carried(error: StopIteration) -> RuntimeError:
    carried = RuntimeError(f"the function raised StopIteration: {error}")
    carried.__cause__ = error
    return carried


async def _in_thread(component: str, work: Callable[[], Any], timeout_s: float) -> Any:
    """Run ``work`` in a daemon thread (with this context) for at most ``timeout_s``; a late result is discarded."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def deliver(setter: Callable[[Any], None], value: Any) -> None:
        if not done.done():
            setter(value)

    def run() -> None:
        try:
            value = context.run(work)
        except StopIteration as error:  # a future cannot carry it (nor could a coroutine)
            outcome: tuple[Callable[[Any], None], Any] = (done.set_exception, _carried(error))
        except BaseException as error:
            outcome = (done.set_exception, error)
        else:
            outcome = (done.set_result, value)
        try:
            loop.call_soon_threadsafe(deliver, *outcome)
        except RuntimeError:  # the loop has closed: nobody waits for this result any more
            pass

    threading.Thread(target=run, name=f"hyperfunc-{component}", daemon=True).start()
    try:
        async with asyncio.timeout(timeout_s) as deadline:
            return await done
    except TimeoutError as error:
        if not deadline.expired():
            raise
        raise CallTimeoutError(f"{component} did not end within timeout_s={timeout_s}") from error
