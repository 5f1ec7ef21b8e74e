"""The queue in which the calls of concurrent runs meet: waits until nothing else can move, then runs the kernels.

A run that waits in the queue cannot move. Once every live run waits there, or once some passes of the event loop have
added nothing, the queue is flushed. Where runs are elsewhere (asleep, at a lock, in I/O) the queue first waits up to
``gather_wait_s`` for them. A wait that brought nothing doubles the number of flushes that go without one, so that
programs whose calls come one at a time by nature (a lock around them) are not slowed down by waiting.

Knows nothing of blocks, windows of tasks and outcomes.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any

from torch import Tensor

from hyperfunc.binding import Binding, CallDefaults, ComponentScope, active_frame
from hyperfunc.calling import make_alone
from hyperfunc.population.gathered_arguments import describe, flat_key
from hyperfunc.population.gathered_batched import BatchGroup, batch_key
from hyperfunc.population.gathered_calls import Component, GatheredCall, KernelGroup, Placement, UnprovenCall
from hyperfunc.population.gathered_kernel import ComponentParameters, kernel_rows
from hyperfunc.population.shared_replies import SharedReplies, call_key
from hyperfunc.scope import current_scope
from hyperfunc.settings import Settings, context_stack

__all__ = ["CallQueue", "MemberRun"]

_IDLE_PASSES = 3  # passes of the event loop: a gather or task group inside a program needs that many to go on
_MOST_GROUPS = 256  # per function: one that is called with ever new constants gains nothing from kernels
_LONGEST_BACKOFF = 1024  # flushes without a wait


class MemberRun:
    """One run of the program: one member on one example.

    Attributes:
        member: position in the block.
        slot: the row that this run's calls have in every kernel, before it is taken modulo the kernel's rows.
        binding: what it runs under; made with this object's ``route``.
    """

    __slots__ = ("binding", "member", "queue", "slot")

    binding: Binding

    def __init__(self, queue: CallQueue, member: int, slot: int) -> None:
        self.queue = queue
        self.member = member
        self.slot = slot

    def route(self, function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Awaitable[Any] | None:
        """Into the queue, or ``None`` where the call must be made here and now."""
        queue = self.queue
        if get_running_loop() is not queue.loop:
            return None  # a loop of its own in another thread, which could not be woken from here
        component = queue.components.get(name)
        if component is None or component.function is not function:
            component = queue.component(function, name)
        if queue.first_call is not None and not queue.first_call.refused:
            queue.first_call.refused = f"it calls the hyperfunction {name}"
        if context_stack() is not queue.unlimited:
            queue.made_alone(component, "limits of the settings apply to it")
            return None
        if component.refused:
            queue.made_alone(component, component.refused)
            return queue.shared_reply(component, args, kwargs) if component.shares_replies else None
        if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            tensor = args[0]
            group = component.of_one_tensor.get((tensor.shape, tensor.dtype, tensor.device))
            if group is not None and group.proven:
                call = GatheredCall(self, group, args, kwargs, args, queue.loop)
                calls = group.calls
                if calls and queue.check_due:  # most calls; the rest of enqueue() changes nothing then
                    calls.append(call)
                    queue.waiting += 1
                else:
                    queue.enqueue(group, call)
                return call
        return queue.offer(self, component, args, kwargs)


class CallQueue:
    """Calls that wait for a kernel or a batch.

    Args:
        scope: names the components.
        parameters_of: what the block gives to a component: ``(function, dotted name) -> parameters``, or the reason why
            its calls cannot be gathered.
        settings: ``gather_wait_s``, ``memory_bytes``, ``max_batch_size``, ``device``, ``dtype``.
        defaults: limits of calls that declare none; where any apply, calls are made alone.

    Attributes:
        live: number of runs that are alive; kept by the window.
        kernels: number of kernels and batches run so far.
        gathered_calls: number of calls that they answered.
        eager_calls: number of calls made alone.
        reasons: component -> why calls of it were first made alone.
        waiting: number of calls that wait.
        check_due: whether the event loop will look soon whether it is time for kernels.
    """

    def __init__(
        self,
        scope: ComponentScope,
        parameters_of: Callable[[Any, str], ComponentParameters | str],
        settings: Settings,
        defaults: CallDefaults,
    ) -> None:
        self.scope = scope
        self.settings = settings
        self.placement = Placement(settings)
        self.loop = get_running_loop()
        self.components: dict[str, Component] = {}
        self.first_call: KernelGroup | None = None  # the group whose first call is being made right now
        self.live = 0
        self.kernels = 0
        self.gathered_calls = 0
        self.eager_calls = 0
        self.reasons: dict[str, str] = {}
        self._replies = SharedReplies(self.loop)
        self.answered: list[GatheredCall] = []  # calls whose tasks have not been woken yet
        # The stack of `with Settings(...)` blocks under which no limits apply to calls that declare none.
        self.unlimited = context_stack() if defaults.none_apply else None
        self._parameters_of = parameters_of
        self._context = contextvars.copy_context()
        self._batches: set[asyncio.Task[None]] = set()
        self._filled: list[KernelGroup | BatchGroup] = []  # groups with waiting calls
        self.waiting = 0
        self._seen = 0  # _waiting at the last check
        self._idle = 0  # checks in a row that saw nothing new
        self.check_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._fruitless = 0  # waits in a row that brought nothing
        self._skip_waits = 0

    # --- calls come in -------------------------------------------------------------------------------------------

    def component(self, function: Any, name: str) -> Component:
        """Make the record of a function that is called for the first time under this name."""
        refused = ""
        parameters: ComponentParameters | None = None
        if function.policy.limits_calls:
            refused = "it has limits"
        elif function.performs_io and not function.batched:
            refused = "it performs I/O or has texts"
        else:
            found = self._parameters_of(function, name)
            if isinstance(found, str):
                refused = found
            else:
                parameters = found
        component = self.components[name] = Component(function, name, parameters, refused)
        counted = function.policy.max_calls is not None
        component.shares_replies = function.shares_replies and not counted and self._is_the_same_for_all(function, name)
        return component

    def _is_the_same_for_all(self, function: Any, name: str) -> bool:
        """Whether members share all parameters of ``function``, and replies are kept anyway."""
        if current_scope().store is None:
            return False
        parameters = self._parameters_of(function, name)
        return not isinstance(parameters, str) and not parameters.members

    def shared_reply(
        self, component: Component, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any] | None:
        """The reply that equal calls share, or ``None`` where the call must be made here and now."""
        key = call_key(component.name, args, kwargs)
        frame = active_frame.get()
        if key is None or frame is None:
            return None
        key = (key, component.function.reply_context())
        return self._replies.reply(key, lambda: make_alone(component.function, component.name, args, kwargs, frame))

    def made_alone(self, component: Component, reason: str) -> None:
        """Note that a call is made outside the queue, and the first reason for that."""
        self.eager_calls += 1
        self.reasons.setdefault(component.name, reason)

    def offer(
        self, run: MemberRun, component: Component, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Awaitable[Any] | None:
        """Take a call into its group, or return ``None``."""
        if len(args) > component.injected_position or not component.injected_names.isdisjoint(kwargs):
            self.made_alone(component, "the caller gave it its parameters")
            return None
        tensors: tuple[Tensor, ...] = ()
        key: Hashable
        group: KernelGroup | BatchGroup | None
        if component.function.batched:
            key = batch_key(component, run.member, args, kwargs)
            group = component.groups.get(key)
            if group is None:
                group = component.groups[key] = BatchGroup(component, self)
        else:
            flat = flat_key(args, kwargs)
            group = None if flat is None else component.groups.get(flat[0])
            if flat is None or group is None:
                described = describe(args, kwargs)
                if isinstance(described, str):
                    self.made_alone(component, described)
                    return None
                key, tensors, layout = described
            if flat is not None:
                key, tensors = flat
            group = component.groups.get(key)
            if group is None:
                if len(component.groups) >= _MOST_GROUPS:
                    self.made_alone(component, f"it is called in more than {_MOST_GROUPS} different ways")
                    return None
                assert component.parameters is not None
                inputs = sum(tensor.numel() for tensor in tensors)
                rows = kernel_rows(component.parameters, inputs, self.settings.memory_bytes)
                group = component.groups[key] = KernelGroup(component, self, layout, rows)
                if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
                    component.of_one_tensor[args[0].shape, args[0].dtype, args[0].device] = group
        if group.refused:
            self.made_alone(component, group.refused)
            return None
        call = GatheredCall(run, group, args, kwargs, tensors, self.loop)
        if not group.proven:
            return UnprovenCall(call)
        self.enqueue(group, call)
        return call

    def enqueue(self, group: KernelGroup | BatchGroup, call: GatheredCall) -> None:
        """Add a call that waits for its answer."""
        if not group.calls:
            self._filled.append(group)
        group.calls.append(call)
        self.waiting += 1
        if not self.check_due and (self._timer is None or self.waiting >= self.live):
            self._check_soon()

    # --- when ----------------------------------------------------------------------------------------------------

    def run_ended(self) -> None:
        """A run is no longer alive: the others may all be waiting now."""
        self.live -= 1
        if self._timer is not None and self.waiting >= self.live and not self.check_due:
            self._check_soon()

    def _check_soon(self) -> None:
        self.check_due = True
        self.loop.call_soon(self._check, context=self._context)

    def _check(self) -> None:
        self.check_due = False
        if self.waiting == 0:
            return
        if self.waiting < self.live:
            if self.waiting != self._seen:
                self._seen = self.waiting
                self._idle = 0
                self._check_soon()
                return
            self._idle += 1
            if self._idle < _IDLE_PASSES:
                self._check_soon()
                return
            if self._timer is None and self._should_wait():
                self._timer = self.loop.call_later(
                    self.settings.gather_wait_s or 0.0, self._waited, self.waiting, context=self._context
                )
                return
        self._flush()

    def _should_wait(self) -> bool:
        if not self.settings.gather_wait_s:
            return False
        if self._skip_waits:
            self._skip_waits -= 1
            return False
        return True

    def _waited(self, waiting_then: int) -> None:
        self._timer = None
        if self.waiting > waiting_then:
            self._fruitless = 0
        else:
            self._fruitless += 1
            self._skip_waits = min(2**self._fruitless, _LONGEST_BACKOFF)
        if not self.check_due:
            self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._fruitless = 0
        filled, self._filled = self._filled, []
        self.waiting = self._seen = self._idle = 0
        for group in filled:
            self._flush_group(group)
        self._wake()

    def _flush_group(self, group: KernelGroup | BatchGroup) -> None:
        calls = group.calls
        try:
            group.flush()
        except Exception as error:  # a fault of ours must not leave tasks waiting for ever
            for call in calls:
                if not call.resolved:
                    call.resolve(None, error)
                    self.answered.append(call)

    def _wake(self) -> None:
        """Let the tasks whose calls were answered go on, one after the other, right here."""
        answered, self.answered = self.answered, []
        answered.reverse()
        try:
            while answered:  # let go of each before the next: what is kept alive makes the garbage collector run
                call = answered.pop()
                if call.wakeup is not None and call.context is not None:
                    call.context.run(call.wakeup, call)
        finally:  # a task was interrupted (KeyboardInterrupt); the others must still hear of their answers
            for call in answered:
                self.loop.call_soon(call.wake)

    # --- batches and the end -------------------------------------------------------------------------------------

    def start(self, batch: Coroutine[Any, Any, None], context: contextvars.Context) -> None:
        """Run a batch in a task of its own."""
        task = self.loop.create_task(batch, context=context)
        self._batches.add(task)
        task.add_done_callback(self._batches.discard)

    def drop_calls_of(self, run: MemberRun) -> int:
        """Cancel the waiting calls of a run that has failed; returns how many."""
        dropped = 0
        for group in self._filled:
            for call in group.calls:
                if call.run is run and call.cancel():
                    dropped += 1
        return dropped

    async def close(self) -> None:
        """Cancel what is left, and wait for it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left = [call for group in self._filled for call in group.calls if call.cancel()]
        self._filled = []
        self.waiting = 0
        batches = list(self._batches)
        for task in batches:
            task.cancel()
        if batches:
            await asyncio.gather(*batches, return_exceptions=True)
        if left:
            for _ in range(_IDLE_PASSES):  # the tasks that awaited them end now
                await asyncio.sleep(0)
