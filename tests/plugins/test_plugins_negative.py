"""A contract that cannot fail is worth nothing: each is run on a deliberately broken implementation.

Every case names the tests that must fail; all the others of the contract must still pass.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

import hyperfunc.testing

CONTRACT_NAMES = [name for name in sorted(hyperfunc.testing.__all__) if name.endswith("Contract")]


class Broken(NamedTuple):
    """A contract, the body of a broken implementation's test class, and what must notice."""

    contract: str
    body: str
    fails: frozenset[str]


CASES = {
    "agent: swallows failures and shares state": Broken(
        "AgentTypeContract",
        """
        class Forgetful:
            liftable = False
            last = {}

            async def run_example(self, run, inputs, system):
                Forgetful.last.clear()
                Forgetful.last.update(inputs)
                await asyncio.sleep(0)
                try:
                    return await run(**Forgetful.last)
                except Exception:
                    return None

        class TestBroken(AgentTypeContract):
            @pytest.fixture
            def agent_case(self):
                async def run(x):
                    return 2 * x
                return AgentCase(Forgetful, run, [{"x": 1}, {"x": 2}])
        """,
        frozenset(
            {"test_examples_run_at_once_without_touching_each_other", "test_a_failing_program_fails_its_example"}
        ),
    ),
    "agent: claims to be liftable and runs twice": Broken(
        "AgentTypeContract",
        """
        class Twice:
            liftable = True

            async def run_example(self, run, inputs, system):
                await run(**inputs)
                return await run(**inputs)

        class TestBroken(AgentTypeContract):
            @pytest.fixture
            def agent_case(self):
                async def run(x):
                    return 2 * x
                return AgentCase(Twice, run, [{"x": 1}, {"x": 2}])
        """,
        frozenset({"test_the_program_is_what_is_run"}),
    ),
    "strategy: draws from the global generator": Broken(
        "StrategyContract",
        """
        import torch
        from dataclasses import dataclass
        from hyperfunc.evolution.snes import SNES
        from hyperfunc.population.members import DenseMembers

        @dataclass(frozen=True, kw_only=True)
        class Careless(SNES):
            def ask(self, state, block):
                members = dict(super().ask(state, block))
                vector = members["vector"].values
                members["vector"] = DenseMembers(vector + 0.3 * torch.randn_like(vector))
                return members

        class TestBroken(StrategyContract):
            @pytest.fixture
            def strategy(self):
                return Careless(population_size=12)
        """,
        frozenset(
            {
                "test_ask_is_pure_and_blocks_stand_alone",
                "test_the_same_seed_gives_the_same_bits_and_another_does_not",
                "test_the_global_generator_is_left_alone",
                "test_a_dumped_state_goes_on_with_the_same_bits",
            }
        ),
    ),
    "strategy: never learns": Broken(
        "StrategyContract",
        """
        import torch
        from dataclasses import dataclass
        from hyperfunc.evolution.snes import SNES

        @dataclass(frozen=True, kw_only=True)
        class Lazy(SNES):
            def tell(self, state, fitness, *, groups=None):
                self.check_fitness(fitness)
                return super().tell(state, torch.zeros(self.population_size))

        class TestBroken(StrategyContract):
            @pytest.fixture
            def strategy(self):
                return Lazy(population_size=12)
        """,
        frozenset({"test_fitness_rises"}),
    ),
    "scorer: upside down and forgetful": Broken(
        "ScorerContract",
        """
        class Distance:
            def __init__(self):
                self.calls = 0

            def score(self, output, expected, inputs=None):
                self.calls += 1
                return ScoreResult(abs(output - expected) + self.calls)

        class TestBroken(ScorerContract):
            @pytest.fixture
            def scorer_case(self):
                return ScorerCase(Distance(), (1.0, 1.0), (3.0, 1.0))
        """,
        frozenset(
            {
                "test_the_better_output_scores_higher",
                "test_neither_order_nor_company_matters",
                "test_examples_may_be_scored_at_once",
            }
        ),
    ),
    "scorer: tensors and examples disagree": Broken(
        "ScorerContract",
        """
        import torch

        class Halved:
            supports_tensors = True

            def score(self, output, expected, inputs=None):
                return ScoreResult(-float((output - expected).abs().sum()))

            def score_tensor(self, outputs, expected):
                return -(outputs - expected).abs().mean(-1)

        class TestBroken(ScorerContract):
            @pytest.fixture
            def scorer_case(self):
                one = torch.ones(3)
                return ScorerCase(Halved(), (one, one), (2 * one, one))
        """,
        frozenset({"test_tensor_scores_equal_single_scores"}),
    ),
    "prompt optimizer: sets before it measures, and moves what is frozen": Broken(
        "PromptOptimizerContract",
        """
        class Rash:
            async def optimize(self, system, train_data, metric_fn, feedback_fn=None):
                for entry in system.registry.text_entries():
                    system.set_theta({entry.name: "Be rude."})
                await system.evaluate(train_data, metric_fn)

        class TestBroken(PromptOptimizerContract):
            @pytest.fixture
            def prompt_optimizer(self):
                return Rash()
        """,
        frozenset(
            {
                "test_only_trainable_texts_change",
                "test_without_trainable_texts_nothing_happens",
                "test_a_broken_metric_is_heard_of_and_changes_nothing",
                "test_cancellation_passes_and_changes_nothing",
            }
        ),
    ),
    "memory: mixes scopes": Broken(
        "MemoryBackendContract",
        """
        from hyperfunc.memory_types import Scope
        from hyperfunc_memory import SQLiteBackend

        class Leaky(SQLiteBackend):
            def recent(self, scope, read, limit):
                others = [super(Leaky, self).recent(s, read, limit) for s in self.scopes(ScopeSelector())]
                return sorted(sum(others, []), key=lambda e: (-e.created_at, -e.id))[:limit]

        class TestBroken(MemoryBackendContract):
            @pytest.fixture
            def memory_backend(self):
                backend = Leaky()
                yield backend
                backend.close()
        """,
        frozenset({"test_scopes_never_mix", "test_same_content_is_kept_once_per_scope"}),
    ),
    "exporter: loses a batch, and cannot be closed twice": Broken(
        "ExporterContract",
        """
        class Lossy:
            def __init__(self):
                self.kept = None
                self.open = True

            def export(self, observations, summary=None):
                self.kept = list(observations)

            def shutdown(self):
                assert self.open
                self.open = False

        class TestBroken(ExporterContract):
            @pytest.fixture
            def exporter_case(self):
                exporter = Lossy()
                return ExporterCase(exporter, lambda: [o.fn_name for o in exporter.kept])
        """,
        frozenset({"test_every_observation_arrives_once", "test_the_end_may_come_first_and_twice"}),
    ),
    "tracker: refuses what is not finite": Broken(
        "TrackerContract",
        """
        import json

        class Strict(RecordingTracker):
            def log(self, step, values):
                json.dumps(values, allow_nan=False)
                super().log(step, values)

        class TestBroken(TrackerContract):
            @pytest.fixture
            def tracker_case(self):
                tracker = Strict()
                return TrackerCase(tracker, tracker.curve)
        """,
        frozenset({"test_numbers_that_are_not_finite_are_no_error"}),
    ),
    "environment: ignores its seed": Broken(
        "EnvironmentContract",
        """
        import itertools

        SEEDS = itertools.count()

        class Moody(CountdownEnvironment):
            def reset(self, *, seed=None, options=None):
                return super().reset(seed=next(SEEDS))

        class TestBroken(EnvironmentContract):
            @pytest.fixture
            def environment_factory(self):
                return Moody

            @pytest.fixture
            def action(self):
                return lambda environment, step: 1
        """,
        frozenset(
            {
                "test_a_seed_fixes_the_episode",
                "test_two_environments_do_not_touch_each_other",
                "test_it_can_be_reset_after_the_end",
            }
        ),
    ),
    "tensor environment: throws dice, remembers and looks at its neighbours": Broken(
        "TensorEnvironmentContract",
        """
        import torch
        from types import SimpleNamespace

        class Dice:
            max_steps = 5
            rolls = 0

            def reset(self, generator):
                return torch.zeros(2)

            def observe(self, state):
                return state / (1 + state.sum())

            def step(self, state, action):
                Dice.rolls += 1
                state += torch.rand(2)
                return SimpleNamespace(
                    state=state, reward=torch.tensor(1.0 * Dice.rolls), terminated=state.sum() > 3
                )

        class TestBroken(TensorEnvironmentContract):
            @pytest.fixture
            def tensor_environment(self):
                return Dice()
        """,
        frozenset(
            {
                "test_a_seed_fixes_the_first_state_and_another_gives_another",
                "test_the_global_generator_is_left_alone",
                "test_stepping_leaves_the_state_alone",
                "test_the_same_actions_make_the_same_episode",
                "test_many_episodes_in_one_kernel_are_the_episodes_one_by_one",
            }
        ),
    ),
    "model family: looks ahead": Broken(
        "ModelFamilyContract",
        """
        import torch

        class Prophet(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding(7, 7)

            def forward(self, ids):
                return self.table(ids) + self.table(ids).mean(1, keepdim=True)

        class TestBroken(ModelFamilyContract):
            @pytest.fixture
            def family_case(self):
                return ModelFamilyCase(lambda config: Prophet(), {}, 7)
        """,
        frozenset({"test_later_tokens_do_not_change_earlier_logits"}),
    ),
    "model family: builds a configuration, not a model": Broken(
        "ModelFamilyContract",
        """
        from types import SimpleNamespace

        class TestBroken(ModelFamilyContract):
            @pytest.fixture
            def family_case(self):
                return ModelFamilyCase(lambda config: SimpleNamespace(**config), {"vocabulary": 7}, 7)
        """,
        frozenset(
            {
                "test_what_is_built_is_a_new_model_of_its_own",
                "test_logits_have_one_row_per_token",
                "test_later_tokens_do_not_change_earlier_logits",
                "test_prompts_do_not_change_each_other",
                "test_the_same_question_has_the_same_answer",
                "test_tokens_are_left_alone",
            }
        ),
    ),
    "transport: shows the key and swallows cancellation": Broken(
        "TransportContract",
        """
        from types import SimpleNamespace

        SECRET = "sk-secret-0123456789"
        USAGE = SimpleNamespace(prompt_tokens=3, completion_tokens=1, cached_tokens=0)

        class Chatty:
            async def load(self):
                pass

            async def send(self, request):
                try:
                    await asyncio.sleep(0.01)
                except asyncio.CancelledError:
                    pass
                if request == "refused":
                    raise PermissionError(f"401 for {SECRET}")
                return SimpleNamespace(
                    payload={"choices": [{"message": {"content": "hi"}}]}, headers={}, usage=USAGE
                )

            async def stream(self, request):
                yield SimpleNamespace(payload={"choices": [{"delta": {"content": "h"}}]})
                yield SimpleNamespace(payload={"choices": [{"delta": {"content": "i"}}]})

            async def aclose(self):
                pass

        class TestBroken(TransportContract):
            @pytest.fixture
            def transport_case(self):
                return TransportCase(Chatty, "asked", "refused", SECRET)
        """,
        frozenset({"test_a_refusal_is_an_error_without_secrets", "test_cancellation_passes"}),
    ),
    "error classifier: claims to know everything, and reads messages": Broken(
        "ErrorClassifierContract",
        """
        class KnowItAll:
            def classify_custom(self, error):
                return "retry" if "busy" in str(error) else "give up"

        class TestBroken(ErrorClassifierContract):
            @pytest.fixture
            def classifier_case(self):
                return ClassifierCase(KnowItAll(), OSError("busy"), "unknown")
        """,
        frozenset(
            {
                "test_answers_are_of_the_built_in_kind",
                "test_it_passes_on_what_it_does_not_know",
                "test_no_error_is_too_strange",
            }
        ),
    ),
    "engine: forgets the members, and one failure fails all": Broken(
        "EngineContract",
        """
        class Careless:
            async def run_block(self, program, block, inputs, settings):
                outcome = await BlockingEngine().run_block(program, {}, inputs, settings)
                if outcome.errors:
                    raise next(iter(outcome.errors.values()))
                if block:
                    outcome.members = next(iter(block.values())).size
                    outcome.rows = outcome.rows * outcome.members
                return outcome

        class TestBroken(EngineContract):
            @pytest.fixture
            def engine(self):
                return Careless()
        """,
        frozenset({"test_outputs_are_those_of_the_plain_loop", "test_a_failing_run_is_that_run_s_failure"}),
    ),
    "command: says nothing about itself": Broken(
        "CLICommandContract",
        """
        class TestBroken(CLICommandContract):
            @pytest.fixture
            def command(self):
                def silent():
                    pass
                return silent
        """,
        frozenset({"test_it_explains_itself"}),
    ),
    "events: expects generations, and edits what it is given": Broken(
        "RunEventsContract",
        """
        from hyperfunc import hookimpl

        class Curve:
            def __init__(self):
                self.points = []

            @hookimpl
            def hyperfunc_generation_finished(self, run, record):
                self.points.append(record.pop("best"))

            @hookimpl
            def hyperfunc_run_ended(self, run):
                print(max(self.points))

        class TestBroken(RunEventsContract):
            @pytest.fixture
            def events_plugin(self):
                return Curve()
        """,
        frozenset({"test_a_run_that_fails_at_once", "test_values_are_left_alone"}),
    ),
}

HEADER = """
import asyncio
import pytest
from hyperfunc.evaluation import ScoreResult
from hyperfunc.memory_types import ScopeSelector
from hyperfunc.testing import *
"""


def file_name(case: str) -> str:
    return "test_" + re.sub(r"\W+", "_", case)


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """File -> the tests of it that failed; all files in one run of pytest, in a process of its own."""
    folder = tmp_path_factory.mktemp("broken")
    for name, case in CASES.items():
        (folder / f"{file_name(name)}.py").write_text(HEADER + textwrap.dedent(case.body))
    for contract in CONTRACT_NAMES:
        forgotten = f"from hyperfunc.testing import {contract}\nclass TestForgotten({contract}):\n    pass\n"
        (folder / f"test_forgotten_{contract}.py").write_text(forgotten)
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for test in ElementTree.parse(report).iter("testcase"):
        outcome = found.setdefault(test.attrib["classname"].partition(".")[0], set())
        problem = test.find("failure")
        problem = test.find("error") if problem is None else problem
        if problem is not None:
            reason = problem.attrib["message"].partition(":")[0]
            test_name = test.attrib["name"].partition("[")[0]
            outcome.add(reason if test.attrib["classname"].endswith("TestForgotten") else test_name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_broken_implementation_fails_its_contract(failed: dict[str, set[str]], case: str) -> None:
    assert failed[file_name(case)] == CASES[case].fails


def test_every_contract_has_a_negative_control() -> None:
    assert {case.contract for case in CASES.values()} == set(CONTRACT_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("contract", CONTRACT_NAMES)
def test_a_fixture_that_was_not_overridden_says_so(failed: dict[str, set[str]], contract: str) -> None:
    (reason,) = failed[f"test_forgotten_{contract}"]
    assert "NotImplementedError" in reason
