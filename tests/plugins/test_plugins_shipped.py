"""Every contract, on everything that the plugins of this distribution register.

What the core itself registers, and the fakes, are in ``test_plugins_contracts.py``. The last test here sees to it that
nothing registered is left without a contract.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from demos.game_agent.gridworld import GridWorld
from hyperfunc.evaluation import (
    Accuracy,
    ClassificationAccuracy,
    ExactMatch,
    RegexMatch,
)
from hyperfunc.memory_types import MemoryBackend
from hyperfunc.plugins import Plugins, load_plugins, use_plugins
from hyperfunc.testing import (
    AgentCase,
    AgentTypeContract,
    CLICommandContract,
    ExporterCase,
    ExporterContract,
    MemoryBackendContract,
    PromptOptimizerContract,
    ScorerCase,
    ScorerContract,
    TensorEnvironmentContract,
    TrackerCase,
    TrackerContract,
    TransportCase,
    TransportContract,
)
from hyperfunc.testing.llm_server import Rule, Script, ServerProcess
from hyperfunc.testing.postgres import fresh_schema, postgres_url_or_skip
from hyperfunc_agents import (
    ChatResponse,
    ConversationResult,
    ConversationScorer,
    ConversationTurn,
    EpisodeResult,
    EpisodeReturn,
    GameResponse,
    TensorCartPole,
)
from hyperfunc_agents.chat import ChatAgent
from hyperfunc_agents.game import Game
from hyperfunc_judges import (
    CodeCorrectnessJudge,
    ConversationJudge,
    FactualAccuracyJudge,
    HumanFeedback,
    HumanPreference,
    HumanRubric,
    InstructionFollowingJudge,
    Level,
    LLMJudge,
    PreferenceJudge,
    Rubric,
    RubricJudge,
    SummarizationJudge,
    Terminal,
    Verifier,
)
from hyperfunc_llm.secrets import SecretKey
from hyperfunc_llm.transports.base import OutgoingRequest
from hyperfunc_llm.transports.gemini import GeminiTransport
from hyperfunc_llm.transports.through_litellm import LiteLLMTransport
from hyperfunc_prompts import BootstrapDemos, NoOpPromptOptimizer, PromptLearningOptimizer, ReflectivePareto

# Agent types


class TestChat(AgentTypeContract):
    @pytest.fixture(params=["scripted", "simulated"])
    def agent_case(self, request: pytest.FixtureRequest) -> AgentCase:
        def user(history: list[dict[str, str]], *, goal: str, seed: int, turn: int) -> str | None:
            return f"{goal} {turn}" if turn < 2 else None

        async def run(message: str, history: list[dict[str, str]] | None = None) -> ChatResponse:
            return ChatResponse(f"{len(history or [])}: {message}", done="bye" in message)

        examples: dict[str, list[dict[str, Any]]] = {
            "scripted": [{"conversation": ["hello", "bye", "more"]}, {"conversation": ["hello"]}],
            "simulated": [{"user": user, "goal": "tea"}, {"user": user, "goal": "coffee"}],
        }
        return AgentCase(ChatAgent, run, examples[request.param])


class TestGame(AgentTypeContract):
    @pytest.fixture(params=["gymnasium", "tensor", "class"])
    def agent_case(self, request: pytest.FixtureRequest) -> AgentCase:
        async def run(observation: torch.Tensor) -> GameResponse:
            return GameResponse((observation[2] > 0).long())

        environment: Any = {"gymnasium": "CartPole-v1", "tensor": TensorCartPole(), "class": TensorCartPole}[
            request.param
        ]
        return AgentCase(Game, run, [{"env": environment, "seed": seed, "max_steps": 40} for seed in (0, 3)])


# Environments


class TestTensorCartPole(TensorEnvironmentContract):
    @pytest.fixture
    def tensor_environment(self) -> TensorCartPole:
        return TensorCartPole()


class TestGridWorld(TensorEnvironmentContract):
    @pytest.fixture
    def tensor_environment(self) -> GridWorld:
        return GridWorld()

    @pytest.fixture
    def actions(self) -> Callable[[int], torch.Tensor]:
        return lambda step: torch.tensor(step % 4)


# Scorers


def conversation(*replies: str) -> ConversationResult:
    history = [
        ConversationTurn(role, text) for reply in replies for role, text in (("user", "?"), ("assistant", reply))
    ]
    return ConversationResult(history, len(replies), True)


async def complete(messages: list[dict[str, str]], **options: Any) -> str:
    """A model that knows good from bad where it stands in the output, whichever place that has."""
    text = messages[-1]["content"]
    if "winner" in text:
        first, second = text.find("GOOD"), text.find("BAD")
        return json.dumps({"winner": "a" if first < second else "b", "feedback": "clear"})
    return json.dumps({"score": 5 if "GOOD" in text else 1, "feedback": "clear"})


RUBRIC = Rubric((Level(1, "bad", "wrong"), Level(5, "good", "right")))


class Desk:
    """A person at a terminal, who reads what is on the screen."""

    def __init__(self) -> None:
        self.shown = ""
        self.terminal = Terminal(self.read, self.write)

    def write(self, text: str) -> None:
        self.shown = text

    def read(self, prompt: str) -> str:
        if "tie" in prompt or "tie" in self.shown:
            return "a" if self.shown.find("GOOD") < self.shown.find("BAD") else "b"
        return "5" if "GOOD" in self.shown else "1"


JUDGES: dict[str, Callable[[], Any]] = {
    "llm-judge": lambda: LLMJudge(complete=complete),
    "summarization-judge": lambda: SummarizationJudge(complete=complete),
    "code-correctness-judge": lambda: CodeCorrectnessJudge(complete=complete),
    "conversation-judge": lambda: ConversationJudge(complete=complete),
    "factual-accuracy-judge": lambda: FactualAccuracyJudge(complete=complete),
    "instruction-following-judge": lambda: InstructionFollowingJudge(complete=complete),
    "rubric-judge": lambda: RubricJudge(RUBRIC, complete=complete),
    "verifier": lambda: Verifier(says=lambda output: "GOOD" in output),
    "human-feedback": lambda: HumanFeedback(terminal=Desk().terminal),
    "human-rubric": lambda: HumanRubric(RUBRIC, terminal=Desk().terminal),
}


class TestJudges(ScorerContract):
    @pytest.fixture(params=JUDGES)
    def scorer_case(self, request: pytest.FixtureRequest) -> ScorerCase:
        return ScorerCase(JUDGES[request.param](), ("GOOD", "x"), ("BAD", "x"), {"question": "?"})


class TestPreferences(ScorerContract):
    @pytest.fixture(params=["preference-judge", "human-preference"])
    def scorer_case(self, request: pytest.FixtureRequest) -> ScorerCase:
        judge: Any = (
            PreferenceJudge(complete=complete)
            if request.param == "preference-judge"
            else HumanPreference(terminal=Desk().terminal)
        )
        return ScorerCase(judge, ("GOOD", "BAD"), ("BAD", "GOOD"))


class TestOtherScorers(ScorerContract):
    @pytest.fixture(params=["conversation", "episode-return", "accuracy", "classification-accuracy", "regex-match"])
    def scorer_case(self, request: pytest.FixtureRequest) -> ScorerCase:
        logits = torch.tensor([0.1, 0.9])
        expected = {"replies": ["yes", "no"], "final": None}
        return {
            "conversation": ScorerCase(
                ConversationScorer(turn=ExactMatch()),
                (conversation("yes", "no"), expected),
                (conversation("yes"), expected),
            ),
            "episode-return": ScorerCase(
                EpisodeReturn(), (EpisodeResult(3.0, 3, True), None), (EpisodeResult(1.0, 3, True), None)
            ),
            "accuracy": ScorerCase(Accuracy(), (logits, torch.tensor(1)), (logits, torch.tensor(0))),
            "classification-accuracy": ScorerCase(ClassificationAccuracy(), ("cat", "cat"), ("dog", "cat")),
            "regex-match": ScorerCase(RegexMatch(r"\d+"), ("42", ""), ("none", "")),
        }[request.param]


# Prompt optimizers


async def reflect(messages: list[dict[str, Any]]) -> str:
    """A model that proposes what the contract's program likes, and once in a while nonsense."""
    text = str(messages[-1]["content"])
    return "<new_text>Be rude.</new_text>" if len(text) % 3 == 0 else "<new_text>Be short, polite and cite.</new_text>"


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "noop": NoOpPromptOptimizer,
    "prompt-learning": lambda: PromptLearningOptimizer(reflect, max_iterations=2),
    "reflective-pareto": lambda: ReflectivePareto(reflect, max_iterations=3),
    "bootstrap-demos": BootstrapDemos,
}


class TestPromptOptimizers(PromptOptimizerContract):
    @pytest.fixture(params=OPTIMIZERS)
    def prompt_optimizer(self, request: pytest.FixtureRequest) -> Any:
        return OPTIMIZERS[request.param]()


# Exporters and trackers


class TestOTLPExporter(ExporterContract):
    @pytest.fixture(params=["grpc", "http"])
    def exporter_case(self, request: pytest.FixtureRequest) -> Iterator[ExporterCase]:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="needs the extra otlp")
        from hyperfunc.testing.otlp import OTLPReceiver
        from hyperfunc_otlp import OTLPExporter

        with OTLPReceiver() as receiver:
            endpoint = receiver.grpc_endpoint if request.param == "grpc" else receiver.http_endpoint
            exporter = OTLPExporter(endpoint, request.param)
            yield ExporterCase(exporter, lambda: [names_of(span.name) for span in receiver.spans])
            exporter.shutdown()


class TestLangfuseExporter(ExporterContract):
    @pytest.fixture
    def exporter_case(self) -> Iterator[ExporterCase]:
        pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="needs the extra langfuse")
        from hyperfunc.testing.otlp import OTLPReceiver
        from hyperfunc_langfuse import LangFuseExporter

        with OTLPReceiver() as receiver:
            exporter = LangFuseExporter(public_key="pk", secret_key="sk", host=receiver.http_endpoint)
            yield ExporterCase(exporter, lambda: [names_of(span.name) for span in receiver.spans])
            exporter.shutdown()


def names_of(span: str) -> str:
    """The function that a span is of: conventions put the operation in front, and name the model, not the function."""
    return "model" if span.startswith("chat ") else span.removeprefix("execute_tool ")


class TestMLflowTracker(TrackerContract):
    @pytest.fixture
    def tracker_case(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackerCase:
        pytest.importorskip("mlflow", reason="needs the extra mlflow")
        from mlflow.tracking import MlflowClient

        from hyperfunc_mlflow import MLflowTracker

        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # its other store needs all of MLflow
        store = f"file:{tmp_path / 'mlruns'}"

        def curve(name: str) -> list[tuple[int, float]]:
            client = MlflowClient(tracking_uri=store)
            experiment = client.get_experiment_by_name("hyperfunc")
            assert experiment is not None
            (run,) = client.search_runs([experiment.experiment_id])
            return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]

        return TrackerCase(MLflowTracker(store), curve)


@pytest.mark.slow
class TestWandbTracker(TrackerContract):
    @pytest.fixture
    def tracker_case(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackerCase]:
        wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
        from hyperfunc_wandb import WandbTracker

        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            monkeypatch.setenv(name, str(tmp_path))
        yield TrackerCase(WandbTracker("p", directory=tmp_path))
        wandb.teardown()


# Transports


@pytest.fixture(scope="module")
def provider() -> Iterator[ServerProcess]:
    with ServerProcess(Script(rules=(Rule(model="refused", fault="status", status=401),))) as server:
        yield server


SECRET = "sk-contract-0123456789"


def asked(model: str, url: str) -> OutgoingRequest:
    messages = [{"role": "user", "content": "Say hello."}]
    return OutgoingRequest("test", model, url, SecretKey(SECRET), messages, {"max_tokens": 20}, {}, 30.0)


class TestGeminiTransport(TransportContract):
    @pytest.fixture
    def transport_case(self, provider: ServerProcess) -> TransportCase:
        url = f"{provider.url}/v1beta"
        return TransportCase(GeminiTransport, asked("gemini/m", url), asked("gemini/refused", url), SECRET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Accessing the 'model_:DeprecationWarning")  # litellm's own, while it streams
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestLiteLLMTransport(TransportContract):
    @pytest.fixture
    def transport_case(self, provider: ServerProcess) -> Iterator[TransportCase]:
        pytest.importorskip("litellm", reason="needs the extra llm")
        url = provider.base_url
        yield TransportCase(LiteLLMTransport, asked("openai/m", url), asked("openai/refused", url), SECRET)
        gc.collect()  # litellm drops a coroutine of its own when it is cancelled: here, where that is expected


# Memory


@pytest.fixture(scope="module")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with postgres_url_or_skip(request.config) as url:
        yield url


class TestPostgres(MemoryBackendContract):
    @pytest.fixture
    def memory_backend(self, postgres_server: str) -> Iterator[MemoryBackend]:
        from hyperfunc_memory.postgres_backend import PostgresBackend

        with fresh_schema(postgres_server) as url:
            backend = PostgresBackend(url)
            yield backend
            backend.close()


# Commands


class TestBuiltInCommands(CLICommandContract):
    @pytest.fixture(
        params=[
            "hyperfunc.cli.gate:gate",
            "hyperfunc.cli.runs:app",
            "hyperfunc.cli.runs_report:report",
            "hyperfunc.cli.runs_report:graph",
            "hyperfunc.cli.runs_replay:replay",
            "hyperfunc.cli.runs_replay:resume",
        ]
    )
    def command(self, request: pytest.FixtureRequest) -> Any:
        return request.param


# Nothing is left out


HERE_OR_IN_CONTRACTS = {
    "agent_types": {"chat", "flow", "game"},
    "strategies": {"cma-es", "eggroll", "ipop-cma-es", "openai-es", "pgpe", "sep-cma-es", "snes"},
    "scorers": {
        *JUDGES,
        *("preference-judge", "human-preference"),
        *("conversation", "episode-return", "accuracy", "classification-accuracy", "regex-match"),
        *("exact-match", "contains-match", "numeric-distance", "composite", "mean-squared-error", "cross-entropy"),
    },
    "prompt_optimizers": set(OPTIMIZERS),
    "memory_backends": {"sqlite", "postgresql", "postgres"},
    "exporters": {"json", "langfuse", "otlp", "perfetto"},
    "trackers": {"mlflow", "tensorboard", "wandb"},
    "environments": {"tensor-cartpole"},
    "model_families": {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"},
    "llm_transports": {"direct", "gemini", "litellm"},
    "error_classifiers": set[str](),
    "engines": set[str](),
    "cli_commands": {"gate", "graph", "info", "plugins", "replay", "report", "resume", "runs", "serve"},
}


def shipped() -> Plugins:
    """The built-ins and every plugin of this repository."""
    import importlib
    import tomllib

    root = Path(__file__).parents[2]
    points = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["entry-points"]["hyperfunc"]
    return load_plugins([(name, importlib.import_module(m)) for name, m in points.items()], entry_points=False)


@pytest.mark.parametrize("kind", HERE_OR_IN_CONTRACTS)
def test_nothing_that_is_registered_is_without_a_contract(kind: str) -> None:
    plugins = shipped()
    with use_plugins(plugins):
        registered = set(plugins.registry(kind).names())
    assert registered == HERE_OR_IN_CONTRACTS[kind], "add the new one to a contract's parameters, and to this list"
