"""Exporters against real receivers: OTLP by gRPC and HTTP, Langfuse, files, trackers."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hyperfunc_json.plugin
import hyperfunc_langfuse.plugin
import hyperfunc_mlflow.plugin
import hyperfunc_otlp.plugin
import hyperfunc_perfetto.plugin
import hyperfunc_tensorboard.plugin
import hyperfunc_wandb.plugin
from hyperfunc.errors import ConfigurationError, PluginError
from hyperfunc.function import hyperfunction
from hyperfunc.observability import CallRecord, ObservabilityHub, ObservationRecord, current_span, span
from hyperfunc.observability import conventions as names
from hyperfunc.plugins import load_plugins, use_plugins
from hyperfunc.system import HyperSystem
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage
from hyperfunc_json import JSONExporter
from hyperfunc_langfuse import LangFuseExporter
from hyperfunc_otlp import ExportError, OTLPExporter, opentelemetry_context
from hyperfunc_perfetto import PerfettoExporter

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="needs the extra otlp")

from hyperfunc.testing.otlp import OTLPReceiver

PLUGINS = {
    "json": hyperfunc_json.plugin,
    "langfuse": hyperfunc_langfuse.plugin,
    "mlflow": hyperfunc_mlflow.plugin,
    "otlp": hyperfunc_otlp.plugin,
    "perfetto": hyperfunc_perfetto.plugin,
    "tensorboard": hyperfunc_tensorboard.plugin,
    "wandb": hyperfunc_wandb.plugin,
}


@hyperfunction(io=True)
async def model(question: str) -> str:
    here = current_span()
    if here is not None:
        here.event("rate limit", seconds=0.25)
        here.event("queue depth", value=3)
        here.event("retry", reason="429")
    if question == "fail":
        raise TimeoutError("no reply within 30 s")
    add_usage(
        Usage(calls=1, input_tokens=10, output_tokens=3, cached_tokens=4, usd=0.5), model="small", temperature=0.7
    )
    return question.upper()


@hyperfunction
async def plan(question: str) -> str:
    await asyncio.sleep(0)
    return await model(question)


class Program(HyperSystem):
    async def run(self, question: str) -> str:
        first, *_ = await asyncio.gather(plan(question), plan("fail"), return_exceptions=True)
        return str(first)


@pytest.fixture(autouse=True)
def _plugins() -> Iterator[None]:
    with use_plugins(load_plugins([*PLUGINS.items()], entry_points=False)):
        yield


@pytest.fixture
def receiver() -> Iterator[OTLPReceiver]:
    with OTLPReceiver() as made:
        yield made


async def recorded(hub: ObservabilityHub, **options: Any) -> None:
    system = Program()
    with hub.trace("session 1", **options):
        for number in range(2):
            with span("generation", f"generation {number}", number=number, best=0.5 + number, mean=float("nan")):
                assert await system.run("hi") == "HI"


def test_every_exporter_and_tracker_is_registered() -> None:
    from hyperfunc.plugins import current_plugins

    plugins = current_plugins()
    assert plugins.registry("exporters").names() == ["json", "langfuse", "otlp", "perfetto"]
    assert plugins.registry("trackers").names() == ["mlflow", "tensorboard", "wandb"]
    for name in plugins.registry("exporters").names():
        assert plugins.get("exporters", name).__name__.endswith("Exporter")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_otlp_carries_spans_and_metrics_live(receiver: OTLPReceiver, protocol: str) -> None:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    hub = ObservabilityHub(Program(), close_timeout_s=30)
    exporter = OTLPExporter(endpoint, protocol, "my service", headers={"x-key": "k"}, resource={"project": "p"})
    await recorded(hub, exporters=[exporter])
    assert (hub.dropped, hub.failed) == (0, 0)
    assert sorted(s.name for s in receiver.spans) == sorted(
        [
            "Program",
            "generation 0",
            "generation 1",
            *["execute_tool plan"] * 4,
            *["chat small", "execute_tool model"] * 2,
        ]
    )
    root = receiver.span("Program")
    first = receiver.span("generation 0")
    assert (root.parent_id, first.parent_id) == ("", root.span_id)
    identities = {s.span_id: s for s in receiver.spans}
    for received in receiver.spans:
        assert received.trace_id == root.trace_id
        if received.parent_id:
            assert identities[received.parent_id].start_ns <= received.start_ns <= received.end_ns
    chat = next(s for s in receiver.spans if s.name == "chat small")
    assert identities[chat.parent_id].name == "execute_tool plan"
    assert chat.kind == 3  # client
    assert chat.attributes[names.USAGE_INPUT_TOKENS] == 10
    assert chat.attributes[names.USAGE_CACHE_READ_INPUT_TOKENS] == 4
    assert chat.attributes[names.REQUEST_TEMPERATURE] == 0.7
    assert chat.attributes["hyperfunc.cost.usd"] == 0.5
    assert chat.events["rate limit"] == {"seconds": 0.25}
    failed = next(s for s in receiver.spans if s.name == "execute_tool model")
    assert failed.status == 2
    assert failed.status_message == "TimeoutError: no reply within 30 s"
    assert failed.attributes[names.ERROR_TYPE] == "TimeoutError"
    assert failed.events["exception"]["exception.message"] == "no reply within 30 s"
    assert chat.status == 0
    assert root.resource == {"service.name": "my service", "project": "p"}
    assert root.attributes[names.SESSION_ID] == "session 1"
    tokens = [m for m in receiver.metrics if m.name == names.CLIENT_TOKEN_USAGE]
    last = {m.attributes[names.TOKEN_TYPE]: m for m in tokens}
    assert (last["input"].value, last["input"].count, last["output"].value) == (20, 2, 6)
    fitness = [m for m in receiver.metrics if m.name == names.FITNESS]
    assert (fitness[-1].attributes, fitness[-1].value) == ({"hyperfunc.statistic": "best"}, 1.5)
    if protocol == "http":
        assert {path for path, _ in receiver.requests} == {"/v1/traces", "/v1/metrics"}
        assert all(headers["x-key"] == "k" for _, headers in receiver.requests)


async def test_the_history_can_be_sent_afterwards(receiver: OTLPReceiver) -> None:
    hub = ObservabilityHub(Program())
    await recorded(hub)
    hub.export_otlp(receiver.http_endpoint, protocol="http", service_name="later")
    assert len(receiver.spans) == 11
    assert receiver.spans[0].resource["service.name"] == "later"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_dead_collector_is_noticed_at_once_and_only_costs_the_observations(protocol: str) -> None:
    with OTLPReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    # the receiver is closed now: nobody listens there
    exporter = OTLPExporter(endpoint, protocol, timeout_s=300)
    with pytest.raises(ExportError, match="nobody answers at"):
        exporter.export([ObservationRecord("f", "2026-01-01", 0.1, trace_id="1" * 32, span_id="2" * 16)])
    exporter.shutdown()
    hub = ObservabilityHub(Program(), close_timeout_s=30)
    await asyncio.wait_for(recorded(hub, exporters=[OTLPExporter(endpoint, protocol, timeout_s=300)]), 20)
    assert (hub.failed, hub.dropped) == (11, 0)
    assert len(hub.get_history()) == 8  # what happened is still known here


@pytest.mark.parametrize("protocol", ["grpc", "http"])
async def test_a_collector_that_refuses_only_costs_the_observations(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    with OTLPReceiver(status=503) as receiver, caplog.at_level(logging.CRITICAL):
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        hub = ObservabilityHub(Program(), close_timeout_s=30)
        await recorded(hub, exporters=[OTLPExporter(endpoint, protocol, timeout_s=0.2)])
        assert receiver.spans == []
    assert hub.failed == 11


async def test_a_collector_that_never_answers_holds_up_nobody(receiver: OTLPReceiver) -> None:
    receiver.hold.clear()
    hub = ObservabilityHub(Program(), close_timeout_s=0.2)
    exporter = OTLPExporter(receiver.http_endpoint, "http", timeout_s=30)
    await asyncio.wait_for(recorded(hub, exporters=[exporter]), 20)
    assert hub.dropped == 11
    receiver.hold.set()


async def test_spans_of_instrumented_libraries_hang_under_our_calls(receiver: OTLPReceiver) -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces")))
    tracer = provider.get_tracer("an instrumented client")

    @hyperfunction(io=True)
    async def fetch(name: str) -> None:
        with tracer.start_as_current_span(f"GET {name}"):
            await asyncio.sleep(0)

    class Fetching(HyperSystem):
        async def run(self) -> None:
            await asyncio.gather(fetch("a"), fetch("b"))

    hub = ObservabilityHub(Fetching(), close_timeout_s=30)
    exporter = OTLPExporter(receiver.http_endpoint, "http", metrics=False)
    with hub.trace(exporters=[exporter], around_calls=opentelemetry_context):
        await Fetching().run()
        assert not trace.get_current_span().get_span_context().is_valid  # left again
    provider.shutdown()
    calls = [s for s in receiver.spans if s.name == "execute_tool fetch"]
    requests = [receiver.span("GET a"), receiver.span("GET b")]
    assert {r.parent_id for r in requests} == {c.span_id for c in calls}
    assert {r.trace_id for r in requests} == {receiver.span("Fetching").trace_id}


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'grpc' or 'http'"):
        OTLPExporter(protocol="carrier pigeon")
    with pytest.raises(ConfigurationError, match="must be a URL"):
        OTLPExporter("localhost:4317")
    with pytest.raises(PluginError, match="no exporter named 'oltp'; did you mean 'otlp'"):
        ObservabilityHub(Program()).export("oltp")


async def test_langfuse_gets_its_own_attribute_names(receiver: OTLPReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGFUSE_PUBLIC_KEY", raising=False)
    hub = ObservabilityHub(Program())
    await recorded(hub, content=True)
    with pytest.raises(ConfigurationError, match=r"public_key and secret_key.*LANGFUSE_PUBLIC_KEY"):
        hub.export_langfuse()
    hub.export_langfuse(
        "my trace", "user 1", metadata={"a": 1}, public_key="pk", secret_key="sk", host=receiver.http_endpoint
    )
    ((path, headers),) = receiver.requests
    assert path == "/api/public/otel/v1/traces"
    assert headers["authorization"] == "Basic cGs6c2s="
    assert headers["x-langfuse-ingestion-version"] == "4"
    chat = next(s for s in receiver.spans if s.name == "chat small").attributes
    assert chat["langfuse.observation.type"] == "generation"
    assert chat["langfuse.observation.model.name"] == "small"
    assert json.loads(chat["langfuse.observation.usage_details"]) == {"input": 10, "output": 3, "total": 13}
    assert json.loads(chat["langfuse.observation.cost_details"]) == {"total": 0.5}
    assert json.loads(chat["langfuse.observation.model.parameters"]) == {"temperature": 0.7}
    assert (chat["langfuse.observation.input"], chat["langfuse.observation.output"]) == ("hi", "HI")
    assert (chat["langfuse.trace.name"], chat["user.id"], chat["session.id"]) == ("my trace", "user 1", "session 1")
    failed = next(s for s in receiver.spans if s.name == "execute_tool model").attributes
    assert failed["langfuse.observation.level"] == "ERROR"
    assert receiver.span("Program").attributes["langfuse.observation.type"] == "span"


def test_langfuse_names_are_those_of_its_sdk(receiver: OTLPReceiver) -> None:
    langfuse = pytest.importorskip("langfuse", reason="needs the langfuse SDK")
    from opentelemetry.sdk.trace import TracerProvider

    client = langfuse.Langfuse(
        public_key="pk", secret_key="sk", base_url=receiver.http_endpoint, tracer_provider=TracerProvider()
    )
    with client.start_as_current_observation(
        name="chat", as_type="generation", model="small", input="hi"
    ) as observation:
        observation.update(output="HI", usage_details={"input": 1, "output": 2}, cost_details={"total": 0.5})
        observation.update(level="ERROR", status_message="no", model_parameters={"temperature": 0.5})
    client.shutdown()
    theirs = receiver.span("chat").attributes
    exporter = LangFuseExporter(public_key="pk", secret_key="sk", host=receiver.http_endpoint)
    record = ObservationRecord(
        "model", "2026-01-01", 0.1, success=False, error_type="E", error_message="no",
        gen_ai_request_model="small", gen_ai_usage_input_tokens=1, gen_ai_usage_output_tokens=2, cost_usd=0.5,
        trace_id="1" * 32, span_id="2" * 16,
        attributes={names.INPUT_VALUE: "hi", names.OUTPUT_VALUE: "HI", names.REQUEST_TEMPERATURE: 0.5},
    )  # fmt: skip
    exporter.export([record])
    exporter.shutdown()
    ours = receiver.spans[-1].attributes
    expected = {key for key in theirs if key.startswith("langfuse.observation.")}
    assert expected == {
        key for key in ours if key.startswith("langfuse.observation.") and not key.endswith(".output")
    } | (expected & {"langfuse.observation.output"})
    assert len(expected) >= 8
    paths = {path for path, _ in receiver.requests}
    assert paths == {"/api/public/otel/v1/traces"}
    keys = ("authorization", "x-langfuse-ingestion-version")
    sent = [{key: headers.get(key) for key in keys} for _, headers in receiver.requests]
    assert sent[0] == sent[-1]


async def test_json_files_are_whole_after_every_batch(tmp_path: Path) -> None:
    hub = ObservabilityHub(Program())
    await recorded(hub)
    hub.export_json(tmp_path / "out" / "trace.json")
    document = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert len(document["observations"]) == 11
    assert document["summary"]["total_calls"] == 8
    hub.export_json(tmp_path / "trace.jsonl", jsonl=True, include_summary=False)
    lines = [json.loads(line) for line in (tmp_path / "trace.jsonl").read_text().splitlines()]
    assert [line["fn_name"] for line in lines].count("model") == 4
    live = JSONExporter(tmp_path / "live.json")
    records = hub.get_history()
    for index in range(3):
        live.export(records[index : index + 1])
        assert len(json.loads((tmp_path / "live.json").read_text())["observations"]) == index + 1
    live.export([], hub.summary())
    live.export(records[3:5])
    assert "summary" not in json.loads((tmp_path / "live.json").read_text())  # it was not the last word
    empty = JSONExporter(tmp_path / "empty.json")
    empty.export([])
    assert json.loads((tmp_path / "empty.json").read_text()) == {"observations": []}


async def test_perfetto_traces_have_lanes_counters_waits_and_instants(tmp_path: Path) -> None:
    hub = ObservabilityHub(Program(), close_timeout_s=30)
    path = tmp_path / "run.trace.json"
    await recorded(hub, exporters=[PerfettoExporter(path)])
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    events = document["traceEvents"]
    slices = [e for e in events if e["ph"] == "X" and e["cat"] != "event"]
    assert len(slices) == 11
    for lane in {e["tid"] for e in slices}:
        open_until: list[float] = []
        for event in [e for e in slices if e["tid"] == lane]:
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            assert not open_until or event["ts"] + event["dur"] <= open_until[-1]  # nested, never crossing
            open_until.append(event["ts"] + event["dur"])
    counters = {e["name"]: e["args"] for e in events if e["ph"] == "C"}
    assert counters["queue depth"] == {"queue depth": 3}
    assert counters["fitness"] == {"best": 1.5}
    assert counters["calls under way"] == {"calls": 0}
    assert max(e["args"]["calls"] for e in events if e["name"] == "calls under way") >= 1
    waits = [e for e in events if e["name"] == "rate limit"]
    assert (len(waits), waits[0]["dur"]) == (4, pytest.approx(250_000))
    assert sum(e["ph"] == "i" and e["name"] == "retry" for e in events) == 4
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events) or events[0]["ph"] == "M"
    assert "error" in next(e for e in slices if e["cat"] == "call,error")["args"]


def test_perfetto_handles_no_spans_and_foreign_records(tmp_path: Path) -> None:
    exporter = PerfettoExporter(tmp_path / "empty.json")
    exporter.shutdown()
    assert json.loads((tmp_path / "empty.json").read_text())["traceEvents"] == []
    exporter.export([ObservationRecord.from_call_record(CallRecord("f", None, 0.1, None))])
    exporter.shutdown()
    assert len(json.loads((tmp_path / "empty.json").read_text())["traceEvents"]) > 1


def test_tensorboard_curves_are_read_back(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from hyperfunc_tensorboard import TensorBoardTracker

    tracker = TensorBoardTracker(tmp_path)
    tracker.start("run 1", {"sigma": 0.1})
    for step in range(3):
        tracker.log(step, {"best": step / 2, "center": float("nan")})
    tracker.finish({"finish_reason": "target"})
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "run 1")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("best")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert events.Tags()["scalars"] == ["best"]
    assert "configuration/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
def test_wandb_offline_files_hold_the_curves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="needs the extra wandb")
    from hyperfunc_wandb import WandbTracker

    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    tracker = WandbTracker("p", directory=tmp_path)
    tracker.start("run 1", {"sigma": 0.1})
    for step in range(3):
        tracker.log(step, {"best": step / 2, "center": float("nan")})
    tracker.finish({"finish_reason": "target"})
    wandb.teardown()  # its service writes behind the run's back until it ends
    (file,) = tmp_path.rglob("*.wandb")
    content = file.read_bytes()
    assert b"run 1" in content
    assert b"best" in content
    assert b"center" not in content
