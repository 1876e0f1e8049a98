"""Answers Prometheus over HTTP, from threads of its own. Imported only by a process that does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable, Sequence
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

PATH = "/metrics"
CLIENT_S = 10.0
"""Seconds that a client may take for one step: one that sends nothing keeps no thread for ever."""
_POLL_S = 0.1


class Collector(Protocol):
    """What the library of Prometheus asks for metrics."""

    def collect(self) -> Iterable[Any]:
        """Families of metrics, with their values of now. Threads that answer Prometheus call this."""


class MetricsServer:
    """Serves `/metrics` from when it is made until `close`. The registry is its own: no other library is in it."""

    def __init__(self, *, host: str, port: int, collectors: Sequence[Collector]) -> None:
        """`port` 0: a free one. Raises `OSError` if host or port cannot be had."""
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self.add(collectors)
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        kind: type[_Server] = type("Server", (_Server,), {"address_family": family})
        self._server = make_server(str(address[0]), port, _app(self._registry), kind, _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on which it is found."""
        return self._server.server_port

    def add(self, collectors: Iterable[Collector]) -> None:
        """Serve these too, from now on."""
        for collector in collectors:
            self._registry.register(collector)

    def close(self) -> None:
        """Free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request, so that a slow client delays no other."""

    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        """Bind without asking a name server for this host's name, which may take many seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: each scrape would be a line."""


def _app(registry: CollectorRegistry) -> Any:
    metrics = make_wsgi_app(registry)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == PATH:
            return metrics(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"There is {PATH} and nothing else.\n".encode()]

    return app
