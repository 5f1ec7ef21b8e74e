"""The files that docs/observability ships fit together and speak of metrics that exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from hyperfunc.observability import ObservabilityHub, Tracer
from hyperfunc.observability import conventions as names
from hyperfunc.tape import Call

DOCS = Path(__file__).resolve().parents[2] / "docs" / "observability"


def prometheus_name(metric: str, unit: str) -> str:
    """The collector's translation: dots to underscores, the unit in words; annotations in braces are dropped."""
    return metric.replace(".", "_") + {"s": "_seconds"}.get(unit, "")


def test_the_dashboard_asks_only_for_metrics_that_are_sent() -> None:
    dashboard = json.loads((DOCS / "grafana" / "hyperfunc.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:gen_ai_client|hyperfunc)_[a-z_]+(?=\[|\{|$|\))", target["expr"])
    }
    tokens = prometheus_name(names.CLIENT_TOKEN_USAGE, "{token}")
    seconds = prometheus_name(names.CLIENT_OPERATION_DURATION, "s")
    sent = {f"{base}_{part}" for base in (tokens, seconds) for part in ("sum", "count", "bucket")}
    sent.add(prometheus_name(names.FITNESS, "{fitness}"))
    assert asked <= sent
    assert len(asked) >= 5
    labels = {
        label
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for group in re.findall(r"\bby \(([^)]*)\)", target["expr"]) + re.findall(r"{{(\w+)}}", target["legendFormat"])
        for label in group.split(", ")
    }
    observed = ObservabilityHub(None)
    call = Call(0, "f", (), {}, metadata={"model": "m"})
    for error in (None, TimeoutError()):
        made = Tracer(metrics=observed.metrics).start("call", "f", None)
        made.call = call
        Tracer(metrics=observed.metrics).end(made, error)
    generation = Tracer().start("generation", "g", None)
    generation.set(best=1.0)
    Tracer(metrics=observed.metrics).end(generation)
    attributes = {key.replace(".", "_") for point in observed.metrics.snapshot() for key in point.attributes}
    assert {prometheus_name(p.name, p.unit) for p in observed.metrics.snapshot()} == {
        tokens, seconds, prometheus_name(names.FITNESS, "{fitness}")
    }  # fmt: skip
    assert labels - {"le"} <= attributes
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert all(f"uid: {uid}," in (DOCS / "grafana" / "datasources.yaml").read_text() for uid in used)


def test_the_compose_file_names_files_and_services_that_exist() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    compose = yaml.safe_load((DOCS / "compose.yaml").read_text())
    services = compose["services"]
    for service in services.values():
        assert re.search(r":v?\d+\.\d+\.\d+$", service["image"])
        for volume in service.get("volumes", []):
            assert (DOCS / volume.split(":")[0]).is_file()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        assert set(service.get("depends_on", [])) <= set(services)
    collector = yaml.safe_load((DOCS / "collector.yaml").read_text())
    assert collector["exporters"]["otlp/jaeger"]["endpoint"].split(":")[0] in services
    for pipeline in collector["service"]["pipelines"].values():
        for part in ("receivers", "processors", "exporters"):
            assert set(pipeline[part]) <= set(collector[part])
    prometheus = yaml.safe_load((DOCS / "prometheus.yaml").read_text())
    (target,) = prometheus["scrape_configs"][0]["static_configs"][0]["targets"]
    service, port = target.split(":")
    assert service in services
    assert collector["exporters"]["prometheus"]["endpoint"].endswith(f":{port}")


def test_the_page_names_every_exporter_and_only_real_attributes() -> None:
    from hyperfunc import observability

    page = (DOCS / "README.md").read_text()
    for name in ("otlp", "langfuse", "json", "perfetto", "tensorboard", "mlflow", "wandb"):
        assert f"`{name}`" in page
        assert importlib.util.find_spec(f"hyperfunc_{name}.plugin") is not None
    for imported in re.findall(r"from hyperfunc\.observability import (.+)", page):
        for name in imported.split(", "):
            assert name in observability.__all__


def test_the_names_are_sorted_and_complete() -> None:
    constants = [name for name in vars(names) if name.isupper()]
    assert list(names.__all__) == sorted(constants)
