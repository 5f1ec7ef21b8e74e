"""One attempt of a call: the function's body on its device, against its clock.

Knows nothing of repeats, tapes or where parameters come from.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.binding import Frame
from hyperfunc.callee import Callee
from hyperfunc.errors import CallTimeoutError, ExecutionError
from hyperfunc.settings import Settings, context_settings

__all__ = ["device_of", "make_attempt", "move_to", "settings_of"]


def settings_of(frame: Frame | None) -> Settings:
    """The settings that hold in ``frame``, or outside every run."""
    return context_settings() if frame is None else frame.binding.defaults.resolved()


async def make_attempt(
    function: Callee,
    component: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    injected: Mapping[str, Any],
    timeout_s: float | None,
    frame: Frame | None,
) -> Any:
    """The function's body, once, on its device and against its clock."""
    if function.local_gpu:
        settings = settings_of(frame)
        home = next((leaf.device for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)), None)
        args, kwargs = move_to((args, kwargs), device_of(settings), settings.dtype)
        result = await _bare(function, component, args, kwargs, injected, timeout_s)
        return result if home is None else move_to(result, home, None)
    return await _bare(function, component, args, kwargs, injected, timeout_s)


def device_of(settings: Settings) -> torch.device:
    """Where functions on a local accelerator run."""
    return torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))


def move_to(tree: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    """``tree`` with its tensors on ``device``, those of floating point as ``dtype``."""

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
