"""Local language models: loaded from paths, generated from for whole populations at once, scored, evolved.

Axes, everywhere in this package: ``P`` members, ``B`` prompts, ``T`` tokens, ``R`` rows of one member, ``r`` rank.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperfunc_local.engine import Engine, Generation, GenerationRequest
    from hyperfunc_local.loading import load_model, save_model
    from hyperfunc_local.model import LocalModel
    from hyperfunc_local.module import LlamaModule
    from hyperfunc_local.sampling.parameters import DecodingParameters, resolve

__all__ = [
    "DecodingParameters",
    "Engine",
    "Generation",
    "GenerationRequest",
    "LlamaModule",
    "LocalModel",
    "load_model",
    "resolve",
    "save_model",
]

_HOME = {
    "DecodingParameters": "sampling.parameters",
    "Engine": "engine",
    "Generation": "engine",
    "GenerationRequest": "engine",
    "LlamaModule": "module",
    "LocalModel": "model",
    "load_model": "loading",
    "resolve": "sampling.parameters",
    "save_model": "loading",
}


def __getattr__(name: str) -> Any:
    """Resolved at first use: the plugin manager imports this package to find its hooks."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
