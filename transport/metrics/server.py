"""Answers Prometheus over HTTP, from threads of its own. Imported only by a process that does."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from ..addresses import Address, resolve
from .pages import Ask, Page

PATH = "/metrics"
MOST_REQUESTS = 16
"""Requests under way at once. Each has a thread and a file of this process, and anybody may ask."""
REQUEST_S = 10.0
"""Seconds for a whole request, answer and all: a client that sends a byte now and then keeps no thread either."""
_POLL_S = 0.1


class Collector(Protocol):
    """What the library of Prometheus asks for metrics."""

    def collect(self) -> Iterable[Any]:
        """Families of metrics, with their values of now. Threads that answer Prometheus call this."""


class MetricsServer:
    """Serves `/metrics` and `pages` from when it is made until `close`.

    The registry is its own: no other library is in it.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        collectors: Sequence[Collector],
        pages: Mapping[str, Ask] | None = None,
        most: int = MOST_REQUESTS,
        within_s: float = REQUEST_S,
    ) -> None:
        """`port` 0: a free one. `pages`: what is answered at other paths, such as `/healthz`.

        Connections beyond `most` are closed at once, others after `within_s` seconds.
        Raises `OSError` if host or port cannot be had.
        """
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self.add(collectors)
        self._server = _Server(address=resolve(host, port), port=port, most=most, within_s=within_s)
        self._server.set_app(_app(self._registry, pages or {}))
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
        """Free the port, and end the requests under way."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_older_than(0)
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request, so that a slow client delays no other; so many and for so long."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *, address: Address, port: int, most: int, within_s: float) -> None:
        self.address_family, host = address
        self._most = most
        self._within_s = within_s
        self._began: dict[Any, float] = {}
        """The connections that have a thread."""
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - as socketserver calls it
        """Whether there is room. Called by `serve_forever`, which closes the connection if there is none."""
        with self._lock:
            if len(self._began) >= self._most:
                return False
            self._began[request] = time.monotonic()
        return True

    def shutdown_request(self, request: Any) -> None:
        """Called once for each connection at its end."""
        with self._lock:  # from here on its number may be another file's
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called by `serve_forever` at least every `_POLL_S`."""
        self.end_older_than(self._within_s)

    def end_older_than(self, seconds: float) -> None:
        """Wake the threads that wait for these clients; each then closes its connection."""
        latest = time.monotonic() - seconds
        with self._lock:
            for request in [request for request, began in self._began.items() if began <= latest]:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called in an `except`. A client that goes away, or was dropped, is no news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def server_bind(self) -> None:
        """Bind without asking a name server for this host's name, which may take many seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: each scrape would be a line."""


def _app(registry: CollectorRegistry, pages: Mapping[str, Ask]) -> Any:
    metrics = make_wsgi_app(registry)
    there_is = ", ".join((PATH, *sorted(pages)))

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == PATH:
            return metrics(environ, start_response)
        ask = pages.get(path)
        nothing = Page(status=HTTPStatus.NOT_FOUND, body=f"There is {there_is} and nothing else.\n".encode())
        page = nothing if ask is None else ask()
        headers = [("Content-Type", page.content_type), ("Content-Length", str(len(page.body)))]
        start_response(f"{page.status.value} {page.status.phrase}", headers)
        return [page.body]

    return app
