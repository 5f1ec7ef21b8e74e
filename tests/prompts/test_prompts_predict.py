"""Signatures, adapters and Predict, against the loopback provider."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Literal

import pytest
from pydantic import BaseModel

from hyperfunc import HyperSystem
from hyperfunc.testing.llm_server import LLMServer, Rule, Script
from hyperfunc_llm import Endpoint, LLMRuntime, use_runtime
from hyperfunc_llm.errors import OutputValidationError
from hyperfunc_prompts import ChatAdapter, InputField, JSONAdapter, OutputField, Predict, Signature, SignatureError


class Place(BaseModel):
    name: str
    people: int


class Facts(Signature):
    """Find the place."""

    zeta: str = InputField("what was asked")
    alpha: list[int] = InputField()
    place: Place = OutputField("where")
    mood: Literal["good", "bad"] = OutputField()


class Shout(Signature):
    """Say it loud."""

    text: str = InputField()
    loud: str = OutputField()


CHAT_REPLY = '[[ ## place ## ]]\n```json\n{"name": "Ulm", "people": 126}\n```\n[[ ## mood ## ]]\ngood'


@pytest.fixture
async def server() -> AsyncIterator[LLMServer]:
    async with LLMServer() as running:
        runtime = LLMRuntime(
            {"m": Endpoint(model="openai/x", base_url=running.base_url, backoff_s=0.001, transport="direct")}
        )
        async with runtime:
            with use_runtime(runtime):
                yield running


def test_fields_keep_the_order_in_which_they_are_written() -> None:
    assert list(Facts.input_fields()) == ["zeta", "alpha"]
    assert list(Facts.output_fields()) == ["place", "mood"]
    assert Facts.to_prompt().splitlines() == [
        "Find the place.",
        "",
        "Inputs:",
        "- zeta (str): what was asked",
        "- alpha (list[int])",
        "",
        "Outputs:",
        "- place (Place): where",
        "- mood (Literal['good', 'bad'])",
    ]


def test_rendering_is_the_same_in_every_process() -> None:
    code = (
        "from hyperfunc_prompts import *\n"
        "class S(Signature):\n  'T.'\n  a: set[str] = InputField()\n  b: str = OutputField()\n"
        "print(Predict(S, 'm').explain(a={'x', 'y', 'zz', 'q'}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert '["q", "x", "y", "zz"]' in out.stdout


@pytest.mark.parametrize("adapter", ["chat", "json"])
async def test_explain_is_what_is_sent(server: LLMServer, adapter: str) -> None:
    content = CHAT_REPLY if adapter == "chat" else '{"place": {"name": "Ulm", "people": 126}, "mood": "good"}'
    server.reset(Script(rules=(Rule(content=content),)))
    demo = {"zeta": "q", "alpha": [7], "place": Place(name="Bonn", people=3), "mood": "bad"}
    facts = Predict(Facts, "m", adapter=adapter, demos=[demo])

    class Asks(HyperSystem):
        async def run(self, zeta: str) -> object:
            return await facts(zeta=zeta, alpha=[1, 2])

    system = Asks()
    system.register_hyperfunction(facts)
    system.set_prompt("Facts", "A learned text.")
    with system.binding():
        expected = facts.explain(zeta="where?", alpha=[1, 2])
    assert not server.bodies()
    prediction = await system.run("where?")
    assert json.loads(server.bodies()[-1])["messages"] == expected
    assert expected[0]["content"].startswith("A learned text.")
    assert prediction.place == Place(name="Ulm", people=126)
    assert dict(prediction)["mood"] == "good"


async def test_a_reply_that_does_not_validate_is_sent_back_with_the_complaint(server: LLMServer) -> None:
    server.reset(Script(rules=(Rule(content=CHAT_REPLY.replace("good", "so-so"), times=1), Rule(content=CHAT_REPLY))))
    prediction = await Predict(Facts, "m")(zeta="q", alpha=[])
    assert prediction.mood == "good"
    assert "mood" in json.loads(server.bodies()[-1])["messages"][-1]["content"]


def test_nothing_is_stripped_from_a_text_but_the_space_around_it() -> None:
    assert ChatAdapter().read(Shout, "[[ ## loud ## ]]\nHELLO, WORLD!...\n") == {"loud": "HELLO, WORLD!..."}
    assert ChatAdapter().read(Shout, "HELLO?!") == {"loud": "HELLO?!"}


def test_missing_and_wrong_fields_are_named() -> None:
    with pytest.raises(OutputValidationError, match="mood"):
        ChatAdapter().read(Facts, '[[ ## place ## ]]\n{"name": "Ulm", "people": 1}')
    with pytest.raises(OutputValidationError, match=r"'place'.*people"):
        JSONAdapter().read(Facts, '{"place": {"name": "Ulm", "people": "many"}, "mood": "bad"}')


def test_wrong_declarations_and_inputs_are_refused() -> None:
    with pytest.raises(SignatureError, match="OutputField"):
        type("Empty", (Signature,), {})
    with pytest.raises(SignatureError, match=r"takes \['text'\]"):
        Predict(Shout, "m").explain(txt="x")
    with pytest.raises(SignatureError, match="demo"):
        Predict(Shout, "m", demos=[{"text": "x"}])
