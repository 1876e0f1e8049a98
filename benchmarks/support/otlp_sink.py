"""A collector for benchmarks, in a process of its own: takes spans by OTLP over HTTP, and counts them when asked.

`python -m benchmarks.support.otlp_sink` prints its URL; `GET /` answers with the number of spans since the last GET.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import PIPE, Popen

from benchmarks.support.processes import ROOT
from rollstream.producer.demo.embedded_redis import die_with_parent


class _Handler(BaseHTTPRequestHandler):
    bodies: list[bytes]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Keep the spans as bytes: to decode them now would take the cores of what is measured."""
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        """Count and forget."""
        bodies, self.bodies[:] = list(self.bodies), []
        body = str(sum(map(_spans, bodies))).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Log nothing."""


def _spans(body: bytes) -> int:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415 - only the sink needs it
        ExportTraceServiceRequest,
    )

    found = ExportTraceServiceRequest.FromString(body)
    return sum(len(scope.spans) for resource in found.resource_spans for scope in resource.scope_spans)


@contextmanager
def running_sink() -> Iterator[str]:
    """The URL of a sink that ends with the block."""
    command = [sys.executable, "-m", "benchmarks.support.otlp_sink"]
    with Popen(command, cwd=ROOT, stdout=PIPE, text=True, preexec_fn=die_with_parent()) as process:  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()


def count(url: str) -> int:
    """Spans that the sink at `url` has received since the last call."""
    with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310 - our own sink on loopback
        return int(reply.read())


def serve() -> None:
    """Serve until killed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"bodies": []}))
    sys.stdout.write(f"http://127.0.0.1:{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    serve()
