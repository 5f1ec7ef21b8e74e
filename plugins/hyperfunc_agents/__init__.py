"""Agent types beyond one call of ``run``: episodes in environments (GAME) and conversations (CHAT).

Names are imported at first use (PEP 562), so that loading the plugin loads neither torch nor gymnasium.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperfunc_agents.game import Game, play
    from hyperfunc_agents.game_cartpole import TensorCartPole
    from hyperfunc_agents.game_inputs import episodes
    from hyperfunc_agents.game_results import EpisodeResult, EpisodeStep, GameResponse
    from hyperfunc_agents.game_scoring import EpisodeReturn, ReturnSummary, summarize_returns
    from hyperfunc_agents.game_tensor import TensorEnvironment, Transition

__all__ = [
    "EpisodeResult",
    "EpisodeReturn",
    "EpisodeStep",
    "Game",
    "GameResponse",
    "ReturnSummary",
    "TensorCartPole",
    "TensorEnvironment",
    "Transition",
    "episodes",
    "play",
    "summarize_returns",
]

_MODULES = {
    "EpisodeResult": "game_results",
    "EpisodeReturn": "game_scoring",
    "EpisodeStep": "game_results",
    "Game": "game",
    "GameResponse": "game_results",
    "ReturnSummary": "game_scoring",
    "TensorCartPole": "game_cartpole",
    "TensorEnvironment": "game_tensor",
    "Transition": "game_tensor",
    "episodes": "game_inputs",
    "play": "game",
    "summarize_returns": "game_scoring",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
