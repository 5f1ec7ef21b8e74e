"""A collector in a process of its own, which counts what arrives by gRPC and HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Collector", "serve_collector"]


def serve_collector() -> None:
    """Count the spans that arrive by gRPC and HTTP; print the total for every line on standard input."""
    import grpc  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    total = 0

    def count(request: Any) -> Any:
        nonlocal total
        total += sum(len(scope.spans) for resource in request.resource_spans for scope in resource.scope_spans)
        return ExportTraceServiceResponse()

    traces = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService",
        {
            "Export": grpc.unary_unary_rpc_method_handler(
                lambda request, context: count(request),
                ExportTraceServiceRequest.FromString,
                ExportTraceServiceResponse.SerializeToString,
            )
        },
    )
    metrics = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.metrics.v1.MetricsService",
        {"Export": grpc.unary_unary_rpc_method_handler(lambda request, context: b"")},
    )
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((traces, metrics))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path.endswith("/traces"):
                count(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    futures.ThreadPoolExecutor(1).submit(http.serve_forever)
    print(json.dumps({"grpc": f"http://127.0.0.1:{port}", "http": f"http://127.0.0.1:{http.server_address[1]}"}))
    sys.stdout.flush()
    for _ in sys.stdin:
        print(total, flush=True)
    http.shutdown()
    server.stop(None)


class Collector:
    """The process of :func:`serve_collector`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.observability", "collector"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.endpoints: dict[str, str] = json.loads(self._process.stdout.readline())

    def spans(self) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("count\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
