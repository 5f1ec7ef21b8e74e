"""What every prompt optimizer must do, as tests: override the fixture ``prompt_optimizer``."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from hyperfunc.evaluation.example import Example
from hyperfunc.function import hyperfunction
from hyperfunc.parameters.text import TextParam
from hyperfunc.system import HyperSystem
from hyperfunc.testing.contracts._values import finish

__all__ = ["PromptOptimizerContract", "PromptProgram"]


class PromptProgram(HyperSystem):
    """A program whose quality can be read off its texts, so that no model is needed.

    ``answer.prompt`` is trainable and is better the more of the words "short", "polite" and "cite" it holds;
    ``answer.house_rules`` is frozen; ``scale`` is a tensor, which no prompt optimizer may move.
    """

    def __init__(self, *, trainable: bool = True) -> None:
        super().__init__()

        @hyperfunction(
            name="answer",
            texts={
                "prompt": TextParam("Answer the question.", "how to answer", trainable=trainable),
                "house_rules": TextParam("No jargon.", trainable=False),
            },
        )
        async def answer(question: str, prompt: str, house_rules: str) -> str:
            return " ".join(word for word in ("short", "polite", "cite") if word in prompt.lower())

        self.answer: Any = answer  # its texts come from the binding
        self.scale = hyperfunction(name="scale", optimize_hparams=True)(torch.nn.Linear(1, 1))
        self.register_hyperfunction(self.answer)
        self.register_hyperfunction(self.scale)

    async def run(self, question: str) -> str:
        result: str = await self.answer(question)
        return result


def _metric(predictions: Sequence[str], expected: Sequence[str]) -> float:
    shares = [len(set(p.split()) & set(e.split())) / 3 for p, e in zip(predictions, expected, strict=True)]
    return sum(shares) / len(shares)


_EXAMPLES = [Example({"question": f"question {i}"}, "short polite cite") for i in range(4)]


class PromptOptimizerContract:
    """Tests of one prompt optimizer on :class:`PromptProgram`; its proposals may be of any quality."""

    @pytest.fixture
    def prompt_optimizer(self) -> Any:
        """A new optimizer, ready to work without network. Override this."""
        raise NotImplementedError("override the fixture prompt_optimizer with an instance of your optimizer")

    def _optimize(self, optimizer: Any, program: HyperSystem, metric: Callable[..., float] = _metric) -> None:
        finish(optimizer.optimize(program, _EXAMPLES, metric))

    def test_it_is_a_coroutine_function_of_system_data_and_metric(self, prompt_optimizer: Any) -> None:
        assert inspect.iscoroutinefunction(prompt_optimizer.optimize)
        parameters = inspect.signature(prompt_optimizer.optimize).parameters
        assert list(parameters)[:3] == ["system", "train_data", "metric_fn"]
        assert parameters["feedback_fn"].default is None

    def test_the_metric_never_gets_worse(self, prompt_optimizer: Any) -> None:
        program = PromptProgram()
        before = finish(program.evaluate(_EXAMPLES, _metric))
        self._optimize(prompt_optimizer, program)
        assert finish(program.evaluate(_EXAMPLES, _metric)) >= before

    def test_only_trainable_texts_change(self, prompt_optimizer: Any) -> None:
        program = PromptProgram()
        before = program.theta
        self._optimize(prompt_optimizer, program)
        assert program.theta.keys() == before.keys()
        assert isinstance(program.theta["answer.prompt"], str)
        assert program.theta["answer.house_rules"] == before["answer.house_rules"]
        for name, tensor in before.tensors.items():
            assert torch.equal(program.theta.tensors[name], tensor), f"{name} is a tensor and was moved"

    def test_without_trainable_texts_nothing_happens(self, prompt_optimizer: Any) -> None:
        program = PromptProgram(trainable=False)
        before = program.theta
        self._optimize(prompt_optimizer, program)
        assert program.theta == before

    def test_feedback_is_taken(self, prompt_optimizer: Any) -> None:
        program = PromptProgram()

        def feedback(*arguments: Any, **named: Any) -> str:
            return "Say that answers are short and polite and cite sources."

        finish(prompt_optimizer.optimize(program, _EXAMPLES, _metric, feedback_fn=feedback))
        assert isinstance(program.theta["answer.prompt"], str)

    def test_it_works_inside_optimize(self, prompt_optimizer: Any) -> None:
        program = PromptProgram()
        program.prompt_optimizer = prompt_optimizer
        before = finish(program.evaluate(_EXAMPLES, _metric))
        finish(program.optimize(_EXAMPLES, _metric, steps=1, freeze="scale"))
        assert finish(program.evaluate(_EXAMPLES, _metric)) >= before

    def test_a_broken_metric_is_heard_of_and_changes_nothing(self, prompt_optimizer: Any) -> None:
        program = PromptProgram()
        before = program.theta

        asked: list[Any] = []

        def broken(predictions: Any, expected: Any) -> float:
            asked.append(predictions)
            raise ZeroDivisionError("the metric is broken")

        heard: list[Exception] = []
        try:
            self._optimize(prompt_optimizer, program, broken)
        except Exception as error:
            heard.append(error)
        assert all("the metric is broken" in str(error) for error in heard), heard
        assert bool(heard) == bool(asked), "an optimizer that measures must pass the metric's error on"
        assert program.theta == before

    def test_cancellation_passes_and_changes_nothing(self, prompt_optimizer: Any) -> None:
        program = PromptProgram()
        before = program.theta

        async def work() -> None:
            running: asyncio.Task[Any] | None = None
            asked: list[Any] = []

            def cancelling(predictions: Any, expected: Any) -> float:
                assert running is not None
                asked.append(predictions)
                running.cancel()
                return _metric(predictions, expected)

            running = asyncio.ensure_future(prompt_optimizer.optimize(program, _EXAMPLES, cancelling))
            await asyncio.wait([running])
            assert running.cancelled() == bool(asked), "cancelled while it measured, it must end as cancelled"

        finish(work())
        assert program.theta == before
