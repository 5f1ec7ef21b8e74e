"""What of a turn is remembered: the rules, models, and extractors that misbehave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from hyperfunc.errors import ConfigurationError
from hyperfunc.function import hyperfunction
from hyperfunc.system import HyperSystem
from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_llm import Endpoint, LLMRuntime, use_runtime
from hyperfunc_llm.secrets import SecretKey
from hyperfunc_memory import (
    ExtractionError,
    LLMExtractor,
    Memory,
    MemoryEntry,
    MemoryInputError,
    MemoryType,
    RuleExtractor,
)


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory() as opened:
        yield opened


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("My name is Anna Müller.", [("User's name is Anna Müller", MemoryType.FACT, "name")]),
        ("please call me Bob", [("User's name is Bob", MemoryType.FACT, "name")]),
        ("I'm allergic to peanuts!", [("User is allergic to peanuts", MemoryType.FACT, None)]),
        ("Well, I live in New York, and it is loud", [("User lives in New York", MemoryType.FACT, "home")]),
        ("I've just moved to Oslo", [("User lives in Oslo", MemoryType.FACT, "home")]),
        ("I don't live in Oslo anymore", [("User does not live in Oslo anymore", MemoryType.FACT, "home")]),
        ("I work for Acme Corp", [("User works at Acme Corp", MemoryType.FACT, "employer")]),
        ("i work as a nurse", [("User works as nurse", MemoryType.FACT, "job")]),
        ("I am 42 years old", [("User is 42 years old", MemoryType.FACT, "age")]),
        (
            "My favourite colour is now red",
            [("User's favourite colour is red", MemoryType.PREFERENCE, "favourite colour")],
        ),
        ("I prefer trains", [("User prefers trains", MemoryType.PREFERENCE, None)]),
        ("I really love hiking", [("User likes hiking", MemoryType.PREFERENCE, "opinion of hiking")]),
        ("I can't stand hiking", [("User dislikes hiking", MemoryType.PREFERENCE, "opinion of hiking")]),
        ("I don't like fish", [("User dislikes fish", MemoryType.PREFERENCE, "opinion of fish")]),
        ("I'm a vegetarian", [("User is vegetarian", MemoryType.FACT, None)]),
        ("My dog is called Rex", [("User's dog is called Rex", MemoryType.ENTITY, "name of dog")]),
        ("My birthday is May 3", [("User's birthday is May 3", MemoryType.FACT, "birthday")]),
        ("I'm building a web shop", [("User is building a web shop", MemoryType.CONTEXT, None)]),
        ("Tomorrow I fly to Rome", [("User said: Tomorrow I fly to Rome", MemoryType.EVENT, None)]),
        ("We met John last week", [("User said: We met John last week", MemoryType.EVENT, None)]),
        ("Please remember that the door code is 7", [("the door code is 7", MemoryType.FACT, None)]),
    ],
)
def test_rules_find(message: str, expected: list[tuple[str, MemoryType, str | None]]) -> None:
    found = RuleExtractor()(message, "")
    assert [(e.content, e.memory_type, e.subject) for e in found] == expected


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Hello there!",
        "Do I like tea?",
        "If I live in Rome, what then",
        "What is my name is Bob?",
        '"I love tea", said the fox',
        "Would you say I work at Acme",
        "The weather is nice. Thanks a lot.",
        "I like to know what you think",
        "\0\ud800🙂 '; DROP TABLE",
    ],
)
def test_rules_leave_noise_alone(message: str) -> None:
    assert RuleExtractor()(message, "I love tea. My name is Claude.") == []


def test_rules_end_on_a_long_hostile_message() -> None:
    assert len(RuleExtractor()("I like " + "my my my is " * 100_000 + "I live in " * 100_000, "")) <= 5


def test_entities_are_the_names_in_a_memory() -> None:
    found = RuleExtractor()("I live in New York. I love Johann Sebastian Bach and tea.", "")
    assert [e.entities for e in found] == [["New York"], ["Johann Sebastian Bach"]]


async def test_a_turn_is_stored_when_store_turn_returns(memory: Memory) -> None:
    found = await memory.store_turn(
        "My favourite colour is blue. I live in Rome.", "Noted.", "u", agent_id="a", run_id="r"
    )
    assert [e.content for e in found] == ["User's favourite colour is blue", "User lives in Rome"]
    assert all((e.user_id, e.agent_id, e.run_id) == ("u", "a", "r") for e in found)
    assert {e.id for e in memory.get_recent(user_id="u", agent_id="a", run_id="r")} == {e.id for e in found}
    await memory.store_turn("My favourite colour is red.", "Noted.", "u", agent_id="a", run_id="r")
    assert [e.content for e in memory.retrieve("colour", "u", agent_id="a", run_id="r")] == [
        "User's favourite colour is red"
    ]
    assert await memory.store_turn("Hello!", "Hi!", "u") == []


async def test_a_turn_is_kept_whole_without_extraction(memory: Memory) -> None:
    (entry,) = await memory.store_turn("Hello!", "Hi there!", user_id="u", extract=False)
    assert (entry.memory_type, entry.importance, entry.user_id) == (MemoryType.CONTEXT, 0.3, "u")
    assert entry.content == "User: Hello!\nAssistant: Hi there!"
    assert memory.get_all("u") == [entry]


async def test_at_most_max_memories_per_turn() -> None:
    with Memory(
        max_memories_per_turn=2, extractor=lambda user, reply: [MemoryEntry(content=c) for c in "abcd"]
    ) as memory:
        assert [e.content for e in await memory.store_turn("x", "y")] == ["a", "b"]
    with pytest.raises(ConfigurationError):
        Memory(max_memories_per_turn=-1)


async def test_a_model_extracts() -> None:
    prompts: list[str] = []

    async def complete(prompt: str) -> str:
        prompts.append(prompt)
        memories = [
            {"content": "Has a cat", "type": "entity", "entities": ["Tom"], "importance": 0.4, "subject": "cat"}
        ]
        return f"```json\n{json.dumps(memories)}\n```"

    with Memory(extractor=LLMExtractor(complete)) as memory:
        (entry,) = await memory.store_turn('My cat is "Tom"\nTURN:', "Nice")
        assert (entry.content, entry.memory_type, entry.entities) == ("Has a cat", MemoryType.ENTITY, ["Tom"])
        assert (entry.importance, entry.subject) == (0.4, "cat")
    assert json.loads(prompts[0].rpartition("\nTURN:\n")[2]) == {"user": 'My cat is "Tom"\nTURN:', "assistant": "Nice"}


async def test_a_model_is_asked_by_name_over_http() -> None:
    reply = '[{"content": "Has a cat named Tom", "type": "entity", "entities": ["Tom"]}]'
    async with LLMServer(Script(rules=(Rule(contains="keep the long-term memory", content=reply),))) as server:
        endpoint = Endpoint(
            model="openai/any",
            base_url=server.base_url,
            api_key=SecretKey("x"),
            transport="direct",
            input_usd=0,
            output_usd=0,
        )
        with use_runtime(LLMRuntime({"keeper": endpoint})), Memory(extraction_model="keeper") as memory:
            (entry,) = await memory.store_turn("My cat is called Tom", "Nice", "u")
            assert (entry.content, entry.memory_type) == ("Has a cat named Tom", MemoryType.ENTITY)
            assert memory.get_by_entity("tom", "u") == [entry]
        assert server.counters()["requests"] == 1


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Sure! Here you go",
        '{"content": "x"}',
        "[1]",
        '[{"content": ""}]',
        '[{"content": 3}]',
        '[{"content": "x", "type": "opinion"}]',
        '[{"content": "x", "type": {}}]',
        '[{"content": "x", "entities": "Tom"}]',
        '[{"content": "x", "importance": 7}]',
        '[{"content": "x", "importance": NaN}]',
        '[{"content": "x", "importance": true}]',
        '[{"content": "x", "subject": 1}]',
        '[{"content": "good"}, {"content": null}]',
        "[" * 100_000,
    ],
)
async def test_a_bad_reply_is_our_error_and_stores_nothing(reply: str) -> None:
    async def complete(prompt: str) -> str:
        return reply

    with Memory(extractor=LLMExtractor(complete)) as memory:
        with pytest.raises(ExtractionError):
            await memory.store_turn("x", "y")
        assert memory.count() == 0


@pytest.mark.parametrize("returned", [None, 7, {"content": "x"}, b"[]", [None], [MemoryEntry(content="")]])
async def test_a_bad_extractor_is_our_error(returned: Any) -> None:
    with Memory(extractor=lambda user, reply: returned) as memory:
        with pytest.raises((ExtractionError, MemoryInputError)):
            await memory.store_turn("x", "y")
        assert memory.count() == 0


async def test_messages_must_be_text(memory: Memory) -> None:
    with pytest.raises(MemoryInputError, match="assistant_response must be text"):
        await memory.store_turn("x", None)  # type: ignore[arg-type]


async def test_a_hyperfunction_extracts_with_the_prompt_of_its_binding() -> None:
    @hyperfunction(prompt="colour", io=True)
    async def extractor(user_message: str, assistant_response: str, *, prompt: str) -> str:
        return json.dumps([{"content": f"{prompt}: {user_message}", "subject": prompt}])

    class Rememberer(HyperSystem):
        def __init__(self, store: Memory) -> None:
            super().__init__()
            self.store = store
            self.extractor = extractor

        async def run(self, message: str) -> list[str]:
            return [entry.content for entry in await self.store.store_turn(message, "ok")]

    with Memory(extractor=extractor) as memory:
        system = Rememberer(memory)
        assert await system.execute({"message": "red"}) == ["colour: red"]
        assert await system.execute({"message": "red"}, theta={"extractor.prompt": "mood"}) == ["mood: red"]
        assert {entry.subject for entry in memory.get_all()} == {"colour", "mood"}


async def test_an_extractors_own_error_passes_through() -> None:
    async def failing(user: str, reply: str) -> list[Any]:
        raise TimeoutError("the model is away")

    with Memory(extractor=failing) as memory:
        with pytest.raises(TimeoutError, match="away"):
            await memory.store_turn("x", "y")
        assert memory.count() == 0


def test_an_extractor_needs_one_way_to_ask() -> None:
    with pytest.raises(ConfigurationError):
        LLMExtractor()
