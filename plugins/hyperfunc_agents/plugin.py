"""What this plugin registers. Imports nothing heavy."""

from __future__ import annotations

from hyperfunc.hookspecs import Register, hookimpl

__all__: list[str] = []


@hookimpl
def hyperfunc_register_agent_types(register: Register) -> None:
    register("chat", "hyperfunc_agents.chat:ChatAgent")
    register("game", "hyperfunc_agents.game:Game")


@hookimpl
def hyperfunc_register_scorers(register: Register) -> None:
    register("conversation", "hyperfunc_agents.scoring:ConversationScorer")
    register("episode-return", "hyperfunc_agents.game_scoring:EpisodeReturn")


@hookimpl
def hyperfunc_register_environments(register: Register) -> None:
    register("tensor-cartpole", "hyperfunc_agents.game_cartpole:TensorCartPole")
