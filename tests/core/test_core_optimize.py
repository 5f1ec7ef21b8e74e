"""The optimize loop: what it selects, when it ends, what it reports."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hyperfunc import (
    MSE,
    Choice,
    ESHybridSystemOptimizer,
    Example,
    Float,
    HyperSystem,
    Integer,
    LMParam,
    LoRAWeight,
    Racing,
    Settings,
    Space,
    hyperfunction,
)
from hyperfunc.errors import ConfigurationError, EvaluationError, LiftError, UnknownParameterError
from hyperfunc.plugins import load_plugins, use_plugins

KIND = LoRAWeight.create(2, 3, 1)


@hyperfunction(hp_type=KIND, optimize_hparams=True)
async def first(x, hp):
    return x @ hp.weight.T


@hyperfunction(hp_type=LoRAWeight.create(1, 2, 1), optimize_hparams=True)
async def second(h, hp):
    return (h @ hp.weight.T).squeeze(-1)


class Chain(HyperSystem):
    async def run(self, x):
        return await second(await first(x))


def regression(count=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    true = torch.tensor([1.0, -2.0, 0.5])
    inputs = [torch.randn(3, generator=generator) for _ in range(count)]
    return [Example({"x": x}, float(x @ true)) for x in inputs]


def optimizer(**options):
    return ESHybridSystemOptimizer(**{"steps": 10, "pop_size": 16, "sigma": 0.2, "lr": 0.1, **options})


async def test_it_improves_and_adopts_the_best_on_the_selection_data():
    system = Chain(system_optimizer=optimizer(steps=60))
    train, validation = regression(), regression(10, 1)
    result = await system.optimize(train, MSE(), validation)
    assert result.improved
    assert result.best_fitness == max(result.history.column("center"))
    assert await system.evaluate(validation, MSE()) == pytest.approx(result.best_fitness, rel=1e-5)
    assert system.theta == result.theta
    assert result.finish_reason == "completed"


async def test_only_and_freeze_select_components_and_parameters():
    system = Chain(system_optimizer=optimizer())
    await system.run(torch.ones(3))
    before = system.theta
    await system.optimize(regression(), MSE(), only="first", steps=3)
    assert [n for n in before if not torch.equal(before[n], system.theta[n])] == ["first.hp"]
    middle = system.theta
    await system.optimize(regression(), MSE(), freeze=["fir*"], steps=3)
    assert [n for n in before if not torch.equal(middle[n], system.theta[n])] == ["second.hp"]
    with pytest.raises(UnknownParameterError, match="did you mean 'first"):
        await system.optimize(regression(), MSE(), only="frist")
    result = await system.optimize(regression(), MSE(), freeze="*")
    assert result.finish_reason == "nothing to optimize"


async def test_ways_to_end_early():
    system = Chain(system_optimizer=optimizer(steps=500))
    assert (await system.optimize(regression(), MSE(), target=-1e9)).finish_reason == "target"
    seen = []

    async def stop(view):
        seen.append((view.generation.index, set(view.center)))
        return len(seen) == 3

    assert (await system.optimize(regression(), MSE(), callbacks=[stop])).finish_reason == "callback"
    assert seen == [(i, {"first.hp", "second.hp"}) for i in range(3)]

    def constant(predictions, expected):
        return 1.0

    patient = await system.optimize(regression(), constant, patience=4, validate_every=1)
    assert patient.finish_reason == "patience"


async def test_constant_fitness_is_exactly_a_zero_step():
    system = Chain(system_optimizer=optimizer())
    await system.run(torch.ones(3))
    before = system.theta
    await system.optimize(regression(), lambda p, e: 1.0)
    assert system.theta == before


async def test_nan_fitness_never_wins_and_never_moves():
    system = Chain(system_optimizer=optimizer())
    await system.run(torch.ones(3))

    def sometimes(predictions, expected):
        if int(abs(float(predictions[0])) * 1e5) % 3 == 0:
            return math.nan
        return -sum((float(p) - e) ** 2 for p, e in zip(predictions, expected, strict=True))

    result = await system.optimize(regression(5), sometimes, steps=5)
    assert math.isfinite(result.best_fitness)
    assert all(bool(torch.isfinite(t).all()) for t in system.theta.tensors.values())
    before = system.theta
    with pytest.raises(EvaluationError, match="no member of the first generation"):
        await system.optimize(regression(5), lambda p, e: math.inf, steps=5)
    assert system.theta == before


async def test_a_program_that_always_raises_says_so():
    class Broken(HyperSystem):
        async def run(self, x):
            await first(x)
            raise ZeroDivisionError("always")

    with pytest.raises(EvaluationError, match="ZeroDivisionError: always"):
        await Broken(system_optimizer=optimizer()).optimize(regression(3), MSE())


async def test_minibatches_are_shared_by_members_and_cover_an_epoch():
    seen = []

    def metric(predictions, expected):
        seen.append(tuple(expected))
        return 0.0

    data = regression(12)
    await Chain(system_optimizer=optimizer(pop_size=4)).optimize(
        data, metric, minibatch=4, steps=3, validate_every=10**6, settings=Settings(execution="sequential")
    )
    generations = [set(batch) for batch in dict.fromkeys(b for b in seen if len(b) == 4)]
    assert len(generations) == 3
    assert set().union(*generations) == {e.expected for e in data}


class TestSettingsOfAProgram:
    """Scalars, whole numbers and choices: relaxed for the search, exact in the program."""

    async def test_mixed_dimensions_are_found(self):
        kind = Space.create("Kind", t=Float(0, 1), k=Integer(0, 9), model=Choice(["a", "b", "c"]))

        @hyperfunction(hp_type=kind, optimize_hparams=True)
        async def configured(x, hp):
            assert isinstance(hp.k, int)
            assert 0 <= hp.k <= 9
            assert 0 <= float(hp.t) <= 1
            return float(-((hp.t - 0.8) ** 2) - 0.1 * abs(hp.k - 7) - (0.0 if hp.model == "c" else 0.5))

        class Configured(HyperSystem):
            async def run(self, x):
                return await configured(x)

        system = Configured(system_optimizer=optimizer(steps=60, pop_size=24))
        result = await system.optimize([Example({"x": 0}, 0)], lambda p, e: p[0])
        found = kind.from_tensor(system.theta["configured.hp"])
        assert (found.k, found.model, round(float(found.t), 1)) == (7, "c", 0.8)
        assert (result.execution, "reads a tensor's value" in result.reason) == ("gathered", True)

    async def test_the_quick_start_of_0_3_runs(self):
        @hyperfunction(hp_type=LMParam, optimize_hparams=True)
        async def score_answer(x: float, hp) -> float:
            """A toy objective: we want hp.temperature to be close to 0.5."""
            return -abs(hp.temperature - 0.5)

        class ScoreSystem(HyperSystem):
            async def run(self, x: float) -> float:
                return await score_answer(x)

        system = ScoreSystem(system_optimizer=ESHybridSystemOptimizer(steps=20, pop_size=20, sigma=0.1, lr=0.1))
        data = [Example({"x": 0.0}, 0.0)]

        def metric_fn(preds, expected):
            return sum(preds) / len(preds)

        before = await system.evaluate(data, metric_fn)
        await system.optimize(data, metric_fn)
        assert before == pytest.approx(-0.2)
        assert await system.evaluate(data, metric_fn) > -0.02


async def test_a_module_evolves_through_any_strategy_by_name():
    class Net(HyperSystem):
        def __init__(self, **options):
            super().__init__(**options)
            torch.manual_seed(0)
            self.net = hyperfunction(evolve=lambda n, p: True)(
                nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
            )

        async def run(self, x):
            return (await self.net(x)).squeeze(-1)

    for name in ("eggroll", "openai-es", "pgpe", "snes", "sep-cma-es", "cma-es"):
        system = Net(system_optimizer=name)
        result = await system.optimize(regression(12), MSE(), steps=8)
        assert result.execution == "lifted"
        assert result.improved, name


async def test_events_reach_plugins_and_a_raising_one_is_switched_off(capsys):
    from hyperfunc.hookspecs import hookimpl

    class Good:
        def __init__(self):
            self.events = []

        @hookimpl
        def hyperfunc_run_started(self, run, configuration):
            self.events.append(("started", run, configuration["strategy"]))

        @hookimpl
        def hyperfunc_generation_finished(self, generation, record):
            self.events.append((generation, record["evaluations"]))

        @hookimpl
        def hyperfunc_run_ended(self, finish_reason, summary):
            self.events.append((finish_reason, summary["generations"]))

    class Bad:
        @hookimpl
        def hyperfunc_generation_finished(self, generation):
            raise RuntimeError("broken hook")

    good = Good()
    with use_plugins(load_plugins([("good", good), ("bad", Bad())], entry_points=False)):
        await Chain(system_optimizer=optimizer(steps=2)).optimize(regression(4), MSE())
    assert good.events[0] == ("started", "run", "eggroll")
    assert [e[0] for e in good.events[1:]] == [0, 1, "completed"]
    assert capsys.readouterr().err.count("broken hook") == 1


async def test_recorded_calls_reach_plugins():
    from hyperfunc.testing.fakes import RecordingEvents

    events = RecordingEvents()
    system = Chain()
    with use_plugins(load_plugins([("mine", events)], entry_points=False)):
        await system.execute({"x": torch.ones(3)})
        assert events.events == []
        await system.execute({"x": torch.ones(3)}, record=True)
    assert [(name, facts["component"]) for name, facts in events.events] == [
        ("before_call", "first"),
        ("after_call", "first"),
        ("before_call", "second"),
        ("after_call", "second"),
    ]


async def test_nothing_to_optimize_says_why():
    @hyperfunction
    async def plain(x):
        return x

    class Plain(HyperSystem):
        async def run(self, x):
            return await plain(x)

    assert "no component has tensors" in (await Plain().optimize(regression(2), lambda p, e: 0.0)).reason

    class Forgot(HyperSystem):
        async def run(self, y):
            return await first(y)

    with pytest.raises(TypeError, match="unexpected keyword argument 'x'"):
        await Forgot().optimize(regression(2), MSE())
    with pytest.raises(EvaluationError, match=r"write MSE\(\)|MeanSquaredError\(\)"):
        await Chain().optimize(regression(2), MSE)


async def test_history_has_a_table_and_a_plot(tmp_path):
    result = await Chain(system_optimizer=optimizer(steps=4)).optimize(regression(5), MSE(), validate_every=2)
    assert result.history.to_csv().splitlines()[0].startswith("index,best,mean,worst,center,sigma")
    assert len(result.history.to_csv().splitlines()) == 5
    result.history.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "completed: fitness" in str(result)


@pytest.mark.parametrize(
    "wrong",
    [
        {"minibatch": 0},
        {"validate_every": -1},
        {"patience": 0},
        {"steps": -1},
        {"steps": 1.5},
        {"budget": 3},
        {"economy": Racing()},
    ],
)
async def test_nonsense_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        await Chain(system_optimizer=optimizer()).optimize(regression(3), MSE(), **wrong)


@pytest.mark.parametrize("wrong", [3, ESHybridSystemOptimizer])
async def test_what_is_no_optimizer_is_refused_by_name(wrong):
    with pytest.raises(ConfigurationError, match=r"system_optimizer: expected an optimizer .* got "):
        await Chain(system_optimizer=wrong).optimize(regression(3), MSE())
    with pytest.raises(ConfigurationError, match=r"^optimizer: expected an optimizer"):
        await Chain().optimize_tensors(regression(3), MSE(), optimizer=wrong)


async def test_an_optimizer_may_be_named_for_tensors_alone():
    result = await Chain().optimize_tensors(regression(3), MSE(), optimizer="snes", steps=1)
    assert len(result.history) == 1


async def test_settings_hold_from_the_first_run_on():
    tries = []

    @hyperfunction(io=True)
    async def failing(x):
        tries.append(1)
        raise ValueError("no")

    class Failing(HyperSystem):
        async def run(self, x):
            return await failing(x)

    with pytest.raises(ValueError, match="no"):
        await Failing().evaluate([Example({"x": 1.0}, 1.0)], MSE(), settings=Settings(retries=2))
    assert len(tries) % 3 == 0
    tries.clear()
    with pytest.raises(ValueError, match="no"):
        await Failing().execute({"x": 1.0}, settings=Settings(retries=4))
    assert len(tries) == 5


async def test_no_examples_and_wrong_examples_are_refused():
    with pytest.raises(EvaluationError, match="at least one example"):
        await Chain().optimize([], MSE())
    with pytest.raises(EvaluationError, match="write Example"):
        await Chain().optimize([{"x": 1}], MSE())
    with pytest.raises(EvaluationError, match="at least one candidate"):
        await Chain().evaluate_population([], regression(2), MSE())


async def test_asking_for_lifted_quotes_the_reason():
    class Branching(HyperSystem):
        async def run(self, x):
            h = await first(x)
            return h.sum() if h.sum() > 0 else -h.sum()

    with pytest.raises(LiftError, match=r"bool\(\)"):
        await Branching(system_optimizer=optimizer()).optimize(
            regression(3), MSE(), settings=Settings(execution="lifted")
        )


async def test_asynchronous_scorers_score_populations():
    from hyperfunc import ScoreResult

    class Judge:
        async def score(self, output, expected, inputs=None):
            return ScoreResult(-abs(float(output) - expected))

    result = await Chain(system_optimizer=optimizer(steps=30)).optimize(regression(6), Judge())
    assert result.improved
