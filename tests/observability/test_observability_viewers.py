"""Spans in real viewers: Arize Phoenix and MLflow, read back by their own interfaces and looked at in a browser.

Each viewer lives in a virtual environment of its own, since their requirements conflict with ours and each other's:
HYPERFUNC_TEST_PHOENIX and HYPERFUNC_TEST_MLFLOW name the ``bin`` folders. Jaeger, and the compose file of the
documentation with Grafana, are started by testcontainers where docker answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="needs the extra otlp")

from hyperfunc.function import hyperfunction
from hyperfunc.observability import ObservabilityHub, span
from hyperfunc.system import HyperSystem
from hyperfunc.tape import add_usage
from hyperfunc.usage import Usage
from hyperfunc_mlflow import MLflowTracker
from hyperfunc_otlp import OTLPExporter

pytestmark = pytest.mark.integration
_PATIENCE_S = 150.0
DOCS = Path(__file__).parents[2] / "docs" / "observability"


@hyperfunction(io=True)
async def model(question: str) -> str:
    if question == "fail":
        raise TimeoutError("no reply within 30 s")
    add_usage(Usage(calls=1, input_tokens=10, output_tokens=3, usd=0.5), model="small", provider="example")
    return question.upper()


class Program(HyperSystem):
    async def run(self, question: str) -> list[Any]:
        return await asyncio.gather(model(question), model("fail"), return_exceptions=True)


async def send(exporter: OTLPExporter) -> None:
    system = Program()
    hub = ObservabilityHub(system, close_timeout_s=60)
    with (
        hub.trace("session 1", exporters=[exporter], content=True),
        span("generation", "generation 0", number=0),
        span("evaluation", "member 0"),
    ):
        await system.run("hi")
    assert (hub.dropped, hub.failed) == (0, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as reply:
        return json.loads(reply.read())


@contextlib.contextmanager
def serving(command: list[str], ready: str, environment: dict[str, str], folder: Path) -> Iterator[None]:
    with open(folder / "server.log", "wb") as log:
        server = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    urllib.request.urlopen(ready, timeout=5).close()
                    break
                except (urllib.error.URLError, OSError):
                    state = server.poll()
                    if state is not None or time.monotonic() > deadline:
                        pytest.fail(f"{command[0]} did not start: {(folder / 'server.log').read_text()[-2000:]}")
                    time.sleep(0.25)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, 15)
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, 9)
                server.wait()


def tool(variable: str, name: str) -> str:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} does not name the bin folder of a virtual environment with {name}")
    return str(Path(folder) / name)


@contextlib.contextmanager
def browsing(chromium: Path, **local_storage: str) -> Iterator[Any]:
    """A page in a browser that reaches nothing but this machine; what its scripts throw fails the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=str(chromium), args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(60_000)
        page.add_init_script(
            "".join(f"localStorage.setItem({json.dumps(k)}, {json.dumps(v)});" for k, v in local_storage.items())
        )
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        try:
            yield page
        finally:
            browser.close()
    assert faults == []


def click_until(page: Any, text: str, sign: str) -> None:
    """Click on ``text`` until ``sign`` is there: a page that is still being put together may lose a click."""
    failure = importlib.import_module("playwright.sync_api").TimeoutError
    for _ in range(5):
        page.get_by_text(text, exact=True).first.click()
        with contextlib.suppress(failure):
            page.get_by_text(sign, exact=True).first.wait_for(timeout=10_000)
            return
    pytest.fail(f"{sign!r} did not appear after clicks on {text!r}")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_phoenix_shows_the_spans(tmp_path: Path, protocol: str, chromium: Path, pictures: Path) -> None:
    command = tool("HYPERFUNC_TEST_PHOENIX", "phoenix")
    port, grpc_port = free_port(), free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {
        "PHOENIX_WORKING_DIR": str(tmp_path),
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(grpc_port),
        "PHOENIX_TELEMETRY_ENABLED": "false",
        "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        "PHOENIX_DISABLE_AGENT_ASSISTANT": "true",
        "PHOENIX_AGENTS_DISABLE_BASH": "true",
        "PHOENIX_ENABLE_MCP_SERVER": "false",
    }
    endpoint = f"http://127.0.0.1:{grpc_port}" if protocol == "grpc" else address
    project = {"openinference.project.name": "hyperfunc"}
    with serving([command, "serve"], f"{address}/healthz", environment, tmp_path):
        asyncio.run(send(OTLPExporter(endpoint, protocol, resource=project, metrics=False, timeout_s=30)))
        spans = wait_for_spans(f"{address}/v1/projects/hyperfunc/spans?limit=100", 5)
        names = {entry["name"]: entry for entry in spans}
        assert set(names) == {"Program", "generation 0", "member 0", "chat small", "execute_tool model"}
        parents = {entry["context"]["span_id"]: entry["name"] for entry in spans}
        assert names["Program"]["parent_id"] is None
        assert parents[names["generation 0"]["parent_id"]] == "Program"
        assert parents[names["member 0"]["parent_id"]] == "generation 0"
        assert parents[names["chat small"]["parent_id"]] == "member 0"
        assert len({entry["context"]["trace_id"] for entry in spans}) == 1
        assert names["execute_tool model"]["status_code"] == "ERROR"
        assert names["execute_tool model"]["status_message"] == "TimeoutError: no reply within 30 s"
        assert names["chat small"]["status_code"] in {"OK", "UNSET"}
        assert names["chat small"]["span_kind"] == "LLM"
        attributes = names["chat small"]["attributes"]
        assert attributes["llm.token_count.prompt"] == 10  # what Phoenix makes of gen_ai.usage.input_tokens
        assert attributes["llm.token_count.completion"] == 3
        assert attributes["llm.model_name"] == "small"
        assert attributes["input.value"] == "hi"
        trace = names["Program"]["context"]["trace_id"]
        with browsing(chromium) as page:
            page.goto(f"{address}/redirects/traces/{trace}")
            for name in names:
                page.get_by_text(name, exact=True).first.wait_for()
            click_until(page, "chat small", "hyperfunc.cost.usd")
            page.screenshot(path=pictures / f"phoenix-{protocol}.png")


def wait_for_spans(url: str, count: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(urllib.error.HTTPError):  # the project appears with its first span
            spans: list[dict[str, Any]] = get(url)["data"]
            if len(spans) >= count:
                return spans
        assert time.monotonic() < deadline, "the spans did not appear"
        time.sleep(0.25)


_READ_MLFLOW = """
import json, sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
traces = mlflow.search_traces(locations=["0"], return_type="list")
print(json.dumps([
    {"trace": t.info.trace_id, "name": s.name, "id": s.span_id, "parent": s.parent_id,
     "status": str(s.status.status_code), "type": s.span_type,
     "attributes": {k: str(v) for k, v in s.attributes.items()}}
    for t in traces for s in t.data.spans]))
"""


# What MLflow shows to a newcomer would lie over the traces: an introduction, and its assistant.
_MLFLOW_SEEN = {
    "mlflow.detectIssues.guidanceShown_v1": "true",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}


def test_mlflow_shows_the_spans_and_the_curves(tmp_path: Path, chromium: Path, pictures: Path) -> None:
    command = tool("HYPERFUNC_TEST_MLFLOW", "mlflow")
    pytest.importorskip("mlflow.tracking", reason="needs the extra mlflow")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true"}
    serve = [command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    serve += ["--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    with serving(serve, f"{address}/health", environment, tmp_path):
        headers = {"x-mlflow-experiment-id": "0"}
        asyncio.run(send(OTLPExporter(address, "http", headers=headers, metrics=False, timeout_s=60)))
        python = tool("HYPERFUNC_TEST_MLFLOW", "python")
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            reply = subprocess.run(
                [python, "-c", _READ_MLFLOW, address],
                env={**os.environ, **environment, "PYTHONPATH": ""},
                capture_output=True,
                text=True,
                check=True,
            )
            spans = json.loads(reply.stdout.strip().splitlines()[-1])
            if len(spans) == 5:
                break
            assert time.monotonic() < deadline, f"the spans did not appear: {spans}"
        names = {entry["name"]: entry for entry in spans}
        identities = {entry["id"]: entry["name"] for entry in spans}
        assert names["Program"]["parent"] is None
        assert identities[names["generation 0"]["parent"]] == "Program"
        assert identities[names["chat small"]["parent"]] == "member 0"
        assert "ERROR" in names["execute_tool model"]["status"]
        assert names["chat small"]["type"] == "LLM"
        assert names["chat small"]["attributes"]["gen_ai.usage.input_tokens"] == "10"
        run = check_tracker(address)
        with browsing(chromium, **_MLFLOW_SEEN) as page:
            page.goto(f"{address}/#/experiments/0/traces")
            page.get_by_text("session 1", exact=True).first.wait_for()
            assert page.get_by_text("Got it").count() == 0
            page.screenshot(path=pictures / "mlflow-traces.png")
            page.goto(f"{address}/#/experiments/0/traces?selectedEvaluationId={spans[0]['trace']}")
            for name in names:
                page.get_by_text(name, exact=True).first.wait_for()
            click_until(page, "chat small", "HI")  # what the model answered
            page.screenshot(path=pictures / "mlflow-trace.png")
            page.get_by_role("tab", name="Attributes").click()
            page.get_by_text("hyperfunc.cost.usd", exact=True).first.wait_for()
            page.goto(f"{address}/#/experiments/{run.experiment_id}/runs/{run.run_id}/model-metrics")
            page.locator(".js-plotly-plot").first.wait_for()
            page.get_by_text("best", exact=True).first.wait_for()
            page.screenshot(path=pictures / "mlflow-curves.png")


def check_tracker(address: str) -> Any:
    """Track a run, read it back; its description in MLflow's words."""
    from mlflow.tracking import MlflowClient

    tracker = MLflowTracker(address, "experiment")
    tracker.start("run 1", {"sigma": 0.1})
    for step in range(3):
        tracker.log(step, {"best": step / 2, "center": float("nan")})
    tracker.finish({"finish_reason": "target"})
    tracker.finish()
    client = MlflowClient(tracking_uri=address)
    (run,) = client.search_runs([client.get_experiment_by_name("experiment").experiment_id])
    assert (run.info.status, run.info.run_name, run.data.params) == ("FINISHED", "run 1", {"sigma": "0.1"})
    assert [m.value for m in client.get_metric_history(run.info.run_id, "best")] == [0.0, 0.5, 1.0]
    assert "center" not in run.data.metrics
    assert run.data.tags["hyperfunc.finish_reason"] == "target"
    return run.info


def require_docker() -> None:
    """Skip where no docker daemon answers: the one thing that --require-integration does not require."""
    docker = pytest.importorskip("docker", reason="needs docker and testcontainers")
    reason = ""
    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        reason = str(error)
    if reason:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # docker's client forgets to close its socket
            gc.collect()
        pytest.skip(f"no docker daemon answers: {reason}")


def until(what: str, attempt: Callable[[], Any]) -> Any:
    """The first answer of ``attempt`` that is not empty."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(urllib.error.URLError, OSError):
            if answer := attempt():
                return answer
        assert time.monotonic() < deadline, f"{what}: nothing within {_PATIENCE_S:g} s"
        time.sleep(0.25)


def check_jaeger(address: str) -> None:
    (trace, *_) = until("the spans in Jaeger", lambda: get(f"{address}/api/traces?service=hyperfunc")["data"])
    names = {entry["operationName"]: entry for entry in trace["spans"]}
    assert set(names) == {"Program", "generation 0", "member 0", "chat small", "execute_tool model"}
    parent = names["chat small"]["references"][0]["spanID"]
    assert parent == names["member 0"]["spanID"]
    tags = {tag["key"]: tag["value"] for tag in names["execute_tool model"]["tags"]}
    assert tags["error"] is True


def test_jaeger_shows_the_spans() -> None:
    require_docker()
    containers = pytest.importorskip("testcontainers.core.container", reason="needs docker and testcontainers")
    with containers.DockerContainer("jaegertracing/jaeger:2.3.0").with_exposed_ports(4317, 16686) as jaeger:
        host = jaeger.get_container_host_ip()
        address = f"http://{host}:{jaeger.get_exposed_port(16686)}"
        until("Jaeger's start", lambda: get(f"{address}/api/services"))
        collector = f"http://{host}:{jaeger.get_exposed_port(4317)}"
        asyncio.run(send(OTLPExporter(collector, metrics=False, timeout_s=30)))
        check_jaeger(address)


def test_the_compose_file_starts_jaeger_and_grafana_with_the_dashboard() -> None:
    require_docker()
    compose = pytest.importorskip("testcontainers.compose", reason="needs docker and testcontainers")
    jaeger, grafana = "http://127.0.0.1:16686", "http://127.0.0.1:3000"
    with compose.DockerCompose(DOCS, compose_file_name="compose.yaml", pull=True):
        until("Jaeger's start", lambda: get(f"{jaeger}/api/services"))
        until("Grafana's start", lambda: get(f"{grafana}/api/health"))
        asyncio.run(send(OTLPExporter("http://127.0.0.1:4317", timeout_s=60)))
        check_jaeger(jaeger)
        dashboard = until("the dashboard", lambda: get(f"{grafana}/api/dashboards/uid/hyperfunc"))["dashboard"]
        assert len(dashboard["panels"]) >= 6
        query = f"{grafana}/api/datasources/proxy/uid/prometheus/api/v1/query?query=gen_ai_client_token_usage_sum"
        (usage, *_) = until("the tokens in Prometheus", lambda: get(query)["data"]["result"])
        assert usage["metric"]["gen_ai_request_model"] == "small"
