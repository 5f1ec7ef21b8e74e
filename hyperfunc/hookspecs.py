"""Every extension point of hyperfunc, in one file.

A plugin is a module (or object) with functions marked ``@hookimpl``; it is found through the entry-point group
``hyperfunc``. There are two kinds of hooks:

* ``hyperfunc_register_*(register)`` fires once, the first time a registry of that kind is asked for. Call
  ``register(name, thing)`` for everything you bring; ``thing`` is an object, or an import string
  ``"package.module:attribute"`` that is resolved at first use (keep plugin modules light). A name that is taken is an
  error that names both owners: a built-in keeps its name, and of two plugins neither gets it.
* run events fire during ``optimize``. They receive values, never live state, and never fire inside vmap or once per
  population member. An event hook that raises is reported and switched off for the rest of the run.

Hooks are plain functions: neither ``async`` nor wrappers. A function with an unknown hook's name, or with an argument
that its hook does not have, is refused when the plugin is loaded.

New arguments may be added to a hook, never removed: an implementation names only those that it wants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pluggy

__all__ = ["PROJECT", "Register", "hookimpl", "hookspec"]

PROJECT = "hyperfunc"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """What ``hyperfunc_register_*`` hooks are given."""

    def __call__(self, name: str, thing: Any, summary: str = "") -> None:
        """Offer ``thing`` under ``name``; ``summary`` is one line that is shown without importing the thing."""


@hookspec
def hyperfunc_register_agent_types(register: Register) -> None:
    """Fires when a system with an ``agent_type`` is first run. Register a class
    ``AgentType()`` with ``async run_example(run, inputs, system) -> result``: one example from start to end, where
    ``run`` is the system's program under the active binding (see :mod:`hyperfunc.agents`)."""


@hookspec
def hyperfunc_register_strategies(register: Register) -> None:
    """Fires when a strategy is first asked for by name. Register a subclass of
    :class:`hyperfunc.evolution.base.Strategy`: pure ``init / ask / tell`` over named tensors."""


@hookspec
def hyperfunc_register_scorers(register: Register) -> None:
    """Fires when a scorer is first asked for by name. Register a class whose instances have
    ``score(output, expected, inputs=None) -> ScoreResult`` (plain or async); judges are scorers."""


@hookspec
def hyperfunc_register_prompt_optimizers(register: Register) -> None:
    """Fires when a prompt optimizer is first asked for by name. Register a class whose instances have
    ``async optimize(system, train_data, metric_fn, feedback_fn=None)``."""


@hookspec
def hyperfunc_register_memory_backends(register: Register) -> None:
    """Fires when a ``Memory`` is opened. Register, under the scheme of the URLs that it serves (``"sqlite"``,
    ``"postgresql"``), a callable ``(url) -> MemoryBackend``."""


@hookspec
def hyperfunc_register_exporters(register: Register) -> None:
    """Fires when an exporter is first asked for by name. Register a class whose instances have
    ``export(observations, summary=None)`` and optionally ``shutdown()``."""


@hookspec
def hyperfunc_register_trackers(register: Register) -> None:
    """Fires when an experiment tracker is first asked for by name. Register a class whose instances have
    ``start(run)``, ``log(step, values)`` and ``finish(result)``."""


@hookspec
def hyperfunc_register_environments(register: Register) -> None:
    """Fires when an example names an environment that is no gymnasium id. Register a callable
    ``(seed) -> environment`` with ``reset`` and ``step`` of gymnasium's form, or a class of tensor environments: pure
    functions ``reset(generator)``, ``observe(state)`` and ``step(state, action)`` of one episode's tensors."""


@hookspec
def hyperfunc_register_model_families(register: Register) -> None:
    """Fires when a local model is loaded. Register, under the architecture's name in the model's configuration
    (``"LlamaForCausalLM"``), a callable ``(config) -> model``: ``config`` is the mapping that the model's
    ``config.json`` holds; ``model`` is a ``hyperfunc_local.CausalModel``, which says the shapes of its weights, holds
    none, and computes logits from those that it is given. A configuration object is no model."""


@hookspec
def hyperfunc_register_llm_transports(register: Register) -> None:
    """Fires when an endpoint of an LLM is first used. Register a class whose instances have ``load()``,
    ``async send(request) -> Reply``, ``stream(request)``, which yields chunks, and ``async aclose()``."""


@hookspec
def hyperfunc_register_error_classifiers(register: Register) -> None:
    """Fires when the LLM runtime first classifies an error. Register an object with ``classify_custom(error)``, asked
    before the built-in rules (``None`` passes on), and/or ``post_classify(error, info)``, which may edit their
    answer."""


@hookspec
def hyperfunc_register_engines(register: Register) -> None:
    """Fires when an engine is first asked for by name. Register a class whose instances have
    ``async run_block(program, block, inputs, settings) -> BlockOutcome``: where one block of members is run. The
    outcome is that of :func:`hyperfunc.population.sequential.run_sequential`, whatever machine computed it.

    ``Settings(engine=name)`` makes ``evaluate`` and ``optimize`` run their blocks there, up to ``workers`` at a time;
    an engine is built anew for every run, and its ``close()``, if it has one, is called at the end. No engine is
    built in."""


@hookspec
def hyperfunc_register_cli_commands(register: Register) -> None:
    """Fires when the command line starts. Register, under the command's name, a typer application or a function;
    give an import string, so that ``hyperfunc --help`` imports nothing heavy."""


@hookspec
def hyperfunc_run_started(run: str, configuration: Mapping[str, Any]) -> None:
    """Fires once when ``optimize`` has checked its arguments and before anything is evaluated.

    Args:
        run: the run's name.
        configuration: what it was asked to do, as plain values.
    """


@hookspec
def hyperfunc_generation_finished(run: str, generation: int, record: Mapping[str, Any]) -> None:
    """Fires after every generation, when its state is complete.

    Args:
        run: the run's name.
        generation: 0 for the first.
        record: index, best, mean, worst, center (the score that selects), sigma, dropped, evaluations, seconds and the
            like, as plain numbers.
    """


@hookspec
def hyperfunc_candidate_accepted(run: str, name: str, before: Any, after: Any, evidence: Mapping[str, Any]) -> None:
    """Fires when a text proposal has passed its acceptance test and has become part of θ.

    Args:
        run: the run's name.
        name: the dotted name of the text.
        before, after: its values.
        evidence: scores of both, the test and its verdict.
    """


@hookspec
def hyperfunc_before_call(component: str, call_id: int) -> None:
    """Fires before a recorded call (under a tape or an open trace session), outside vmap.

    Args:
        component: the dotted name.
        call_id: its position on the tape.
    """


@hookspec
def hyperfunc_after_call(component: str, call_id: int, seconds: float, error: BaseException | None) -> None:
    """Fires after a recorded call.

    Args:
        component, call_id: as in :func:`hyperfunc_before_call`.
        seconds: how long it took.
        error: what it raised, if it did.
    """


@hookspec
def hyperfunc_run_ended(run: str, finish_reason: str, summary: Mapping[str, Any]) -> None:
    """Fires once when ``optimize`` ends, also by an error or cancellation.

    Args:
        run: the run's name.
        finish_reason: why it ended.
        summary: best fitness, generations, evaluations, seconds, spend.
    """
