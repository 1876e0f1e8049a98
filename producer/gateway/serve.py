"""The gateway's process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from rollstream.schemas import Keys

from ..client import AsyncClient
from ..http.bounded_http import BoundedHttp
from ..http.errors import ServerSetupError
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


class GatewayHttp(BoundedHttp):
    """One connection of a client that may keep a stream open."""

    most_connections = 4096


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
        keys = Keys(settings.policy, partitions=settings.partitions)
        connection = Connection(access=settings.redis, reconnect_s=1.0, keys=keys)
        client = AsyncClient(
            settings.redis, policy=settings.policy, partitions=settings.partitions, reconnect_s=RECONNECT_S
        )
        rules = Rules(token=settings.token, hosts=known_hosts(settings.host, bound), bounds=settings.bounds)
        try:
            site = make_site(settings, rules=rules, client=client, connection=connection, keys=keys)
            url = f"{url_of(settings.host, bound, port)}v1"
            return await run(site, listening, lambda _server: told(url), grace_s=settings.grace_s)
        finally:
            await client.aclose()
            await connection.aclose()
    finally:
        listening.close()


async def run(site: Site, listening: socket.socket, started: Callable[[Server], None], *, grace_s: float) -> int:
    """Serve the site at a socket; returns the exit code. `started` gets the server once it listens."""
    loop = asyncio.get_running_loop()
    server = Server(
        app=make_app(site),
        started=started,
        close=lambda: _close(loop, site.orders, grace_s),
        http=GatewayHttp,
        grace_s=int(grace_s) + _ENDING_S,
    )
    following = asyncio.ensure_future(site.feed.run())
    following.add_done_callback(server.end_with)
    try:
        await server.serve(sockets=[listening])
        await site.orders.ended()
    finally:
        following.cancel()
        await asyncio.wait({following})
    if not following.cancelled():
        following.result()
    return server.exit_code


def _close(loop: asyncio.AbstractEventLoop, orders: Orders, grace_s: float) -> None:
    loop.call_later(grace_s, orders.closing.set)
