"""Strangers at the port of the metrics: they hold few threads, and none for long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from rollstream.transport.metrics.server import MOST_REQUESTS, MetricsServer
from tests.support.watching.scraping import scrape
from tests.support.worker_process import wait_for

NEVER_S = 600.0


class Served:
    """A server, and those who ask it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._others = set(threading.enumerate())
        self.server: MetricsServer | None = None

    def begin(self, **limits: float) -> None:
        self.server = MetricsServer(host="127.0.0.1", port=0, collectors=[], **limits)  # type: ignore[arg-type] # one is a count
        self._stack.callback(self.server.close)

    @property
    def port(self) -> int:
        assert self.server is not None
        return self.server.port

    def ask(self, count: int) -> list[Slow]:
        return [
            Slow(self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))) for _ in range(count)
        ]

    def threads(self) -> int:
        """How many requests have one."""
        ours = [thread for thread in threading.enumerate() if thread not in self._others]
        return sum(thread.name != "metrics" for thread in ours)


class Slow:
    """A client that never has its request together."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection

    def is_dropped(self) -> bool:
        """Sends one byte more, and says whether the server has closed the connection."""
        try:
            self._connection.send(b"x")
            return self._connection.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True


def dropped(clients: list[Slow]) -> int:
    return sum(client.is_dropped() for client in clients)


@pytest.fixture
def served() -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(stack)


def test_requests_beyond_the_bound_are_closed_at_once_and_get_no_thread(served: Served) -> None:
    served.begin(within_s=NEVER_S)
    clients = served.ask(40)

    wait_for(lambda: dropped(clients) == 40 - MOST_REQUESTS, 20, lambda: f"{dropped(clients)} dropped")

    assert served.threads() == MOST_REQUESTS


def test_a_client_that_drips_is_dropped_and_prometheus_is_answered_again(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    served.begin(most=4, within_s=0.3)
    clients = served.ask(40)

    wait_for(lambda: dropped(clients) == 40, 20, lambda: f"{dropped(clients)} dropped")
    wait_for(lambda: served.threads() == 0, 20, lambda: f"{served.threads()} threads")

    assert scrape(served.port).value("process_start_time_seconds")
    assert capsys.readouterr().err == ""


def test_prometheus_is_answered_beside_silent_clients(served: Served) -> None:
    served.begin(most=4, within_s=NEVER_S)
    served.ask(3)

    assert scrape(served.port).value("process_start_time_seconds")


def test_a_place_is_free_again_once_its_client_has_gone(served: Served) -> None:
    served.begin(most=1, within_s=NEVER_S)
    with socket.create_connection(("127.0.0.1", served.port)):
        wait_for(lambda: served.threads() == 1, 20, lambda: "no request is under way")
    wait_for(lambda: served.threads() == 0, 20, lambda: "the request is still under way")

    assert scrape(served.port).value("process_start_time_seconds")


def test_close_ends_the_requests_under_way(served: Served) -> None:
    served.begin(within_s=NEVER_S)
    (client,) = served.ask(1)
    wait_for(lambda: served.threads() == 1, 20, lambda: "no request is under way")

    assert served.server is not None
    served.server.close()

    wait_for(client.is_dropped, 20, lambda: "still connected")
    wait_for(lambda: served.threads() == 0, 20, lambda: f"{served.threads()} threads")
