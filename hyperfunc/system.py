"""``HyperSystem``: an ordinary async program whose components are hyperfunctions.

A system holds a registry (what it consists of, its current θ) and runs its program under bindings. How populations are
evaluated and how θ is improved is elsewhere; the methods here hand over.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from hyperfunc.agents import AgentType, BlockAgentRunner
from hyperfunc.batch import Artifacts, Batch, MeasuredConcurrency, batch
from hyperfunc.binding import Binding, CallDefaults, Frame, active_frame, bound
from hyperfunc.budget import Budget
from hyperfunc.discovery import discover
from hyperfunc.errors import ConfigurationError, EvaluationError, UnboundError
from hyperfunc.evaluation.example import Example
from hyperfunc.fitness import Metric
from hyperfunc.function import HyperFunction
from hyperfunc.history import OptimizeResult
from hyperfunc.journal import Journal
from hyperfunc.observability import CallRecord, ObservabilityHub
from hyperfunc.optimization.arguments import OptimizeArguments
from hyperfunc.optimization.options import Callback
from hyperfunc.parameter_access import ParameterAccess
from hyperfunc.parameters.theta import Theta, ThetaValue
from hyperfunc.plugins import call_listener, current_plugins
from hyperfunc.program import Program, supervise
from hyperfunc.registry import Registry
from hyperfunc.scheduling.dry_run import forecast
from hyperfunc.scheduling.economy import NO_ECONOMY, Economy
from hyperfunc.scheduling.forecast import Forecast
from hyperfunc.selection import as_examples
from hyperfunc.sensitivity import Ablation, Sensitivity, ablate_component, measure_sensitivity
from hyperfunc.settings import Settings, resolve_settings
from hyperfunc.tape import Tape, current_tape, recording
from hyperfunc.training import evaluate_members, optimize_system, optimize_system_tensors
from hyperfunc.usage import Usage

__all__ = ["HyperSystem"]


class HyperSystem(ParameterAccess):
    """Subclass this and write ``async def run(self, …)``.

    Inside ``run``, hyperfunctions find their parameters; they register themselves at their first call, with initial
    values that are a pure function of ``seed`` and their names. Systems held in attributes are nested, with dotted
    names. Any number of runs, under the same or different θ, may be in flight at once.

    Args:
        prompt_optimizer: improves the texts in :meth:`optimize`.
        system_optimizer: improves the tensors in :meth:`optimize`; an optimizer or the name of a strategy.
        memory: a memory that agents of this system use.
        seed: seed of the initial values; without one, 0, or for a nested system one that follows from the system
            around it and its name there.
        settings: the *bound* level of :class:`Settings`.
    """

    agent_type: ClassVar[str] = AgentType.FLOW

    def __new__(cls, *args: Any, **kwargs: Any) -> HyperSystem:
        system = super().__new__(cls)
        object.__setattr__(system, "_registry", Registry())
        system.prompt_optimizer = None
        system.system_optimizer = None
        system.memory = None
        system.settings = Settings()
        return system

    def __init__(
        self,
        prompt_optimizer: Any = None,
        system_optimizer: Any = None,
        memory: Any = None,
        *,
        seed: int | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.prompt_optimizer = prompt_optimizer
        self.system_optimizer = system_optimizer
        self.memory = memory
        self.settings = settings or Settings()
        self._registry.set_seed(seed)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        run = cls.__dict__.get("run")
        if run is not None:
            if not asyncio.iscoroutinefunction(run):
                raise ConfigurationError(f"{cls.__name__}.run must be `async def`")
            setattr(cls, "run", _under_binding(run))  # noqa: B010 - mypy forbids assigning methods

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, HyperSystem):
            self._registry.add_child(name, value._registry)
        elif isinstance(value, HyperFunction):
            if value.is_module and not value.explicit_name:
                value = value.named(name)
            self._registry.register(value)
        object.__setattr__(self, name, value)

    # --- the program ---------------------------------------------------------------------------------------------

    async def run(self, *args: Any, **kwargs: Any) -> Any:
        """The program. Called directly, it runs under the system's current θ."""
        raise NotImplementedError(f"{type(self).__name__} must define `async def run(self, …)`")

    def run_sync(self, *args: Any, **kwargs: Any) -> Any:
        """``run`` from synchronous code.

        Raises:
            RuntimeError: an event loop is running here; write ``await system.run(…)``.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self.run(*args, **kwargs))
        raise RuntimeError("run_sync was called inside a running event loop; write: await system.run(...)")

    async def execute(
        self,
        inputs: Mapping[str, Any],
        record: bool = False,
        *,
        theta: Mapping[str, ThetaValue] | None = None,
        settings: Settings | None = None,
    ) -> Any:
        """Run the program once on ``inputs`` (keyword arguments of ``run``).

        Args:
            record: also return what was called.
            theta: values in place of the current ones, by dotted name.
            settings: the *call* level of :class:`Settings`.

        Returns:
            The output; with ``record=True`` the pair ``(output, tape)``.
        """
        program = self.program(theta, settings)
        outer = current_tape()
        tape = outer if not record else Tape(call_listener()) if outer is None else outer.nested()
        with recording(tape):
            output = await program(Binding(program.theta, defaults=program.defaults), inputs)
        return (output, tape) if record else output

    async def record(self, inputs: Mapping[str, Any], *, settings: Settings | None = None) -> tuple[Any, Tape]:
        """:meth:`execute` with ``record=True``, typed."""
        output, tape = await self.execute(inputs, record=True, settings=settings)
        return output, tape

    def program(self, theta: Mapping[str, ThetaValue] | None = None, settings: Settings | None = None) -> Program:
        """What executors know of this system: one example's inputs in, its result out, under a binding."""
        agent = current_plugins().make("agent_types", self.agent_type)

        async def run_example(inputs: Mapping[str, Any]) -> Any:
            return await agent.run_example(self.run, inputs, self)

        return Program(
            scope=self._registry,
            run_example=run_example,
            theta=self.theta.replace(theta or {}),
            defaults=CallDefaults((settings or Settings()).over(self.settings)),
            holders=tuple(self._holders()),
            liftable=bool(agent.liftable),
            block_executor=agent.block_executor(self.run, self) if isinstance(agent, BlockAgentRunner) else None,
        )

    def _holders(self) -> Iterator[HyperSystem]:
        yield self
        for value in vars(self).values():
            if isinstance(value, HyperSystem):
                yield from value._holders()

    # --- evaluation and optimization -----------------------------------------------------------------------------

    async def evaluate(
        self,
        examples: Sequence[Example],
        metric_fn: Metric,
        *,
        theta: Mapping[str, ThetaValue] | None = None,
        seed: int = 0,
        settings: Settings | None = None,
    ) -> float:
        """The program's score on ``examples``, under the current θ (with ``theta`` in place of some values).

        Args:
            metric_fn: ``(predictions, expected) -> float``, a scorer, or a registered scorer's name.
            seed: seed of the run scope (repeats, simulated users, environments).

        Raises:
            Whatever a run or the metric raises, with the example named in a note; nothing is counted as zero.
        """
        (fitness,) = await evaluate_members(self, [theta or {}], examples, metric_fn, seed=seed, settings=settings)
        if fitness.errors:
            raise next(iter(fitness.errors.values()))
        return float(fitness.values[0])

    async def evaluate_population(
        self,
        hp_candidates: Sequence[Mapping[str, Any]],
        examples: Sequence[Example],
        metric_fn: Metric,
        max_batch_size: int = 1024,
        *,
        seed: int = 0,
        settings: Settings | None = None,
    ) -> list[float]:
        """One score per candidate: mappings of names (as in :meth:`get_hp_state`, or dotted) to tensors.

        A candidate that fails scores NaN. Candidates are run together, ``max_batch_size`` (candidate, example) pairs at
        a time but at least one whole block.

        Raises:
            EvaluationError: no candidates or no examples.
        """
        if not hp_candidates:
            raise EvaluationError("evaluate_population: expected at least one candidate, got none")
        await discover(self, as_examples(examples), settings)
        named = [self._registry.tensor_names(candidate) for candidate in hp_candidates]
        call = (settings or Settings()).over(Settings(max_batch_size=max_batch_size))
        parts = await evaluate_members(self, named, examples, metric_fn, seed=seed, settings=call)
        return [float(value) for part in parts for value in part.values]

    async def optimize(
        self,
        train_data: Sequence[Example],
        metric_fn: Metric,
        val_data: Sequence[Example] | None = None,
        *,
        only: str | Sequence[str] | None = None,
        freeze: str | Sequence[str] | None = None,
        minibatch: int | None = None,
        seed: int = 0,
        steps: int | None = None,
        validate_every: int | None = None,
        patience: int | None = None,
        target: float | None = None,
        callbacks: Sequence[Callback] = (),
        settings: Settings | None = None,
        feedback_fn: Any = None,
        run: str | None = None,
        resume: bool = False,
        journal: Journal | str | Path | None = None,
        checkpoint_every: int = 1,
        budget: Budget | None = None,
        economy: Economy = NO_ECONOMY,
        schedule: str = "joint",
        pretest: bool = True,
    ) -> OptimizeResult:
        """Improve the trainable parameters; the best θ on ``val_data`` (else ``train_data``) becomes the current one.

        Tensors by ``system_optimizer`` (by default :class:`~hyperfunc.evolution.hybrid.ESHybridSystemOptimizer`), and
        texts by ``prompt_optimizer`` where one is set: in one run, against one metric, under one budget. With texts,
        what is adopted is judged on ``val_data`` or on examples that the prompt optimizer holds out.

        Args:
            metric_fn: ``(predictions, expected) -> float``, a scorer, or a registered scorer's name; higher is better.
            only, freeze: patterns of components or parameters to move, or to leave.
            minibatch: examples per generation, shared by all members.
            seed: of noise and minibatches; 0 is a seed like any other. An optimizer's own seed comes first.
            steps: generations, instead of the optimizer's own number.
            validate_every: generations between evaluations of the centre (default: 1 with ``val_data``, else 5).
            patience, target, callbacks: ways to end early.
            feedback_fn: passed to the prompt optimizer.
            run: the run's name; with one, every generation is kept in the journal.
            resume: take the named run up where it was last kept, in the same bits; begin it if it is not there.
            journal: a journal or its path (default: ``.hyperfunc/journal.db``).
            checkpoint_every: generations between two records of the whole state.
            budget: ceilings; when one is reached the run ends with its best θ and ``finish_reason="budget:…"``.
            economy: what the run learns about where its evaluations go (racing, …); by default nothing.
            schedule: how steps are shared out where there are tensors and texts: ``"joint"`` (to what gains most per
                cost of late), ``"alternate"`` (in turn, at equal cost), ``"tensors then texts"``, ``"texts then
                tensors"`` (the first may use half of the budget).
            pretest: with texts, first spend at most 5 % of the budget to see whether anything could be gained; if not,
                the run ends with ``finish_reason="no headroom"`` and the reason.

        Raises:
            EvaluationError: no examples, or no run of the first generation succeeded.
            ResumeError: the program, the data or the configuration changed since the run began; says what.
            LiftError: ``execution="lifted"`` was asked for and refused.
        """
        arguments = OptimizeArguments(
            only=only,
            freeze=freeze,
            minibatch=minibatch,
            seed=seed,
            steps=steps,
            validate_every=validate_every,
            patience=patience,
            target=target,
            callbacks=callbacks,
            settings=settings,
            run=run,
            resume=resume,
            journal=journal,
            checkpoint_every=checkpoint_every,
            budget=budget,
            schedule=schedule,
            economy=economy,
            pretest=pretest,
        )
        return await optimize_system(self, train_data, metric_fn, val_data, arguments, feedback_fn)

    async def dry_run(
        self,
        train_data: Sequence[Example],
        val_data: Sequence[Example] | None = None,
        *,
        per_run: Usage | tuple[Usage, Usage] | None = None,
        record: int = 0,
        **arguments: Any,
    ) -> Forecast:
        """What :meth:`optimize` would run and pay for: exact runs, and calls, tokens and USD as an interval.

        Args:
            per_run: what one run of the program uses, or the least and the most.
            record: how many training examples may be run, once each, to measure that instead. **This pays** for their
                calls; the default runs nothing.
            arguments: as for :meth:`optimize`.

        Raises:
            ConfigurationError: components may cost something and neither ``per_run`` nor ``record`` is given.
        """
        given = OptimizeArguments(**arguments)
        return await forecast(self, train_data, val_data, given, per_run=per_run, record=record)

    async def sensitivity(
        self,
        examples: Sequence[Example],
        metric_fn: Metric,
        *,
        only: str | Sequence[str] | None = None,
        freeze: str | Sequence[str] | None = None,
        members: int = 32,
        sigma: float = 0.05,
        seed: int = 0,
        settings: Settings | None = None,
    ) -> Sensitivity:
        """How much the score answers to each component's tensors, one component at a time.

        Args:
            members: runs per component and example; even, as they come in pairs ``θ ± σ ε``.
            sigma: deviation of the noise; for bounded parameters in units of their range.

        Raises:
            Whatever a run under the current θ raises.
        """
        return await measure_sensitivity(
            self,
            examples,
            metric_fn,
            only=only,
            freeze=freeze,
            members=members,
            sigma=sigma,
            seed=seed,
            settings=settings,
        )

    async def ablate(
        self,
        component: str | HyperFunction[..., Any],
        examples: Sequence[Example],
        metric_fn: Metric,
        *,
        replacement: Callable[..., Any] | None = None,
        seed: int = 0,
        settings: Settings | None = None,
    ) -> Ablation:
        """What the score loses without a component; the system keeps its θ.

        Args:
            component: its dotted name, or the function.
            replacement: called in the component's place with the caller's own arguments (``lambda x: x`` leaves the
                component out). Without it the component gets the parameters of a fresh system of the same seed, which
                shows what training gave it.

        Raises:
            UnknownParameterError: there is no such component.
            ConfigurationError: it has no parameters, and no replacement was given.
        """
        name = component if isinstance(component, str) else component.name
        return await ablate_component(
            self, name, examples, metric_fn, replacement=replacement, seed=seed, settings=settings
        )

    async def optimize_tensors(
        self,
        train_data: Sequence[Example],
        metric_fn: Metric,
        val_data: Sequence[Example] | None = None,
        *,
        optimizer: Any,
        **arguments: Any,
    ) -> OptimizeResult:
        """Improve tensors only, by ``optimizer``; further arguments as in :meth:`optimize`."""
        given = OptimizeArguments(**arguments)
        return await optimize_system_tensors(self, train_data, metric_fn, val_data, optimizer, given)

    def batch(
        self,
        inputs: Iterable[Mapping[str, Any]] | AsyncIterable[Mapping[str, Any]],
        *,
        theta: Mapping[str, ThetaValue] | None = None,
        artifacts: Artifacts | str | Path | None = None,
        concurrency: int | MeasuredConcurrency | None = None,
        **options: Any,
    ) -> Batch[Mapping[str, Any], Any]:
        """Run the program on many inputs: ``async for result in system.batch(inputs): …``.

        Queues are bounded, a failure is a value (``result.error``), and leaving the loop cancels the rest.

        Args:
            inputs: keyword arguments of ``run``, one mapping each.
            theta: values in place of the current ones.
            artifacts: a JSON-lines file (or settings for one) to keep results in, and to take them from when the batch
                is run again. A path's results count only for the θ that they were made under.
            concurrency: runs at a time (default: that of the settings), or limits between which it follows the
                measured throughput.
            options: as of :func:`hyperfunc.batch.batch` (``order``, ``on_progress``, ``fail_fast``, ``deadline_s``, …).
        """
        program = self.program(theta)
        if isinstance(artifacts, (str, Path)):
            artifacts = Artifacts(
                artifacts, identity={"theta": program.theta.content_hash, "system": type(self).__name__}
            )

        async def one(item: Mapping[str, Any]) -> Any:
            return await program(Binding(program.theta, defaults=program.defaults), item)

        most = concurrency or resolve_settings(bound=self.settings).concurrency or 1
        return batch(one, inputs, concurrency=most, artifacts=artifacts, **options)

    @contextmanager
    def binding(self, theta: Mapping[str, ThetaValue] | None = None) -> Iterator[Theta]:
        """Call hyperfunctions outside ``run``, under the current θ with ``theta`` in place of some values."""
        value = self.theta if theta is None else self.theta.replace(theta)
        binding = Binding(value, defaults=CallDefaults(self.settings))
        try:
            with bound(Frame(binding, self._registry)):
                yield value
        finally:
            binding.close()

    # --- observability -------------------------------------------------------------------------------------------

    @property
    def observability(self) -> ObservabilityHub:
        """Trace sessions, histories and exports of this system's calls."""
        hub: ObservabilityHub | None = self.__dict__.get("_observability")
        if hub is None:
            hub = ObservabilityHub(self)
            object.__setattr__(self, "_observability", hub)
        return hub

    def get_call_history(self) -> list[CallRecord]:
        """The calls recorded in trace sessions (``with system.observability.trace(): …``)."""
        return self.observability.get_call_records()


def _under_binding(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """``run`` under the binding around it (inside a run of this system or of one that nests it), else under the
    system's current θ."""

    @functools.wraps(run)
    async def bound_run(self: HyperSystem, *args: Any, **kwargs: Any) -> Any:
        frame = active_frame.get()
        if frame is None:
            with self.binding():
                frame = active_frame.get()
                assert frame is not None
                return await supervise(frame.binding, run(self, *args, **kwargs))
        if frame.scope is self._registry:
            return await run(self, *args, **kwargs)
        name = frame.scope.child_name(self._registry) if isinstance(frame.scope, Registry) else None
        if name is None:
            raise UnboundError(
                f"a {type(self).__name__} was run inside another system that does not hold it; "
                "assign it to an attribute of the outer system, so that its parameters have names there"
            )
        with bound(Frame(frame.binding, self._registry, f"{frame.prefix}{name}.")):
            return await run(self, *args, **kwargs)

    return bound_run
