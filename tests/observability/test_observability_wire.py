"""The bytes of OTLP: what is encoded here is what the official classes read; and what a collector may answer."""

from __future__ import annotations

import ssl
import subprocess
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("opentelemetry.proto.trace.v1.trace_pb2", reason="needs the extra otlp")
pytest.importorskip("grpc", reason="needs the extra otlp")

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from hyperfunc.observability import ObservationRecord, Span, Tracer
from hyperfunc.tape import Call
from hyperfunc.testing.otlp import OTLPReceiver, _span
from hyperfunc.usage import Usage
from hyperfunc_otlp import ExportError, OTLPExporter
from hyperfunc_otlp.spans import SpanEncoder


def a_call(**metadata: Any) -> Span:
    tracer = Tracer()
    made = tracer.start("call", "model", tracer.start("run", "r", None))
    made.call = Call(0, "model", (), {}, usage=Usage(calls=1, input_tokens=10, usd=0.5), metadata=metadata)
    made.set(example=3)
    made.event("queue depth", value=3)
    tracer.end(made, TimeoutError("no <reply> within 30 s"))
    return made


def decoded(request: bytes) -> list[Any]:
    message = ExportTraceServiceRequest.FromString(request)
    (resource,) = message.resource_spans
    (scope,) = resource.scope_spans
    assert scope.scope.name == "hyperfunc"
    return [
        _span(span, {pair.key: pair.value.string_value for pair in resource.resource.attributes})
        for span in scope.spans
    ]


def test_a_span_and_its_record_are_the_same_on_the_wire() -> None:
    span = a_call(model="small", temperature=0.7, finish_reason="stop", cache=True, layers=["a", "b"])
    encoder = SpanEncoder({"service.name": "s"})
    (direct,) = decoded(encoder.request([encoder.span(span, False)]))
    (flat,) = decoded(encoder.request([encoder.record(ObservationRecord.from_span(span))]))
    assert direct == flat
    assert (direct.name, direct.kind, direct.status) == ("chat small", 3, 2)
    assert direct.attributes["hyperfunc.call.layers"] == ["a", "b"]
    assert direct.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert direct.events["exception"]["exception.message"] == "no <reply> within 30 s"


_VALUES = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=300),
    st.lists(st.text(max_size=20), max_size=3),
)


@given(st.lists(st.dictionaries(st.text(min_size=1, max_size=20), _VALUES, max_size=8), max_size=6))
def test_attributes_survive_the_wire_whatever_was_sent_before(batches: list[dict[str, Any]]) -> None:
    encoder = SpanEncoder({"service.name": "s"})
    spans = [
        ObservationRecord("f", "", 0.0, kind="run", trace_id="1" * 32, span_id=f"{i:016x}", attributes=attributes)
        for i, attributes in enumerate(batches)
    ]
    message = ExportTraceServiceRequest.FromString(encoder.request(map(encoder.record, spans)))
    received = message.resource_spans[0].scope_spans[0].spans
    assert len(received) == len(batches)
    for span, attributes in zip(received, batches, strict=True):
        got = _span(span, {}).attributes
        assert got == {"hyperfunc.function": "f", **attributes}
        assert {key: type(value) for key, value in got.items() if key in attributes} == {
            key: type(value) for key, value in attributes.items()
        }


def test_values_that_are_no_attributes_are_told_as_text() -> None:
    encoder = SpanEncoder({"service.name": "s"})
    odd = {"big": 2**70, "surrogate": "a\ud800b", "none": None, "object": {1: 2}, "zero": b"\x00"}
    record = ObservationRecord("f", "", 0.0, kind="run", trace_id="1" * 32, span_id="2" * 16, attributes=odd)
    (received,) = decoded(encoder.request([encoder.record(record)]))
    assert received.attributes == {
        "hyperfunc.function": "f", "big": str(2**70), "surrogate": "a?b", "object": "{1: 2}", "zero": "b'\\x00'",
    }  # fmt: skip


def test_known_attributes_are_bounded() -> None:
    encoder = SpanEncoder({"service.name": "s"})
    for index in range(10_000):
        encoder._attribute("tokens", index)
    assert len(encoder._known) <= 4096


RECORD = ObservationRecord("f", "", 0.0, kind="run", trace_id="1" * 32, span_id="2" * 16)


class Answers:
    """A collector that gives these answers to one request after the other."""

    def __init__(self, *answers: tuple[int, dict[str, str], bytes]) -> None:
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status, headers, body = answers[min(outer.requests, len(answers) - 1)]
                outer.requests += 1
                outer.headers = dict(self.headers)
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Answers:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def test_a_busy_collector_is_asked_again_when_it_says() -> None:
    with Answers((503, {"retry-after": "0"}, b""), (429, {"retry-after": "0"}, b""), (200, {}, b"")) as collector:
        exporter = OTLPExporter(collector.endpoint, "http", timeout_s=30)
        exporter.export([RECORD])
        exporter.shutdown()
    assert collector.requests == 3


@pytest.mark.parametrize("status", [302, 400, 401, 404, 500])
def test_other_answers_are_final(status: int) -> None:
    with Answers((status, {"location": "/elsewhere"}, b"no such tenant")) as collector:
        exporter = OTLPExporter(collector.endpoint, "http", timeout_s=30)
        with pytest.raises(ExportError, match=rf"/v1/traces answered {status} 'no such tenant'"):
            exporter.export([RECORD])
        exporter.shutdown()
    assert collector.requests == 1


def test_partly_rejected_batches_are_reported() -> None:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 1
    response.partial_success.error_message = "too old"
    body = response.SerializeToString()
    with Answers((200, {"content-type": "application/x-protobuf"}, body)) as collector:
        exporter = OTLPExporter(collector.endpoint, "http")
        with pytest.raises(ExportError, match="rejected 1 of a batch: too old"):
            exporter.export([RECORD])
        exporter.shutdown()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_shutting_down_ends_the_wait_for_another_attempt(protocol: str) -> None:
    with OTLPReceiver(status=503) as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        exporter = OTLPExporter(endpoint, protocol, timeout_s=300)
        threading.Timer(0.1, exporter.shutdown).start()
        with pytest.raises(ExportError):
            exporter.export([RECORD])


def test_headers_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b, x-key=theirs")
    with OTLPReceiver() as receiver:
        exporter = OTLPExporter(receiver.http_endpoint, "http", headers={"x-key": "ours"})
        exporter.export([RECORD])
        exporter.shutdown()
    ((_, headers),) = receiver.requests
    assert (headers["x-tenant"], headers["x-key"]) == ("a b", "ours")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "chain.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(chain), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl makes the certificate of this test; it is not installed")
    return key, chain


def test_https_is_checked_against_the_given_certificate(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, chain = certificate
    with Answers((200, {}, b"")) as collector:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        collector.server.socket = context.wrap_socket(collector.server.socket, server_side=True)
        endpoint = collector.endpoint.replace("http://127.0.0.1", "https://localhost")
        stranger = OTLPExporter(endpoint, "http", timeout_s=0.5)
        with pytest.raises(ExportError, match="certificate verify failed"):
            stranger.export([RECORD])
        stranger.shutdown()
        assert collector.requests == 0
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(chain))
        exporter = OTLPExporter(endpoint, "http", timeout_s=30)
        exporter.export([RECORD])
        exporter.shutdown()
    assert collector.requests == 1


def test_grpc_speaks_tls_where_the_endpoint_says_https(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import grpc

    key, chain = certificate
    receiver = OTLPReceiver()
    export = grpc.unary_unary_rpc_method_handler(
        lambda request, context: receiver.take_traces(request) or ExportTraceServiceResponse(),
        ExportTraceServiceRequest.FromString,
        ExportTraceServiceResponse.SerializeToString,
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": export}),))
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(chain))
    exporter = OTLPExporter(f"https://localhost:{port}", timeout_s=60)
    exporter.export([RECORD])
    exporter.shutdown()
    server.stop(None).wait()
    assert [span.name for span in receiver.spans] == ["f"]
