"""What one call of a hyperfunction promises."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import tracemalloc

import pytest
import torch
from torch import nn

from hyperfunc import HyperSystem, LoRAWeight, Settings, TextParam, hyperfunction
from hyperfunc.errors import (
    CallLimitError,
    CallTimeoutError,
    ClosedBindingError,
    ConfigurationError,
    ExecutionError,
    UnboundError,
)


@hyperfunction
async def double(x):
    return x * 2


@hyperfunction
def add(x, y):
    return x + y


async def test_sync_and_async_functions_are_awaited_the_same_way():
    assert await double(3) == 6
    assert await add(1, 2) == 3


async def test_a_call_is_accepted_wherever_a_coroutine_is():
    async with asyncio.TaskGroup() as group:
        task = group.create_task(double(1))
    first, second = await asyncio.gather(double(2), asyncio.create_task(double(3)))
    assert (task.result(), first, second) == (2, 4, 6)


async def test_calls_given_as_arguments_run_at_the_same_time_and_are_replaced_by_their_results():
    both_started = asyncio.Barrier(2)

    @hyperfunction
    async def slow(x):
        await asyncio.wait_for(both_started.wait(), 5)
        return x

    assert await add(slow(1), y=slow(2)) == 3


@pytest.mark.parametrize(
    "misuse",
    [
        lambda call: f"{call}",
        lambda call: str(call),
        lambda call: bool(call),
        lambda call: list(call),
        lambda call: call + 1,
        lambda call: call["x"],
        lambda call: "x" in call,
        lambda call: float(call),
    ],
)
async def test_reading_a_call_before_it_is_awaited_raises(misuse):
    with pytest.raises(ExecutionError, match=r"before it was awaited; write: await double"):
        misuse(double(1))


async def test_a_call_is_awaited_once():
    call = double(1)
    assert await call == 2
    with pytest.raises(ExecutionError, match="already awaited"):
        await call


async def test_an_async_call_is_cancelled_at_its_deadline():
    cancelled = asyncio.Event()

    @hyperfunction(timeout_s=0.02)
    async def hang():
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(CallTimeoutError, match=r"hang did not end within timeout_s=0\.02"):
        await hang()
    assert cancelled.is_set()


async def test_a_timeout_of_the_function_itself_is_not_taken_for_the_deadline():
    @hyperfunction(timeout_s=30)
    async def inner():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own") as caught:
        await inner()
    assert not isinstance(caught.value, CallTimeoutError)


async def test_a_sync_call_runs_in_a_thread_and_its_late_result_is_discarded():
    release, threads = threading.Event(), []

    @hyperfunction(timeout_s=0.02)
    def hang():
        threads.append(threading.current_thread())
        release.wait(10)
        return "late"

    with pytest.raises(CallTimeoutError):
        await hang()
    release.set()
    threads[0].join(5)
    assert threads[0] is not threading.current_thread()


async def test_a_thread_made_by_a_timeout_sees_the_binding():
    @hyperfunction(hp_type=LoRAWeight.create(2, 2), timeout_s=10)
    def product(x, hp):
        return x @ hp.weight.T

    class System(HyperSystem):
        async def run(self, x):
            return await product(x)

    assert (await System().run(torch.ones(2))).shape == (2,)


async def test_retries_repeat_errors_and_give_up_with_the_last_one():
    attempts = []

    @hyperfunction(retries=2)
    async def flaky(fail):
        attempts.append(1)
        if len(attempts) <= fail:
            raise ValueError(f"attempt {len(attempts)}")
        return "done"

    assert await flaky(2) == "done"
    attempts.clear()
    with pytest.raises(ValueError, match="attempt 3"):
        await flaky(5)
    assert len(attempts) == 3


@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
async def test_retries_never_repeat_cancellation_or_interrupts(error):
    attempts = []

    @hyperfunction(retries=5)
    async def stopped():
        attempts.append(1)
        raise error

    coroutine = stopped()
    with pytest.raises(error):  # driven by hand: a task would hand KeyboardInterrupt to the loop
        coroutine.send(None)
    assert len(attempts) == 1


async def test_max_calls_counts_per_run_of_the_program():
    @hyperfunction(max_calls=2)
    async def limited():
        return 1

    class System(HyperSystem):
        async def run(self, times):
            return sum([await limited() for _ in range(times)])

    system = System()
    assert [await system.run(2) for _ in range(3)] == [2, 2, 2]
    with pytest.raises(CallLimitError, match="max_calls=2"):
        await system.run(3)


async def test_started_siblings_are_cancelled_and_awaited_when_a_call_fails():
    ended = []

    @hyperfunction
    async def fails():
        await asyncio.sleep(0)
        raise ValueError("broken")

    @hyperfunction
    async def waits():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    class System(HyperSystem):
        async def run(self):
            return await asyncio.gather(waits(), fails())

    with pytest.raises(ValueError, match="broken"):
        await System().run()
    assert ended == [True]


async def test_a_call_after_the_run_has_ended_raises():
    left_over = []

    class System(HyperSystem):
        async def run(self):
            left_over.append(double(1))
            return 0

    await System().run()
    with pytest.raises(ClosedBindingError, match="await every call"):
        await left_over[0]


async def test_outside_a_run_a_function_with_parameters_says_what_to_do():
    @hyperfunction(hp_type=LoRAWeight.create(2, 2))
    async def product(x, hp):
        return x @ hp.weight.T

    with pytest.raises(UnboundError, match=r"inside a HyperSystem's run\(\)"):
        await product(torch.ones(2))


async def test_a_bare_thread_loses_the_binding_and_to_thread_keeps_it():
    @hyperfunction(hp_type=LoRAWeight.create(2, 2))
    def product(x, hp):
        return x @ hp.weight.T

    async def call():
        return await product(torch.ones(2))

    class Bare(HyperSystem):
        async def run(self):
            return await asyncio.get_running_loop().run_in_executor(None, lambda: asyncio.run(call()))

    class Kept(HyperSystem):
        async def run(self):
            return await asyncio.to_thread(asyncio.run, call())

    with pytest.raises(UnboundError):
        await Bare().run()
    assert (await Kept().run()).shape == (2,)


async def test_an_explicit_argument_wins_over_the_binding():
    kind = LoRAWeight.create(1, 1)

    @hyperfunction(hp_type=kind)
    async def value(x, hp):
        return float(hp.weight) * x

    class System(HyperSystem):
        async def run(self, positional):
            mine = kind(torch.tensor([[5.0]]))
            return await (value(2, mine) if positional else value(2, hp=mine))

    assert [await System().run(p) for p in (True, False)] == [10, 10]


async def test_batched_functions_get_a_batch_of_one_when_called_alone():
    seen = []

    @hyperfunction(batched=True)
    async def batch(images, names):
        seen.append((images.shape, names))
        return [f"{name}:{image.sum():.0f}" for image, name in zip(images, names, strict=True)]

    assert await batch(torch.ones(2, 2), "a") == "a:4"
    assert seen == [((1, 2, 2), ["a"])]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hp_type": LoRAWeight.create(1, 1)}, "no argument named 'hp'"),
        ({"retries": -1}, "retries"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_calls": 0}, "max_calls"),
        ({"max_batch": 0}, "max_batch"),
        ({"texts": {"rules": TextParam("x", "what to obey")}}, "no argument of that name"),
        ({"evolve": lambda name, parameter: True}, "nn.Module"),
        ({"name": "not a name"}, "identifier"),
    ],
)
def test_contradictory_options_are_refused(options, words):
    def function(x):
        return x

    with pytest.raises(ConfigurationError, match=words):
        hyperfunction(**options)(function)


async def test_texts_are_injected_and_looked_up_under_the_binding():
    @hyperfunction(texts={"style": TextParam("plain", "how to write")})
    async def write(topic, *, prompt, style):
        """Write about {topic}."""
        return prompt.format(topic=topic), style

    class System(HyperSystem):
        async def run(self, topic):
            return await write(topic), write.get_prompt()

    system = System()
    assert await system.run("tea") == (("Write about tea.", "plain"), "Write about {topic}.")
    other = await system.execute({"topic": "tea"}, theta={"write.prompt": "Sing of {topic}!"})
    assert other == (("Sing of tea!", "plain"), "Sing of {topic}!")
    assert system.get_prompts() == {"write.prompt": "Write about {topic}.", "write.style": "plain"}
    assert write.get_prompt() == "Write about {topic}."


def test_a_docstring_alone_is_no_prompt():
    @hyperfunction(hp_type=LoRAWeight.create(1, 1))
    def layer(x, hp):
        """A layer, documented."""

    assert layer.texts == {}


async def test_prompts_set_on_the_function_reach_its_systems_but_no_run_in_flight():
    gate = asyncio.Event()

    @hyperfunction(optimize_prompt=True)
    async def ask(*, prompt):
        """old"""
        return prompt

    class System(HyperSystem):
        async def run(self):
            first = await ask()
            await gate.wait()
            return first, await ask()

    system = System()
    with pytest.raises(ConfigurationError, match="belongs to no system"):
        ask.set_prompt("new")
    system.register_hyperfunction(ask)
    running = asyncio.create_task(system.run())
    await asyncio.sleep(0)
    ask.set_prompt("new")
    gate.set()
    assert await running == ("old", "old")
    assert await system.run() == ("new", "new")
    assert ask.fn.__doc__ == "old"


async def test_modules_use_bound_values_and_never_change():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    before = {n: p.detach().clone() for n, p in [*network.named_parameters(), *network.named_buffers()]}

    class System(HyperSystem):
        def __init__(self):
            super().__init__()
            self.net = hyperfunction(evolve=lambda name, parameter: name.startswith("0."))(network)

        async def run(self, x):
            return await self.net(x)

    system = System()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert set(system.theta) == {"net.0.weight", "net.0.bias"}
    plain = await system.run(x)
    torch.testing.assert_close(plain, network(x))
    network.running = None
    shifted = await system.execute({"x": x}, theta={"net.0.weight": torch.zeros(4, 3)})
    assert not torch.equal(shifted, plain)
    after = dict([*network.named_parameters(), *network.named_buffers()])
    changed = [n for n, value in before.items() if n.startswith("0.") and not torch.equal(after[n], value)]
    assert changed == []


async def test_one_module_in_many_threads_at_once():
    class System(HyperSystem):
        def __init__(self):
            super().__init__()
            self.net = hyperfunction(evolve=lambda name, parameter: True)(nn.Linear(1, 1, bias=False))

        async def run(self, x):
            return await self.net(x)

    system = System()
    x = torch.ones(1)

    def many(value):
        theta = {"net.weight": torch.full((1, 1), float(value))}
        return {float(asyncio.run(system.execute({"x": x}, theta=theta))) for _ in range(200)}

    results = await asyncio.gather(*(asyncio.to_thread(many, v) for v in range(4)))
    assert results == [{0.0}, {1.0}, {2.0}, {3.0}]


def test_scripted_modules_are_refused():
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="scripted"):
        hyperfunction(evolve=lambda name, parameter: True)(scripted)


class TestTape:
    async def test_it_records_what_was_called(self):
        @hyperfunction(retries=1)
        async def outer(x):
            return await double(await add(x, 1))

        class System(HyperSystem):
            async def run(self, x):
                return await outer(x)

        output, tape = await System().execute({"x": 2}, record=True)
        assert output == 6
        assert [(c.function, c.parent, c.args, c.output) for c in tape] == [
            ("outer", None, (2,), 6),
            ("add", 0, (2, 1), 3),
            ("double", 0, (3,), 6),
        ]
        assert all(c.end is not None and c.seconds >= 0 and not c.suspended for c in tape)

    async def test_failures_and_real_waiting_are_recorded(self):
        @hyperfunction
        async def waits():
            await asyncio.sleep(0)

        @hyperfunction
        async def fails():
            raise ValueError("no")

        class System(HyperSystem):
            async def run(self):
                await waits()
                try:
                    await fails()
                except ValueError:
                    return "caught"

        _, tape = await System().execute({}, record=True)
        assert [c.suspended for c in tape] == [True, False]
        assert isinstance(tape.calls[1].error, ValueError)

    async def test_edges_by_identity_containment_and_order(self):
        @hyperfunction
        async def text(words):
            return f"a sentence about {words}"

        @hyperfunction
        async def tensor(words):
            return torch.ones(2)

        @hyperfunction
        async def use(*things, **named):
            return 1

        class System(HyperSystem):
            async def run(self):
                sentence, vector = await text("tea"), await tensor("cup")
                await use(f"Summarise: {sentence}", named={"deep": [vector]})
                return await use(2)

        _, tape = await System().execute({}, record=True)
        edges = {(e.source, e.target, e.kind) for e in tape.edges()}
        assert {(0, 2, "containment"), (1, 2, "identity"), (2, 3, "order")} <= edges

    async def test_what_is_used_later_does_not_precede_what_comes_between(self):
        @hyperfunction
        async def part(text, word):
            return f"the part about {word}"

        @hyperfunction
        async def use(*things):
            return 1

        class System(HyperSystem):
            async def run(self):
                left = await part("a", "tea")
                right = await part("b", "cups")
                return await use(left, right)

        _, tape = await System().execute({}, record=True)
        assert {(e.source, e.target, e.kind) for e in tape.edges()} == {(0, 2, "identity"), (1, 2, "identity")}

    async def test_concurrent_tapes_are_isolated(self):
        class System(HyperSystem):
            async def run(self, x):
                await asyncio.sleep(0)
                return await double(x)

        system = System()
        results = await asyncio.gather(*(system.execute({"x": i}, record=True) for i in range(50)))
        assert [(out, [c.args for c in tape]) for out, tape in results] == [(2 * i, [(i,)]) for i in range(50)]

    async def test_a_thousand_recorded_runs_leave_memory_flat(self):
        class System(HyperSystem):
            async def run(self, x):
                return await double(await double(x))

        system = System()
        for _ in range(50):
            await system.execute({"x": torch.ones(64)}, record=True)
        gc.collect()
        tracemalloc.start()
        for _ in range(1000):
            await system.execute({"x": torch.ones(64)}, record=True)
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < 200_000


class TestSettings:
    async def test_precedence_call_bound_context_default(self):
        attempts = []

        @hyperfunction
        async def flaky():
            attempts.append(1)
            raise ValueError

        class System(HyperSystem):
            async def run(self):
                return await flaky()

        async def attempts_of(run):
            attempts.clear()
            with pytest.raises(ValueError):
                await run()
            return len(attempts)

        assert await attempts_of(System().run) == 1
        with Settings(retries=1):
            assert await attempts_of(System().run) == 2
            with Settings(retries=2):
                assert await attempts_of(System().run) == 3
            assert await attempts_of(System().run) == 2
            bound = System(settings=Settings(retries=3))
            assert await attempts_of(bound.run) == 4

        class Called(HyperSystem):
            async def run(self):
                return await flaky.with_options(retries=4)()

        with Settings(retries=1):
            assert await attempts_of(Called(settings=Settings(retries=3)).run) == 5
        async with Settings(retries=1):
            assert await attempts_of(System().run) == 2

    async def test_a_context_entered_inside_the_run_counts(self):
        @hyperfunction
        async def hang():
            await asyncio.Event().wait()

        class System(HyperSystem):
            async def run(self):
                with Settings(timeout_s=0.02):
                    await hang()

        with pytest.raises(CallTimeoutError):
            await System().run()

    @pytest.mark.parametrize(
        "wrong", [{"execution": "fast"}, {"workers": 0}, {"window": -1}, {"timeout_s": -1}, {"max_batch_size": 0}]
    )
    def test_nonsense_is_refused(self, wrong):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            Settings(**wrong)

    async def test_contexts_do_not_leak_between_tasks(self):
        seen = []

        @hyperfunction
        async def flaky():
            seen.append(1)
            raise ValueError

        async def inside():
            with Settings(retries=3):
                await asyncio.sleep(0)

        async def outside():
            await asyncio.sleep(0)
            with pytest.raises(ValueError):
                await System().run()

        class System(HyperSystem):
            async def run(self):
                return await flaky()

        await asyncio.gather(inside(), outside())
        assert len(seen) == 1


def test_local_gpu_places_parameters_and_inputs_by_the_settings():
    seen = []

    @hyperfunction(hp_type=LoRAWeight.create(2, 2), local_gpu=True)
    async def product(x, hp):
        seen.append((x.dtype, hp.weight.dtype))
        return x @ hp.weight.T

    class System(HyperSystem):
        async def run(self, x):
            return await product(x)

    with Settings(dtype=torch.float64, device="cpu"):
        System().run_sync(torch.ones(2))
    System().run_sync(torch.ones(2))
    assert seen == [(torch.float64, torch.float64), (torch.float32, torch.float32)]


def test_call_time_context_is_the_callers():
    variable = contextvars.ContextVar("variable", default="unset")

    @hyperfunction(timeout_s=5)
    def read():
        return variable.get()

    async def main():
        variable.set("set")
        return await read()

    assert asyncio.run(main()) == "set"
