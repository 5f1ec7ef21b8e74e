"""``@hyperfunction``: a function, coroutine function or module whose parameters come from the binding it runs under.

This file declares; :mod:`hyperfunc.calling` makes the calls. A hyperfunction owns no parameter value and belongs to no
system: many systems, runs and population members use the same object at once.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn

from hyperfunc import injection
from hyperfunc.binding import active_frame
from hyperfunc.callee import CallPolicy
from hyperfunc.calling import PendingCall
from hyperfunc.errors import ConfigurationError, ExecutionError
from hyperfunc.parameters.protocol import TensorSpec, hp_tensor_spec
from hyperfunc.parameters.text import TextParam
from hyperfunc.parameters.theta import JSONValue

__all__ = ["HyperFunction", "hyperfunction"]

P = ParamSpec("P")
R = TypeVar("R")


class PromptOwner(Protocol):
    """A system's registry, as far as a function needs it."""

    def set_text(self, component: str, value: JSONValue, name: str = ...) -> None: ...


EvolveFilter = Callable[[str, Tensor], bool]


class HyperFunction(Generic[P, R]):
    """A component of a compound system. Calling it gives an awaitable of its result.

    Made by :func:`hyperfunction`; its arguments are explained there.

    Attributes:
        name: the component's name; unique within one system.
        fn: the wrapped function or module.
        tensor_specs: its tensor parameters, without values.
        texts: its texts by parameter name, with initial values.
        performs_io: whether calling it may reach outside the process (never lifted, never batched by vmap).
        shares_replies: members of a population that ask it the same get one answer.
    """

    def __init__(
        self,
        fn: Callable[..., Any] | nn.Module,
        hp_type: type[Any] | None = None,
        optimize_prompt: bool | None = None,
        optimize_hparams: bool = False,
        local_gpu: bool = False,
        retries: int | None = None,
        timeout_s: float | None = None,
        max_calls: int | None = None,
        *,
        name: str | None = None,
        prompt: str | TextParam | None = None,
        texts: Mapping[str, TextParam] | None = None,
        evolve: EvolveFilter | None = None,
        noise_rank: int | None = 1,
        batched: bool = False,
        max_batch: int | None = None,
        io: bool | None = None,
        shares_replies: bool = False,
    ) -> None:
        self.fn = fn
        self.is_module = isinstance(fn, nn.Module)
        self.hp_type = hp_type
        self.optimize_hparams = optimize_hparams or evolve is not None
        self.local_gpu = local_gpu
        self.batched = batched
        self.max_batch = max_batch
        self.shares_replies = shares_replies
        self.policy = CallPolicy(retries=retries, timeout_s=timeout_s, max_calls=max_calls)
        self.explicit_name = name is not None
        self.name: str = name or _default_name(fn)
        _check_name(self.name)
        self.key = object()  # shared by the handles that with_options makes; another name gets another
        self._module_of_thread = threading.local()
        self.owners: weakref.WeakSet[PromptOwner] = weakref.WeakSet()
        if isinstance(fn, nn.Module):
            self._declare_module(fn, evolve, noise_rank)
        else:
            if evolve is not None:
                raise ConfigurationError(
                    f"{self.name}: evolve= filters the parameters of an nn.Module; this is a function"
                )
            self._declare_function(fn)
        self.is_async = inspect.iscoroutinefunction(fn)
        self.texts = self._declare_texts(prompt, texts, optimize_prompt)
        self.injected_names = frozenset(self.texts) | ({"hp"} if self.hp_type is not None else frozenset())
        self._check_injection()
        self.performs_io = bool(io) if io is not None else (self.policy.limits_calls or bool(self.texts))
        if max_batch is not None and max_batch < 1:
            raise ConfigurationError(f"{self.name}: max_batch must be >= 1, got {max_batch}")
        functools.update_wrapper(self, fn.forward if isinstance(fn, nn.Module) else fn, updated=())

    def reply_context(self) -> Hashable:
        """What beside arguments and parameters decides a shared reply at this moment; nothing, by default."""
        return None

    # --- declaration ---------------------------------------------------------------------------------------------

    def _declare_function(self, fn: Callable[..., Any]) -> None:
        self.signature = inspect.signature(fn)
        self.tensor_specs: tuple[TensorSpec, ...] = ()
        if self.hp_type is not None:
            self.tensor_specs = (hp_tensor_spec(self.hp_type, trainable=self.optimize_hparams),)

    def _declare_module(self, module: nn.Module, evolve: EvolveFilter | None, noise_rank: int | None) -> None:
        if isinstance(module, torch.jit.ScriptModule):
            raise ConfigurationError(
                f"{self.name}: scripted and traced modules read raw weight storage and would ignore perturbations; "
                "pass the original nn.Module"
            )
        if self.hp_type is not None:
            raise ConfigurationError(f"{self.name}: a module has its own parameters; drop hp_type=")
        self.signature = inspect.signature(module.forward)
        specs = []
        for name, parameter in module.named_parameters():
            if not parameter.dtype.is_floating_point or not (evolve is None or evolve(name, parameter)):
                continue
            if evolve is None and not self.optimize_hparams:
                continue
            specs.append(
                TensorSpec(
                    name=name,
                    shape=tuple(parameter.shape),
                    dtype=parameter.dtype,
                    noise_rank=noise_rank if parameter.ndim >= 2 else None,
                    initial=parameter.detach(),
                )
            )
        if self.optimize_hparams and not specs:
            names = [n for n, _ in module.named_parameters()]
            raise ConfigurationError(f"{self.name}: no parameter passed the evolve filter; the module has {names}")
        self.tensor_specs = tuple(specs)

    def _declare_texts(
        self, prompt: str | TextParam | None, texts: Mapping[str, TextParam] | None, optimize_prompt: bool | None
    ) -> dict[str, TextParam]:
        declared = dict(texts or {})
        takes_prompt = "prompt" in self.signature.parameters
        if prompt is None and "prompt" not in declared and (optimize_prompt or (takes_prompt and self._docstring)):
            parameter = self.signature.parameters.get("prompt")
            if optimize_prompt or (parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY):
                prompt = self._docstring
        if isinstance(prompt, TextParam):
            declared["prompt"] = prompt
        elif prompt is not None:
            trainable = optimize_prompt is not False
            declared["prompt"] = TextParam(prompt, f"the prompt of the component {self.name!r}", trainable=trainable)
        return declared

    @property
    def _docstring(self) -> str:
        return inspect.cleandoc(getattr(self.fn, "__doc__", None) or "") if not self.is_module else ""

    def _check_injection(self) -> None:
        parameters = self.signature.parameters
        for name, parameter in parameters.items():
            if parameter.default is injection.injected and name not in self.injected_names:
                raise ConfigurationError(
                    f"{self.name}: nothing injects the argument {name!r}, whose default is `injected`; an `hp` needs "
                    "hp_type=, a text needs prompt= or texts="
                )
        if self.is_module or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            return
        if self.hp_type is not None and "hp" not in parameters:
            raise ConfigurationError(
                f"{self.name}: has hp_type={self.hp_type.__name__} but no argument named 'hp' to receive it"
            )
        for text in self.texts:
            if text not in parameters and text != "prompt":
                raise ConfigurationError(f"{self.name}: declares the text {text!r} but has no argument of that name")

    @functools.cached_property
    def accepted_injections(self) -> frozenset[str]:
        """The injected names that the function takes as arguments."""
        parameters = self.signature.parameters.values()
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return self.injected_names
        return self.injected_names & {p.name for p in parameters}

    @functools.cached_property
    def injected_position(self) -> int:
        """Number of positional arguments from which on an injected argument was given by the caller himself."""
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in self.signature.parameters.values() if p.kind in positional]
        return min((names.index(n) for n in self.accepted_injections if n in names), default=sys.maxsize)

    # --- calling -------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> PendingCall[R]:
        return PendingCall(self, args, kwargs, active_frame.get())

    def body(self, args: tuple[Any, ...], kwargs: dict[str, Any], injected: Mapping[str, Any]) -> Any:
        """The bare function on values (a coroutine if it is ``async def``); no policy, no tape, no binding."""
        if self.is_module:
            return torch.func.functional_call(
                self._module(), self._module_values(injected), args, kwargs, tie_weights=True, strict=True
            )
        if not injected:
            return self.fn(*args, **kwargs)
        return self.fn(*args, **{**injected, **kwargs})

    @property
    def fn_sync(self) -> Callable[..., Any]:
        """The function as a synchronous one, for functions that never really wait."""
        if not self.is_async:
            return self.fn

        @functools.wraps(self.fn)
        def drive(*args: Any, **kwargs: Any) -> Any:
            return self.drive(self.fn(*args, **kwargs))

        return drive

    def drive(self, result: Any) -> Any:
        """The value of ``body(...)``: a coroutine is run to its end, and may not wait for anything.

        Raises:
            ExecutionError: the coroutine waited.
        """
        if not inspect.iscoroutine(result):
            return result
        try:
            result.send(None)
        except StopIteration as stop:
            return stop.value
        result.close()
        raise ExecutionError(f"{self.name} waits for something outside; it cannot run synchronously")

    def _module(self) -> nn.Module:
        """This thread's own skeleton: ``functional_call`` swaps attributes on it, so threads must not share one.
        Parameters and buffers are shared, not copied."""
        skeleton: nn.Module | None = getattr(self._module_of_thread, "skeleton", None)
        if skeleton is None:
            assert isinstance(self.fn, nn.Module)
            shared = {id(t): t for t in [*self.fn.parameters(), *self.fn.buffers()]}
            skeleton = copy.deepcopy(self.fn, dict(shared))
            self._module_of_thread.skeleton = skeleton
        return skeleton

    def _module_values(self, bound_values: Mapping[str, Any]) -> dict[str, Any]:
        assert isinstance(self.fn, nn.Module)
        values: dict[str, Any] = {n: p.detach() for n, p in self.fn.named_parameters()}
        # Buffers are cloned: a module that updates one (running statistics) must not change what others see.
        values.update({n: b.clone() for n, b in self.fn.named_buffers()})
        values.update(bound_values)
        return values

    # --- variants ------------------------------------------------------------------------------------------------

    def named(self, name: str) -> HyperFunction[P, R]:
        """The same function under another name, with parameters of its own."""
        _check_name(name)
        twin = copy.copy(self)
        twin.name = name
        twin.explicit_name = True
        twin.key = object()
        twin.owners = weakref.WeakSet()
        return twin

    def with_options(
        self, *, retries: int | None = None, timeout_s: float | None = None, max_calls: int | None = None
    ) -> HyperFunction[P, R]:
        """The same component with other limits for the calls made through the returned handle."""
        twin = copy.copy(self)
        twin.policy = self.policy.replaced(retries=retries, timeout_s=timeout_s, max_calls=max_calls)
        return twin

    def same_component(self, other: HyperFunction[..., Any]) -> bool:
        """Whether both wrap the same function under the same name (handles made by :meth:`with_options` do)."""
        return self.fn is other.fn and self.name == other.name

    def check_ready(self) -> None:
        """Raise now what a call would raise for want of configuration (an alias that no endpoint is bound to, …).

        Called before an evaluation or optimization begins, so that it does not fail after it has paid for something.
        Components that need no configuration have nothing to check.
        """

    # --- texts ---------------------------------------------------------------------------------------------------

    @property
    def hp_dim(self) -> int:
        """Number of tensor elements of this component's parameters."""
        return sum(torch.Size(s.shape).numel() for s in self.tensor_specs)

    def get_prompt(self) -> str:
        """The prompt under the binding of the caller; outside every run, the initial one (or the docstring)."""
        frame = active_frame.get()
        if frame is not None and "prompt" in self.texts:
            name = frame.prefix + frame.scope.component_name(self)
            return str(frame.binding.value(f"{name}.prompt"))
        return str(self.texts["prompt"].value) if "prompt" in self.texts else self._docstring

    def set_prompt(self, text: str) -> None:
        """Replace the prompt in the current θ of every system in which this function is registered. Runs that have
        started keep the prompt that they started with. For one system only, use ``system.set_prompt``.

        Raises:
            ConfigurationError: the function has no prompt, or no system knows it yet.
        """
        if "prompt" not in self.texts:
            raise ConfigurationError(
                f"{self.name} has no prompt; declare one with @hyperfunction(optimize_prompt=True)"
            )
        owners = list(self.owners)
        if not owners:
            raise ConfigurationError(f"{self.name} belongs to no system yet; call system.register_hyperfunction first")
        for owner in owners:
            owner.set_text(self.name, text)

    def __repr__(self) -> str:
        return f"<hyperfunction {self.name}>"


def _default_name(fn: Callable[..., Any] | nn.Module) -> str:
    return type(fn).__name__.lower() if isinstance(fn, nn.Module) else str(getattr(fn, "__name__", "function"))


def _check_name(name: str) -> None:
    if not name or not all(part.isidentifier() for part in name.split("-")):
        raise ConfigurationError(f"component name {name!r}: expected an identifier (letters, digits, underscores)")


class _Decorator:
    """Typed so that the decorated signature survives, for functions, coroutine functions and modules."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    @overload
    def __call__(self, fn: nn.Module) -> HyperFunction[..., Any]: ...
    @overload
    def __call__(self, fn: Callable[P, Awaitable[R]]) -> HyperFunction[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R]) -> HyperFunction[P, R]: ...
    def __call__(self, fn: Any) -> HyperFunction[..., Any]:
        return HyperFunction(fn, **self._options)


@overload
def hyperfunction(fn: Callable[P, Awaitable[R]], /) -> HyperFunction[P, R]: ...
@overload
def hyperfunction(fn: Callable[P, R], /) -> HyperFunction[P, R]: ...
@overload
def hyperfunction(
    *,
    hp_type: type[Any] | None = ...,
    optimize_prompt: bool | None = ...,
    optimize_hparams: bool = ...,
    local_gpu: bool = ...,
    retries: int | None = ...,
    timeout_s: float | None = ...,
    max_calls: int | None = ...,
    model: str | None = ...,
    name: str | None = ...,
    prompt: str | TextParam | None = ...,
    texts: Mapping[str, TextParam] | None = ...,
    evolve: EvolveFilter | None = ...,
    noise_rank: int | None = ...,
    batched: bool = ...,
    max_batch: int | None = ...,
    io: bool | None = ...,
    shares_replies: bool = ...,
) -> _Decorator: ...
def hyperfunction(fn: Any = None, /, *, model: str | None = None, **options: Any) -> Any:
    """Make a function, coroutine function or ``nn.Module`` a component.

    Args:
        hp_type: parameter type; the function receives its value as ``hp`` (see :class:`HyperParam`). With the default
            ``hp: MyParam = injected`` type checkers do not ask callers for it.
        optimize_prompt: the docstring is a prompt and may be learned; by default only where the function takes a
            keyword-only ``prompt`` argument or ``prompt=`` is given.
        optimize_hparams: strategies may move the tensors.
        local_gpu: place parameters and inputs on the device of the settings.
        retries: repeat a failed call up to this often (never cancellation or KeyboardInterrupt).
        timeout_s: seconds per attempt; an async call is cancelled, a sync one runs in a thread and its late result is
            discarded.
        max_calls: most calls in one run of the program.
        model: accepted for programs written for 0.3; configure models in the LLM plugin.
        name: the component's name (default: the function's).
        prompt: the prompt's initial value, instead of the docstring.
        texts: further texts by argument name.
        evolve: for a module: ``(name, parameter) -> bool``, which parameters evolve; implies ``optimize_hparams``.
        noise_rank: for a module: rank of the noise on its matrices; ``None`` for dense noise.
        batched: the function receives inputs stacked over calls, ``[K, …]`` (lists where not tensors), and returns K
            results; for what vmap cannot do.
        max_batch: most calls in one batch of a ``batched`` function.
        io: the call reaches outside the process; by default true where it has limits or texts.
        shares_replies: what it returns depends on its arguments and parameters alone, and nothing else happens: where a
            call store is in use, as in ``optimize``, members of a population that ask the same get one answer.

    Returns:
        A :class:`HyperFunction`: calling it gives an awaitable of the result, for sync functions too.

    Raises:
        ConfigurationError: contradictory options.
    """
    if fn is not None:
        return HyperFunction(fn, **options)
    return _Decorator(options)
