"""The gateway's process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from rollstream.schemas import Keys

from ..client import AsyncClient
from ..http.bounded_http import BoundedHttp
from ..http.errors import ServerSetupError
from ..http.open_files import RefusedConnections, most_open_files
from ..http.server import Server
from ..http.sockets import is_loopback, known_hosts, open_socket, url_of
from ..http.tokens import ADVICE
from ..redis_io.connection import Connection
from .gate import Rules
from .make_site import make_site
from .orders import Orders
from .settings import GatewaySettings
from .site import Site, make_app

RECONNECT_S = 10.0
"""So long a call waits for a Redis that is away; then it is answered with 503."""
_ENDING_S = 5


_MOST_CONNECTIONS = 4096
_OTHER_FILES = 128
"""Files beside connections of clients: those of Redis, at most 80, and what Python itself has open."""


def http_of(most: int) -> type[BoundedHttp]:
    """Connections of clients that may keep a stream open: so many at once."""

    class GatewayHttp(BoundedHttp):
        """One connection."""

        most_connections = most

    return GatewayHttp


def connections_of(most_requests: int, files: int) -> int:
    """How many connections there may be with so many open files. Raises `ServerSetupError`."""
    if (left := files - _OTHER_FILES) < most_requests:
        text = f"this process may open {files} files, {_OTHER_FILES} of them for Redis and itself"
        advice = f"raise `ulimit -Hn`, or give at most {left}" if left > 0 else "raise `ulimit -Hn`"
        raise ServerSetupError(f"--max-requests {most_requests}", f"{text}: {advice}")
    return min(_MOST_CONNECTIONS, left)


async def serve(settings: GatewaySettings, told: Callable[[str], None]) -> int:
    """Serve until a signal comes; returns the exit code. `told` gets the base URL for clients once the server listens.

    Raises `ServerSetupError`, `ChatTemplateError` for the tokenizer, and `RedisUnavailableError` for a URL that is
    none. Redis itself may be away.
    """
    listening = open_socket(settings.host, settings.port)
    bound, port = listening.getsockname()[:2]
    try:
        if settings.token is None and not is_loopback(bound):
            text = f"others reach this address, so it needs a token; {ADVICE}"
            raise ServerSetupError(f"--host {settings.host}", text)
        most = connections_of(settings.bounds.most_requests, most_open_files())
        asyncio.get_running_loop().set_exception_handler(RefusedConnections())
        keys = Keys(settings.policy, partitions=settings.partitions)
        connection = Connection(access=settings.redis, reconnect_s=1.0, keys=keys)
        client = AsyncClient(
            settings.redis, policy=settings.policy, partitions=settings.partitions, reconnect_s=RECONNECT_S
        )
        rules = Rules(token=settings.token, hosts=known_hosts(settings.host, bound), bounds=settings.bounds)
        try:
            site = make_site(settings, rules=rules, client=client, connection=connection, keys=keys)
            url = f"{url_of(settings.host, bound, port)}v1"
            return await run(site, listening, lambda _server: told(url), grace_s=settings.grace_s, http=http_of(most))
        finally:
            await client.aclose()
            await connection.aclose()
    finally:
        listening.close()


async def run(
    site: Site,
    listening: socket.socket,
    started: Callable[[Server], None],
    *,
    grace_s: float,
    http: type[BoundedHttp] | None = None,
) -> int:
    """Serve the site at a socket; returns the exit code. `started` gets the server once it listens."""
    loop = asyncio.get_running_loop()
    server = Server(
        app=make_app(site),
        started=started,
        close=lambda: _close(loop, site.orders, grace_s),
        http=http or http_of(_MOST_CONNECTIONS),
        grace_s=int(grace_s) + _ENDING_S,
    )
    try:
        await server.run_beside(listening, site.feed.run(), site.orders.served.run())
    finally:
        await site.orders.ended()
    return server.exit_code


def _close(loop: asyncio.AbstractEventLoop, orders: Orders, grace_s: float) -> None:
    loop.call_later(grace_s, orders.closing.set)
