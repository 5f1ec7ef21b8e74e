"""CHAT: scripted and simulated conversations, their memory, their failures, and many of them at once."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hyperfunc.agents import AgentType
from hyperfunc.errors import ConfigurationError, EvaluationError, ExecutionError
from hyperfunc.evaluation.example import Example
from hyperfunc.evaluation.results import ScoreResult
from hyperfunc.evaluation.scorers import ContainsMatch, ExactMatch
from hyperfunc.function import hyperfunction
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.scope import enter_scope
from hyperfunc.system import HyperSystem
from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_agents import (
    ChatResponse,
    Conversation,
    ConversationResult,
    ConversationScorer,
    ConversationTurn,
    LLMUser,
    hold_conversations,
    plugin,
)
from hyperfunc_llm import Endpoint, LLMRuntime, use_runtime
from hyperfunc_llm.secrets import SecretKey
from hyperfunc_memory import Memory, MemoryEntry, SQLiteBackend
from hyperfunc_memory.snapshot import SnapshotBackend


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    with use_plugins(load_plugins([("agents", plugin)], entry_points=False)):
        yield


class Echo(HyperSystem):
    agent_type = AgentType.CHAT

    async def run(self, message: str, history: list[dict[str, str]] | None = None) -> Any:
        heard = len(history or []) // 2
        return ChatResponse(f"{heard}: {message}", done="bye" in message, metadata={"heard": heard})


class Forgetful(HyperSystem):
    """Answers with what its memory gave it."""

    agent_type = AgentType.CHAT

    async def run(self, message: str, memory_context: str = "") -> str:
        return memory_context or "nothing"


# Scripts


async def test_a_script_is_said_in_order() -> None:
    result = await Echo().execute({"conversation": ["Hello", "How are you?"]})
    assert isinstance(result, ConversationResult)
    assert (result.turns, result.done, result.ended_by) == (2, False, "script")
    assert result.history == [
        ConversationTurn("user", "Hello"),
        ConversationTurn("assistant", "0: Hello", {"heard": 0}),
        ConversationTurn("user", "How are you?"),
        ConversationTurn("assistant", "1: How are you?", {"heard": 1}),
    ]
    assert result.final_response is not None
    assert result.final_response.message == result.replies[-1] == "1: How are you?"
    assert result.to_dict()["history"][0] == {"role": "user", "content": "Hello", "metadata": None}
    assert str(result).startswith("User: Hello\n\nAssistant: 0: Hello\n\n")


@pytest.mark.parametrize(
    ("inputs", "turns", "ended_by"),
    [
        ({"conversation": ["Hello", "bye", "more"]}, 2, "agent"),
        ({"conversation": ["a", "b", "c"], "max_turns": 2}, 2, "max_turns"),
        ({"conversation": ["a", "b"], "max_turns": 2}, 2, "max_turns"),
        ({"conversation": ["a"] * 150}, 100, "max_turns"),
        ({"conversation": []}, 0, "script"),
    ],
)
async def test_how_a_script_ends(inputs: dict[str, Any], turns: int, ended_by: str) -> None:
    result = await Echo().execute(inputs)
    assert (result.turns, result.ended_by, result.done) == (turns, ended_by, ended_by == "agent")
    assert len(result.history) == 2 * turns


async def test_programs_take_what_they_need_and_answer_as_they_like() -> None:
    class Minimal(HyperSystem):
        agent_type = "chat"

        async def run(self, message: str) -> str:
            return message.upper()

    class Everything(HyperSystem):
        agent_type = "chat"

        async def run(self, **given: Any) -> dict[str, Any]:
            return {"message": ",".join(sorted(given)), "done": True}

    class Customer(HyperSystem):
        agent_type = "chat"

        async def run(self, message: str, customer: str) -> ChatResponse:
            return ChatResponse(f"{customer} said {message}")

    assert (await Minimal().execute({"conversation": ["hi"]})).replies == ["HI"]
    assert (await Everything().execute({"conversation": ["hi"], "color": 1})).replies == ["color,history,message"]
    assert (await Customer().execute({"conversation": ["hi"], "customer": "Ann", "other": 1})).replies == [
        "Ann said hi"
    ]


@pytest.mark.parametrize("output", [None, 7, ["x"], {"text": "x"}, ChatResponse(None)])  # type: ignore[arg-type]
async def test_what_is_no_reply_is_an_error_that_names_the_turn(output: Any) -> None:
    class Broken(HyperSystem):
        agent_type = "chat"

        async def run(self, message: str) -> Any:
            return "fine" if message == "a" else output

    with pytest.raises(ExecutionError, match="must return a ChatResponse") as caught:
        await Broken().execute({"conversation": ["a", "b"]})
    assert caught.value.__notes__ == ["in turn 2 of the conversation"]


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"conversation": "Hello"},
        {"conversation": [1]},
        {"conversation": {"a": 1}},
        {"conversation": ["x"], "user": print},
        {"user": "someone"},
        {"conversation": ["x"], "max_turns": 0},
        {"conversation": ["x"], "max_turns": True},
        {"conversation": ["x"], "max_turns": 1.5},
        {"conversation": ["x"], "seed": "1"},
    ],
)
async def test_inputs_that_are_no_conversation(inputs: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError):
        await Echo().execute(inputs)


# Simulated users


async def test_a_simulated_user_has_goal_persona_and_seed() -> None:
    seen: list[tuple[Any, ...]] = []

    async def user(history: list[dict[str, str]], *, goal: str, persona: str, seed: int, turn: int) -> str | None:
        seen.append((len(history), goal, persona, seed, turn))
        history.clear()  # a copy: nobody can rewrite what was said
        return f"message {turn}" if turn < 2 else None

    result = await Echo().execute({"user": user, "goal": "refund", "persona": "angry"})
    assert (result.turns, result.done, result.ended_by) == (2, True, "user")
    assert result.replies == ["0: message 0", "1: message 1"]
    assert [entry[:3] + entry[4:] for entry in seen] == [(2 * i, "refund", "angry", i) for i in range(3)]
    assert len({entry[3] for entry in seen}) == 1


async def test_a_simulated_user_may_be_plain_a_hyperfunction_or_the_systems_own() -> None:
    @hyperfunction(io=True)
    async def hyper(history: list[dict[str, str]], goal: str) -> str:
        return goal if len(history) < 2 else " "

    class WithUser(Echo):
        @staticmethod
        def simulated_user(history: list[dict[str, str]]) -> str | None:
            return "own" if not history else None

    assert (await Echo().execute({"user": hyper, "goal": "cheese"})).replies == ["0: cheese"]
    assert (await WithUser().execute({})).replies == ["0: own"]
    assert (await Echo().execute({"user": lambda history: "again"})).turns == 10
    with pytest.raises(EvaluationError, match="text or None, got int"):
        await Echo().execute({"user": lambda history: 3})


async def test_every_candidate_meets_the_same_user_and_every_seed_another() -> None:
    async def user(history: list[dict[str, str]], seed: int) -> str | None:
        return str(seed) if not history else None

    async def seeds(run_seed: int, **inputs: Any) -> set[str]:
        with enter_scope(seed=run_seed):
            results = await hold_conversations(Echo(), [{"user": user, **inputs}] * 3)
        return {result.replies[0] for result in results if isinstance(result, ConversationResult)}

    zero, one, inputs_zero, inputs_one = (
        await seeds(0),
        await seeds(1),
        await seeds(0, seed=0),
        await seeds(0, seed=1),
    )
    assert zero == inputs_zero
    assert len(zero) == 1
    assert len(zero | one | inputs_one) == 3
    assert await seeds(0, goal="a") != await seeds(0, goal="b")


async def test_a_model_plays_a_person() -> None:
    prompts: list[tuple[str, int]] = []

    async def complete(prompt: str, seed: int = 0) -> str:
        prompts.append((prompt, seed))
        return "Where is my parcel?" if len(prompts) == 1 else "Thanks. <END>"

    inputs = {"user": LLMUser(complete, moods=("grumpy",)), "goal": "find the parcel", "persona": "Bob, 70"}
    result = await Echo().execute(inputs)
    assert (result.turns, result.ended_by) == (1, "user")
    for part in ("find the parcel", "Bob, 70", "grumpy", "(you begin)", "reply with exactly <END>"):
        assert part in prompts[0][0]
    assert "You: Where is my parcel?\nAssistant: 0: Where is my parcel?" in prompts[1][0]
    assert prompts[1][1] == prompts[0][1] + 1


async def test_a_model_plays_a_person_over_http() -> None:
    rules = (
        Rule(contains="(you begin)", content="Where is my parcel?"),
        Rule(contains="THE CONVERSATION", content="<END>"),
    )
    async with LLMServer(Script(rules=rules)) as server:
        endpoint = Endpoint(
            model="openai/any",
            base_url=server.base_url,
            api_key=SecretKey("x"),
            transport="direct",
            input_usd=0,
            output_usd=0,
        )
        with use_runtime(LLMRuntime({"person": endpoint})):
            system = Echo()
            result = await system.execute({"user": LLMUser(model="person"), "goal": "find the parcel"})
        assert (result.replies, result.ended_by) == (["0: Where is my parcel?"], "user")
        assert server.counters()["requests"] == 2
    assert not [entry for entry in system.registry.tensor_entries() if entry.spec.trainable]
    for wrong in ({}, {"model": "person", "complete": print}):
        with pytest.raises(ConfigurationError, match="either"):
            LLMUser(**wrong)  # type: ignore[arg-type]


# Memory


async def test_a_conversation_remembers_and_leaves_no_trace() -> None:
    with Memory() as memory:
        memory.add(MemoryEntry(content="User prefers trains over planes", user_id="ann"))
        memory.add(MemoryEntry(content="User prefers trains of another kind", user_id="bob"))
        system = Forgetful(memory=memory)
        script = ["Shall I take trains?", "My favourite colour is blue.", "What is my favourite colour?"]
        result = await system.execute({"conversation": script, "user_id": "ann"})
        assert result.replies[0] == "[Relevant memories:]\n- User prefers trains over planes"
        assert "User's favourite colour is blue" in result.replies[2]
        assert memory.count() == 2
        assert all(entry.access_count == 0 for entry in memory.get_all())
        without = await system.execute({"conversation": script, "user_id": "ann", "use_memory": False})
        assert without.replies == ["nothing"] * 3


async def test_conversations_at_once_never_see_each_others_memories() -> None:
    with Memory() as memory:
        system = Forgetful(memory=memory)
        inputs = [{"conversation": [f"My name is Name{i}.", "What is my name?"], "user_id": "same"} for i in range(50)]
        results = await hold_conversations(system, inputs)
        for number, result in enumerate(results):
            assert isinstance(result, ConversationResult)
            assert result.replies == ["nothing", f"[Relevant memories:]\n- User's name is Name{number}"]
        assert memory.count() == 0


async def test_a_conversation_of_an_application_writes_to_the_memory_itself() -> None:
    with Memory() as memory:
        system = Forgetful(memory=memory)
        first = Conversation(system.run, memory=memory, user_id="ann")
        assert (await first.say("My name is Ann.")).message == "nothing"
        later = Conversation(system.run, memory=memory, user_id="ann")
        assert "User's name is Ann" in (await later.say("What is my name?")).message
        other = Conversation(system.run, memory=memory, user_id="bob")
        assert (await other.say("What is my name?")).message == "nothing"


async def test_a_turn_that_fails_can_be_tried_again_and_the_end_is_the_end() -> None:
    class Moody(HyperSystem):
        agent_type = "chat"
        fails = True

        async def run(self, message: str) -> ChatResponse:
            if self.fails:
                raise TimeoutError("busy")
            return ChatResponse("ok", done=True)

    system = Moody()
    conversation = Conversation(system.run)
    with pytest.raises(TimeoutError):
        await conversation.say("hi")
    assert conversation.history == []
    system.fails = False
    assert (await conversation.say("hi")).message == "ok"
    with pytest.raises(ExecutionError, match="over"):
        await conversation.say("more")


# Many at once


@pytest.mark.slow
async def test_a_thousand_conversations_at_once() -> None:
    class Busy(HyperSystem):
        agent_type = "chat"
        most = now = 0

        async def run(self, message: str, history: list[dict[str, str]] | None = None) -> str:
            Busy.now += 1
            Busy.most = max(Busy.most, Busy.now)
            await asyncio.sleep(0)
            Busy.now -= 1
            if message == "500/3":
                raise RuntimeError("number 500 breaks")
            return f"{message} after {len(history or [])}"

    inputs = [{"conversation": [f"{number}/{turn}" for turn in range(5)]} for number in range(1000)]
    results = await hold_conversations(Busy(), inputs)
    assert Busy.most > 500
    for number, result in enumerate(results):
        if number == 500:
            assert isinstance(result, RuntimeError)
            assert result.__notes__ == ["in turn 4 of the conversation"]
        else:
            assert isinstance(result, ConversationResult)
            assert result.replies == [f"{number}/{turn} after {2 * turn}" for turn in range(5)]
    del result, results
    gc.collect()
    ours = (Conversation, ConversationResult, ConversationTurn)
    left = [thing for thing in gc.get_objects() if type(thing) in ours]
    assert left == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.slow
async def test_many_conversations_with_memories_leave_none_behind() -> None:
    class Fragile(Forgetful):
        async def run(self, message: str, memory_context: str = "") -> str:
            if "Name7." in message:
                raise RuntimeError("number 7 breaks")
            return memory_context or "nothing"

    def left() -> int:
        gc.collect()
        return sum(type(thing) in (Memory, SnapshotBackend, SQLiteBackend) for thing in gc.get_objects())

    with Memory() as memory:
        before = left()
        script = ["My name is Name{}.", "I live in Rome.", "I love tea.", "What is my name?", "Where do I live?"]
        inputs = [{"conversation": [turn.format(i) for turn in script], "user_id": f"u{i}"} for i in range(200)]
        results = await hold_conversations(Fragile(memory=memory), inputs)
        for number, result in enumerate(results):
            if number == 7:
                assert isinstance(result, RuntimeError)
            else:
                assert isinstance(result, ConversationResult)
                assert [f"Name{number}" in reply for reply in result.replies] == [False, False, False, True, False]
        del result, results
        assert memory.count() == 0
        for _ in range(100):  # a worker thread lets go of its last call when it takes the next, or a moment later
            if left() <= before:  # what tests before this one left may go meanwhile
                break
            await asyncio.to_thread(time.sleep, 0.02)
        assert left() <= before


# Evaluation and optimization


async def test_evaluate_with_a_metric_as_in_0_3() -> None:
    def metric(predictions: list[ConversationResult], expected: list[dict[str, Any]]) -> float:
        right = [p.turns == e["turns"] and p.done == e["done"] for p, e in zip(predictions, expected, strict=True)]
        return float(sum(right) / len(right))

    examples = [
        Example({"conversation": ["Hello", "bye"]}, {"turns": 2, "done": True}),
        Example({"conversation": ["Hello"]}, {"turns": 1, "done": True}),
    ]
    assert await Echo().evaluate(examples, metric) == 0.5


async def test_a_conversation_that_breaks_is_named_by_evaluate() -> None:
    with pytest.raises(EvaluationError) as caught:
        await Echo().evaluate([Example({"conversation": ["a"]}, None), Example({}, None)], lambda p, e: 0.0)
    assert "CHAT example needs" in str(caught.value)


async def test_scores_of_turns_and_of_the_end() -> None:
    scorer = ConversationScorer(turn=ExactMatch(), final=LengthScorer(), turn_weight=0.75)
    result = await Echo().execute({"conversation": ["a", "b"]})
    scored = await scorer.score(result, {"replies": ["0: a", "wrong", "never said"], "final": 2})
    assert scored.details == {"turns": [1.0, 0.0, 0.0], "final": 1.0}
    assert scored.score == pytest.approx(0.75 / 3 + 0.25)
    assert "Turn 2: " in scored.feedback
    assert (await ConversationScorer(turn=ContainsMatch()).score(result, {"replies": ["a"]})).score == 1.0
    for output, expected in ((3, {}), (result, 3), (result, {}), (result, {"replies": "a"}), (result, {"replies": []})):
        with pytest.raises(EvaluationError):
            await scorer.score(output, expected)
    for wrong in ({}, {"turn": ExactMatch(), "turn_weight": 2.0}):
        with pytest.raises(ConfigurationError, match="turn"):
            ConversationScorer(**wrong)  # type: ignore[arg-type]


class LengthScorer:
    """1 if the conversation has the expected number of turns."""

    async def score(self, output: Any, expected: Any, inputs: Any = None) -> ScoreResult:
        return ScoreResult(float(output.turns == expected))


async def test_the_parameters_of_a_chat_program_can_be_optimized() -> None:
    class Bias:
        """A number."""

        def __init__(self, value: float) -> None:
            self.value = value

        @classmethod
        def shape(cls) -> tuple[int, ...]:
            return (1,)

        @classmethod
        def default_init(cls) -> torch.Tensor:
            return torch.tensor([-1.0])

        @classmethod
        def from_tensor(cls, t: torch.Tensor) -> Bias:
            return cls(float(t[0]))

    @hyperfunction(hp_type=Bias, optimize_hparams=True, io=True)
    async def mood(hp: Bias | None = None) -> float:
        assert hp is not None
        return hp.value

    class Polite(HyperSystem):
        agent_type = AgentType.CHAT

        async def run(self, message: str, history: list[dict[str, str]] | None = None) -> ChatResponse:
            return ChatResponse(f"{await mood():.6f}")

    def metric(predictions: list[ConversationResult], expected: list[float]) -> float:
        errors = [abs(float(r) - e) for p, e in zip(predictions, expected, strict=True) for r in p.replies]
        return -float(sum(errors)) / len(errors)

    system = Polite()
    examples = [Example({"conversation": ["x", "y"]}, 1.0), Example({"conversation": ["z"]}, 1.0)]
    before = await system.evaluate(examples, metric)
    await system.optimize(examples, metric, steps=25, seed=0)
    after = await system.evaluate(examples, metric)
    assert before == pytest.approx(-2.0)
    assert after > before + 0.5
