"""Every known fault of hyperfunc 0.3 (numbers as in its list), shown not to be one here."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hyperfunc import ESHybridSystemOptimizer, Example, HyperSystem, LoRAWeight, NoOpSystemOptimizer, hyperfunction
from hyperfunc.errors import EvaluationError

KIND = LoRAWeight.create(1, 1)


@hyperfunction(hp_type=KIND, optimize_hparams=True)
async def scale(x, hp):
    return (x @ hp.weight.T).squeeze(-1)


class Scaled(HyperSystem):
    async def run(self, x):
        return await scale(x)


ONE = Example({"x": torch.ones(1)}, 1.0)


def mean(predictions, expected):
    return sum(float(p) for p in predictions) / len(predictions)


async def test_2_concurrent_runs_see_their_own_system():
    first, second = Scaled(), Scaled()
    first.register_hyperfunction(scale, hp_init=torch.tensor([[2.0]]))
    second.register_hyperfunction(scale, hp_init=torch.tensor([[3.0]]))
    outputs = await asyncio.gather(*(s.run(torch.ones(1)) for s in (first, second) * 20))
    assert [float(o) for o in outputs] == [2.0, 3.0] * 20


async def test_2_calling_a_function_elsewhere_registers_it_nowhere():
    @hyperfunction
    async def stray(x):
        return x

    system = Scaled()
    await system.run(torch.ones(1))
    await stray(1)
    assert [hf.name for hf in system.hyperfunctions] == ["scale"]


async def test_3_data_flows_through_any_python_between_calls():
    @hyperfunction
    async def a(x):
        return x + 1

    @hyperfunction
    async def b(x):
        return x * 10

    class Sum(HyperSystem):
        async def run(self, x):
            parts = torch.stack([await a(x), await b(x)])
            return parts[0] + parts[1]

    examples = [Example({"x": torch.tensor(float(v))}, float(v + 1 + 10 * v)) for v in range(4)]
    assert await Sum().evaluate(examples, "mean-squared-error") == 0.0


async def test_4_a_population_is_evaluated_in_one_call_not_one_by_one():
    calls = []

    @hyperfunction(hp_type=KIND, optimize_hparams=True)
    async def counted(x, hp):
        calls.append(1)
        return (x @ hp.weight.T).squeeze(-1)

    class Counted(HyperSystem):
        async def run(self, x):
            return await counted(x)

    system = Counted(system_optimizer=ESHybridSystemOptimizer(steps=3, pop_size=32))
    result = await system.optimize([ONE] * 20, "mean-squared-error")
    assert result.execution == "lifted"
    per_generation_if_sequential = 32 * 20
    assert len(calls) < per_generation_if_sequential


async def test_5_a_function_that_reads_a_file_is_not_taken_for_a_tensor_program(tmp_path):
    path = tmp_path / "factor.txt"
    path.write_text("3")

    @hyperfunction(io=True)
    async def read(x):
        return x * float(path.read_text())

    class Reading(HyperSystem):
        async def run(self, x):
            return await scale(await read(x))

    system = Reading(system_optimizer=ESHybridSystemOptimizer(steps=1, pop_size=4))
    result = await system.optimize([ONE] * 3, "mean-squared-error")
    assert (result.execution, "read performs I/O" in result.reason) == ("gathered", True)


async def test_6_a_raising_metric_leaves_theta_alone():
    system = Scaled()
    system.register_hyperfunction(scale, hp_init=torch.tensor([[0.5]]))
    before = system.theta

    def broken(predictions, expected):
        raise ZeroDivisionError("metric")

    with pytest.raises(EvaluationError, match="metric") as caught:
        await system.evaluate_population([{"scale": torch.ones(1, 1)}, {"scale": torch.zeros(1, 1)}], [ONE], broken)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(EvaluationError):
        await system.optimize([ONE], broken, steps=2)
    assert system.theta == before


async def test_7_two_systems_share_a_function_and_not_its_parameters():
    first, second = Scaled(seed=1), Scaled(seed=2)
    first.register_hyperfunction(scale, hp_init=torch.tensor([[2.0]]))
    second.register_hyperfunction(scale, hp_init=torch.tensor([[7.0]]))
    assert float(await first.run(torch.ones(1))) == 2.0
    second.set_hp_state({"scale": torch.tensor([9.0])})
    assert float(await first.run(torch.ones(1))) == 2.0
    assert float(await second.run(torch.ones(1))) == 9.0


async def test_12_and_14_seeds_reproduce_and_zero_is_a_seed():
    async def run(seed):
        system = Scaled(seed=seed, system_optimizer=ESHybridSystemOptimizer(steps=3, pop_size=8))
        await system.optimize([ONE], "mean-squared-error", seed=seed)
        return system.theta.content_hash

    assert await run(0) == await run(0)
    assert await run(0) != await run(1)
    state = torch.get_rng_state()
    await run(0)
    assert torch.equal(state, torch.get_rng_state())


def test_15_importing_core_imports_no_provider_and_no_database():
    script = (
        "import sys, hyperfunc.system; "
        "print([m for m in ('litellm','opentelemetry','peewee','gymnasium','openai','psycopg','transformers') "
        "if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, check=True)
    assert out.stdout.strip() == "[]"


async def test_a_system_without_prompts_runs_no_prompt_optimizer():
    class Forbidden:
        async def optimize(self, *args, **kwargs):
            raise AssertionError("there is no text to optimize")

    system = Scaled(prompt_optimizer=Forbidden(), system_optimizer=NoOpSystemOptimizer())
    result = await system.optimize([ONE], mean)
    assert result.finish_reason == "nothing to optimize"


async def test_optimize_hands_the_feedback_function_on():
    received = {}

    @hyperfunction(optimize_prompt=True)
    async def ask(x, *, prompt):
        """Say {x}."""
        return prompt

    class Asking(HyperSystem):
        async def run(self, x):
            return await ask(x)

    class Recorder:
        async def optimize(self, system, train_data, metric_fn, feedback_fn=None):
            received.update(feedback=feedback_fn, examples=len(train_data))

    def feedback(inputs, output, expected):
        return "try again"

    system = Asking(prompt_optimizer=Recorder(), system_optimizer=NoOpSystemOptimizer())
    await system.optimize([Example({"x": "hello"}, "hello")], mean, feedback_fn=feedback)
    assert received == {"feedback": feedback, "examples": 1}


async def test_an_optimizer_of_the_old_kind_still_works():
    class Old:
        async def optimize(self, system, train_data, metric_fn):
            system.set_hp_state({"scale": torch.tensor([4.0])})

    system = Scaled(system_optimizer=Old())
    await system.optimize([ONE], mean)
    assert float(await system.run(torch.ones(1))) == 4.0
    own = ESHybridSystemOptimizer(steps=30, pop_size=16, sigma=0.1, lr=0.2)
    await own.optimize(system, [ONE], "mean-squared-error")
    assert abs(float(await system.run(torch.ones(1))) - 1.0) < 0.2
