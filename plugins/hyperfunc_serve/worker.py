"""One model at work: a thread that runs the engine, fed from the event loop.

Requests of all connections share the engine's batch. Tokens go back to the loop in the step that computed them. A
request that fails, or whose client left, ends alone.
"""

from __future__ import annotations

import asyncio
import builtins
import queue
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hyperfunc_local.engine import Engine, Generation, GenerationRequest
from hyperfunc_local.errors import GrammarError, LocalModelError
from hyperfunc_local.model import LocalModel
from hyperfunc_local.sampling.grammar import GrammarCompiler
from hyperfunc_local.sampling.sampler import LogitsProcessor
from hyperfunc_local.text import TextStream
from hyperfunc_serve.errors import RequestError, ServeError

__all__ = ["ModelWorker", "Piece", "WorkerCounters"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step added to an answer.

    Attributes:
        text: whole characters; may be empty.
        token: the new id; ``None`` at an end without one.
        index: number of tokens in the answer after it.
        generation: the answer itself; read it when ``last``.
        last: nothing comes after this piece.
    """

    text: str
    token: int | None
    index: int
    generation: Generation
    last: bool


@dataclass(slots=True)
class WorkerCounters:
    """Counted by the worker's thread, read by the metrics."""

    steps: int = 0
    rows: int = 0
    tokens: int = 0
    cancelled: int = 0


class _Job:
    def __init__(self, request: GenerationRequest, loop: asyncio.AbstractEventLoop) -> None:
        self.request = request
        self.loop = loop
        self.pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        self.generation: Generation | None = None
        self.stream: TextStream | None = None
        self.error: BaseException | None = None

    def guard(self, processor: LogitsProcessor) -> LogitsProcessor:
        """A processor that fails must not take the batch with it: its request ends, the step goes on."""

        def guarded(answer: Sequence[int], logits: Tensor) -> Tensor:
            if self.error is not None:
                return logits
            try:
                changed = processor(answer, logits)
                if not bool((changed > -torch.inf).any()):
                    raise GrammarError("no token can continue this answer")
            except Exception as error:
                self.error = error
                return torch.zeros_like(logits)
            return changed

        return guarded


_CLOSE = object()


class ModelWorker:
    """Runs one model for many clients.

    Args:
        slots: answers computed at once.
        max_waiting: answers that may wait; more are refused.
    """

    def __init__(self, model: LocalModel, *, slots: int = 16, max_waiting: int = 256) -> None:
        self.model = model
        self.counters = WorkerCounters()
        self._slots = slots
        self._max_waiting = max_waiting
        self._commands: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._jobs: dict[int, _Job] = {}
        self._pending = 0
        self._pending_lock = threading.Lock()
        self._closed = False
        self._grammars: GrammarCompiler | None = None
        self._grammar_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"hyperfunc-serve {model.name}", daemon=True)
        self._thread.start()

    @property
    def bytes(self) -> int:
        return self.model.bytes

    @property
    def pending(self) -> int:
        """Answers that are computed or wait."""
        return self._pending

    def grammars(self) -> GrammarCompiler:
        """The grammar compiler of this model's vocabulary, made at first use.

        Raises:
            RequestError: the model has no tokenizer or no end token.
        """
        tokenizer, stop_ids = self.model.tokenizer, self.model.config.stop_ids
        if tokenizer is None or not stop_ids:
            raise RequestError(400, "this model has no tokenizer or no end token: its answers cannot follow a schema")
        with self._grammar_lock:
            if self._grammars is None:
                self._grammars = GrammarCompiler(tokenizer, self.model.config.vocabulary, stop_ids[0])
            return self._grammars

    @cached_property
    def token_bytes(self) -> list[builtins.bytes]:
        """What each id spells; empty for special tokens, and without a tokenizer."""
        return self.model.tokenizer.token_bytes() if self.model.tokenizer is not None else []

    def check_room(self, count: int) -> None:
        """Raises RequestError (429): ``count`` more answers are too many."""
        if self._pending + count > self._slots + self._max_waiting:
            raise RequestError(
                429, f"{self._pending} answers are computed or wait already; try again later", code="overloaded"
            )

    async def stream(self, request: GenerationRequest) -> AsyncIterator[Piece]:
        """The pieces of one answer, as they are computed. Leaving the iteration early ends the answer.

        Raises:
            LocalModelError: the request does not fit the model.
            ServeError: the worker was closed.
        """
        job = _Job(request, asyncio.get_running_loop())
        job.request = replace(request, processors=tuple(job.guard(p) for p in request.processors))
        self._submit(job)
        done = False
        try:
            while not done:
                piece = await job.pieces.get()
                if isinstance(piece, BaseException):
                    done = True
                    raise piece
                done = piece.last
                yield piece
        finally:
            if not done:
                self._commands.put(("cancel", job))

    def _submit(self, job: _Job) -> None:
        with self._pending_lock:
            if self._closed:
                raise ServeError(f"model {self.model.name!r} was unloaded")
            self._pending += 1
        self._commands.put(("submit", job))

    def close(self) -> None:
        """End all answers and the thread."""
        with self._pending_lock:
            self._closed = True
        self._commands.put(_CLOSE)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        engine = self._engine()
        while True:
            if not self._take_commands(engine, wait=not engine.busy):
                break
            if not engine.busy:
                continue
            try:
                self._step(engine)
            except Exception as error:  # a fault of the model, not of one request: all running answers end
                self._fail_all(ServeError(f"generation failed: {type(error).__name__}: {error}"))
                engine = self._engine()
        self._fail_all(ServeError(f"model {self.model.name!r} was unloaded"))

    def _engine(self) -> Engine:
        return Engine(self.model.config, self.model.bind(), slots=self._slots)

    def _take_commands(self, engine: Engine, *, wait: bool) -> bool:
        while True:
            try:
                command = self._commands.get(block=wait)
            except queue.Empty:
                return True
            wait = False
            if command is _CLOSE:
                return False
            assert isinstance(command, tuple)
            kind, job = command
            if kind == "submit":
                self._begin(engine, job)
            elif job.generation is not None and id(job.generation) in self._jobs:
                engine.finish(job.generation, "cancelled")
                self.counters.cancelled += 1
                self._end(job)

    def _begin(self, engine: Engine, job: _Job) -> None:
        try:
            job.generation = engine.submit(job.request)
        except Exception as error:
            self._deliver({job.loop: [(job, error)]})
            self._end(job)
            return
        self._jobs[id(job.generation)] = job
        if self.model.tokenizer is not None:
            job.stream = TextStream(self.model.tokenizer, job.generation)

    def _step(self, engine: Engine) -> None:
        events = engine.step()
        self.counters.steps += 1
        self.counters.rows += len(events)
        batches: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Piece | BaseException]]] = {}
        for event in events:
            job = self._jobs.get(id(event.generation))
            if job is None:
                continue
            generation = event.generation
            answer: Piece | BaseException
            if job.error is not None:
                engine.finish(generation, "cancelled")
                answer = job.error if isinstance(job.error, LocalModelError) else ServeError(str(job.error))
            else:
                text = job.stream.push(event.token) if job.stream is not None else ""
                if job.stream is not None and job.stream.stopped:
                    engine.finish(generation, "stop")
                self.counters.tokens += event.token is not None
                last = generation.finish is not None
                answer = Piece(text, event.token, len(generation.tokens), generation, last)
            batches.setdefault(job.loop, []).append((job, answer))
            if generation.finish is not None:
                self._end(job)
        self._deliver(batches)

    def _deliver(self, batches: dict[asyncio.AbstractEventLoop, list[tuple[_Job, Piece | BaseException]]]) -> None:
        for loop, pieces in batches.items():
            try:
                loop.call_soon_threadsafe(_put, pieces)  # one wake-up of the loop for the whole step
            except RuntimeError:
                continue  # that loop is gone, and its clients with it

    def _end(self, job: _Job) -> None:
        self._jobs.pop(id(job.generation), None)
        with self._pending_lock:
            self._pending -= 1

    def _fail_all(self, error: BaseException) -> None:
        jobs = list(self._jobs.values())
        while True:  # and those that nobody has looked at yet
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                break
            if isinstance(command, tuple) and command[0] == "submit":
                jobs.append(command[1])
        for job in jobs:
            self._deliver({job.loop: [(job, error)]})
            self._end(job)


def _put(pieces: list[tuple[_Job, Piece | BaseException]]) -> None:
    for job, piece in pieces:
        job.pieces.put_nowait(piece)
