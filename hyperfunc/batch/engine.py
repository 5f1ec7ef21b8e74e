"""Run an async function over many inputs with bounded memory. Knows nothing of models, systems or limits.

    feeder ── bounded queue of inputs ──> workers ── bounded queue of results ──> the reader

The reader drives: when it stops reading, the result queue fills, the workers wait, the feeder stops pulling.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sized
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from hyperfunc.batch.artifacts import Artifacts, OpenArtifacts
from hyperfunc.batch.concurrency import MeasuredConcurrency, Slots
from hyperfunc.batch.results import BatchResult, BatchStoppedError, FatalError, Termination
from hyperfunc.errors import ConfigurationError
from hyperfunc.scope import UsageLedger, current_scope, enter_scope

__all__ = ["Batch", "batch"]

T = TypeVar("T")
R = TypeVar("R")

FailFast = bool | Callable[[Exception], bool]


def batch(
    fn: Callable[[T], Awaitable[R]],
    inputs: Iterable[T] | AsyncIterable[T],
    *,
    concurrency: int | MeasuredConcurrency = 64,
    input_queue: int | None = None,
    result_queue: int | None = None,
    order: Literal["input", "completion"] = "input",
    on_progress: Callable[[int, int | None], None] | None = None,
    artifacts: Artifacts | str | Path | None = None,
    fail_fast: FailFast = True,
    deadline_s: float | None = None,
) -> Batch[T, R]:
    """Run ``fn`` on every input; read the results with ``async for``.

    Leaving the loop early cancels what runs and closes the source. For that to have happened before the next line, use
    ``async with batch(...) as results: async for result in results``.

    Args:
        fn: called as ``await fn(item)``, in a task of its own context.
        inputs: any iterable or async iterable; pulled only as far as the queues allow.
        concurrency: calls of ``fn`` at a time, or limits between which it follows the measured throughput.
        input_queue, result_queue: most inputs pulled ahead and most results not yet read (default: ``concurrency``, or
            the most of it).
            At most ``result_queue + concurrency`` results exist unread.
        order: results in the order of inputs, or as they complete.
        on_progress: called with (results so far, number of inputs or ``None``) before each result is handed out.
        artifacts: keep results in a JSON-lines file, and take those that are there already (a path is
            ``Artifacts(path)``).
        fail_fast: stop accepting inputs at the first :class:`FatalError` (``True``), never (``False``), or at the
            first error for which the function returns true. Calls in flight end by themselves; accepted inputs that
            have not started get a :class:`BatchStoppedError`.
        deadline_s: after so many seconds calls in flight are cancelled; accepted inputs get a
            :class:`BatchStoppedError`.

    Returns:
        A :class:`Batch`, to be iterated over once.

    Raises:
        ConfigurationError: sizes below 1, or an unknown order.
    """
    slots = Slots(concurrency) if isinstance(concurrency, MeasuredConcurrency) else None
    most = concurrency.most if isinstance(concurrency, MeasuredConcurrency) else concurrency
    for name, size in (("concurrency", most), ("input_queue", input_queue), ("result_queue", result_queue)):
        if size is not None and size < 1:
            raise ConfigurationError(f"{name}: expected a whole number >= 1, got {size}")
    if order not in ("input", "completion"):
        raise ConfigurationError(f"order: expected 'input' or 'completion', got {order!r}")
    if isinstance(artifacts, (str, Path)):
        artifacts = Artifacts(artifacts)
    return Batch(
        fn,
        inputs,
        most,
        slots,
        input_queue or most,
        result_queue or most,
        order,
        on_progress,
        artifacts,
        fail_fast,
        deadline_s,
    )


class Batch(Generic[T, R]):
    """A batch being run; made by :func:`batch`.

    Attributes:
        termination: why it ended; ``None`` while it runs.
        completed: results handed out so far.
        accepted: inputs pulled from the source so far.
    """

    def __init__(
        self,
        fn: Callable[[T], Awaitable[R]],
        inputs: Iterable[T] | AsyncIterable[T],
        concurrency: int,
        slots: Slots | None,
        input_queue: int,
        result_queue: int,
        order: Literal["input", "completion"],
        on_progress: Callable[[int, int | None], None] | None,
        artifacts: Artifacts | None,
        fail_fast: FailFast,
        deadline_s: float | None,
    ) -> None:
        self.termination: Termination | None = None
        self.completed = 0
        self.accepted = 0
        self._fn = fn
        self._inputs = inputs
        self._total = len(inputs) if isinstance(inputs, Sized) else None
        self._concurrency, self._order, self._on_progress = concurrency, order, on_progress
        self._slots: contextlib.AbstractAsyncContextManager[object] = slots or contextlib.nullcontext()
        self._artifacts, self._fail_fast, self._deadline_s = artifacts, fail_fast, deadline_s
        self._pending: asyncio.Queue[tuple[int, T, str] | None] = asyncio.Queue(input_queue)
        self._results: asyncio.Queue[BatchResult[T, R] | None] = asyncio.Queue(result_queue)
        self._window = concurrency + result_queue
        self._room = asyncio.Condition()
        self._stopped = asyncio.Event()
        self._running: set[asyncio.Task[Any]] = set()
        self._puller: asyncio.Task[None] | None = None
        self._source_error: BaseException | None = None
        self._generator: AsyncGenerator[BatchResult[T, R], None] | None = None

    def __aiter__(self) -> AsyncIterator[BatchResult[T, R]]:
        if self._generator is not None:
            raise ConfigurationError("this batch was already read; make another one to run the inputs again")
        self._generator = self._run()
        # Held by the loop over it alone, so that leaving the loop ends the batch.
        generator, self._generator = self._generator, _spent()
        return generator

    async def __aenter__(self) -> Batch[T, R]:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.shutdown("cancel", _kind="abandoned")

    async def shutdown(
        self, mode: Literal["drain", "cancel"] = "drain", *, _kind: Literal["shutdown", "abandoned"] = "shutdown"
    ) -> None:
        """Accept no more inputs. ``drain`` lets calls in flight end, ``cancel`` cancels them. Whoever reads still gets
        one result for every accepted input. Returns when no call runs any more."""
        self._stop(Termination(_kind))
        if mode == "cancel":
            self._cancel_running()
        while self._running:
            await asyncio.wait(set(self._running))

    def _stop(self, termination: Termination) -> None:
        if not self._stopped.is_set():
            self.termination = termination
            self._stopped.set()
            if self._puller is not None:
                self._puller.cancel()

    def _cancel_running(self) -> None:
        for task in self._running:
            task.cancel()

    async def _run(self) -> AsyncGenerator[BatchResult[T, R], None]:
        store = None if self._artifacts is None else self._artifacts.open()
        tasks: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._feed(store)),
            asyncio.create_task(self._watch_deadline()),
        ]
        workers = [asyncio.create_task(self._work(store)) for _ in range(self._concurrency)]
        tasks.append(asyncio.create_task(self._finish(workers)))
        finished = False
        try:
            async for result in self._ordered():
                self.completed += 1
                if self._on_progress is not None:
                    self._on_progress(self.completed, self._total)
                yield result
            finished = True
        finally:
            self._stop(Termination("completed" if finished else "abandoned"))
            tasks += [*workers, *self._running, *([] if self._puller is None else [self._puller])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if store is not None:
                store.close()
        if self._source_error is not None:
            raise self._source_error

    async def _ordered(self) -> AsyncIterator[BatchResult[T, R]]:
        """Results in the order asked for; holds back at most what the window allows."""
        early: dict[int, BatchResult[T, R]] = {}
        following = 0
        while (result := await self._results.get()) is not None:
            if self._order == "completion":
                yield result
                continue
            early[result.index] = result
            del result  # it may be handed out long before the next one comes
            while following in early:
                yield early.pop(following)
                following += 1
                async with self._room:
                    self._room.notify_all()

    async def _feed(self, store: OpenArtifacts | None) -> None:
        """Pull inputs, until there are no more or the batch is stopped; then tell every worker."""
        self._puller = asyncio.create_task(self._pull(store))
        if self._stopped.is_set():
            self._puller.cancel()
        try:
            await asyncio.wait((self._puller,))
        finally:
            self._puller.cancel()
        if not self._puller.cancelled():  # a failing source: what was accepted still gets its results
            self._source_error = self._puller.exception()
        for _ in range(self._concurrency):
            await self._pending.put(None)

    async def _pull(self, store: OpenArtifacts | None) -> None:
        async with contextlib.aclosing(_as_async(self._inputs)) as source:
            async for item in source:
                key = "" if store is None else store.key(item)
                await self._pending.put((self.accepted, item, key))
                self.accepted += 1  # after the put: what a stop cancels here was not accepted

    async def _work(self, store: OpenArtifacts | None) -> None:
        while (entry := await self._pending.get()) is not None:
            index, item, key = entry
            if self._order == "input":
                async with self._room:
                    await self._room.wait_for(lambda index=index: index < self.completed + self._window)  # type: ignore[misc]
            # No name for the result: the worker would keep it while it waits for its next one.
            await self._results.put(await self._one(index, item, key, store))

    async def _one(self, index: int, item: T, key: str, store: OpenArtifacts | None) -> BatchResult[T, R]:
        earlier = None if store is None else store.find(key, index, item)
        if earlier is not None:
            return earlier
        async with self._slots:
            return await self._call(index, item, key, store)

    async def _call(self, index: int, item: T, key: str, store: OpenArtifacts | None) -> BatchResult[T, R]:
        if self._stopped.is_set():
            return BatchResult(index, item, error=self._stopped_error("was not started"))
        outer = current_scope().ledger
        ledger = UsageLedger(on_record=None if outer is None else outer.record)
        start = time.perf_counter()
        with enter_scope(ledger=ledger, example=index):
            task = asyncio.create_task(_awaited(self._fn, item))
        self._running.add(task)
        output: R | None = None
        error: Exception | None = None
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()  # only does something when this worker itself is being cancelled
            self._running.discard(task)
        if task.cancelled():
            error = self._stopped_error("was cancelled")
        elif isinstance(raised := task.exception(), Exception):
            error = raised
            if self._stops(raised):
                self._stop(Termination("fatal", raised))
        elif raised is not None:  # KeyboardInterrupt, SystemExit
            raise raised
        else:
            output = task.result()
        result = BatchResult(index, item, output, error, ledger.total, time.perf_counter() - start)
        if store is not None and not isinstance(error, BatchStoppedError):
            store.append(key, result)
        return result

    def _stops(self, error: Exception) -> bool:
        if isinstance(self._fail_fast, bool):
            return self._fail_fast and isinstance(error, FatalError)
        return self._fail_fast(error)

    def _stopped_error(self, what: str) -> BatchStoppedError:
        kind = "cancelled from inside" if self.termination is None else self.termination.kind
        error = None if self.termination is None else self.termination.error
        reason = f"{kind}: {error}" if error is not None else kind
        return BatchStoppedError(f"this input {what}, because its batch stopped ({reason})")

    async def _finish(self, workers: list[asyncio.Task[None]]) -> None:
        """Tell the reader that no more results come."""
        try:
            await asyncio.gather(*workers)
        except Exception as error:  # a worker itself failed: a full disk, an encoder of the user's
            self._source_error = error
            self._stop(Termination("fatal", error))
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        await self._results.put(None)

    async def _watch_deadline(self) -> None:
        if self._deadline_s is not None:
            await asyncio.sleep(self._deadline_s)
            self._stop(Termination("deadline"))
            self._cancel_running()


async def _awaited(fn: Callable[[T], Awaitable[R]], item: T) -> R:
    return await fn(item)


async def _spent() -> AsyncGenerator[Any, None]:
    return
    yield


async def _as_async(inputs: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
    if isinstance(inputs, AsyncIterable):
        if isinstance(inputs, AsyncGenerator):
            async with contextlib.aclosing(inputs):
                async for item in inputs:
                    yield item
        else:
            async for item in inputs:
                yield item
        return
    for item in inputs:
        yield item
