"""``hp: MyParam = injected``: callers give nothing, and a missing value says so at its first use."""

from __future__ import annotations

import copy
import json
import operator
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperfunc import Example, HyperSystem, LMParam, LoRAWeight, hyperfunction
from hyperfunc.errors import ConfigurationError, UnboundError
from hyperfunc.injection import injected
from hyperfunc.settings import Settings
from hyperfunc.testing.llm_server import LLMServer
from hyperfunc_llm import LLMRuntime, llm_completion, llm_hyperfunction
from hyperfunc_llm.tools import Tool

WEIGHT = LoRAWeight.create(1, 2)


@hyperfunction(hp_type=WEIGHT, optimize_hparams=True)
async def project(x: Tensor, hp: Any = injected) -> Tensor:
    weight: Tensor = hp.to_tensor().reshape(2, 1)
    return x @ weight


class Projecting(HyperSystem):
    def __init__(self) -> None:
        super().__init__()
        self.register_hyperfunction(project)

    async def run(self, x: Tensor) -> Tensor:
        result: Tensor = await project(x)
        return result


async def test_the_system_gives_what_the_caller_does_not() -> None:
    system, x = Projecting(), torch.ones(2)
    value = dict(system.theta)["project.hp"]
    assert isinstance(value, Tensor)
    assert torch.allclose(await system.run(x), value.reshape(2, 1).sum(0))
    with system.binding():
        given = WEIGHT.from_tensor(torch.tensor([[3.0, 4.0]]))
        assert (await project(x, given)).item() == 7.0
        assert (await project(x, hp=given)).item() == 7.0


@pytest.mark.parametrize("execution", ["lifted", "gathered"])
async def test_populations_are_given_it_too(execution: Any) -> None:
    system = Projecting()
    examples = [Example({"x": torch.tensor(x)}, torch.tensor([2 * x[0] - x[1]])) for x in ([1.0, 0.0], [0.0, 1.0])]

    def metric(predictions: list[Any], expected: list[Any]) -> float:
        return -sum(float((p - e).abs().sum()) for p, e in zip(predictions, expected, strict=True))

    with Settings(execution=execution):
        before = await system.evaluate(examples, metric)
        result = await system.optimize(examples, metric, steps=5)
        assert await system.evaluate(examples, metric) > before
    assert result.execution == execution


async def test_outside_a_run_the_call_itself_is_refused() -> None:
    with pytest.raises(UnboundError, match="project has parameters and was called outside a run"):
        await project(torch.ones(2))


USES: list[Callable[[Any], Any]] = [
    lambda hp: hp.to_tensor(),
    lambda hp: hp(1),
    lambda hp: hp[0],
    lambda hp: list(hp),
    lambda hp: 1 if hp else 2,
    lambda hp: f"{hp}",
    lambda hp: float(hp),
    lambda hp: torch.ones(2) * hp,
    lambda hp: hp @ torch.ones(2),
    lambda hp: torch.nn.functional.linear(torch.ones(2), hp),
    lambda hp: -hp,
    operator.methodcaller("anything"),
]


@pytest.mark.parametrize("use", USES)
def test_whatever_is_done_without_a_value_says_what_is_missing(use: Callable[[Any], Any]) -> None:
    with pytest.raises(UnboundError, match="hyperfunc injects"):
        use(injected)


async def test_the_bare_function_called_by_hand() -> None:
    with pytest.raises(UnboundError, match=r"not its \.fn"):
        await project.fn(torch.ones(2))


def test_there_is_one_of_it() -> None:
    assert repr(injected) == "injected"
    assert copy.copy(injected) is copy.deepcopy(injected) is injected
    assert pickle.loads(pickle.dumps(injected)) is injected


def test_an_argument_that_nobody_injects_is_refused_when_declared() -> None:
    with pytest.raises(ConfigurationError, match="nothing injects the argument 'hp'"):

        @hyperfunction
        async def forgotten(x: Tensor, hp: Any = injected) -> Tensor:
            return x

    with pytest.raises(ConfigurationError, match="nothing injects the argument 'style'"):

        @hyperfunction(prompt="be brief")
        async def misspelt(x: str, *, style: str = injected, prompt: str = injected) -> str:
            return x


async def test_texts_have_a_value_everywhere() -> None:
    @hyperfunction(prompt="be brief: ")
    async def say(x: str, *, prompt: str = injected) -> str:
        return prompt + x

    assert await say("yes") == "be brief: yes"


async def test_a_model_component_that_needs_its_settings(server: LLMServer, runtime: LLMRuntime) -> None:
    """Unlike ``hp: LMParam | None = None``, which leaves them to the provider outside a run."""

    @llm_hyperfunction(hp_type=LMParam, optimize_hparams=True)
    async def ask(question: str, hp: LMParam = injected) -> str:
        """Asks."""
        return str(await llm_completion("m", question, temperature=float(hp.temperature)))

    class Asking(HyperSystem):
        async def run(self, question: str) -> str:
            return str(await ask(question))

    system = Asking()
    system.register_hyperfunction(ask)
    assert await system.run("why?") == "echo: why?"
    assert json.loads(server.bodies()[-1])["temperature"] == pytest.approx(0.7)
    with pytest.raises(UnboundError, match="ask has parameters"):
        await ask("why?")
    assert server.counters()["requests"] == 1
    assert set(Tool(ask).schema()["function"]["parameters"]["properties"]) == {"question"}
