"""A collector: takes spans by OTLP over HTTP from any process and decodes them with OpenTelemetry's own classes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.worker_process import wait_for

ERROR = 2
"""The code of the status `error`."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """One span."""

    name: str
    trace: str
    span: str
    parent: str
    """Empty: it is the first of its trace."""
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: list[str]
    """Traces that it is linked to."""
    is_error: bool
    message: str
    """The text of its status."""
    began_ns: int
    ended_ns: int

    @property
    def delivery(self) -> int:
        return int(self.attributes["rollstream.delivery"])


class Sink:
    """Use as a context; `url` is what `OTEL_EXPORTER_OTLP_ENDPOINT` takes."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                sink.spans += decoded(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.env = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def wait_for(self, name: str, count: int = 1) -> list[Received]:
        """Return once `count` spans of that name are here."""
        told = lambda: f"{count} of {name!r} expected, got {[span.name for span in self.spans]}"  # noqa: E731
        wait_for(lambda: len(self.named(name)) >= count, 30, told)
        return self.named(name)


def decoded(body: bytes) -> list[Received]:
    return [
        Received(
            name=span.name,
            trace=span.trace_id.hex(),
            span=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            attributes=_values(span.attributes),
            resource=_values(of_resource.resource.attributes),
            links=[link.trace_id.hex() for link in span.links],
            is_error=span.status.code == ERROR,
            message=span.status.message,
            began_ns=span.start_time_unix_nano,
            ended_ns=span.end_time_unix_nano,
        )
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
