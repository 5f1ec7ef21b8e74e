"""What can go wrong while texts are learned.

ConfigurationError
└── SignatureError            a signature's declaration, or the inputs given to it, are wrong
OptimizationError
├── ProposalRefusedError      a proposed text may not take the parameter's place (slots, type, empty, truncated)
├── ReflectorOutageError      the model that writes proposals could not be reached; not "no improvement"
└── UnusableProposalError     it was reached, and no reply could be used
"""

from __future__ import annotations

from hyperfunc.errors import ConfigurationError, OptimizationError

__all__ = ["ProposalRefusedError", "ReflectorOutageError", "SignatureError", "UnusableProposalError"]


class SignatureError(ConfigurationError):
    """A signature's declaration, or the inputs given to it, are wrong."""


class ProposalRefusedError(OptimizationError):
    """A proposed text may not take the parameter's place; the message says why, in words that a model can act on."""


class ReflectorOutageError(OptimizationError):
    """The model that writes proposals could not be reached. What was accepted before stays in the system."""


class UnusableProposalError(OptimizationError):
    """The model that writes proposals was reached, and none of its replies could be used."""
