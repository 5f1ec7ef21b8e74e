"""Calls of one hyperfunction that may share a kernel, from the first one made alone to the last one answered.

The first call of a group is made alone, by the task that made it: a function that really waits, or that calls other
hyperfunctions, is seen before a kernel could touch it. The value of that call must then come out of a kernel too. What
a kernel refuses is made one by one from then on, and the reason is kept. Where a kernel raises, halves of it are tried
until the guilty calls are found; only they fail.

Knows nothing of when kernels run.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Coroutine, Generator, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hyperfunc.binding import Binding, ComponentScope, Frame, bound
from hyperfunc.calling import prepare_injected
from hyperfunc.population.gathered_answer import Answer
from hyperfunc.population.gathered_arguments import Layout
from hyperfunc.population.gathered_kernel import ComponentParameters, GatheredKernel, KernelRefusedError
from hyperfunc.population.proof import first_difference
from hyperfunc.settings import Settings

__all__ = [
    "EAGERLY",
    "Component",
    "GatheredCall",
    "KernelGroup",
    "Placement",
    "QueueOfCalls",
    "RunOfMember",
    "UnprovenCall",
]

EAGERLY = object()
"""An answer: make this call alone after all."""


class Placement:
    """Where ``local_gpu`` functions run: moves what they take there, and what they give back."""

    def __init__(self, settings: Settings) -> None:
        self.device = torch.device(settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = settings.dtype

    def moved(self, tree: Any) -> Any:
        """``tree`` with its tensors on the device, floating ones in the dtype of the settings."""
        return pytree.tree_map_only(
            Tensor, lambda t: t.to(self.device, self.dtype if t.dtype.is_floating_point else t.dtype), tree
        )


class RunOfMember(Protocol):
    """What a call needs of the run that made it."""

    binding: Binding
    member: int
    slot: int


class QueueOfCalls(Protocol):
    """What a group needs of its queue."""

    scope: ComponentScope
    settings: Settings
    placement: Placement
    first_call: KernelGroup | None
    kernels: int
    gathered_calls: int
    answered: list[GatheredCall]

    def enqueue(self, group: Any, call: GatheredCall) -> None: ...

    def made_alone(self, component: Component, reason: str) -> None: ...

    def start(self, batch: Coroutine[Any, Any, None], context: contextvars.Context) -> None: ...


class Component:
    """One hyperfunction under one name.

    Attributes:
        parameters: what the block gives to it.
        refused: why none of its calls can be gathered; empty where they can.
        groups: its calls by structure, shapes, dtypes and constants.
        shares_replies: equal calls of different members have one answer.
        of_one_tensor: groups of calls with one tensor as their only argument, by its shape, dtype and device.
    """

    __slots__ = (
        "function",
        "groups",
        "injected_names",
        "injected_position",
        "name",
        "of_one_tensor",
        "parameters",
        "refused",
        "shares_replies",
    )

    def __init__(self, function: Any, name: str, parameters: ComponentParameters | None, refused: str = "") -> None:
        self.function = function
        self.name = name
        self.parameters = parameters
        self.refused = refused
        self.shares_replies = False
        self.groups: dict[Hashable, Any] = {}
        self.of_one_tensor: dict[Hashable, KernelGroup] = {}
        self.injected_names: frozenset[str] = function.accepted_injections
        self.injected_position: int = function.injected_position


class GatheredCall(Answer):
    """A call on its way into a kernel, and the awaitable of its result."""

    __slots__ = ("args", "group", "kwargs", "run", "tensors")

    def __init__(
        self,
        run: RunOfMember,
        group: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        tensors: tuple[Tensor, ...],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # What Answer.__init__ does, without the call of it: this is made for every call of a program.
        self.loop = loop
        self.resolved = False
        self.value = self.error = self.wakeup = self.context = None
        self._asyncio_future_blocking = False
        self.run = run
        self.group = group
        self.args = args
        self.kwargs = kwargs
        self.tensors = tensors

    def injected(self) -> Mapping[str, Any]:
        """The injected arguments of this call's component for its member."""
        component: Component = self.group.component
        binding = self.run.binding
        known: Mapping[str, Any] | None = binding.prepared.get(component.name)
        scope: ComponentScope = self.group.queue.scope
        return (
            known if known is not None else prepare_injected(component.function, component.name, Frame(binding, scope))
        )

    def body(self) -> Any:
        """What the bare function gives for this call: a value, or an awaitable of it."""
        function = self.group.component.function
        if not function.local_gpu:
            return function.body(self.args, self.kwargs, self.injected())
        placement: Placement = self.group.queue.placement
        args, kwargs = placement.moved((self.args, self.kwargs))
        return function.body(args, kwargs, self.placed(placement))

    def placed(self, placement: Placement) -> dict[str, Any]:
        """The injected arguments on the device: tensors are moved before a parameter type hides them in an object."""
        component: Component = self.group.component
        function = component.function
        names = [spec.name for spec in function.tensor_specs] + list(function.texts)
        values = placement.moved({name: self.run.binding.value(f"{component.name}.{name}") for name in names})
        if function.hp_type is not None:
            values["hp"] = function.hp_type.from_tensor(values["hp"])
        if not function.is_module:
            values = {name: value for name, value in values.items() if name in function.accepted_injections}
        return dict(values)

    def brought_home(self, result: Any) -> Any:
        """``result`` on the device that the arguments came from."""
        if not self.group.component.function.local_gpu:
            return result
        tensors = [leaf for leaf in pytree.tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]
        if not tensors:
            return result
        home = tensors[0].device
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(home), result)

    async def alone(self) -> Any:
        """The call by itself, in the task that made it."""
        result = self.body()
        if inspect.isawaitable(result):
            result = await in_flight(self.run.binding, result)
        return self.brought_home(result)


class UnprovenCall:
    """The awaitable of a call that may turn out to be made alone."""

    __slots__ = ("_call",)

    def __init__(self, call: GatheredCall) -> None:
        self._call = call

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._call.group.answer(self._call))


async def in_flight(binding: Binding, result: Any) -> Any:
    """Await ``result``; if the run fails meanwhile, this task is cancelled with it."""
    task = asyncio.current_task()
    assert task is not None
    binding.in_flight.add(task)
    try:
        return await result
    finally:
        binding.in_flight.discard(task)


class KernelGroup:
    """Calls that may share a kernel, waiting or not.

    Attributes:
        calls: those that wait.
        proven: a kernel gave what the first call gave alone; from then on calls are awaited as they are.
        refused: why its calls are made alone; empty where they are not.
    """

    __slots__ = ("_reference", "calls", "component", "kernel", "most", "proven", "queue", "refused")

    def __init__(self, component: Component, queue: QueueOfCalls, layout: Layout, rows: int) -> None:
        self.component = component
        self.queue = queue
        self.calls: list[GatheredCall] = []
        self.proven = False
        self.refused = ""
        self.most = min(rows, queue.settings.max_batch_size or rows)
        self._reference: tuple[GatheredCall, Any] | None = None
        assert component.parameters is not None
        placement = queue.placement if component.function.local_gpu else None
        self.kernel = GatheredKernel(
            component.function,
            component.parameters,
            layout,
            rows,
            queue.scope,
            device=None if placement is None else placement.device,
            dtype=None if placement is None else placement.dtype,
        )

    # --- before anything is proven -------------------------------------------------------------------------------

    def answer(self, call: GatheredCall) -> Generator[Any, Any, Any]:
        """The result of a call made before the group was proven."""
        value = EAGERLY
        if self._reference is None and not self.refused:
            made_alone, value = yield from self._first(call)
            if made_alone:
                return value
        if not self.refused:
            self.queue.enqueue(self, call)
            answer = yield from call.__await__()
            if answer is not EAGERLY:
                return answer
        self.queue.made_alone(self.component, self.refused)
        if value is not EAGERLY:
            return value  # this was the first call; it has been made
        return (yield from call.alone().__await__())

    def _first(self, call: GatheredCall) -> Generator[Any, Any, tuple[bool, Any]]:
        """Make the call alone and see what kind of function it is: ``(whether that settles it, its value)``."""
        result = call.alone().__await__()
        around, self.queue.first_call = self.queue.first_call, self
        try:
            waiting_for = next(result)
        except StopIteration as stop:
            if self.refused:  # it called another hyperfunction
                self.queue.made_alone(self.component, self.refused)
                return True, stop.value
            self._reference = (call, stop.value)
            return False, stop.value
        finally:
            self.queue.first_call = around
        self.refused = self.refused or "it waits for something"
        self.queue.made_alone(self.component, self.refused)
        return True, (yield from _rest_of(result, waiting_for))

    def _prove(self) -> None:
        """Run the first call in a kernel of its own; its value must be the one that it had alone."""
        assert self._reference is not None
        call, alone = self._reference
        try:
            (value,) = self.kernel([call.run.slot % self.kernel.rows], [call.run.member], [call.tensors])
        except KernelRefusedError as refusal:
            self.refused = str(refusal)
        except Exception as error:
            self.refused = f"vmap refuses it: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        else:
            try:
                found = first_difference([(value, alone)])
            except Exception as error:
                found = (0, f"its result cannot be compared: {type(error).__name__}: {error}")
            if found is None:
                self.proven = True
            else:
                self.refused = f"in a kernel it gives another result: {found[1]}"
        self._reference = (call, None)

    # --- kernels -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Answer every waiting call."""
        waiting, self.calls = self.calls, []
        calls = [call for call in waiting if not call.resolved]
        if not calls:
            return
        if not self.proven and not self.refused:
            self._prove()
        if self.refused:
            self._give_back(calls)
            return
        for slots, batch in _packed(calls, self.kernel.rows, self.most):
            self._run(slots, batch)

    def _run(self, slots: Sequence[int], calls: Sequence[GatheredCall]) -> None:
        try:
            results = self.kernel(slots, [call.run.member for call in calls], [call.tensors for call in calls])
        except KernelRefusedError as refusal:
            self.refused = str(refusal)
            self._make_here(calls)
        except Exception:
            if len(calls) == 1:
                self._make_here(calls)
                return
            half = len(calls) // 2
            self._run(slots[:half], calls[:half])
            self._run(slots[half:], calls[half:])
        else:
            self.queue.kernels += 1
            self.queue.gathered_calls += len(calls)
            for call, result in zip(calls, results, strict=True):
                call.value = result
                call.resolved = True
            self.queue.answered += calls

    def _give_back(self, calls: Sequence[GatheredCall]) -> None:
        for call in calls:
            call.resolve(EAGERLY)
        self.queue.answered += calls

    def _make_here(self, calls: Sequence[GatheredCall]) -> None:
        """Make calls one by one, whose tasks await nothing but their values. What they raise alone is what they
        raise."""
        for call in calls:
            self.queue.made_alone(self.component, self.refused or "a kernel with it raised")
            try:
                with torch.no_grad(), bound(self.kernel.frame):
                    result = call.brought_home(self.component.function.drive(call.body()))
            except Exception as error:
                call.resolve(None, error)
            else:
                call.resolve(result)
        self.queue.answered += calls


def _packed(
    calls: list[GatheredCall], rows: int, most: int
) -> Generator[tuple[Sequence[int], Sequence[GatheredCall]], None, None]:
    """Kernels in which every call has its own row: a run with several calls needs several kernels."""
    slots = [call.run.slot % rows for call in calls]
    if len(calls) <= most and len(set(slots)) == len(slots):
        yield slots, calls
        return
    layers: list[tuple[list[int], list[GatheredCall]]] = []
    depth: dict[int, int] = {}
    for slot, call in zip(slots, calls, strict=True):
        layer = depth.get(slot, 0)
        depth[slot] = layer + 1
        if layer == len(layers):
            layers.append(([], []))
        layers[layer][0].append(slot)
        layers[layer][1].append(call)
    for used, together in layers:
        for start in range(0, len(together), most):
            yield used[start : start + most], together[start : start + most]


def _rest_of(started: Generator[Any, Any, Any], waiting_for: Any) -> Generator[Any, Any, Any]:
    """``yield from`` a generator that has already yielded once."""
    try:
        while True:
            try:
                reply = yield waiting_for
            except GeneratorExit:
                started.close()
                raise
            except BaseException as error:
                waiting_for = started.throw(error)
            else:
                waiting_for = started.send(reply)
    except StopIteration as stop:
        return stop.value
