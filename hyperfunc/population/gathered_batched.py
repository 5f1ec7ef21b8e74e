"""Calls of a ``batched=True`` function: whole batches handed to it as they are, for what vmap cannot do.

A batch has one set of parameters, so calls are grouped by member unless all members have the same. What a batch
contains depends on which calls came along, and so may the bits of its results: what the function does with a batch is
its own affair.

Knows nothing of when batches run.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Generator, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfunc.binding import Binding, Frame, active_frame
from hyperfunc.errors import ExecutionError
from hyperfunc.population.gathered_calls import EAGERLY, Component, GatheredCall, QueueOfCalls, in_flight

__all__ = ["BatchGroup", "batch_key"]


def batch_key(component: Component, member: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """The group of a call: equal shapes and dtypes where it has tensors, and one set of parameters."""
    assert component.parameters is not None
    owner = member if component.parameters.members else None
    return owner, tuple(map(_shape_key, args)), tuple((name, _shape_key(value)) for name, value in kwargs.items())


def _shape_key(value: Any) -> Hashable:
    return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else None


class BatchGroup:
    """Calls that may be one batch."""

    __slots__ = ("calls", "component", "most", "proven", "queue", "refused")

    def __init__(self, component: Component, queue: QueueOfCalls) -> None:
        self.component = component
        self.queue = queue
        self.calls: list[GatheredCall] = []
        self.proven = False  # its calls may always be given back
        self.refused = ""
        self.most: int | None = component.function.max_batch

    def answer(self, call: GatheredCall) -> Generator[Any, Any, Any]:
        """The result of ``call``."""
        self.queue.enqueue(self, call)
        answer = yield from call.__await__()
        if answer is not EAGERLY:
            return answer
        self.queue.made_alone(self.component, self.refused)
        return (yield from in_flight(call.run.binding, self._results([call])).__await__())[0]

    def flush(self) -> None:
        """Start the batches of every waiting call; each is a task of its own, since it may wait for something."""
        waiting, self.calls = self.calls, []
        calls = [call for call in waiting if not call.resolved]
        most = self.most or len(calls)
        for start in range(0, len(calls), most):
            context = contextvars.copy_context()
            context.run(active_frame.set, Frame(Binding({}, route=self._refuse_nested), self.queue.scope))
            self.queue.start(self._run(calls[start : start + most]), context)

    async def _run(self, calls: Sequence[GatheredCall]) -> None:
        try:
            results = await self._results(calls)
        except asyncio.CancelledError:
            for call in calls:
                call.cancel()
            raise
        except Exception as error:
            if self.refused:
                _set_results(calls, [EAGERLY] * len(calls))
            elif len(calls) == 1:
                calls[0].answer_soon(None, error)
            else:
                half = len(calls) // 2
                await self._run([call for call in calls[:half] if not call.resolved])
                await self._run([call for call in calls[half:] if not call.resolved])
        else:
            self.queue.kernels += 1
            self.queue.gathered_calls += len(calls)
            _set_results(calls, results)

    async def _results(self, calls: Sequence[GatheredCall]) -> Sequence[Any]:
        """The function on one batch, ``[K, …]`` tensors and lists of K; one result per call."""
        if not calls:
            return []
        function = self.component.function
        args: Any = tuple(_batch([call.args[i] for call in calls]) for i in range(len(calls[0].args)))
        kwargs: Any = {name: _batch([call.kwargs[name] for call in calls]) for name in calls[0].kwargs}
        injected: Any = calls[0].injected()
        if function.local_gpu:
            args, kwargs = self.queue.placement.moved((args, kwargs))
            injected = calls[0].placed(self.queue.placement)
        result = function.body(args, kwargs, injected)
        if inspect.isawaitable(result):
            result = await result
        if len(result) != len(calls):
            raise ExecutionError(
                f"{self.component.name} is batched: expected {len(calls)} results for {len(calls)} calls, "
                f"got {len(result)}"
            )
        results = result.unbind(0) if isinstance(result, Tensor) else list(result)
        return [call.brought_home(one) for call, one in zip(calls, results, strict=True)]

    def _refuse_nested(
        self, function: Any, component: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any] | None:
        self.refused = f"it calls the hyperfunction {component}, and a batch belongs to no single run"
        raise ExecutionError(f"{self.component.name}: {self.refused}")


def _batch(values: list[Any]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else values


def _set_results(calls: Sequence[GatheredCall], results: Sequence[Any]) -> None:
    for call, result in zip(calls, results, strict=True):
        call.answer_soon(result)
