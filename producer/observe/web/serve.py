"""The server's process: its socket, its signals, its end."""

from __future__ import annotations

import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rollstream.schemas import Keys
from rollstream.transport.acl import Role
from rollstream.transport.redis.access import RedisAccess

from ...batches.tokenizer_folder import read_tokenizer
from ...http.errors import ServerSetupError
from ...http.server import Server
from ...http.sockets import is_loopback, known_hosts, open_socket, url_of
from ...http.tokens import ADVICE
from ...redis_io.connection import Connection
from ..read_fleet import FleetReader
from ..served import Served
from .live_readings import LiveReadings
from .site import Site, make_app
from .texts import Texts

RECONNECT_S = 0.3
"""A connection that is closed while Redis runs is opened again; after so many seconds Redis counts as away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """What `rollstream web` is started with."""

    redis: RedisAccess | str
    policy: str
    partitions: int
    host: str
    port: int
    """0 for any free one."""
    token: str | None
    allow_actions: bool
    tokenizer: Path | None = None
    """Folder of the model's tokenizer, for texts."""


def check_settings(settings: WebSettings, bound: str) -> None:
    """Whether so many may be let in. `bound`: the address that is listened at. Raises `ServerSetupError`."""
    if settings.token is None and settings.allow_actions:
        raise ServerSetupError("--allow-actions", f"actions need a token; {ADVICE}")
    if settings.token is None and not is_loopback(bound):
        raise ServerSetupError(f"--host {settings.host}", f"others reach this address, so it needs a token; {ADVICE}")


async def serve(settings: WebSettings, told: Callable[[str], None]) -> int:
    """Serve until a signal comes; returns the exit code. `told` gets the URL to open once the server listens.

    Raises `ServerSetupError`, `PromptFileError` for the tokenizer, and `RedisUnavailableError` for a URL that is none.
    Redis itself may be away.
    """
    texts = None if settings.tokenizer is None else Texts(tokenizer=read_tokenizer(settings.tokenizer))
    listening = open_socket(settings.host, settings.port)
    bound, port = listening.getsockname()[:2]
    connection = None
    try:
        check_settings(settings, bound)
        keys = Keys(settings.policy, partitions=settings.partitions)
        connection = Connection(access=settings.redis, reconnect_s=RECONNECT_S, keys=keys, role=Role.OPERATOR)
        readings = LiveReadings(reader=FleetReader(connection=connection, keys=keys))
        site = Site(
            connection=connection,
            keys=keys,
            readings=readings,
            token=settings.token,
            hosts=known_hosts(settings.host, bound),
            allow_actions=settings.allow_actions,
            cookie=f"rollstream-{port}",
            texts=texts,
        )
        served = Served(program="page", connection=connection, keys=keys)
        return await run(site, listening, lambda _server: told(url_of(settings.host, bound, port)), served.run())
    finally:
        listening.close()
        if connection is not None:
            await connection.aclose()


async def run(
    site: Site,
    listening: socket.socket,
    started: Callable[[Server], None],
    *beside: Coroutine[Any, Any, NoReturn],
) -> int:
    """Serve the site at a socket; returns the exit code. `started` gets the server once it listens.

    If the readings, or what runs beside them, fail by a defect, the server ends with it.
    """
    server = Server(app=make_app(site), started=started, close=site.readings.close)
    await server.run_beside(listening, site.readings.run(), *beside)
    return server.exit_code
