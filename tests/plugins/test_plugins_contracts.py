"""Every contract, on what hyperfunc and its plugins bring themselves, and on the fakes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from hyperfunc.agents import Flow, FlowResponse
from hyperfunc.evaluation import MSE, CompositeScorer, ContainsMatch, CrossEntropy, ExactMatch, NumericDistance
from hyperfunc.evolution.base import Strategy
from hyperfunc.memory_types import MemoryBackend
from hyperfunc.plugins import current_plugins
from hyperfunc.testing import (
    AgentCase,
    AgentTypeContract,
    BlockingEngine,
    ChoicePromptOptimizer,
    ClassifierCase,
    CLICommandContract,
    CountdownEnvironment,
    EngineContract,
    EnvironmentContract,
    ErrorClassifierContract,
    ExporterCase,
    ExporterContract,
    MemoryBackendContract,
    ModelFamilyCase,
    ModelFamilyContract,
    PromptOptimizerContract,
    RecordingEvents,
    RecordingExporter,
    RecordingTracker,
    RunEventsContract,
    ScorerCase,
    ScorerContract,
    StrategyContract,
    TrackerCase,
    TrackerContract,
    TransportCase,
    TransportContract,
)
from hyperfunc.testing.llm_server import Rule, Script, ServerProcess
from hyperfunc_json import JSONExporter
from hyperfunc_llm.classification import ErrorInfo
from hyperfunc_llm.secrets import SecretKey
from hyperfunc_llm.transports.base import OutgoingRequest
from hyperfunc_llm.transports.direct import DirectTransport
from hyperfunc_memory import SQLiteBackend
from hyperfunc_perfetto import PerfettoExporter


class TestFlow(AgentTypeContract):
    @pytest.fixture(params=["bare", "response"])
    def agent_case(self, request: pytest.FixtureRequest) -> AgentCase:
        async def run(x: torch.Tensor) -> Any:
            return 2 * x if request.param == "bare" else FlowResponse(2 * x)

        return AgentCase(Flow, run, [{"x": torch.tensor([1.0])}, {"x": torch.tensor([2.0])}])


BUILTIN_STRATEGIES = ["cma-es", "eggroll", "ipop-cma-es", "openai-es", "pgpe", "sep-cma-es", "snes"]


def test_every_builtin_strategy_is_in_the_list() -> None:
    registry = current_plugins().registry("strategies")
    assert [n for n in registry.names() if registry.owner(n) == "builtin"] == BUILTIN_STRATEGIES


class TestStrategies(StrategyContract):
    @pytest.fixture(params=BUILTIN_STRATEGIES)
    def strategy(self, request: pytest.FixtureRequest) -> Strategy[Any]:
        made: Strategy[Any] = current_plugins().get("strategies", request.param)(population_size=20, block_size=8)
        return made


class TestScorers(ScorerContract):
    @pytest.fixture(params=["exact", "contains", "distance", "composite", "mse", "cross-entropy"])
    def scorer_case(self, request: pytest.FixtureRequest) -> ScorerCase:
        vector = torch.tensor([1.0, 2.0])
        return {
            "exact": ScorerCase(ExactMatch(), ("Paris", "Paris"), ("Rome", "Paris")),
            "contains": ScorerCase(ContainsMatch(), ("in Paris", "Paris"), ("in Rome", "Paris"), {"question": "?"}),
            "distance": ScorerCase(NumericDistance(), (1.0, 1.5), (7.0, 1.5)),
            "composite": ScorerCase(CompositeScorer([(MSE(), 1.0)]), (vector, vector), (vector + 1, vector)),
            "mse": ScorerCase(MSE(), (vector + 0.1, vector), (vector + 1, vector)),
            "cross-entropy": ScorerCase(CrossEntropy(), (vector, torch.tensor(1)), (vector.flip(0), torch.tensor(1))),
        }[request.param]


class TestJSONExporter(ExporterContract):
    @pytest.fixture(params=["document", "lines"])
    def exporter_case(self, request: pytest.FixtureRequest, tmp_path: Path) -> ExporterCase:
        file = tmp_path / "out" / "observations.json"

        def delivered() -> list[str]:
            text = file.read_text("utf-8")
            if request.param == "lines":
                return [json.loads(line)["fn_name"] for line in text.splitlines()]
            return [record["fn_name"] for record in json.loads(text)["observations"]]

        return ExporterCase(JSONExporter(file, jsonl=request.param == "lines"), delivered)


class TestPerfettoExporter(ExporterContract):
    @pytest.fixture
    def exporter_case(self, tmp_path: Path) -> ExporterCase:
        file = tmp_path / "run.trace.json"

        def delivered() -> list[str]:
            events = json.loads(file.read_text("utf-8"))["traceEvents"]
            return [e["name"] for e in events if e["ph"] == "X" and "span_id" in e["args"]]

        return ExporterCase(PerfettoExporter(file), delivered)


class TestRecordingExporter(ExporterContract):
    @pytest.fixture
    def exporter_case(self) -> ExporterCase:
        exporter = RecordingExporter()
        return ExporterCase(exporter, lambda: [o.fn_name for o in exporter.observations])


class TestRecordingTracker(TrackerContract):
    @pytest.fixture
    def tracker_case(self) -> TrackerCase:
        tracker = RecordingTracker()
        return TrackerCase(tracker, tracker.curve)


class TestTensorBoardTracker(TrackerContract):
    @pytest.fixture
    def tracker_case(self, tmp_path: Path) -> TrackerCase:
        accumulator = pytest.importorskip(
            "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
        )
        from hyperfunc_tensorboard.tracker import TensorBoardTracker

        def curve(name: str) -> list[tuple[int, float]]:
            reader = accumulator.EventAccumulator(str(tmp_path / "run"))
            reader.Reload()
            return [(event.step, event.value) for event in reader.Scalars(name)]

        return TrackerCase(TensorBoardTracker(tmp_path), curve)


class TestCartPole(EnvironmentContract):
    @pytest.fixture
    def environment_factory(self) -> Callable[[int], Any]:
        return lambda seed: gymnasium.make("CartPole-v1")


class TestCountdown(EnvironmentContract):
    @pytest.fixture
    def environment_factory(self) -> Callable[[int], Any]:
        return CountdownEnvironment

    @pytest.fixture
    def action(self) -> Callable[[Any, int], Any]:
        return lambda environment, step: 1 + step % 3


@pytest.fixture(scope="module")
def provider() -> Iterator[ServerProcess]:
    with ServerProcess(Script(rules=(Rule(model="refused", fault="status", status=401),))) as server:
        yield server


class TestDirectTransport(TransportContract):
    """Over real HTTP, against the loopback provider."""

    @pytest.fixture
    def transport_case(self, provider: ServerProcess) -> TransportCase:
        secret = "sk-contract-0123456789"

        def request(model: str) -> OutgoingRequest:
            messages = [{"role": "user", "content": "Say hello."}]
            return OutgoingRequest(
                "test", f"openai/{model}", provider.base_url, SecretKey(secret), messages, {"max_tokens": 20}, {}, 30.0
            )

        return TransportCase(DirectTransport, request("m"), request("refused"), secret)


class OverloadedClassifier:
    """An error classifier as a user would write it: one provider's own words for "try later"."""

    def classify_custom(self, error: BaseException) -> ErrorInfo | None:
        busy = isinstance(error, OSError) and error.args[:1] == ("all replicas busy",)
        return ErrorInfo("rate_limit", True, rate_limited=True, wait_s=2.0) if busy else None


class TestErrorClassifier(ErrorClassifierContract):
    @pytest.fixture
    def classifier_case(self) -> ClassifierCase:
        return ClassifierCase(OverloadedClassifier(), OSError("all replicas busy"), ErrorInfo("unknown", True))


class TestBlockingEngine(EngineContract):
    @pytest.fixture
    def engine(self) -> Any:
        return BlockingEngine()


class TestCommands(CLICommandContract):
    @pytest.fixture(params=["hyperfunc.cli.plugins:app", "hyperfunc_serve.cli:serve", "hyperfunc_serve.cli:info"])
    def command(self, request: pytest.FixtureRequest) -> Any:
        return request.param


class TestRecordingEvents(RunEventsContract):
    @pytest.fixture
    def events_plugin(self) -> object:
        return RecordingEvents()


class TestChoicePromptOptimizer(PromptOptimizerContract):
    @pytest.fixture
    def prompt_optimizer(self) -> Any:
        return ChoicePromptOptimizer(["Be rude.", "Be short.", "Be short and polite, and cite sources."])


class TestSQLiteInMemory(MemoryBackendContract):
    @pytest.fixture
    def memory_backend(self) -> Iterator[MemoryBackend]:
        backend = SQLiteBackend()
        yield backend
        backend.close()


class TestSQLiteFile(MemoryBackendContract):
    @pytest.fixture
    def memory_backend(self, tmp_path: Path) -> Iterator[MemoryBackend]:
        backend = SQLiteBackend(tmp_path / "memory.db")
        yield backend
        backend.close()


class Bigram(torch.nn.Module):
    """The smallest language model: each token's logits depend on that token alone."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(vocabulary_size, vocabulary_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.table(ids)
        return logits


class TestBigramFamily(ModelFamilyContract):
    @pytest.fixture
    def family_case(self) -> ModelFamilyCase:
        return ModelFamilyCase(lambda config: Bigram(config["vocabulary"]), {"vocabulary": 7}, 7)
