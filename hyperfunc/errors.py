"""The error tree of hyperfunc.

    HyperfuncError
    ├── ConfigurationError        a setting or argument is missing, unknown or contradictory
    │   └── MissingDependencyError    an optional package is not installed; names the extra
    ├── ParameterError            θ or a parameter declaration is wrong
    │   ├── UnknownParameterError     a name that the system does not have
    │   ├── ShapeError                expected and actual shapes differ
    │   └── ParameterTypeError        expected and actual dtypes or value types differ
    ├── BindingError              a hyperfunction was called without usable parameters
    │   ├── UnboundError              no binding is active
    │   └── ClosedBindingError        the run that owned this binding has ended
    ├── ExecutionError            a program could not be run as asked
    │   ├── LiftError                 execution="lifted" was asked for and refused
    │   ├── FactoredOperationError    an operation that may not touch a perturbed weight
    │   ├── CallLimitError            max_calls was reached
    │   ├── CallTimeoutError          a call passed its timeout_s (also a TimeoutError)
    │   └── InputMutatedError         a program wrote into its inputs
    ├── EvaluationError           examples, scorers or metrics are wrong
    ├── OptimizationError         a parameter could not be improved as asked
    ├── BudgetError               a budget is malformed
    │   └── BudgetExceededError       a reservation does not fit what is left
    ├── JournalError              the journal cannot be read, written or resumed
    │   └── ResumeError               program, data or configuration changed since the run began
    └── PluginError               a plugin is broken, duplicated or unknown
        └── DuplicateNameError        two owners registered one name

Every message says what was expected, what came and what to do. Plugins derive their own errors from these.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar

__all__ = [
    "BindingError",
    "BudgetError",
    "BudgetExceededError",
    "CallLimitError",
    "CallTimeoutError",
    "ClosedBindingError",
    "ConfigurationError",
    "DuplicateNameError",
    "EvaluationError",
    "ExecutionError",
    "FactoredOperationError",
    "HyperfuncError",
    "InputMutatedError",
    "JournalError",
    "LiftError",
    "MissingDependencyError",
    "OptimizationError",
    "ParameterError",
    "ParameterTypeError",
    "PluginError",
    "ResumeError",
    "ShapeError",
    "UnboundError",
    "UnknownParameterError",
]


class HyperfuncError(Exception):
    """Base of every error that hyperfunc raises on purpose.

    ``retryable`` says whether the same call may succeed when repeated; ``retries=`` repeats only such errors of ours
    (and any error that is not ours).
    """

    retryable: ClassVar[bool] = False


class ConfigurationError(HyperfuncError):
    """A setting or argument is missing, unknown or contradictory."""


class MissingDependencyError(ConfigurationError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"this needs the package {package!r}; install it with: pip install 'hyperfunc[{extra}]'")


class ParameterError(HyperfuncError):
    """θ or the declaration of a parameter is wrong."""


class UnknownParameterError(ParameterError):
    """A name that the system does not have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        listed = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
        if names:
            known_ones = f"{hint or ';'} known: {listed}"
        else:  # most likely a fresh system
            known_ones = "; none is known yet: components register at their first call, so run the program once before"
        super().__init__(f"no parameter or component named {name!r}{known_ones}")


class ShapeError(ParameterError):
    """Expected and actual shapes differ."""


class ParameterTypeError(ParameterError):
    """Expected and actual dtypes or value types differ."""


class BindingError(HyperfuncError):
    """A hyperfunction was called without usable parameters."""


class UnboundError(BindingError):
    """A hyperfunction with parameters was called while no binding is active."""


class ClosedBindingError(BindingError):
    """The run that owned this binding has ended; the call came too late."""


class ExecutionError(HyperfuncError):
    """A program could not be run as asked."""


class LiftError(ExecutionError):
    """``execution="lifted"`` was asked for, and the program cannot be lifted."""


class FactoredOperationError(ExecutionError):
    """An operation that may not touch a perturbed weight (in-place, raw storage, ``torch.jit``)."""


class CallLimitError(ExecutionError):
    """A hyperfunction was called more often than its ``max_calls``."""


class CallTimeoutError(ExecutionError, TimeoutError):
    """A call did not end within its ``timeout_s``."""

    retryable = True


class InputMutatedError(ExecutionError):
    """A program wrote into the tensors that it was given."""


class EvaluationError(HyperfuncError):
    """Examples, scorers or metrics are wrong."""


class OptimizationError(HyperfuncError):
    """A parameter could not be improved as asked."""

    def __init__(self, message: str, *, parameter_name: str | None = None, attempts: int | None = None) -> None:
        self.parameter_name = parameter_name
        self.attempts = attempts
        super().__init__(message)


class BudgetError(HyperfuncError):
    """A budget is malformed."""


class BudgetExceededError(BudgetError):
    """A reservation does not fit into what is left of a budget."""

    def __init__(self, message: str, *, limit: str) -> None:
        self.limit = limit
        super().__init__(message)


class JournalError(HyperfuncError):
    """The journal cannot be read, written or resumed."""


class ResumeError(JournalError):
    """The program, the data or the configuration changed since the run began."""


class PluginError(HyperfuncError):
    """A plugin is broken, duplicated or unknown."""


class DuplicateNameError(PluginError):
    """Two owners registered one name."""

    def __init__(self, kind: str, name: str, first_owner: str, second_owner: str) -> None:
        super().__init__(
            f"{kind} {name!r} is registered by {first_owner!r} and again by {second_owner!r}; "
            "rename one, or disable one with HYPERFUNC_DISABLE_PLUGINS"
        )
